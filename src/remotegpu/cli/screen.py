# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""A server's snapshot as lines for a terminal of any size. Pure: no clock, no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from remotegpu.cli.keys import KEYS
from remotegpu.cli.sizes import duration_text, size_text
from remotegpu.cli.tables import ELLIPSIS, Cell, Column, Line, bar, cut, filled, flow, line, table
from remotegpu.cli.view import View, ordered
from remotegpu.v1 import scheduler_pb2 as pb

_Row = TypeVar("_Row")

# The ranks are the order in which columns leave a terminal that is too narrow: the highest first.
_DEVICES: Sequence[tuple[Column, Callable[[pb.DeviceStatus], Cell]]] = (
    (Column("DEV", right=True), lambda device: str(device.index)),
    (Column("NAME", rank=1, least=11), lambda device: device.name),
    (Column("STATE"), lambda device: _state(device)),
    (Column("UTIL"), lambda device: _share(device.load.utilization) if device.HasField("load") else "-"),
    (Column("MEMORY"), lambda device: _memory_bar(device)),
    (Column("SLOTS"), lambda device: f"{device.slots_used}/{device.slots}" + (" excl" if device.exclusive else "")),
    (Column("CALLS", rank=2, right=True), lambda device: str(device.calls)),
    (Column("TEMP", rank=3, right=True), lambda device: _temperature(device.load)),
    (Column("POWER", rank=5, right=True), lambda device: _power(device.load)),
    (Column("RESERVED", rank=4, right=True), lambda device: size_text(device.memory_reserved)),
    (Column("HELD", rank=9, right=True), lambda device: size_text(device.memory_held)),
    (Column("USED", rank=6, right=True), lambda device: _used(device)),
    (Column("EPOCH", rank=7, right=True), lambda device: str(device.epoch)),
    (Column("PID", rank=8, right=True), lambda device: str(device.worker_pid)),
    (Column("ARENA", rank=11, right=True), lambda device: size_text(device.arena_used)),
    (Column("PROCS", rank=12, right=True), lambda device: _processes(device.load)),
    (Column("WARM MODELS", rank=10, least=11), lambda device: ", ".join(device.warm_models)),
    (Column("UUID", rank=13), lambda device: device.uuid),
)
_LEASES: Sequence[tuple[Column, Callable[[pb.LeaseStatus], Cell]]] = (
    (Column("TENANT", least=8), lambda lease: lease.tenant),
    (Column("DEVICES", least=7), lambda lease: _ranges(lease.devices)),
    (Column("AGE", rank=1, right=True), lambda lease: duration_text(lease.age_s)),
    (Column("TTL", right=True), lambda lease: duration_text(lease.ttl_left_s) if lease.HasField("ttl_left_s") else "-"),
    (Column("RUN", rank=3, right=True), lambda lease: str(lease.calls_running)),
    (Column("CALLS", rank=4, right=True), lambda lease: str(lease.calls)),
    (Column("MEMORY", rank=2, right=True), lambda lease: _declared(lease.memory, lease.exclusive)),
    (Column("PRIO", rank=6, right=True), lambda lease: str(lease.priority)),
    (Column("STATE", rank=5), lambda lease: _marks(lease)),
)
_QUEUE: Sequence[tuple[Column, Callable[[pb.WaiterStatus], Cell]]] = (
    (Column("PLACE", right=True), lambda waiter: str(waiter.place)),
    (Column("TENANT", least=8), lambda waiter: waiter.tenant),
    (Column("GPUS", rank=1, right=True), lambda waiter: str(waiter.gpus)),
    (Column("MEMORY", rank=2, right=True), lambda waiter: _declared(waiter.memory, waiter.exclusive)),
    (Column("PRIO", rank=3, right=True), lambda waiter: str(waiter.priority)),
    (Column("WAITED", right=True), lambda waiter: duration_text(waiter.waited_s)),
)
_TENANTS: Sequence[tuple[Column, Callable[[pb.TenantStatus], Cell]]] = (
    (Column("TENANT", least=8), lambda tenant: tenant.tenant),
    (Column("LEASES", rank=1, right=True), lambda tenant: _of(tenant, "leases", str)),
    (Column("GPUS", right=True), lambda tenant: _of(tenant, "gpus", str)),
    (Column("MEMORY", rank=2, right=True), lambda tenant: _of(tenant, "memory", size_text)),
)
_HELP = (
    *KEYS,
    "",
    "UTIL and MEMORY are what the device reports, whoever causes it. RESERVED is what",
    "leases have declared, HELD what their arrays take. TTL is the time to the end of",
    "a lease that is not used; - means that it does not end by itself. EPOCH counts",
    "the device's worker processes. A wider terminal shows more columns.",
)


@dataclass(frozen=True, slots=True)
class _Section:
    """Lines that belong together, the first of which is a head if it is `headed`. `words`: what stands for all of them
    where there is no room; `least`: how many lines it has before others get more; `cursor`: the row that stays in
    sight."""

    words: str
    lines: list[Line]
    least: int
    headed: bool = True
    cursor: int = 0


