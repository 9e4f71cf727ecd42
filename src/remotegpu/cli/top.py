# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""`remotegpu top`: a server's snapshot as text."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from remotegpu.client import Client
from remotegpu.v1 import scheduler_pb2 as pb

REFRESH_SECONDS = 1.0
_HOME_AND_CLEAR = "\x1b[H\x1b[2J"


def show(client: Client, *, once: bool) -> None:
    """Prints the table, once or every second until interrupted."""
    while True:
        text = render(client.top())
        print(text if once else _HOME_AND_CLEAR + text, flush=True)
        if once:
            return
        time.sleep(REFRESH_SECONDS)


def size_text(size: int) -> str:
    """Bytes for a human: 1536 is "1.5 KiB"."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def render(snapshot: pb.Snapshot) -> str:
    """A snapshot as plain tables. Pure."""
    counters = snapshot.counters
    lines = [
        f"remotegpu {snapshot.version}   up {snapshot.uptime_s:.0f} s   policy {snapshot.policy}   "
        f"models: {', '.join(snapshot.models) or 'none'}",
        f"granted {counters.granted}   busy {counters.busy}   impossible {counters.impossible}   "
        f"timed out {counters.timed_out}   expired {counters.expired}   given back {counters.deallocated}",
        "",
    ]
    lines += _table(
        ("DEVICE", "NAME", "STATE", "SLOTS", "RESERVED", "HELD", "MEMORY", "CALLS", "EPOCH", "PID"),
        map(_device, snapshot.devices),
    )
    lines.append("")
    if snapshot.leases:
        lines += _table(
            ("LEASE", "TENANT", "DEVICES", "AGE", "ENDS IN", "RUNNING", "CALLS", "MEMORY"), map(_lease, snapshot.leases)
        )
    else:
        lines.append("no leases")
    if snapshot.queue:
        rows = [
            (str(w.place), w.tenant, str(w.gpus), size_text(w.memory), f"{w.waited_s:.1f} s") for w in snapshot.queue
        ]
        lines += ["", *_table(("PLACE", "TENANT", "GPUS", "MEMORY", "WAITED"), rows)]
    else:
        lines.append("nobody waits")
    return "\n".join(lines)


def _device(device: pb.DeviceStatus) -> tuple[str, ...]:
    slots = f"{device.slots_used}/{device.slots}" + (" excl" if device.exclusive else "")
    return (
        str(device.index),
        device.name,
        device.state,
        slots,
        size_text(device.memory_reserved),
        size_text(device.memory_held),
        size_text(device.memory),
        str(device.calls),
        str(device.epoch),
        str(device.worker_pid),
    )


def _lease(lease: pb.LeaseStatus) -> tuple[str, ...]:
    return (
        lease.lease,
        lease.tenant,
        ",".join(map(str, lease.devices)),
        f"{lease.age_s:.1f} s",
        f"{lease.ttl_left_s:.1f} s",
        str(lease.calls_running),
        str(lease.calls),
        size_text(lease.memory) + (" excl" if lease.exclusive else ""),
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    table = [head, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
