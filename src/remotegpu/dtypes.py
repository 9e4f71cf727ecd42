# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The element types that travel, with their numbers on the wire (`remotegpu.v1.program_pb2.DType`).

The set is that of the Python Array API standard plus float16, which models use.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Dtype = np.dtype[Any]

NAMES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "complex64",
    "complex128",
)

# The wire number of string tensors, which have no dtype that travels as it lies in memory: see `strings`.
BYTES = 15

_DTYPES: tuple[Dtype, ...] = tuple(np.dtype(name) for name in NAMES)
_NUMBERS = {dtype: number for number, dtype in enumerate(_DTYPES, start=1)}


def number_of(dtype: Dtype) -> int | None:
    """The wire number of a dtype in either byte order, or None if it does not travel."""
    return _NUMBERS.get(dtype) or _NUMBERS.get(dtype.newbyteorder("="))


def from_number(number: int) -> Dtype | None:
    """The little-endian dtype of a wire number, or None if there is none."""
    return _DTYPES[number - 1] if 0 < number <= len(_DTYPES) else None
