# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The reservation scheduler as a pure state machine.

`core.py` decides, with `pool.py` (devices), `leases.py`, `queue.py` (waiters) and `deadlines.py` (a heap);
`policies.py` chooses among the devices that fit. `events.py` is what goes in and out, `model.py` the facts.
Standard library only.
"""

from .core import Scheduler
from .events import (
    Alloc,
    Busy,
    CallEnded,
    CallStarted,
    Cancel,
    Dealloc,
    DeviceLost,
    DeviceReady,
    Effect,
    Event,
    Finish,
    Grant,
    Impossible,
    QueueFull,
    Reason,
    Refuse,
    Release,
    Released,
    Renew,
    Tick,
    TimedOut,
)
from .model import (
    Counters,
    Device,
    DeviceState,
    DeviceView,
    Ended,
    Free,
    LeaseView,
    Request,
    Snapshot,
    WaiterView,
    Why,
)
from .policies import Candidate, Policy, RoundRobin

__all__ = [
    "Alloc",
    "Busy",
    "CallEnded",
    "CallStarted",
    "Cancel",
    "Candidate",
    "Counters",
    "Dealloc",
    "Device",
    "DeviceLost",
    "DeviceReady",
    "DeviceState",
    "DeviceView",
    "Effect",
    "Ended",
    "Event",
    "Finish",
    "Free",
    "Grant",
    "Impossible",
    "LeaseView",
    "Policy",
    "QueueFull",
    "Reason",
    "Refuse",
    "Release",
    "Released",
    "Renew",
    "Request",
    "RoundRobin",
    "Scheduler",
    "Snapshot",
    "Tick",
    "TimedOut",
    "WaiterView",
    "Why",
]
