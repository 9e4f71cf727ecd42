# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The client: one server, its leases, and calls without a lease."""

from __future__ import annotations

import functools
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from remotegpu import errors, graph, program, wire
from remotegpu.config import parse_url, url_from
from remotegpu.lease import Lease, Reservation, check_seconds
from remotegpu.local import LocalServer
from remotegpu.model import Catalog, ModelSignature
from remotegpu.result import Reply, receive
from remotegpu.transport import Transport
from remotegpu.v1 import compute_pb2, lease_pb2, scheduler_pb2

# For calls that are not given a timeout. Seconds.
DEFAULT_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a client has done so far. Bytes of messages, without the transport's own framing."""

    round_trips: int
    connections: int
    bytes_sent: int
    bytes_received: int


class Client:
    """A server that lends GPUs. Making one does no work: the first call connects. Safe to use from many threads.

    `url`: "grpc://host:port", or "local:" for a server of this process's own, on the CPU where there is no GPU.
    `timeout`: seconds for calls that are not given one. Raises ConfigurationError for another kind of URL,
    InvalidInput for a timeout that is not a finite number above 0."""

    def __init__(self, url: str, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        check_seconds("timeout", timeout)
        self._endpoint = parse_url(url)
        self._timeout = timeout
        self._local: LocalServer | None = None
        self._transport: Transport | None = None if self._endpoint.local else Transport(self._endpoint.target)
        # Held while the server of `local:` starts or is taken away, so that there is only one.
        self._starting = threading.Lock()
        self.catalog = Catalog()

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None) -> Client:
        """The server that REMOTEGPU_URL names. Raises ConfigurationError if it is unset or unusable."""
        return cls(url_from(os.environ if environment is None else environment))

    def __repr__(self) -> str:
        return f"<Client {self._endpoint.url}>"

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection, and the server of `local:`. Leases that are still open end by their TTL."""
        with self._starting:
            transport, local = self._transport, self._local
            if local is not None:
                self._local = self._transport = None
        if transport is not None:
            transport.close()
        if local is not None:
            local.stop()

    def statistics(self) -> Statistics:
        """Round trips, connections and bytes of this client so far."""
        transport = self._transport
        if transport is None:
            return Statistics(0, 0, 0, 0)
        counts = transport.counts
        return Statistics(counts.round_trips, counts.connections, counts.bytes_sent, counts.bytes_received)

    # Leases.

    def lease(
        self,
        *,
        gpus: int = 1,
        memory: int = 0,
        exclusive: bool = False,
        timeout: float = 0.0,
        idle_ttl: float = 30.0,
        hard_ttl: float | None = None,
    ) -> Lease:
        """A lease that rides along with its first program: no round trip of its own. Fields as for `alloc`; what
        `alloc` would raise, the first `fetch` or `finish` raises."""
        return Lease(self, Reservation(gpus, memory, exclusive, timeout, idle_ttl, hard_ttl))

    def alloc(
        self,
        *,
        gpus: int = 1,
        memory: int = 0,
        exclusive: bool = False,
        timeout: float = DEFAULT_TIMEOUT,
        idle_ttl: float = 30.0,
        hard_ttl: float | None = None,
    ) -> Lease:
        """A lease, granted now; waits in the server's queue for at most `timeout` seconds.

        `gpus` devices or none at all; `memory` bytes on each, which is also the limit there; `exclusive`: nobody else
        on them. It ends `idle_ttl` seconds after the end of its last call, and `hard_ttl` seconds after the grant.
        One round trip. Raises Busy, Impossible, InvalidInput or a TransportError."""
        return self._alloc(Reservation(gpus, memory, exclusive, timeout, idle_ttl, hard_ttl))

    def alloc_nowait(
        self,
        *,
        gpus: int = 1,
        memory: int = 0,
        exclusive: bool = False,
        idle_ttl: float = 30.0,
        hard_ttl: float | None = None,
    ) -> Lease:
        """As `alloc`, but answered at once: raises Busy when the devices are not free now."""
        return self._alloc(Reservation(gpus, memory, exclusive, 0.0, idle_ttl, hard_ttl))

    def _alloc(self, reservation: Reservation) -> Lease:
        request = reservation.message().SerializeToString()
        answer = self._connected().unary("Scheduler/Alloc", request, reservation.timeout + self._timeout)
        return Lease(self, reservation, wire.parse(lease_pb2.LeaseGrant, answer))

    def dealloc(self, lease: str, *, timeout: float | None = None, tolerant: bool = False) -> bool:
        """Ends a lease by its id; False if it had ended already. One round trip; `timeout` in seconds.

        Raises LeaseUnknown, InvalidInput or a TransportError; if `tolerant`, nothing of the tree and False: the
        server's TTL ends the lease then."""
        request = scheduler_pb2.DeallocRequest(lease=lease).SerializeToString()
        try:
            answer = self._connected().unary("Scheduler/Dealloc", request, self._seconds(timeout))
            return wire.parse(scheduler_pb2.DeallocReply, answer).ended_now
        except errors.Error:
            if tolerant:
                return False
            raise

    # Without a lease.

    def model(self, name: str) -> OneCallModel:
        """A model that is called without a lease: each call takes a shared slot for itself."""
        return OneCallModel(self, name)

    def models(self) -> tuple[ModelSignature, ...]:
        """The models that the server serves. One round trip."""
        request = compute_pb2.ModelsRequest().SerializeToString()
        answer = self._connected().unary("Compute/Models", request, self._timeout)
        self.catalog.update(wire.parse(compute_pb2.Catalog, answer))
        return tuple(self.catalog.models.values())

    def top(self) -> scheduler_pb2.Snapshot:
        """Devices, leases and queue as they are now (`remotegpu.v1.Snapshot`). One round trip."""
        request = scheduler_pb2.TopRequest().SerializeToString()
        return wire.parse(scheduler_pb2.Snapshot, self._connected().unary("Scheduler/Top", request, self._timeout))

    # Calls.

    def _connected(self) -> Transport:
        transport = self._transport
        if transport is not None:
            return transport
        with self._starting:
            if self._transport is None:
                self._local = LocalServer()
                self._transport = Transport(f"127.0.0.1:{self._local.port}")
            return self._transport

    def _seconds(self, timeout: float | None) -> float:
        if timeout is None:
            return self._timeout
        check_seconds("timeout", timeout)
        return timeout

    def run(self, plan: graph.Plan, header: compute_pb2.RunHeader, timeout: float | None) -> Reply:
        """Sends one program: the mechanism under `Lease.fetch`. Raises any error of the tree."""
        encoded, body = program.encode(plan)
        return self.send(header, encoded.SerializeToString(), body, _result_size(plan), timeout)

    def send(
        self,
        header: compute_pb2.RunHeader,
        middle: bytes,
        body: wire.Body,
        result_size: float,
        timeout: float | None,
    ) -> Reply:
        """Sends an encoded program whose result has that many bytes. Raises any error of the tree."""
        seconds = self._seconds(timeout)
        header.body_size = body.size
        header.deadline_ms = max(round(seconds * 1000), 1)
        header.catalog = self.catalog.digest
        head = header.SerializeToString()
        started = time.perf_counter()
        small = body.size + len(middle) <= wire.INLINE_LIMIT
        transport = self._connected()
        messages: Iterator[bytes]
        if small and result_size <= wire.INLINE_LIMIT:
            request = wire.join(head, middle, body.parts, body.size)
            messages = iter((transport.unary("Compute/Run", request, seconds),))
        else:
            limit = wire.INLINE_LIMIT if small else wire.CHUNK
            requests = functools.partial(wire.messages, head, middle, body.parts, limit)
            messages = transport.stream("Compute/RunStream", requests, small, seconds)
        reply = receive(messages, started)
        if reply.header.HasField("catalog"):
            self.catalog.update(reply.header.catalog)
        return reply


