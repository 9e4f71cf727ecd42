# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Long-lived streams of a real server: many calls at once, broken and bad streams, those that nobody reads."""

from __future__ import annotations

import asyncio
import queue
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest

import remotegpu
from remotegpu import Client, errors, graph, program, wire
from remotegpu.local import LocalServer
from remotegpu.v1 import compute_pb2, scheduler_pb2, stream_pb2
from remotegpu_server.gateway import stream
from tests.conftest import StartServer, wait_until
from tests.fixtures.proxy import FaultProxy


class RawStream:
    """A stream without our client."""

    def __init__(self, port: int, identity: bytes | None = None, *, greet: bool = True) -> None:
        self.identity = identity or secrets.token_bytes(16)
        self._unsent: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        if greet:
            self.send(stream_pb2.Envelope(hello=stream_pb2.Hello(id=self.identity)))
        connect: Any = self._channel.stream_stream("/remotegpu.v1.Compute/Connect")  # type: ignore[call-arg]
        self.call = connect(iter(self._unsent.get, None), timeout=50)

    def send(self, envelope: stream_pb2.Envelope, middle: bytes = b"", body: bytes = b"") -> None:
        self.send_bytes(wire.join(b"", middle, (body,), envelope=envelope.SerializeToString()))

    def send_bytes(self, frame: bytes) -> None:
        self._unsent.put(frame)

    def read(self) -> stream_pb2.Envelope:
        return wire.parse(stream_pb2.Envelope, wire.split_frame(next(self.call))[0])

    def error(self) -> errors.Error:
        """How the server has ended the stream."""
        with pytest.raises(grpc.RpcError) as caught:
            for _ in self.call:
                pass
        failure: Any = caught.value
        return wire.error_from(dict(failure.trailing_metadata())[wire.ERROR_KEY])

    def close_sending(self) -> None:
        self._unsent.put(None)

    def close(self) -> None:
        self.close_sending()
        self.call.cancel()
        self._channel.close()


@pytest.fixture
def raw(server: LocalServer) -> Iterator[RawStream]:
    stream = RawStream(server.port)
    yield stream
    stream.close()


def ask_top(call: int, **fields: Any) -> tuple[stream_pb2.Envelope, bytes]:
    envelope = stream_pb2.Envelope(call=call, method="Scheduler/Top", **fields)
    return envelope, scheduler_pb2.TopRequest().SerializeToString()


def test_many_threads_share_one_stream_and_get_their_own_answers(client: Client, server: LocalServer) -> None:
    model = client.model("linear")
    inputs = [np.full((1, 64), n, np.float32) for n in range(64)]
    wanted = [model(x)["y"] for x in inputs]
    with futures.ThreadPoolExecutor(32) as pool:
        for _ in range(3):
            for got, want in zip(pool.map(lambda x: model(x)["y"], inputs), wanted, strict=True):
                np.testing.assert_allclose(got, want, rtol=1e-5)
    assert client.statistics().connections == 1


def test_more_calls_than_a_stream_takes_have_calls_of_their_own(start_server: StartServer) -> None:
    server = start_server(gpus="cpu")
    with Client(server.url, timeout=30) as client, Client(server.url, timeout=30) as other:
        holder = other.alloc(exclusive=True)
        with futures.ThreadPoolExecutor(150) as pool:
            waiting = [pool.submit(client.alloc, timeout=30) for _ in range(150)]
            wait_until(lambda: len(other.top().queue) == 150, "all wait, on the stream and beside it")
            holder.dealloc()
            for call in futures.as_completed(waiting, timeout=30):
                call.result().dealloc()


def test_slow_call_does_not_hold_up_small_ones(client: Client) -> None:
    with client.alloc() as lease, futures.ThreadPoolExecutor(1) as pool:
        x = lease.xp.ones((2500, 2500))
        slow = pool.submit(lease.fetch, lease.xp.sum(x @ x))
        quick = 0
        while not slow.done():
            started = time.monotonic()
            client.top()
            quick += time.monotonic() - started < 0.2
        assert quick > 3
        assert slow.result() == 2500.0**3


def test_program_goes_on_when_its_connection_breaks_and_is_not_run_twice(server: LocalServer) -> None:
    with (
        FaultProxy(("127.0.0.1", server.port)) as proxy,
        Client(f"grpc://127.0.0.1:{proxy.address[1]}", timeout=20) as client,
        Client(server.url, timeout=20) as direct,
        client.alloc() as lease,
        futures.ThreadPoolExecutor(1) as pool,
    ):
        calls = sum(device.calls for device in direct.top().devices)
        x = lease.xp.ones((1800, 1800))
        slow = pool.submit(lease.fetch, lease.xp.sum(x @ x))
        wait_until(lambda: any(lease.calls_running for lease in direct.top().leases), "it runs")
        proxy.cut()
        assert slow.result(20) == 1800.0**3
        assert client.statistics().connections == 2
        assert sum(device.calls for device in direct.top().devices) == calls + 1


