# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What comes back from a call: bytes to arrays, without a network."""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from remotegpu import errors, graph, wire
from remotegpu.dtypes import BYTES, Dtype, from_number
from remotegpu.strings import STRINGS, decode
from remotegpu.v1 import compute_pb2, program_pb2

HostArray = np.ndarray[Any, Dtype]

# Layouts of results that are remembered, and the most bytes that one may have for that.
_LAYOUTS = 256
_LONGEST_LAYOUT = 1024


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of one call went, in seconds. All but `round_trip` are the server's own clock."""

    queue: float
    upload: float
    h2d: float
    compute: float
    d2h: float
    server: float
    round_trip: float

    @property
    def network(self) -> float:
        """What the server did not see: the way there and back, and this process's own work."""
        return self.round_trip - self.server


class _Item(NamedTuple):
    """One value of a result. `start`: where it begins in the body; None if it stayed on the device."""

    output: int
    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    epoch: int
    start: int | None
    end: int


def _layout(result: bytes) -> tuple[_Item, ...]:
    """What is in a result, from `remotegpu.v1.Result` bytes. Raises ProtocolError."""
    return tuple(map(_item, wire.parse(program_pb2.Result, result).values))


def _item(value: program_pb2.Value) -> _Item:
    dtype = STRINGS if value.dtype == BYTES else from_number(value.dtype)
    if dtype is None:
        raise errors.ProtocolError(what=f"dtype {value.dtype} of output {value.output}")
    shape, start = tuple(value.shape), value.offset if value.HasField("offset") else None
    if start is not None and dtype != STRINGS and value.size != math.prod(shape) * dtype.itemsize:
        raise errors.ProtocolError(what=f"{value.size} bytes of output {value.output}, {dtype}{list(shape)}")
    return _Item(value.output, value.name, dtype, shape, value.epoch, start, value.offset + value.size)


# Results of one program are alike, call for call. Long ones are not remembered.
_remembered_layout = functools.lru_cache(_LAYOUTS)(_layout)


@dataclass(slots=True)
class Reply:
    """A received result with its body."""

    header: compute_pb2.RunReplyHeader
    layout: tuple[_Item, ...]
    body: bytearray | memoryview
    # Of the whole call, as this process saw it. Seconds.
    round_trip: float

    @property
    def timing(self) -> Timing:
        """Where the time went."""
        return _timing(self.header.timing, self.round_trip)

    def results(self, plan: graph.Plan, freed: list[int]) -> list[Any]:
        """Fetched values in the order in which they were wanted; settles and teaches the values of the plan.

        Raises ProtocolError for a result that does not fit the program."""
        found: dict[int, Any] = {}
        for number, name, dtype, shape, epoch, start, end in self.layout:
            if number >= len(plan.outputs):
                raise errors.ProtocolError(what=f"a value for output {number} of {len(plan.outputs)}")
            output = plan.outputs[number]
            if output.value is not None:
                output.value.learn(dtype, shape)
                if output.keep:
                    output.value.settle(graph.Handle(output.keep, epoch), freed)
            if start is not None:
                array = self._array(dtype, shape, start, end)
                if output.every_port:
                    found.setdefault(number, {})[name] = array
                else:
                    found[number] = array
        return [found[index] for index in range(len(plan.outputs)) if index in found]

    def _array(self, dtype: Dtype, shape: tuple[int, ...], start: int, end: int) -> HostArray:
        if end > len(self.body):
            raise errors.ProtocolError(what=f"an output up to byte {end} of {len(self.body)}")
        if dtype is STRINGS:
            return _strings(memoryview(self.body)[start:end], shape)
        return np.ndarray(shape, dtype, self.body, start)


def _strings(part: memoryview, shape: tuple[int, ...]) -> HostArray:
    try:
        return decode(part, shape)
    except errors.InvalidInput as error:
        raise errors.ProtocolError(what=f"an output: {error}") from error


def whole(message: bytes, started: float) -> Reply:
    """A reply of one message to a call that began then, on `time.perf_counter`. Raises ProtocolError for a body that is
    longer or shorter than announced."""
    head, middle, body = wire.fields(message)
    header, layout = _opened(head, middle)
    if len(body) != header.body_size:
        raise errors.ProtocolError(what=f"{header.body_size} bytes of result announced, {len(body)} came")
    return Reply(header, layout, bytearray(body), time.perf_counter() - started)


def _opened(head: wire.Buffer, middle: wire.Buffer) -> tuple[compute_pb2.RunReplyHeader, tuple[_Item, ...]]:
    layout = _remembered_layout if len(middle) <= _LONGEST_LAYOUT else _layout
    return wire.parse(compute_pb2.RunReplyHeader, head), layout(bytes(middle))


class Receiver:
    """Puts a streamed reply together; the body is written once, where it stays. `started`: when the call began, on
    `time.perf_counter`."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._header: compute_pb2.RunReplyHeader | None = None
        self._layout: tuple[_Item, ...] = ()
        self._body = memoryview(b"")
        self._position = 0

    def add(self, message: bytes) -> None:
        """The next message. Raises ProtocolError for a body that is longer than announced."""
        head, middle, piece = wire.split(message)
        if self._header is None:
            self._header, self._layout = _opened(head, middle)
            self._body = wire.bytes_of(np.empty(self._header.body_size, np.uint8))
        position, end = self._position, self._position + len(piece)
        if end > len(self._body):
            raise errors.ProtocolError(what=f"{len(self._body)} bytes of result announced, more came")
        self._body[position:end] = piece
        self._position = end

    def finish(self) -> Reply:
        """The reply. Raises ProtocolError for a body that is shorter than announced."""
        header = self._header or compute_pb2.RunReplyHeader()
        if self._position != len(self._body):
            what = f"{len(self._body)} bytes of result announced, {self._position} came: cut short"
            raise errors.ProtocolError(what=what)
        return Reply(header, self._layout, self._body, time.perf_counter() - self._started)


def _timing(timing: compute_pb2.Timing, round_trip: float) -> Timing:
    return Timing(
        queue=timing.queue_ns / 1e9,
        upload=timing.upload_ns / 1e9,
        h2d=timing.h2d_ns / 1e9,
        compute=timing.compute_ns / 1e9,
        d2h=timing.d2h_ns / 1e9,
        server=timing.total_ns / 1e9,
        round_trip=round_trip,
    )
