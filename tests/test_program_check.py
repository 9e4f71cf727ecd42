# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The border: a program that cannot run is refused with a typed error that names the field and the limit."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remotegpu import errors, program, wire
from remotegpu.dtypes import from_number
from remotegpu.v1 import program_pb2 as pb

EPOCH = 4
BODY = 256
FLOAT32, FLOAT64 = pb.DTYPE_FLOAT32, pb.DTYPE_FLOAT64


def check(message: pb.Program) -> None:
    program.check(message, known={"add", "sum"}.__contains__, body_size=BODY, epoch=EPOCH, device=6)


TENSOR = pb.Node(tensor=pb.Tensor(dtype=FLOAT32, shape=[2], size=8))
MODEL = pb.Node(model=pb.ModelCall(model="digits"))
HANDLE = pb.Node(handle=pb.Handle(id=1, epoch=EPOCH))


def tensor(*shape: int, dtype: int = FLOAT32, offset: int = 0, size: int = 8) -> pb.Node:
    node = pb.Node(tensor=pb.Tensor(shape=shape, offset=offset, size=size))
    node.tensor.dtype = dtype  # type: ignore[assignment]  # a number of no enum value, sometimes
    return node


def image(offset: int, size: int) -> pb.Node:
    return pb.Node(image=pb.EncodedImage(offset=offset, size=size))


def call(*args: pb.Argument, name: str = "add", **kwargs: pb.Argument) -> pb.Node:
    keywords = [pb.Keyword(name=key, value=value) for key, value in kwargs.items()]
    return pb.Node(operation=pb.Operation(name=name, args=args, kwargs=keywords))


def at(node: int) -> pb.Argument:
    return pb.Argument(ref=pb.Ref(node=node))


def nested(argument: pb.Argument, levels: int) -> pb.Argument:
    for _ in range(levels):
        argument = pb.Argument(list=pb.ArgumentList(items=[pb.Argument(boolean=True), argument]))
    return argument


def dtype_argument(number: int) -> pb.Argument:
    argument = pb.Argument()
    argument.dtype = number  # type: ignore[assignment]  # a number of no enum value
    return argument


def model(*nodes: int) -> pb.Node:
    inputs = [pb.ModelInput(ref=pb.Ref(node=node)) for node in nodes]
    return pb.Node(model=pb.ModelCall(model="digits", inputs=inputs))


def port_of(node: int) -> pb.Node:
    return pb.Node(named_port=pb.NamedPort(node=node, name="scores"))


def packed_strings() -> pb.Node:
    node = tensor(2, dtype=15, size=8)
    node.tensor.compression = pb.COMPRESSION_LZ4
    return node


STRINGS = tensor(2, dtype=15, size=20)


def output(node: int, **options: Any) -> pb.Output:
    return pb.Output(ref=pb.Ref(node=node), **options)


def made(nodes: list[pb.Node], *outputs: pb.Output) -> pb.Program:
    return pb.Program(nodes=nodes, outputs=outputs)


