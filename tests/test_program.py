# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Programs on the wire: what is encoded comes back, and passes the border. What does not: `test_program_check.py`."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from remotegpu import errors, graph, program, wire
from remotegpu.dtypes import NAMES, from_number
from remotegpu.v1 import program_pb2 as pb

EPOCH = 4


def source(*shape: int, dtype: Any = np.float32) -> graph.Value:
    return graph.Value(graph.Source(np.arange(math.prod(shape)).astype(dtype).reshape(shape)))


def operation(*args: Any, name: str = "add", port: int = 0, **kwargs: Any) -> graph.Value:
    return graph.Value(graph.Operation(name, args, tuple(kwargs.items())), port=port)


def kept(number: int, epoch: int = EPOCH) -> graph.Value:
    value = graph.Value(None)
    value.handle = graph.Handle(number, epoch)
    return value


def encode(*wanted: graph.Value | graph.ModelCall, **options: Any) -> tuple[pb.Program, bytes]:
    """The program after a journey, and its body as one piece. It passes the check."""
    message, body = program.encode(graph.plan(wanted, **{"keep": None, **options}))
    received = wire.parse(pb.Program, message.SerializeToString())
    assert received == message
    program.check(received, known={"add", "sum"}.__contains__, body_size=body.size, epoch=EPOCH, device=0)
    return received, b"".join(body.parts)


# ---- encode and decode ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 5)], ids=str)
def test_an_array_is_sent_with_dtype_shape_and_bytes(name: str, shape: tuple[int, ...]) -> None:
    value = source(*shape, dtype=name)
    assert isinstance(value.origin, graph.Source)
    message, body = encode(value)
    tensor = message.nodes[0].tensor
    dtype = from_number(tensor.dtype)
    assert dtype == np.dtype(name)
    assert body[tensor.offset : tensor.offset + tensor.size] == value.origin.array.tobytes()
    assert tuple(tensor.shape) == shape


def test_a_plan_of_every_kind_of_node_comes_back() -> None:
    first, picture, old = source(3), graph.Value(graph.Picture(b"\xff\xd8 a picture")), kept(77)
    both = graph.Operation("add", (first, old))
    call = graph.ModelCall("digits", (("image", picture), ("", graph.Value(both, port=1))))
    named = graph.Value(graph.NamedPort(call, "scores"))
    message, body = encode(operation(named, graph.Value(call, port=2), name="sum"), free=[5, 2**60])
    kinds = [node.WhichOneof("kind") for node in message.nodes]
    assert kinds == ["image", "tensor", "handle", "operation", "model", "named_port", "operation"]
    image, tensor, handle, add, model, port, total = message.nodes
    assert body[image.image.offset : image.image.offset + image.image.size] == b"\xff\xd8 a picture"
    assert np.array_equal(np.frombuffer(body[tensor.tensor.offset :], np.float32, 3), [0, 1, 2])
    assert handle.handle == pb.Handle(id=77, epoch=EPOCH)
    assert [argument.ref for argument in add.operation.args] == [pb.Ref(node=1), pb.Ref(node=2)]
    assert model.model == pb.ModelCall(
        model="digits",
        inputs=[
            pb.ModelInput(name="image", ref=pb.Ref(node=0)),
            pb.ModelInput(name="", ref=pb.Ref(node=3, port=1)),
        ],
    )
    assert port.named_port == pb.NamedPort(node=4, name="scores")
    assert total.operation.name == "sum"
    assert [argument.ref for argument in total.operation.args] == [pb.Ref(node=5), pb.Ref(node=4, port=2)]
    assert list(message.outputs) == [pb.Output(ref=pb.Ref(node=6), fetch=True)]
    assert list(message.free) == [5, 2**60]


def test_outputs_say_what_becomes_of_each_value() -> None:
    held, call = source(2), graph.ModelCall("digits", ())
    held.holders = 1
    message, _ = encode(operation(held), call, keep=lambda: 9)
    assert list(message.outputs) == [
        pb.Output(ref=pb.Ref(node=1), fetch=True),
        pb.Output(ref=pb.Ref(node=2), fetch=True, every_port=True),
        pb.Output(ref=pb.Ref(node=0), keep=9),
    ]


