# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The client: one server, its leases, and calls without a lease."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from remotegpu import config, content, deadlines, errors, graph, program, repository, security, wire
from remotegpu.answers import Explanation, Settings
from remotegpu.channel import CONNECT_PATIENCE, closed
from remotegpu.generation import registry
from remotegpu.identity import IdentityProvider
from remotegpu.local import LocalServer
from remotegpu.model import Catalog, ModelSignature
from remotegpu.reservation import (
    Reservation,
    ReservationFields,
    WaitingFields,
    check_interval,
    check_seconds,
    check_text,
    check_whole,
)
from remotegpu.result import Reply
from remotegpu.statistics import Statistics
from remotegpu.v1 import compute_pb2, lease_pb2, scheduler_pb2

from . import calls, survival, upload, watching
from .concurrency import AsyncLock, in_thread
from .lease import AsyncLease
from .one_call import AsyncOneCallModel
from .renewal import AsyncKeeper
from .submission import AsyncSubmissions
from .transport import AsyncTransport

# For calls that are not given a timeout. Seconds.
DEFAULT_TIMEOUT = 60.0
# How much later than expected a snapshot may come, at most. Seconds.
SNAPSHOT_PATIENCE = 5.0


class AsyncClient:
    """A server that lends GPUs. Making one does no work: the first call connects.
    Safe to use from many tasks of one event loop.

    `url`: "grpc://host:port", "grpcs://host:port" for one with TLS, or "local:" for a server of this process's own, on
    the CPU where there is no GPU.
    `timeout`: seconds for calls that are not given one. `tenant`: for whom this client says that it acts; quotas and
    the list of leases go by it. `connect_timeout`: seconds within which a connection must be made. `renewal`: whether
    leases that `alloc`, `alloc_nowait` and `attach` gave are kept alive in the background while anybody holds them or
    an array of theirs; never in AWS Lambda, where a frozen process could not. `ca`: a PEM file of the authorities that
    the server's certificate may be of (default: those of the world). `identity`: proves to the server who calls.

    Raises ConfigurationError for another kind of URL, name or file, and for an identity that would travel in clear;
    InvalidInput for a time that is not a finite number above 0."""

    def __init__(
        self,
        url: str,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        tenant: str = config.DEFAULT_TENANT,
        connect_timeout: float = CONNECT_PATIENCE,
        renewal: bool = True,
        ca: str | Path | None = None,
        identity: IdentityProvider | None = None,
    ) -> None:
        check_seconds("timeout", timeout)
        check_seconds("connect_timeout", connect_timeout)
        self._endpoint = config.parse_url(url)
        self._security = security.Security.of(self._endpoint, ca, identity)
        self._timeout = timeout
        self._tenant = config.parse_tenant(tenant)
        self._patience = connect_timeout
        self._renewal = renewal
        self._local: LocalServer | None = None
        self._closed = False
        self.catalog = Catalog()
        self._begin("" if self._endpoint.local else self._endpoint.target)
        survival.watch(self)

    def _begin(self, target: str) -> None:
        """Makes what belongs to one process. Does not connect; without a target, `_connected` finds it."""
        self._transport = self._transport_to(target) if target and not self._closed else None
        # Held while the server of `local:` starts or is taken away, so that there is only one.
        self._starting = AsyncLock()
        self._keeper = AsyncKeeper(self.renewed) if self._renewal else None
        # Calls in the background: see `AsyncOneCallModel.submit`.
        self.submissions = AsyncSubmissions()

    def _begin_again(self, forked: bool) -> None:
        """In a forked child, or after a SnapStart restore: what was before is neither used nor closed. Leases of before
        are left to those who have them, and the server of `local:` to the parent, but it may be used."""
        registry.forsake(self._transport, self._starting, self._keeper, self.submissions, self._local)
        target = self._transport.target if self._transport else ""
        if forked and self._local is not None:
            self._local.leave()
            self._local = None
        self._begin(target)

    def _transport_to(self, target: str) -> AsyncTransport:
        tenant = "" if self._tenant == config.DEFAULT_TENANT else self._tenant
        return AsyncTransport(target, tenant=tenant, patience=self._patience, security=self._security)

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None) -> AsyncClient:
        """The server that REMOTEGPU_URL names, for the tenant in REMOTEGPU_TENANT ("default" without one), with the CA
        and the identity of the environment (`remotegpu.identity`). Raises ConfigurationError if one is unusable or
        there is no URL."""
        given = os.environ if environment is None else environment
        url = config.url_from(given)
        return cls(url, tenant=config.tenant_from(given), **security.from_env(given, url))

    @property
    def url(self) -> str:
        """The server, as it was given."""
        return self._endpoint.url

    @property
    def tenant(self) -> str:
        """For whom this client says that it acts."""
        return self._tenant

    def __repr__(self) -> str:
        return f"<AsyncClient {self.url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection, and the server of `local:`; later calls raise ConfigurationError. Leases that are still
        open end by their TTL."""
        if self._keeper is not None:
            await self._keeper.close()
        await self.submissions.close()
        async with self._starting:
            self._closed = True
            transport, local, self._local = self._transport, self._local, None
        if transport is not None:
            await transport.close()
        if local is not None:
            await in_thread(local.stop)

    def statistics(self) -> Statistics:
        """Round trips, connections and bytes of this client so far."""
        transport = self._transport
        return Statistics(0, 0, 0, 0) if transport is None else transport.counts.frozen()

    # Leases.

    def lease(self, **fields: Unpack[WaitingFields]) -> AsyncLease:
        """A lease that rides along with its first program: no round trip of its own. Fields as for `alloc`, but with a
        `timeout` of 0; what `alloc` would raise, the first `fetch` or `finish` raises, InvalidInput this call."""
        return AsyncLease(self, Reservation.asked("lease", fields))

    async def alloc(self, **fields: Unpack[WaitingFields]) -> AsyncLease:
        """A lease, granted now; waits in the server's queue for at most `timeout` seconds (60).

        `gpus` (1) devices or none at all; `memory` (0) bytes on each, which is also the limit there; `exclusive`
        (False): nobody else on them. It ends `idle_ttl` (30) seconds after the end of its last call, and `hard_ttl`
        (None: never) seconds after the grant. `priority` (0) to 9: a higher one is served first. `model` (""): what
        will be run, for the policy that looks for devices where it is warm.

        One round trip. While anybody holds the object or an array of it, the lease is renewed in the background (see
        `AsyncClient`). Raises Busy, Impossible, InvalidInput or a TransportError."""
        fields.setdefault("timeout", DEFAULT_TIMEOUT)
        return await self._alloc(Reservation.asked("alloc", fields))

    async def alloc_nowait(self, **fields: Unpack[ReservationFields]) -> AsyncLease:
        """As `alloc`, but answered at once: raises Busy when the devices are not free now."""
        return await self._alloc(Reservation.asked("alloc_nowait", fields, waiting=False))

    async def _alloc(self, reservation: Reservation) -> AsyncLease:
        # The same lease for every attempt, so that a broken connection can be followed by another one.
        request_id, started = secrets.token_hex(8), time.monotonic()

        def request() -> bytes:
            return reservation.message(request_id, time.monotonic() - started).SerializeToString()

        seconds = reservation.timeout + self._timeout
        answer = await (await self._connected()).unary("Scheduler/Alloc", request, seconds, idempotent=True)
        return self._kept(AsyncLease(self, reservation, wire.parse(lease_pb2.LeaseGrant, answer)))

    async def attach(self, lease: str | None = None) -> AsyncLease:
        """A lease that another process allocated, by its key: the one in REMOTEGPU_LEASE if None. One round trip.

        It belongs to the other process: leaving its `async with` block does not end it, `finish` and `dealloc` do.
        What the others keep on its devices is theirs, and its memory is shared with them. Raises ConfigurationError,
        LeaseExpired, LeaseUnknown, InvalidInput or a TransportError."""
        key = config.lease_from(os.environ) if lease is None else lease
        grant = await self.renewed(key)
        return self._kept(AsyncLease(self, Reservation.of(grant), grant, attached=True))

    def _kept(self, lease: AsyncLease) -> AsyncLease:
        if self._keeper is None or config.LAMBDA_VARIABLE in os.environ:
            return lease
        return lease.keep_with(self._keeper)

    async def renew(self, lease: str) -> float | None:
        """Restarts the idle clock of a lease, by its key: the seconds until it ends if nothing more happens, None if it
        would not. One round trip. Raises LeaseExpired, LeaseUnknown, InvalidInput or a TransportError."""
        grant = await self.renewed(lease)
        return grant.ttl_left_ms / 1000 or None

    async def renewed(self, lease: str, timeout: float | None = None) -> lease_pb2.LeaseGrant:
        """Renews a lease, and what the server says of it: the mechanism under `renew` and `attach`. `timeout` in
        seconds."""
        check_text("lease", lease, "a lease's key")
        request = scheduler_pb2.RenewRequest(lease=lease).SerializeToString()
        transport = await self._connected()
        answer = await transport.unary("Scheduler/Renew", request, self._seconds(timeout), idempotent=True)
        return wire.parse(lease_pb2.LeaseGrant, answer)

    async def dealloc(self, lease: str, *, timeout: float | None = None, tolerant: bool = False) -> bool:
        """Ends a lease by its key, or by its short id; False if it had ended already. One round trip; `timeout` in
        seconds.

        Raises LeaseUnknown, InvalidInput or a TransportError; if `tolerant`, nothing of the tree and False: the
        server's TTL ends the lease then."""
        check_text("lease", lease, "a lease's key or short id")
        request = scheduler_pb2.DeallocRequest(lease=lease).SerializeToString()
        try:
            transport = await self._connected()
            answer = await transport.unary("Scheduler/Dealloc", request, self._seconds(timeout), idempotent=True)
            return wire.parse(scheduler_pb2.DeallocReply, answer).ended_now
        except errors.Error:
            if tolerant:
                return False
            raise

    # Without a lease.

    def model(self, name: str) -> AsyncOneCallModel:
        """A model ("name", "name:version" or "name:alias") that is called without a lease: each call takes a shared
        slot for itself."""
        return AsyncOneCallModel(self, name)

    async def models(self) -> tuple[ModelSignature, ...]:
        """The models that the server serves, each loaded version. One round trip."""
        request = compute_pb2.ModelsRequest().SerializeToString()
        self.catalog.update(wire.parse(compute_pb2.Catalog, await self._ask("Compute/Models", request)))
        return self.catalog.signatures

    # What is served.

    async def index(self, name: str = "") -> tuple[repository.ModelEntry, ...]:
        """The versions that the server knows, of all models or of one, loaded or not. One round trip. Raises
        ModelNotFound, InvalidInput or a TransportError."""
        return await self._repository("Repository/Index", repository.index_request(name), self._timeout)

    async def load_model(
        self,
        name: str,
        version: str = "",
        *,
        content: bytes | None = None,
        path: str | os.PathLike[str] | None = None,
        aliases: Sequence[str] = (),
        timeout: float = repository.LOAD_TIMEOUT,
    ) -> tuple[repository.ModelEntry, ...]:
        """Has the server serve a version: from its repository ("": the highest), again if the file has changed, or an
        ONNX file of the caller's (its `content`, or its `path`), which is uploaded first unless the server has it ("":
        one more than the highest). Answers when it is warm on every device, with the versions of that name; no call
        fails meanwhile, and if one device cannot load it, nothing has changed.

        `timeout` in seconds, from the upload's end. Raises NotAllowed (the server needs --allow-uploads),
        ModelNotFound, ModelUnusable, OutOfMemory, InvalidInput or a TransportError."""
        check_seconds("timeout", timeout)
        if content is not None and path is not None:
            raise errors.InvalidInput(field="load_model", limit="content or path", given="both")
        source = content if path is None else Path(path)
        digest = b"" if source is None else await self.put(source)
        request = repository.load_request(name, version, digest, aliases)
        return await self._repository("Repository/Load", request, timeout)

    async def unload_model(self, name: str, version: str = "") -> tuple[repository.ModelEntry, ...]:
        """Has the server serve a version (a number or an alias) no longer, or no version of that name; calls under way
        go on. Answers with what it has then. Raises NotAllowed, ModelNotFound, InvalidInput or a TransportError."""
        return await self._repository("Repository/Unload", repository.unload_request(name, version), self._timeout)

    async def set_alias(self, name: str, alias: str, version: str | None = None) -> tuple[repository.ModelEntry, ...]:
        """Lets "name:alias" stand for a version, or (None) no longer for any; answers with the versions of that name.
        Raises NotAllowed, ModelNotFound, InvalidInput or a TransportError."""
        request = repository.alias_request(name, alias, version)
        return await self._repository("Repository/SetAlias", request, self._timeout)

    async def _repository(self, method: str, request: bytes, seconds: float) -> tuple[repository.ModelEntry, ...]:
        # A change that was made twice may be another one: an upload without a version would get two.
        transport = await self._connected()
        reply = await transport.unary(method, request, seconds, idempotent=method == "Repository/Index")
        entries, catalog = repository.answer(reply)
        self.catalog.update(catalog)
        return entries

    # Contents.

    async def put(self, data: content.Putable, *, timeout: float | None = None) -> bytes:
        """Brings bytes, a file (by its path) or a NumPy array to the server, which keeps them by their SHA-256 digest,
        for this tenant, until it needs the room; returns that. What is there is not sent again, and what broke off is
        resumed: one round trip, or two. `timeout`: seconds in all; None: 60, and what 256 KiB per second take. Raises
        StoreFull, InvalidInput, OSError for a file that cannot be read, or a TransportError."""
        if timeout is not None:
            check_seconds("timeout", timeout)
        blob = await in_thread(content.Blob.of, data)
        await upload.put(await self._connected(), blob, timeout)
        return blob.digest

    # The scheduler.

    async def explain(self, **fields: Unpack[ReservationFields]) -> Explanation:
        """Whether `alloc_nowait` with these fields would be granted, where, and if not, why. Changes nothing. One round
        trip. Raises InvalidInput or a TransportError."""
        request = Reservation.asked("explain", fields, waiting=False).message().SerializeToString()
        return Explanation.of(wire.parse(scheduler_pb2.Explanation, await self._ask("Scheduler/Explain", request)))

    async def set(self, *, policy: str | None = None, slots: int | None = None, queue: int | None = None) -> Settings:
        """Changes the scheduler's policy, how many leases may share a device, and how many requests may wait; answers
        with what holds then. None leaves one as it is. Nobody loses a lease or a place in the queue. One round trip.
        Raises InvalidInput or a TransportError."""
        if policy is not None:
            check_text("policy", policy, "a policy's name")
        for name, given in (("slots", slots), ("queue", queue)):
            if given is not None:
                check_whole(name, given, 0, 2**32 - 1)
        request = scheduler_pb2.SetRequest(policy=policy, slots=slots, queue=queue).SerializeToString()
        return Settings.of(wire.parse(scheduler_pb2.SchedulerSettings, await self._ask("Scheduler/Set", request)))

    async def top(self) -> scheduler_pb2.Snapshot:
        """Devices, leases and queue as they are now (`remotegpu.v1.Snapshot`). One round trip."""
        request = scheduler_pb2.TopRequest().SerializeToString()
        return wire.parse(scheduler_pb2.Snapshot, await self._ask("Scheduler/Top", request))

    def watch(self, interval: float = 1.0) -> AsyncGenerator[scheduler_pb2.Snapshot, None]:
        """A snapshot at once and one every `interval` seconds (0.1 to 60), until the iterator is closed.

        A snapshot that is 5 seconds late (the client's timeout, if that is shorter) is a DeadlineExceeded. Raises
        InvalidInput at once, and any error of the tree from the iterator."""
        check_interval(interval)
        return watching.snapshots(self._connected, interval, min(self._timeout, SNAPSHOT_PATIENCE))

    # Calls.

    async def _ask(self, method: str, request: bytes) -> bytes:
        transport = await self._connected()
        return await transport.unary(method, request, self._timeout, idempotent=True)

    async def _connected(self) -> AsyncTransport:
        transport = self._transport
        if transport is not None:
            return transport
        async with self._starting:
            if self._closed:
                raise closed()
            if self._transport is None:
                self._local = await in_thread(LocalServer)
                self._transport = self._transport_to(f"127.0.0.1:{self._local.port}")
            return self._transport

    def _seconds(self, timeout: float | None) -> float:
        if timeout is None:
            return self._timeout
        check_seconds("timeout", timeout)
        return timeout

    async def run(self, plan: graph.Plan, header: compute_pb2.RunHeader, timeout: float | None) -> Reply:
        """Sends one program, and its constants if need be: what `Lease.fetch` does. Raises any error of the tree."""
        encoded, body = program.encode(plan)
        content.attach(header, plan)
        middle, expected = encoded.SerializeToString(), calls.result_size(plan)
        send = partial(self.send, header, middle, body, expected)
        return await upload.call(send, self._connected, plan, timeout)

    async def send(
        self, header: compute_pb2.RunHeader, middle: bytes, body: wire.Body, expected: float, timeout: float | None
    ) -> Reply:
        """Sends an encoded program whose result has the expected bytes. Raises any error of the tree."""
        request = calls.Request(header, middle, body.size, expected, self.catalog.digest)
        return await self.exchange(request, body.parts, timeout)

    async def exchange(self, request: calls.Request, parts: Sequence[wire.Buffer], timeout: float | None) -> Reply:
        """Sends a request with the parts of its body. Raises any error of the tree."""
        seconds, _ = deadlines.bounded(self._seconds(timeout), deadlines.GRACE)
        reply = await calls.exchange(await self._connected(), request, parts, seconds, self.catalog.forget)
        if reply.header.HasField("catalog"):
            self.catalog.update(reply.header.catalog)
        return reply
