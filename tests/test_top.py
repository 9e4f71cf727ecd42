# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The screen of `remotegpu top` as text: what it shows at which size. No terminal needed."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from remotegpu.cli.screen import allot, render
from remotegpu.cli.tables import Column, bar, encoded, fit, frame, line, painted
from remotegpu.cli.view import View
from remotegpu.v1 import scheduler_pb2 as pb

GIB = 1024**3


def busy(devices: int = 2, leases: int = 3, waiters: int = 2) -> pb.Snapshot:
    """A server in use. Lease 0 is the youngest; its id is "00000000"."""
    snapshot = pb.Snapshot(version="9.8.7", uptime_s=7500, models=["digits", "linear"], mean_held_s=4.25)
    snapshot.settings.MergeFrom(pb.SchedulerSettings(policy="fair", slots=8, queue=64))
    snapshot.counters.MergeFrom(
        pb.Counters(granted=101, busy=102, impossible=103, timed_out=104, expired=105, deallocated=106, failed=107)
    )
    snapshot.traffic.MergeFrom(
        pb.Traffic(calls_per_s=12.34, received_per_s=4.25e6, sent_per_s=1.5e6, p50_s=0.0012, p99_s=0.0345)
    )
    for index in range(devices):
        device = snapshot.devices.add(index=index, name="NVIDIA H200", state="ready", epoch=3, worker_pid=4000 + index)
        device.MergeFrom(pb.DeviceStatus(slots=8, slots_used=2, memory_reserved=3 * GIB, memory_held=GIB, calls=77))
        device.MergeFrom(pb.DeviceStatus(warm_models=["digits"], uuid=f"GPU-{index}"))
        device.load.MergeFrom(pb.Load(utilization=0.5, memory_used=35 * GIB, memory_total=140 * GIB))
        device.load.MergeFrom(pb.Load(temperature_c=61.4, power_w=350, power_limit_w=700))
    for number in range(leases):
        lease = snapshot.leases.add(lease=f"{number:08x}", tenant="default", devices=[number % max(devices, 1)])
        lease.MergeFrom(pb.LeaseStatus(age_s=10.0 * number, calls=number, state="active", memory=2 * GIB))
    for number in range(waiters):
        snapshot.queue.add(place=number + 1, tenant="other", gpus=2, memory=GIB, waited_s=1.5, priority=4)
    return snapshot


def text(snapshot: pb.Snapshot, width: int | None = None, height: int | None = None, view: View | None = None) -> str:
    return "\n".join(row.plain for row in render(snapshot, width=width, height=height, view=view))


def row(shown: str, start: str) -> list[str]:
    """The words of the one line that begins with this."""
    (found,) = [given for given in shown.splitlines() if given.strip(" ▸").startswith(start)]
    return found.split()


# What is shown.


def test_header_tells_server_traffic_and_counters() -> None:
    shown = text(busy())
    for words in (
        "remotegpu 9.8.7  up 2h05m  policy fair  slots 8  queue 2/64",
        "12.3 calls/s  in 4.2 MB/s  out 1.5 MB/s  p50 1.2 ms  p99 34.5 ms  leases held 4.2s on average",
        "granted 101  busy 102  impossible 103  timed out 104  expired 105  given back 106  failed 107",
        "models: digits, linear",
    ):
        assert words in shown


def test_server_without_calls_has_no_latencies() -> None:
    shown = text(pb.Snapshot())
    assert "p50 -  p99 -" in shown
    assert "models: none" in shown
    assert "no devices" in shown
    assert "no leases" in shown
    assert "no waiting requests" in shown
    assert "on average" not in shown


def test_device_with_all_that_is_known() -> None:
    shown = text(busy(devices=1))
    cells = next(given for given in shown.splitlines() if "NVIDIA" in given)
    assert re.split(r"  +", cells.strip()) == [
        *["0", "NVIDIA H200", "ready", "████░░░░ 50%", "██░░░░░░ 25%", "2/8", "77", "61°C", "350/700 W", "3.0 GiB"],
        *["1.0 GiB", "35.0 GiB of 140.0 GiB", "3", "4000", "0 B", "digits", "GPU-0"],
    ]


