# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the scheduler is told and what it tells: frozen facts, no behaviour.

Units everywhere in this package: bytes for memory, seconds for time, and times are readings of whatever
monotonic clock the caller uses.
"""

from dataclasses import dataclass
from typing import Literal

Why = Literal["dealloc", "idle", "hard_cap", "cancelled", "device"]
"""Why a lease ended: given back, its idle TTL ran out, its hard cap came, its owner gave up on the request, one of its
devices failed."""

DeviceState = Literal["ready", "reserved", "lost"]
"""`reserved`: kept for the request at the head of the queue. `lost`: no grants until it is ready again."""

PRIORITIES = 10
"""Priorities are 0 (the default) to 9; a higher one is served first."""


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
    after which it ends whatever it does; `None` for no such cap. `model`: what will be run, for policies that
    look for devices where it is warm; "" for nothing in particular. `one_call`: it stands for a single call that
    came without a lease.
    """

    tenant: str
    gpus: int = 1
    memory: int = 0
    exclusive: bool = False
    idle_ttl: float = 30.0
    hard_ttl: float | None = None
    priority: int = 0
    model: str = ""
    one_call: bool = False


@dataclass(frozen=True, slots=True)
class Quota:
    """How much a tenant may hold at any time; `None` is no limit. `memory`: bytes declared on all devices
    together. An exclusive lease counts as many GPUs as any other, and the memory that it declares.

    `weight`: the tenant's share under the policy `fair`, relative to those of others, above 0. `priority`: the
    highest that it may ask for.
    """

    leases: int | None = None
    gpus: int | None = None
    memory: int | None = None
    weight: float = 1.0
    priority: int = PRIORITIES - 1


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
    """The lease is over, and why. Its memory may still be on the way to being freed.

    `device`: the one that failed, if that is why.
    """

    why: Why
    device: int | None = None


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
    priority: int = 0
    one_call: bool = False


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
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tenant holds now, and its quota. Leases that have ended count until their memory is confirmed free."""

    tenant: str
    leases: int
    gpus: int
    memory: int
    quota: Quota


@dataclass(frozen=True, slots=True)
class Counters:
    """What has happened since the start. Two sums always hold:

    requested = granted + refused_* + abandoned + requests queued now
    granted = deallocated + expired + cancelled + failed + leases active now

    `refused_busy` includes quotas. `abandoned`: waiters that gave up. `cancelled`: leases whose owner gave up just
    as they were granted. `expired`: idle TTL and hard cap. `failed`: leases whose device failed. `lost`: times that
    a device was lost.
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
    failed: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole scheduler at time `now`. `mean_held`: how long leases last, `None` before the first ended.

    `slots`: leases that may share a device, of the one with the most. `tenants`: those who hold or wait for something,
    or have a quota of their own. `queue` is in the order in which it will be served as things stand.
    """

    now: float
    policy: str
    slots: int
    devices: tuple[DeviceView, ...]
    leases: tuple[LeaseView, ...]
    queue: tuple[WaiterView, ...]
    queue_limit: int
    free: Free
    mean_held: float | None
    counters: Counters
    tenants: tuple[Usage, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request fits on one device now; `why` not, in a few words, "" if it does."""

    device: int
    why: str
