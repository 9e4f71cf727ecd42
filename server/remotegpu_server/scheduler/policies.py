# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Which of the devices that fit a request is given."""

from bisect import bisect_left
from collections.abc import Sequence
from operator import attrgetter
from typing import Protocol

from .model import Request


class Candidate(Protocol):
    """What a policy may read of a device that fits."""

    @property
    def index(self) -> int: ...
    @property
    def free_slots(self) -> int: ...
    @property
    def free_memory(self) -> int: ...


class Policy(Protocol):
    """Chooses devices. It is asked only when its answer is granted, so it may remember what it chose."""

    @property
    def name(self) -> str:
        """As operators write it."""

    def choose(self, candidates: Sequence[Candidate], request: Request) -> tuple[int, ...]:
        """The indices of `request.gpus` different candidates.

        `candidates` are in ascending order of their index and at least `request.gpus` many; all fit.
        """


_index = attrgetter("index")


class RoundRobin:
    """The next device after the last one given, around and around."""

    name = "round-robin"

    def __init__(self) -> None:
        self._next = 0

    def choose(self, candidates: Sequence[Candidate], request: Request) -> tuple[int, ...]:
        """See `Policy.choose`."""
        start = bisect_left(candidates, self._next, key=_index)
        count = len(candidates)
        chosen = tuple(candidates[(start + step) % count].index for step in range(request.gpus))
        self._next = chosen[-1] + 1
        return chosen