def test_device_without_a_measurement_and_without_sensors() -> None:
    snapshot = busy(devices=2)
    snapshot.devices[0].ClearField("load")
    snapshot.devices[1].load.ClearField("temperature_c")
    snapshot.devices[1].load.ClearField("power_w")
    shown = text(snapshot)
    assert row(shown, "0  NVIDIA")[4:6] == ["-", "-"]
    assert "TEMP" not in shown
    assert "POWER" not in shown


def test_failed_reserved_starting_and_exclusive_devices() -> None:
    snapshot = busy(devices=4)
    snapshot.devices[0].MergeFrom(pb.DeviceStatus(state="failed", failure="Xid 79:\nthe GPU has fallen off the bus"))
    snapshot.devices[1].reserved = True
    snapshot.devices[2].state = "starting"
    snapshot.devices[3].exclusive = True
    for width, height in ((None, None), (80, 24), (60, 20)):
        shown = text(snapshot, width, height)
        assert "device 0 failed: Xid 79: the GPU has fallen off the bus" in shown
        table = shown[shown.index("DEV") :].splitlines()[1:5]
        states = {given.split()[0]: given.split() for given in table}
        for number, state in enumerate(["failed", "reserved", "starting", "ready"]):
            assert state in states[str(number)]
        assert "2/8 excl" in shown


def test_leases_with_marks_ranges_and_ends() -> None:
    snapshot = pb.Snapshot()
    snapshot.leases.add(lease="aaaaaaaa", tenant="t", devices=[3, 0, 1, 2, 5], age_s=4, ttl_left_s=12.3, memory=3 * GIB)
    snapshot.leases.add(lease="bbbbbbbb", tenant="t", devices=[1, 0], calls_running=2, calls=9, exclusive=True)
    snapshot.leases.add(lease="cccccccc", tenant="t", priority=7, state="releasing", one_call=True)
    shown = text(snapshot)
    assert row(shown, "aaaaaaaa") == ["aaaaaaaa", "t", "0-3,5", "4.0s", "12s", "0", "0", "3.0", "GiB", "0"]
    assert row(shown, "bbbbbbbb") == ["bbbbbbbb", "t", "0,1", "0.0s", "-", "2", "9", "whole", "0"]
    assert row(shown, "cccccccc") == [
        "cccccccc",
        "t",
        "-",
        "0.0s",
        "-",
        "0",
        "0",
        "-",
        "7",
        "releasing,",
        "one",
        "call",
    ]


def test_queue() -> None:
    snapshot = busy(waiters=1)
    snapshot.queue.add(place=2, tenant="big", gpus=8, waited_s=70, exclusive=True)
    shown = text(snapshot)
    assert row(shown, "1  other") == ["1", "other", "2", "1.0", "GiB", "4", "1.5s"]
    assert row(shown, "2  big") == ["2", "big", "8", "whole", "0", "1m10s"]


def test_tenants_are_shown_when_any_is_limited() -> None:
    snapshot = busy()
    snapshot.tenants.add(tenant="default", leases=3, gpus=3, memory=6 * GIB)
    assert "6.0 GiB/-" not in text(snapshot)
    snapshot.tenants.add(tenant="small", leases=1, gpus=0, leases_limit=1, gpus_limit=0, memory_limit=GIB)
    shown = text(snapshot)
    assert "default     3/-   3/-    6.0 GiB/-" in shown
    assert "small       1/1   0/0  0 B/1.0 GiB" in shown


def test_nothing_is_cut_without_a_width() -> None:
    snapshot = busy(leases=1)
    snapshot.leases[0].tenant = "t" * 300
    snapshot.models.extend(f"model-{number}" for number in range(100))
    shown = text(snapshot)
    assert "…" not in shown
    assert "t" * 300 in shown
    assert "model-99" in shown


