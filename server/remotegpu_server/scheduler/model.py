# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the scheduler is told and what it tells: frozen facts, no behaviour.

Units everywhere in this package: bytes for memory, seconds for time, and times are readings of whatever
monotonic clock the caller uses.
"""

from dataclasses import dataclass
from typing import Literal

Why = Literal["dealloc", "idle", "hard_cap", "cancelled"]
"""Why a lease ended: given back, its idle TTL ran out, its hard cap came, its owner gave up on the request."""

DeviceState = Literal["ready", "reserved", "lost"]
"""`reserved`: kept for the request at the head of the queue. `lost`: no grants until it is ready again."""


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU as the operator offers it.

    `memory`: bytes that leases may declare on it in all; `slots`: how many leases may share it.
    """

    index: int
    name: str
    uuid: str
    memory: int
    slots: int


@dataclass(frozen=True, slots=True)
class Request:
    """What a tenant asks for.

    `memory`: bytes declared on EACH of the `gpus` devices. `exclusive`: whole devices, shared with nobody.
    `idle_ttl`: seconds without a running call after which the lease ends. `hard_ttl`: seconds from the grant
    after which it ends whatever it does; `None` for no such cap.
    """

    tenant: str
    gpus: int = 1
    memory: int = 0
    exclusive: bool = False
    idle_ttl: float = 30.0
    hard_ttl: float | None = None


@dataclass(frozen=True, slots=True)
class Free:
    """What a newcomer could get now: lost devices and those reserved for a waiting request do not count.

    `gpus`: devices that nobody uses; `slots`: places on all devices together; `largest_memory`: the most
    bytes that one request could declare on one device.
    """

    gpus: int
    slots: int
    largest_memory: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The lease is over, and why. Its memory may still be on the way to being freed."""

    why: Why


@dataclass(frozen=True, slots=True)
class DeviceView:
    """One device in a snapshot. An exclusive lease uses all slots and all memory.

    `leases` counts the leases that hold a place, those included that have ended but whose memory is not yet
    confirmed free.
    """

    device: Device
    state: DeviceState
    leases: int
    used_slots: int
    used_memory: int
    exclusive: bool


@dataclass(frozen=True, slots=True)
class LeaseView:
    """One lease in a snapshot. Times in seconds.

    `state`: `releasing` when it has ended and a worker has not yet confirmed that its memory is free.
    `age`: since the grant. `idle`: since the last call ended (or the grant, or the last renewal), 0 while a
    call runs. `ttl_left`: until it ends if nothing more happens, `None` if it would not.
    """

    key: str
    tenant: str
    devices: tuple[int, ...]
    memory: int
    exclusive: bool
    state: Literal["active", "releasing"]
    age: float
    idle: float
    ttl_left: float | None
    calls_running: int
    calls_made: int


@dataclass(frozen=True, slots=True)
class WaiterView:
    """One queued request. `place` counts from 1; `time_left` is `None` if it waits without a limit."""

    key: str
    tenant: str
    place: int
    gpus: int
    memory: int
    exclusive: bool
    waited: float
    time_left: float | None


@dataclass(frozen=True, slots=True)
class Counters:
    """What has happened since the start. Two sums always hold:

    requested = granted + refused_* + abandoned + requests queued now
    granted = deallocated + expired + cancelled + leases active now

    `abandoned`: waiters that gave up. `cancelled`: leases whose owner gave up just as they were granted.
    `expired`: idle TTL and hard cap. `lost`: times that a device was lost.
    """

    requested: int = 0
    granted: int = 0
    refused_busy: int = 0
    refused_impossible: int = 0
    refused_timeout: int = 0
    refused_full: int = 0
    refused_ended: int = 0
    abandoned: int = 0
    deallocated: int = 0
    expired: int = 0
    cancelled: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole scheduler at time `now`. `mean_held`: how long leases last, `None` before the first ended."""

    now: float
    policy: str
    devices: tuple[DeviceView, ...]
    leases: tuple[LeaseView, ...]
    queue: tuple[WaiterView, ...]
    queue_limit: int
    free: Free
    mean_held: float | None
    counters: Counters
