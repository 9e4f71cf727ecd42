# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Tensor values in JSON: lists, nested or flat, to the raw bytes of the Open Inference Protocol and back. Pure."""

from __future__ import annotations

import json
import math
import reprlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from remotegpu import errors

from .tensors import BYTES, NUMPY, Buffer, string_bytes

# Values that are made into JSON at a time: json keeps the GIL, and this many floats take about a millisecond.
PIECE = 1024
# What the values of a datatype are in JSON; those of all others are whole numbers.
_KINDS: Mapping[str, set[type]] = {
    "BOOL": {bool},
    "FP16": {int, float},
    "FP32": {int, float},
    "FP64": {int, float},
    BYTES: {str},
}
_LENGTH = struct.Struct("<I")


def raw(data: object, datatype: str, shape: Sequence[int], where: str) -> Buffer:
    """The little-endian bytes of a tensor whose values JSON brought, nested as its shape says or flat (row-major).
    Strings become length and UTF-8 bytes each. `where` names the tensor in errors.

    Raises InvalidInput for other values than its datatype has, and for more or fewer than its shape says."""
    values = _flat(data, shape, where)
    count = math.prod(shape)
    if len(values) != count:
        raise refused(where, f"{count} values for shape {reprlib.repr(list(shape))}", f"{len(values)}")
    _check_types(values, datatype, where)
    if datatype == BYTES:
        return _strings(values, where)
    try:
        with np.errstate(over="raise"):
            array = np.array(values, NUMPY[datatype])
    except (OverflowError, FloatingPointError) as error:
        raise refused(where, f"values that {datatype} can hold", str(error)) from error
    return memoryview(array.view(np.uint8))  # type: ignore[arg-type]  # ndarray has the buffer protocol


def _flat(data: object, shape: Sequence[int], where: str) -> list[Any]:
    """Raises InvalidInput for lists that are not nested as the shape says."""
    if type(data) is not list:
        raise refused(where, "a list of values", reprlib.repr(data))
    values: list[Any] = data
    for depth, size in enumerate(shape):
        if not values or type(values[0]) is not list:
            if values and 0 < depth < len(shape) - 1:
                raise refused(where, f"lists of depth {len(shape)}, or one flat list", f"depth {depth + 1}")
            break
        if depth == 0:
            _check_lengths([values], size, where)
        if depth == len(shape) - 1:
            raise refused(where, f"lists of depth {len(shape)}, or one flat list", "deeper ones")
        if set(map(type, values)) != {list}:
            raise refused(where, "lists of equal depth", "values and lists side by side")
        _check_lengths(values, shape[depth + 1], where)
        values = list(chain.from_iterable(values))
    return values


def _check_lengths(lists: Sequence[list[Any]], size: int, where: str) -> None:
    lengths = set(map(len, lists))
    if lengths != {size}:
        raise refused(where, f"nested lists of {size}, as the shape says", f"of {reprlib.repr(sorted(lengths))}")


def _check_types(values: list[Any], datatype: str, where: str) -> None:
    """NumPy would take much for a number: text that looks like one, None as NaN, 1.5 as 1."""
    allowed = _KINDS.get(datatype, {int})
    others = set(map(type, values)) - allowed
    if others:
        names = " or ".join(sorted(kind.__name__ for kind in allowed))
        raise refused(where, f"{names} for {datatype}", ", ".join(sorted(kind.__name__ for kind in others)))


def _strings(values: list[Any], where: str) -> bytes:
    try:
        return string_bytes([value.encode() for value in values])
    except UnicodeEncodeError as error:
        raise refused(where, "text that UTF-8 has", reprlib.repr(error.object)) from error


def listed(data: memoryview, datatype: str, where: str) -> Iterator[bytes]:
    """The values of raw bytes as a flat JSON list, in pieces.

    Raises InvalidInput for strings that are not UTF-8."""
    if datatype == BYTES:
        values: Iterator[list[Any]] = _decoded(data, where)
    else:
        values = _numbers(data, NUMPY[datatype])
    yield b"["
    separator = b""
    for piece in values:
        yield separator + json.dumps(piece)[1:-1].encode()
        separator = b","
    yield b"]"


def _numbers(data: memoryview, dtype: str) -> Iterator[list[Any]]:
    array = np.frombuffer(data, dtype)
    for start in range(0, len(array), PIECE):
        yield array[start : start + PIECE].tolist()


def _decoded(data: memoryview, where: str) -> Iterator[list[str]]:
    piece: list[str] = []
    position = 0
    while position < len(data):
        start = position + _LENGTH.size
        position = start + _LENGTH.unpack_from(data, position)[0]
        try:
            piece.append(str(data[start:position], "utf-8"))
        except UnicodeDecodeError as error:
            raise refused(where, "UTF-8 in JSON: ask with binary_data for other bytes", str(error)) from error
        if len(piece) == PIECE:
            yield piece
            piece = []
    if piece:
        yield piece


def refused(where: str, limit: str, given: str) -> errors.InvalidInput:
    """An error about one part of a message."""
    return errors.InvalidInput(field=where, limit=limit, given=given)
