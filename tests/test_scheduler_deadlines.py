# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The scheduler's heap of deadlines that may move."""

import math

from remotegpu_server.scheduler.deadlines import Deadlines, Timed


def test_deadlines_move_and_come_in_order() -> None:
    deadlines: Deadlines[Timed] = Deadlines()
    assert not deadlines.due(0)
    assert (deadlines.next(), deadlines.pop(0)) == (None, None)
    first, second, third, dropped, equal = items = [Timed() for _ in range(5)]
    for item in items:
        deadlines.set(item, 5)
    deadlines.set(first, 9)  # later
    deadlines.set(third, 3)  # earlier
    deadlines.drop(dropped)
    assert dropped.due == math.inf
    assert deadlines.next() == 3
    assert not deadlines.due(2)
    assert deadlines.pop(2) is None
    assert [deadlines.pop(9) for _ in range(5)] == [third, second, equal, first, None]
    deadlines.set(first, 4)
    deadlines.set(first, math.inf)
    assert deadlines.due(4)  # may have come: the entry is still there
    assert deadlines.pop(4) is None
    assert len(deadlines) == 0
    deadlines.drop(first)  # was not in it
    deadlines.set(first, 6)
    assert deadlines.pop(6) is first
    deadlines.set(first, 7)
    assert deadlines.next() == 7


def drop(deadlines: Deadlines[Timed], item: Timed) -> None:
    deadlines.drop(item)


def suspend(deadlines: Deadlines[Timed], item: Timed) -> None:
    deadlines.set(item, -1)
    deadlines.set(item, math.inf)
    deadlines.next()
    deadlines.drop(item)


def hasten(deadlines: Deadlines[Timed], item: Timed) -> None:
    for due in range(10, 0, -1):
        deadlines.set(item, due)
    deadlines.drop(item)


def overtake(deadlines: Deadlines[Timed], item: Timed) -> None:
    deadlines.set(item, -1)
    deadlines.drop(item)
    deadlines.next()


def test_meaningless_deadlines_do_not_pile_up() -> None:
    """Whatever made them meaningless, and however many were swept out or came to the top before."""
    deadlines: Deadlines[Timed] = Deadlines()
    kept = [Timed() for _ in range(100)]
    for due, item in enumerate(kept):
        deadlines.set(item, due)
    for use in (drop, suspend, overtake, hasten, drop):
        for due in range(2000):
            item = Timed()
            deadlines.set(item, due)
            use(deadlines, item)
            assert len(deadlines) <= 2 * len(kept) + 1
        assert deadlines.next() == 0
    assert [deadlines.pop(100) for _ in range(101)] == [*kept, None]


def test_sweeps_are_as_rare_as_the_living_are_many() -> None:
    """So the cost of a sweep, shared among those that it sweeps out, is constant."""
    deadlines: Deadlines[Timed] = Deadlines()
    for _ in range(100):
        deadlines.set(Timed(), 1)
    for use in (overtake, suspend):
        for _ in range(200):
            use(deadlines, Timed())
    sizes = []
    for _ in range(3 * 101):
        item = Timed()
        deadlines.set(item, 2)
        deadlines.drop(item)
        sizes.append(len(deadlines))
    assert sizes == [*range(101, 201), 100] * 3
