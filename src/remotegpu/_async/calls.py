# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""How one encoded program travels: in one message each way if both are small, else as a stream."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing

from remotegpu import errors, graph, wire
from remotegpu.deadlines import GRACE
from remotegpu.multiplexer import RUN
from remotegpu.result import Receiver, Reply, whole
from remotegpu.strings import STRINGS
from remotegpu.v1 import compute_pb2

from .transport import AsyncTransport

# The field of the error for a result that is too large for one message.
_OUTGROWN = "result size"


class Request:
    """A program with its header, for any number of calls: what comes before their bodies, which have one size, is only
    put together again when the timeout is another one. Safe to use from many tasks of one event loop."""

    def __init__(
        self, header: compute_pb2.RunHeader, program: bytes, body_size: int, expected: float, catalog: bytes
    ) -> None:
        """`header`: all but the sizes and times; it is kept. `expected`: bytes of the result, infinity if that is not
        known. `catalog`: the digest of the one that is known here."""
        header.body_size = body_size
        header.catalog = catalog
        self._header = header
        self.program = program
        self._body_size = body_size
        self.small = body_size + len(program) <= wire.INLINE_LIMIT
        # One message each way.
        self.whole = self.small and expected <= wire.INLINE_LIMIT
        # A call without a lease keeps nothing, so it may run twice.
        self.is_repeatable = header.WhichOneof("place") is None
        # For which timeout it was made last, and what.
        self._front = (math.nan, b"")

    def head(self, timeout: float) -> bytes:
        """The header of a call. Timeout in seconds."""
        header = compute_pb2.RunHeader(deadline_ms=max(round(timeout * 1000), 1))
        header.MergeFrom(self._header)
        return header.SerializeToString()

    def front(self, timeout: float) -> bytes:
        """All of the message of a call up to the body. Timeout in seconds."""
        known, front = self._front
        if known != timeout:
            front = wire.join(self.head(timeout), self.program, (), self._body_size)
            self._front = timeout, front
        return front


async def exchange(
    transport: AsyncTransport,
    request: Request,
    parts: Sequence[wire.Buffer],
    timeout: float,
    outgrown: Callable[[], None],
) -> Reply:
    """Sends a request with the parts of its body, and receives the result. Timeout in seconds. `outgrown` hears that
    the result is larger than the catalog tells: a model was exchanged for another one. Raises any error of the tree.
    """
    started = time.perf_counter()
    if request.whole:
        message = b"".join((request.front(timeout), *parts))
        try:
            return whole(await transport.unary(RUN, message, timeout, grace=GRACE), started)
        except errors.InvalidInput as error:
            if error.field != _OUTGROWN:
                raise
            outgrown()
            timeout -= time.perf_counter() - started
            if not request.is_repeatable or timeout <= 0:
                raise
            parts = [b"".join(parts)]
    receiver, limit = Receiver(started), wire.INLINE_LIMIT if request.small else wire.CHUNK
    requests = functools.partial(wire.messages, request.head(timeout), request.program, parts, limit)
    stream = transport.stream("Compute/RunStream", requests, request.small, timeout, grace=GRACE)
    async with aclosing(stream) as messages:
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