EARLIER, ORDER = "references to earlier nodes", "a cycle, or a node out of order"
SPAN = "an offset aligned to 64 within a body of 256 bytes"
HUGE = f"at most {2**63 - 1}"
REFUSED: dict[str, tuple[pb.Program, str, str, str]] = {
    "empty node": (made([TENSOR, pb.Node()]), "node 1", "a kind of node that this server knows", "unknown"),
    "operation": (made([call(name="evil")]), "node 0", "an operation of this server", "operation 'evil'"),
    "nameless operation": (made([call(name="")]), "node 0", "an operation of this server", "operation ''"),
    "self": (made([call(at(0))]), "node 0", EARLIER, f"node 0: {ORDER}"),
    "forward": (made([TENSOR, call(at(2)), TENSOR]), "node 1", EARLIER, f"node 2: {ORDER}"),
    "cycle of two": (made([call(at(1)), call(at(0))]), "node 0", EARLIER, ORDER),
    "keyword": (made([TENSOR, call(where=at(1))]), "node 1", EARLIER, "a reference to node 1"),
    "second argument": (made([TENSOR, call(at(0), at(7))]), "node 1", EARLIER, "a reference to node 7"),
    "in a list": (made([TENSOR, call(nested(at(1), 1))]), "node 1", EARLIER, "a reference to node 1"),
    "in nested lists": (made([TENSOR, call(nested(at(9), 4))]), "node 1", EARLIER, "a reference to node 9"),
    "model input": (made([model(0)]), "node 0", EARLIER, "a reference to node 0"),
    "later model input": (made([TENSOR, model(0, 2), TENSOR]), "node 1", EARLIER, "a reference to node 2"),
    "port of itself": (made([port_of(0)]), "node 0", EARLIER, "a reference to node 0"),
    "port of a later model": (made([port_of(1), MODEL]), "node 0", EARLIER, "a reference to node 1"),
    "port of a tensor": (made([TENSOR, port_of(0)]), "node 1", "a named output of a model call", "node 0"),
    "port of a port": (made([MODEL, port_of(0), port_of(1)]), "node 2", "a named output of a model", "node 1"),
    "output of no node": (made([TENSOR], output(1)), "node 1", EARLIER, "a reference to node 1"),
    "output of nothing": (made([], output(0)), "node 0", EARLIER, "a reference to node 0"),
    "empty argument": (made([call(pb.Argument())]), "node 0", "a kind of argument that this server", "unknown"),
    "empty keyword": (made([call(axis=pb.Argument())]), "node 0", "a kind of argument that this", "unknown"),
    "empty in a list": (made([call(nested(pb.Argument(), 2))]), "node 0", "a kind of argument", "unknown"),
    "dtype argument 0": (made([call(dtype_argument(0))]), "node 0", "a kind of argument that this", "unknown"),
    "dtype argument 15": (made([call(dtype_argument(15))]), "node 0", "a kind of argument that", "unknown"),
    "dtype argument -1": (made([call(dtype_argument(-1))]), "node 0", "a kind of argument that", "unknown"),
    "dtype 0": (made([tensor(2, dtype=0)]), "node 0, tensor", "a dtype of the protocol", "dtype 0"),
    "dtype 16": (made([TENSOR, tensor(2, dtype=16)]), "node 1, tensor", "a dtype of the protocol", "dtype 16"),
    "strings too short": (
        made([tensor(3, dtype=15, size=11)]),
        "node 0, tensor",
        "12 bytes for strings[3]",
        "11 bytes",
    ),
    "strings beyond": (made([tensor(3, dtype=15, size=257)]), "node 0, tensor", SPAN, "offset 0, size 257"),
    "strings overflow": (made([tensor(0, 2**62, dtype=15)]), "node 0, tensor size", HUGE, str(2**64)),
    "strings in an operation": (made([STRINGS, call(at(0))]), "node 1", "strings as inputs of models only", "node 0"),
    "strings in a list": (made([STRINGS, call(nested(at(0), 1))]), "node 1", "strings as inputs of models", "node 0"),
    "strings as output": (made([STRINGS], output(0, fetch=True)), "node 1", "strings as inputs of models", "node 0"),
    "packed strings": (made([packed_strings()]), "node 0, tensor", "plain bytes in the body for strings", "compressed"),
    "dtype -1": (made([tensor(2, dtype=-1)]), "node 0, tensor", "a dtype of the protocol", "dtype -1"),
    "too small": (made([tensor(2, size=7)]), "node 0, tensor", "8 bytes for float32[2]", "7 bytes"),
    "too large": (made([tensor(2, 3, size=25)]), "node 0, tensor", "24 bytes for float32[2, 3]", "25 bytes"),
    "other dtype": (made([tensor(2, dtype=FLOAT64)]), "node 0, tensor", "16 bytes for float64[2]", "8 bytes"),
    "scalar": (made([tensor(size=0)]), "node 0, tensor", "4 bytes for float32[]", "0 bytes"),
    "overflow to 0": (made([tensor(2**62, 4, size=0)]), "node 0, tensor size", HUGE, str(2**66)),
    "overflow": (made([tensor(2**63, 4, size=16)]), "node 0, tensor size", HUGE, str(2**67)),
    "2**64 bytes": (made([tensor(2**62, size=0)]), "node 0, tensor size", HUGE, str(2**64)),
    "2**63 bytes": (made([tensor(2**61, size=0)]), "node 0, tensor size", HUGE, str(2**63)),
    "many huge": (made([tensor(*[2**64 - 1] * 32)]), "node 0, tensor size", HUGE, str((2**64 - 1) ** 32 * 4)),
    "empty but huge": (made([tensor(0, 2**63, size=0)]), "node 0, tensor size", HUGE, str(2**65)),
    "unaligned": (made([tensor(2, offset=8)]), "node 0, tensor", SPAN, "offset 8, size 8"),
    "beyond": (made([tensor(2, offset=256)]), "node 0, tensor", SPAN, "offset 256, size 8"),
    "half beyond": (made([tensor(17, offset=192, size=68)]), "node 0, tensor", SPAN, "offset 192, size 68"),
    "far beyond": (made([tensor(2, offset=2**64 - 64)]), "node 0, tensor", SPAN, f"offset {2**64 - 64}"),
    "unaligned image": (made([TENSOR, image(1, 9)]), "node 1, image", SPAN, "offset 1, size 9"),
    "image beyond": (made([image(64, 193)]), "node 0, image", SPAN, "offset 64, size 193"),
    "image of 2**64 - 1": (made([image(64, 2**64 - 1)]), "node 0, image", SPAN, f"size {2**64 - 1}"),
    "dimensions": (made([tensor(*[1] * 33, size=4)]), "node 0, tensor dimensions", "at most 32", "33"),
    "nesting": (made([call(nested(pb.Argument(boolean=True), 6))]), "node 0, argument nesting", "at most 4", "5"),
    "nesting in keywords": (made([call(axis=nested(at(0), 6))]), "node 0, argument nesting", "at most 4", "5"),
    "id twice": (made([TENSOR], output(0, keep=5), output(0, keep=5)), "program outputs", "ids that differ", "twice"),
    "every_port": (made([TENSOR], output(0, every_port=True)), "program outputs", "model calls", "another node"),
    "every_port of a port": (
        made([MODEL, port_of(0)], output(0), output(1, every_port=True)),
        "program outputs",
        "every_port for fetched model calls",
        "another node",
    ),
    "every_port kept": (
        made([MODEL], output(0, every_port=True, keep=3)),
        "program outputs",
        "every_port for fetched model calls",
        "keep",
    ),
}


