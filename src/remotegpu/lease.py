# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""A reservation, and what is recorded and run under it.

Nothing is sent while arrays are combined. `fetch` sends one program that computes what is wanted, and what it needs of
what was recorded before; `finish` does the same and gives the lease back in the same round trip.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from remotegpu import errors, graph
from remotegpu.array import Array
from remotegpu.model import Model, ModelOutputs, ModelSignature
from remotegpu.namespace import Namespace
from remotegpu.renewal import Keeper, Use
from remotegpu.reservation import Reservation, check_whole
from remotegpu.result import Timing
from remotegpu.v1 import compute_pb2, lease_pb2

if TYPE_CHECKING:
    from remotegpu.client import Client

Fetchable = Array | ModelOutputs

# How long leaving a `with` block waits for the lease's end to be confirmed. Not at all would lose it in a function
# that is frozen right after; the server's TTL is the second line. Seconds.
DEALLOC_PATIENCE = 0.25


@dataclass(frozen=True, slots=True)
class LeasedDevice:
    """A device of a lease, `index` counting from 0 within the lease. `name` and `uuid` are known once it is granted, so
    equality does not depend on them."""

    index: int
    name: str = field(default="", compare=False)
    uuid: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"device {self.index}" + (f" ({self.name})" if self.name else "")


class DeviceSession:
    """One device of a lease: where arrays live and programs run. Implements `remotegpu.array.Session`."""

    def __init__(self, lease: Lease, index: int) -> None:
        self._lease = lease
        self._index = index
        self.freed: list[int] = []
        self.xp = Namespace(self)

    @property
    def device(self) -> LeasedDevice:
        """What `Array.device` gives."""
        known = self._lease.devices
        return known[self._index] if self._index < len(known) else LeasedDevice(self._index)

    def model(self, name: str) -> Model:
        """A model of the server's, on this device."""
        return Model(self, name)

    def image(self, data: bytes) -> Array:
        """A picture that the server decodes: JPEG or PNG bytes to uint8 [height, width, 3], RGB, upright.

        Raises InvalidInput for what is not bytes."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            limit = "the bytes of a JPEG or PNG file"
            raise errors.InvalidInput(field="image", limit=limit, given=f"a {type(data).__name__}")
        meta = graph.Meta(np.dtype(np.uint8), (graph.Dim(), graph.Dim(), 3))
        return Array(graph.Value(graph.Picture(bytes(data)), meta), self)

    def fetch_values(self, wanted: Sequence[graph.Value | graph.ModelCall]) -> list[Any]:
        """Runs what is pending and brings values home: an array each, a dict of arrays for a model call."""
        return self._lease._run(self, wanted, fetch=True, finish=False)

    def resolve(self, values: Sequence[graph.Value]) -> None:
        """Computes values, keeps them on the device and learns their dtypes and shapes."""
        self._lease._run(self, values, fetch=False, finish=False)

    def known_signature(self, name: str) -> ModelSignature | None:
        """The model's signature if this process has it already. None says nothing about the server: it may have got
        the model since."""
        return self._lease._client.catalog.models.get(name)

    def signature(self, name: str) -> ModelSignature:
        """The model's signature; asks the server if it is not known. Raises ModelNotFound if it has no such model."""
        found = self.known_signature(name)
        if found is None:
            self._lease._client.models()
            found = self.known_signature(name)
        if found is None:
            names = ", ".join(self._lease._client.catalog.models)
            raise errors.ModelNotFound(field="model", limit=names or "none", given=name)
        return found


