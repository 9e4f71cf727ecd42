# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What must be refused: each with its own error, which names the field and the limit; nothing leaks; the server lives.

Most of these cannot be made with the client, so raw messages are sent.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import remotegpu
from remotegpu import Client, errors, wire
from remotegpu.local import LocalServer
from remotegpu.v1 import compute_pb2, lease_pb2, program_pb2
from tests.conftest import wait_until

Program = program_pb2.Program


class RawServer:
    """Sends bytes to the Compute service and gives the typed error, or None if there was none."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._unary: Any = channel.unary_unary("/remotegpu.v1.Compute/Run")  # type: ignore[call-arg]
        self._stream: Any = channel.stream_stream("/remotegpu.v1.Compute/RunStream")  # type: ignore[call-arg]

    def unary(self, message: bytes) -> errors.Error | None:
        return self._error(lambda: self._unary(message, timeout=10))

    def stream(self, *messages: bytes) -> errors.Error | None:
        return self._error(lambda: list(self._stream(iter(messages), timeout=10)))

    def program(self, program: Program, body: bytes = b"", **header: Any) -> errors.Error | None:
        head = compute_pb2.RunHeader(body_size=len(body), **header).SerializeToString()
        return self.unary(wire.join(head, program.SerializeToString(), (body,)))

    def _error(self, call: Callable[[], object]) -> errors.Error | None:
        try:
            call()
        except grpc.RpcError as error:
            found: Any = error
            details = [value for key, value in found.trailing_metadata() or () if key == wire.ERROR_KEY]
            assert details, f"an error without detail: {found.code()} {found.details()}"
            typed = wire.error_from(details[0])
            assert found.code().name == typed.status
            return typed
        return None


@pytest.fixture
def raw(server: LocalServer) -> Iterator[RawServer]:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield RawServer(channel)


@pytest.fixture(autouse=True)
def nothing_leaks(server: LocalServer) -> Iterator[None]:
    """After each test: no lease, no buffer, no slab, the same workers, and the server works."""
    with Client(server.url) as client:
        before = [(device.worker_pid, device.epoch) for device in client.top().devices]
        yield

        def clean() -> bool:
            top = client.top()
            used = [d.slots_used + d.memory_held + d.arena_used + d.memory_reserved for d in top.devices]
            return not top.leases and not top.queue and not any(used)

        wait_until(clean, "leases and buffers are back to zero")
        assert [(device.worker_pid, device.epoch) for device in client.top().devices] == before
        assert client.model("linear")(np.zeros((1, 64), np.float32))["y"].shape == (1, 8)


def node(**kind: Any) -> program_pb2.Node:
    return program_pb2.Node(**kind)


def tensor(shape: tuple[int, ...] = (2,), dtype: int = 11, offset: int = 0, size: int = 8) -> program_pb2.Node:
    return node(tensor=program_pb2.Tensor(dtype=dtype, shape=shape, offset=offset, size=size))  # type: ignore[arg-type]


def operation(name: str, *refs: int) -> program_pb2.Node:
    arguments = [program_pb2.Argument(ref=program_pb2.Ref(node=ref)) for ref in refs]
    return node(operation=program_pb2.Operation(name=name, args=arguments))


def fetch(index: int) -> program_pb2.Output:
    return program_pb2.Output(ref=program_pb2.Ref(node=index), fetch=True)


BODY = bytes(8)
TOO_MANY = 100_001


@pytest.mark.parametrize(
    ("program", "field", "words"),
    [
        (Program(nodes=[node()], outputs=[fetch(0)]), "node 0", "unknown node"),
        (Program(nodes=[tensor(), operation("launch_missiles", 0)]), "node 1", "launch_missiles"),
        (Program(nodes=[tensor(), operation("add", 2, 0), operation("add", 1, 0)]), "node 1", "a cycle"),
        (Program(nodes=[operation("abs", 0)]), "node 0", "a cycle"),
        (Program(nodes=[tensor()], outputs=[fetch(1)]), "node 1", "reference to node 1"),
        (Program(nodes=[tensor(dtype=99)]), "node 0, tensor", "dtype 99"),
        (Program(nodes=[tensor(shape=(3,))]), "node 0, tensor", "8 bytes"),
        (Program(nodes=[tensor(shape=(2**62, 2**62), size=8)]), "node 0, tensor size", str(2**63 - 1)),
        (Program(nodes=[tensor(offset=64)]), "node 0, tensor", "offset 64"),
        (Program(nodes=[tensor(offset=1)]), "node 0, tensor", "offset 1"),
        (Program(nodes=[tensor(shape=(1,) * 33, size=4)]), "node 0, tensor dimensions", "33"),
        (Program(nodes=[node(handle=program_pb2.Handle(id=5, epoch=1))]), "node 0", "handle 5"),
        (Program(nodes=[operation("abs")] * TOO_MANY), "program nodes", str(TOO_MANY)),
    ],
)
def test_programs_that_are_wrong(raw: RawServer, program: Program, field: str, words: str) -> None:
    error = raw.program(program, BODY)
    assert isinstance(error, errors.InvalidInput), error
    assert error.field.startswith(field)
    assert words in str(error)


def test_handle_of_an_older_worker_is_lost(raw: RawServer) -> None:
    error = raw.program(Program(nodes=[node(handle=program_pb2.Handle(id=1, epoch=0))]))
    assert isinstance(error, errors.LeaseLost)


def test_port_that_a_node_does_not_have(raw: RawServer) -> None:
    output = program_pb2.Output(ref=program_pb2.Ref(node=0, port=3), fetch=True)
    error = raw.program(Program(nodes=[tensor()], outputs=[output]), BODY)
    assert isinstance(error, errors.InvalidInput)
    assert "port 3" in str(error)


def test_body_that_is_not_as_long_as_announced(raw: RawServer) -> None:
    program = Program(nodes=[tensor()], outputs=[fetch(0)]).SerializeToString()
    head = compute_pb2.RunHeader(body_size=8).SerializeToString()
    for body in (bytes(7), bytes(9), b""):
        assert isinstance(raw.unary(wire.join(head, program, (body,))), errors.ProtocolError)
        error = raw.stream(wire.join(head, program), wire.join(b"", b"", (body,)))
        assert isinstance(error, errors.ProtocolError)
        assert "8 bytes" in str(error)
    assert raw.stream(wire.join(head, program), wire.join(b"", b"", (bytes(8),))) is None


def test_stream_of_nothing(raw: RawServer) -> None:
    assert isinstance(raw.stream(), errors.ProtocolError)


def test_message_cut_at_every_byte(raw: RawServer) -> None:
    program = Program(nodes=[tensor()], outputs=[fetch(0)]).SerializeToString()
    head = compute_pb2.RunHeader(body_size=8, deadline_ms=5000).SerializeToString()
    message = wire.join(head, program, (BODY,))
    assert raw.unary(message) is None
    for end in range(len(message)):
        assert isinstance(raw.unary(message[:end]), errors.ProtocolError), end


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_noise_is_refused_with_a_typed_error(raw: RawServer, head: bytes, program: bytes) -> None:
    assert isinstance(raw.unary(head), errors.Error)
    raw.unary(wire.join(b"", program or b"\x00"))  # a typed error or none at all: `_error` asserts that


def test_tensor_larger_than_the_server_takes(raw: RawServer) -> None:
    head = compute_pb2.RunHeader(body_size=2**40).SerializeToString()
    error = raw.stream(wire.join(head, Program(nodes=[tensor()]).SerializeToString()))
    assert isinstance(error, errors.InvalidInput)
    assert (error.field, error.limit) == (
        "request size",
        f"at most {64 * 1024**2} bytes in one call (the server's --arena)",
    )


def test_result_larger_than_the_server_sends(client: Client) -> None:
    with client.lease() as lease, pytest.raises(remotegpu.InvalidInput, match="result size"):
        lease.finish(lease.xp.zeros((64 * 1024**2 + 1,), dtype=lease.xp.uint8))


def test_deadline_and_ttl_above_the_limits(raw: RawServer) -> None:
    program = Program(nodes=[tensor()])
    error = raw.program(program, BODY, deadline_ms=4_000_000_000)
    assert isinstance(error, errors.InvalidInput)
    assert error.field == "deadline_ms"
    error = raw.program(program, BODY, alloc=lease_pb2.AllocRequest(gpus=1, idle_ttl_ms=4_000_000_000))
    assert isinstance(error, errors.InvalidInput)
    assert error.field == "idle_ttl_ms"


def test_lease_that_nobody_granted(raw: RawServer) -> None:
    assert isinstance(raw.program(Program(nodes=[tensor()]), BODY, lease="0" * 32), errors.LeaseUnknown)


def test_lease_of_another_server_is_unknown_here(client: Client, start_server: Any) -> None:
    with Client(start_server().url) as other:
        lease = other.alloc()
        with pytest.raises(remotegpu.LeaseUnknown):
            client.dealloc(lease.id)
        lease.dealloc()


def test_handles_of_another_lease_cannot_be_read(client: Client, raw: RawServer) -> None:
    owner, thief = client.alloc(gpus=2), client.alloc(gpus=2)
    secret = owner.xp.asarray([42.0])
    owner.fetch(owner.xp.sum(secret))
    handle = secret._value.handle
    assert handle is not None
    stolen = Program(nodes=[node(handle=program_pb2.Handle(id=handle.id, epoch=handle.epoch))], outputs=[fetch(0)])
    error = raw.program(stolen, lease=thief.id)
    assert isinstance(error, errors.InvalidInput)
    assert "handle" in str(error)
    assert raw.program(stolen, lease=owner.id) is None
    owner.dealloc()
    thief.dealloc()


def test_device_outside_of_the_lease(raw: RawServer) -> None:
    error = raw.program(Program(nodes=[tensor()]), BODY, device=1)
    assert isinstance(error, errors.InvalidInput)
    assert error.field == "device"


def test_alloc_of_nothing(raw: RawServer) -> None:
    error = raw.program(Program(nodes=[tensor()]), BODY, alloc=lease_pb2.AllocRequest(gpus=0))
    assert isinstance(error, errors.Impossible)


@pytest.mark.parametrize("make", ["text", "cut", "bomb", "empty"])
def test_image_that_is_not_one(client: Client, make: str) -> None:
    png = io.BytesIO()
    Image.new("L", (8000, 8000) if make == "bomb" else (64, 64)).save(png, "PNG")
    data = {"text": b"not a picture", "cut": png.getvalue()[:60], "bomb": png.getvalue(), "empty": b""}[make]
    with client.lease() as lease, pytest.raises(remotegpu.InvalidInput) as caught:
        lease.finish(lease.image(data))
    assert caught.value.field == "image"
    assert "JPEG or PNG of at most 50000000 pixels" in caught.value.limit


def test_unknown_model_is_refused_with_the_names_of_those_there_are(client: Client) -> None:
    for _ in range(2):  # by the server, and then, with the signatures known, by the client
        with client.lease() as lease, pytest.raises(remotegpu.ModelNotFound) as caught:
            lease.finish(lease.model("nonsense")(np.zeros(3))["y"])
        assert "linear" in str(caught.value)
        client.models()


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"x": np.zeros((1, 64))}, "float32[batch, 64]"),
        ({"x": np.zeros((1, 63), np.float32)}, "float32[batch, 64]"),
        ({"x": np.zeros(64, np.float32)}, "float32[64]"),
        ({"z": np.zeros((1, 64), np.float32)}, "the inputs x"),
        ({}, "the inputs x"),
    ],
)
def test_model_input_that_does_not_fit(client: Client, known: bool, inputs: dict[str, Any], words: str) -> None:
    if known:
        client.models()
    with client.lease() as lease, pytest.raises(remotegpu.InvalidInput) as caught:
        lease.finish(lease.model("linear")(**inputs)["y"])
    assert "model 'linear'" in caught.value.field
    assert words in str(caught.value)


def test_model_output_that_does_not_exist(client: Client) -> None:
    with client.lease() as lease, pytest.raises(remotegpu.InvalidInput, match="output of model 'linear'"):
        lease.finish(lease.model("linear")(np.zeros((1, 64), np.float32))["nonsense"])


def test_operation_that_fails_on_the_device_names_itself(client: Client) -> None:
    with client.lease() as lease:
        xp = lease.xp
        mask = xp.asarray([1.0, 2.0, 3.0]) > 1.5
        chosen = xp.asarray([1.0, 2.0, 3.0])[mask]
        with pytest.raises(remotegpu.RemoteError) as caught:
            lease.finish(chosen + xp.asarray([1.0, 2.0, 3.0]))
        assert caught.value.operation == "add"
        assert "Traceback" in caught.value.traceback
        assert lease.finish(xp.sum(chosen)) == 5


def test_error_about_something_very_long_still_is_that_error(client: Client) -> None:
    name = "\N{SNOWMAN}" * 100_000
    with client.lease() as lease, pytest.raises(remotegpu.ModelNotFound) as caught:
        lease.finish(lease.model(name)(np.zeros(3))["y"])
    assert 1000 < len(caught.value.given.encode()) <= 1200
    assert "linear" in caught.value.limit
