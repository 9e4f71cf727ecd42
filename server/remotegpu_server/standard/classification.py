# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The largest elements of an output, as the strings "value:index" that the protocol calls classifications. Pure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .refusals import invalid
from .tensors import NUMPY, Buffer, string_bytes

# Elements of one result: each becomes a string of its own, which takes about a microsecond.
_MOST = 100_000


def classified(
    name: str, datatype: str, shape: tuple[int, ...], data: Buffer, most: int, has_rows: bool
) -> tuple[tuple[int, ...], bytes]:
    """Shape and bytes of a BYTES tensor with the `most` largest elements (fewer if there are fewer), the largest first;
    of equal ones the first comes first, and NaN last. `has_rows`: of each row along the first dimension, else of all.
    Raises Refused for an output of strings."""
    if datatype not in NUMPY:
        raise invalid(f"class result not available for output '{name}' due to unsupported type '{datatype}'")
    rows = shape[0] if has_rows else 1
    width = math.prod(shape[1:] if has_rows else shape)
    count = rows * max(min(most, width), 1)
    if count > _MOST:
        raise invalid(f"class result of {count} elements not available for output '{name}', at most {_MOST} are")
    table = np.frombuffer(data, NUMPY[datatype]).reshape(rows, width)
    if table.dtype.kind == "b":
        table = table.astype(np.uint8)
    strings = []
    for row in table:
        strings += [_text(row[index], int(index)) for index in _largest(row)[:most]]
    width = min(most, width)
    return (rows, width) if has_rows else (width,), string_bytes(strings)


def _largest(row: NDArray[Any]) -> NDArray[np.intp]:
    """Indexes, those of the largest elements first."""
    # Sorted backwards and turned round: of equal elements the first comes first. NaN is the largest for argsort.
    order = (len(row) - 1 - np.argsort(row[::-1], kind="stable"))[::-1]
    return np.roll(order, -np.count_nonzero(np.isnan(row))) if row.dtype.kind == "f" else order


def _text(value: np.generic, index: int) -> bytes:
    number = value.item()
    return (f"{number:f}:{index}" if isinstance(number, float) else f"{number}:{index}").encode()
