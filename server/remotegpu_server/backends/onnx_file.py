# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What ONNX Runtime does not tell of a model file: which inputs and outputs have no shape at all, and whether tensors
lie in other files. Read from the protobuf bytes by field numbers, weights passed over; pure.

The numbers are those of onnx/onnx.proto (onnx 1.23), which never change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

_MODEL_GRAPH, _GRAPH_INPUT, _GRAPH_OUTPUT = 7, 11, 12
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _TENSOR_SHAPE = 1, 2, 1, 2
# Messages that may have tensors in them, at any depth: by kind, the fields and what kind each is.
_INSIDE = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_NESTING = 64
# Of a tag. ONNX Runtime's parser drops what is above, and would see other fields than we do.
_TAG_LIMIT = 2**32


@dataclass(frozen=True, slots=True)
class Facts:
    """`unranked`: names of inputs and outputs without a shape. `external`: tensors lie in other files."""

    unranked: frozenset[str] = field(default_factory=frozenset)
    external: bool = False


def facts(content: bytes | memoryview) -> Facts:
    """Of a model file. Raises ValueError for bytes that are no protobuf message."""
    view = memoryview(content)
    unranked: set[str] = set()
    for _, graph in _messages(view, (_MODEL_GRAPH,)):
        for _, value in _messages(graph, (_GRAPH_INPUT, _GRAPH_OUTPUT)):
            unranked |= _unranked(value)
    return Facts(frozenset(unranked), _external(view, "model", 0))


def _unranked(value: memoryview) -> set[str]:
    name = b"".join(bytes(text) for _, text in _messages(value, (_VALUE_NAME,)))
    for _, kind in _messages(value, (_VALUE_TYPE,)):
        for _, tensor in _messages(kind, (_TYPE_TENSOR,)):
            if next(_messages(tensor, (_TENSOR_SHAPE,)), None) is None:
                return {name.decode(errors="replace")}
    return set()


def _external(view: memoryview, kind: str, depth: int) -> bool:
    if depth > _NESTING:
        raise ValueError("nested too deeply")
    inside = _INSIDE[kind]
    for number, value in _fields(view):
        if kind == "tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)):
            return True
        if number in inside and isinstance(value, memoryview) and _external(value, inside[number], depth + 1):
            return True
    return False


def _messages(view: memoryview, numbers: tuple[int, ...]) -> Iterator[tuple[int, memoryview]]:
    for number, value in _fields(view):
        if number in numbers and isinstance(value, memoryview):
            yield number, value


def _fields(view: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Numbers and values of a message: views of what has a length, numbers for the rest (0 for fixed ones)."""
    position, end = 0, len(view)
    while position < end:
        tag, position = _varint(view, position)
        if tag >= _TAG_LIMIT:
            raise ValueError(f"a tag of more than 32 bits: {tag:#x}")
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, position = _varint(view, position)
            yield number, value
            continue
        if kind == 2:
            size, position = _varint(view, position)
        elif kind in {1, 5}:
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if size > end - position:
            raise ValueError("it ends too early")
        yield number, view[position : position + size] if kind == 2 else 0
        position += size


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(view) and shift < 70:
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("a number that does not end")
