# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The client when threads, models, servers and networks change under it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import remotegpu
from remotegpu import Client, Lease, errors, graph, program
from remotegpu import client as client_module
from remotegpu.local import LocalServer
from remotegpu.reservation import Reservation
from remotegpu.v1 import lease_pb2
from tests.conftest import StartServer, wait_until
from tests.fixtures.proxy import FaultProxy


def write_model(root: Path, name: str, outputs: dict[str, str]) -> None:
    """A model of float32[2] whose outputs are the named operation of `x` and itself, in this order."""
    nodes = [helper.make_node(operation, ["x", "x"], [output]) for output, operation in outputs.items()]
    made = [helper.make_tensor_value_info(output, TensorProto.FLOAT, [2]) for output in outputs]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    model = helper.make_model(helper.make_graph(nodes, name, [x], made), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    (root / name / "1").mkdir(parents=True, exist_ok=True)
    onnx.save(model, root / name / "1" / "model.onnx")


def reload(server: LocalServer, name: str) -> None:
    """By another client, so that the one under test learns nothing of it."""
    with Client(server.url, timeout=20) as other:
        other.load_model(name)


@pytest.mark.parametrize("idempotent", [False, True])
def test_threads_recover_together_from_one_cut(server: LocalServer, idempotent: bool) -> None:
    x = np.zeros((1, 64), np.float32)
    failures: list[BaseException] = []
    done = [0] * 8
    stop = threading.Event()

    def work(index: int, client: Client) -> None:
        while not stop.is_set():
            try:
                client.top() if idempotent else client.model("linear")(x)
                done[index] += 1
            except remotegpu.TransportError as error:
                failures.append(error)
            except BaseException as error:
                failures.append(error)
                raise

    with (
        FaultProxy(("127.0.0.1", server.port)) as proxy,
        Client(f"grpc://127.0.0.1:{proxy.address[1]}", timeout=10) as client,
        futures.ThreadPoolExecutor(8) as pool,
    ):
        client.top()
        threads = [pool.submit(work, index, client) for index in range(8)]
        try:
            wait_until(lambda: min(done) > 5, "all threads are at work")

            def cut() -> bool:
                """Whether it met a call: between calls gRPC connects again by itself, and nobody notices."""
                proxy.cut()
                before = list(done)
                wait_until(lambda: all(n > b + 20 for n, b in zip(done, before, strict=True)), "all succeed again")
                return client.statistics().connections > 1

            wait_until(cut, "a cut has met a call", 30)
        finally:
            stop.set()
        for thread in threads:
            thread.result(timeout=20)
        assert client.statistics().connections == 2
    # Those that may not run twice were sent again too: the server knows their numbers.
    assert not failures


def refuses(client: Client) -> bool:
    with pytest.raises(remotegpu.ConfigurationError) as caught:
        client.top()
    return "closed" in str(caught.value)


def test_closed_client_says_so_and_does_not_connect_again(server: LocalServer) -> None:
    client = Client(server.url, timeout=20)
    lease = client.alloc()
    client.close()
    assert refuses(client)
    with pytest.raises(remotegpu.ConfigurationError, match="closed"):
        lease.fetch(lease.xp.ones(()))
    client.close()  # again is nothing
    assert client.statistics().connections == 1
    with Client(server.url) as other:
        assert other.dealloc(lease.id)


def test_call_that_finds_its_channel_closed(server: LocalServer) -> None:
    client = Client(server.url, timeout=20)
    client.top()
    client._connected()._streams = False
    connection = client._connected()._connection
    assert connection is not None
    connection.channel.close()  # as another thread's `close` does between the choice of the channel and the call
    assert refuses(client)
    client.close()


def test_close_ends_calls_under_way(server: LocalServer) -> None:
    with Client(server.url, timeout=20) as other:
        client = Client(server.url, timeout=20)
        holder = other.alloc(gpus=2, exclusive=True)
        with futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(client.alloc, timeout=20)
            wait_until(lambda: other.top().queue, "it waits")
            client.close()
            assert isinstance(waiting.exception(timeout=10), remotegpu.ConfigurationError)
        wait_until(lambda: not other.top().queue, "its place is free")
        holder.dealloc()


def test_closed_client_starts_no_local_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "LocalServer", None)  # would be a TypeError
    client = Client("local:")
    client.close()
    assert refuses(client)


def test_outputs_are_found_by_name_when_the_models_file_has_changed(tmp_path: Path, start_server: StartServer) -> None:
    write_model(tmp_path, "m", {"double": "Add", "square": "Mul"})
    server = start_server("--models", str(tmp_path), "--allow-uploads")
    x = np.array([3, 5], np.float32)
    with Client(server.url, timeout=20) as client:
        client.models()
        with client.lease(timeout=20) as lease:
            outputs = lease.model("m")(x)
            double, square = outputs
            assert double.dtype == np.float32
            write_model(tmp_path, "m", {"square": "Mul", "double": "Add"})
            reload(server, "m")
            np.testing.assert_array_equal(lease.fetch(double), x + x)
            np.testing.assert_array_equal(lease.finish(square), x * x)


