# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Events in, effects out: the whole conversation between the scheduler and the daemon that holds it.

A key names one request and, once granted, the lease that came of it. Keys are chosen by the daemon and are
not used again for another request.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from .model import Ended, Free, Request, Verdict, Why

# ---- events -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Alloc:
    """Somebody asks for devices.

    `wait_until`: the time until which the request may queue; `None` is answered in this very step.
    The same key again is answered with the same grant, or with nothing while it is queued.
    """

    key: str
    request: Request
    wait_until: float | None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Whoever asked has given up or is gone: leaves the queue, or ends the lease if it was granted meanwhile."""

    key: str


@dataclass(frozen=True, slots=True)
class Dealloc:
    """The lease is given back. Idempotent: an unknown or ended key has no effect; a queued one leaves."""

    key: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The lease is given back, and its workers hold nothing of it any more: `Dealloc` and every `Released` at once."""

    key: str


@dataclass(frozen=True, slots=True)
class Renew:
    """Restarts the idle clock."""

    key: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A call runs under the lease: the idle clock stands still.

    If the lease has ended, this very step included, there is no effect: `Scheduler.lookup` tells.
    """

    key: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call is over; with the last one the idle clock starts anew."""

    key: str


@dataclass(frozen=True, slots=True)
class Released:
    """The worker of `device` confirms that the ended lease's memory is free: its place is given out again."""

    key: str
    device: int


@dataclass(frozen=True, slots=True)
class DeviceLost:
    """The device or its worker died. Leases keep their place; what they held there is gone."""

    device: int


@dataclass(frozen=True, slots=True)
class DeviceReady:
    """The device is back, and empty."""

    device: int


@dataclass(frozen=True, slots=True)
class DeviceFailed:
    """The device is unhealthy: as `DeviceLost`, and its leases are over, on all their devices."""

    device: int


@dataclass(frozen=True, slots=True)
class Load:
    """What devices are doing by measurement, 0 to 1, by index. Others keep what was said last."""

    utilization: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Warm:
    """The model has run on the device, or (not `warm`) is loaded there no longer. Forgotten when the device is lost."""

    device: int
    model: str
    warm: bool = True


@dataclass(frozen=True, slots=True)
class Configure:
    """The operator changes what is given; `None` leaves it. `policy` is a name of `policies.POLICIES`.

    `slots` is for every device. Nobody loses a lease, and nobody the place in the queue: fewer slots or a shorter
    queue hold for newcomers.
    """

    policy: str | None = None
    slots: int | None = None
    queue_limit: int | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


Event = (
    Alloc
    | Cancel
    | Dealloc
    | Finish
    | Renew
    | CallStarted
    | CallEnded
    | Released
    | DeviceLost
    | DeviceReady
    | DeviceFailed
    | Load
    | Warm
    | Configure
    | Tick
)

# ---- reasons to refuse --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Busy:
    """Nothing fits now and the request does not wait.

    `place`: the place in the queue (from 1) that it would have had. `estimated_wait`: seconds, `None` while no
    lease has ended yet. `retry_after`: seconds, always between 0.05 and 30.
    """

    queue_length: int
    place: int
    estimated_wait: float | None
    retry_after: float
    free: Free


@dataclass(frozen=True, slots=True)
class Impossible:
    """It will never fit, here or within the tenant's quota. `what` is the field of the request; for quotas
    "leases of this tenant", "gpus of this tenant" and so on.

    `limit` is the most there is (for memory: on the smallest of the `gpus` largest devices); where `asked` is
    not above it, it is the least that makes sense: 1 for `gpus`, 0 for `memory`, more than 0 for a TTL.
    """

    what: str
    asked: float
    limit: float


@dataclass(frozen=True, slots=True)
class TimedOut:
    """It waited as long as it was willing to. `queue_length`: how many still wait. Otherwise as in `Busy`."""

    waited: float
    queue_length: int
    estimated_wait: float | None
    retry_after: float
    free: Free


@dataclass(frozen=True, slots=True)
class QueueFull:
    """It would wait, but `limit` requests wait already. Otherwise as in `Busy`."""

    limit: int
    estimated_wait: float | None
    retry_after: float
    free: Free


@dataclass(frozen=True, slots=True)
class OverQuota:
    """The tenant holds too much for this to come on top, and the request does not wait, or has waited in vain.

    `what`: "leases", "gpus" or "memory". `waited`: seconds. Otherwise as in `Busy`.
    """

    what: str
    asked: int
    used: int
    limit: int
    waited: float
    queue_length: int
    place: int
    estimated_wait: float | None
    retry_after: float
    free: Free


Reason = Busy | Impossible | TimedOut | QueueFull | OverQuota | Ended
"""`Ended`: the key belongs to a lease that is over, so this is a late duplicate of an answered request."""

# ---- effects ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Grant:
    """The request has these devices, all different, from now on."""

    key: str
    devices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Refuse:
    """The request is answered: no."""

    key: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Release:
    """The lease has ended: tell the workers of `devices` to free its memory; each answers `Released`.

    Exactly one per lease. Devices that are lost are left out, so `devices` may be empty.
    """

    key: str
    devices: tuple[int, ...]
    why: Why


Effect = Grant | Refuse | Release

# ---- answers to questions -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Explanation:
    """What `Alloc` without waiting would be answered now: `reason` is `None` if it would be granted `devices`.

    `verdicts`: each device by itself, whatever the others are like.
    """

    reason: Reason | None
    devices: tuple[int, ...]
    verdicts: tuple[Verdict, ...]