def render(
    snapshot: pb.Snapshot, *, width: int | None, height: int | None = None, view: View | None = None
) -> list[Line]:
    """The snapshot as lines of at most `width` cells (None: as wide as need be). With a `height` exactly so many lines,
    the last two of which are for messages and keys, and lists are cut; without, everything and no keys."""
    looked = view or View()
    if height is None:
        sections = _sections(snapshot, width, looked, marked=False)
        return _spaced([_header(snapshot, width), *[section.lines for section in sections]])
    footer = _footer(looked, width, len(snapshot.leases))
    # What is told above leaves room for the lists, also where it needs many lines.
    top = (_lost(looked, width) + _header(snapshot, width))[: max(height // 3, 1)]
    room = max(height - len(footer) - len(top), 0)
    if looked.help:
        body = [cut(line(text), width) for text in _HELP]
    else:
        body = _body(_sections(snapshot, width, looked, marked=True), width, room)
    lines = (top + body)[: max(height - len(footer), 0)]
    lines += [line() for _ in range(height - len(footer) - len(lines))]
    return (lines + footer)[-height:]


def _spaced(parts: Sequence[list[Line]]) -> list[Line]:
    lines: list[Line] = []
    for part in parts:
        lines += [line(), *part] if lines else part
    return lines


def _lost(view: View, width: int | None) -> list[Line]:
    if not view.lost:
        return []
    return [cut(line((view.lost, "bold red")), width)]


def _footer(view: View, width: int | None, leases: int) -> list[Line]:
    if view.confirm:
        words: Cell = (f"dealloc {view.confirm}? y/n", "bold yellow")
    else:
        words = view.message
    order = view.sort + (" reversed" if view.reverse else "")
    keys = f"q quit  ? help  s sort: {order}  r reverse" + ("  ↑↓ choose  d dealloc" if leases else "")
    return [cut(line(words), width), cut(line((keys, "dim")), width)]


# The header.


def _header(snapshot: pb.Snapshot, width: int | None) -> list[Line]:
    settings, traffic, counters = snapshot.settings, snapshot.traffic, snapshot.counters
    server: list[Cell] = [
        (f"remotegpu {snapshot.version}", "bold"),
        f"up {duration_text(snapshot.uptime_s)}",
        f"policy {settings.policy or '-'}",
        f"slots {settings.slots}",
        f"queue {len(snapshot.queue)}/{settings.queue}",
    ]
    flowing: list[Cell] = [
        f"{traffic.calls_per_s:.1f} calls/s",
        f"in {traffic.received_per_s / 1e6:.1f} MB/s",
        f"out {traffic.sent_per_s / 1e6:.1f} MB/s",
        f"p50 {_milliseconds(traffic.p50_s)}",
        f"p99 {_milliseconds(traffic.p99_s)}",
    ]
    if snapshot.HasField("mean_held_s"):
        flowing.append(f"leases held {duration_text(snapshot.mean_held_s)} on average")
    counted: list[Cell] = [
        f"granted {counters.granted}",
        f"busy {counters.busy}",
        f"impossible {counters.impossible}",
        f"timed out {counters.timed_out}",
        f"expired {counters.expired}",
        f"given back {counters.deallocated}",
        (f"failed {counters.failed}", "red" if counters.failed else ""),
        f"models: {', '.join(snapshot.models) or 'none'}",
    ]
    return [row for items in (server, flowing, counted) for row in flow(items, width)]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds else "-"


# The lists, and the room for them.


def _sections(snapshot: pb.Snapshot, width: int | None, view: View, marked: bool) -> list[_Section]:
    """In the order in which they are shown, and in which they get room."""
    sections = [_section(_DEVICES, snapshot.devices, width, "devices", len(snapshot.devices) + 1)]
    failures = [line((f"device {d.index} failed: {d.failure}", "red")) for d in snapshot.devices if d.failure]
    if failures:
        lines = [cut(failure, width) for failure in failures]
        sections.append(_Section(f"failed devices: {len(lines)}", lines, least=2, headed=False))
    sections.append(_leases(snapshot, width, view, marked))
    sections.append(_section(_QUEUE, snapshot.queue, width, "waiting requests", 4))
    if any(_limits(tenant) for tenant in snapshot.tenants):
        sections.append(_section(_TENANTS, snapshot.tenants, width, "tenants", 4))
    return sections


def _section(
    columns: Sequence[tuple[Column, Callable[[_Row], Cell]]],
    rows: Sequence[_Row],
    width: int | None,
    what: str,
    least: int,
) -> _Section:
    """A list as a table, or in words that it is empty."""
    if not rows:
        return _empty(what, width)
    cells = [[cell(row) for _, cell in columns] for row in rows]
    return _Section(f"{what}: {len(rows)}", table([column for column, _ in columns], cells, width), least)


def _empty(what: str, width: int | None) -> _Section:
    words = f"no {what}"
    return _Section(words, [cut(line((words, "dim")), width)], least=1, headed=False)


def _leases(snapshot: pb.Snapshot, width: int | None, view: View, marked: bool) -> _Section:
    """The leases in the view's order; `marked`: with a sign before the chosen one, for terminals without colours."""
    leases = ordered(view, snapshot)
    if not leases:
        return _empty("leases", width)
    ids = [lease.lease for lease in leases]
    signs = ["▸ " if lease == view.selected else "  " for lease in ids] if marked else [""] * len(ids)
    columns = [Column("  LEASE" if marked else "LEASE"), *[column for column, _ in _LEASES]]
    rows = [
        [sign + lease.lease, *[cell(lease) for _, cell in _LEASES]] for sign, lease in zip(signs, leases, strict=True)
    ]
    lines = table(columns, rows, width)
    cursor = ids.index(view.selected) if view.selected in ids else 0
    if width is not None and view.selected in ids:
        filled(lines[cursor + 1], width).stylize("reverse")
    return _Section(f"leases: {len(leases)}", lines, least=5, cursor=cursor)


def _body(sections: Sequence[_Section], width: int | None, room: int) -> list[Line]:
    wanted = [len(section.lines) for section in sections]
    if sum(wanted) + len(sections) <= room:
        return [line(), *_spaced([section.lines for section in sections])]
    parts = zip(sections, allot(wanted, [section.least for section in sections], room), strict=True)
    return [shown for section, lines in parts for shown in _window(section, lines, width)]


def allot(wanted: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """How many of the `room` lines each list gets: first what it needs at `least` (the first of them half of the room
    at most), in their order, then line by line to the one that has the fewest of those that want more."""
    given: list[int] = []
    for number, (wants, needs) in enumerate(zip(wanted, least, strict=True)):
        most = room - sum(given) if number else (room + 1) // 2
        given.append(max(min(wants, needs, most), 0))
    while sum(given) < min(room, sum(wanted)):
        hungry = [number for number, lines in enumerate(given) if lines < wanted[number]]
        given[min(hungry, key=lambda number: given[number])] += 1
    return given


def _window(section: _Section, lines: int, width: int | None) -> Iterator[Line]:
    """So many lines of a section: its head, the rows around the cursor, and how many are not shown."""
    head, rows = (section.lines[:1], section.lines[1:]) if section.headed else ([], section.lines)
    shown = lines - len(head) - 1
    if lines >= len(section.lines):
        yield from section.lines
        return
    if shown < 1:
        if lines:
            yield cut(line(section.words), width)
        return
    yield from head
    first = min(max(section.cursor - shown // 2, 0), len(rows) - shown)
    yield from rows[first : first + shown]
    above, hidden = first, len(rows) - shown
    where = f": {above} above, {hidden - above} below" if above else ""
    yield cut(line((f"{ELLIPSIS} {hidden} more{where}", "dim")), width)


# Cells.


def _state(device: pb.DeviceStatus) -> Cell:
    if device.state == "ready":
        return ("reserved", "cyan") if device.reserved else ("ready", "green")
    return (device.state, "bold red" if device.state == "failed" else "yellow")


def _share(fraction: float) -> Cell:
    return (bar(fraction), "green" if fraction < 0.6 else "yellow" if fraction < 0.85 else "red")


def _memory_bar(device: pb.DeviceStatus) -> Cell:
    if not device.HasField("load") or not device.load.memory_total:
        return "-"
    return _share(device.load.memory_used / device.load.memory_total)


def _used(device: pb.DeviceStatus) -> str:
    load = device.load
    return f"{size_text(load.memory_used)} of {size_text(load.memory_total)}" if load.memory_total else "-"


def _temperature(load: pb.Load) -> str:
    return f"{load.temperature_c:.0f}°C" if load.HasField("temperature_c") else ""


def _power(load: pb.Load) -> str:
    if not load.HasField("power_w"):
        return ""
    limit = f"/{load.power_limit_w:.0f}" if load.HasField("power_limit_w") else ""
    return f"{load.power_w:.0f}{limit} W"


def _processes(load: pb.Load) -> str:
    return str(len(load.processes)) if load.processes else ""


def _declared(memory: int, exclusive: bool) -> str:
    return "whole" if exclusive else size_text(memory) if memory else "-"


def _marks(lease: pb.LeaseStatus) -> Cell:
    state = "" if lease.state == "active" else lease.state
    return (", ".join(filter(None, [state, "one call" if lease.one_call else ""])), "yellow")


def _ranges(devices: Sequence[int]) -> str:
    """0, 1, 2, 5 as "0-2,5"."""
    runs: list[list[int]] = []
    for device in sorted(devices):
        if runs and device == runs[-1][-1] + 1:
            runs[-1].append(device)
        else:
            runs.append([device])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs) or "-"


def _of(tenant: pb.TenantStatus, what: Literal["leases", "gpus", "memory"], text: Callable[[int], str]) -> Cell:
    """What a tenant has, of what it may have."""
    used: int = getattr(tenant, what)
    if what not in _limits(tenant):
        return f"{text(used)}/-"
    limit: int = getattr(tenant, f"{what}_limit")
    return (f"{text(used)}/{text(limit)}", "yellow" if used >= limit else "")


def _limits(tenant: pb.TenantStatus) -> set[str]:
    """What is limited."""
    return {field.name.removesuffix("_limit") for field, _ in tenant.ListFields() if field.name.endswith("_limit")}
