# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Inference for the standard door, whatever its wire: a request becomes a program, its result outputs.

A request has two parts: what it asks (`Request`: names, datatypes, shapes), which is the same in thousands of calls,
and the data. `Inference.prepare` checks the first and makes the program, once; `Inference.run` takes the data.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from remotegpu import errors, wire
from remotegpu.v1 import compute_pb2, program_pb2
from remotegpu_server.gateway.call import Answer, Call, Gate
from remotegpu_server.gateway.requests import DEADLINE_LIMIT

from . import checks
from .classification import classified
from .refusals import Refused, invalid, labelled, refused
from .served import Models, Served, not_available
from .statistics import Spent, Statistics
from .tensors import BYTES, DATATYPES, Buffer, datatype_of, size_of, strings_refused
from .threads import in_thread

Parameter = bool | int | float | str

# Requests remembered, and the shapes of replies remembered for each of them.
_REMEMBERED = 1024
_LAYOUTS = 16
_LAYOUT_SIZE = 4096
# Of an input, what is copied without a pause: about a millisecond. Bytes.
_PIECE = 4 * 1024 * 1024
# A body that is put together before there is a place for it: a call that needs to wait for nothing is the quicker one.
# Bytes.
_SMALL = 16 * 1024
# Bytes of all inputs for which a program is made.
_SIZE_LIMIT = 2**62
# Milliseconds in the queue: what is longer than any deadline means nothing.
_QUEUE_LIMIT = int(DEADLINE_LIMIT * 1000)


@dataclass(frozen=True, slots=True)
class Input:
    """An input without its data."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output that the caller wants. `classification`: so many of the largest elements, as strings "value:index"; 0:
    the tensor itself."""

    name: str
    classification: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked, without the data. No `outputs`: all. `version`: empty for the model's default."""

    model: str
    version: str = ""
    id: str = ""
    inputs: tuple[Input, ...] = ()
    outputs: tuple[RequestedOutput, ...] = ()
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Caller:
    """For whom a call is made. `number` stands for the connection: those of one take turns with those of others.
    `deadline`: seconds left, None for the default. `id` is the request's, for messages."""

    tenant: str
    number: int = 0
    deadline: float | None = None
    id: str = ""


