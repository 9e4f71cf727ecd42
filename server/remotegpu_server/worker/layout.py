# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""How the results of a program lie in a reply: the `remotegpu.v1.Result` message that describes them, then (aligned)
the body, with each array at an aligned place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from remotegpu import errors, wire
from remotegpu.dtypes import BYTES, from_number, number_of
from remotegpu.strings import encode, is_strings
from remotegpu.v1 import program_pb2 as pb

_BYTE = np.dtype(np.uint8)


class Piece(NamedTuple):
    """The place of an array. `start` and `end` in bytes from the start of the reply, and behind it `gap` bytes up to
    the next one's. `is_strings`: what is there are encoded strings, which lie on the host."""

    start: int
    end: int
    gap: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_strings: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """Where all of a reply is. `head` is the message; sizes in bytes, `size` that of the whole."""

    head: bytes
    body_size: int = 0
    pieces: tuple[Piece, ...] = ()

    @property
    def size(self) -> int:
        return wire.aligned(len(self.head)) + self.body_size

    @property
    def is_fixed(self) -> bool:
        """Whether arrays of the same dtypes and shapes have the same layout. Strings differ in size."""
        return not any(piece.is_strings for piece in self.pieces)


class Description:
    """The results of a program, put together one by one. `arrays`: those that travel, in their order."""

    def __init__(self, epoch: int) -> None:
        self.arrays: list[Any] = []
        self._epoch = epoch
        self._message = pb.Result()
        self._travelling: list[pb.Value] = []

    def add(self, output: int, name: str, array: Any, *, fetch: bool) -> None:
        """The next value, of that output. Raises InvalidInput for a dtype that does not travel."""
        number = BYTES if is_strings(array) else number_of(np.dtype(array.dtype))
        if number is None:
            limit = "a dtype that travels"
            raise errors.InvalidInput(field=f"output {output}", limit=limit, given=str(array.dtype))
        value = self._message.values.add(output=output, name=name, dtype=number, shape=array.shape, epoch=self._epoch)
        if fetch:
            self._travelling.append(value)
            self.arrays.append(np.frombuffer(encode(array), np.uint8) if number == BYTES else array)

    def laid_out(self, limit: int = 0) -> Layout:
        """Gives each array its place. Raises InvalidInput if the reply would be larger than `limit` bytes (0: no
        limit)."""
        body_size = 0
        for value, array in zip(self._travelling, self.arrays, strict=True):
            # A view may be of any size, more than the fields of the message can tell.
            check_size(body_size + array.nbytes, limit)
            value.offset, value.size = body_size, array.nbytes
            body_size += wire.aligned(array.nbytes)
        head = self._message.SerializeToString()
        start = wire.aligned(len(head))
        made = Layout(head, body_size, tuple(_piece(value, start) for value in self._travelling))
        check_size(made.size, limit)
        return made


def _piece(value: pb.Value, body: int) -> Piece:
    start, shape = body + value.offset, tuple(value.shape)
    end, gap = start + value.size, -value.size % wire.ALIGNMENT
    dtype = from_number(value.dtype)
    if dtype is None:
        return Piece(start, end, gap, _BYTE, (value.size,), is_strings=True)
    return Piece(start, end, gap, dtype, shape, is_strings=False)


def check_size(size: int, limit: int) -> None:
    """Raises InvalidInput for a reply of more than `limit` bytes (0: no limit)."""
    if limit and size > limit:
        limit_text = f"at most {limit} bytes in one call"
        raise errors.InvalidInput(field="result size", limit=limit_text, given=f"{size} bytes")
