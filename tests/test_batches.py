# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Which model calls run together and whose turn it is, and which programs of a lease may be under way at once: pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotegpu_server.fairness import Turns
from remotegpu_server.worker.batches import Batches, Waiting
from remotegpu_server.worker.cancellation import Cancellation, Verdict
from remotegpu_server.worker.inference import NotJoinable, kind_of, split
from remotegpu_server.worker.order import Order, Touched

MOST = 8


def waiting(call: int, **fields: object) -> Waiting:
    """A call of one row of one model, which came when its number says."""
    given = {"caller": 1, "model": "m", "kind": "k", "rows": 1, "most": MOST, "since": float(call)} | fields
    return Waiting(call=call, **given)  # type: ignore[arg-type]


CALLS = st.lists(
    st.builds(
        lambda caller, model, kind, rows: (caller, model, kind, rows),
        st.integers(1, 4),
        st.sampled_from(["m", "n"]),
        st.sampled_from(["k", "l", None]),
        st.integers(0, MOST + 2),
    ),
    max_size=60,
)


@given(CALLS, st.sampled_from([0.0, 0.5]), st.sets(st.integers(0, 60)))
def test_no_call_is_lost_or_run_twice_and_batches_hold_what_belongs_together(
    calls: list[tuple[int, str, str | None, int]], delay: float, taken_back: set[int]
) -> None:
    batches = Batches(delay)
    for call, (caller, model, kind, rows) in enumerate(calls):
        batches.add(waiting(call, caller=caller, model=model, kind=kind, rows=rows))
    for call in taken_back:
        batches.remove(call)
    left = set(range(len(calls))) - taken_back
    assert len(batches) == len(left)
    while left:
        assert batches.due() is not None
        batch = batches.next(1000.0)
        found = {item.call for item in batch}
        assert len(found) == len(batch)
        assert found <= left
        left -= found
        assert len({(item.model, item.kind) for item in batch}) == 1
        assert len(batch) == 1 or (sum(item.rows for item in batch) <= MOST and not any(item.alone for item in batch))
    assert (batches.next(1000.0), batches.due(), len(batches)) == ([], None, 0)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, MOST)), min_size=1, max_size=60))
def test_nobody_waits_for_more_batches_than_there_are_callers_before_its_first_call(
    calls: list[tuple[int, int]],
) -> None:
    batches = Batches()
    for call, (caller, rows) in enumerate(calls):
        batches.add(waiting(call, caller=caller, rows=rows))
    callers = {caller for caller, _ in calls}
    served: set[int] = set()
    for _ in callers:
        served |= {item.caller for item in batches.next(1000.0)}
    assert served == callers


def test_the_model_whose_oldest_call_has_waited_longest_is_next() -> None:
    batches = Batches()
    for call, model in enumerate("mnm"):
        batches.add(waiting(call, model=model))
    assert [item.call for item in batches.next(9.0)] == [0, 2]
    assert [item.call for item in batches.next(9.0)] == [1]


def test_callers_take_turns_and_a_large_call_that_does_not_fit_is_first_in_the_next_batch() -> None:
    batches = Batches()
    for call in range(10):
        batches.add(waiting(call))
    batches.add(waiting(10, caller=2, rows=MOST))
    batches.add(waiting(11, caller=3))
    assert [item.call for item in batches.next(99.0)] == [0, 11, 1, 2, 3, 4, 5, 6]
    assert [item.call for item in batches.next(99.0)] == [10]
    assert [item.call for item in batches.next(99.0)] == [7, 8, 9]


@pytest.mark.parametrize(
    "alone", [{"rows": 0}, {"rows": MOST + 1}, {"kind": None}, {"most": 0}, {"most": 1}], ids=lambda fields: str(fields)
)
def test_calls_that_run_alone(alone: dict[str, object]) -> None:
    batches = Batches(5.0)
    for call in range(3):
        batches.add(waiting(call, caller=call, **alone))
    assert [len(batches.next(2.0)) for _ in range(4)] == [1, 1, 1, 0]  # and they wait for nobody


def test_a_batch_waits_for_others_only_if_they_were_there_lately_and_it_is_not_full() -> None:
    batches = Batches(max_delay=0.25)
    batches.add(waiting(0, since=10.0))
    assert [item.call for item in batches.next(10.0)] == [0]  # one caller alone waits for nobody
    batches.add(waiting(1, caller=2, since=10.5))
    assert (batches.next(10.7), batches.due()) == ([], 10.75)
    batches.add(waiting(2, since=10.6))
    assert [item.call for item in batches.next(10.75)] == [1, 2]
    for call in range(3, 3 + MOST):
        batches.add(waiting(call, caller=2, since=11.0))
    assert len(batches.next(11.0)) == MOST  # full
    batches.add(waiting(20, caller=2, since=13.0))
    assert [item.call for item in batches.next(13.0)] == [20]  # the others have gone long ago


