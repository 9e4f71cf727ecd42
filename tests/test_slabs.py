# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Slabs: the allocator of an arena against a plain model of it, and memory shared by descriptor."""

import os
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from remotegpu_server.slabs import Arena, FreeList

UNIT = 64
NUMBERS = st.integers(0, 1000)


class FreeListMachine(RuleBasedStateMachine):
    """The model is what is taken; gaps are counted anew each time."""

    @initialize(units=st.integers(0, 12), rest=st.sampled_from([0, 0, 1, 63]))
    def begin(self, units: int, rest: int) -> None:
        self.size = units * UNIT + rest
        self.free_list = FreeList(self.size)
        self.taken: dict[int, int] = {}

    def gaps(self) -> list[tuple[int, int]]:
        starts = [0, *(offset + size for offset, size in sorted(self.taken.items()))]
        return list(zip(starts, [*sorted(self.taken), self.size], strict=True))

    @rule(size=st.integers(0, 5 * UNIT) | st.just(1000 * UNIT))
    def allocate(self, size: int) -> None:
        needed = max(-(-size // UNIT), 1) * UNIT
        fitting = [start for start, end in self.gaps() if end - start >= needed]
        offset = self.free_list.allocate(size)
        assert offset == (fitting[0] if fitting else None)
        if offset is not None:
            self.taken[offset] = needed

    @rule(number=NUMBERS)
    def free(self, number: int) -> None:
        if self.taken:
            offset = sorted(self.taken)[number % len(self.taken)]
            self.free_list.free(offset)
            del self.taken[offset]

    @rule(offset=st.integers(-1, 13 * UNIT) | st.integers(0, 13).map(UNIT.__mul__))
    def free_what_is_not_taken(self, offset: int) -> None:
        if offset not in self.taken:
            with pytest.raises(KeyError):
                self.free_list.free(offset)

    @rule()
    def free_all(self) -> None:
        """However the arena was cut up, it is one block again: a single slab may take all of it."""
        while self.taken:
            self.free_list.free(self.taken.popitem()[0])
        if self.size >= UNIT:
            assert self.free_list.allocate(self.size // UNIT * UNIT) == 0
            self.free_list.free(0)

    @invariant()
    def nothing_overlaps_and_all_is_counted(self) -> None:
        assert all(start <= end for start, end in self.gaps())
        assert all(offset % UNIT == 0 for offset in self.taken)
        assert self.free_list.used == sum(self.taken.values()) <= self.size


TestFreeList = FreeListMachine.TestCase
TestFreeList.settings = settings(deadline=None, max_examples=200, stateful_step_count=40)


def test_the_first_gap_that_fits_is_taken() -> None:
    free_list = FreeList(10 * UNIT)
    offsets = [free_list.allocate(size * UNIT) for size in (1, 2, 1, 3, 1)]
    assert offsets == [0, 64, 192, 256, 448]
    free_list.free(64)
    free_list.free(256)
    assert free_list.allocate(3 * UNIT) == 256
    assert free_list.allocate(UNIT) == 64
    assert free_list.allocate(2 * UNIT) == 512
    assert free_list.allocate(UNIT) == 128
    assert (free_list.allocate(0), free_list.used, free_list.size) == (None, 10 * UNIT, 10 * UNIT)


def test_a_slab_is_freed_once() -> None:
    free_list = FreeList(UNIT)
    assert free_list.allocate(0) == 0
    free_list.free(0)
    with pytest.raises(KeyError):
        free_list.free(0)
    assert free_list.used == 0


def test_an_arena_is_shared_by_its_descriptor() -> None:
    mine = Arena.create("test", 8192)
    theirs = Arena(os.dup(mine.descriptor), 8192)
    mine.view[4000:4004] = b"ping"
    assert bytes(theirs.view[4000:4004]) == b"ping"
    theirs.view[8191] = 7
    assert mine.view[8191] == 7
    assert len(mine.view) == len(theirs.view) == mine.size == theirs.size == 8192
    for arena in (mine, theirs):
        arena.close_descriptor()


def test_an_arena_takes_all_its_memory_at_the_start() -> None:
    arena = Arena.create("test", 1024**2)
    state = os.fstat(arena.descriptor)
    assert (state.st_size, state.st_blocks * 512) == (1024**2, 1024**2)
    assert not os.get_inheritable(arena.descriptor)
    arena.close_descriptor()


def test_the_mapping_outlives_the_descriptor() -> None:
    arena = Arena.create("test", 4096)
    descriptor = arena.descriptor
    arena.close_descriptor()
    arena.close_descriptor()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    arena.view[:2] = b"ok"
    assert bytes(arena.view[:2]) == b"ok"


def test_an_arena_that_cannot_be_made_leaves_no_descriptor() -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    with pytest.raises(OSError, match="Invalid argument"):
        Arena.create("test", 0)
    assert sorted(Path("/proc/self/fd").iterdir()) == before
