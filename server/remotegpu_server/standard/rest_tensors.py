# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of the Open Inference Protocol over HTTP: a JSON object, and after it the bytes of tensors, if the sender
likes (the binary tensor data extension). Pure.

Binary data stays where it came: tensors are views of the body.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import checks
from .infer import Input, Output, Parameter, Request, RequestedOutput, Response
from .refusals import invalid
from .rest_bodies import Limit
from .rest_values import listed, raw
from .served import Served
from .tensors import Buffer

# JSON of a request at most. While json parses it nothing else runs, in no thread either, since it keeps the GIL: 1 MiB
# takes 10 ms of numbers and 60 ms of the worst that one can write. Larger tensors belong into the binary section, where
# they are a fifth of the size and are not parsed at all.
JSON = Limit(1024 * 1024, "of JSON; send large tensors as binary data, with binary_data_size")
# Bytes of the outputs that one reply has in JSON, where they become up to ten times as many.
LISTED_LIMIT = 8 * 1024 * 1024
# Bytes of outputs whose JSON takes more than about a millisecond.
_LONG = 8 * 1024
_MOST_TENSORS = 1024
_MOST_DIMENSIONS = 64
_LARGEST_DIMENSION = 2**63 - 1
_BINARY_SIZE = "binary_data_size"


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a reply is to look: the request's id, and which outputs are to come as binary data."""

    id: str
    # Those that the request names.
    binary: Mapping[str, bool]
    binary_by_default: bool

    def is_binary(self, output: str) -> bool:
        """Whether that output is to come as binary data."""
        return self.binary.get(output, self.binary_by_default)


@dataclass(frozen=True, slots=True)
class Message:
    """A request that was read, but not compared with the model: what it asks, and where its data is."""

    request: Request
    # For each input: a view of the binary section, the values in JSON, or None if there are none.
    data: tuple[object, ...]
    wanted: Wanted


@dataclass(frozen=True, slots=True)
class Reply:
    """A response as it is sent. `head`: JSON in pieces, to be made where that may take a while (`is_long`)."""

    head: Iterator[bytes]
    is_long: bool
    # The binary section; None if there is none, and the JSON is all.
    binary: list[Buffer] | None


def header_size(text: str | None, body_size: int) -> int:
    """Bytes of the JSON in a body, by the header Inference-Header-Content-Length (None: it is all JSON).

    Raises Refused for no number and for one above the body's size, TooLarge for too much JSON."""
    if text is None:
        size = body_size
    elif not text.isascii() or not text.isdecimal() or len(text) > 19:
        raise invalid(f"Inference-Header-Content-Length is not a number of bytes: {reprlib.repr(text)}")
    else:
        size = int(text)
    if size > body_size:
        raise invalid(f"Inference-Header-Content-Length says {size} bytes of JSON, but the body has {body_size}")
    JSON.check(size)
    return size


def parse(model: str, version: str, body: memoryview, json_size: int) -> Message:
    """A request for inference; `json_size` as `header_size` found it. Raises Refused."""
    head = json_object(body[:json_size])
    parameters = _parameters(head, "request")
    binary_by_default = _flag(parameters, "binary_data_output", False)
    inputs, data = _inputs(model, head, body[json_size:])
    outputs, binary = _outputs(head, binary_by_default)
    request = Request(
        model=model,
        version=version,
        id=_text(head, "id", "request", ""),
        inputs=inputs,
        outputs=outputs,
        parameters=parameters,
    )
    return Message(request, data, Wanted(request.id, binary, binary_by_default))


def data_of(message: Message) -> list[Buffer]:
    """The bytes of each input, in the order of the request. The request has been compared with the model.

    Raises Refused for inputs without data, and InvalidInput for values in JSON that are not those of the tensor."""
    found: list[Buffer] = []
    for each, data in zip(message.request.inputs, message.data, strict=True):
        if data is None:
            raise checks.no_data(message.request.model, each.name)
        if isinstance(data, memoryview):
            found.append(data)
        else:
            found.append(raw(data, each.datatype, each.shape, f"input '{each.name}'"))
    return found


def reply(wanted: Wanted, response: Response) -> Reply:
    """What is sent for a response. Raises Refused for more values in JSON than are sent so."""
    outputs = [(output, wanted.is_binary(output.name)) for output in response.outputs]
    in_json = sum(len(output.data) for output, is_binary in outputs if not is_binary)
    if in_json > LISTED_LIMIT:
        raise invalid(
            f"{in_json} bytes of outputs, at most {LISTED_LIMIT} are sent as JSON: ask for binary data "
            "(binary_data_output)"
        )
    binary = [output.data for output, is_binary in outputs if is_binary]
    return Reply(_reply_head(wanted.id, response.served, outputs), in_json > _LONG, binary or None)


