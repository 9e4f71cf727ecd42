# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Every error of remotegpu, split by whose fault it is.

    Error
    ├── Busy                       every device is leased now, or the wait was not long enough; retryable
    │   └── QuotaExceeded          the tenant's own leases take up all that it may have; retryable
    ├── LeaseError
    │   ├── Impossible             more than exists: it will never fit
    │   ├── LeaseExpired           it was idle too long, or reached its hard cap
    │   ├── LeaseUnknown           never granted here, ended long ago, or somebody else's
    │   ├── LeaseLost              the worker died under the call; retryable
    │   └── DeviceFailed           the device is unhealthy, and the lease over; retryable with a new lease
    ├── TransportError
    │   ├── ConnectError           nothing answered; nothing ran; retryable
    │   ├── ConnectionLost         it answered, then stopped; the outcome is unknown
    │   ├── OutcomeUnknown         the call ran once, and its answer is not kept any longer
    │   └── DeadlineExceeded
    ├── RemoteError                the program ran and failed; carries the remote traceback as text
    │   └── OutOfMemory            asked, limit, device
    ├── InvalidInput               field, limit, what was given
    │   └── ModelNotFound
    ├── ModelUnusable              the server has the model's file, but cannot serve it; says why
    ├── NotAllowed                 the operator of the server does not let callers do that
    ├── ContentMissing             contents that this tenant has not put there, or that were evicted; nothing ran
    ├── StoreFull                  the server has no room for a content
    ├── FetchFailed                the server could not fetch a file by its URL; nothing ran
    ├── ProtocolError              bytes that are not this protocol's
    ├── Unavailable                the server is draining, or a device is starting; retryable
    │   └── QueueFull              as many calls wait for the device as may; retryable
    ├── QueueTimeout               the call had not begun when its time in the queue was over; retryable
    ├── ConfigurationError         a setting of this process is missing or unusable
    ├── WouldBlock                 an async lease was asked for data without `await`; nothing was sent
    └── UnknownRemoteError         an error that this version has no class for: the server has another version

Each class builds its sentence from its fields and keeps them. On the wire an error is its class name and its fields
(`remotegpu.v1.ErrorDetail`) beside the gRPC status named in `status`; `from_fields` builds it again on the other side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

FieldValue = str | int | float


@dataclass(kw_only=True, eq=False)
class Error(Exception):
    """Base of every error that remotegpu raises on purpose."""

    status: ClassVar[str] = "UNKNOWN"
    retryable: ClassVar[bool] = False

    def fields(self) -> dict[str, FieldValue]:
        """The fields with values, as they travel."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def __reduce__(self) -> tuple[object, ...]:
        return (from_fields, (type(self).__name__, self.fields()))


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


class TransportError(Error):
    """The network, not the program."""


@dataclass(kw_only=True, eq=False)
class ConnectError(TransportError):
    """No connection could be made, so nothing was sent."""

    status: ClassVar[str] = "UNAVAILABLE"
    retryable: ClassVar[bool] = True
    address: str
    why: str

    def __str__(self) -> str:
        return f"nothing answered at {self.address} ({self.why}): is remotegpu-server running there?"


@dataclass(kw_only=True, eq=False)
class ConnectionLost(TransportError):
    """The connection broke while a call was under way: it may or may not have run."""

    status: ClassVar[str] = "UNAVAILABLE"
    address: str
    why: str

    def __str__(self) -> str:
        return f"the connection to {self.address} broke during a call ({self.why}); whether it ran is unknown"


@dataclass(kw_only=True, eq=False)
class OutcomeUnknown(TransportError):
    """A call was sent again after its connection broke. The server has run it, does not keep its answer any longer, and
    runs nothing twice."""

    status: ClassVar[str] = "ABORTED"
    call: int

    def __str__(self) -> str:
        return (
            f"call {self.call} was sent again after its connection broke; the server ran it before, but its answer is "
            "gone (it was larger than is kept, or too old), and nothing is run twice: look at what it was to change"
        )


@dataclass(kw_only=True, eq=False)
class DeadlineExceeded(TransportError):
    """The call's deadline passed. `deadline` is in seconds."""

    status: ClassVar[str] = "DEADLINE_EXCEEDED"
    deadline: float

    def __str__(self) -> str:
        return f"no answer within the deadline of {self.deadline:g} s; give the call a longer timeout"


@dataclass(kw_only=True, eq=False)
class RemoteError(Error):
    """A node of the program failed while it ran on the device."""

    status: ClassVar[str] = "INTERNAL"
    node: int
    operation: str
    why: str
    traceback: str = ""

    def __str__(self) -> str:
        return f"{self.operation} (node {self.node}) failed on the device: {self.why}"


@dataclass(kw_only=True, eq=False)
class OutOfMemory(RemoteError):
    """The lease's declared memory or the device's own is used up. Sizes in bytes."""

    status: ClassVar[str] = "RESOURCE_EXHAUSTED"
    asked: int
    limit: int

    def __str__(self) -> str:
        return (
            f"{self.operation} (node {self.node}) ran out of device memory: {self.asked} bytes asked, "
            f"limit {self.limit} bytes ({self.why}); declare more memory or free arrays"
        )