SIGNED = st.integers(-(2**63), 2**63 - 1)
BOUND = st.none() | SIGNED
DTYPES = st.sampled_from(NAMES).map(np.dtype)
SCALARS = (
    st.none() | st.just(...) | st.booleans() | SIGNED | st.floats() | st.text() | DTYPES | st.slices(2**40)
) | st.builds(slice, BOUND, BOUND, BOUND)
# The border allows lists in lists, NESTING_LIMIT deep below the outermost.
ARGUMENTS: st.SearchStrategy[Any] = SCALARS
for _ in range(program.NESTING_LIMIT + 1):
    ARGUMENTS = SCALARS | st.lists(ARGUMENTS, max_size=3).map(tuple)


def decoded(argument: pb.Argument) -> Any:
    return program.decode_argument(argument, lambda ref: ("value", ref.node, ref.port))


@settings(deadline=None)
@given(st.lists(ARGUMENTS, max_size=4), st.dictionaries(st.text(), ARGUMENTS, max_size=3))
@example([-(2**63), 2**63 - 1, slice(-(2**63), 2**63 - 1)], {})
def test_arguments_of_every_kind_come_back(args: list[Any], kwargs: dict[str, Any]) -> None:
    message, _ = encode(graph.Value(graph.Operation("add", tuple(args), tuple(kwargs.items()))))
    made = message.nodes[0].operation
    # repr tells 1 from True and 1.0, and holds for nan.
    assert repr([decoded(argument) for argument in made.args]) == repr(args)
    assert repr({item.name: decoded(item.value) for item in made.kwargs}) == repr(kwargs)


def test_values_in_arguments_become_references_however_deep() -> None:
    origin = graph.Source(np.ones(2, np.float32))
    value, other = graph.Value(origin), graph.Value(origin, port=1)
    message, _ = encode(operation(value, ((value, 3), (..., (other,))), where=(other,)))
    made = message.nodes[1].operation
    zero, one = ("value", 0, 0), ("value", 0, 1)
    assert [decoded(argument) for argument in made.args] == [zero, ((zero, 3), (..., (one,)))]
    assert [(item.name, decoded(item.value)) for item in made.kwargs] == [("where", (one,))]


def test_slices_take_integers_of_any_type() -> None:
    message, _ = encode(operation(slice(np.int32(-3), np.uint8(7))))
    assert decoded(message.nodes[0].operation.args[0]) == slice(-3, 7)


@pytest.mark.parametrize(
    "argument",
    [
        *(2**63, -(2**63) - 1, 1j, b"bytes", [1], {1}, np.float32(1), np.int64(1), object(), (1, (2**64,)), print),
        *(slice(2**63), slice(None, -(2**63) - 1), slice(1.5), slice("3"), slice(None, None, 2**80)),
    ],
    ids=lambda argument: "object" if type(argument) is object else str(argument),  # the same in every process
)
def test_an_argument_that_does_not_travel_is_refused(argument: Any) -> None:
    for value in (operation(argument), operation(key=argument)):
        with pytest.raises(errors.InvalidInput, match="arrays, 64-bit integers, floats") as caught:
            program.encode(graph.plan([value], keep=None))
        assert caught.value.field == "argument"
        assert 0 < len(caught.value.given) <= 40


@pytest.mark.parametrize("dtype", ["U5", "datetime64[s]", "O", "V3", [("a", "f4")]], ids=str)
def test_a_dtype_that_does_not_travel_is_refused(dtype: Any) -> None:
    values = [operation(np.dtype(dtype))]
    if dtype != "O":  # arrays of that are strings: see test_strings
        values.append(source(0, dtype=dtype))
    for value in values:
        with pytest.raises(errors.InvalidInput) as caught:
            program.encode(graph.plan([value], keep=None))
        assert (caught.value.field, caught.value.given) == ("dtype", str(np.dtype(dtype)))
