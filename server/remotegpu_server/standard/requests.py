# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What a ModelInferRequest means: the neutral request of `infer`, and the data of its inputs. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from remotegpu.v1 import inference_pb2 as pb

from . import checks
from .infer import Input, Parameter, Request, RequestedOutput
from .refusals import invalid
from .tensors import BYTES, FIELDS, Buffer, string_bytes, typed_bytes

_MOST_DIMENSIONS = 64


def parameters_of(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Parameter]:
    """Parameters by name; those without a value are left out."""
    values: dict[str, Parameter] = {}
    for name, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is not None:
            values[name] = getattr(parameter, kind)
    return values


def request_of(message: pb.ModelInferRequest, request_id: str) -> Request:
    """A request without its data. Raises Refused for parameters of inputs and outputs."""
    for each in message.inputs:
        _check_region(each.parameters)
        if len(each.shape) > _MOST_DIMENSIONS:
            raise invalid(f"input '{each.name}' has {len(each.shape)} dimensions, at most {_MOST_DIMENSIONS} are read")
    return Request(
        model=message.model_name,
        version=message.model_version,
        id=request_id,
        inputs=tuple(Input(each.name, each.datatype, tuple(each.shape)) for each in message.inputs),
        outputs=tuple(map(_output, message.outputs)),
        parameters=parameters_of(message.parameters) if message.parameters else {},
    )


def _output(message: pb.ModelInferRequest.InferRequestedOutputTensor) -> RequestedOutput:
    _check_region(message.parameters)
    if "classification" not in message.parameters:
        return RequestedOutput(message.name)
    named = {"classification": message.parameters["classification"]}
    return RequestedOutput(message.name, checks.classification(parameters_of(named)))


def _check_region(parameters: Mapping[str, pb.InferParameter]) -> None:
    """All others mean nothing here, and may be many."""
    if checks.REGION in parameters:
        checks.check_region(parameters_of({checks.REGION: parameters[checks.REGION]}))


def has_typed(message: pb.ModelInferRequest) -> bool:
    """Whether an input has its data in the message itself."""
    return any(each.HasField("contents") for each in message.inputs)


def data_of(message: pb.ModelInferRequest, raw: Sequence[Buffer]) -> Sequence[Buffer]:
    """The bytes of each input. Raises Refused where there are none, or more than one kind."""
    model = message.model_name
    if raw:
        for each in message.inputs:
            if each.HasField("contents"):
                raise checks.both_contents(model, each.name)
        check_count(model, [each.name for each in message.inputs], raw)
        return raw
    return [_typed(model, each) for each in message.inputs]


def check_count(model: str, names: Sequence[str], raw: Sequence[Buffer]) -> None:
    """Whether there is one raw content for each input. Raises Refused."""
    if len(raw) < len(names):
        raise checks.no_data(model, names[len(raw)])
    if len(raw) > len(names):
        raise invalid(f"expected {len(names)} raw_input_contents for model '{model}', got {len(raw)}")


def _typed(model: str, tensor: pb.ModelInferRequest.InferInputTensor) -> bytes:
    if not tensor.HasField("contents"):
        raise checks.no_data(model, tensor.name)
    data = b""
    for field, (_, allowed) in FIELDS.items():
        values: Any = getattr(tensor.contents, field)
        if not values:
            continue
        if tensor.datatype not in allowed:
            raise checks.wrong_contents(model, tensor.name, field, tensor.datatype)
        if tensor.datatype == BYTES:
            data = string_bytes(values)
        else:
            try:
                data = typed_bytes(tensor.datatype, values)
            except OverflowError as error:
                raise invalid(f"input '{tensor.name}' for model '{model}' has {error}") from error
    return data
