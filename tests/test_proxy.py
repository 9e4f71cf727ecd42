# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The fault proxy itself: against a socket echo server, and against gRPC."""

import queue
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import grpc
import pytest

from tests.fixtures.proxy import Counters, FaultProxy

END_OF_TEST = 5.0  # seconds, for what must happen at once


class EchoServer(socketserver.ThreadingTCPServer):
    """Sends back what it receives; `received` and `ends` ("fin" or "reset") tell what arrived."""

    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), EchoHandler)
        self.received = bytearray()
        self.ends: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.address: tuple[str, int] = self.socket.getsockname()


class EchoHandler(socketserver.BaseRequestHandler):
    server: EchoServer

    def handle(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while data := self.request.recv(65536):
                self.server.received += data
                self.request.sendall(data)
        except ConnectionError:
            self.server.ends.put("reset")
        else:
            self.server.ends.put("fin")


@pytest.fixture
def echo_server() -> Iterator[EchoServer]:
    with EchoServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(echo_server: EchoServer) -> Iterator[FaultProxy]:
    with FaultProxy(echo_server.address) as proxy:
        yield proxy


def connect(proxy: FaultProxy) -> socket.socket:
    client = socket.create_connection(proxy.address, timeout=END_OF_TEST)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def receive(client: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = client.recv(count - len(data))
        if not part:
            break
        data += part
    return bytes(data)


def test_bytes_and_round_trips_are_counted_per_direction(proxy: FaultProxy) -> None:
    with connect(proxy) as first, connect(proxy) as second:
        for client, message in [(first, b"one"), (first, b"three"), (second, b"seven!!")]:
            client.sendall(message)
            assert receive(client, len(message)) == message
        counted = Counters(connections=2, bytes_to_server=15, bytes_to_client=15, round_trips=3)
        assert proxy.counters == counted
        proxy.reset_counters()
        assert proxy.counters == Counters()
        first.sendall(b"x")
        receive(first, 1)
        assert proxy.counters == Counters(bytes_to_server=1, bytes_to_client=1, round_trips=1)


def test_answer_to_what_was_sent_before_a_reset_is_no_round_trip(proxy: FaultProxy) -> None:
    proxy.delay = 0.2
    with connect(proxy) as client:
        client.sendall(b"x")
        while proxy.counters.bytes_to_server == 0:
            time.sleep(0.001)
        proxy.reset_counters()
        receive(client, 1)
    assert proxy.counters == Counters(bytes_to_client=1)


def test_half_closed_connection_still_brings_the_answer(proxy: FaultProxy, echo_server: EchoServer) -> None:
    with connect(proxy) as client:
        client.sendall(b"last")
        client.shutdown(socket.SHUT_WR)
        assert receive(client, 100) == b"last"
    assert echo_server.ends.get(timeout=END_OF_TEST) == "fin"


def test_end_of_a_connection_loses_nothing_under_way(proxy: FaultProxy, echo_server: EchoServer) -> None:
    data = bytes(range(256)) * 4096
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)  # so that most of it waits in the proxy
        client.settimeout(END_OF_TEST)
        client.connect(proxy.address)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert echo_server.ends.get(timeout=END_OF_TEST) == "fin"
        first = receive(client, len(data) - 200_000)  # the rest fits in the sockets: the proxy is done with it
        time.sleep(0.1)  # and has closed its ends, unless the machine is slow; then this test only sees less
        assert first + receive(client, 200_001) == data


def test_delay_is_added_in_both_directions_without_serialising(proxy: FaultProxy) -> None:
    proxy.delay = 0.2
    with connect(proxy) as client:
        start = time.monotonic()
        for number in range(20):  # one after the other, not waiting for answers
            client.sendall(bytes([number]))
            time.sleep(0.002)
        assert receive(client, 1) == b"\0"
        assert time.monotonic() - start >= 0.4
        assert receive(client, 19) == bytes(range(1, 20))
    assert time.monotonic() - start < 1.5  # 20 round trips in a row would be 8 s
    assert proxy.counters.round_trips == 1


def test_delay_does_not_limit_throughput(proxy: FaultProxy) -> None:
    proxy.delay = 0.05
    data = bytes(range(256)) * (32 * 1024 * 4)  # 32 MiB, far more reads than fit in the time if each was waited for
    with connect(proxy) as client:
        start = time.monotonic()
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        assert receive(client, len(data)) == data
        sender.join()
    assert time.monotonic() - start < 4.0


def test_cut_resets_both_ends_and_new_connections_work(proxy: FaultProxy, echo_server: EchoServer) -> None:
    with connect(proxy) as client:
        client.sendall(b"x")
        receive(client, 1)
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert echo_server.ends.get(timeout=END_OF_TEST) == "reset"
    with connect(proxy) as client:
        client.sendall(b"y")
        assert receive(client, 1) == b"y"


def test_black_hole_swallows_bytes_and_keeps_connections(proxy: FaultProxy, echo_server: EchoServer) -> None:
    with connect(proxy) as client, connect(proxy) as closing:
        for end in (client, closing):
            end.sendall(b"a")
            receive(end, 1)
        proxy.blackhole(True)
        client.sendall(b"lost")
        closing.close()
        with connect(proxy) as late:
            late.sendall(b"lost")
            late.settimeout(0.3)
            with pytest.raises(TimeoutError):
                late.recv(1)
        assert echo_server.ends.empty()
        proxy.blackhole(False)
        client.sendall(b"b")
        assert receive(client, 1) == b"b"
    assert bytes(echo_server.received) == b"aab"


@pytest.mark.parametrize("how", ["fin", "rst", "silent"])
def test_lost_connections_are_lost_as_said_and_new_ones_work(
    proxy: FaultProxy, echo_server: EchoServer, how: Literal["fin", "rst", "silent"]
) -> None:
    with connect(proxy) as client:
        client.sendall(b"a")
        receive(client, 1)
        proxy.lose(how)
        if how == "fin":
            assert client.recv(1) == b""
        client.sendall(b"lost")
        client.settimeout(0.3)
        if how == "rst":
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        elif how == "silent":
            with pytest.raises(TimeoutError):
                client.recv(1)
    with connect(proxy) as client:
        client.sendall(b"b")
        assert receive(client, 1) == b"b"
    if how != "fin":
        assert bytes(echo_server.received) == b"ab"


@pytest.mark.parametrize("count", [0, 3])
def test_truncation_delivers_the_bytes_before_it_and_closes(
    proxy: FaultProxy, echo_server: EchoServer, count: int
) -> None:
    proxy.delay = 0.02
    with connect(proxy) as client:
        client.sendall(b"ab")
        receive(client, 2)
        proxy.truncate_after(count)
        client.sendall(b"cdefg")
        assert client.recv(1) == b""
    echo_server.ends.get(timeout=END_OF_TEST)
    assert bytes(echo_server.received) == b"abcdefg"[: 2 + count]
    with connect(proxy) as client:  # it is spent
        client.sendall(b"next")
        assert receive(client, 4) == b"next"


def test_refused_target_resets_the_client(echo_server: EchoServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = closed.getsockname()
    with FaultProxy(address) as proxy, pytest.raises(ConnectionResetError), connect(proxy) as client:
        client.recv(1)


def frame(kind: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, 0, 0, 0, 0, 1]) + payload


def test_other_protocols_have_no_requests(proxy: FaultProxy) -> None:
    message = b"GET / HTTP/1.1\r\n\r\nabcdef" + frame(0x1, b"") + frame(0x0, b"data")
    with connect(proxy) as client:
        client.sendall(message)
        assert receive(client, len(message)) == message
    assert (proxy.counters.requests, proxy.counters.turns, proxy.counters.round_trips) == (0, 0, 1)


def test_frames_are_found_however_they_are_split(proxy: FaultProxy) -> None:
    headers, data, settings = 0x1, 0x0, 0x4
    # The payload of the SETTINGS frame looks like a frame of its own, and must not be taken for one.
    frames = [frame(settings, frame(headers, b"")), frame(headers, b"path"), frame(data, b""), frame(headers, b"")]
    stream = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"".join(frames)
    with connect(proxy) as client:
        for byte in stream:  # each is read alone, since its echo is awaited
            client.sendall(bytes([byte]))
            receive(client, 1)
        assert proxy.counters.requests == 2
        assert proxy.counters.turns == 0  # the echoed bytes are no frames
        proxy.reset_counters()
        client.sendall(b"".join(frames))
        receive(client, sum(map(len, frames)))
        assert proxy.counters.requests == 2


class GrpcEcho:
    """A server of one unary and one bidirectional method, and a channel to it through a proxy."""

    def __init__(self) -> None:
        self.entered, self.may_answer = threading.Event(), threading.Event()
        self.may_answer.set()
        handlers = {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "Stream": grpc.stream_stream_rpc_method_handler(lambda messages, context: messages),
        }
        self.server = grpc.server(ThreadPoolExecutor(4))
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo", handlers),))
        self.address = ("127.0.0.1", self.server.add_insecure_port("127.0.0.1:0"))

    def unary(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        self.entered.set()
        self.may_answer.wait(END_OF_TEST)
        return message


@pytest.fixture
def grpc_echo() -> Iterator[GrpcEcho]:
    echo = GrpcEcho()
    echo.server.start()
    yield echo
    echo.may_answer.set()
    echo.server.stop(None).wait()


@pytest.fixture
def grpc_proxy(grpc_echo: GrpcEcho) -> Iterator[FaultProxy]:
    with FaultProxy(grpc_echo.address) as proxy:
        yield proxy


@pytest.fixture
def channel(grpc_proxy: FaultProxy) -> Iterator[grpc.Channel]:
    """A channel whose connection is set up, with the counters at zero."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    target = "{}:{}".format(*grpc_proxy.address)
    with grpc.insecure_channel(target, options=options) as channel:
        assert unary(channel)(b"warm up", timeout=END_OF_TEST) == b"warm up"
        grpc_proxy.reset_counters()
        yield channel


def unary(channel: grpc.Channel) -> "grpc.UnaryUnaryMultiCallable[bytes, bytes]":
    return channel.unary_unary("/echo/Unary", bytes, bytes)


def stream(channel: grpc.Channel) -> "grpc.StreamStreamMultiCallable[bytes, bytes]":
    return channel.stream_stream("/echo/Stream", bytes, bytes)


@pytest.mark.parametrize("size", [5, 1_000_000])
def test_unary_call_is_one_request_and_one_turn(grpc_proxy: FaultProxy, channel: grpc.Channel, size: int) -> None:
    message = b"x" * size
    assert unary(channel)(message, timeout=END_OF_TEST) == message
    counters = grpc_proxy.counters
    assert (counters.connections, counters.requests, counters.turns) == (0, 1, 1)
    assert counters.bytes_to_server > size
    assert counters.bytes_to_client > size


def test_sequential_calls_are_counted_each(grpc_proxy: FaultProxy, channel: grpc.Channel) -> None:
    for _ in range(3):
        unary(channel)(b"x", timeout=END_OF_TEST)
    assert (grpc_proxy.counters.requests, grpc_proxy.counters.turns) == (3, 3)


def test_concurrent_calls_share_a_turn(grpc_proxy: FaultProxy, channel: grpc.Channel, grpc_echo: GrpcEcho) -> None:
    grpc_echo.may_answer.clear()
    calls = [unary(channel).future(b"x", timeout=END_OF_TEST) for _ in range(3)]
    while grpc_proxy.counters.requests < 3:
        time.sleep(0.001)
    grpc_echo.may_answer.set()
    assert [call.result() for call in calls] == [b"x"] * 3
    assert grpc_proxy.counters.turns == 1


def test_stream_counts_one_turn_per_message_and_answer(grpc_proxy: FaultProxy, channel: grpc.Channel) -> None:
    assert list(stream(channel)(iter([b"one"]), timeout=END_OF_TEST)) == [b"one"]
    assert (grpc_proxy.counters.requests, grpc_proxy.counters.turns) == (1, 1)
    grpc_proxy.reset_counters()
    to_send: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    answers = iter(stream(channel)(iter(to_send.get, None), timeout=END_OF_TEST))
    for message in (b"one", b"two"):
        to_send.put(message)
        assert next(answers) == message
    to_send.put(None)
    assert list(answers) == []
    assert (grpc_proxy.counters.requests, grpc_proxy.counters.turns) == (1, 2)


def test_call_takes_two_delays_more(grpc_proxy: FaultProxy, channel: grpc.Channel) -> None:
    grpc_proxy.delay = 0.1
    times = []
    for _ in range(3):
        start = time.monotonic()
        unary(channel)(b"x", timeout=END_OF_TEST)
        times.append(time.monotonic() - start)
    assert min(times) >= 0.2
    assert min(times) < 0.3  # not three delays


def test_cut_makes_a_call_unavailable(grpc_proxy: FaultProxy, channel: grpc.Channel, grpc_echo: GrpcEcho) -> None:
    grpc_echo.may_answer.clear()
    grpc_echo.entered.clear()
    call = unary(channel).future(b"x", timeout=END_OF_TEST)
    assert grpc_echo.entered.wait(END_OF_TEST)
    grpc_proxy.cut()
    assert call.code() == grpc.StatusCode.UNAVAILABLE


def test_black_hole_makes_a_call_exceed_its_deadline(grpc_proxy: FaultProxy, channel: grpc.Channel) -> None:
    grpc_proxy.blackhole(True)
    with pytest.raises(grpc.RpcError) as caught:
        unary(channel)(b"x", timeout=0.5)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert grpc_proxy.counters.connections == 0  # the client believes in its connection
