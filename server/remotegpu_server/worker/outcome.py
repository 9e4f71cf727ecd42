# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What comes of a program: a result with its arrays, or an error."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from remotegpu import errors, wire
from remotegpu.v1 import program_pb2 as pb
from remotegpu_server.backends.device import Device


@dataclass(slots=True)
class Outcome:
    """What came of it: the result message, the arrays to copy out with their places in it, times; or an error.

    `last_node` is the program's; `discard` frees what the call kept, for a result that cannot be delivered."""

    error: bytes | None = None
    result: pb.Result = field(default_factory=pb.Result)
    fetched: list[tuple[pb.Value, Any]] = field(default_factory=list)
    # Of the body and of the whole reply, once it is laid out; bytes.
    body_size: int = 0
    size: int = 0
    h2d_ns: int = 0
    compute_ns: int = 0
    last_node: int = 0
    discard: Callable[[], None] = field(default=lambda: None)

    def lay_out(self, limit: int = 0) -> None:
        """Gives each fetched value its place in the body.

        Raises InvalidInput if the reply would be larger than `limit` bytes (0: no limit)."""
        offset = 0
        for value, array in self.fetched:
            # A view may be of any size, more than the fields of the message can tell.
            if limit and offset + array.nbytes > limit:
                raise _too_large(limit, offset + array.nbytes)
            value.offset = offset
            value.size = array.nbytes
            offset += wire.aligned(array.nbytes)
        self.body_size, self.size = offset, offset + wire.aligned(self.result.ByteSize())
        self.check(limit)

    def check(self, limit: int) -> None:
        """Raises InvalidInput if the reply, which is laid out, is larger than `limit` bytes (0: no limit)."""
        if limit and self.size > limit:
            raise _too_large(limit, self.size)


def _too_large(limit: int, size: int) -> errors.InvalidInput:
    return errors.InvalidInput(field="result size", limit=f"at most {limit} bytes in one call", given=f"{size} bytes")


def failure(device: Device, error: Exception, node: int, operation: str, limit: int = 0) -> errors.RemoteError:
    """What to tell the caller of an error that the device survives: OutOfMemory (`limit`: the declared bytes, 0: none
    were) or RemoteError. Raises the error again if the device does not survive it."""
    if device.is_broken(error):
        raise error
    why = f"{type(error).__name__}: {error}"
    asked = device.memory_error(error)
    if asked is not None:
        limit = limit or device.free_memory()
        return errors.OutOfMemory(node=node, operation=operation, why=why, asked=asked, limit=limit)
    text = "".join(traceback.format_exception(error, limit=-6))
    return errors.RemoteError(node=node, operation=operation, why=why, traceback=text)