@pytest.mark.parametrize(("message", "field", "limit", "given"), REFUSED.values(), ids=REFUSED)
def test_the_border_names_the_field_and_the_limit(message: pb.Program, field: str, limit: str, given: str) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        check(message)
    assert caught.value.field == field
    assert limit in caught.value.limit
    assert given in caught.value.given


def test_strings_may_be_of_any_length_as_inputs_of_models() -> None:
    check(made([STRINGS, tensor(0, 3, dtype=15, size=0), model(0, 1)], output(2, every_port=True, fetch=True)))


def test_counts_are_limited() -> None:
    nodes, outputs = [HANDLE] * program.NODE_LIMIT, [output(0)] * program.OUTPUT_LIMIT
    check(made(nodes, *outputs))
    for message, field, limit in (
        (made([*nodes, HANDLE]), "program nodes", program.NODE_LIMIT),
        (made([HANDLE], *outputs, output(0)), "program outputs", program.OUTPUT_LIMIT),
    ):
        with pytest.raises(errors.InvalidInput) as caught:
            check(message)
        assert caught.value.fields() == {"field": field, "limit": f"at most {limit}", "given": str(limit + 1)}


@pytest.mark.parametrize("epoch", [0, EPOCH - 1, EPOCH + 1])
def test_a_handle_of_another_epoch_is_lost(epoch: int) -> None:
    with pytest.raises(errors.LeaseLost) as caught:
        check(made([HANDLE, pb.Node(handle=pb.Handle(id=2, epoch=epoch))]))
    assert caught.value.fields() == {"device": 6, "epoch": EPOCH, "why": "its worker was restarted"}


ACCEPTED: dict[str, pb.Program] = {
    "nothing": made([]),
    "no outputs": made([TENSOR]),
    "end of the body": made([tensor(16, offset=192, size=64), image(0, 256)]),
    "nothing at the end": made([tensor(0, offset=256, size=0), image(256, 0)]),
    "scalar": made([tensor(size=4)]),
    "32 dimensions": made([tensor(*[1] * 32, size=4)]),
    "five lists": made([TENSOR, call(nested(at(0), 5))]),
    "five lists in a keyword": made([TENSOR, call(axis=nested(at(0), 5))]),
    "not kept twice": made([TENSOR], output(0), output(0), output(0, keep=1), output(0, keep=2)),
    "every port": made([model()], output(0, every_port=True, fetch=True), output(0, every_port=True)),
    "ports": made([MODEL, port_of(0), call(at(1), name="sum")], output(2)),
}


@pytest.mark.parametrize("message", ACCEPTED.values(), ids=ACCEPTED)
def test_the_border_lets_pass_what_is_right(message: pb.Program) -> None:
    check(message)


