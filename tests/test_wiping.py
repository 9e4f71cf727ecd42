# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""No tenant reads what another left: not in arrays that nobody wrote to, not in bytes of a message between values.

One tenant leaves a pattern wherever it can: in arrays it keeps, in temporaries, in both arenas. Another one looks for
it in everything that it receives, byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import numpy as np
import pytest

from remotegpu import Client, wire
from remotegpu.local import LocalServer
from remotegpu.v1 import compute_pb2, program_pb2
from tests.conftest import StartServer, wait_until

PATTERN = b"\xa7sEcReT\x5b"
# As it looks from each of its bytes on.
ROTATIONS = [PATTERN[start:] + PATTERN[:start] for start in range(len(PATTERN))]
SIZES = (1, 7, 8, 9, 63, 64, 65, 100, 513, 1000, 4097, 20_000, 70_001, 130_000, 300_001, 1_000_003)


@pytest.fixture(params=["cpu", pytest.param("0", marks=pytest.mark.gpu)])
def server(request: pytest.FixtureRequest, start_server: StartServer) -> LocalServer:
    """One device of each kind that there is."""
    return start_server(gpus=request.param)


@pytest.fixture
def channel(server: LocalServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as opened:
        yield opened


def leftovers(data: bytes) -> int:
    """How often eight bytes of the pattern are there in a row."""
    return sum(data.count(rotation) for rotation in ROTATIONS)


def leave_secrets(url: str) -> None:
    """A tenant uploads, computes, keeps and fetches the pattern in arrays of all sizes, and gives everything back."""
    with Client(url, timeout=30) as client:
        for _ in range(3):
            with client.alloc() as lease:
                xp, kept = lease.xp, []
                for size in SIZES:
                    array = xp.asarray(np.frombuffer(PATTERN * (size // 8 + 1), np.uint8))
                    kept += [array, array | array]
                for array in kept:
                    assert leftovers(lease.fetch(array[:] | array).tobytes())
        wait_until(lambda: not client.top().devices[0].memory_held, "what it kept is gone")


def argument(value: int | Sequence[int] | program_pb2.Ref) -> program_pb2.Argument:
    match value:
        case int():
            return program_pb2.Argument(integer=value)
        case program_pb2.Ref():
            return program_pb2.Argument(ref=value)
    return program_pb2.Argument(list=program_pb2.ArgumentList(items=map(argument, value)))


def operation(name: str, *args: Any, dtype: int = 0) -> program_pb2.Node:
    made = program_pb2.Operation(name=name, args=map(argument, args))
    if dtype:
        made.kwargs.add(name="dtype", value=program_pb2.Argument(dtype=dtype))  # type: ignore[arg-type]
    return program_pb2.Node(operation=made)


def sent(nodes: Sequence[program_pb2.Node], fetch: Sequence[int]) -> bytes:
    outputs = [program_pb2.Output(ref=program_pb2.Ref(node=node), fetch=True) for node in fetch]
    program = program_pb2.Program(nodes=nodes, outputs=outputs).SerializeToString()
    return wire.join(compute_pb2.RunHeader(deadline_ms=20_000).SerializeToString(), program)


def received(channel: grpc.Channel, message: bytes) -> bytes:
    """All bytes of the messages of a reply, as they came."""
    stream: Any = channel.unary_stream("/remotegpu.v1.Compute/RunStream")  # type: ignore[call-arg]
    return b"".join(stream(message, timeout=20))


def body(reply: bytes) -> bytes:
    return bytes(wire.split(reply)[2])


UINT8, FLOAT64, COMPLEX128 = (program_pb2.DType.Value(f"DTYPE_{name}") for name in ("UINT8", "FLOAT64", "COMPLEX128"))


@pytest.mark.parametrize("name", ["empty", "empty_like"])
@pytest.mark.parametrize(("dtype", "width"), [(UINT8, 1), (FLOAT64, 8), (COMPLEX128, 16)])
def test_arrays_that_nobody_wrote_to_are_zeros(
    server: LocalServer, channel: grpc.Channel, name: str, dtype: int, width: int
) -> None:
    for _ in range(3):
        leave_secrets(server.url)
        for size in SIZES:
            shape = [max(size // width, 1)]
            nodes = [operation("empty", shape, dtype=dtype)]
            if name == "empty_like":  # of something that holds no memory itself
                scalar = operation("ones", [1], dtype=dtype)
                view = operation("broadcast_to", program_pb2.Ref(node=0), shape)
                nodes = [scalar, view, operation("empty_like", program_pb2.Ref(node=1))]
            reply = received(channel, sent(nodes, [len(nodes) - 1]))
            assert len(reply) > size
            assert leftovers(reply) == 0, size


def test_bytes_between_the_values_of_a_reply_are_zeros(server: LocalServer, channel: grpc.Channel) -> None:
    ones = [operation("ones", [size], dtype=UINT8) for size in (1, 3, 9, 57, 63, 65, 1, 1)]
    for _ in range(3):
        leave_secrets(server.url)
        reply = received(channel, sent(ones * 10, range(len(ones) * 10)))
        assert leftovers(reply) == 0
        data = body(reply)
        assert len(data) == 10 * 64 * (len(ones) + 1)
        assert data.count(1) == 10 * (1 + 3 + 9 + 57 + 63 + 65 + 1 + 1)
        assert data.count(0) == len(data) - data.count(1)


def test_errors_and_empty_replies_carry_nothing_of_others(server: LocalServer, channel: grpc.Channel) -> None:
    leave_secrets(server.url)
    failing = [
        operation("ones", [2]),
        operation("ones", [3]),
        operation("add", *(program_pb2.Ref(node=i) for i in (0, 1))),
    ]
    with pytest.raises(grpc.RpcError) as caught:
        received(channel, sent(failing, [2]))
    failure: Any = caught.value
    details = dict(failure.trailing_metadata())[wire.ERROR_KEY]
    assert wire.error_from(details).fields()["operation"] == "add"
    assert leftovers(details) == 0
    assert leftovers(received(channel, sent([operation("ones", [0])], [0]))) == 0
