# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Errors about leases, and about not getting one: see `remotegpu.errors`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from remotegpu.error_base import Error


@dataclass(kw_only=True, eq=False)
class Busy(Error):
    """No device is free for the request now. `retry_after` and `estimated_wait` are seconds."""

    status: ClassVar[str] = "RESOURCE_EXHAUSTED"
    retryable: ClassVar[bool] = True
    retry_after: float
    queue_length: int
    free_slots: int = 0
    free_gpus: int = 0
    waited: float = 0.0
    estimated_wait: float | None = None
    place: int = 0
    free_memory: int = 0

    def __str__(self) -> str:
        wait = "" if self.estimated_wait is None else f", about {self.estimated_wait:.1f} s of waiting"
        place = f", yours would be place {self.place}" if self.place else ""
        queue = f"{self.queue_length} waiting{place}{wait}"
        return (
            f"busy{self._waited()}: {queue}; free now: {self.free_gpus} whole devices, "
            f"{self.free_slots} slots, at most {self.free_memory} bytes on one device; {self._advice()}"
        )

    def _waited(self) -> str:
        return f" after {self.waited:.1f} s" if self.waited else ""

    def _advice(self) -> str:
        return f"try again in {self.retry_after:.2f} s or give a longer timeout"


@dataclass(kw_only=True, eq=False)
class QuotaExceeded(Busy):
    """The tenant holds as much as it may: it can have more when leases of its own end. `what` is "leases", "gpus" or
    "memory" (bytes on all devices together); `asked` would come on top of `used`."""

    what: str
    asked: int
    used: int
    limit: int

    def __str__(self) -> str:
        return (
            f"quota{self._waited()}: this tenant holds {self.used} of its {self.limit} {self.what}, and {self.asked} "
            f"more were asked; give leases back, {self._advice()}"
        )


class LeaseError(Error):
    """Something is wrong with a lease."""


@dataclass(kw_only=True, eq=False)
class Impossible(LeaseError):
    """The request exceeds what the server has, free or not, or what this tenant may ever have."""

    status: ClassVar[str] = "FAILED_PRECONDITION"
    what: str
    asked: int
    limit: int

    def __str__(self) -> str:
        bound = "at most" if self.asked > self.limit else "at least"
        return f"impossible: {self.what} {self.asked} asked, {bound} {self.limit} here; waiting will not help"


@dataclass(kw_only=True, eq=False)
class LeaseExpired(LeaseError):
    """The server ended the lease: `why` is "idle", "hard_cap", "dealloc" or "cancelled"."""

    status: ClassVar[str] = "FAILED_PRECONDITION"
    lease: str
    why: str

    def __str__(self) -> str:
        reason = {
            "idle": "it was not used for longer than its idle TTL",
            "hard_cap": "it reached its hard time limit",
            "dealloc": "it was deallocated",
            "cancelled": "its caller went away while it was granted",
        }.get(self.why, self.why)
        return f"lease {self.lease[:8]} has ended: {reason}; allocate a new one"


@dataclass(kw_only=True, eq=False)
class LeaseUnknown(LeaseError):
    """Not a lease that this caller may use on this server."""

    status: ClassVar[str] = "NOT_FOUND"
    lease: str

    def __str__(self) -> str:
        return (
            f"lease {self.lease[:8]!r} was not granted to you by this server (a restarted server forgets); "
            "allocate a new one"
        )


@dataclass(kw_only=True, eq=False)
class LeaseLost(LeaseError):
    """The worker that held the data died or was restarted. The lease keeps its place; its handles are gone."""

    status: ClassVar[str] = "ABORTED"
    retryable: ClassVar[bool] = True
    device: int
    epoch: int
    why: str

    def __str__(self) -> str:
        return (
            f"device {self.device} lost what this lease kept there ({self.why}); its epoch is now {self.epoch}: "
            "send the data again"
        )


@dataclass(kw_only=True, eq=False)
class DeviceFailed(LeaseError):
    """A device of the lease is unhealthy or gone, and has left the pool: the lease is over."""

    status: ClassVar[str] = "ABORTED"
    retryable: ClassVar[bool] = True
    lease: str
    device: int
    why: str

    def __str__(self) -> str:
        return (
            f"lease {self.lease[:8]} has ended: device {self.device} failed ({self.why}) and left the pool; "
            "allocate a new one"
        )
