# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The client for asyncio when networks, servers and event loops change under it, and how it ends."""

from __future__ import annotations

import asyncio
import functools
import gc
import socket
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent import futures
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import remotegpu
from remotegpu import AsyncClient, Client, errors
from remotegpu._async.conversation import AsyncConversation
from remotegpu.local import LocalServer
from remotegpu.reservation import Reservation
from remotegpu.v1 import scheduler_pb2
from tests.conftest import StartServer
from tests.fixtures.event_loop import in_loop, until, waiting
from tests.fixtures.proxy import FaultProxy


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[LocalServer]:
    running = LocalServer(["--gpus", "cpu:2", "--models", str(models), "--arena", "16MiB"])
    yield running
    assert running.stop() == 0


@pytest.fixture
def proxy(server: LocalServer) -> Iterator[FaultProxy]:
    with FaultProxy(("127.0.0.1", server.port)) as between:
        yield between


def through(proxy: FaultProxy) -> str:
    return f"grpc://127.0.0.1:{proxy.address[1]}"


# ---- faults -----------------------------------------------------------------------------------------------


@in_loop
async def test_program_goes_on_when_its_connection_breaks_and_is_not_run_twice(
    server: LocalServer, proxy: FaultProxy
) -> None:
    async with (
        AsyncClient(through(proxy), timeout=20) as client,
        AsyncClient(server.url, timeout=20) as direct,
        await client.alloc() as lease,
    ):

        async def ran() -> int:
            return sum(device.calls for device in (await direct.top()).devices)

        async def running() -> bool:
            return any(lease.calls_running for lease in (await direct.top()).leases)

        calls = await ran()
        x = lease.xp.ones((1800, 1800))
        slow = asyncio.create_task(lease.fetch(lease.xp.sum(x @ x)))
        await until(running, "it runs")
        quick = asyncio.create_task(client.top())
        await asyncio.to_thread(proxy.cut)
        assert await slow == 1800.0**3
        assert (await quick).devices
        assert client.statistics().connections == 2
        assert await ran() == calls + 1


@in_loop
async def test_program_is_not_repeated_with_a_server_that_was_restarted(start_server: StartServer) -> None:
    first = start_server()
    async with (
        AsyncClient(first.url, timeout=20, connect_timeout=0.5) as client,
        AsyncClient(first.url) as other,
        await client.alloc() as lease,
    ):

        async def running() -> bool:
            return any(lease.calls_running for lease in (await other.top()).leases)

        x = lease.xp.ones((2500, 2500))
        slow = asyncio.create_task(lease.fetch(lease.xp.sum(x @ x)))
        await until(running, "it runs")
        first.process.kill()
        with pytest.raises(remotegpu.ConnectionLost):
            await slow


@in_loop
async def test_silent_connection_is_not_used_again(proxy: FaultProxy) -> None:
    async with AsyncClient(through(proxy), timeout=0.5) as client:
        await client.top()
        proxy.blackhole(True)
        started = time.monotonic()
        calls = [asyncio.create_task(client.top()) for _ in range(20)]
        done, _ = await asyncio.wait(calls)
        assert {type(call.exception()) for call in done} == {remotegpu.DeadlineExceeded}
        assert time.monotonic() - started < 1.5
        with pytest.raises(remotegpu.TransportError):
            await client.put(bytes(2_000_000), timeout=0.3)
        proxy.blackhole(False)  # for new connections; what the old one lost is lost
        assert (await client.top()).devices
        assert client.statistics().connections >= 2
        async with aclosing(client.watch(0.1)) as watching:
            await anext(watching)
            proxy.blackhole(True)
            with pytest.raises(remotegpu.DeadlineExceeded) as caught:
                [snapshot async for snapshot in watching]
            assert caught.value.deadline == pytest.approx(0.6)
        proxy.blackhole(False)
        assert (await client.top()).devices


@in_loop
async def test_connection_that_was_closed_by_others(server: LocalServer) -> None:
    client = AsyncClient(server.url, timeout=20)
    await client.top()
    transport = client._transport
    assert transport is not None
    assert transport._connection is not None
    await transport._connection.close()
    assert (await client.top()).devices  # the stream is opened again
    assert client.statistics().connections == 2
    transport._streams = False
    await transport._connection.close()  # as `close` does between the choice of the channel and the call
    with pytest.raises(remotegpu.ConfigurationError, match="closed"):
        await client.top()
    await client.close()


