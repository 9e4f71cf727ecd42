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
    ├── AuthError                  the credential of a call is missing, wrong or over, or could not be made; says which
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

from remotegpu.error_base import Error as Error
from remotegpu.error_base import FieldValue as FieldValue
from remotegpu.lease_errors import Busy as Busy
from remotegpu.lease_errors import DeviceFailed as DeviceFailed
from remotegpu.lease_errors import Impossible as Impossible
from remotegpu.lease_errors import LeaseError as LeaseError
from remotegpu.lease_errors import LeaseExpired as LeaseExpired
from remotegpu.lease_errors import LeaseLost as LeaseLost
from remotegpu.lease_errors import LeaseUnknown as LeaseUnknown
from remotegpu.lease_errors import QuotaExceeded as QuotaExceeded


class TransportError(Error):
    """The network, not the program."""


# In gRPC's words, when a certificate is of another authority, or for another host.
_UNTRUSTED = ("CERTIFICATE_VERIFY_FAILED", "Hostname Verification Check failed")


@dataclass(kw_only=True, eq=False)
class ConnectError(TransportError):
    """No connection could be made, so nothing was sent."""

    status: ClassVar[str] = "UNAVAILABLE"
    retryable: ClassVar[bool] = True
    address: str
    why: str

    def __str__(self) -> str:
        if any(sign in self.why for sign in _UNTRUSTED):
            hint = "has REMOTEGPU_CA the authority that signed it, and is the URL's host one of its names?"
            return f"what answers at {self.address} has a certificate that is not trusted ({self.why}): {hint}"
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
    """The call's deadline passed. `deadline` is in seconds; 0: it had passed before the call."""

    status: ClassVar[str] = "DEADLINE_EXCEEDED"
    deadline: float

    def __str__(self) -> str:
        if self.deadline <= 0:
            return "no time was left for the call, so nothing was sent"
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
class AuthError(Error):
    """Who calls is not proved: the server has refused the call's credential, or the client could not make one. Nothing
    ran. `why` never repeats the credential."""

    status: ClassVar[str] = "UNAUTHENTICATED"
    why: str

    def __str__(self) -> str:
        return f"the call has no valid credential: {self.why}"


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
for _class in BY_NAME.values():
    _class.__module__ = __name__  # where callers find them, and what tracebacks say
del _class


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
