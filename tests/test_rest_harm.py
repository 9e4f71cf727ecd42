# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The REST door and callers that mean harm, or are in trouble: they are refused or cut off, others do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import tritonclient.http as triton

from remotegpu.local import LocalServer
from remotegpu_server.standard import rest_connections
from remotegpu_server.standard.entrance import Entrance
from remotegpu_server.standard.infer import Inference
from remotegpu_server.standard.rest import Rest
from remotegpu_server.standard.threads import in_thread
from tests.conftest import StartServer, wait_until
from tests.fixtures.rest import ARENA, REST, ask, connect, floats, head, write_models


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def rest(repository: Path) -> Iterator[LocalServer]:
    server = LocalServer(["--gpus", "cpu", "--arena", "16MiB", "--models", str(repository), *REST])
    yield server
    assert server.stop() == 0


@pytest.fixture
def client(rest: LocalServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{rest.rest_port}", concurrency=4) as connected:
        yield connected


def status_of(connection: socket.socket) -> int:
    """Of the next answer."""
    return int(connection.recv(4096).split()[1])


def peak(server: LocalServer) -> int:
    """Bytes of memory that the daemon had at most."""
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM")) * 1024


def test_a_promise_of_too_much_is_refused_before_it_comes(rest: LocalServer) -> None:
    before = peak(rest)
    for size in (ARENA + 1, 10**12):
        with connect(rest) as connection:
            connection.sendall(head("/v2/models/echo/infer", Content_Length=size, Inference_Header_Content_Length=2))
            assert status_of(connection) == 413
    with connect(rest) as connection:  # as curl does with more than 1 MiB
        fields = {"Content_Length": 10**9, "Expect": "100-continue"}
        connection.sendall(head("/v2/models/echo/infer", **fields))
        assert status_of(connection) == 413
        connection.sendall(b"")
    assert peak(rest) < before + 8 * 1024**2


def test_who_expects_a_sign_gets_it(rest: LocalServer) -> None:
    with connect(rest) as connection:
        connection.sendall(head("/v2/models/echo/infer", Content_Length=2, Expect="100-continue"))
        assert status_of(connection) == 100
        connection.sendall(b"{}")
        assert status_of(connection) == 400


def test_a_bomb_does_no_harm(rest: LocalServer, client: triton.InferenceServerClient) -> None:
    bomb = gzip.compress(bytes(512 * 1024**2), 1)
    before = peak(rest)
    for fields in ({}, {"Inference-Header-Content-Length": "2"}):
        status, _ = ask(rest, "POST", "/v2/models/echo/infer", bomb, {"Content-Encoding": "gzip", **fields})
        assert status == 413
    assert peak(rest) < before + 3 * ARENA
    assert client.is_server_ready()


def test_a_body_in_chunks_has_the_same_limit(rest: LocalServer) -> None:
    with connect(rest) as connection:
        connection.sendall(head("/v2/models/echo/infer", Transfer_Encoding="chunked"))
        with contextlib.suppress(ConnectionError):  # it may be closed while more is sent
            for _ in range(40):
                connection.sendall(b"8000\r\n" + b" " * 0x8000 + b"\r\n")
        assert status_of(connection) == 413


@pytest.mark.parametrize("ending", ["half_open", "drain"])
def test_a_thousand_half_open_connections_do_no_harm(repository: Path, start_server: StartServer, ending: str) -> None:
    server = start_server("--models", str(repository), *REST)
    count = 1000 if ending == "half_open" else 30
    before = peak(server)
    beginnings = [
        b"",
        b"POST /v2/models/echo/infer HT",
        b"GET /v2 HTTP/1.1\r\nX: ",
        head("/v2/models/echo/infer", Content_Length=ARENA, Inference_Header_Content_Length=100) + b"{",
        head("/v2/models/echo/infer", Transfer_Encoding="chunked") + b"FFFFFF\r\n",
    ]
    with contextlib.ExitStack() as open_ones:
        for number in range(count):
            connection = open_ones.enter_context(connect(server))
            connection.sendall(beginnings[number % len(beginnings)])
        with triton.InferenceServerClient(f"127.0.0.1:{server.rest_port}") as client:
            for size in (10, 2_000_000):
                values, given = floats(size)
                np.testing.assert_array_equal(client.infer("echo", [given]).as_numpy("x_out"), values)
        assert peak(server) < before + 128 * 1024**2
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 5


def test_a_caller_that_goes_away_leaves_nothing(rest: LocalServer, client: triton.InferenceServerClient) -> None:
    _, given = floats(1_500_000)
    body, json_size = triton.InferenceServerClient.generate_request_body([given])
    message = head("/v2/models/echo/infer", Content_Length=len(body), Inference_Header_Content_Length=json_size) + body
    for end in (len(message) // 2, len(message)):
        for _ in range(10):
            with connect(rest) as connection:
                connection.sendall(message[:end])
    # Each of them would hold the arena, or the room for bodies.
    for _ in range(5):
        assert client.infer("echo", [given]).as_numpy("x_out").size == 1_500_000


def door(patience: float = 60) -> Rest:
    """The REST door alone, in this process."""
    return Rest(Entrance(cast(Inference, SimpleNamespace(gate=SimpleNamespace(arena_size=ARENA)))), patience)


def test_a_connection_that_sends_nothing_is_closed() -> None:
    async def main() -> None:
        alone = door(patience=0.2)
        port = await alone.start("127.0.0.1:0")
        for beginning in (b"", b"GET /v2 HT"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(beginning)
            assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
        await alone.stop(1)

    asyncio.run(main())


def test_connections_that_have_gone_are_forgotten() -> None:
    async def main() -> None:
        alone = door()
        port = await alone.start("127.0.0.1:0")
        for _ in range(5):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /v2 HT")
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"200"  # after all of them
        assert not alone._server._silent
        writer.close()
        await alone.stop(1)

    asyncio.run(main())


def test_one_connection_too_many_hears_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_connections, "_MOST", 2)

    async def main() -> None:
        alone = door()
        port = await alone.start("127.0.0.1:0")
        first = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for reader, writer in first:
            writer.write(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readline()).split()[1] == b"200"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answer = await asyncio.wait_for(reader.read(), 10)
        assert answer.split()[1] == b"503"
        assert b"2 connections are open already" in answer
        for _, each in (*first, (reader, writer)):
            each.close()
        await alone.stop(1)

    asyncio.run(main())


def test_work_in_a_thread_is_waited_for_when_the_caller_has_gone() -> None:
    async def main() -> None:
        begun, may_end = threading.Event(), threading.Event()
        ended: list[bool] = []

        def work() -> None:
            begun.set()
            ended.append(may_end.wait(10))

        task = asyncio.ensure_future(in_thread(work))
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [True]

    asyncio.run(main())


@pytest.mark.slow
def test_a_caller_that_does_not_read_is_cut_off(rest: LocalServer, client: triton.InferenceServerClient) -> None:
    _, given = floats(3_500_000)
    body, json_size = triton.InferenceServerClient.generate_request_body([given])
    with connect(rest) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        fields = {"Content_Length": len(body), "Inference_Header_Content_Length": json_size}
        connection.sendall(head("/v2/models/echo/infer", **fields) + body)

        def served() -> bool:  # the reply that nobody reads has most of the arena
            return bool(client.infer("echo", [given]).as_numpy("x_out").size == 3_500_000)

        wait_until(served, "the arena is free again", 40)
