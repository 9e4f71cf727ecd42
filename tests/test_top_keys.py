# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the keys of `remotegpu top` do. No terminal needed."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotegpu.cli.live import silence
from remotegpu.cli.view import SORTS, Dealloc, Keyboard, Quit, View, follow, ordered, press
from remotegpu.v1 import scheduler_pb2 as pb
from tests.test_top import busy, text


def pressed(view: View, keys: str, snapshot: pb.Snapshot) -> View:
    for key in keys.split():
        view, action = press(view, key, snapshot)
        assert action is None
    return view


def test_moving_the_selection() -> None:
    snapshot = busy(leases=30)  # by age: 0000001d first
    assert pressed(View(), "down", snapshot).selected == "0000001d"
    assert pressed(View(), "up", snapshot).selected == "00000000"
    assert pressed(View(), "j j k down", snapshot).selected == "0000001c"
    assert pressed(View(), "up down", snapshot).selected == "00000000"
    assert pressed(View(), "home page_down", snapshot).selected == "00000013"
    assert pressed(View(), "end page_up", snapshot).selected == "0000000a"
    assert pressed(View(), "end home", snapshot).selected == "0000001d"
    assert pressed(View(), "down escape", snapshot).selected == ""
    assert pressed(View(), "down", busy(leases=0)).selected == ""


def sorting() -> pb.Snapshot:
    snapshot = pb.Snapshot()
    snapshot.leases.add(lease="a", age_s=5, ttl_left_s=9, calls=1, memory=7, tenant="y")
    snapshot.leases.add(lease="b", age_s=7, calls=3, memory=8, tenant="x")
    snapshot.leases.add(lease="c", age_s=6, ttl_left_s=2, calls=2, exclusive=True, tenant="z")
    return snapshot


@pytest.mark.parametrize(
    ("sort", "order"), [("age", "bca"), ("ttl", "cab"), ("calls", "bca"), ("memory", "cba"), ("tenant", "bac")]
)
def test_sorting(sort: str, order: str) -> None:
    assert "".join(lease.lease for lease in ordered(View(sort=sort), sorting())) == order
    assert "".join(lease.lease for lease in ordered(View(sort=sort, reverse=True), sorting())) == order[::-1]


def test_s_goes_through_all_orders_and_the_selection_stays_on_its_lease() -> None:
    snapshot, view, seen = sorting(), View(selected="a"), []
    for _ in SORTS:
        seen.append(view.sort)
        assert "▸ a" in text(snapshot, 80, 24, view)
        assert f"s sort: {view.sort}  " in text(snapshot, 80, 24, view)
        view = pressed(view, "s", snapshot)
    assert seen == ["age", "ttl", "calls", "memory", "tenant"]
    assert view == View(selected="a")
    assert "s sort: age reversed" in text(snapshot, 80, 24, pressed(view, "r", snapshot))


def test_dealloc_asks_first() -> None:
    snapshot = busy()
    view = pressed(View(selected="00000001"), "d", snapshot)
    assert "dealloc 00000001? y/n" in text(snapshot, 80, 24, view)
    assert pressed(view, "q down s", snapshot) == view, "only an answer answers"
    for no in ("n", "escape"):
        assert not pressed(view, no, snapshot).confirm
    after, action = press(view, "y", snapshot)
    assert action == Dealloc("00000001")
    assert not after.confirm
    assert press(after, "y", snapshot)[1] is None


def test_dealloc_without_a_selection_says_what_to_do() -> None:
    assert "choose a lease first" in pressed(View(), "d", busy()).message
    assert pressed(View(), "d", busy(leases=0)).message == "there is no lease"
    assert not pressed(View(selected="ffffffff"), "d", busy()).confirm


def test_quit_help_and_messages() -> None:
    assert press(View(), "q", busy())[1] == Quit()
    helped = pressed(View(message="done"), "?", busy())
    assert "deallocate it" in text(busy(), 80, 24, helped)
    assert "NVIDIA" not in text(busy(), 80, 24, helped)
    assert pressed(helped, "x", busy()) == pressed(helped, "?", busy()) == View()


def test_silence_is_told_and_counted() -> None:
    view = View(message="done")
    assert silence(view, 1.0, 4.0) == (view, 3.0)
    assert silence(view, 4.2, 4.0) == (replace(view, lost="no snapshot for 4 s"), 1.0)
    assert silence(replace(view, lost="no snapshots: x"), 9.0, 4.0) == (replace(view, lost="no snapshots: x"), None)


def test_selection_moves_on_when_its_lease_ends() -> None:
    before, after = busy(leases=4), busy(leases=4)
    del after.leases[2]
    view = follow(View(selected="00000002"), before, after)
    assert view.selected == "00000001", "the one that stands in its place"
    assert follow(View(selected="00000000"), before, busy(leases=0)).selected == ""
    del after.leases[0]
    assert follow(View(selected="00000000"), before, after).selected == "00000001"
    assert follow(View(selected="00000003"), before, after) == View(selected="00000003")


def test_question_is_taken_back_when_its_lease_ends() -> None:
    asking = View(selected="00000002", confirm="00000002")
    after = follow(asking, busy(leases=3), busy(leases=2))
    assert not after.confirm
    assert after.message == "00000002 has ended by itself"
    assert follow(asking, busy(leases=3), busy(leases=3)) == asking


def test_lost_connection_is_said_until_the_next_snapshot() -> None:
    view = View(lost="no snapshots: nothing answered")
    assert text(busy(), 80, 24, view).startswith("no snapshots: nothing answered")
    assert follow(view, busy(), busy()) == replace(view, lost="")


KEYS = b"q\x1b[A\x1bOB\x1b[5~\x1b[6~\x1b[1~\x1b[F\x1b[1;5Cj\xc3\xa9\x1bd\x1b\x1b[Bk"
NAMES = ["q", "up", "down", "page_up", "page_down", "home", "end", "j", "é", "escape", "d", "escape", "down", "k"]


@given(st.lists(st.integers(0, len(KEYS))))
def test_keys_are_the_same_however_their_bytes_arrive(cuts: list[int]) -> None:
    keyboard, keys, places = Keyboard(), [], [0, *sorted(cuts), len(KEYS)]
    for start, end in itertools.pairwise(places):
        keys += keyboard.feed(KEYS[start:end])
    assert keys == NAMES
    assert not keyboard.waiting


def test_escape_alone_is_a_key_after_a_while() -> None:
    keyboard = Keyboard()
    assert keyboard.feed(b"\x1b") == []
    assert keyboard.waiting
    assert keyboard.flush() == ["escape"]
    assert not keyboard.waiting
    assert keyboard.feed(b"\x1b[") == []
    assert keyboard.flush() == [], "the beginning of something unknown"
