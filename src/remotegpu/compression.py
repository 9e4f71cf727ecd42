# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Packing of tensors for slow lines: the only file of the client that imports the libraries for it, which are optional
and loaded at the first use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from remotegpu import errors, wire
from remotegpu.v1 import program_pb2 as pb

_INSTALL = "pip install 'remotegpu[compression]'"


def _lz4(data: memoryview) -> bytes:
    import lz4.frame

    packed: bytes = lz4.frame.compress(data)
    return packed


def _zstandard(data: memoryview) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor().compress(data)


_PACKERS: dict[str, tuple[pb.Compression.ValueType, Callable[[memoryview], bytes]]] = {
    "lz4": (pb.COMPRESSION_LZ4, _lz4),
    "zstd": (pb.COMPRESSION_ZSTD, _zstandard),
}


def compress(data: memoryview, how: str | None) -> tuple[pb.Compression.ValueType, wire.Buffer]:
    """The number of a compression and the bytes packed by it: "lz4", "zstd" or None. Bytes that do not get shorter stay
    as they are.

    Raises InvalidInput for another name, ConfigurationError if its library is not installed."""
    if how is None:
        return pb.COMPRESSION_NONE, data
    found: Any = _PACKERS.get(how) if isinstance(how, str) else None
    if found is None:
        raise errors.InvalidInput(field="compression", limit="'lz4', 'zstd' or None", given=f"{how!r:.40}")
    number, pack = found
    try:
        packed = pack(data)
    except ModuleNotFoundError as error:
        raise errors.ConfigurationError(
            setting="compression", why=f"{error.name} is not installed: {_INSTALL}"
        ) from None
    return (number, packed) if len(packed) < len(data) else (pb.COMPRESSION_NONE, data)