def test_a_call_may_come_again_to_run_alone_after_its_batch_failed() -> None:
    batches = Batches()
    calls = [waiting(call) for call in range(3)]
    for item in calls:
        batches.add(item)
    batch = batches.next(9.0)
    for item in batch:
        batches.add(replace(item, kind=None))
    assert [[item.call for item in batches.next(9.0)] for _ in range(3)] == [[0], [1], [2]]


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 99)), max_size=40))
def test_turns_give_everything_once_in_each_owners_order(things: list[tuple[int, int]]) -> None:
    turns: Turns[tuple[int, int]] = Turns()
    for number, (owner, _) in enumerate(things):
        turns.add(owner, (owner, number))
    found = []
    while (thing := turns.take()) is not None:
        found.append(thing)
    assert sorted(number for _, number in found) == list(range(len(things)))
    for owner in {owner for owner, _ in things}:
        mine = [number for who, number in found if who == owner]
        assert mine == sorted(mine)
    assert not len(turns)


def test_outputs_are_taken_apart_by_rows_or_not_at_all() -> None:
    joined = [np.arange(6), np.arange(12).reshape(6, 2)]
    first, second = split(joined, [1, 5])
    assert [part.tolist() for part in first] == [[0], [[0, 1]]]
    assert [len(part) for part in second] == [5, 5]
    for other in (np.zeros(5), np.zeros(()), np.zeros((1, 6))):
        with pytest.raises(NotJoinable):
            split([*joined, other], [1, 5])


@pytest.mark.parametrize(
    ("feed", "rows"),
    [
        ({"a": np.zeros((3, 2)), "b": np.zeros(3)}, 3),
        ({"a": np.zeros((3, 2)), "b": np.zeros(2)}, 0),
        ({"a": np.zeros(())}, 0),
    ],
)
def test_calls_agree_in_all_but_the_rows(feed: dict[str, Any], rows: int) -> None:
    kind, found = kind_of(feed)
    assert (kind is not None, found) == (rows > 0, rows)
    twice = {name: np.concatenate([array, array]) if array.ndim else array for name, array in feed.items()}
    assert kind_of(twice) == (kind, 2 * rows)
    assert kind is None or kind_of({**feed, "b": np.zeros(3, np.float32)})[0] != kind


class Held:
    bytes = 100


def touched(reads: str = "", writes: str = "", *, finishes: bool = False) -> Touched:
    return Touched(frozenset(map(int, reads)), frozenset(map(int, writes)), finishes)


@pytest.mark.parametrize(
    ("earlier", "later", "waits"),
    [
        (touched("1"), touched("1"), False),
        (touched("1", "2"), touched("3", "4"), False),
        (touched("", "1"), touched("1"), True),
        (touched("1"), touched("", "1"), True),
        (touched("", "1"), touched("", "1"), True),
        (touched(), touched(finishes=True), True),
        (touched(finishes=True), touched(), True),
    ],
)
def test_programs_of_a_lease_that_touch_the_same_handles_keep_their_order(
    earlier: Touched, later: Touched, waits: bool
) -> None:
    order = Order()
    assert order.may_begin(1, 7, earlier)
    order.paused(1, 7, earlier, Held())
    assert order.may_begin(2, 8, later)  # another lease
    assert order.may_begin(3, 7, later) is not waits
    assert (order.bytes(7, without=3), order.bytes(7, without=1), order.bytes(8, without=0)) == (100, 0, 0)
    assert order.ended(1) == ([3] if waits else [])
    assert order.ended(3) == []
    assert order.may_begin(4, 7, touched(finishes=True))


def test_programs_in_line_begin_in_order_as_far_as_they_do_not_disturb_each_other() -> None:
    order = Order()
    order.paused(1, 7, touched("", "1"), Held())
    assert not order.may_begin(2, 7, touched("1"))
    assert not order.may_begin(3, 7, touched("1"))
    assert not order.may_begin(4, 7, touched("", "1"))
    assert not order.may_begin(5, 7, touched("9"))  # nothing passes those that came before
    order.ended(3)  # taken back
    assert order.ended(1) == [2]
    assert order.ended(2) == [4, 5]
    assert order.ended(4) + order.ended(5) == []


def test_what_can_be_taken_back_at_each_moment() -> None:
    closed: list[str] = []
    calls: Cancellation[str] = Cancellation(closed.append)
    assert calls.take_back(1, force=False) is Verdict.TAKEN  # it has not begun
    assert calls.take_back(1, force=True) is Verdict.OVER  # which is told once
    assert not calls.begin(1)
    assert calls.take_back(1, force=True) is Verdict.OVER
    assert calls.begin(2)
    assert calls.pause(2, "two", fresh=True)
    assert calls.begin(3)
    assert calls.take_back(2, force=False) is Verdict.TAKEN
    assert (calls.enter(2), calls.gone(), calls.gone(), closed) == (None, [2], [], ["two"])
    assert calls.take_back(3, force=False) is Verdict.BUSY
    assert not calls.pause(3, "three", fresh=True)  # it was wanted back meanwhile
    assert calls.take_back(3, force=True) is Verdict.OVER
    assert calls.begin(4)
    assert calls.take_back(4, force=False) is Verdict.BUSY
    assert calls.pause(4, "four", fresh=False)  # it has begun, and only force stops it now
    assert calls.take_back(4, force=False) is Verdict.BUSY
    calls.enter(4)
    assert calls.take_back(4, force=True) is Verdict.BUSY
    assert not calls.pause(4, "four", fresh=False)
    assert closed == ["two"]
