# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The messages of ModelInfer as bytes, the datatypes, and classification: without a server."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from remotegpu import errors
from remotegpu.v1 import inference_pb2 as pb
from remotegpu_server.identity.provider import Identity
from remotegpu_server.standard import tensors, wire
from remotegpu_server.standard.classification import classified
from remotegpu_server.standard.refusals import Refused
from remotegpu_server.standard.requests import request_of
from remotegpu_server.standard.stream import Streams

# Lengths on both sides of where a length takes a second and a third byte.
_content = st.one_of(st.binary(max_size=40), st.sampled_from([bytes(127), bytes(128), bytes(20_000)]))
_contents = st.lists(_content, max_size=4)


@st.composite
def _requests(draw: st.DrawFn) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(
        model_name=draw(st.text(max_size=20)), model_version=draw(st.text(max_size=3)), id=draw(st.text(max_size=200))
    )
    for name in draw(st.lists(st.text(max_size=8), max_size=3)):
        tensor = message.inputs.add(name=name, datatype="FP32", shape=draw(st.lists(st.integers(-(2**63), 2**63 - 1))))
        if draw(st.booleans()):
            tensor.contents.fp32_contents.extend([1.0, 2.0])
        message.parameters[name].int64_param = draw(st.integers(-(2**63), 2**63 - 1))
        message.outputs.add(name=name)
    message.raw_input_contents.extend(draw(_contents))
    return message


@given(_requests(), st.booleans())
def test_a_request_is_split_into_what_protobuf_reads(message: pb.ModelInferRequest, is_newer: bool) -> None:
    # Fields that this version does not know, of all four kinds.
    newer = b"\x98\x06\x05" + b"\xa2\x06\x02hi" + b"\xa9\x06" + bytes(8) + b"\xb5\x06" + bytes(4) if is_newer else b""
    split = wire.split(newer + message.SerializeToString() + newer)
    assert split.id == message.id
    assert [bytes(each) for each in split.raw] == list(message.raw_input_contents)
    rest = pb.ModelInferRequest()
    rest.ParseFromString(split.head)
    rest.DiscardUnknownFields()
    message.id = ""
    del message.raw_input_contents[:]
    assert rest == message


def test_contents_are_views_of_the_message() -> None:
    message = pb.ModelInferRequest(raw_input_contents=[b"abc"]).SerializeToString()
    assert wire.split(message).raw[0].obj is message


def test_the_fields_of_a_request_may_come_in_any_order_and_number() -> None:
    first = pb.ModelInferRequest(id="a", raw_input_contents=[b"1"]).SerializeToString()
    second = pb.ModelInferRequest(model_name="m", id="b", raw_input_contents=[b"2"]).SerializeToString()
    split = wire.split(first + second)
    assert split.id == "b"
    assert [bytes(each) for each in split.raw] == [b"1", b"2"]
    assert pb.ModelInferRequest.FromString(split.head) == pb.ModelInferRequest(model_name="m")


@given(_requests(), st.data())
def test_a_request_that_is_cut_short_or_damaged_is_refused_or_read_as_protobuf_reads_it(
    message: pb.ModelInferRequest, data: st.DataObject
) -> None:
    whole = message.SerializeToString()
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    if damaged and data.draw(st.booleans()):
        damaged[data.draw(st.integers(0, min(len(damaged) - 1, 60)))] = data.draw(st.integers(0, 255))
    _split_as_protobuf_would(bytes(damaged))


@given(st.binary(max_size=60))
def test_bytes_that_are_no_request(message: bytes) -> None:
    _split_as_protobuf_would(message)


