# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""String tensors: NumPy object arrays of `bytes`, and their bytes on the wire.

Each element is its length (uint32, little-endian) and its bytes, one after the other in C order, as in the raw BYTES
tensors of the Open Inference Protocol. Both client and server use it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from remotegpu import errors

HostArray = np.ndarray[Any, np.dtype[Any]]

# How string tensors are told apart from those that travel as they lie in memory.
STRINGS = np.dtype(object)
_LENGTH = struct.Struct("<I")
_LONGEST = 2**32 - 1


def is_strings(array: Any) -> bool:
    """Whether that array is a string tensor."""
    return bool(array.dtype == STRINGS)


def strings_of(array: HostArray) -> HostArray:
    """NumPy text, bytes or objects as an object array of `bytes` of the same shape, a new one; text becomes UTF-8.

    Raises InvalidInput for an element that is neither text nor bytes, or is text that UTF-8 does not have."""
    flat = np.empty(array.size, object)
    for index, item in enumerate(array.reshape(-1).tolist()):
        if isinstance(item, str):
            try:
                item = item.encode()
            except UnicodeEncodeError as error:
                raise _refused("text that UTF-8 has", f"{item!r:.40} at element {index}") from error
        if not isinstance(item, bytes):
            raise _refused("text or bytes", f"a {type(item).__name__} at element {index}")
        flat[index] = item
    return flat.reshape(array.shape)


def encode(array: HostArray) -> bytes:
    """The bytes of a string tensor on the wire. Elements may also be `str`, which become UTF-8.

    Raises InvalidInput for other elements, and for one of 4 GiB or more."""
    parts: list[bytes] = []
    for item in strings_of(array).reshape(-1):
        if len(item) > _LONGEST:
            raise _refused(f"at most {_LONGEST} bytes in one string", f"{len(item)} bytes")
        parts += (_LENGTH.pack(len(item)), item)
    return b"".join(parts)


def decode(buffer: bytes | memoryview, shape: Sequence[int]) -> HostArray:
    """The string tensor of that shape in the bytes from the wire. Raises InvalidInput for truncated or surplus data."""
    view, position = memoryview(buffer), 0
    count = math.prod(shape)
    if len(view) < count * _LENGTH.size:  # before an array of that many is made
        raise _refused(f"{count} strings", f"{len(view)} bytes")
    flat = np.empty(count, object)
    for index in range(count):
        end = position + _LENGTH.size
        size = _LENGTH.unpack_from(view, position)[0] if end <= len(view) else 0
        if end > len(view) or size > len(view) - end:
            raise _refused(f"{count} strings", f"bytes that end within string {index}")
        flat[index] = bytes(view[end : end + size])
        position = end + size
    if position != len(view):
        raise _refused(f"{count} strings", f"{len(view) - position} bytes more")
    return flat.reshape(shape)


def size_of(array: HostArray) -> int:
    """Bytes that the strings of a tensor take on the wire."""
    return sum(_LENGTH.size + len(item) for item in array.reshape(-1))


def _refused(limit: str, given: str) -> errors.InvalidInput:
    return errors.InvalidInput(field="strings", limit=limit, given=given)
