# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Models that are called without a lease."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from remotegpu import graph, program, wire
from remotegpu.calls import result_size
from remotegpu.strings import is_strings, strings_of
from remotegpu.v1 import compute_pb2

if TYPE_CHECKING:
    from remotegpu.client import Client

_PROGRAMS_REMEMBERED = 64


def _sendable(given: Any) -> Any:
    """A C-contiguous array in the wire's byte order, copied only if need be."""
    array = np.asarray(given, order="C")
    if array.dtype.kind in "USO":
        return strings_of(array)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("<"))


class OneCallModel:
    """A model without a lease: the call takes a shared slot of any device for as long as it runs.

    Programs are remembered by the names, dtypes and shapes of the inputs, so that a warm call only adds the data."""

    def __init__(self, client: Client, name: str) -> None:
        self.name = name
        self._client = client
        self._programs: dict[tuple[Any, ...], _OneCallProgram] = {}

    def __repr__(self) -> str:
        return f"<OneCallModel {self.name!r} of {self._client!r}>"

    def __call__(self, *inputs: Any, timeout: float | None = None, **named: Any) -> dict[str, Any]:
        """The outputs by name, as NumPy arrays, in one round trip. Inputs by position or by name: NumPy arrays or
        anything `numpy.asarray` takes; for strings arrays of text or bytes. String outputs are object arrays of bytes.
        Raises any error of the tree."""
        names = ("",) * len(inputs) + tuple(named)
        arrays = [_sendable(array) for array in (*inputs, *named.values())]
        if any(map(is_strings, arrays)):
            return self._call_with_strings(names, arrays, timeout)
        digest = self._client.catalog.digest
        key = (digest, names, *[(array.dtype, array.shape) for array in arrays])
        known = self._programs.get(key)
        if known is None:
            known = self._program(names, arrays)
            if len(self._programs) >= _PROGRAMS_REMEMBERED:
                self._programs.clear()
            self._programs[key] = known
        body = wire.Body()
        for array in arrays:
            body.add(wire.bytes_of(array))
        header = compute_pb2.RunHeader(model=self.name)
        reply = self._client.send(header, known.encoded, body, known.result_size, timeout)
        outputs: dict[str, Any] = reply.results(known.plan, [])[0]
        return outputs

    def _call_with_strings(self, names: Sequence[str], arrays: Sequence[Any], timeout: float | None) -> dict[str, Any]:
        """Strings differ in size from call to call, and the program tells it: none is remembered."""
        plan = self._plan(names, arrays)
        reply = self._client.run(plan, compute_pb2.RunHeader(model=self.name), timeout)
        outputs: dict[str, Any] = reply.results(plan, [])[0]
        return outputs

    def _plan(self, names: Sequence[str], arrays: Sequence[Any]) -> graph.Plan:
        values = [graph.Value(graph.Source(array), graph.Meta(array.dtype, array.shape)) for array in arrays]
        pairs = tuple(zip(names, values, strict=True))
        signature = self._client.catalog.models.get(self.name)
        metas = signature.output_metas(pairs) if signature else None
        return graph.plan([graph.ModelCall(self.name, pairs, metas)], keep=None)

    def _program(self, names: Sequence[str], arrays: Sequence[Any]) -> _OneCallProgram:
        plan = self._plan(names, arrays)
        encoded, _ = program.encode(plan)
        # Without its nodes, which hold the arrays of this one call.
        return _OneCallProgram(encoded.SerializeToString(), graph.Plan(outputs=plan.outputs), result_size(plan))


@dataclass(frozen=True, slots=True)
class _OneCallProgram:
    encoded: bytes
    plan: graph.Plan
    result_size: float
