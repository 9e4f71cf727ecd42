# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Messages as bytes. The oracle is protobuf's own codec: what is joined and split by hand must be what it reads and
writes; and bytes from a stranger may raise ProtocolError, nothing else."""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remotegpu import errors, wire
from remotegpu.dtypes import NAMES
from remotegpu.v1 import compute_pb2, error_pb2, program_pb2

HEADER = compute_pb2.RunHeader(lease="a lease", device=3, deadline_ms=1500, body_size=200).SerializeToString()
PROGRAM = program_pb2.Program(
    nodes=[program_pb2.Node(model=program_pb2.ModelCall(model="digits" * 30))], free=[1, 2**40]
).SerializeToString()
RESULT = program_pb2.Result(values=[program_pb2.Value(name="scores", shape=[3, 0], size=7)]).SerializeToString()
REPLY_HEADER = compute_pb2.RunReplyHeader(timing=compute_pb2.Timing(total_ns=2**50)).SerializeToString()
BODY = bytes(range(256)) * 80  # its length takes three bytes as a varint
# Pieces that look like the protocol's own, so that random sequences of them get past the first tag.
LOOKALIKES = st.lists(
    st.sampled_from([b"\x0a", b"\x12", b"\x1a", b"\x00", b"\x01", b"\x05", b"\x80", b"\xff", b"\x22", b"\x08"])
    | st.binary(max_size=4)
).map(b"".join)
SIZES = st.lists(st.integers(0, 300), max_size=12)


def fields_of(message: bytes) -> list[bytes]:
    return [bytes(part) for part in wire.split(message)]


def parts_of(sizes: list[int]) -> list[wire.Buffer]:
    """Parts of these sizes whose bytes tell where they belong; bytes and memoryviews in turn."""
    numbers = np.arange(sum(sizes), dtype=np.uint32).astype(np.uint8).tobytes()
    ends = np.cumsum([0, *sizes]).tolist()
    cut = [numbers[start:end] for start, end in itertools.pairwise(ends)]
    return [memoryview(part) if index % 2 else part for index, part in enumerate(cut)]


# ---- join and split against the codec ---------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"x", b"y" * 127, b"z" * 128, BODY], ids=len)
@pytest.mark.parametrize("middle", [b"", PROGRAM], ids=["none", "program"])
@pytest.mark.parametrize("header", [b"", HEADER], ids=["none", "header"])
def test_a_joined_request_is_what_the_codec_writes(header: bytes, middle: bytes, body: bytes) -> None:
    message = compute_pb2.RunRequest(body=body)
    if header:
        message.header.ParseFromString(header)
    if middle:
        message.program.ParseFromString(middle)
    joined = wire.join(header, middle, [body])
    assert joined == message.SerializeToString()
    assert compute_pb2.RunRequest.FromString(joined) == message
    assert fields_of(message.SerializeToString()) == [header, middle, body]


def test_a_joined_reply_is_what_the_codec_writes() -> None:
    joined = wire.join(REPLY_HEADER, RESULT, [memoryview(BODY)[:10], BODY[10:]])
    reply = compute_pb2.RunReply.FromString(joined)
    assert reply.header.SerializeToString() == REPLY_HEADER
    assert reply.result.SerializeToString() == RESULT
    assert reply.body == BODY
    assert fields_of(reply.SerializeToString()) == [REPLY_HEADER, RESULT, BODY]


def test_a_body_size_that_is_known_is_not_counted_again() -> None:
    assert wire.join(HEADER, b"", [BODY], len(BODY)) == wire.join(HEADER, b"", [BODY])
    assert wire.join(b"", b"", [b"ab", b"c"], 3) == b"\x1a\x03abc"


def test_split_copies_nothing_and_takes_fields_in_any_order() -> None:
    message = wire.join(b"", b"", [BODY]) + wire.join(HEADER, b"")
    header, middle, body = wire.split(memoryview(message))
    assert (bytes(header), bytes(middle), bytes(body)) == (HEADER, b"", BODY)
    assert header.obj is message
    assert body.obj is message


@pytest.mark.parametrize("reply", [False, True], ids=["request", "reply"])
def test_a_message_cut_at_any_byte_is_refused_or_lacks_whole_fields(reply: bool) -> None:
    header, middle = (REPLY_HEADER, RESULT) if reply else (HEADER, PROGRAM)
    whole = [header, middle, BODY[:300]]
    message = wire.join(whole[0], whole[1], [whole[2]])
    lacking = []
    for end in range(len(message)):
        try:
            found = fields_of(message[:end])
        except errors.ProtocolError as error:
            assert str(end) in error.what or "cut short" in error.what  # noqa: PT017  # most cuts raise, three do not
        else:
            lacking.append(found)
    assert lacking == [[b"", b"", b""], [whole[0], b"", b""], [whole[0], whole[1], b""]]


def test_a_header_or_program_cut_at_any_byte_is_refused_or_read_as_another() -> None:
    kinds = (compute_pb2.RunHeader, HEADER), (program_pb2.Program, PROGRAM), (error_pb2.ErrorDetail, wire_error())
    for kind, data in kinds:
        for end in range(len(data)):
            try:
                message = wire.parse(kind, data[:end])
            except errors.ProtocolError as error:
                assert kind.__name__ in error.what  # noqa: PT017  # some cuts raise, some give a shorter message
            else:
                assert len(message.SerializeToString()) <= end


def wire_error() -> bytes:
    return wire.error_detail(errors.Busy(retry_after=0.5, queue_length=300, free_gpus=1))


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (b"\x08\x01", "tag 0x8 at byte 0 of 2"),  # a varint field
        (b"\x02\x00", "tag 0x2 at byte 0 of 2"),  # field 0
        (b"\x0a\x00\x2a\x00", "tag 0x2a at byte 2 of 4"),  # field 5
        (b"\x12\x05abcd", "field 2 says 5 bytes, 4 are there"),
        (b"\x1a", "does not end, at byte 1 of 1"),
        (b"\x1a\xff\xff", "does not end, at byte 3 of 3"),
        (b"\x1a" + b"\xff" * 12, "does not end, at byte 11 of 13"),  # more than 64 bits
        (b"\x1a" + b"\xff" * 9 + b"\x01", "field 3 says 18446744073709551615 bytes, 0 are there"),
    ],
)
def test_what_is_wrong_with_a_message_is_named(message: bytes, what: str) -> None:
    with pytest.raises(errors.ProtocolError) as caught:
        wire.split(message)
    assert what in caught.value.what


@settings(deadline=None)
@given(st.binary() | LOOKALIKES)
def test_arbitrary_bytes_are_split_as_the_codec_would_or_refused(data: bytes) -> None:
    try:
        found = fields_of(data)
    except errors.ProtocolError:
        return
    joined = wire.join(found[0], found[1], [found[2]])
    assert fields_of(joined) == found
    assert len(joined) <= len(data)


@settings(deadline=None)
@given(st.binary() | LOOKALIKES)
def test_arbitrary_bytes_are_an_error_or_refused(data: bytes) -> None:
    try:
        error = wire.error_from(data)
    except errors.ProtocolError:
        return
    assert isinstance(error, errors.Error)


@settings(deadline=None)
@given(st.sampled_from([program_pb2.Program, compute_pb2.RunHeader, compute_pb2.Catalog]), st.binary() | LOOKALIKES)
def test_arbitrary_bytes_are_a_message_or_refused(kind: Any, data: bytes) -> None:
    try:
        message = wire.parse(kind, memoryview(data))
    except errors.ProtocolError as error:
        assert error.what.startswith(kind.__name__)  # noqa: PT017  # both outcomes are right
    else:
        assert type(message) is kind


# ---- bodies -----------------------------------------------------------------------------------------------


@given(st.integers(0, 2**70))
def test_sizes_are_rounded_up_to_the_alignment(size: int) -> None:
    rounded = wire.aligned(size)
    assert rounded % 64 == 0
    assert size <= rounded < size + 64


@given(SIZES)
def test_offsets_in_a_body_are_aligned_and_point_at_the_data(sizes: list[int]) -> None:
    body, parts = wire.Body(), parts_of(sizes)
    offsets = [body.add(part) for part in parts]
    whole = b"".join(body.parts)
    assert body.size == len(whole)
    assert len(whole) <= sum(map(wire.aligned, sizes))
    for offset, part in zip(offsets, parts, strict=True):
        assert offset % wire.ALIGNMENT == 0
        assert whole[offset : offset + len(part)] == part


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0,), (0, 4), (3, 0, 2)], ids=str)
def test_the_bytes_of_an_array_are_its_own_memory(name: str, shape: tuple[int, ...]) -> None:
    array = np.arange(math.prod(shape)).reshape(shape).astype(name)
    data = wire.bytes_of(array)
    assert (data.format, data.ndim, len(data)) == ("B", 1, array.nbytes)
    assert data == array.tobytes()
    array.fill(1)
    assert data == array.tobytes()


def test_the_bytes_of_a_read_only_array_are_read_only() -> None:
    array = np.ones(3)
    array.flags.writeable = False
    assert wire.bytes_of(array).readonly


# ---- streams ----------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(SIZES, st.integers(1, 150))
def test_pieces_lose_and_reorder_nothing(sizes: list[int], limit: int) -> None:
    parts = parts_of(sizes)
    groups = [b"".join(group) for group in wire.pieces(parts, limit)]
    assert b"".join(groups) == b"".join(parts)
    assert all(len(group) == limit for group in groups[:-1])
    assert all(0 < len(group) <= limit for group in groups[-1:])


def test_pieces_are_views() -> None:
    pieces = [view for group in wire.pieces([BODY], 1000) for view in group]
    assert all(isinstance(view, memoryview) and view.obj is BODY for view in pieces)


def test_a_piece_is_a_mebibyte_if_nothing_else_is_said() -> None:
    data, sizes = bytes(2 * 1024**2 + 1), [1024**2, 1024**2, 1]
    assert [sum(map(len, group)) for group in wire.pieces([data])] == sizes
    assert [len(wire.split(message)[2]) for message in wire.messages(b"", b"", [data])] == sizes


@settings(deadline=None)
@given(st.sampled_from([b"", HEADER]), st.sampled_from([b"", PROGRAM]), SIZES, st.integers(1, 150))
def test_a_stream_says_header_and_middle_once_and_the_body_in_order(
    header: bytes, middle: bytes, sizes: list[int], limit: int
) -> None:
    parts = parts_of(sizes)
    stream = [fields_of(message) for message in wire.messages(header, middle, parts, limit)]
    assert [fields[:2] for fields in stream] == [[header, middle]] + [[b"", b""]] * (len(stream) - 1)
    assert b"".join(fields[2] for fields in stream) == b"".join(parts)
    assert len(stream) == max(-(-sum(sizes) // limit), 1)


# ---- errors -----------------------------------------------------------------------------------------------

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "str": st.text(),
    "int": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(allow_nan=False),
    "float | None": st.none() | st.floats(allow_nan=False),
}


def any_error() -> st.SearchStrategy[errors.Error]:
    def build(cls: type[errors.Error]) -> st.SearchStrategy[errors.Error]:
        return st.builds(cls, **{field.name: VALUES[str(field.type)] for field in dataclasses.fields(cls)})

    return st.sampled_from(list(errors.BY_NAME.values())).flatmap(build)


@settings(deadline=None, max_examples=300)
@given(any_error())
def test_any_error_travels_with_its_fields(error: errors.Error) -> None:
    again = wire.error_from(memoryview(wire.error_detail(error)))
    assert type(again) is type(error)
    assert again.fields() == error.fields()
    assert {name: type(value) for name, value in again.fields().items()} == {
        name: type(value) for name, value in error.fields().items()
    }
    assert str(again) == str(error)


def test_every_class_of_error_travels() -> None:
    samples = {"str": "text", "int": -5, "float": 0.25, "float | None": None}
    for name, cls in errors.BY_NAME.items():
        error = cls(**{field.name: samples[str(field.type)] for field in dataclasses.fields(cls)})
        again = wire.error_from(wire.error_detail(error))
        assert (type(again).__name__, again.fields()) == (name, error.fields())


@pytest.mark.parametrize("asked", [2**63, 2**64 - 1, -(2**63) - 1])
def test_an_integer_beyond_64_bits_does_not_stop_an_error(asked: int) -> None:
    """A caller may ask for 2**64 - 1 bytes, and the refusal must reach him."""
    error = errors.Impossible(what="memory", asked=asked, limit=2**63 - 1)
    again = wire.error_from(wire.error_detail(error))
    assert again.fields() == {"what": "memory", "asked": float(asked), "limit": 2**63 - 1}


def test_a_field_without_a_value_is_as_if_it_had_not_come() -> None:
    detail = error_pb2.ErrorDetail(kind="Unavailable")
    detail.fields.add(name="why", text="draining")
    detail.fields.add(name="retry_after")
    assert wire.error_from(detail.SerializeToString()).fields() == {"why": "draining", "retry_after": 1.0}


def test_long_texts_are_clipped_at_their_beginning_and_surrogates_replaced() -> None:
    error = errors.RemoteError(node=0, operation="add", why="x" * 10_000 + "end", traceback="\ud800")
    again = wire.error_from(wire.error_detail(error))
    assert isinstance(again, errors.RemoteError)
    assert len(again.why) == 1200
    assert again.why.startswith("... x")
    assert again.why.endswith("xend")
    assert again.traceback == "?"
