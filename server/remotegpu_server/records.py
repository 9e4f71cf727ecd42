# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the daemon and a worker say to each other: records of fixed size, in packets of Unix SEQPACKET sockets.

Each worker has two. On the control socket travels what a worker must hear while a program runs: Drop, Cancel and
Command. Everything else takes the call socket, all answers too, so that their figures arrive in the order in which they
were true.

Everything of variable size lies in the arenas; a record only points there. Both ends are the same build, started by
each other, so the layout needs no versions.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

# Bytes; several records fit.
PACKET_LIMIT = 4096


class Run(NamedTuple):
    """Daemon to worker: run a program. The slab holds the program's bytes, then (aligned) its attachments if there are
    any, then (aligned) its body. Calls are numbered in the order in which they are sent."""

    call: int
    offset: int
    program_size: int
    body_size: int
    # The lease whose handles the program may use; 0: it runs without one, and neither uses nor keeps any.
    lease: int
    # Bytes that the lease declared on this device; 0: undeclared.
    memory_limit: int
    # Free what the lease holds when the program has run well.
    finish: int
    # On CLOCK_MONOTONIC: nobody waits for the result after it; 0: no such time.
    deadline_ns: int = 0
    # Calls of one caller share its turn when there are many.
    caller: int = 0
    # Bytes of a `remotegpu.v1.Attachments`; 0: there is none.
    attachments_size: int = 0


class Cancel(NamedTuple):
    """Daemon to worker, on the control socket: do not begin that call, or with `force`, do not go on with it. Answered
    by Cancelled if the call does neither from now on, by Begun if the worker is at it (with `force`: at this moment);
    Cancelled may follow then, when the call pauses. Not answered if the call has ended."""

    call: int
    force: int


class Command(NamedTuple):
    """Daemon to worker, on the control socket: the request slab holds a `remotegpu.v1.WorkerCommand`. Answered by
    Answered, beside programs."""

    call: int
    offset: int
    size: int


class Drop(NamedTuple):
    """Daemon to worker, on the control socket: the lease has ended, free what it holds. Answered by Dropped, at once
    even while a program of another lease runs. Only sent when no call of the lease is submitted, runs, or has a reply
    that waits for room: nothing of it can be kept afterwards."""

    lease: int


class Pin(NamedTuple):
    """Daemon to worker, on the control socket: a lease was granted to who named that model, by the number of its file.
    It stays loaded until the Drop of the lease, which follows in any case. Not answered."""

    lease: int
    model: int


class ReleaseReply(NamedTuple):
    """Daemon to worker: the reply slab at that offset was read."""

    offset: int


class Ready(NamedTuple):
    """Worker to daemon: warm. The reply slab holds a `remotegpu.v1.ModelReport`."""

    offset: int
    report_size: int
    # Bytes of device memory left for leases.
    memory: int


class Done(NamedTuple):
    """Worker to daemon: a program has ended. The reply slab holds the `remotegpu.v1.Result` (or ErrorDetail), then
    (aligned) the body. Times in nanoseconds; `started_ns` on CLOCK_MONOTONIC, later by what the program waited between
    its steps."""

    call: int
    failed: int
    offset: int
    result_size: int
    body_size: int
    started_ns: int
    h2d_ns: int
    compute_ns: int
    d2h_ns: int
    # Bytes that all handles hold on the device when this is sent.
    memory_held: int
    # Calls in its last model run, if it was the first of them; 0 for the others: each run is told once.
    batch: int = 0


class Parked(NamedTuple):
    """Worker to daemon: the program has run, but its reply waits for room; Done follows."""

    call: int


class Cancelled(NamedTuple):
    """Worker to daemon: that call does not run, and left nothing behind; its slab is read no more."""

    call: int


class Begun(NamedTuple):
    """Worker to daemon: that call cannot be taken back now, since the worker is at it."""

    call: int


class Answered(NamedTuple):
    """Worker to daemon: a command was carried out, or (`failed`) was not. The reply slab holds the answer, or an
    ErrorDetail. Call 0: nobody asked; it is a `remotegpu.v1.ModelReport`, since models have come or gone."""

    call: int
    failed: int
    offset: int
    size: int


class Dropped(NamedTuple):
    """Worker to daemon: nothing of that lease is left on the device."""

    lease: int
    memory_held: int


class Warm(NamedTuple):
    """Worker to daemon: a program has run a model; said once by each process of each name. The reply slab holds the
    name as UTF-8 text."""

    offset: int
    size: int


class Failed(NamedTuple):
    """Worker to daemon: it cannot start. The reply slab holds the reason as UTF-8 text."""

    offset: int
    size: int


Record = (
    Run
    | Drop
    | Pin
    | ReleaseReply
    | Ready
    | Done
    | Dropped
    | Failed
    | Parked
    | Warm
    | Cancel
    | Command
    | Cancelled
    | Begun
    | Answered
)
# A packet is the number of the kind and the fields in this layout.
_LAYOUTS: dict[type[Record], struct.Struct] = {
    Run: struct.Struct("<BQQQQQQBQQQ"),
    Drop: struct.Struct("<BQ"),
    Pin: struct.Struct("<BQQ"),
    ReleaseReply: struct.Struct("<BQ"),
    Ready: struct.Struct("<BQQQ"),
    Done: struct.Struct("<BQBQQQQQQQQQ"),
    Dropped: struct.Struct("<BQQ"),
    Failed: struct.Struct("<BQQ"),
    Parked: struct.Struct("<BQ"),
    Warm: struct.Struct("<BQQ"),
    Cancel: struct.Struct("<BQB"),
    Command: struct.Struct("<BQQQ"),
    Cancelled: struct.Struct("<BQ"),
    Begun: struct.Struct("<BQ"),
    Answered: struct.Struct("<BQBQQ"),
}
_PACKERS = {cls: (layout.pack, number) for number, (cls, layout) in enumerate(_LAYOUTS.items())}
_KINDS = tuple(_LAYOUTS.items())


def pack(record: Record) -> bytes:
    """The bytes of a record. A packet is one or more of these, at most PACKET_LIMIT bytes."""
    pack_fields, number = _PACKERS[type(record)]
    return pack_fields(number, *record)


def unpack(packet: bytes) -> list[Record]:
    """The records of a packet. Raises ValueError for anything else."""
    found: list[Record] = []
    position, end = 0, len(packet)
    while position < end:
        if packet[position] >= len(_KINDS):
            raise ValueError(f"not a record at byte {position}: {packet!r:.80}")
        cls, layout = _KINDS[packet[position]]
        if position + layout.size > end:
            raise ValueError(f"a record cut short at byte {position}: {packet!r:.80}")
        found.append(cls._make(layout.unpack_from(packet, position)[1:]))
        position += layout.size
    return found