@in_loop
async def test_late_answer_is_no_silence(server: LocalServer) -> None:
    """Others are answered meanwhile: the connection is well, and nobody else is held up by one whose time is over."""
    async with AsyncClient(server.url, timeout=20) as client, await client.alloc(gpus=2, exclusive=True) as lease:
        x = lease.xp.ones((1800, 1800))
        slow = asyncio.create_task(lease.fetch(lease.xp.sum(x @ x)))
        late = asyncio.create_task(client._transport.unary("Scheduler/Alloc", _patient(), 0.3))  # type: ignore[union-attr]
        while not late.done():
            await client.top()
        with pytest.raises(remotegpu.DeadlineExceeded):
            await late
        assert await slow == 1800.0**3
        assert client.statistics().connections == 1


def _patient() -> bytes:
    return Reservation(timeout=30.0).message("never answered").SerializeToString()


@in_loop
async def test_nobody_there_is_told_in_time_and_others_go_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        async with AsyncClient(f"grpc://127.0.0.1:{mute.getsockname()[1]}", timeout=20, connect_timeout=0.4) as client:
            calls: list[Coroutine[Any, Any, object]] = [client.top(), anext(client.watch(3.0)), client.dealloc("key")]
            for call in calls:
                started, ticks = time.monotonic(), 0
                asked = asyncio.ensure_future(call)
                while not asked.done():
                    await asyncio.sleep(0.01)
                    ticks += 1
                with pytest.raises(remotegpu.ConnectError):
                    await asked
                assert 0.35 < time.monotonic() - started < 1.0
                assert ticks > 10
            trying = asyncio.create_task(client.top())
            await asyncio.sleep(0.2)  # between its attempts, or in one
            trying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await trying
            assert client.statistics().round_trips == 0


@in_loop
async def test_late_server_is_found(start_server: StartServer) -> None:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    async with AsyncClient(f"grpc://127.0.0.1:{port}", timeout=20, connect_timeout=10) as client:
        call = asyncio.create_task(client.top())
        await asyncio.sleep(0.1)  # at least one attempt fails
        server = await asyncio.to_thread(start_server, "--listen", f"127.0.0.1:{port}")
        assert server.port == port
        assert (await call).devices


