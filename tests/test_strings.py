# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""String tensors as bytes on the wire, and what a model file tells of itself; no server."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotegpu import errors
from remotegpu.strings import decode, encode, size_of, strings_of
from remotegpu_server.backends import onnx_file, trials

from .fixtures.onnx_models import FLOAT, STRING, identity, scale, with_external_data

SHAPES = [(), (0,), (3,), (2, 2), (2, 0, 3)]


@given(st.lists(st.binary(max_size=40), min_size=4, max_size=4))
def test_what_is_encoded_comes_back(items: list[bytes]) -> None:
    array = np.array([*items, None], object)[:4].reshape(2, 2)
    data = encode(array)
    assert len(data) == size_of(array)
    np.testing.assert_array_equal(decode(data, (2, 2)), array, strict=True)


def test_the_bytes_are_those_of_the_open_inference_protocol() -> None:
    assert encode(np.array(["ab", b"", "ü"], object)) == b"\2\0\0\0ab\0\0\0\0\2\0\0\0\xc3\xbc"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_shape(shape: tuple[int, ...]) -> None:
    for array in (np.full(shape, "x"), np.full(shape, b"x"), np.full(shape, "x", object)):
        np.testing.assert_array_equal(decode(encode(array), shape), np.full(shape, b"x", object), strict=True)


@given(st.binary(max_size=60), st.integers(0, 5))
def test_other_bytes_are_refused_or_are_that_many_strings(data: bytes, count: int) -> None:
    try:
        found = decode(data, (count,))
    except errors.InvalidInput:
        return
    assert encode(found) == data


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        (b"", (1,)),
        (b"\1\0\0\0", (1,)),
        (b"\1\0\0\0ab", (1,)),
        (b"\xff\xff\xff\xffab", (1,)),
        (b"\0", ()),
        (b"\0\0\0\0", (0,)),
        (b"\0\0\0\0" * 2, (2**60,)),
    ],
)
def test_truncated_and_surplus_bytes(data: bytes, shape: tuple[int, ...]) -> None:
    with pytest.raises(errors.InvalidInput):
        decode(data, shape)


def test_only_text_and_bytes_are_strings() -> None:
    for item in (1, None, np.float32(1), ["a"], "\ud800"):
        array = np.empty(2, object)
        array[:] = ["a", item]
        with pytest.raises(errors.InvalidInput, match="element 1"):
            strings_of(array)


def test_a_model_file_tells_what_has_no_shape_and_what_lies_elsewhere() -> None:
    assert onnx_file.facts(identity(FLOAT, None)).unranked == {"x", "y"}
    assert onnx_file.facts(identity(STRING, [])) == onnx_file.facts(scale(1, 64)) == onnx_file.Facts()
    assert onnx_file.facts(with_external_data()).external


def test_data_in_other_files_cannot_be_hidden_by_tags_that_onnx_runtime_reads_otherwise() -> None:
    hidden = with_external_data()
    tags = [b"\x6a", b"\x70"]  # of external_data, data_location
    for tag in tags:
        assert tag in hidden
        # ONNX Runtime's parser drops the 33rd bit of a tag.
        hidden = hidden.replace(tag, bytes([tag[0] | 0x80]) + b"\x80\x80\x80\x10")
    with pytest.raises(ValueError, match="more than 32 bits"):
        onnx_file.facts(b"\xf8\x80\x80\x80\x10\x00")
    with pytest.raises(ValueError, match=r"\w"):  # which of its reasons depends on what the lost bit hid
        onnx_file.facts(hidden)


@given(st.binary(max_size=80), st.integers(0, 10_000))
def test_any_bytes_are_read_or_refused(noise: bytes, cut: int) -> None:
    whole = with_external_data()
    for data in (noise, whole[: cut % len(whole)], whole[: cut % len(whole)] + noise):
        try:
            onnx_file.facts(data)
        except ValueError:
            continue


def test_rows_that_meet_are_found_out() -> None:
    port = trials.Port("x", np.dtype(np.float32), ("n", 2))
    assert trials.may_join([port], [port])
    assert trials.rows_agree([port], lambda feed: [feed["x"] * 2])
    assert not trials.rows_agree([port], lambda feed: [feed["x"] - feed["x"].mean(0)])
    assert not trials.rows_agree([port], lambda feed: [feed["x"][:1]])
    assert not trials.rows_agree([port], lambda feed: [np.cumsum(feed["x"], 0)])
    for shape in ((2, 2), ("", 2), ("m", 2), ("n", "n"), (), None):
        assert not trials.may_join([port], [trials.Port("y", port.dtype, shape)])
    assert not trials.may_join([], [])