@dataclass(kw_only=True, eq=False)
class InvalidInput(Error):
    """Input that is refused before it takes memory."""

    status: ClassVar[str] = "INVALID_ARGUMENT"
    field: str
    limit: str
    given: str

    def __str__(self) -> str:
        return f"{self.field}: given {self.given}; allowed: {self.limit}"


@dataclass(kw_only=True, eq=False)
class ModelNotFound(InvalidInput):
    """The server has no model of that name."""

    status: ClassVar[str] = "NOT_FOUND"

    def __str__(self) -> str:
        return f"no model {self.given!r} on this server; it has: {self.limit}"


@dataclass(kw_only=True, eq=False)
class ModelUnusable(Error):
    """The file of a model cannot be loaded. `model` is "name:version"."""

    status: ClassVar[str] = "FAILED_PRECONDITION"
    model: str
    why: str

    def __str__(self) -> str:
        return f"model {self.model} cannot be served: {self.why}"


@dataclass(kw_only=True, eq=False)
class ContentMissing(Error):
    """The server does not have contents that a call refers to, or not for this tenant. Nothing ran: once they are put
    there, the call can be repeated. `digests`: their SHA-256 in hexadecimal digits, separated by spaces; perhaps not
    all of them."""

    status: ClassVar[str] = "FAILED_PRECONDITION"
    digests: str

    def __str__(self) -> str:
        return f"contents that are not on the server for this tenant: {self.digests}; put them there and call again"


@dataclass(kw_only=True, eq=False)
class StoreFull(Error):
    """The server's store has no room for a content now: its disk is full, or contents in use take up its bound. `asked`
    and `limit` in bytes."""

    status: ClassVar[str] = "RESOURCE_EXHAUSTED"
    asked: int
    limit: int
    why: str

    def __str__(self) -> str:
        return f"no room for a content of {self.asked} bytes in the server's store of {self.limit} bytes: {self.why}"


@dataclass(kw_only=True, eq=False)
class FetchFailed(Error):
    """The server could not fetch a file for a call, and nothing ran. `url` is without its query, which may hold a
    signature."""

    status: ClassVar[str] = "FAILED_PRECONDITION"
    url: str
    why: str

    def __str__(self) -> str:
        return f"the server could not fetch {self.url}: {self.why}"


@dataclass(kw_only=True, eq=False)
class NotAllowed(Error):
    """The server is not started with what would allow it. `what` was asked for, `why` says what would."""

    status: ClassVar[str] = "PERMISSION_DENIED"
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what} is not allowed on this server: {self.why}"


@dataclass(kw_only=True, eq=False)
class ProtocolError(Error):
    """A message that cannot be read: cut short, or not of this protocol."""

    status: ClassVar[str] = "INVALID_ARGUMENT"
    what: str

    def __str__(self) -> str:
        return f"unreadable message: {self.what}"


@dataclass(kw_only=True, eq=False)
class Unavailable(Error):
    """The server cannot take the call now, and it did not run. `retry_after` is in seconds."""

    status: ClassVar[str] = "UNAVAILABLE"
    retryable: ClassVar[bool] = True
    why: str
    retry_after: float = 1.0

    def __str__(self) -> str:
        return f"the server cannot take this call now: {self.why}; try again in {self.retry_after:g} s"


@dataclass(kw_only=True, eq=False)
class QueueFull(Unavailable):
    """As many calls of one model wait for a device as may."""


@dataclass(kw_only=True, eq=False)
class QueueTimeout(Error):
    """The device was busy with other calls for longer than this one was to wait, and it did not run. `waited` is in
    seconds."""

    status: ClassVar[str] = "UNAVAILABLE"
    retryable: ClassVar[bool] = True
    waited: float

    def __str__(self) -> str:
        return f"the call had not begun after {self.waited:g} s behind others, and was taken back; it did not run"


@dataclass(kw_only=True, eq=False)
class ConfigurationError(Error):
    """A setting of this process."""

    setting: str
    why: str

    def __str__(self) -> str:
        return f"{self.setting}: {self.why}"


@dataclass(kw_only=True, eq=False)
class WouldBlock(Error):
    """Something of an async lease that costs a round trip was asked for where nothing can be awaited, such as
    `float(x)`. `instead`: what to write."""

    what: str
    instead: str

    def __str__(self) -> str:
        return f"{self.what} needs a round trip, which nothing here can await; write `{self.instead}`"


@dataclass(kw_only=True, eq=False)
class UnknownRemoteError(Error):
    """The server answered with an error that this client does not know, a newer one perhaps."""

    kind: str
    why: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.why}"


def _tree(root: type[Error]) -> dict[str, type[Error]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


BY_NAME: Mapping[str, type[Error]] = _tree(Error)


def from_fields(kind: str, values: Mapping[str, FieldValue]) -> Error:
    """Builds an error again from its class name and fields. Fields that this version does not know are left out."""
    cls = BY_NAME.get(kind)
    if cls is None:
        return UnknownRemoteError(kind=kind, why=", ".join(f"{name}={value}" for name, value in values.items()))
    known = {field.name for field in fields(cls)}
    try:
        return cls(**{name: value for name, value in values.items() if name in known})
    except TypeError as error:  # a field that this version requires is missing: another version sent it
        return UnknownRemoteError(kind=kind, why=str(error))
