# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""A reservation, and what is recorded and run under it.

Nothing is sent while arrays are combined. `fetch` sends one program that computes what is wanted, and what it needs of
what was recorded before; `finish` does the same and gives the lease back in the same round trip.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from remotegpu import errors
from remotegpu.array import Array
from remotegpu.device import LeasedDevice
from remotegpu.model import Model, ModelOutputs
from remotegpu.namespace import Namespace
from remotegpu.reservation import Reservation, check_whole
from remotegpu.result import Timing
from remotegpu.v1 import lease_pb2

from .renewal import AsyncKeeper
from .session import AsyncDeviceSession, AsyncLeaseState

if TYPE_CHECKING:
    from .client import AsyncClient

Fetchable = Array | ModelOutputs

# How long leaving a `with` block waits for the lease's end to be confirmed. Not at all would lose it in a function
# that is frozen right after; the server's TTL is the second line. Seconds.
DEALLOC_PATIENCE = 0.25


class AsyncLease:
    """A reservation of devices. Made by `AsyncClient.lease` (deferred), `alloc`, `alloc_nowait` or `attach`; not for
    several tasks at once.

    Used in an `async with` block, it is given back at the end of the block at the latest, unless it is attached: then
    it belongs to whoever allocated it, and only `finish` and `dealloc` end it. A forked child's copy of it does nothing
    at the end of the block, and InvalidInput if it is used."""

    def __init__(
        self,
        client: AsyncClient,
        reservation: Reservation,
        grant: lease_pb2.LeaseGrant | None = None,
        *,
        attached: bool = False,
    ) -> None:
        self._state = AsyncLeaseState(client, reservation, grant, attached=attached)
        self._attached = attached
        # The sessions do not hold their namespaces, which hold them.
        self._sessions: dict[int, tuple[AsyncDeviceSession, Namespace]] = {}

    def __repr__(self) -> str:
        state = "ended" if self._state.ended else self.short_id or "deferred"
        return f"<AsyncLease {state}, {self._state.reservation.gpus} gpus>"

    @property
    def id(self) -> str:
        """The lease's key, which is a secret: who has it can use the lease. Empty while the lease is deferred."""
        return self._state.key

    @property
    def short_id(self) -> str:
        """Its name in `remotegpu top`: enough to tell leases apart and to deallocate one, too little to use it. Empty
        while the lease is deferred."""
        return self._state.key[:8]

    @property
    def fence(self) -> int:
        """The fencing token: it grows with each grant of the server, across its restarts too. Written along with what
        this lease's holder writes elsewhere, it tells a late writer from a present one. 0 while deferred."""
        return self._state.fence

    @property
    def idle_ttl(self) -> float:
        """The lease ends so many seconds after the end of its last call or renewal."""
        return self._state.use.idle_ttl

    @property
    def hard_ttl(self) -> float | None:
        """The lease ends so many seconds after its grant, whatever it does; None: it may live on."""
        return self._state.hard_ttl

    @property
    def devices(self) -> tuple[LeasedDevice, ...]:
        """The devices that were granted, in the lease's order; none while it is deferred."""
        return self._state.devices

    @property
    def timing(self) -> Timing | None:
        """Where the time of the last call went; None before the first."""
        return self._state.timing

    async def renew(self) -> float | None:
        """Restarts the idle clock: the seconds until the lease ends if nothing more happens, None if it would not.

        One round trip. Raises LeaseExpired, LeaseUnknown, DeviceFailed, InvalidInput while deferred, or a
        TransportError."""
        self._state.check_open()
        if not self._state.key:
            limit = "a lease that was granted; a deferred one begins with its first program"
            raise errors.InvalidInput(field="lease", limit=limit, given="a deferred lease")
        left = await self._state.client.renew(self._state.key)
        self._state.use.last = time.monotonic()
        return left

    def keep_with(self, keeper: AsyncKeeper) -> AsyncLease:
        """Has itself renewed in the background: how the client makes it. Returns itself."""
        keeper.keep(self._state, self._state.key, self._state.use)
        return self

    def on(self, index: int) -> AsyncDeviceSession:
        """The lease's device number `index`, from 0. Raises InvalidInput for one that it does not have."""
        check_whole("device", index, 0, self._state.reservation.gpus - 1)
        found = self._sessions.get(index)
        if found is None:
            session = AsyncDeviceSession(self._state, index)
            found = self._sessions[index] = (session, session.xp)
        return found[0]

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

    def constant(self, array: Any) -> Array:
        """An array that the server keeps by the SHA-256 digest of its bytes, for what does not change from call to
        call. The bytes travel at most once for each server and tenant; calls name the digest, also in other processes
        and under other leases, and the array on the device is shared by all of them.

        `array`: anything `numpy.asarray` takes; copied unless it is read-only, and hashed, the same read-only array
        only once. Raises InvalidInput for a dtype that does not travel."""
        return self.on(0).constant(array)

    def upload(self, array: Any, *, compression: str | None = None, as_float16: bool = False) -> Array:
        """An array that travels packed, with the first program that needs it: for slow lines.

        `compression`: "lz4" (quick) or "zstd" (smaller), both need `pip install 'remotegpu[compression]'`; None.
        `as_float16`: a float32 or float64 array travels as float16, so with about three digits; it is of its own dtype
        again on the device. Raises InvalidInput, also for finite values that float16 does not reach (beyond 65504);
        ConfigurationError for a missing library."""
        return self.on(0).upload(array, compression=compression, as_float16=as_float16)

    def from_url(
        self, url: str, *, dtype: Any = None, shape: Sequence[int] | None = None, limit: int | None = None
    ) -> Array:
        """An array that the server fetches by itself, with the first program that needs it; the operator must have
        allowed the host. With `dtype` and `shape` the file has the elements of such an array, C-contiguous and
        little-endian, and nothing else; without them it is a picture, as for `image`.

        `limit`: bytes at most; None: those of the array, or 32 MiB. Raises InvalidInput here; the call that needs the
        file raises it for a host that is not allowed or a file that is too large, and FetchFailed."""
        return self.on(0).from_url(url, dtype=dtype, shape=shape, limit=limit)

    async def fetch(self, *wanted: Fetchable, timeout: float | None = None) -> Any:
        """Runs what `wanted` needs and brings it home, in one round trip: a NumPy array for an array, a dict of them by
        name for the outputs of a model; a list if several things are wanted.

        Arrays that the caller still holds stay on the device and need not be sent or computed again. `timeout`: seconds
        for the whole call, the client's default if None. Raises any error of the tree."""
        return await self._fetch(wanted, finish=False, timeout=timeout)

    async def finish(self, *wanted: Fetchable, timeout: float | None = None) -> Any:
        """`fetch` and `dealloc` in one round trip: the last call of a lease. After an error the lease is as before."""
        result = await self._fetch(wanted, finish=True, timeout=timeout)
        self._state.end()
        return result

    async def _fetch(self, wanted: Sequence[Fetchable], *, finish: bool, timeout: float | None) -> Any:
        if not wanted:
            raise errors.InvalidInput(field="fetch", limit="at least one array", given="none")
        for item in wanted:
            if not isinstance(item, (Array, ModelOutputs)):
                limit = "arrays of this lease and outputs of its models, each an argument of its own"
                raise errors.InvalidInput(field="fetch", limit=limit, given=f"a {type(item).__name__}")
        sessions = [item.session if isinstance(item, ModelOutputs) else item._session for item in wanted]
        mine = next((session for session, _ in self._sessions.values() if session is sessions[0]), None)
        if mine is None or any(session is not mine for session in sessions):
            raise errors.InvalidInput(
                field="fetch", limit="arrays of one device of this lease", given="arrays of several devices or leases"
            )
        values = [item.call if isinstance(item, ModelOutputs) else item._value for item in wanted]
        found = await self._state.run(mine, values, finish=finish, timeout=timeout)
        return found[0] if len(wanted) == 1 else found

    async def dealloc(self) -> None:
        """Gives the lease back. The server answers at once and frees the memory when its workers come to it.
        Idempotent. Raises TransportError if the server does not answer; the lease then ends by its TTL."""
        if self._state.key and not self._state.ended:
            self._state.check_open()
            await self._state.client.dealloc(self._state.key)
        self._state.end()

    async def __aenter__(self) -> AsyncLease:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._attached or self._state.foreign:
            return
        if self._state.key and not self._state.ended:
            await self._state.client.dealloc(self._state.key, timeout=DEALLOC_PATIENCE, tolerant=True)
        self._state.end()
