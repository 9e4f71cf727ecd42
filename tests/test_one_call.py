# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the client remembers from call to call of a model: the front of a message, the layout of a result."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from remotegpu import Client, errors, graph, wire
from remotegpu.calls import Request
from remotegpu.local import LocalServer
from remotegpu.result import Reply, whole
from remotegpu.v1 import compute_pb2, program_pb2, stream_pb2

from .conftest import StartServer
from .fixtures.onnx_models import identity, repeated, write

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def file(nodes: list[onnx.NodeProto], inputs: dict[str, int], outputs: dict[str, int]) -> bytes:
    """A model file whose inputs and outputs have one dimension, of any size."""
    infos = [[helper.make_tensor_value_info(n, t, [None]) for n, t in side.items()] for side in (inputs, outputs)]
    graph_of = helper.make_graph(nodes, "g", *infos)
    made = helper.make_model(graph_of, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a server that has a model of three inputs, "mixed"."""
    nodes = [
        helper.make_node("Cast", ["half"], ["wide"], to=FLOAT),
        helper.make_node("Add", ["x", "wide"], ["sum"]),
        helper.make_node("Where", ["which", "sum", "x"], ["y"]),
        helper.make_node("Identity", ["half"], ["same"]),
    ]
    inputs = {"x": FLOAT, "half": HALF, "which": TensorProto.BOOL}
    root = tmp_path_factory.mktemp("models")
    write(root, "mixed", 1, file(nodes, inputs, {"y": FLOAT, "same": HALF}))
    server = LocalServer(["--gpus", "cpu", "--arena", "16MiB", "--models", str(root), "--allow-uploads"])
    with Client(server.url, timeout=20) as client:
        yield client
    assert server.stop() == 0


@pytest.mark.parametrize("size", [0, 1, 3, 64, 100, 30_000])
def test_inputs_of_any_kind_and_place_in_memory(caller: Client, size: int) -> None:
    """30,000 do not fit into one message. The first call learns what the second one knows."""
    x, half = np.arange(2 * size, dtype=np.float32)[::2], np.arange(size)[::-1].astype(np.float16)
    which = np.arange(size) % 2 == 0
    model = caller.model("mixed")
    for _ in range(3):
        found = model(x, which=which, half=half) if size > 1 else model(x=x, half=half, which=which)
        np.testing.assert_array_equal(found["y"], np.where(which, x + half, x))
        np.testing.assert_array_equal(found["same"], half)
        assert found["same"].dtype == np.float16
        for array in found.values():
            array += 1  # it is the caller's own
    np.testing.assert_array_equal(model(x.astype(">f4"), half, which.tolist() or which)["same"], half)


def test_a_model_that_is_loaded_again_with_other_outputs(caller: Client) -> None:
    model, x = caller.model("m"), np.array([3, 5], np.float32)
    for op, name in (("Add", "double"), ("Mul", "square"), ("Sub", "nothing")):
        caller.load_model("m", content=file([helper.make_node(op, ["x", "x"], [name])], {"x": FLOAT}, {name: FLOAT}))
        for _ in range(2):
            wanted = {"double": x + x, "square": x * x, "nothing": x - x}[name]
            (found,) = model(x).items()
            assert found[0] == name
            np.testing.assert_array_equal(found[1], wanted)


def test_the_program_is_remembered_and_the_deadline_is_that_of_the_call() -> None:
    header = compute_pb2.RunHeader(model="m")
    request = Request(header, b"program", 3, 4, b"digest")
    for timeout, milliseconds in ((20.0, 20_000), (0.5, 500), (20.0, 20_000), (1e-9, 1)):
        wanted = compute_pb2.RunHeader(
            model="m", deadline_ms=milliseconds, body_size=3, catalog=b"digest"
        ).SerializeToString()
        message = request.front(timeout) + b"abc"
        assert message == wire.join(wanted, b"program", (b"abc",))
        assert request.front(timeout) is request.front(timeout)
        assert request.head(timeout) == wanted


def reply(*values: program_pb2.Value, body: bytes = b"", announced: int | None = None) -> Reply:
    """A reply as it was received."""
    header = compute_pb2.RunReplyHeader(body_size=len(body) if announced is None else announced)
    result = program_pb2.Result(values=values)
    return whole(wire.join(header.SerializeToString(), result.SerializeToString(), (body,)), 0.0)


def value(shape: tuple[int, ...], epoch: int = 1, offset: int = 0, size: int | None = None) -> program_pb2.Value:
    """A float32 output."""
    made = program_pb2.Value(dtype=program_pb2.DTYPE_FLOAT32, shape=shape, offset=offset, epoch=epoch)
    made.size = 4 * int(np.prod(shape)) if size is None else size
    return made


def test_results_that_are_nearly_alike_are_not_taken_for_each_other() -> None:
    body = np.arange(12, dtype=np.float32)
    for shape, epoch, offset in [((3, 4), 1, 0), ((4, 3), 1, 0), ((3, 4), 2, 0), ((2,), 2, 4), ((3, 4), 1, 0)]:
        kept = graph.Value(graph.Source(body))
        plan = graph.Plan(outputs=[graph.Output(0, 0, fetch=True, keep=7, value=kept)])
        (found,) = reply(value(shape, epoch, offset), body=body.tobytes()).results(plan, [])
        first = offset // 4
        np.testing.assert_array_equal(found, body[first : first + found.size].reshape(shape), strict=True)
        assert (kept.handle, kept.meta) == (graph.Handle(7, epoch), graph.Meta(body.dtype, shape))
        found[:] = 0  # the next reply has its own


def test_results_of_one_program_for_two_plans_name_their_own_outputs() -> None:
    item = value((1,))
    item.name = "y"
    for every in (True, False):
        plan = graph.Plan(outputs=[graph.Output(0, 0, fetch=True, every_port=every)])
        (found,) = reply(item, body=bytes(4)).results(plan, [])
        assert isinstance(found, dict) == every


@pytest.mark.parametrize(
    ("item", "size", "announced", "what"),
    [
        (value((3,), size=16), 16, None, "16 bytes of output 0"),
        (value((3,), offset=8), 16, None, "up to byte 20 of 16"),
        (value((2**40, 2**40)), 0, None, "an output up to byte|bytes of output"),
        (program_pb2.Value(dtype=99, offset=0), 0, None, "dtype 99"),  # type: ignore[arg-type]  # from a newer server
        (program_pb2.Value(dtype=program_pb2.DTYPE_FLOAT32, output=1), 0, None, "output 1 of 1"),
        (value((1,)), 4, 8, "8 bytes of result announced, 4 came"),
        (value((1,)), 4, 3, "3 bytes of result announced, 4 came"),
    ],
)
def test_what_does_not_fit_is_refused(item: program_pb2.Value, size: int, announced: int | None, what: str) -> None:
    plan = graph.Plan(outputs=[graph.Output(0, 0, fetch=True)])
    for _ in range(2):  # nor is it remembered
        with pytest.raises(errors.ProtocolError, match=what):
            reply(item, body=bytes(size), announced=announced).results(plan, [])


@given(st.binary(max_size=12), st.binary(max_size=12), st.integers(0, 40_000))
def test_fields_are_those_that_are_split(header: bytes, middle: bytes, size: int) -> None:
    frame = wire.join(header, middle, (bytes(size),), envelope=wire.call_envelope(1))
    assert tuple(map(bytes, wire.fields(frame))) == tuple(map(bytes, wire.split(frame)))


@given(st.binary(max_size=24))
def test_fields_of_arbitrary_bytes_are_an_error_or_those_that_are_split(data: bytes) -> None:
    try:
        wanted = wire.split(b"\x22\x00" + data)
    except errors.ProtocolError:
        return
    try:
        found = wire.fields(b"\x22\x00" + data)
    except errors.ProtocolError:
        return  # what is in the envelope is looked at, too
    assert tuple(map(bytes, found)) == tuple(map(bytes, wanted))


@given(st.integers(1, 2**64 - 1), st.binary(max_size=300), st.integers(0, 2**64 - 1))
def test_the_call_that_is_answered_is_read_from_the_front(call: int, middle: bytes, other: int) -> None:
    assert wire.answered_call(wire.join(b"", middle, envelope=wire.call_envelope(call))) == call
    more = stream_pb2.Envelope(call=call, acknowledged=other, cancel=True).SerializeToString()
    assert wire.answered_call(wire.join(b"", middle, envelope=more)) == 0
    assert (
        wire.request_envelope(call, "", other) == stream_pb2.Envelope(call=call, acknowledged=other).SerializeToString()
    )


@given(st.binary(max_size=16))
def test_the_call_in_arbitrary_bytes_is_that_of_its_envelope(data: bytes) -> None:
    for frame in (data, b"\x22" + data, b"\x22\x03\x08" + data):
        try:
            call = wire.answered_call(frame)
            envelope = wire.parse(stream_pb2.Envelope, wire.split_frame(frame)[0])
        except errors.ProtocolError:
            continue
        assert call in (0, envelope.call) or frame.count(b"\x22") > 1  # a later envelope takes its place


def test_results_that_have_outgrown_one_message_since_the_catalog_came(start_server: StartServer) -> None:
    """A model was exchanged for another one; what a lease keeps must not be changed twice."""
    server, x = start_server("--allow-uploads"), np.ones((1, 2), np.float32)
    with Client(server.url, timeout=20) as operator, Client(server.url, timeout=20) as client, client.alloc() as lease:

        def size() -> int:
            return int(lease.fetch(lease.model("m")(x)["y"]).size)

        operator.load_model("m", content=repeated(2))
        model = client.model("m")
        assert [model(x)["y"].size for _ in range(2)] == [4, 4]
        operator.load_model("m", content=repeated(50_000))
        assert [model(x)["y"].size for _ in range(3)] == [100_000] * 3
        operator.load_model("m", content=repeated(2))
        assert [size(), size()] == [4, 4]
        operator.load_model("m", content=repeated(50_000))
        with pytest.raises(errors.InvalidInput, match="result size"):
            size()
        assert [size(), size()] == [100_000] * 2


def test_a_model_that_takes_other_inputs_since_the_catalog_came(start_server: StartServer) -> None:
    server = start_server("--allow-uploads")
    two, three = np.ones((1, 2), np.float32), np.ones((1, 3), np.float32)
    with Client(server.url, timeout=20) as operator, Client(server.url, timeout=20) as client:
        operator.load_model("m", content=identity(FLOAT, [1, 2]))
        model = client.model("m")
        assert [model(two)["y"].size for _ in range(2)] == [2, 2]
        operator.load_model("m", content=identity(FLOAT, [1, 3]))
        assert [model(three)["y"].size for _ in range(2)] == [3, 3]
        for _ in range(2):
            with pytest.raises(errors.InvalidInput, match="x"):
                model(two)
            assert model(three)["y"].size == 3