class Old(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """A server without long-lived streams, as before they came."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        if handler_call_details.method != "/remotegpu.v1.Scheduler/Top":
            return None
        answer = scheduler_pb2.Snapshot(devices=[scheduler_pb2.DeviceStatus()]).SerializeToString()
        return grpc.unary_unary_rpc_method_handler(lambda request, context: answer)


def test_server_without_long_lived_streams() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Old()])
    url = f"grpc://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()

    async def main() -> None:
        async with AsyncClient(url, timeout=10) as client:
            for snapshot in await asyncio.gather(*(client.top() for _ in range(5))):
                assert len(snapshot.devices) == 1
            assert client.statistics().connections == 1

    try:
        asyncio.run(main())
        with Client(url, timeout=10) as client:
            assert len(client.top().devices) == 1
            assert len(client.top().devices) == 1
    finally:
        server.stop(None).wait()


class Deaf:
    """A stream on which nothing comes, until it is cancelled."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self._over = asyncio.Event()

    async def read(self) -> bytes:
        await self._over.wait()
        raise self._error

    def cancel(self) -> None:
        self._over.set()


@in_loop
async def test_stream_is_opened_once_however_long_that_takes() -> None:
    opened: list[Deaf] = []

    async def dial(frames: AsyncIterator[bytes]) -> Deaf:
        await asyncio.sleep(0.01)
        opened.append(Deaf(errors.ConnectionLost(address="a", why="cancelled")))
        return opened[-1]

    conversation = AsyncConversation(dial, "a")
    calls = [conversation.begin("Scheduler/Top", b"", idempotent=True) for _ in range(3)]
    until = time.monotonic() + 0.2
    ended = await asyncio.gather(*(conversation.wait(call, until) for call in calls if call), return_exceptions=True)
    assert [type(error) for error in ended] == [TimeoutError] * 3
    assert len(opened) == 1
    await conversation.close()


@in_loop
async def test_mistake_in_reading_is_told_to_whoever_waits() -> None:
    stream = Deaf(KeyError("ours"))

    async def dial(frames: AsyncIterator[bytes]) -> Deaf:
        return stream

    conversation = AsyncConversation(dial, "a")
    call = conversation.begin("Scheduler/Top", b"", idempotent=True)
    assert call is not None
    waiting = asyncio.create_task(conversation.wait(call, time.monotonic() + 20))
    await asyncio.sleep(0)
    stream.cancel()
    await waiting
    assert isinstance(call.error, errors.ProtocolError)
    assert "ours" in str(call.error)
    await conversation.close()


# ---- ends -------------------------------------------------------------------------------------------------


@in_loop
async def test_close_ends_calls_under_way(server: LocalServer) -> None:
    async with AsyncClient(server.url, timeout=20) as other:
        client = AsyncClient(server.url, timeout=20)
        async with await other.alloc(gpus=2, exclusive=True):
            await client.top()
            watching = client.watch(5.0)
            await anext(watching)
            later = asyncio.ensure_future(anext(watching))
            calls = [asyncio.create_task(client.alloc(timeout=20)) for _ in range(3)]
            await until(functools.partial(waiting, other), "they wait")
            await client.close()
            done, _ = await asyncio.wait([*calls, later], timeout=5)
            assert len(done) == 4
            assert {type(call.exception()).__name__ for call in calls} == {"ConfigurationError"}
            assert isinstance(later.exception(), remotegpu.ConfigurationError | remotegpu.ConnectionLost)

            async def nobody() -> bool:
                return not await waiting(other)

            await until(nobody, "their places are free")
        for refused in (client.top, lambda: client.model("linear")(np.zeros((1, 64), np.float32))):
            with pytest.raises(remotegpu.ConfigurationError, match="closed"):
                await refused()
        with pytest.raises(remotegpu.ConfigurationError, match="closed"):
            client.model("linear").submit(1)
        await client.close()  # again is nothing


def test_event_loops_one_after_the_other_have_clients_of_their_own(server: LocalServer) -> None:
    async def main(*, closes: bool) -> None:
        client = AsyncClient(server.url, timeout=20)
        lease = await client.alloc()
        assert await lease.finish(lease.xp.ones(())) == 1
        if closes:
            await client.close()

    asyncio.run(main(closes=True))
    threads = set(threading.enumerate())
    for closes in (True, False):
        asyncio.run(main(closes=closes))
    gc.collect()
    assert set(threading.enumerate()) <= threads


@in_loop
async def test_held_lease_is_renewed_by_a_task_which_ends_with_it(server: LocalServer) -> None:
    def renewals() -> list[str]:
        return [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "remotegpu-renewal"]

    async with AsyncClient(server.url, timeout=20) as client:
        assert not renewals()
        lease = await client.alloc(idle_ttl=0.4)
        other = await client.alloc(idle_ttl=0.4)
        await asyncio.sleep(1.0)  # more than two idle TTLs
        assert await lease.fetch(lease.xp.ones(())) == 1
        assert renewals() == ["remotegpu-renewal"]
        await other.dealloc()
        x = lease.xp.ones(())
        del lease, other
        await asyncio.sleep(0.6)
        assert len((await client.top()).leases) == 1  # an array holds it
        del x

        async def ended() -> bool:
            return not renewals() and not (await client.top()).leases

        await until(ended, "the task ends with its last lease, and the lease by its TTL")
        lease = await client.alloc(idle_ttl=1000)
        key = lease.id
        await client.top()  # the task sleeps, for 250 seconds
        del lease

        async def no_task() -> bool:
            return not renewals()

        await until(no_task, "it is told at once")
        assert await client.dealloc(key)
        kept = await client.alloc(idle_ttl=0.4)
        assert renewals()
    assert not renewals()
    assert kept.id


@in_loop
async def test_local_starts_one_server_and_ends_it() -> None:
    async with AsyncClient("local:", timeout=30) as client:
        answers = await asyncio.gather(client.top(), client.top())
        assert len({answer.devices[0].worker_pid for answer in answers}) == 1
        process = client._local.process if client._local else None
        assert process is not None
    assert process.poll() == 0
