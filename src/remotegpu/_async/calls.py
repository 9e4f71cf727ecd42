# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""How one encoded program travels: in one message each way if both are small, else as a stream."""

from __future__ import annotations

import functools
import math
import time
from contextlib import aclosing

from remotegpu import graph, wire
from remotegpu.result import Receiver, Reply
from remotegpu.strings import STRINGS

from .transport import GRACE, AsyncTransport


async def exchange(
    transport: AsyncTransport, header: bytes, middle: bytes, body: wire.Body, expected: float, timeout: float
) -> Reply:
    """Sends a program and receives its result, of `expected` bytes. Timeout in seconds. Raises any error of the
    tree."""
    receiver = Receiver(time.perf_counter())
    small = body.size + len(middle) <= wire.INLINE_LIMIT
    if small and expected <= wire.INLINE_LIMIT:
        request = wire.join(header, middle, body.parts, body.size)
        receiver.add(await transport.unary("Compute/Run", request, timeout, grace=GRACE))
    else:
        limit = wire.INLINE_LIMIT if small else wire.CHUNK
        requests = functools.partial(wire.messages, header, middle, body.parts, limit)
        async with aclosing(transport.stream("Compute/RunStream", requests, small, timeout, grace=GRACE)) as messages:
            async for message in messages:
                receiver.add(message)
    return receiver.finish()


def result_size(plan: graph.Plan) -> float:
    """Bytes that will come home, or infinity if that is not known."""
    return sum(_size(meta) for output in plan.outputs if output.fetch for meta in plan.metas(output))


def _size(meta: graph.Meta) -> float:
    if meta.dtype is None or meta.shape is None or meta.dtype == STRINGS:
        return math.inf
    sizes = [size.size if isinstance(size, graph.Dim) else size for size in meta.shape]
    return math.inf if None in sizes else meta.dtype.itemsize * math.prod(size or 0 for size in sizes)
