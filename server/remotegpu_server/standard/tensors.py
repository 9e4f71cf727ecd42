# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Datatypes of the protocol, and bytes of tensors. Pure; bytes are little-endian and in C order.

BYTES tensors are strings one after the other, each with its length (uint32) before it, on this door as inside. BF16
does not exist here, since NumPy has no such type.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from remotegpu.v1 import program_pb2 as pb

from .refusals import Refused, invalid

Buffer = bytes | memoryview

INVALID = "<invalid>"
BYTES = "BYTES"

# By the protocol's name: the number on our own wire, and bytes per element (0: they differ).
DATATYPES: Mapping[str, tuple[pb.DType.ValueType, int]] = {
    "BOOL": (pb.DTYPE_BOOL, 1),
    "INT8": (pb.DTYPE_INT8, 1),
    "INT16": (pb.DTYPE_INT16, 2),
    "INT32": (pb.DTYPE_INT32, 4),
    "INT64": (pb.DTYPE_INT64, 8),
    "UINT8": (pb.DTYPE_UINT8, 1),
    "UINT16": (pb.DTYPE_UINT16, 2),
    "UINT32": (pb.DTYPE_UINT32, 4),
    "UINT64": (pb.DTYPE_UINT64, 8),
    "FP16": (pb.DTYPE_FLOAT16, 2),
    "FP32": (pb.DTYPE_FLOAT32, 4),
    "FP64": (pb.DTYPE_FLOAT64, 8),
    BYTES: (pb.DTYPE_BYTES, 0),
}
_NAMES: Mapping[int, str] = {number: name for name, (number, _) in DATATYPES.items()}

# The protocol's datatypes in NumPy's names, for elements of a fixed size.
NUMPY = {
    "BOOL": "?",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}

# Fields of InferTensorContents: what they hold in the words of the protocol, and what may travel in them.
FIELDS: Mapping[str, tuple[str, frozenset[str]]] = {
    "bool_contents": ("BOOL", frozenset({"BOOL"})),
    "int_contents": ("INT32", frozenset({"INT8", "INT16", "INT32"})),
    "int64_contents": ("INT64", frozenset({"INT64"})),
    "uint_contents": ("UINT32", frozenset({"UINT8", "UINT16", "UINT32"})),
    "uint64_contents": ("UINT64", frozenset({"UINT64"})),
    "fp32_contents": ("FP32", frozenset({"FP32"})),
    "fp64_contents": ("FP64", frozenset({"FP64"})),
    "bytes_contents": (BYTES, frozenset({BYTES})),
}
_LENGTH = 4
# Strings looked at to say what is wrong with them: the worker has refused them already, and the loop must go on.
_STRINGS_CHECKED = 10_000
# Elements made into bytes at a time: NumPy keeps the GIL for all of them.
_PIECE = 16 * 1024


def datatype_of(number: int) -> str:
    """The protocol's name of one of our dtypes; INVALID where it has none (complex numbers)."""
    return _NAMES.get(number, INVALID)


def size_of(datatype: str, shape: Sequence[int]) -> int | None:
    """Bytes of a tensor, None if they depend on its strings."""
    size = DATATYPES[datatype][1]
    return size * math.prod(shape) if size else None


def typed_bytes(datatype: str, values: Sequence[int | float | bool]) -> bytes:
    """Elements that came as numbers of a message. Raises OverflowError for one that does not fit."""
    return b"".join(_typed(datatype, values[start : start + _PIECE]) for start in range(0, len(values), _PIECE))


def _typed(datatype: str, values: Sequence[int | float | bool]) -> bytes:
    dtype = np.dtype(NUMPY[datatype])
    if dtype.kind not in "iu":
        return np.array(values, dtype).tobytes()
    wide = np.array(values, np.int64 if dtype.kind == "i" else np.uint64)
    narrow = wide.astype(dtype)
    if not np.array_equal(narrow, wide):
        raise OverflowError(f"an element beyond {datatype}")
    return narrow.tobytes()


def string_bytes(strings: Iterable[bytes]) -> bytes:
    """Strings as a BYTES tensor."""
    parts: list[bytes] = []
    for string in strings:
        parts += (len(string).to_bytes(_LENGTH, "little"), string)
    return b"".join(parts)


def strings_refused(name: str, data: Buffer, elements: int) -> Refused | None:
    """What is wrong with the bytes of an input of so many strings; None if nothing was found (in the first 10,000)."""
    position, end, count = 0, len(data), 0
    while position < end and count < _STRINGS_CHECKED:
        if count == elements:
            return invalid(
                f"unexpected number of string elements {count + 1} for inference input '{name}', expecting {elements}"
            )
        if end - position < _LENGTH:
            return invalid(
                f"incomplete string length indicator for inference input '{name}', expecting {_LENGTH} bytes but only "
                f"{end - position} bytes available"
            )
        length = int.from_bytes(data[position : position + _LENGTH], "little")
        position += _LENGTH
        if length > end - position:
            return invalid(
                f"incomplete string data for inference input '{name}', expecting string of length {length} but only "
                f"{end - position} bytes available"
            )
        position += length
        count += 1
    if position >= end and count < elements:
        return invalid(f"expected {elements} string elements for inference input '{name}', got {count}")
    return None
