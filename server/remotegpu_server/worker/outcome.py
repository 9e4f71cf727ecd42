# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What comes of a program: a result with its arrays, or an error."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from remotegpu import errors, wire
from remotegpu_server.backends.device import Device

from .layout import Layout

_NOTHING = Layout(b"")


@dataclass(slots=True)
class Outcome:
    """What came of it: the layout of the reply, the arrays to copy out to the places in it, times; or (`failed`) the
    bytes of an error in the place of the result message.

    `last_node` is the program's; `discard` frees what the call kept, for a result that cannot be delivered."""

    layout: Layout = _NOTHING
    arrays: Sequence[Any] = ()
    failed: bool = False
    h2d_ns: int = 0
    compute_ns: int = 0
    last_node: int = 0
    discard: Callable[[], None] = lambda: None

    @classmethod
    def of(cls, error: errors.Error) -> Outcome:
        """An error."""
        return cls(Layout(wire.error_detail(error)), failed=True)


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