def _split_as_protobuf_would(message: bytes) -> None:
    try:
        split = wire.split(message)
    except errors.ProtocolError:
        return
    try:
        expected = pb.ModelInferRequest.FromString(message)
        found = pb.ModelInferRequest.FromString(split.head)
    except DecodeError:
        return  # what is not split by hand is for protobuf to refuse
    assert split.id == expected.id
    assert [bytes(each) for each in split.raw] == list(expected.raw_input_contents)
    assert found.model_name == expected.model_name
    assert found.inputs == expected.inputs


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (b"\x3a\x05ab", "field 7 says 5 bytes, 2 are there"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "field 7 says 9223372036854775807 bytes"),
        (b"\x3a\xff\xff", "a number that does not end"),
        (b"\x3a" + b"\xff" * 11, "a number that does not end"),
        (b"\x38\x05", "unexpected tag 0x38"),
        (b"\x1d" + bytes(4), "unexpected tag 0x1d"),
        (b"\x02\x00", "unexpected tag 0x2"),
        (b"\xa3\x06", "field 100 is a group"),
        (b"\xa2\x06\x05hi", "field 100 is cut short"),
        (b"\xa1\x06" + bytes(7), "field 100 is cut short"),
        (b"\x1a\x01\xff", "the id is not UTF-8"),
    ],
)
def test_what_is_refused_and_why(message: bytes, what: str) -> None:
    with pytest.raises(errors.ProtocolError, match=what):
        wire.split(message)


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (b"\x3a\x00" * (wire.MOST_FIELDS + 1), "more than 4096 fields"),
        (b"\x2a\x00" * (wire.MOST_FIELDS + 1), "more than 4096 fields"),
        (b"\x0a\x81\x80\x80\x02" + bytes(wire.HEAD_LIMIT + 1), "at most 4194304 are read"),
    ],
)
def test_a_request_that_would_hold_up_others_is_refused(message: bytes, what: str) -> None:
    with pytest.raises(Refused, match=what):
        wire.split(message)


def test_what_a_request_may_have_of_dimensions_and_parameters() -> None:
    message = pb.ModelInferRequest(model_name="m")
    message.inputs.add(name="x", datatype="INT8", shape=[1] * 65)
    with pytest.raises(Refused, match="65 dimensions"):
        request_of(message, "")
    del message.inputs[0].shape[1:]
    for number in range(100):
        message.inputs[0].parameters[f"p{number}"].bool_param = True
        message.outputs.add(name=f"y{number}").parameters["classification"].int64_param = number + 1
    assert [output.classification for output in request_of(message, "").outputs] == list(range(1, 101))
    for tensor in (message.inputs[0], message.outputs[0]):
        tensor.parameters["shared_memory_region"].string_param = "r"
        with pytest.raises(Refused, match="Unable to find shared memory region: 'r'"):
            request_of(message, "")
        del tensor.parameters["shared_memory_region"]


@given(st.text(max_size=200), _contents)
def test_a_response_is_what_protobuf_would_have_made(request_id: str, contents: list[bytes]) -> None:
    names = [f"y{number}" for number in range(len(contents))]
    expected = pb.ModelInferResponse(model_name="m", model_version="2", id=request_id, raw_output_contents=contents)
    for name in names:
        expected.outputs.add(name=name, datatype="INT8", shape=[3, 0])
    head = wire.response_head("m", "2", [(name, "INT8", (3, 0)) for name in names])
    views = [memoryview(each) for each in contents]
    assert pb.ModelInferResponse.FromString(wire.response(head, request_id, views)) == expected
    expected.parameters["triton_final_response"].bool_param = True
    streamed = pb.ModelStreamInferResponse.FromString(wire.streamed(head, request_id, views))
    assert streamed == pb.ModelStreamInferResponse(infer_response=expected)


@pytest.mark.parametrize("datatype", [name for name in tensors.DATATYPES if name not in {"BYTES", "FP16"}])
def test_typed_contents_become_bytes(datatype: str) -> None:
    dtype = np.dtype(tensors.NUMPY[datatype])
    values = [True, False] if datatype == "BOOL" else [1, 0]
    if dtype.kind in "iu":
        values = [int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)]
    assert np.frombuffer(tensors.typed_bytes(datatype, values), dtype).tolist() == values
    assert len(tensors.typed_bytes(datatype, values)) == tensors.size_of(datatype, (2, 1))


