# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What a request may hold. Pure; the codes and words are those of Triton 2.51, which clients match.

No model has a batch dimension of its own here, so Triton's rows about batch sizes do not apply: what does not fit the
whole shape is a wrong shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from .refusals import Refused, invalid, labelled, not_found
from .served import Served, Tensor
from .tensors import DATATYPES, FIELDS, INVALID, Buffer

Parameter = bool | int | float | str

REGION = "shared_memory_region"
EMPTY_FINAL_RESPONSE = "triton_enable_empty_final_response"
_FLAGS = {"sequence_start", "sequence_end", EMPTY_FINAL_RESPONSE}
_RESERVED = "triton_"
# The protocol's datatypes that this server has no model for, but knows by name.
_KNOWN = frozenset(DATATYPES) | {"BF16"}


# Bytes of a request's id: it comes back in messages, some of which are metadata.
_ID_LIMIT = 1024


class Named(Protocol):
    """An input of a request."""

    @property
    def name(self) -> str: ...


def check_id(request_id: str) -> None:
    """The caller's own name for a request."""
    if len(request_id.encode()) > _ID_LIMIT:
        raise invalid(f"request id of {len(request_id.encode())} bytes, at most {_ID_LIMIT} are allowed")


def check_parameters(parameters: Mapping[str, Parameter]) -> int:
    """Parameters of a request. Returns the one that means something here, the time in the queue (microseconds, 0: no
    bound). Sequences and priorities are checked and then ignored: no model here has a state, and requests are served in
    their order."""
    timeout = 0
    for name, value in parameters.items():
        if name in _FLAGS:
            if not isinstance(value, bool):
                raise _wrong_type(name, "bool_param")
        elif name == "sequence_id":
            if isinstance(value, bool | float):
                raise _wrong_type(name, "int64_param or string_param")
        elif name == "priority":
            _check_natural(name, value, "int64_param or uint64_param")
        elif name == "timeout":
            timeout = _check_natural(name, value, "int64_param")
        elif name.startswith(_RESERVED):
            raise invalid(
                f"parameter keys starting with '{_RESERVED}' are reserved for Triton usage. Only the following keys "
                f"starting with '{_RESERVED}' are allowed: {EMPTY_FINAL_RESPONSE}"
            )
    return timeout


def _check_natural(name: str, value: Parameter, kinds: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong_type(name, kinds)
    if value < 0:
        raise invalid(f"invalid value for '{name}', expected value >= 0.")
    return value


def _wrong_type(name: str, kinds: str) -> Refused:
    return invalid(f"invalid value type for '{name}' parameter, expected {kinds}.")


def check_region(parameters: Mapping[str, Parameter]) -> None:
    """Parameters of an input or a requested output: memory that is shared with the client is never registered here."""
    region = parameters.get(REGION)
    if region is not None:
        raise not_found(f"Unable to find shared memory region: '{region}'")


def classification(parameters: Mapping[str, Parameter]) -> int:
    """How many classes are wanted of an output; 0: the tensor."""
    value = parameters.get("classification")
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid("invalid value type for 'classification' parameter, expected int64_param")
    if value <= 0:
        raise invalid("invalid value for 'classification' parameter, expected >= 0")
    return value


def check_outputs(served: Served, names: Sequence[str], request_id: str) -> None:
    """The outputs that a request names."""
    known = {tensor.name for tensor in served.outputs}
    seen: set[str] = set()
    for name in names:
        if name not in known:
            raise invalid(f"unexpected inference output '{name}' for model '{served.name}'")
        if name in seen:
            raise invalid(f"{labelled(request_id)}output '{name}' already exists in request")
        seen.add(name)
    for tensor in (*served.inputs, *served.outputs):
        if tensor.datatype == INVALID:
            raise Refused(
                "UNIMPLEMENTED",
                f"model '{served.name}' cannot be asked by this protocol: its tensor '{tensor.name}' is of a type that "
                "the protocol does not have",
            )


def check_inputs(served: Served, inputs: Sequence[tuple[str, str, tuple[int, ...]]], request_id: str) -> None:
    """Names, datatypes and shapes of the inputs: all of the model's, each once, in any order."""
    names = [name for name, _, _ in inputs]
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise invalid(f"{labelled(request_id)}input '{name}' already exists in request")
        seen.add(name)
    wanted = {tensor.name: tensor for tensor in served.inputs}
    if len(names) != len(wanted):
        missing = [name for name in wanted if name not in seen]
        raise invalid(
            f"{labelled(request_id)}expected {len(wanted)} inputs but got {len(names)} inputs for model "
            f"'{served.name}'. Got input(s) {_listed(names)}, but missing required input(s) {_listed(missing)}. "
            "Please provide all required input(s)."
        )
    for name in names:
        if name not in wanted:
            raise invalid(f"unexpected inference input '{name}' for model '{served.name}'")
    for name, datatype, shape in inputs:
        _check_tensor(served, wanted[name], datatype, shape, request_id)


def _check_tensor(served: Served, wanted: Tensor, datatype: str, shape: tuple[int, ...], request_id: str) -> None:
    if datatype != wanted.datatype:
        raise invalid(
            f"{labelled(request_id)}inference input '{wanted.name}' data-type is "
            f"'{datatype if datatype in _KNOWN else INVALID}', but model '{served.name}' expects '{wanted.datatype}'"
        )
    if any(size < 0 for size in shape):
        raise invalid(
            f"{labelled(request_id)}All input dimensions should be specified for input '{wanted.name}' for model "
            f"'{served.name}', got {_shape(shape)}"
        )
    if wanted.unknown_rank:
        return
    if len(shape) != len(wanted.shape) or any(
        allowed not in (-1, size) for size, allowed in zip(shape, wanted.shape, strict=True)
    ):
        raise invalid(
            f"{labelled(request_id)}unexpected shape for input '{wanted.name}' for model '{served.name}'. Expected "
            f"{_shape(wanted.shape)}, got {_shape(shape)}."
        )


def check_sizes(
    served: Served, inputs: Sequence[Named], sizes: Sequence[int | None], data: Sequence[Buffer], request_id: str
) -> None:
    """Whether each input has the bytes that its shape takes."""
    for given, size, piece in zip(inputs, sizes, data, strict=True):
        if size is not None and len(piece) != size:
            raise invalid(
                f"{labelled(request_id)}input byte size mismatch for input '{given.name}' for model '{served.name}'. "
                f"Expected {size}, got {len(piece)}"
            )


def no_data(model: str, name: str) -> Refused:
    """An input without data."""
    return invalid(f"unable to find data for input tensor '{name}' for model '{model}' in request.")


def both_contents(model: str, name: str) -> Refused:
    """An input with typed data in a request that has raw data."""
    return invalid(
        f"contents field must not be specified when using raw_input_contents for '{name}' for model '{model}'"
    )


def wrong_contents(model: str, name: str, field: str, datatype: str) -> Refused:
    """Typed data in a field that is not for this datatype."""
    return invalid(
        f"unexpected explicit tensor data for input tensor '{name}' for model '{model}' of type '{FIELDS[field][0]}', "
        f"expected datatype '{datatype}'"
    )


def _listed(names: Sequence[str]) -> str:
    return "[" + ",".join(f"'{name}'" for name in names) + "]"


def _shape(shape: Sequence[int]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
