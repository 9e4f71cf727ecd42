# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Tensors that travel compressed or as float16, and tensors that contradict themselves, over a real server."""

import hashlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import lz4.frame
import numpy as np
import pytest
import zstandard

import remotegpu
from remotegpu import Client, compression, content, errors
from remotegpu.v1 import program_pb2
from tests.fixtures.contents import run_with, sent_by, some


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        ({"content": 1}, "contents of the call"),
        ({"fetched": 0}, "both"),
        ({"offset": 64}, "at least 68 bytes"),
        ({"offset": 3}, "aligned"),
        ({"size": 5}, "4 bytes for uint8"),
        ({"compression": 7}, "COMPRESSION_NONE"),
        ({"travels_as": program_pb2.DTYPE_FLOAT16}, "travels as float16"),
        ({"dtype": program_pb2.DTYPE_FLOAT32, "travels_as": program_pb2.DTYPE_INT8}, "travels as float16"),
        ({"dtype": program_pb2.DTYPE_BYTES}, "strings"),
        ({"compression": 1, "shape": [2**40]}, "unpacked"),
    ],
)
def test_tensors_that_contradict_themselves_are_refused(client: Client, tensor: dict[str, Any], said: str) -> None:
    digest = client.put(b"four")
    with pytest.raises(errors.InvalidInput, match=said):
        run_with(client, digest, **tensor)


@pytest.mark.parametrize("how", ["lz4", "zstd"])
def test_a_packed_array_arrives_as_it_was_in_fewer_bytes(client: Client, how: str) -> None:
    array = np.arange(200_000, dtype=np.int64).reshape(100, -1) // 100
    with client.lease() as lease:
        home: list[Any] = []
        sent = sent_by(client, lambda: home.append(lease.fetch(lease.upload(array, compression=how) + 0)))
        np.testing.assert_array_equal(home[0], array)
        assert sent < array.nbytes / 10
        noise = some(4000)
        np.testing.assert_array_equal(lease.fetch(lease.upload(noise, compression=how)), noise)
        np.testing.assert_array_equal(lease.fetch(lease.upload(array[:0], compression=how)), array[:0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("how", [None, "lz4"])
def test_floats_travel_at_half_their_size_or_less(client: Client, dtype: Any, how: str | None) -> None:
    array = np.linspace(-3, 6e4, 50_000, dtype=dtype)
    with client.lease() as lease:
        home: list[Any] = []
        sent = sent_by(
            client, lambda: home.append(lease.fetch(lease.upload(array, compression=how, as_float16=True) + 0))
        )
        assert home[0].dtype == dtype
        np.testing.assert_array_equal(home[0], array.astype(np.float16).astype(dtype))
        assert sent <= 100_000 + 1000


def test_an_upload_takes_what_it_is_meant_for(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with client.lease() as lease:
        with pytest.raises(errors.InvalidInput, match="as_float16"):
            lease.upload(np.zeros(3, np.int32), as_float16=True)
        with pytest.raises(errors.InvalidInput, match="compression"):
            lease.upload(np.zeros(3), compression="gzip")
        monkeypatch.setitem(sys.modules, "zstandard", None)
        with pytest.raises(remotegpu.ConfigurationError, match=r"pip install 'remotegpu\[compression\]'"):
            lease.upload(np.zeros(3), compression="zstd")


def frames() -> Iterator[tuple[str, int, bytes, str]]:
    zeros = bytes(50_000_000)
    for name, number, pack in (
        ("lz4", program_pb2.COMPRESSION_LZ4, lz4.frame.compress),
        ("zstd", program_pb2.COMPRESSION_ZSTD, zstandard.ZstdCompressor().compress),
    ):
        good = pack(bytes(range(256)) * 16)
        yield f"{name} bomb", number, pack(zeros), "4096"
        yield f"{name} short", number, good[:-5], "4096"
        yield f"{name} surplus", number, good + good, "4096"
        yield f"{name} small", number, pack(b"x" * 100), "4096"
        yield f"{name} none", number, b"not a frame, but some text" * 9, "something else"
    blind = zstandard.ZstdCompressor(write_content_size=False).compress(zeros)
    yield "zstd blind bomb", program_pb2.COMPRESSION_ZSTD, blind, "4096"


@pytest.mark.parametrize(("number", "data", "said"), [pytest.param(*f[1:], id=f[0]) for f in frames()])
def test_frames_that_are_not_their_tensors_are_refused(client: Client, number: int, data: bytes, said: str) -> None:
    with pytest.raises(errors.InvalidInput, match=said):
        run_with(client, client.put(data), compression=number, shape=[4096], size=len(data))


def test_packing_leaves_bytes_that_do_not_get_shorter() -> None:
    noise = os.urandom(1000)
    assert compression.compress(memoryview(noise), "lz4") == (program_pb2.COMPRESSION_NONE, noise)
    assert content.Blob.of(noise).digest == hashlib.sha256(noise).digest()


def test_values_that_float16_does_not_reach_are_refused(client: Client) -> None:
    with client.lease() as lease:
        for dtype in (np.float32, np.float64):
            reached = np.array([65504, -65519, np.inf, -np.inf, np.nan, 0], dtype)
            home = lease.fetch(lease.upload(reached, as_float16=True) + 0)
            np.testing.assert_array_equal(home, np.array([65504, -65504, np.inf, -np.inf, np.nan, 0], dtype))
            beyond = np.array([1, -65520, np.inf, 70000], dtype)
            with pytest.raises(errors.InvalidInput, match=r"given 2 beyond .* up to 70000; .* up to 65504:"):
                lease.upload(beyond, as_float16=True)
        assert lease.fetch(lease.upload(beyond, compression="lz4"))[3] == 70000