def test_model_that_came_later_is_not_refused(tmp_path: Path, start_server: StartServer) -> None:
    write_model(tmp_path, "m", {"double": "Add"})
    server = start_server("--models", str(tmp_path), "--allow-uploads")
    x = np.array([3, 5], np.float32)
    with Client(server.url, timeout=20) as client, client.lease(timeout=20) as lease:
        client.models()
        write_model(tmp_path, "late", {"double": "Add", "square": "Mul"})
        reload(server, "late")
        assert len(lease.model("late")(x)) == 2
        client.catalog.models = {name: model for name, model in client.catalog.models.items() if name == "m"}
        np.testing.assert_array_equal(lease.fetch(lease.model("late")(x)["square"]), x * x)
        with pytest.raises(remotegpu.ModelNotFound) as caught:
            len(lease.model("never")(x))
        assert caught.value.limit == "late, late:1, m, m:1"


def test_big_endian_input_of_a_one_call_model(client: Client) -> None:
    x = np.arange(64, dtype=np.float32).reshape(1, 64)
    swapped = client.model("linear")(x.astype(">f4"))  # the signature is not known yet
    wanted = client.model("linear")(x)
    np.testing.assert_array_equal(swapped["y"], wanted["y"])
    np.testing.assert_array_equal(client.model("linear")(x.astype(">f4"))["y"], wanted["y"])


def test_big_endian_array_is_not_encoded() -> None:
    array = np.ones(3, ">f4")
    value = graph.Value(graph.Source(array), graph.Meta(array.dtype, array.shape))
    with pytest.raises(remotegpu.InvalidInput, match="little-endian"):
        program.encode(graph.plan([value], keep=None))