class Lease:
    """A reservation of devices. Made by `Client.lease` (deferred), `alloc`, `alloc_nowait` or `attach`; not for several
    threads at once.

    Used in a `with` block, it is given back at the end of the block at the latest, unless it is attached: then it
    belongs to whoever allocated it, and only `finish` and `dealloc` end it."""

    def __init__(
        self,
        client: Client,
        reservation: Reservation,
        grant: lease_pb2.LeaseGrant | None = None,
        *,
        attached: bool = False,
    ) -> None:
        self._client = client
        self._reservation = reservation
        self._attached = attached
        self._key = ""
        self._fence = 0
        self._ended = False
        # Handles are numbers that the client chooses, and another process counts from 1 in the same lease: the wire
        # has 64 bits, and a random one of 2**62 places to begin keeps them apart.
        self._ids = itertools.count(2**62 + secrets.randbits(62) if attached else 1)
        # What the renewal in the background goes by.
        self._use = Use(reservation.idle_ttl, time.monotonic())
        self.devices: tuple[LeasedDevice, ...] = ()
        # Of the last call.
        self.timing: Timing | None = None
        self._sessions: dict[int, DeviceSession] = {}
        if grant is not None:
            self._granted(grant)

    def __repr__(self) -> str:
        state = "ended" if self._ended else self.short_id or "deferred"
        return f"<Lease {state}, {self._reservation.gpus} gpus>"

    def _granted(self, grant: lease_pb2.LeaseGrant) -> None:
        self._key, self._fence = grant.lease, grant.fence
        self.devices = tuple(LeasedDevice(i, d.name, d.uuid) for i, d in enumerate(grant.devices))
        if grant.idle_ttl_ms:
            self._use.idle_ttl = grant.idle_ttl_ms / 1000

    @property
    def id(self) -> str:
        """The lease's key, which is a secret: who has it can use the lease. Empty while the lease is deferred."""
        return self._key

    @property
    def short_id(self) -> str:
        """Its name in `remotegpu top`: enough to tell leases apart and to deallocate one, too little to use it. Empty
        while the lease is deferred."""
        return self._key[:8]

    @property
    def fence(self) -> int:
        """The fencing token: it grows with each grant of the server, across its restarts too. Written along with what
        this lease's holder writes elsewhere, it tells a late writer from a present one. 0 while deferred."""
        return self._fence

    @property
    def idle_ttl(self) -> float:
        """The lease ends so many seconds after the end of its last call or renewal."""
        return self._use.idle_ttl

    def renew(self) -> float | None:
        """Restarts the idle clock: the seconds until the lease ends if nothing more happens, None if it would not.

        One round trip. Raises LeaseExpired, LeaseUnknown, DeviceFailed, InvalidInput while deferred, or a
        TransportError."""
        self._check_open()
        if not self._key:
            limit = "a lease that was granted; a deferred one begins with its first program"
            raise errors.InvalidInput(field="lease", limit=limit, given="a deferred lease")
        left = self._client.renew(self._key)
        self._use.last = time.monotonic()
        return left

    def keep_with(self, keeper: Keeper) -> Lease:
        """Has itself renewed in the background: how the client makes it. Returns itself."""
        keeper.keep(self, self._key, self._use)
        return self

    def on(self, index: int) -> DeviceSession:
        """The lease's device number `index`, from 0. Raises InvalidInput for one that it does not have."""
        check_whole("device", index, 0, self._reservation.gpus - 1)
        found = self._sessions.get(index)
        if found is None:
            found = self._sessions[index] = DeviceSession(self, index)
        return found

    @property
    def xp(self) -> Namespace:
        """The Array API namespace of the first device."""
        return self.on(0).xp

    def model(self, name: str) -> Model:
        """A model of the server's, on the first device."""
        return self.on(0).model(name)

    def image(self, data: bytes) -> Array:
        """A picture that the server decodes: JPEG or PNG bytes to uint8 [height, width, 3], RGB, upright."""
        return self.on(0).image(data)

    def fetch(self, *wanted: Fetchable, timeout: float | None = None) -> Any:
        """Runs what `wanted` needs and brings it home, in one round trip: a NumPy array for an array, a dict of them by
        name for the outputs of a model; a list if several things are wanted.

        Arrays that the caller still holds stay on the device and need not be sent or computed again. `timeout`: seconds
        for the whole call, the client's default if None. Raises any error of the tree."""
        return self._fetch(wanted, finish=False, timeout=timeout)

    def finish(self, *wanted: Fetchable, timeout: float | None = None) -> Any:
        """`fetch` and `dealloc` in one round trip: the last call of a lease. After an error the lease is as before."""
        result = self._fetch(wanted, finish=True, timeout=timeout)
        self._end()
        return result

    def _fetch(self, wanted: Sequence[Fetchable], *, finish: bool, timeout: float | None) -> Any:
        if not wanted:
            raise errors.InvalidInput(field="fetch", limit="at least one array", given="none")
        for item in wanted:
            if not isinstance(item, (Array, ModelOutputs)):
                limit = "arrays of this lease and outputs of its models, each an argument of its own"
                raise errors.InvalidInput(field="fetch", limit=limit, given=f"a {type(item).__name__}")
        sessions = [item.session if isinstance(item, ModelOutputs) else item._session for item in wanted]
        mine = next((session for session in self._sessions.values() if session is sessions[0]), None)
        if mine is None or any(session is not mine for session in sessions):
            raise errors.InvalidInput(
                field="fetch", limit="arrays of one device of this lease", given="arrays of several devices or leases"
            )
        values = [item.call if isinstance(item, ModelOutputs) else item._value for item in wanted]
        found = self._run(mine, values, finish=finish, timeout=timeout)
        return found[0] if len(wanted) == 1 else found

    def dealloc(self) -> None:
        """Gives the lease back. The server answers at once and frees the memory when its workers come to it.
        Idempotent. Raises TransportError if the server does not answer; the lease then ends by its TTL."""
        if self._key and not self._ended:
            self._client.dealloc(self._key)
        self._end()

    def _end(self) -> None:
        self._ended = self._use.over = True

    def _check_open(self) -> None:
        if self._ended:
            raise errors.LeaseExpired(lease=self._key, why="dealloc")

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._attached:
            return
        if self._key and not self._ended:
            self._client.dealloc(self._key, timeout=DEALLOC_PATIENCE, tolerant=True)
        self._end()

    def _run(
        self,
        session: DeviceSession,
        wanted: Sequence[graph.Value | graph.ModelCall],
        *,
        finish: bool,
        fetch: bool = True,
        timeout: float | None = None,
    ) -> list[Any]:
        self._check_open()
        # One by one: a handle may join the list meanwhile, when the collector finds its array.
        freed = [session.freed.pop() for _ in range(len(session.freed))]
        plan = graph.plan(wanted, keep=None if finish else self._ids.__next__, fetch=fetch, free=freed)
        header = compute_pb2.RunHeader(device=session._index, finish=finish)
        if self._key:
            header.lease = self._key
        else:
            header.alloc.CopyFrom(self._reservation.message())
        self._use.running += 1
        try:
            reply = self._client.run(plan, header, timeout)
            self.timing = reply.timing
            if reply.header.HasField("lease"):
                self._granted(reply.header.lease)
            return reply.results(plan, session.freed)
        except BaseException:
            # The program may have run all the same, and what it kept would have no owner. To free twice does no harm.
            kept = (o.keep for o in plan.outputs if o.keep and (o.value is None or o.value.handle is None))
            session.freed.extend((*freed, *kept))
            raise
        finally:
            self._use.running -= 1
            self._use.last = time.monotonic()
