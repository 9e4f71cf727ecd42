# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Indexes over devices, so that no decision walks through all of them.

Devices are known here by their position, 0 ... n-1 in ascending order of their index. An `Index` holds those that
can take one kind of request, by their free memory; an `Offer` is one for shared places and one for whole devices.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator

from .positions import NOTHING, Positions

_SHIFT = 20
"""Bits of a key that hold the position: a million devices. Plain integers compare much faster than pairs."""
MOST_DEVICES = 1 << _SHIFT


class Index:
    """Devices by free memory, and by position."""

    def __init__(self, devices: int) -> None:
        self._keys: list[int] = []  # free memory, then position
        self._positions = Positions(devices)

    def __len__(self) -> int:
        return len(self._keys)

    def put(self, position: int, before: int, memory: int) -> None:
        """That much is free there now, where `before` was; `NOTHING` stands for a device that is not in the index."""
        if before != NOTHING:
            del self._keys[bisect_left(self._keys, before << _SHIFT | position)]
        if memory != NOTHING:
            insort(self._keys, memory << _SHIFT | position)
        self._positions.set(position, memory)

    def most(self, rank: int = 1) -> int:
        """The free memory of the device with the most, or of the second, third, ...; `NOTHING` if it is not there."""
        return self._keys[-rank] >> _SHIFT if 0 < rank <= len(self._keys) else NOTHING

    def count(self, memory: int) -> int:
        """How many have at least so much."""
        return len(self._keys) - bisect_left(self._keys, memory << _SHIFT)

    def around(self, start: int, memory: int) -> Iterator[int]:
        """The positions that have so much, upwards from `start` and then from 0 on, each once."""
        position = self._positions.next(start, memory)
        while position is not None:
            yield position
            position = self._positions.next(position + 1, memory)
        position = self._positions.next(0, memory)
        while position is not None and position < start:
            yield position
            position = self._positions.next(position + 1, memory)

    def tightest(self, memory: int) -> Iterator[int]:
        """The positions that have so much, those with the least first."""
        keys = self._keys
        for at in range(bisect_left(keys, memory << _SHIFT), len(keys)):
            yield keys[at] & (MOST_DEVICES - 1)


class Ranking:
    """Devices by what they have to do: measured utilisation in steps of 5 %, so that noise decides nothing, then
    reserved memory, then leases."""

    def __init__(self) -> None:
        self._keys: list[int] = []

    def __iter__(self) -> Iterator[int]:
        """Positions, the least loaded first."""
        return (key & (MOST_DEVICES - 1) for key in self._keys)

    @staticmethod
    def key(position: int, utilization: float, reserved: int, leases: int) -> int:
        """What a device is ranked by."""
        return ((int(utilization * 20) << 64 | reserved) << 32 | leases) << _SHIFT | position

    def put(self, before: int, key: int) -> None:
        """A device has another key; `NOTHING` stands for one that is not ranked."""
        if before != NOTHING:
            del self._keys[bisect_left(self._keys, before)]
        if key != NOTHING:
            insort(self._keys, key)


class Offer:
    """Devices that may be given: `shared` has those with a free slot, `idle` those that nobody uses."""

    def __init__(self, devices: int) -> None:
        self.shared = Index(devices)
        self.idle = Index(devices)
        self.slots = 0  # free on all of them together

    def index(self, exclusive: bool) -> Index:
        """The one for such requests."""
        return self.idle if exclusive else self.shared