@dataclass(slots=True)
class Output:
    """An output: little-endian bytes in C order, strings as in the protocol. `data` may be a view, which ends with
    `Response.close`."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Buffer


@dataclass(slots=True)
class Layout:
    """What replies to one request have in common: where each output lies in the body. `encoded` is the door's own, for
    what it makes of all this once."""

    tensors: tuple[tuple[str, str, tuple[int, ...], int, int], ...]
    encoded: bytes = b""


@dataclass(slots=True)
class Response:
    """A reply. `close` gives the memory back: call it exactly once, when the data of `outputs` was copied or sent."""

    served: Served
    outputs: list[Output]
    close: Callable[[], None]
    # None where outputs are not as the layout says, since they are classifications.
    layout: Layout | None


@dataclass(slots=True)
class Prepared:
    """A checked request and its program. `program` is None where it depends on the sizes of strings, or there is none
    since the tensors would be too large."""

    served: Served
    inputs: tuple[Input, ...]
    # Bytes that each input must have; None for strings.
    sizes: tuple[int | None, ...]
    # Where each input begins in the body, and the bytes of all (of no meaning without `program`).
    starts: tuple[int, ...]
    body_size: int
    program: memoryview | None
    outputs: tuple[RequestedOutput, ...]
    has_classes: bool
    queue_timeout_ms: int
    digest: bytes
    layouts: dict[bytes, Layout] = field(default_factory=dict)


class Inference:
    """Runs requests. One for all listeners of the standard door."""

    def __init__(self, gate: Gate) -> None:
        assert gate.models is not None, "a server that has this door"
        self.gate = gate
        self.registry = gate.models
        self.statistics = Statistics()
        self._models = Models(gate.catalog)
        self._prepared: OrderedDict[tuple[object, ...], Prepared] = OrderedDict()

    @property
    def models(self) -> Models:
        """What is served now."""
        if self._models.digest != self.gate.catalog.digest:
            self._models = Models(self.gate.catalog)
            self._prepared.clear()
            self.statistics.keep({(served.name, served.version) for served in self._models})
        return self._models

    async def located(self, name: str, version: str = "") -> Served:
        """As `models.find`, but has a version loaded that was not asked for yet. Raises Refused."""
        try:
            return self.models.find(name, version)
        except Refused:
            # The registry would take "name:version" for a reference.
            if ":" in name or not self.registry.version_exists(name, version):
                if self.registry.is_known(name):
                    self.models.check_version(version)
                    raise not_available(name, version) from None
                raise
        try:
            await self.registry.signature(name, version)
        except errors.Error as error:
            raise refused(error) from error
        return self.models.find(name, version)

    def is_current(self, prepared: Prepared) -> bool:
        """Whether models have not changed since; if they have, prepare the request again."""
        return prepared.digest == self.gate.catalog.digest

    def prepare(self, request: Request) -> Prepared:
        """Checks a request and makes its program. The model is one that was `located`. Raises Refused."""
        served = self.models.find(request.model, request.version)
        timeout = checks.check_parameters(request.parameters)
        key = (served.name, served.version, request.inputs, request.outputs, timeout)
        found = self._prepared.get(key)
        if found is not None:
            self._prepared.move_to_end(key)
            return found
        checks.check_outputs(served, [output.name for output in request.outputs], request.id)
        checks.check_inputs(served, [(each.name, each.datatype, each.shape) for each in request.inputs], request.id)
        made = _prepared(served, request, timeout, self._models.digest)
        self._prepared[key] = made
        if len(self._prepared) > _REMEMBERED:
            self._prepared.popitem(last=False)
        return made

    async def run(self, prepared: Prepared, data: Sequence[Buffer], caller: Caller) -> Response:
        """Runs a prepared request. `data`: the bytes of each input, in the order of the request's inputs. Raises
        Refused."""
        begun, done = time.monotonic_ns(), False
        served = prepared.served
        checks.check_sizes(served, prepared.inputs, prepared.sizes, data, caller.id)
        try:
            answer = await self._called(prepared, data, caller)
            try:
                response = self._response(prepared, answer)
                if prepared.has_classes:
                    await self._classify(prepared, response)
            except BaseException:
                answer.reply.close()
                raise
            done = True
        except errors.Error as error:
            raise _explained(prepared, data, error, caller) from error
        finally:
            now = time.monotonic_ns()
            if not done:
                self.statistics.failed(served.name, served.version, now - begun)
        self.statistics.succeeded(served.name, served.version, _spent(answer, now - begun), time.time_ns() // 1_000_000)
        return response

    async def _called(self, prepared: Prepared, data: Sequence[Buffer], caller: Caller) -> Answer:
        program, starts, body_size = prepared.program, prepared.starts, prepared.body_size
        if program is None:
            program, starts, body_size = _program(prepared, [len(each) for each in data])
        header = compute_pb2.RunHeader(
            body_size=body_size,
            model=prepared.served.name,
            catalog=self.gate.catalog.digest,
            queue_timeout_ms=prepared.queue_timeout_ms,
        )
        if caller.deadline is not None:
            header.deadline_ms = max(math.ceil(min(caller.deadline, DEADLINE_LIMIT) * 1000), 1)

        if body_size <= _SMALL:
            body = bytearray(body_size)
            for start, piece in zip(starts, data, strict=True):
                body[start : start + len(piece)] = piece
            small = memoryview(body)
            return await Call(self.gate, caller.tenant, header, program, caller=caller.number).run(small)

        async def fill(target: memoryview) -> None:
            for start, piece in zip(starts, data, strict=True):
                if len(piece) <= _PIECE:
                    target[start : start + len(piece)] = piece
                else:
                    await _copy(memoryview(piece), target[start : start + len(piece)])

        return await Call(self.gate, caller.tenant, header, program, caller=caller.number).run(fill)

    def _response(self, prepared: Prepared, answer: Answer) -> Response:
        reply = answer.reply
        key = bytes(reply.result)
        layout = prepared.layouts.get(key)
        if layout is None:
            layout = _layout(prepared, wire.parse(program_pb2.Result, key))
            if len(prepared.layouts) < _LAYOUTS and len(key) < _LAYOUT_SIZE:
                prepared.layouts[key] = layout
        body = reply.body
        outputs = [Output(name, kind, shape, body[start:end]) for name, kind, shape, start, end in layout.tensors]
        return Response(prepared.served, outputs, reply.close, layout)

    async def _classify(self, prepared: Prepared, response: Response) -> None:
        wanted = {output.name: output.classification for output in prepared.outputs}
        declared = {tensor.name: tensor.shape for tensor in prepared.served.outputs}
        for position, output in enumerate(response.outputs):
            most = wanted[output.name]
            if most:
                has_rows = len(output.shape) > 1 and declared[output.name][:1] == (-1,)
                # Sorting takes a while; the loop has other callers.
                shape, data = await in_thread(
                    partial(classified, output.name, output.datatype, output.shape, output.data, most, has_rows)
                )
                response.outputs[position] = Output(output.name, BYTES, shape, data)
        response.layout = None


async def _copy(source: memoryview, target: memoryview) -> None:
    for start in range(0, len(source), _PIECE):
        target[start : start + _PIECE] = source[start : start + _PIECE]
        await asyncio.sleep(0)  # others have their turn


def _prepared(served: Served, request: Request, timeout: int, digest: bytes) -> Prepared:
    by_name = {output.name: output for output in request.outputs}
    # In the model's order, whatever the request's.
    outputs = tuple(
        by_name.get(tensor.name, RequestedOutput(tensor.name))
        for tensor in served.outputs
        if not by_name or tensor.name in by_name
    )
    sizes = tuple(size_of(each.datatype, each.shape) for each in request.inputs)
    made = Prepared(
        served=served,
        inputs=request.inputs,
        sizes=sizes,
        starts=(),
        body_size=0,
        program=None,
        outputs=outputs,
        has_classes=any(output.classification for output in outputs),
        queue_timeout_ms=min(-(-timeout // 1000), _QUEUE_LIMIT),
        digest=digest,
    )
    known = [size for size in sizes if size is not None]
    # More than messages can tell is more than any data has: `run` refuses it.
    if len(known) == len(sizes) and sum(known) < _SIZE_LIMIT:
        made.program, made.starts, made.body_size = _program(made, known)
    return made


def _program(prepared: Prepared, sizes: Sequence[int]) -> tuple[memoryview, tuple[int, ...], int]:
    """The program for inputs of so many bytes, where they begin in the body, and its size."""
    program, starts, end = program_pb2.Program(), [], 0
    for given, size in zip(prepared.inputs, sizes, strict=True):
        start = wire.aligned(end)
        end = start + size
        starts.append(start)
        tensor = program.nodes.add().tensor
        tensor.dtype, tensor.offset, tensor.size = DATATYPES[given.datatype][0], start, size
        tensor.shape.extend(given.shape)
    call = program.nodes.add().model
    call.model = f"{prepared.served.name}:{prepared.served.version}"
    for index, given in enumerate(prepared.inputs):
        call.inputs.add(name=given.name, ref=program_pb2.Ref(node=index))
    # By name, since the model may be exchanged for one with other outputs before the program runs.
    for output in prepared.outputs:
        program.outputs.add(ref=program_pb2.Ref(node=len(program.nodes)), fetch=True)
        port = program.nodes.add().named_port
        port.node, port.name = len(prepared.inputs), output.name
    return memoryview(program.SerializeToString()), tuple(starts), end


def _layout(prepared: Prepared, result: program_pb2.Result) -> Layout:
    return Layout(
        tuple(
            (
                prepared.outputs[value.output].name,
                datatype_of(value.dtype),
                tuple(value.shape),
                value.offset,
                value.offset + value.size,
            )
            for value in result.values
        )
    )


def _spent(answer: Answer, total_ns: int) -> Spent:
    timing = answer.header.timing
    return Spent(
        total_ns,
        timing.queue_ns,
        timing.upload_ns + timing.h2d_ns,
        timing.compute_ns,
        timing.d2h_ns,
        answer.reply.done.batch,
    )


def _explained(prepared: Prepared, data: Sequence[Buffer], error: errors.Error, caller: Caller) -> Refused:
    """The worker has refused strings that are not what the shape says: the protocol has words for how."""
    if isinstance(error, errors.InvalidInput) and not isinstance(error, errors.ModelNotFound):
        for given, piece in zip(prepared.inputs, data, strict=True):
            if given.datatype == BYTES:
                found = strings_refused(given.name, piece, math.prod(given.shape))
                if found is not None:
                    return found
        return invalid(f"{labelled(caller.id)}{error}")
    return refused(error, caller.id)
