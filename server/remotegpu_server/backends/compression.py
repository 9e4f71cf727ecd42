# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Compressed bytes as they were: the only file that unpacks them.

The size of the result is known from the tensor's dtype and shape, and is enforced: no frame can take more memory than
its tensor, however much it would unpack to.
"""

from __future__ import annotations

from collections.abc import Callable

import lz4.frame
import zstandard

from remotegpu import errors
from remotegpu.v1 import program_pb2 as pb

# LZ4 cannot do better than 255 bytes for each; its frame has a few more.
_LZ4_RATIO = 255
# What a frame may ask the decoder to look back on, besides its result; level 22 asks for this much. Bytes.
_WINDOW_LIMIT = 2**27


def decompress(data: memoryview, compression: int, size: int) -> bytes:
    """One LZ4 or Zstandard frame that unpacks to exactly `size` bytes.

    Raises InvalidInput for anything else, before memory is taken where the frame shows it."""
    return _UNPACKERS[compression](data, size)


def _refused(kind: str, size: int, given: str) -> errors.InvalidInput:
    return errors.InvalidInput(field="compressed tensor", limit=f"one {kind} frame of {size} bytes", given=given)


def _lz4(data: memoryview, size: int) -> bytes:
    if size > _LZ4_RATIO * len(data):
        raise _refused("LZ4", size, f"{len(data)} bytes, which cannot hold so many")
    unpacker = lz4.frame.LZ4FrameDecompressor()
    try:
        # One byte more than there may be: a frame that goes on shows itself.
        unpacked: bytes = unpacker.decompress(data, max_length=size + 1)
    except (RuntimeError, EOFError) as error:
        raise _refused("LZ4", size, f"something else ({error})") from error
    if len(unpacked) > size:
        raise _refused("LZ4", size, "more")
    if len(unpacked) < size or not unpacker.eof:
        raise _refused("LZ4", size, f"{len(unpacked)} bytes, cut short")
    if unpacker.unused_data:
        raise _refused("LZ4", size, f"{len(unpacker.unused_data)} bytes behind it")
    return unpacked


def _zstandard(data: memoryview, size: int) -> bytes:
    try:
        announced = zstandard.frame_content_size(data)
        if announced not in {-1, size}:  # -1: the frame does not say
            raise _refused("Zstandard", size, f"{announced} bytes")
        unpacker = zstandard.ZstdDecompressor(max_window_size=_WINDOW_LIMIT)
        # Zero would stand for no limit.
        unpacked: bytes = unpacker.decompress(data, max_output_size=max(size, 1), allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise _refused("Zstandard", size, f"something else, or more ({error})") from error
    if len(unpacked) != size:
        raise _refused("Zstandard", size, f"{len(unpacked)} bytes")
    return unpacked


_UNPACKERS: dict[int, Callable[[memoryview, int], bytes]] = {
    pb.COMPRESSION_LZ4: _lz4,
    pb.COMPRESSION_ZSTD: _zstandard,
}