def _reply_head(request_id: str, served: Served, outputs: Sequence[tuple[Output, bool]]) -> Iterator[bytes]:
    fields = {"model_name": served.name, "model_version": served.version}
    if request_id:
        fields["id"] = request_id
    yield json.dumps(fields)[:-1].encode() + b', "outputs": ['
    separator = b""
    for output, is_binary in outputs:
        yield separator
        separator = b", "
        yield from _reply_tensor(output, is_binary)
    yield b"]}"


def _reply_tensor(output: Output, is_binary: bool) -> Iterator[bytes]:
    fields: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": output.shape}
    if is_binary:
        fields["parameters"] = {_BINARY_SIZE: len(output.data)}
        yield json.dumps(fields).encode()
        return
    yield json.dumps(fields)[:-1].encode() + b', "data": '
    yield from listed(memoryview(output.data), output.datatype, f"output '{output.name}'")
    yield b"}"


def json_object(data: memoryview) -> dict[str, Any]:
    """The JSON object in those bytes. Raises Refused."""
    try:
        value = json.loads(str(data, "utf-8"))
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError too
        raise invalid(f"failed to parse the request JSON buffer: {error}") from error
    if not isinstance(value, dict):
        raise invalid("failed to parse the request JSON buffer: the request is not an object")
    return value


def _inputs(model: str, head: Mapping[str, Any], binary: memoryview) -> tuple[tuple[Input, ...], tuple[object, ...]]:
    inputs: list[Input] = []
    data: list[object] = []
    position = 0
    for tensor in _objects(head, "inputs"):
        name = _text(tensor, "name", "input")
        where = f"input '{reprlib.repr(name)[1:-1]}'"
        inputs.append(Input(name, _text(tensor, "datatype", where), _shape(tensor, where)))
        parameters = _parameters(tensor, where)
        checks.check_region(parameters)
        if _BINARY_SIZE not in parameters:
            data.append(tensor.get("data"))
            continue
        if "data" in tensor:
            raise invalid(f"{where} has both 'data' and '{_BINARY_SIZE}'")
        size = parameters[_BINARY_SIZE]
        if type(size) is not int or size < 0:
            raise invalid(f"{where}: '{_BINARY_SIZE}' is not a number of bytes")
        if size > len(binary) - position:
            left = len(binary) - position
            raise invalid(f"{where} says {reprlib.repr(size)} bytes of binary data, but the body has {left} left")
        data.append(binary[position : position + size])
        position += size
    if position != len(binary):
        raise invalid(f"unexpected additional input data for model '{model}': {len(binary) - position} bytes")
    return tuple(inputs), tuple(data)


def _outputs(head: Mapping[str, Any], by_default: bool) -> tuple[tuple[RequestedOutput, ...], dict[str, bool]]:
    outputs: list[RequestedOutput] = []
    binary: dict[str, bool] = {}
    for tensor in _objects(head, "outputs"):
        name = _text(tensor, "name", "output")
        parameters = _parameters(tensor, f"output '{reprlib.repr(name)[1:-1]}'")
        checks.check_region(parameters)
        outputs.append(RequestedOutput(name, checks.classification(parameters)))
        binary[name] = _flag(parameters, "binary_data", by_default)
    return tuple(outputs), binary


def _objects(head: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = head.get(name, [])
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise invalid(f"'{name}' is not a list of objects")
    if len(found) > _MOST_TENSORS:
        raise invalid(f"'{name}' has {len(found)} tensors, at most {_MOST_TENSORS} are read")
    return found


def _text(fields: Mapping[str, Any], name: str, where: str, default: str | None = None) -> str:
    value = fields.get(name, default)
    if not isinstance(value, str):
        raise invalid(f"{where}: '{name}' is missing, or is not text")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # no message that leaves this machine could hold it
        raise invalid(f"{where}: '{name}' is not text that UTF-8 has") from error
    return value


def _shape(tensor: Mapping[str, Any], where: str) -> tuple[int, ...]:
    value = tensor.get("shape")
    if not isinstance(value, list) or len(value) > _MOST_DIMENSIONS:
        raise invalid(f"{where}: 'shape' is not a list of at most {_MOST_DIMENSIONS} sizes")
    if not all(type(size) is int and abs(size) <= _LARGEST_DIMENSION for size in value):
        raise invalid(f"{where}: 'shape' has something else than whole numbers")
    return tuple(value)


def _parameters(fields: Mapping[str, Any], where: str) -> dict[str, Parameter]:
    value = fields.get("parameters", {})
    if not isinstance(value, dict):
        raise invalid(f"{where}: 'parameters' is not an object")
    for name, parameter in value.items():
        if not isinstance(parameter, bool | int | float | str):
            raise invalid(f"{where}: parameter {reprlib.repr(name)} is neither text, number nor true or false")
    return value


def _flag(parameters: Mapping[str, Parameter], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise invalid(f"parameter '{name}' is neither true nor false")
    return value