@pytest.mark.parametrize(("datatype", "value"), [("INT8", 128), ("INT8", -129), ("UINT16", 65536)])
def test_typed_contents_beyond_their_datatype_are_refused(datatype: str, value: int) -> None:
    with pytest.raises(OverflowError, match=datatype):
        tensors.typed_bytes(datatype, [value])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tensors.string_bytes([b"a", b""]), "expected 3 string elements for inference input 'x', got 2"),
        (
            tensors.string_bytes([b"a"] * 4),
            "unexpected number of string elements 4 for inference input 'x', expecting 3",
        ),
        (b"\x01\x00\x00\x00a\x01\x00", "incomplete string length indicator for inference input 'x', expecting 4 bytes"),
        (b"\x05\x00\x00\x00ab", "expecting string of length 5 but only 2 bytes available"),
    ],
)
def test_what_is_wrong_with_strings(data: bytes, message: str) -> None:
    refusal = tensors.strings_refused("x", memoryview(data), 3)
    assert refusal is not None
    assert message in refusal.message
    assert tensors.strings_refused("x", tensors.string_bytes([b"a", b"", b"bc"]), 3) is None


@pytest.mark.parametrize(
    ("array", "has_rows", "expected"),
    [
        (np.array([[0.5, 2, 2, -1]], np.float32), True, [["2.000000:1", "2.000000:2", "0.500000:0"]]),
        (np.array([[1, 9], [8, 2]], np.int16), True, [["9:1", "1:0"], ["8:0", "2:1"]]),
        (np.array([[1, 9], [8, 2]], np.uint64), False, ["9:1", "8:2", "2:3"]),
        (np.array([np.nan, 1, np.inf]), False, ["inf:2", "1.000000:1", "nan:0"]),
        (np.array([False, True]), False, ["1:1", "0:0"]),
        (np.zeros((2, 0), np.float32), True, [[], []]),
    ],
)
def test_classification(array: np.ndarray[Any, Any], has_rows: bool, expected: list[Any]) -> None:
    datatype = {np.dtype(name): datatype for datatype, name in tensors.NUMPY.items()}[array.dtype]
    shape, data = classified("y", datatype, array.shape, array.tobytes(), 3, has_rows)
    flat = np.array(expected, object)
    assert shape == flat.shape
    assert data == tensors.string_bytes(str(each).encode() for each in flat.reshape(-1))


@pytest.mark.parametrize("shape", [(2**40, 0), (100_001, 1), (200_000,)])
def test_a_classification_of_too_many_elements_is_refused(shape: tuple[int, ...]) -> None:
    data = bytes(4 * int(np.prod(shape)))
    with pytest.raises(Refused, match="at most 100000"):
        classified("y", "FP32", shape, data, 150_000, len(shape) > 1)


def test_long_typed_contents_become_bytes() -> None:
    values = list(range(50_000))
    assert tensors.typed_bytes("INT32", values) == np.array(values, np.int32).tobytes()
    with pytest.raises(OverflowError):
        tensors.typed_bytes("INT16", values)


class Silent:
    """The context of a stream whose caller says nothing."""

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def read(self) -> bytes:
        await asyncio.Event().wait()
        return b""


def test_streams_end_when_the_server_drains_however_late_they_came_and_are_limited() -> None:
    async def main() -> None:
        streams = Streams(cast(Any, None), room=2)
        open_streams = [
            asyncio.ensure_future(streams.serve(Identity("default"), cast(Any, Silent()))) for _ in range(2)
        ]
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="2 streams are open"):
            await streams.serve(Identity("default"), cast(Any, Silent()))
        streams.drain()  # before its readers have begun
        open_streams[0].cancel()
        for refused in await asyncio.wait_for(asyncio.gather(*open_streams, return_exceptions=True), 5):
            assert isinstance(refused, Refused | asyncio.CancelledError)
        with pytest.raises(Refused, match="draining"):
            await asyncio.wait_for(streams.serve(Identity("default"), cast(Any, Silent())), 5)

    asyncio.run(main())
