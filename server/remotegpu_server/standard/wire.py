# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""ModelInferRequest and ModelInferResponse as bytes. Pure.

A codec would copy the tensors once more in each direction, and read names and shapes that are the same in thousands of
requests. So a request is split by hand: its id, its raw contents as views, and all the rest as bytes, which is what
identical requests have in common. A response is one join.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from remotegpu import errors
from remotegpu.v1 import inference_pb2 as pb

from .refusals import invalid
from .tensors import Buffer

# Fields of ModelInferRequest; 1 to 7 all have a length.
_ID, _RAW = 3, 7
_LENGTH_DELIMITED = 2
_FIXED = {1: 8, 5: 4}
# Of the response, with their wire type: id, raw_output_contents; of the stream's message: infer_response.
_ID_TAG, _RAW_TAG, _STREAMED_TAG = b"\x1a", b"\x32", b"\x12"
_VARINT_LIMIT = 10
_SHORT = 0x80
_BYTES = [bytes((value,)) for value in range(_SHORT)]
# A reply to a stream, by which clients know that no more replies to its request follow.
FINAL = pb.ModelInferResponse(
    parameters={"triton_final_response": pb.InferParameter(bool_param=True)}
).SerializeToString()


# What a request may have of fields, and of bytes that are not raw contents: others wait while they are looked at.
MOST_FIELDS = 4096
HEAD_LIMIT = 4 * 1024 * 1024


class Split(NamedTuple):
    """A request. `head` holds all fields but the id and the raw contents."""

    head: bytes
    id: str
    raw: list[memoryview]


def split(message: bytes) -> Split:
    """Splits a ModelInferRequest. Raises ProtocolError for bytes that are not one, Refused for one that is too much."""
    raw: list[memoryview] = []
    kept: list[bytes] = []
    name, view = b"", memoryview(message)
    position = kept_from = fields = 0
    end = len(message)
    while position < end:
        fields += 1
        if fields > MOST_FIELDS:
            raise invalid(f"the request has more than {MOST_FIELDS} fields")
        begin = position
        tag, position = _varint(message, position)
        number = tag >> 3
        if tag & 7 != _LENGTH_DELIMITED or not 1 <= number <= _RAW:
            position = _skipped(message, tag, position)
            continue
        length, position = _varint(message, position)
        if length > end - position:
            raise errors.ProtocolError(
                what=f"field {number} says {length} bytes, {end - position} are there: cut short"
            )
        if number in {_ID, _RAW}:
            kept.append(message[kept_from:begin])
            if number == _RAW:
                raw.append(view[position : position + length])
            else:
                name = message[position : position + length]
            kept_from = position + length
        position += length
    kept.append(message[kept_from:])
    head_size = sum(map(len, kept))
    if head_size > HEAD_LIMIT:
        raise invalid(
            f"{head_size} bytes beside raw_input_contents, at most {HEAD_LIMIT} are read: send large tensors raw"
        )
    try:
        return Split(b"".join(kept), name.decode(), raw)
    except UnicodeDecodeError as error:
        raise errors.ProtocolError(what="the id is not UTF-8") from error


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """A number, and where the next thing begins."""
    value = shift = 0
    end = min(position + _VARINT_LIMIT, len(message))
    while position < end:
        byte = message[position]
        position += 1
        if byte < _SHORT:
            return value | byte << shift, position
        value |= (byte & 0x7F) << shift
        shift += 7
    raise errors.ProtocolError(what=f"a number that does not end, at byte {position} of {len(message)}")


def _skipped(message: bytes, tag: int, position: int) -> int:
    """Where a field of a newer version ends. Raises ProtocolError for a field that ought to have a length."""
    number, kind = tag >> 3, tag & 7
    if 1 <= number <= _RAW or not number:
        raise errors.ProtocolError(what=f"unexpected tag {tag:#x} before byte {position} of {len(message)}")
    if kind == 0:
        return _varint(message, position)[1]
    if kind == _LENGTH_DELIMITED:
        length, position = _varint(message, position)
    elif kind in _FIXED:
        length = _FIXED[kind]
    else:
        raise errors.ProtocolError(what=f"field {number} is a group, at byte {position} of {len(message)}")
    if length > len(message) - position:
        raise errors.ProtocolError(what=f"field {number} is cut short at byte {len(message)}")
    return position + length


def response_head(model: str, version: str, outputs: Sequence[tuple[str, str, Sequence[int]]]) -> bytes:
    """What replies to identical requests have in common. Outputs: name, datatype, shape."""
    message = pb.ModelInferResponse(model_name=model, model_version=version)
    for name, datatype, shape in outputs:
        message.outputs.add(name=name, datatype=datatype, shape=shape)
    return message.SerializeToString()


def response(head: bytes, request_id: str, outputs: Sequence[Buffer]) -> bytes:
    """A ModelInferResponse. `outputs`: the bytes of each."""
    return b"".join(_response(head, request_id, outputs))


def streamed(head: bytes, request_id: str, outputs: Sequence[Buffer]) -> bytes:
    """A ModelStreamInferResponse, the only one to its request."""
    parts = _response(head, request_id, outputs)
    parts.append(FINAL)
    return b"".join((_STREAMED_TAG, _length(sum(map(len, parts))), *parts))


def streamed_error(message: str, request_id: str) -> bytes:
    """A ModelStreamInferResponse to a request that failed."""
    return pb.ModelStreamInferResponse(
        error_message=message, infer_response=pb.ModelInferResponse(id=request_id)
    ).SerializeToString()


def _response(head: bytes, request_id: str, outputs: Sequence[Buffer]) -> list[Buffer]:
    parts: list[Buffer] = [head]
    if request_id:
        name = request_id.encode()
        parts += (_ID_TAG, _length(len(name)), name)
    for output in outputs:
        parts += (_RAW_TAG, _length(len(output)), output)
    return parts


def _length(value: int) -> bytes:
    if value < _SHORT:
        return _BYTES[value]
    out = bytearray()
    while value >= _SHORT:
        out.append(value & 0x7F | _SHORT)
        value >>= 7
    out.append(value)
    return bytes(out)