def test_program_is_not_repeated_with_a_server_that_was_restarted(start_server: StartServer) -> None:
    first = start_server()
    with Client(first.url, timeout=20, connect_timeout=1.0) as client, client.alloc() as lease:
        x = lease.xp.ones((2500, 2500))
        with futures.ThreadPoolExecutor(1) as pool:
            slow = pool.submit(lease.fetch, lease.xp.sum(x @ x))
            with Client(first.url) as other:
                wait_until(lambda: any(lease.calls_running for lease in other.top().leases), "it runs")
            first.process.kill()
            with pytest.raises(remotegpu.ConnectionLost):
                slow.result(20)


def test_interrupted_wait_leaves_the_queue(start_server: StartServer) -> None:
    server = start_server()
    with Client(server.url, timeout=20) as client, Client(server.url, timeout=20) as other:
        with other.alloc(exclusive=True), pytest.raises(remotegpu.Busy):
            client.alloc(timeout=0.2)
        raw = RawStream(server.port)
        with other.alloc(exclusive=True):
            raw.send(*_alloc(1))
            wait_until(lambda: other.top().queue, "it waits")
            raw.send(stream_pb2.Envelope(call=1, cancel=True))
            wait_until(lambda: not other.top().queue, "its place is free")
            raw.send(*_alloc(2))
            wait_until(lambda: other.top().queue, "it waits")
            raw.close()
            wait_until(lambda: not other.top().queue, "the end of the stream leaves the queue")


def _alloc(call: int) -> tuple[stream_pb2.Envelope, bytes]:
    from remotegpu.v1 import lease_pb2

    request = lease_pb2.AllocRequest(gpus=1, timeout_ms=20_000, request_id=f"id{call}")
    return stream_pb2.Envelope(call=call, method="Scheduler/Alloc"), request.SerializeToString()


def test_repeated_call_gets_the_same_answer_until_it_is_acknowledged(raw: RawStream, server: LocalServer) -> None:
    assert raw.read().hello.most_calls > 0
    raw.send(*ask_top(1))
    assert raw.read().call == 1
    again = RawStream(server.port, raw.identity)  # the same client, whose first stream is replaced
    boot = again.read().hello.id
    again.send(*ask_top(1))
    assert not again.read().HasField("error")
    again.send(*ask_top(2, acknowledged=1))
    assert again.read().call == 2
    again.send(*ask_top(1))
    assert again.read().error.kind == "OutcomeUnknown"
    assert isinstance(raw.error(), errors.Unavailable)
    again.close()
    other = RawStream(server.port)
    assert other.read().hello.id == boot
    other.close()


BAD_FRAMES = {
    "no hello": (b"", "does not begin with the client's id"),
    "short id": (wire.join(b"", b"", envelope=b"\x32\x03\x0a\x01i"), "does not begin with the client's id"),
    "not a frame": (b"\xff\xff", "unexpected tag"),
    "cut short": (b"\x22\x7f\x08", "cut short"),
}


