# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Element types of the Open Inference Protocol, and tensors as its raw bytes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from remotegpu import errors, strings, wire
from remotegpu.cli.bench.inputs import Array, Tensor

_NAMES = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_DATATYPES = {np.dtype(code): name for name, code in _NAMES.items()}
_STRINGS = "BYTES"


def tensor(name: str, datatype: str, shape: Sequence[int]) -> Tensor:
    """An input as a server describes it; negative sizes may be anything. Raises ProtocolError for an element type that
    NumPy does not have."""
    if datatype != _STRINGS and datatype not in _NAMES:
        raise errors.ProtocolError(what=f"input {name!r} has elements of {datatype}, which NumPy does not have")
    dtype = np.dtype(object if datatype == _STRINGS else _NAMES[datatype])
    return Tensor(name, dtype, tuple(None if size < 0 else size for size in shape))


def datatype_of(array: Array) -> str:
    """The protocol's name of an array's elements. Raises ConfigurationError for those that do not travel."""
    if array.dtype.kind in "OSU":
        return _STRINGS
    found = _DATATYPES.get(array.dtype.newbyteorder("<"))
    if found is None:
        why = f"the Open Inference Protocol has no elements of {array.dtype}"
        raise errors.ConfigurationError(setting="--input", why=why)
    return found


def raw(array: Array) -> bytes:
    """The bytes of a tensor: little endian and in C order; strings each behind its length."""
    if array.dtype.kind in "OSU":
        return bytes(strings.encode(array))
    little: Array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return bytes(wire.bytes_of(little))


def described(array: Array) -> dict[str, Any]:
    """Datatype and shape as JSON has them."""
    return {"datatype": datatype_of(array), "shape": list(array.shape)}
