# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""How much device memory leases take: what they keep there, and what their running programs need."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from typing import Any

from remotegpu.strings import is_strings


def bytes_of(array: Any) -> int:
    """What an array takes; strings lie outside of theirs."""
    size: int = array.nbytes
    return size + sum(map(sys.getsizeof, array.reshape(-1))) if is_strings(array) else size


class LeaseMemory:
    """What leases keep on the device: arrays by lease and handle id. Both threads of a worker use it: the one that runs
    programs, and the one that drops leases which have no call here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrays: dict[int, dict[int, Any]] = {}
        self._held: dict[int, int] = {}

    def get(self, lease: int, handle: int) -> Any:
        """The array of a handle, or None."""
        mine = self._arrays.get(lease)
        return None if mine is None else mine.get(handle)

    def keep(self, lease: int, handle: int, array: Any) -> None:
        """Stores an array; one that the handle had before is freed."""
        self.free(lease, (handle,))
        with self._lock:
            self._arrays.setdefault(lease, {})[handle] = array
            self._held[lease] = self._held.get(lease, 0) + bytes_of(array)

    def free(self, lease: int, handles: Iterable[int]) -> None:
        """Frees handles; those that are not there are passed over, so a repeated free is harmless."""
        with self._lock:
            mine = self._arrays.get(lease, {})
            for handle in handles:
                array = mine.pop(handle, None)
                if array is not None:
                    self._held[lease] -= bytes_of(array)

    def drop(self, lease: int) -> None:
        """Frees all that a lease holds."""
        with self._lock:
            dropped = self._arrays.pop(lease, None)
            self._held.pop(lease, None)
        del dropped  # outside of the lock: to give large arrays back takes the system a while

    def held(self, lease: int | None = None, *, without: int | None = None) -> int:
        """Bytes held by one lease, or by all, `without` one of them."""
        with self._lock:
            if lease is not None:
                return self._held.get(lease, 0)
            return sum(self._held.values()) - (self._held.get(without, 0) if without is not None else 0)


class Live:
    """Bytes that a program made and still needs, beside what its lease keeps.

    Views count as the array whose memory they share: it lives as long as any of them."""

    def __init__(self) -> None:
        self.bytes = 0
        self._owners: dict[int, tuple[int, int]] = {}

    def add(self, array: Any, *, held: bool = False) -> None:
        """Counts an array; `held` ones are among those that the lease keeps already."""
        owner = _owner(array)
        uses, size = self._owners.get(id(owner), (0, 0))
        if not uses and not held:
            size = bytes_of(owner)
            self.bytes += size
        self._owners[id(owner)] = (uses + 1, size)

    def remove(self, array: Any) -> None:
        """Takes back one `add` of that array."""
        owner = id(_owner(array))
        uses, size = self._owners.pop(owner)
        if uses > 1:
            self._owners[owner] = (uses - 1, size)
        else:
            self.bytes -= size


def _owner(array: Any) -> Any:
    """The array that owns the memory; for memory that no array owns, the one that borrowed it."""
    while isinstance(array.base, type(array)):
        array = array.base
    return array
