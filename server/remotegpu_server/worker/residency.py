# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Which models stay loaded within a budget: the least recently used one goes first, none that a live lease has used.

Pure. Models and leases are numbers, sizes are bytes. A pin begins when a lease is allocated for a model by name, or
with its first call of another one, and ends with its lease. What is busy
for a moment (it runs, or was loaded for a program that has not come back for it yet) is named by the caller.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class NoRoom(Exception):
    """Too little can be evicted: `asked` bytes beside what is pinned or busy are more than `limit`. `passes`: there is
    room when nothing is busy."""

    asked: int
    limit: int
    passes: bool = False


@dataclass(slots=True)
class _Resident:
    size: int
    leases: set[int] = field(default_factory=set)


class Residency:
    """The loaded models of one device. `budget` None: no limit."""

    def __init__(self, budget: int | None) -> None:
        self.budget = budget
        # Bytes of all that is resident.
        self.used = 0
        # Least recently used first.
        self._residents: OrderedDict[int, _Resident] = OrderedDict()

    def __contains__(self, model: int) -> bool:
        return model in self._residents

    def size(self, model: int) -> int:
        """Bytes of a resident model; 0 for another."""
        resident = self._residents.get(model)
        return 0 if resident is None else resident.size

    def add(self, model: int, size: int) -> None:
        """It is loaded, and the most recently used. Room was made before."""
        self.remove(model)
        self._residents[model] = _Resident(size)
        self.used += size

    def use(self, model: int, lease: int = 0) -> None:
        """A resident model is used, by a lease (0: by a call without one), until whose `end` it stays."""
        if lease:
            self._residents[model].leases.add(lease)
        self._residents.move_to_end(model)

    def end(self, lease: int) -> None:
        """The lease is over, and pins nothing any longer."""
        for resident in self._residents.values():
            resident.leases.discard(lease)

    def remove(self, model: int) -> None:
        """It is no longer loaded. Harmless for one that is not."""
        resident = self._residents.pop(model, None)
        if resident is not None:
            self.used -= resident.size

    def make_room(self, size: int, busy: Collection[int] = ()) -> list[int]:
        """The models to evict so that `size` more bytes are within the budget, no more than that takes by age; they are
        removed here. Raises NoRoom, and removes none, if that is not enough."""
        if self.budget is None:
            return []
        going: list[int] = []
        used = self.used
        for model in self._idle(busy):
            if used + size <= self.budget:
                break
            going.append(model)
            used -= self._residents[model].size
        if used + size > self.budget:
            pinned = sum(resident.size for resident in self._residents.values() if resident.leases)
            raise NoRoom(size, self.budget, passes=pinned + size <= self.budget)
        for model in going:
            self.remove(model)
        return going

    def evict(self, busy: Collection[int] = ()) -> int | None:
        """The model that goes first, removed, whatever the budget: the device itself has no more memory. None if all
        are pinned or busy."""
        victim = next(self._idle(busy), None)
        if victim is not None:
            self.remove(victim)
        return victim

    def _idle(self, busy: Collection[int]) -> Iterator[int]:
        return (model for model, resident in self._residents.items() if not resident.leases and model not in busy)