def _result_size(plan: graph.Plan) -> float:
    """Bytes that will come home, or infinity if that is not known."""
    return sum(_size(meta) for output in plan.outputs if output.fetch for meta in plan.metas(output))


def _size(meta: graph.Meta) -> float:
    if meta.dtype is None or meta.shape is None:
        return math.inf
    sizes = [size.size if isinstance(size, graph.Dim) else size for size in meta.shape]
    return math.inf if None in sizes else meta.dtype.itemsize * math.prod(size or 0 for size in sizes)


def _sendable(given: Any) -> Any:
    """A C-contiguous array in the wire's byte order, copied only if need be."""
    array = np.asarray(given, order="C")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("<"))


class OneCallModel:
    """A model without a lease: the call takes a shared slot of any device for as long as it runs.

    Programs are remembered by the names, dtypes and shapes of the inputs, so that a warm call only adds the data."""

    def __init__(self, client: Client, name: str) -> None:
        self.name = name
        self._client = client
        self._programs: dict[tuple[Any, ...], _OneCallProgram] = {}

    def __repr__(self) -> str:
        return f"<OneCallModel {self.name!r} of {self._client!r}>"

    def __call__(self, *inputs: Any, timeout: float | None = None, **named: Any) -> dict[str, Any]:
        """The outputs by name, as NumPy arrays, in one round trip. Inputs by position or by name: NumPy arrays or
        anything `numpy.asarray` takes. Raises any error of the tree."""
        names = ("",) * len(inputs) + tuple(named)
        arrays = [_sendable(array) for array in (*inputs, *named.values())]
        digest = self._client.catalog.digest
        key = (digest, names, *[(array.dtype, array.shape) for array in arrays])
        known = self._programs.get(key)
        if known is None:
            known = self._program(names, arrays)
            if len(self._programs) >= _PROGRAMS_REMEMBERED:
                self._programs.clear()
            self._programs[key] = known
        body = wire.Body()
        for array in arrays:
            body.add(wire.bytes_of(array))
        reply = self._client.send(compute_pb2.RunHeader(), known.encoded, body, known.result_size, timeout)
        outputs: dict[str, Any] = reply.results(known.plan, [])[0]
        return outputs

    def _program(self, names: Sequence[str], arrays: Sequence[Any]) -> _OneCallProgram:
        values = [graph.Value(graph.Source(array), graph.Meta(array.dtype, array.shape)) for array in arrays]
        pairs = tuple(zip(names, values, strict=True))
        signature = self._client.catalog.models.get(self.name)
        metas = signature.output_metas(pairs) if signature else None
        plan = graph.plan([graph.ModelCall(self.name, pairs, metas)], keep=None)
        encoded, _ = program.encode(plan)
        # Without its nodes, which hold the arrays of this one call.
        return _OneCallProgram(encoded.SerializeToString(), graph.Plan(outputs=plan.outputs), _result_size(plan))


_PROGRAMS_REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class _OneCallProgram:
    encoded: bytes
    plan: graph.Plan
    result_size: float
