# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What a lease and all that is made under it share, and one device of a lease: where arrays live and programs run.

References go one way, so that a lease that is dropped is gone at once and not when the collector comes: `AsyncLease` to
`AsyncDeviceSession` and `Namespace`, arrays and models to `AsyncDeviceSession`, and that to `AsyncLeaseState`.
"""

from __future__ import annotations

import itertools
import secrets
import time
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from remotegpu import content, errors, graph
from remotegpu.array import Array
from remotegpu.device import LeasedDevice
from remotegpu.generation import registry
from remotegpu.model import Model
from remotegpu.namespace import Namespace
from remotegpu.renewal import Use
from remotegpu.reservation import Reservation
from remotegpu.result import Timing
from remotegpu.v1 import compute_pb2, lease_pb2

from .questions import AsyncQuestions

if TYPE_CHECKING:
    from .client import AsyncClient


class AsyncLeaseState:
    """A lease as its server knows it, and its use. It lives while anybody holds the `AsyncLease`, a device, a
    namespace, a model or an array of it, and so long the lease is renewed in the background."""

    def __init__(
        self, client: AsyncClient, reservation: Reservation, grant: lease_pb2.LeaseGrant | None, *, attached: bool
    ) -> None:
        self.client = client
        self.reservation = reservation
        self.key = ""
        self.fence = 0
        self.hard_ttl = reservation.hard_ttl
        self.ended = False
        # In which it was granted.
        self._generation = registry.current
        # What the renewal in the background goes by.
        self.use = Use(reservation.idle_ttl, time.monotonic())
        self.devices: tuple[LeasedDevice, ...] = ()
        # Of the last call.
        self.timing: Timing | None = None
        # Handles are numbers that the client chooses, and another process counts from 1 in the same lease: the wire
        # has 64 bits, and a random one of 2**62 places to begin keeps them apart.
        self._ids = itertools.count(2**62 + secrets.randbits(62) if attached else 1)
        if grant is not None:
            self._granted(grant)

    def _granted(self, grant: lease_pb2.LeaseGrant) -> None:
        self.key, self.fence = grant.lease, grant.fence
        self._generation = registry.current
        self.devices = tuple(LeasedDevice(i, d.name, d.uuid) for i, d in enumerate(grant.devices))
        self.hard_ttl = grant.hard_ttl_ms / 1000 or None
        if grant.idle_ttl_ms:
            self.use.idle_ttl = grant.idle_ttl_ms / 1000

    def end(self) -> None:
        """Nothing more is run or renewed."""
        self.ended = self.use.over = True

    def check_open(self) -> None:
        """Raises LeaseExpired if it was given back here, InvalidInput if it is `foreign`."""
        if self.ended:
            raise errors.LeaseExpired(lease=self.key, why="dealloc")
        if self.foreign:
            limit = "a lease of this process; `attach` with its id takes one over"
            raise errors.InvalidInput(field="lease", limit=limit, given="one of before a fork or a SnapStart restore")

    @property
    def foreign(self) -> bool:
        """Whether it was granted before this process was forked or restored: then it is not this one's to use, whose
        handles would get the same numbers, nor to end."""
        return bool(self.key) and self._generation is not registry.current

    async def run(
        self,
        session: AsyncDeviceSession,
        wanted: Sequence[graph.Value | graph.ModelCall],
        *,
        finish: bool,
        fetch: bool = True,
        timeout: float | None = None,
    ) -> list[Any]:
        """One program on one of the lease's devices: the mechanism under `AsyncLease.fetch` and whatever else needs
        data. Raises any error of the tree."""
        self.check_open()
        # One by one: a handle may join the list meanwhile, when the collector finds its array.
        freed = [session.freed.pop() for _ in range(len(session.freed))]
        plan = graph.plan(wanted, keep=None if finish else self._ids.__next__, fetch=fetch, free=freed)
        header = compute_pb2.RunHeader(device=session.index, finish=finish)
        if self.key:
            header.lease = self.key
        else:
            header.alloc.CopyFrom(self.reservation.message())
        self.use.running += 1
        try:
            reply = await self.client.run(plan, header, timeout)
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
            self.use.running -= 1
            self.use.last = time.monotonic()


class AsyncDeviceSession(AsyncQuestions):
    """One device of a lease: where arrays live and programs run. Implements `remotegpu.array.Session`."""

    def __init__(self, state: AsyncLeaseState, index: int) -> None:
        self.index = index
        self.freed: list[int] = []
        self._state = state
        self._xp: weakref.ref[Namespace] | None = None

    @property
    def client(self) -> AsyncClient:
        """Whose lease it is."""
        return self._state.client

    @property
    def xp(self) -> Namespace:
        """The Array API namespace of this device; the same object for as long as anybody holds it (the lease does)."""
        found = None if self._xp is None else self._xp()
        if found is None:
            found = Namespace(self)
            self._xp = weakref.ref(found)
        return found

    @property
    def device(self) -> LeasedDevice:
        """What `Array.device` gives."""
        known = self._state.devices
        return known[self.index] if self.index < len(known) else LeasedDevice(self.index)

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

    def constant(self, array: Any) -> Array:
        """An array that the server keeps by its digest: see `AsyncLease.constant`."""
        return Array(content.constant_value(array), self)

    def upload(self, array: Any, *, compression: str | None = None, as_float16: bool = False) -> Array:
        """An array that travels packed: see `AsyncLease.upload`."""
        return Array(content.packed_value(array, compression, as_float16), self)

    def from_url(
        self, url: str, *, dtype: Any = None, shape: Sequence[int] | None = None, limit: int | None = None
    ) -> Array:
        """An array that the server fetches: see `AsyncLease.from_url`."""
        return Array(content.remote_value(url, dtype, shape, limit), self)

    async def run(self, wanted: Sequence[graph.Value | graph.ModelCall], *, fetch: bool) -> list[Any]:
        """Runs what is pending; brings it home or leaves it on the device."""
        return await self._state.run(self, wanted, fetch=fetch, finish=False)
