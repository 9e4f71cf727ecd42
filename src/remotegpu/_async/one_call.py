# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Models that are called without a lease."""

from __future__ import annotations

from asyncio import Task
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from remotegpu import errors, graph, program, wire
from remotegpu.multiplexer import MOST_CALLS
from remotegpu.reservation import check_whole
from remotegpu.strings import is_strings, strings_of
from remotegpu.v1 import compute_pb2

from .calls import Request, result_size
from .submission import Inputs

if TYPE_CHECKING:
    from .client import AsyncClient

_PROGRAMS_REMEMBERED = 64


def _sendable(array: Any) -> Any:
    """A C-contiguous array in the wire's byte order, copied only if need be, or one of strings."""
    if array.dtype.kind in "USO":
        return strings_of(array)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("<"))


class AsyncOneCallModel:
    """A model without a lease: the call takes a shared slot of any device for as long as it runs.

    Programs are remembered by the names, dtypes and shapes of the inputs, so that a warm call only adds the data."""

    def __init__(self, client: AsyncClient, name: str) -> None:
        self.name = name
        self._client = client
        self._programs: dict[tuple[Any, ...], _OneCallProgram] = {}

    def __repr__(self) -> str:
        return f"<AsyncOneCallModel {self.name!r} of {self._client!r}>"

    async def __call__(self, *inputs: Any, timeout: float | None = None, **named: Any) -> dict[str, Any]:
        """The outputs by name, as NumPy arrays, in one round trip. Inputs by position or by name: NumPy arrays or
        anything `numpy.asarray` takes; for strings arrays of text or bytes. String outputs are object arrays of bytes.
        Raises any error of the tree."""
        names = ("",) * len(inputs) + tuple(named)
        arrays = [np.asarray(given, order="C") for given in (*inputs, *named.values())]
        known = self._programs.get(self._key(names, arrays))
        if known is None:
            # Once more for what is turned into something else before it is sent.
            arrays = list(map(_sendable, arrays))
            if any(map(is_strings, arrays)):
                return await self._call_with_strings(names, arrays, timeout)
            key = self._key(names, arrays)
            known = self._programs.get(key) or self._remembered(key, names, arrays)
        reply = await self._client.exchange(known.request, known.parts(arrays), timeout)
        outputs: dict[str, Any] = reply.results(known.plan, [])[0]
        return outputs

    def _key(self, names: Sequence[str], arrays: Sequence[Any]) -> tuple[Any, ...]:
        return (self._client.catalog.digest, names, *[(array.dtype, array.shape) for array in arrays])

    async def _call_with_strings(
        self,
        names: Sequence[str],
        arrays: Sequence[Any],
        timeout: float | None,
    ) -> dict[str, Any]:
        """Strings differ in size from call to call, and the program tells it: none is remembered."""
        plan = self._plan(names, arrays)
        reply = await self._client.run(plan, compute_pb2.RunHeader(model=self.name), timeout)
        outputs: dict[str, Any] = reply.results(plan, [])[0]
        return outputs

    def submit(self, *inputs: Any, timeout: float | None = None, **named: Any) -> Task[dict[str, Any]]:
        """The same call in the background: what it will have given. An input must not be changed before that.

        Cancelling it ends the call; with threads, only one that has not begun. There at most 128 calls of a client are
        under way: more wait, and their timeout begins when they do. Closing the client ends them all; a process that
        does not close it ends when they have.

        Raises ConfigurationError if the client is closed."""
        return self._client.submissions.submit(self, *inputs, timeout=timeout, **named)

    def map(
        self, inputs: Inputs, *, in_flight: int = 16, ordered: bool = True, timeout: float | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The outputs for each of many inputs, which may be without end: an iterator.

        `inputs`: the model's one input each time, or dicts of its inputs by name; they are taken one by one, as there
        is room. `in_flight`: calls under way at most, and results that wait to be taken (1 to 128). `ordered`: in the
        order of the inputs, else as they come. `timeout`: seconds for each call.

        An error comes in the place of its result and ends the iterator; so does closing it. Then the calls that are
        left are cancelled; with threads, those that have begun go on, and what they give is dropped. Raises
        InvalidInput at once."""
        check_whole("in_flight", in_flight, 1, MOST_CALLS)

        async def call(given: Any) -> dict[str, Any]:
            if isinstance(given, Mapping):
                return await self(timeout=timeout, **given)
            return await self(given, timeout=timeout)

        return self._client.submissions.map(call, inputs, in_flight, ordered=ordered)

    def _plan(self, names: Sequence[str], arrays: Sequence[Any]) -> graph.Plan:
        values = [graph.Value(graph.Source(array), graph.Meta(array.dtype, array.shape)) for array in arrays]
        pairs = tuple(zip(names, values, strict=True))
        return graph.plan([graph.ModelCall(self.name, pairs, self._metas(pairs))], keep=None)

    def _metas(self, pairs: Sequence[tuple[str, graph.Value]]) -> tuple[graph.Meta, ...] | None:
        signature = self._client.catalog.models.get(self.name)
        if signature is None:
            return None
        try:
            return signature.output_metas(pairs)
        except errors.InvalidInput:
            # The model may have been exchanged since for one that takes these: the server says.
            self._client.catalog.forget()
            return None

    def _remembered(self, key: tuple[Any, ...], names: Sequence[str], arrays: Sequence[Any]) -> _OneCallProgram:
        plan = self._plan(names, arrays)
        encoded, _ = program.encode(plan)
        body, gaps = wire.Body(), []
        for array in arrays:
            before = body.size
            gaps.append(bytes(body.add(wire.bytes_of(array)) - before))
        header, middle = compute_pb2.RunHeader(model=self.name), encoded.SerializeToString()
        request = Request(header, middle, body.size, result_size(plan), key[0])
        # Without its nodes, which hold the arrays of this one call.
        known = _OneCallProgram(request, graph.Plan(outputs=plan.outputs), gaps)
        if len(self._programs) >= _PROGRAMS_REMEMBERED:
            self._programs.clear()
        self._programs[key] = known
        return known


@dataclass(frozen=True, slots=True)
class _OneCallProgram:
    request: Request
    plan: graph.Plan
    # What lies in the body before each array.
    gaps: list[bytes]

    def parts(self, arrays: Sequence[Any]) -> list[wire.Buffer]:
        """The parts of the body of a call."""
        # What is only joined may be of any dtype and shape.
        data = arrays if self.request.whole else map(wire.bytes_of, arrays)
        return [part for pair in zip(self.gaps, data, strict=True) for part in pair]
