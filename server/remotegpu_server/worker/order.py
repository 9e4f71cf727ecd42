# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Which programs of one lease may be under way together. Pure.

A program pauses at its model steps, and others go on meanwhile. What they do with the handles of their lease must come
out as if they had run one after the other in the order in which they came: a program that reads or changes a handle
waits for those before it that change it, and one that changes a handle for those that read it. The last call of a lease
waits for all others. Programs without handles in common do not wait for each other.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Touched:
    """What a program does with the handles of its lease: those it `reads`, those it `writes` (keeps or frees).
    `finishes`: it is to be the last."""

    reads: frozenset[int]
    writes: frozenset[int]
    finishes: bool = False

    def follows(self, earlier: Touched) -> bool:
        """Whether this program must wait until the earlier one has ended."""
        return bool(
            self.finishes
            or earlier.finishes
            or self.writes & (earlier.writes | earlier.reads)
            or self.reads & earlier.writes
        )


class Weight(Protocol):
    """Something that counts the device memory of a program."""

    bytes: int


@dataclass(slots=True)
class _Lease:
    under_way: dict[int, tuple[Touched, Weight]] = field(default_factory=dict)
    # Programs that came and must wait; in order.
    line: deque[tuple[int, Touched]] = field(default_factory=deque)


class Order:
    """The programs of all leases that pause or wait. Calls without a lease (0) touch no handles, and are not here."""

    def __init__(self) -> None:
        self._leases: dict[int, _Lease] = {}
        self._lease_of: dict[int, int] = {}

    def is_quiet(self, lease: int) -> bool:
        """Whether no program of that lease pauses or waits."""
        return lease not in self._leases

    def may_begin(self, call: int, lease: int, touched: Touched) -> bool:
        """Whether a new call may begin now. If not, it stands in line until `ended` names it."""
        mine = self._leases.get(lease)
        if mine is None or not (mine.line or any(touched.follows(other) for other, _ in mine.under_way.values())):
            return True
        mine.line.append((call, touched))
        self._lease_of[call] = lease
        return False

    def paused(self, call: int, lease: int, touched: Touched, weight: Weight) -> None:
        """A call has begun and goes on later; harmless if it is known."""
        if lease:
            self._leases.setdefault(lease, _Lease()).under_way[call] = (touched, weight)
            self._lease_of[call] = lease

    def ended(self, call: int) -> list[int]:
        """A call has ended, or was taken back. The calls in line that begin now, in order: each is to be begun, and
        then either pauses or ends. Harmless for a call that never paused."""
        lease = self._lease_of.pop(call, None)
        if lease is None:
            return []
        mine = self._leases[lease]
        mine.under_way.pop(call, None)
        mine.line = deque((other, touched) for other, touched in mine.line if other != call)
        begin: list[int] = []
        # One that begins may end before the next is begun, but may also pause: so no later one that must follow it.
        begun: list[Touched] = [touched for touched, _ in mine.under_way.values()]
        while mine.line and not any(mine.line[0][1].follows(other) for other in begun):
            other, touched = mine.line.popleft()
            mine.under_way[other] = (touched, _Nothing())
            begun.append(touched)
            begin.append(other)
        if not mine.under_way:
            del self._leases[lease]
        return begin

    def bytes(self, lease: int, without: int) -> int:
        """What the paused programs of a lease hold on the device, but for that one."""
        mine = self._leases.get(lease)
        return (
            0 if mine is None else sum(weight.bytes for call, (_, weight) in mine.under_way.items() if call != without)
        )


@dataclass(slots=True)
class _Nothing:
    bytes: int = 0
