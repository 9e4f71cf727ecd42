# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The floors that calls are measured against: what gRPC and a process boundary cost when nothing is computed.

`python -m benchmarks.floors` serves until its standard input ends and prints its port:
    Echo   unary, raw bytes: the message comes back as it is
    Sink   unary, raw bytes: answered with a short message, whatever came
    Hop    unary, raw bytes: copied into shared memory, a record to a worker process and back, copied out
    HopStream  the same on a bidirectional stream that stays open
    Naive  unary, protobuf messages with a `bytes` field, as an ordinary service would do it
and what gRPC itself does with a body in pieces, without a worker or shared memory, with the options of our own server:
    Raw    a stream of pieces, collected and sent back when the caller has sent all; or instead, as many zeros as the
           caller's metadata says
    RawOpen  a stream that stays open, on which each message comes back at once
    RawSink  a stream of pieces, answered with how many bytes came
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from remotegpu import channel, wire
from remotegpu.v1 import compute_pb2
from remotegpu_server import records
from remotegpu_server.slabs import Arena

ARENA = 64 * 1024 * 1024
# Metadata of Raw: bytes of the answer, where it is not what was sent.
ANSWER_KEY = "answer-bytes"
_LIMIT = "grpc.max_receive_message_length"


def worker(descriptor: int, request_arena: int, reply_arena: int) -> None:
    """Copies each request into the reply arena and answers."""
    requests, replies = Arena(request_arena, ARENA).view, Arena(reply_arena, ARENA).view
    with socket.socket(fileno=descriptor) as daemon:
        while packet := daemon.recv(records.PACKET_LIMIT):
            (run,) = records.unpack(packet)
            assert isinstance(run, records.Run)
            replies[: run.body_size] = requests[: run.body_size]
            daemon.send(records.pack(records.Dropped(run.body_size, 0)))


class Hop:
    """A worker process behind a socket and two arenas, one call at a time."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        arenas = Arena.create("floor-requests", ARENA), Arena.create("floor-replies", ARENA)
        self._requests, self._replies = (arena.view for arena in arenas)
        numbers = [theirs.fileno(), *(arena.descriptor for arena in arenas)]
        arguments = [sys.executable, "-m", "benchmarks.floors", *map(str, numbers)]
        self._process = subprocess.Popen(arguments, pass_fds=numbers)
        theirs.close()
        self._waiting: asyncio.Future[int] | None = None
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)

    def _read(self) -> None:
        packet = self._socket.recv(records.PACKET_LIMIT)
        if not packet:
            raise SystemExit("the worker of the floor has died")
        (record,) = records.unpack(packet)
        assert isinstance(record, records.Dropped)
        assert self._waiting is not None
        self._waiting.set_result(record.lease)

    async def echo(self, data: bytes, _context: Any) -> bytes:
        """There and back through the worker."""
        self._requests[: len(data)] = data
        self._waiting = asyncio.get_running_loop().create_future()
        self._socket.send(records.pack(records.Run(0, 0, 0, len(data), 0, 0, 0)))
        size = await self._waiting
        return bytes(self._replies[:size])

    async def stream(self, messages: Any, context: Any) -> Any:
        """The same on an open stream."""
        async for data in messages:
            yield await self.echo(data, context)


async def echo(data: bytes, _context: Any) -> bytes:
    """What gRPC itself costs."""
    return data


async def sink(_data: bytes, _context: Any) -> bytes:
    """Takes everything; answers as much as a small result has."""
    return bytes(512)


async def naive(request: Any, _context: Any) -> Any:
    """Parses, copies and serialises as generated code does."""
    return compute_pb2.RunReply(body=request.body)


async def raw(messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    """The pieces come back when all are there; or zeros in pieces of the same size."""
    pieces = [piece async for piece in messages]
    size = int(dict(context.invocation_metadata()).get(ANSWER_KEY, 0))
    for piece in [bytes(min(wire.CHUNK, size - start)) for start in range(0, size, wire.CHUNK)] or pieces:
        yield piece


async def raw_open(messages: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
    """Each message comes back at once."""
    async for message in messages:
        yield message


async def raw_sink(messages: AsyncIterator[bytes], _context: Any) -> bytes:
    """Counts."""
    size = 0
    async for piece in messages:
        size += len(piece)
    return size.to_bytes(8, "little")


class Raw:
    """A client of the raw floors, with the options of our own client's connections."""

    def __init__(self, port: int) -> None:
        options = channel.options(channel.CONNECT_PATIENCE)
        made: Any = grpc.insecure_channel(f"127.0.0.1:{port}", options=options)
        self.channel = made
        self._raw = self.channel.stream_stream("/floor.Floor/Raw")
        self._sink = self.channel.stream_unary("/floor.Floor/RawSink")

    def exchange(self, data: memoryview, answer: int | None = None) -> bytearray:
        """Sends the bytes in pieces; receives them again, or (`answer`) that many zeros, into memory of its own."""
        metadata = None if answer is None else ((ANSWER_KEY, str(answer)),)
        received, end = bytearray(len(data) if answer is None else answer), 0
        for piece in self._raw(_pieces(data), metadata=metadata):
            received[end : end + len(piece)] = piece
            end += len(piece)
        assert end == len(received)
        return received

    def sink(self, data: memoryview) -> None:
        """Sends the bytes in pieces."""
        assert int.from_bytes(self._sink(_pieces(data)), "little") == len(data)

    def close(self) -> None:
        self.channel.close()


def _pieces(data: memoryview) -> Iterator[bytes]:
    return (bytes(data[start : start + wire.CHUNK]) for start in range(0, len(data), wire.CHUNK))


@contextmanager
def served() -> Iterator[int]:
    """The port of the floors, in a process of their own."""
    command = [sys.executable, "-m", "benchmarks.floors"]
    root = Path(__file__).resolve().parents[1]
    process = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.communicate()


def _options() -> Sequence[tuple[str, int]]:
    """Those of our own server, but for the limit of a message: unary echoes send 16 MiB in one."""
    from remotegpu_server.daemon import _OPTIONS

    return [(_LIMIT, -1), *(option for option in _OPTIONS if option[0] != _LIMIT)]


async def main() -> None:
    """Serves until standard input ends."""
    hop = Hop()
    server = grpc.aio.server(options=_options())
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Hop": grpc.unary_unary_rpc_method_handler(hop.echo),
        "HopStream": grpc.stream_stream_rpc_method_handler(hop.stream),
        "Raw": grpc.stream_stream_rpc_method_handler(raw),
        "RawOpen": grpc.stream_stream_rpc_method_handler(raw_open),
        "RawSink": grpc.stream_unary_rpc_method_handler(raw_sink),
        "Sink": grpc.unary_unary_rpc_method_handler(sink),
        "Naive": grpc.unary_unary_rpc_method_handler(
            naive,
            request_deserializer=compute_pb2.RunRequest.FromString,
            response_serializer=compute_pb2.RunReply.SerializeToString,
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("floor.Floor", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, lambda: None if os.read(0, 4096) else ended.set())
    await ended.wait()
    await server.stop(0)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        worker(*map(int, sys.argv[1:]))
    else:
        asyncio.run(main())