def test_a_long_name_is_not_repeated_in_full() -> None:
    """Errors travel in trailing metadata, of which gRPC takes some kilobytes only."""
    with pytest.raises(errors.InvalidInput) as caught:
        check(made([call(name="x" * 100_000)]))
    assert len(str(caught.value)) < 200


def test_lists_nested_deeper_than_the_codec_allows_are_unreadable() -> None:
    check(wire.parse(pb.Program, nested_bytes(program.NESTING_LIMIT + 1)))
    with pytest.raises(errors.ProtocolError, match="Program"):
        wire.parse(pb.Program, nested_bytes(200))


def nested_bytes(levels: int) -> bytes:
    """`add` of `True` in so many lists, put together by hand: the codec would refuse to write it."""
    data = b"\x10\x01"
    for tag in (*(b"\x0a", b"\x32") * levels, b"\x0a\x03add\x12", b"\x22", b"\x0a"):
        data = tag + bytes((len(data) & 0x7F | 0x80, len(data) >> 7)) + data
    return data


# ---- anything at all --------------------------------------------------------------------------------------

SMALL, NUMBER = st.integers(0, 3), st.sampled_from([0, 1, 2, 8, 64, 100, 192, 2**31, 2**32, 2**62, 2**63, 2**64 - 1])
REFS = st.builds(pb.Ref, node=SMALL, port=SMALL)
LEAVES: st.SearchStrategy[pb.Argument] = (
    st.builds(pb.Argument, ref=REFS)
    | st.builds(pb.Argument, integer=st.integers(-(2**63), 2**63 - 1))
    | st.builds(dtype_argument, st.integers(-2, 20))
    | st.builds(pb.Argument)
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.builds(lambda items: pb.Argument(list=pb.ArgumentList(items=items)), st.lists(inner, max_size=3)),
)
KEYWORDS = st.builds(pb.Keyword, name=st.text(max_size=2), value=TREES)
NODES: st.SearchStrategy[pb.Node] = st.one_of(
    st.builds(
        lambda shape, options: tensor(*shape, **options),
        st.lists(NUMBER | SMALL, max_size=3),
        st.fixed_dictionaries({"dtype": st.integers(-1, 16), "offset": NUMBER, "size": NUMBER}),
    ),
    st.builds(image, NUMBER, NUMBER),
    st.builds(lambda id, epoch: pb.Node(handle=pb.Handle(id=id, epoch=epoch)), NUMBER, st.sampled_from([EPOCH, 1])),
    st.builds(
        lambda **fields: pb.Node(operation=pb.Operation(**fields)),
        name=st.sampled_from(["add", "sum", "evil"]),
        args=st.lists(TREES, max_size=2),
        kwargs=st.lists(KEYWORDS, max_size=1),
    ),
    st.builds(model, SMALL),
    st.builds(port_of, SMALL),
    st.builds(pb.Node),
)
OUTPUTS = st.builds(pb.Output, ref=REFS, fetch=st.booleans(), keep=SMALL, every_port=st.booleans())
PROGRAMS = st.builds(pb.Program, nodes=st.lists(NODES, max_size=4), outputs=st.lists(OUTPUTS, max_size=3))


def check_or_refuse(message: pb.Program) -> None:
    try:
        check(message)
    except errors.Error:
        return
    for node in message.nodes:
        if node.WhichOneof("kind") == "tensor":  # what has passed can be made without a further question
            data = bytes(BODY)[node.tensor.offset :][: node.tensor.size]
            np.frombuffer(data, from_number(node.tensor.dtype)).reshape(tuple(node.tensor.shape))


@settings(deadline=None, max_examples=300)
@given(PROGRAMS)
def test_any_program_is_right_or_refused(message: pb.Program) -> None:
    check_or_refuse(message)


@settings(deadline=None, max_examples=300)
@given(st.binary() | PROGRAMS.map(pb.Program.SerializeToString), st.data())
def test_arbitrary_bytes_are_a_program_or_refused(data: bytes, draw: st.DataObject) -> None:
    mutated = bytearray(data)
    for position in draw.draw(st.lists(st.integers(0, max(len(data) - 1, 0)), max_size=3)) if data else ():
        mutated[position] = draw.draw(st.integers(0, 255))
    try:
        message = wire.parse(pb.Program, bytes(mutated))
    except errors.ProtocolError:
        return
    check_or_refuse(message)
