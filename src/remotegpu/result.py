# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What comes back from a call: bytes to arrays, without a network."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from remotegpu import errors, graph, wire
from remotegpu.dtypes import BYTES, Dtype, from_number
from remotegpu.strings import STRINGS, decode
from remotegpu.v1 import compute_pb2, program_pb2

HostArray = np.ndarray[Any, Dtype]


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


@dataclass(frozen=True, slots=True)
class Reply:
    """A received result with its body."""

    header: compute_pb2.RunReplyHeader
    result: program_pb2.Result
    body: HostArray
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
        for item in self.result.values:
            if item.output >= len(plan.outputs):
                raise errors.ProtocolError(what=f"a value for output {item.output} of {len(plan.outputs)}")
            output, shape = plan.outputs[item.output], tuple(item.shape)
            dtype = STRINGS if item.dtype == BYTES else from_number(item.dtype)
            if dtype is None:
                raise errors.ProtocolError(what=f"dtype {item.dtype} of output {item.output}")
            if output.value is not None:
                output.value.learn(dtype, shape)
                if output.keep:
                    output.value.settle(graph.Handle(output.keep, item.epoch), freed)
            if item.HasField("offset"):
                part = self.body[item.offset : item.offset + item.size]
                array = _strings(part, shape) if dtype == STRINGS else part.view(dtype).reshape(shape)
                if output.every_port:
                    found.setdefault(item.output, {})[item.name] = array
                else:
                    found[item.output] = array
        return [found[index] for index in range(len(plan.outputs)) if index in found]


def _strings(part: HostArray, shape: tuple[int, ...]) -> HostArray:
    try:
        return decode(wire.bytes_of(part), shape)
    except errors.InvalidInput as error:
        raise errors.ProtocolError(what=f"an output: {error}") from error


class Receiver:
    """Puts a streamed (or single) reply together; the body is written once, where it stays. `started`: when the call
    began, on `time.perf_counter`."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._header: compute_pb2.RunReplyHeader | None = None
        self._result = program_pb2.Result()
        self._body: HostArray = np.empty(0, np.uint8)
        self._position = 0

    def add(self, message: bytes) -> None:
        """The next message. Raises ProtocolError for a body that is longer than announced."""
        head, middle, piece = wire.split(message)
        if self._header is None:
            self._header = wire.parse(compute_pb2.RunReplyHeader, head)
            self._result = wire.parse(program_pb2.Result, middle)
            self._body = np.empty(self._header.body_size, np.uint8)
        position, end = self._position, self._position + len(piece)
        if end > len(self._body):
            raise errors.ProtocolError(what=f"{len(self._body)} bytes of result announced, more came")
        self._body[position:end] = np.frombuffer(piece, np.uint8)
        self._position = end

    def finish(self) -> Reply:
        """The reply. Raises ProtocolError for a body that is shorter than announced."""
        header = self._header or compute_pb2.RunReplyHeader()
        if self._position != len(self._body):
            what = f"{len(self._body)} bytes of result announced, {self._position} came: cut short"
            raise errors.ProtocolError(what=what)
        return Reply(header, self._result, self._body, time.perf_counter() - self._started)


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