# Sizes.


def test_everything_that_matters_at_80_by_24() -> None:
    shown = text(busy(), 80, 24)
    lines = shown.splitlines()
    assert len(lines) == 24
    for words in (
        "policy fair",
        "granted 101",
        "failed 107",
        "████░░░░ 50%",
        "2/8",
        "TENANT",
        "TTL",
        "WAITED",
        "q quit",
    ):
        assert words in shown
    assert lines[-1].startswith("q quit  ? help  s sort: age")
    assert "UUID" not in shown
    assert "…" not in shown


def test_a_wide_terminal_shows_more_columns() -> None:
    def heads(width: int) -> set[str]:
        return {word for row in text(busy(), width, 50).splitlines() for word in row.split() if word.isupper()}

    narrow, usual, wide, widest = heads(60), heads(80), heads(132), heads(200)
    assert narrow < usual < wide < widest
    assert {"DEV", "STATE", "UTIL", "MEMORY", "SLOTS", "LEASE", "TENANT", "DEVICES", "TTL"} <= narrow
    assert {"NAME", "CALLS", "TEMP"} <= usual
    assert {"POWER", "RESERVED", "USED", "EPOCH"} <= wide
    assert {"PID", "WARM", "MODELS", "UUID", "HELD", "ARENA"} <= widest


@pytest.mark.parametrize("view", [View(), View(selected="00000003", confirm="00000003"), View(help=True, lost="gone")])
def test_every_size_is_kept_exactly(view: View) -> None:
    snapshot = busy(devices=5, leases=40, waiters=30)
    snapshot.leases[3].tenant = "研究所" * 20
    snapshot.devices[0].failure = "f" * 300
    snapshot.tenants.add(tenant="a tenant", leases_limit=4)
    for width in [*range(1, 30), *range(30, 90, 7), 132, 200]:
        for height in (1, 2, 3, 7, 12, 24, 50):
            lines = render(snapshot, width=width, height=height, view=view)
            assert len(lines) == height
            assert max(cell_len(row.plain) for row in lines) <= width


@given(name=st.text(), width=st.integers(1, 200))
def test_no_name_makes_the_terminal_obey_or_a_line_overflow(name: str, width: int) -> None:
    snapshot = busy(leases=1, devices=1)
    snapshot.leases[0].tenant = snapshot.devices[0].name = snapshot.devices[0].failure = name
    snapshot.models.append(name)
    for row in render(snapshot, width=width, height=24):
        assert cell_len(row.plain) <= width
        assert not any(letter < " " or "\x7f" <= letter < "\xa0" or letter == "\u202e" for letter in row.plain)


def test_escape_codes_in_names_are_shown_and_not_obeyed() -> None:
    snapshot = busy(leases=1)
    snapshot.leases[0].tenant = "\x1b[2Jevil\x9b\u202e\n"
    shown = text(snapshot)
    assert "\ufffd[2Jevil\ufffd\ufffd" in shown


def test_lists_are_cut_to_the_height_around_the_chosen_lease() -> None:
    snapshot = busy(leases=40)
    shown = text(snapshot, 80, 24)
    assert "00000027" in shown  # the oldest is the first
    assert "00000000" not in shown
    assert f"… {40 - shown.count('default')} more" in shown
    chosen = text(snapshot, 80, 24, View(selected="00000014"))
    assert "▸ 00000014" in chosen
    assert "above" in chosen
    last = text(snapshot, 80, 24, View(selected="00000000"))
    assert "▸ 00000000" in last
    assert "above, 0 below" in last


def test_lists_without_room_are_counted() -> None:
    shown = text(busy(devices=8, leases=40, waiters=9), 80, 10)
    assert "… 7 more" in shown
    assert "leases: 40" in shown
    assert "devices: 8" in text(busy(devices=8, leases=40, waiters=9), 80, 7)


