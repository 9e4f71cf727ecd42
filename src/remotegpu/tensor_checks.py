# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What a program may say of the bytes of its tensors and pictures: how they are packed, and where they lie beside the
body. Pure; a part of `program.check`."""

from __future__ import annotations

import numpy as np

from remotegpu import errors, wire
from remotegpu.dtypes import Dtype
from remotegpu.v1 import program_pb2 as pb


def stored_dtype(name: str, tensor: pb.Tensor, dtype: Dtype) -> Dtype:
    """The dtype of the bytes as they travel. `name` is for errors. Raises InvalidInput for a compression or a
    conversion that there is not."""
    if tensor.compression not in pb.Compression.values():
        known = ", ".join(pb.Compression.keys())
        raise errors.InvalidInput(field=name, limit=known, given=f"compression {tensor.compression}")
    if not tensor.travels_as:
        return dtype
    if tensor.travels_as != pb.DTYPE_FLOAT16 or tensor.dtype not in {pb.DTYPE_FLOAT32, pb.DTYPE_FLOAT64}:
        limit = "float32 or float64 that travels as float16"
        raise errors.InvalidInput(field=name, limit=limit, given=f"{dtype} as dtype {tensor.travels_as}")
    return np.dtype(np.float16)


def check_place(name: str, item: pb.Tensor | pb.EncodedImage, attached: tuple[int, int]) -> None:
    """Checks bytes that are not in the body: a number below that of the call's contents or fetched files (`attached`).
    How many bytes a file has is seen when it is used. Raises InvalidInput."""
    if item.HasField("content") and item.HasField("fetched"):
        raise errors.InvalidInput(field=name, limit="a content or a fetched file", given="both")
    if item.HasField("content"):
        number, count, what = item.content, attached[0], "contents"
    else:
        number, count, what = item.fetched, attached[1], "fetched files"
    if number >= count:
        raise errors.InvalidInput(field=name, limit=f"one of {count} {what} of the call", given=f"number {number}")
    if item.offset % wire.ALIGNMENT or item.offset + item.size >= 2**63:
        limit = f"an offset aligned to {wire.ALIGNMENT}"
        raise errors.InvalidInput(field=name, limit=limit, given=f"offset {item.offset}, size {item.size}")


def is_elsewhere(item: pb.Tensor | pb.EncodedImage) -> bool:
    """Whether the bytes are not in the body."""
    return item.HasField("content") or item.HasField("fetched")


def is_plain(tensor: pb.Tensor) -> bool:
    """Whether the bytes lie in the body as they are."""
    return not (tensor.compression or tensor.travels_as or is_elsewhere(tensor))