class Refuser(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """Answers every call with one status and no detail of ours."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self._status = code, details

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        def refuse(_request: bytes, context: grpc.ServicerContext) -> bytes:
            context.abort(*self._status)
            raise AssertionError("abort has raised")

        return grpc.unary_unary_rpc_method_handler(refuse)


@contextlib.contextmanager
def refusing(code: grpc.StatusCode, details: str) -> Iterator[Client]:
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[Refuser(code, details)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Client(f"grpc://127.0.0.1:{port}", timeout=10) as client:
            yield client
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("code", [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL], ids=str)
def test_leaving_a_block_does_not_raise_over_its_result(code: grpc.StatusCode) -> None:
    with refusing(code, "no") as client:
        with pytest.raises(errors.Error):
            client.dealloc("key")
        assert client.dealloc("key", tolerant=True) is False
        with pytest.raises(KeyError, match="body"), Lease(client, Reservation(), lease_pb2.LeaseGrant(lease="key")):
            raise KeyError("body")


@pytest.mark.parametrize(
    ("details", "kind"),
    [
        ("Concurrent RPC limit exceeded!", errors.Unavailable),
        ("Received message larger than max (9 vs. 4)", errors.UnknownRemoteError),
    ],
)
def test_resources_of_grpc_that_are_exhausted(details: str, kind: type[errors.Error]) -> None:
    with refusing(grpc.StatusCode.RESOURCE_EXHAUSTED, details) as client, pytest.raises(errors.Error) as caught:
        client.top()
    assert type(caught.value) is kind
    assert caught.value.retryable == (kind is errors.Unavailable)
    # What gRPC said stands beside an error that says no more; beside others it would only drown the sentence.
    assert (caught.value.__cause__ is not None) == (kind is errors.UnknownRemoteError)
    assert caught.value.__suppress_context__


def test_threads_share_one_local_server(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[LocalServer] = []

    class Counted(LocalServer):
        def __init__(self) -> None:
            super().__init__()
            started.append(self)

    monkeypatch.setattr(client_module, "LocalServer", Counted)
    try:
        with Client("local:") as client, futures.ThreadPoolExecutor(2) as pool:
            answers = [call.result(timeout=60) for call in [pool.submit(client.top) for _ in range(2)]]
        assert len(started) == 1
        assert len({answer.devices[0].worker_pid for answer in answers}) == 1
    finally:
        for server in started:
            server.stop()


def test_what_a_failed_call_kept_is_freed_by_the_next(server: LocalServer) -> None:
    with (
        FaultProxy(("127.0.0.1", server.port)) as proxy,
        Client(f"grpc://127.0.0.1:{proxy.address[1]}", timeout=20) as client,
        Client(server.url, timeout=20) as direct,
        client.alloc(gpus=1) as lease,
    ):
        held_before = sum(device.memory_held for device in direct.top().devices)
        kept = lease.xp.ones((1000, 1000)) + 1

        def held() -> int:
            return sum(device.memory_held for device in direct.top().devices) - held_before

        # The request arrives and the answer is lost: the proxy's way back takes longer than the deadline.
        proxy.delay = 0.4
        with pytest.raises(remotegpu.TransportError):
            lease.fetch(lease.xp.sum(kept), timeout=0.2)
        proxy.delay = 0.0
        wait_until(lambda: held() >= 8_000_000, "the program ran and kept it")
        assert lease.fetch(lease.xp.ones(())) == 1
        wait_until(lambda: held() < 1000, "what it kept is freed")
        assert lease.fetch(lease.xp.sum(kept)) == 2_000_000


UNUSABLE = [0.0, -1.0, float("inf"), float("nan"), 1e300]


@pytest.mark.parametrize("seconds", UNUSABLE)
def test_times_that_nobody_can_wait(client: Client, seconds: float) -> None:
    with pytest.raises(remotegpu.InvalidInput) as caught:
        Client("grpc://127.0.0.1:9", timeout=seconds)
    assert caught.value.field == "timeout"
    for field in ("idle_ttl", "hard_ttl"):
        with pytest.raises(remotegpu.InvalidInput) as caught:
            client.alloc(**{field: seconds})  # type: ignore[arg-type]  # all fields of that name are seconds
        assert caught.value.field == field
    lease = client.lease()
    with pytest.raises(remotegpu.InvalidInput) as caught:
        lease.fetch(lease.xp.ones(()), timeout=seconds)
    assert caught.value.field == "timeout"
    if seconds:  # in the queue, 0 is an answer at once
        with pytest.raises(remotegpu.InvalidInput) as caught:
            client.alloc(timeout=seconds)
        assert caught.value.field == "timeout"


def test_timeout_is_for_all_attempts_together() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        # Refuses connections for 0.5 s, then takes them and never answers.
        listening = threading.Timer(0.5, mute.listen)
        with Client(f"grpc://127.0.0.1:{mute.getsockname()[1]}", timeout=1.0) as client:
            listening.start()
            started = time.monotonic()
            with pytest.raises(remotegpu.TransportError):
                client.top()
            assert time.monotonic() - started < 1.9
        listening.join()


@pytest.fixture
def mute() -> Iterator[str]:
    """A peer that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"grpc://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("patience", [0.2, 1.5])
def test_connection_must_be_made_in_time_also_with_a_peer_that_says_nothing(mute: str, patience: float) -> None:
    with Client(mute, timeout=20, connect_timeout=patience) as client:
        calls: list[Callable[[], object]] = [client.top, lambda: next(client.watch(3.0)), lambda: client.dealloc("key")]
        for call in calls:
            started = time.monotonic()
            with pytest.raises(remotegpu.ConnectError):
                call()
            assert patience * 0.9 < time.monotonic() - started < patience + 0.5
        assert client.statistics().round_trips == 0


def test_silent_connection_is_not_used_again(server: LocalServer) -> None:
    with (
        FaultProxy(("127.0.0.1", server.port)) as proxy,
        Client(f"grpc://127.0.0.1:{proxy.address[1]}", timeout=0.5) as client,
    ):
        client.top()
        proxy.blackhole(True)
        with pytest.raises(remotegpu.DeadlineExceeded):
            client.top()
        proxy.blackhole(False)  # for new connections; what the old one lost is lost
        assert client.top().devices
        assert client.statistics().connections == 2
        # The server's own word that the time is over says that the connection is well.
        with client.alloc() as lease:
            x = lease.xp.ones((1500, 1500))
            with pytest.raises(remotegpu.DeadlineExceeded):
                lease.fetch(x @ x @ x, timeout=0.02)
        assert client.statistics().connections == 2


class Ending(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """Ends every stream in order, after some messages."""

    def __init__(self, messages: list[bytes]) -> None:
        self._messages = messages

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        return grpc.unary_stream_rpc_method_handler(lambda request, context: iter(self._messages))


@pytest.mark.parametrize(
    ("messages", "kind", "words"),
    [([], remotegpu.ProtocolError, "without a message"), ([b"", b""], remotegpu.ConnectionLost, "ended the stream")],
    ids=["at once", "later"],
)
def test_stream_that_ends_is_an_error(messages: list[bytes], kind: type[errors.Error], words: str) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[Ending(messages)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Client(f"grpc://127.0.0.1:{port}", timeout=10) as client:
            watching = client.watch()
            for _ in messages:
                next(watching)
            with pytest.raises(kind, match=words):
                next(watching)
    finally:
        server.stop(None).wait()