@pytest.mark.parametrize(("frame", "what"), BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_stream_that_begins_badly(server: LocalServer, frame: bytes, what: str) -> None:
    stream = RawStream(server.port, greet=False)
    stream.send_bytes(frame)
    assert what in str(stream.error())
    stream.close()


@pytest.mark.parametrize(
    ("frame", "what"),
    [
        (wire.join(b"", b"middle", envelope=b"\x12\x01x"), "without the number"),
        (b"\x0a\x05ab", "cut short"),
        (wire.join(b"", bytes(1024 * 1024), envelope=b"\x08\x01"), "RunStream takes more"),
    ],
    ids=["no number", "cut short", "too large"],
)
def test_frame_that_ends_the_stream(raw: RawStream, frame: bytes, what: str) -> None:
    raw.read()
    raw.send_bytes(frame)
    error = raw.error()
    assert isinstance(error, errors.ProtocolError)
    assert what in str(error)


def test_why_a_stream_ends_is_heard_while_the_greeting_is_on_the_way(server: LocalServer) -> None:
    for _ in range(10):
        stream = RawStream(server.port)
        stream.send_bytes(b"\x0a\x05ab")
        assert "cut short" in str(stream.error())
        stream.close()


def test_bad_calls_fail_alone(raw: RawStream) -> None:
    raw.read()
    raw.send(stream_pb2.Envelope(call=1, method="Scheduler/Nonsense"))
    assert raw.read().error.kind == "ProtocolError"
    raw.send(stream_pb2.Envelope(call=2, method="Scheduler/Top"), b"\xff")
    assert raw.read().error.kind == "ProtocolError"
    raw.send(stream_pb2.Envelope(call=3), b"not a program")
    assert raw.read().error.kind == "ProtocolError"
    raw.send(*ask_top(4))
    assert not raw.read().HasField("error")


def test_result_above_the_limit_of_frames_is_refused_and_the_rest_goes_on(client: Client) -> None:
    with client.alloc() as lease:
        # Its size is not known before, so the client asks by a stream of its own, and gets it.
        x = lease.xp.arange(0, 100_000)
        assert len(lease.fetch(x[x >= 0])) == 100_000


def test_drain_is_clean_for_busy_clients(start_server: StartServer, models: Path) -> None:
    server = start_server("--models", str(models))
    x, begun, ended = np.ones((1, 64), np.float32), threading.Event(), []

    def work() -> None:
        with Client(server.url, timeout=20, connect_timeout=1.0) as client:
            try:
                while True:
                    client.model("linear")(x)
                    begun.set()
            except remotegpu.Error as error:
                ended.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert begun.wait(20)
    assert server.stop() == 0
    for thread in threads:
        thread.join(20)
    # What was refused, or never arrived, can be tried elsewhere. A call that is sent again just as the port closes is
    # cut off by gRPC itself, which does not tell whether it had arrived.
    assert len(ended) == 3
    assert all(error.retryable or "CANCELLED" in str(error) for error in ended), ended


def test_drain_ends_idle_streams_at_once(start_server: StartServer) -> None:
    server = start_server()
    with Client(server.url) as client:
        client.top()
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 5.0


def test_stream_that_the_client_has_closed_ends_with_its_last_answer(raw: RawStream) -> None:
    for call in range(1, 61):
        raw.send_bytes(large_answer(call))
    raw.close_sending()
    answered = set()
    for frame in raw.call:
        answered.add(wire.parse(stream_pb2.Envelope, wire.split_frame(frame)[0]).call)
        time.sleep(0.02)  # it reads slowly, so that answers wait to be sent
    assert answered == set(range(61))  # 0: the greeting


def test_client_that_comes_and_goes_keeps_its_programs_for_the_whole_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_RESUMED_WITHIN", 0.4)

    async def scenario() -> None:
        ended = asyncio.Event()

        def program(asked: stream.Asked, client: stream.Client, call: int) -> Any:
            async def run() -> bytes:
                client.submitted(call)
                try:
                    await asyncio.Event().wait()
                finally:
                    ended.set()
                return b""

            return SimpleNamespace(begin=lambda told: None, run=run)

        client = stream.Streams({}, program).client("tenant", bytes(16))
        connection: Any = SimpleNamespace(caller=1)
        client.attach(connection)
        client.receive(large_answer(1))
        await asyncio.sleep(0)
        client.detach(connection)
        await asyncio.sleep(0.3)
        client.attach(connection)
        client.detach(connection)
        began = time.monotonic()
        await ended.wait()
        assert time.monotonic() - began > 0.35

    asyncio.run(scenario())


def test_clients_are_told_apart_where_batches_wait_for_company(start_server: StartServer, models: Path) -> None:
    server = start_server("--models", str(models), "--max-delay", "300")
    x = np.ones((1, 64), np.float32)
    with Client(server.url, timeout=20) as one, Client(server.url, timeout=20) as other:
        first, second = one.model("linear"), other.model("linear")
        first(x)
        began = time.monotonic()
        first(x)
        assert time.monotonic() - began < 0.25  # there is nobody to wait for
        second(x)
        began = time.monotonic()
        first(x)
        assert time.monotonic() - began > 0.29


@pytest.mark.slow
def test_client_that_does_not_read_is_cut_off_and_others_go_on(start_server: StartServer) -> None:
    server = start_server()
    raw = RawStream(server.port)
    with Client(server.url, timeout=20) as client:
        for call in range(1, 400):
            raw.send_bytes(large_answer(call))
        wait_until(lambda: "does not read" in server.last_words(), "the server cuts it off", 40)
        assert client.top().devices
        answered = 0
        while True:
            try:
                answered += raw.read().call > 0
            except grpc.RpcError:
                break
        assert 0 < answered < 400
    raw.close()


def large_answer(call: int, **fields: Any) -> bytes:
    """The frame of a program whose result has 200 KB."""
    value = graph.Value(graph.Operation("zeros", ((25_000,),)))
    encoded, _ = program.encode(graph.plan([value], keep=None))
    header = compute_pb2.RunHeader(deadline_ms=60_000, **fields)
    return wire.join(header.SerializeToString(), encoded.SerializeToString(), envelope=wire.call_envelope(call))


@pytest.mark.slow
def test_a_thousand_half_open_streams_do_not_lock_out_others(start_server: StartServer) -> None:
    server = start_server()
    channels = [grpc.insecure_channel(f"127.0.0.1:{server.port}") for _ in range(10)]
    unsent: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    half_open: list[Any] = []
    for number in range(1000):
        connect: Any = channels[number % 10].stream_stream("/remotegpu.v1.Compute/Connect")  # type: ignore[call-arg]
        half_open.append(connect(iter(unsent.get, None)))
    with Client(server.url, timeout=20) as client:
        assert client.top().devices
        with client.lease(timeout=5) as lease:
            assert lease.finish(lease.xp.sum(lease.xp.ones(10))) == 10
    for call in half_open:
        call.cancel()
    for _ in half_open:
        unsent.put(None)
    for channel in channels:
        channel.close()