@pytest.mark.parametrize(("width", "height"), [(40, 10), (30, 8), (20, 5)])
def test_small_terminal_shows_more_than_the_header(width: int, height: int) -> None:
    shown = text(busy(devices=1, leases=1, waiters=0), width, height, View(lost="no snapshot for 9 s"))
    assert shown.startswith("no snapshot for 9 s")
    assert "DEV" in shown or "devices: 1" in shown
    assert "LEASE" in shown or "leases: 1" in shown
    if height >= 8:
        assert "0.5" in shown or "50%" in shown
        assert "00000000" in shown


def test_room_goes_to_devices_first_and_then_to_the_shortest_list() -> None:
    assert allot([3, 5, 4], [3, 5, 4], 20) == [3, 5, 4]
    assert allot([17, 40, 10], [17, 5, 4], 20) == [10, 5, 5]
    assert allot([17, 40, 10], [17, 5, 4], 4) == [2, 2, 0]
    assert allot([5, 5], [5, 5], 0) == [0, 0]
    assert allot([3, 40, 1], [3, 5, 1], 20) == [3, 16, 1]


def test_columns_narrow_then_leave_by_rank_then_widen() -> None:
    columns = [Column("A"), Column("B", rank=1, least=4), Column("C", rank=2), Column("D", least=3)]
    natural = [5, 10, 5, 6]
    assert fit(columns, natural, None) == {0: 5, 1: 10, 2: 5, 3: 6}
    assert fit(columns, natural, 32) == {0: 5, 1: 10, 2: 5, 3: 6}
    assert fit(columns, natural, 31) == {0: 5, 1: 10, 2: 5, 3: 5}
    assert fit(columns, natural, 23) == {0: 5, 1: 4, 2: 5, 3: 3}
    assert fit(columns, natural, 22) == {0: 5, 1: 10, 3: 3}
    assert fit(columns, natural, 15) == {0: 5, 3: 6}
    assert fit(columns, natural, 4) == {0: 5, 3: 3}
    assert fit(columns, [5, 0, 5, 6], None) == {0: 5, 2: 5, 3: 6}


def test_bars_are_readable_as_text() -> None:
    assert [bar(0), bar(0.5), bar(1)] == ["░░░░░░░░ 0%", "████░░░░ 50%", "████████ 100%"]
    assert [bar(-1), bar(7), bar(math.nan)] == [bar(0), bar(1), bar(0)]


# What a terminal is sent.


def test_frame_draws_each_line_over_the_old_one_and_never_clears_the_screen() -> None:
    sent = frame([line("ab"), line(("abcd", "bold red"))], 4, 3, "standard")
    assert sent == "\x1b[?2026h\x1b[1;1Hab\x1b[K\x1b[2;1H\x1b[1;31mabcd\x1b[0m\x1b[3;1H\x1b[K\x1b[?2026l"
    assert "\x1b[31m" not in frame([line(("abcd", "red"))], 4, 3, None)
    assert frame([line("1"), line("2")], 4, 1, None).count("H") == 1


def test_styles_need_a_palette() -> None:
    lines = render(busy(), width=80, height=24, view=View(selected="00000001"))
    assert all("\x1b" not in given for given in painted(lines, None))
    coloured = "".join(painted(lines, "standard"))
    assert "\x1b[7m▸ 00000001" in coloured
    assert "\x1b[32mready" in coloured


def test_letters_that_the_terminal_lacks_get_stand_ins() -> None:
    shown = text(busy(), 80, 24, View(selected="00000001"))
    plain = encoded(shown, "ascii").decode("ascii")
    assert "####---- 50%" in plain
    assert "> 00000001" in plain
    assert [len(given) for given in plain.splitlines()] == [len(given) for given in shown.splitlines()]
    assert encoded(shown, "utf-8").decode() == shown
