# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What is sent once: contents, which a server keeps by their digest; and inputs that travel packed, or are fetched by
the server itself.

A call names the contents that it uses by digest only. If the server does not have one of them, it says so before
anything has run; then they are put there, and the call is sent again. So a content costs its bytes once for each server
and nothing afterwards, not even a question. `upload.py` does that; here is what they are made of, without I/O but the
reading of files.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from remotegpu import errors, graph, wire
from remotegpu.compression import compress
from remotegpu.dtypes import Dtype
from remotegpu.operations import host_value, travelling
from remotegpu.v1 import compute_pb2 as pb

# An image that the server fetches, unless its limit is given. Bytes.
IMAGE_LIMIT = 32 * 1024**2
_URL_LIMIT = 8192

Putable = bytes | bytearray | memoryview | str | os.PathLike[str] | np.ndarray[Any, Dtype]


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes with their SHA-256 digest: in memory, or (`path`) in a file."""

    digest: bytes
    size: int
    data: memoryview | None = None
    path: Path | None = None

    @classmethod
    def of(cls, given: Putable) -> Blob:
        """The bytes of an array (C order, little-endian), of a buffer, or of the file that a text or path names.

        Raises InvalidInput for anything else, OSError for a file that cannot be read."""
        if isinstance(given, (str, os.PathLike)):
            path = Path(given)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").digest()
                return cls(digest, file.tell(), path=path)
        if isinstance(given, np.ndarray):
            return cls.of_array(given)
        if not isinstance(given, (bytes, bytearray, memoryview)):
            limit = "bytes, a NumPy array, or the path of a file"
            raise errors.InvalidInput(field="content", limit=limit, given=f"a {type(given).__name__}")
        view = memoryview(given).cast("B")
        return cls(hashlib.sha256(view).digest(), len(view), view)

    @classmethod
    def of_array(cls, array: np.ndarray[Any, Dtype]) -> Blob:
        """The bytes of an array. Raises InvalidInput for a dtype that does not travel."""
        dtype = travelling(array.dtype)
        host = np.asarray(array, dtype=dtype.newbyteorder("<"), order="C")
        return cls(_digest_of(host), host.nbytes, wire.bytes_of(host))

    def pieces(self, offset: int) -> Iterator[wire.Buffer]:
        """The bytes from `offset` on, cut up for messages. Raises OSError."""
        if self.data is not None:
            for start in range(offset, self.size, wire.CHUNK):
                yield self.data[start : start + wire.CHUNK]
            return
        assert self.path is not None, "one of the two"
        with self.path.open("rb") as file:
            file.seek(offset)
            while piece := file.read(wire.CHUNK):
                yield piece


# Digests of arrays that nobody can change, as long as they live: a function's handler names the same ones in each call.
_digests: dict[int, tuple[weakref.ref[Any], bytes]] = {}


def _digest_of(host: np.ndarray[Any, Dtype]) -> bytes:
    known = _digests.get(id(host))
    if known is not None and known[0]() is host:
        return known[1]
    digest = hashlib.sha256(wire.bytes_of(host)).digest()
    if not host.flags.writeable and host.base is None:
        key = id(host)
        _digests[key] = weakref.ref(host, lambda _: _digests.pop(key, None)), digest
    return digest


def attach(header: pb.RunHeader, plan: graph.Plan) -> None:
    """Names in a call's header the contents and files that its program refers to by number."""
    header.contents.extend(plan.contents)
    for node in plan.remotes:
        header.fetches.add(url=node.url, limit=node.limit)


# Values of the graph.


def constant_value(array: Any) -> graph.Value:
    """A value that the server keeps by its digest. Copies and refuses as `host_value` does."""
    value = host_value(np.asarray(array))
    assert isinstance(value.origin, graph.Source)
    host = value.origin.array
    if host.flags.writeable and host.base is None:
        host.setflags(write=False)  # a copy of our own
    return graph.Value(graph.Constant(host, _digest_of(host)), value.meta)


def packed_value(array: Any, compression: str | None, as_float16: bool) -> graph.Value:
    """A value that travels compressed, or as float16, or both.

    Raises InvalidInput for a dtype that does not travel, for `as_float16` of anything but float32 and float64 or of
    finite values that float16 does not reach, and for an unknown compression; ConfigurationError if its library is
    missing."""
    host = np.asarray(array)
    dtype = travelling(host.dtype)
    if as_float16 and dtype not in (np.float32, np.float64):
        limit = "an array of float32 or float64"
        raise errors.InvalidInput(field="as_float16", limit=limit, given=f"one of {dtype}")
    if compression is None and not as_float16:
        return host_value(host)
    travels_as = np.dtype(np.float16) if as_float16 else dtype
    with np.errstate(over="ignore"):  # told below, with the value
        # A copy in any case: the bytes may stay as they are, and the caller may change his array.
        stored = np.array(host, dtype=travels_as.newbyteorder("<"), order="C")
    if as_float16:
        _check_reach(host, stored)
    number, data = compress(wire.bytes_of(stored), compression)
    node = graph.Packed(data, dtype, host.shape, number, travels_as if as_float16 else None)
    return graph.Value(node, graph.Meta(dtype, host.shape))


def _check_reach(host: np.ndarray[Any, Dtype], stored: np.ndarray[Any, Dtype]) -> None:
    """Raises InvalidInput for finite values that became infinite. Those that were infinite before stay so."""
    lost = np.isinf(stored) & ~np.isinf(host)
    if lost.any():
        most, greatest = float(np.finfo(np.float16).max), float(np.abs(host[lost]).max())
        limit = f"finite values of magnitudes up to {most:g}: scale these, or let them travel as they are"
        given = f"{np.count_nonzero(lost)} beyond that, of magnitudes up to {greatest:g}"
        raise errors.InvalidInput(field="as_float16", limit=limit, given=given)


def remote_value(url: str, dtype: Any, shape: Sequence[int] | None, limit: int | None) -> graph.Value:
    """A value whose bytes the server fetches: a tensor of `dtype` and `shape`, or, without these, a picture.

    Raises InvalidInput."""
    if not isinstance(url, str) or not url.startswith(("http://", "https://")) or len(url) > _URL_LIMIT:
        allowed = f"an http or https URL of at most {_URL_LIMIT} characters"
        raise errors.InvalidInput(field="url", limit=allowed, given=f"a {type(url).__name__} that is none")
    if (dtype is None) != (shape is None):
        raise errors.InvalidInput(field="dtype and shape", limit="both or neither", given="one of them")
    if dtype is None or shape is None:
        meta = graph.Meta(np.dtype(np.uint8), (graph.Dim(), graph.Dim(), 3))
        return graph.Value(graph.Remote(url, _positive(limit, IMAGE_LIMIT)), meta)
    sizes = tuple(shape)
    if not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise errors.InvalidInput(field="shape", limit="whole numbers of 0 or more", given=f"{sizes!r:.80}")
    found = travelling(dtype)
    size = found.itemsize * int(np.prod(sizes, dtype=object))
    node = graph.Remote(url, max(_positive(limit, size), 1), found, sizes)
    return graph.Value(node, graph.Meta(found, sizes))


def _positive(limit: int | None, default: int) -> int:
    if limit is None:
        return default
    if not isinstance(limit, int) or not 0 < limit < 2**63:
        raise errors.InvalidInput(field="limit", limit="a whole number of bytes above 0", given=f"{limit!r:.40}")
    return limit
