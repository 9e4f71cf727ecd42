# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""No lease without an owner, none taken from its owner, and nothing remembered without bound."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc
import numpy as np
import pytest

from remotegpu import Client, errors, graph, program, wire
from remotegpu.v1 import compute_pb2, lease_pb2, scheduler_pb2
from remotegpu_server import scheduler
from remotegpu_server.gateway import service
from remotegpu_server.gateway.leases import Leases
from tests.conftest import StartServer, wait_until


def leases(count: int = 1) -> Leases:
    """On devices without a worker: nothing is ever touched there."""
    devices = [scheduler.Device(i, "CPU", f"CPU-{i}", 100, 1) for i in range(count)]
    return Leases(scheduler.Scheduler(devices), [])


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


REQUEST = scheduler.Request("tenant")


def test_a_caller_that_gives_up_does_not_end_the_lease_that_another_has() -> None:
    async def work() -> None:
        found = leases()
        holder = await found.alloc(REQUEST, 0)
        first, second = (asyncio.ensure_future(found.alloc(REQUEST, 60, "id")) for _ in range(2))
        await asyncio.sleep(0)
        found.dealloc(holder.key, "tenant")  # grants the one request that both wait for
        await asyncio.sleep(0)  # both are about to hear it
        second.cancel()
        held = await first
        with pytest.raises(asyncio.CancelledError):
            await second
        assert found.renew(held.key, "tenant") is held

    run(work)


def test_the_last_caller_that_gives_up_ends_what_was_just_granted() -> None:
    async def work() -> None:
        found = leases()
        holder = await found.alloc(REQUEST, 0)
        callers = [asyncio.ensure_future(found.alloc(REQUEST, 60, "id")) for _ in range(2)]
        await asyncio.sleep(0)
        found.dealloc(holder.key, "tenant")
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        assert not found.snapshot().leases
        assert (await found.alloc(REQUEST, 0, "id")).devices == (0,)

    run(work)


def test_an_id_stands_for_one_request() -> None:
    async def work() -> None:
        found = leases(2)
        held = await found.alloc(REQUEST, 0, "id")
        assert await found.alloc(REQUEST, 5, "id") is held
        with pytest.raises(errors.InvalidInput, match="asked for"):
            await found.alloc(scheduler.Request("tenant", gpus=2), 0, "id")
        assert await found.alloc(scheduler.Request("other"), 0, "id") is not held

    run(work)


def test_who_stops_sending_is_not_waited_for() -> None:
    async def silence() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.Event().wait()

    async def work() -> None:
        stream = silence()
        assert await service._next(stream, 5) == b"first"
        with pytest.raises(errors.DeadlineExceeded) as caught:
            await service._next(stream, 0.05)
        assert caught.value.deadline == 0.05
        assert await service._next(stream, 5) == b"", "the stream is over"

    run(work)


def method(channel: grpc.Channel, name: str) -> Any:
    return channel.unary_unary(f"/remotegpu.v1.{name}")  # type: ignore[call-arg]


def refused(work: Callable[[], object]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        work()
    code: grpc.StatusCode = caught.value.code()
    return code


def zeros(header: compute_pb2.RunHeader, size: int) -> bytes:
    """A call that makes so many bytes and fetches them."""
    with Client("grpc://127.0.0.1:1") as client:  # records only
        array = client.lease().xp.zeros(size, dtype=np.uint8)
        encoded, body = program.encode(graph.plan([array._value], keep=None))
    assert body.size == 0
    return wire.join(header.SerializeToString(), encoded.SerializeToString(), ())


def test_a_lease_whose_grant_is_not_delivered_is_given_back(start_server: StartServer) -> None:
    server = start_server()
    header = compute_pb2.RunHeader(alloc=lease_pb2.AllocRequest(gpus=1, idle_ttl_ms=3_600_000))
    with Client(server.url) as client, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = method(channel, "Compute/Run")
        assert len(call(zeros(header, 1000))) > 1000
        wait_until(lambda: len(client.top().leases) == 1, "one whose caller heard of it")
        assert refused(lambda: call(zeros(header, 3_000_000))) is grpc.StatusCode.INVALID_ARGUMENT
        wait_until(lambda: len(client.top().leases) == 1, "and no other")


@pytest.mark.parametrize("field", ["request_id", "model"])
def test_names_that_are_remembered_are_short(start_server: StartServer, field: str) -> None:
    server = start_server()
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        request, alloc = lease_pb2.AllocRequest(gpus=1), method(channel, "Scheduler/Alloc")
        setattr(request, field, "x" * 257)
        assert refused(lambda: alloc(request.SerializeToString())) is grpc.StatusCode.INVALID_ARGUMENT
        setattr(request, field, "x" * 256)
        assert lease_pb2.LeaseGrant.FromString(alloc(request.SerializeToString())).lease


def test_a_call_cannot_be_repeated_by_an_id(start_server: StartServer) -> None:
    server = start_server()
    header = compute_pb2.RunHeader(alloc=lease_pb2.AllocRequest(gpus=1, request_id="again"))
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = method(channel, "Compute/Run")
        assert refused(lambda: call(zeros(header, 10))) is grpc.StatusCode.INVALID_ARGUMENT


def test_those_who_watch_do_not_hold_up_a_stop_and_are_bounded(start_server: StartServer) -> None:
    server = start_server()
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        watch: Any = channel.unary_stream("/remotegpu.v1.Scheduler/Watch")  # type: ignore[call-arg]
        slow = scheduler_pb2.WatchRequest(interval_ms=60_000).SerializeToString()
        assert refused(lambda: next(watch(scheduler_pb2.WatchRequest(interval_ms=60_001).SerializeToString())))
        streams = [watch(slow) for _ in range(64)]
        assert all(scheduler_pb2.Snapshot.FromString(next(stream)).devices for stream in streams)
        assert refused(lambda: next(watch(slow))) is grpc.StatusCode.UNAVAILABLE
        streams.pop().cancel()

        def another() -> bool:
            try:
                streams.append(watch(slow))
                next(streams[-1])
            except grpc.RpcError:
                return False
            return True

        wait_until(another, "one who left made room")
        started = time.monotonic()
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        assert refused(lambda: next(streams[0])) is grpc.StatusCode.UNAVAILABLE
        stopper.join()
        assert time.monotonic() - started < 5


def test_a_lease_whose_first_call_failed_is_given_back(start_server: StartServer) -> None:
    server = start_server()
    with Client(server.url) as client, client.lease(idle_ttl=3600) as lease, pytest.raises(errors.Error):
        lease.fetch(lease.image(b"no picture"))
    with Client(server.url) as client:
        wait_until(lambda: not client.top().leases, "nobody has a lease")
