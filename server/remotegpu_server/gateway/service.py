# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The gRPC face: methods, bytes in and out, errors to status. Everything else is in `call` and `leases`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from remotegpu import errors, wire
from remotegpu._version import __version__
from remotegpu.v1 import compute_pb2, scheduler_pb2
from remotegpu.v1 import lease_pb2 as lease_messages
from remotegpu_server import scheduler

from .call import DEADLINE_LIMIT, Answer, Call, Gate, grant_message, milliseconds, scheduler_request

logger = logging.getLogger("remotegpu.gateway")

Context = grpc.aio.ServicerContext[bytes, bytes]
UnaryMethod = Callable[[bytes], Awaitable[bytes]]

# A unary message is in memory before any code of ours sees it: header, program and an inline body.
MESSAGE_LIMIT = 4 * 1024 * 1024
# How long a caller may take to send the first message of a stream, and to read each piece of a reply. Seconds.
_HEADER_PATIENCE = 30.0
_SEND_PATIENCE = 10.0


class Gateway:
    """Answers calls of the services `remotegpu.v1.Compute` and `remotegpu.v1.Scheduler`."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._started = time.monotonic()

    def handlers(self) -> list[grpc.GenericRpcHandler[bytes, bytes]]:
        """For `grpc.aio.Server.add_generic_rpc_handlers`. Messages stay bytes: see `remotegpu.wire`."""
        compute = {
            "Run": _unary(self._run),
            "RunStream": grpc.stream_stream_rpc_method_handler(self._run_stream),
            "Models": _unary(self._models),
        }
        scheduling = {"Alloc": _unary(self._alloc), "Dealloc": _unary(self._dealloc), "Top": _unary(self._top)}
        return [
            grpc.method_handlers_generic_handler("remotegpu.v1.Compute", compute),
            grpc.method_handlers_generic_handler("remotegpu.v1.Scheduler", scheduling),
        ]

    async def _run(self, request: bytes) -> bytes:
        head, program, body = wire.split(request)
        header = wire.parse(compute_pb2.RunHeader, head)
        if header.body_size != len(body):
            raise errors.ProtocolError(what=f"the header says {header.body_size} bytes of body, {len(body)} came")

        async def fill(target: memoryview) -> None:
            target[:] = body

        answer = await Call(self._gate, header, program).run(fill)
        try:
            size = len(answer.reply.body)
            if size > MESSAGE_LIMIT:
                limit = f"at most {MESSAGE_LIMIT} bytes in one message; RunStream has no such limit"
                raise errors.InvalidInput(field="result size", limit=limit, given=f"{size} bytes")
            return wire.join(answer.header.SerializeToString(), answer.reply.result, (answer.reply.body,))
        finally:
            answer.reply.close()

    async def _run_stream(self, requests: AsyncIterator[bytes], context: Context) -> None:
        try:
            call, answer = await self._streamed_call(requests)
            try:
                await self._send(call, answer, context)
            finally:
                answer.reply.close()
        except errors.Error as error:
            await _abort(context, error)

    async def _send(self, call: Call, answer: Answer, context: Context) -> None:
        """A caller that does not read holds memory that others wait for, so each piece has little time, and all of them
        no more than the call."""
        loop, header = asyncio.get_running_loop(), answer.header.SerializeToString()
        try:
            for message in wire.messages(header, answer.reply.result, (answer.reply.body,)):
                async with asyncio.timeout_at(min(call.ends + _SEND_PATIENCE, loop.time() + _SEND_PATIENCE)):
                    await context.write(message)
        except TimeoutError:
            raise errors.DeadlineExceeded(deadline=call.deadline) from None

    async def _streamed_call(self, requests: AsyncIterator[bytes]) -> tuple[Call, Answer]:
        incoming = aiter(requests)
        try:
            async with asyncio.timeout(_HEADER_PATIENCE):
                head, program, piece = wire.split(await anext(incoming, b""))
        except TimeoutError:
            raise errors.DeadlineExceeded(deadline=_HEADER_PATIENCE) from None
        header = wire.parse(compute_pb2.RunHeader, head)

        async def fill(target: memoryview) -> None:
            position, data = 0, piece
            while True:
                if position + len(data) > len(target):
                    raise errors.ProtocolError(what=f"the header says {len(target)} bytes of body, more came")
                target[position : position + len(data)] = data
                position += len(data)
                if position == len(target):
                    return
                data = wire.split(await anext(incoming, b""))[2]
                if not data:
                    raise errors.ProtocolError(
                        what=f"the header says {len(target)} bytes of body, it ended after {position}: cut short"
                    )

        call = Call(self._gate, header, program)
        return call, await call.run(fill)

    async def _models(self, request: bytes) -> bytes:
        wire.parse(compute_pb2.ModelsRequest, request)
        return self._gate.catalog.SerializeToString()

    async def _alloc(self, request: bytes) -> bytes:
        message = wire.parse(lease_messages.AllocRequest, request)
        if self._gate.draining:
            raise errors.Unavailable(why="it is draining before a stop")
        patience = milliseconds(message.timeout_ms, 0, DEADLINE_LIMIT, "timeout_ms")
        held = await self._gate.leases.alloc(scheduler_request(message), patience)
        return grant_message(held, self._gate.workers).SerializeToString()

    async def _dealloc(self, request: bytes) -> bytes:
        message = wire.parse(scheduler_pb2.DeallocRequest, request)
        ended = self._gate.leases.dealloc(message.lease)
        return scheduler_pb2.DeallocReply(ended_now=ended).SerializeToString()

    async def _top(self, request: bytes) -> bytes:
        wire.parse(scheduler_pb2.TopRequest, request)
        return snapshot_message(self._gate, time.monotonic() - self._started).SerializeToString()


def snapshot_message(gate: Gate, uptime: float) -> scheduler_pb2.Snapshot:
    """What `remotegpu top` shows. `uptime` in seconds."""
    facts = gate.leases.snapshot()
    message = scheduler_pb2.Snapshot(version=__version__, policy=facts.policy, uptime_s=uptime)
    message.models.extend(model.name for model in gate.catalog.models)
    for view, worker in zip(facts.devices, gate.workers, strict=True):
        message.devices.add(
            index=view.device.index,
            name=view.device.name,
            uuid=view.device.uuid,
            epoch=worker.epoch,
            state=worker.state,
            slots=view.device.slots,
            slots_used=view.used_slots,
            memory=view.device.memory,
            memory_reserved=view.used_memory,
            exclusive=view.exclusive,
            memory_held=worker.memory_held,
            calls=worker.calls,
            worker_pid=worker.pid,
            arena_used=worker.arena_used,
        )
    for lease in facts.leases:
        message.leases.add(
            lease=lease.key[:8],
            tenant=lease.tenant,
            devices=lease.devices,
            age_s=lease.age,
            ttl_left_s=lease.ttl_left or 0.0,
            calls_running=lease.calls_running,
            calls=lease.calls_made,
            memory=lease.memory,
            exclusive=lease.exclusive,
        )
    for waiter in facts.queue:
        message.queue.add(
            place=waiter.place, tenant=waiter.tenant, gpus=waiter.gpus, memory=waiter.memory, waited_s=waiter.waited
        )
    _fill_counters(message.counters, facts.counters)
    return message


def _fill_counters(message: scheduler_pb2.Counters, counters: scheduler.Counters) -> None:
    message.granted = counters.granted
    message.busy = counters.refused_busy + counters.refused_full
    message.impossible = counters.refused_impossible
    message.timed_out = counters.refused_timeout
    message.expired = counters.expired
    message.deallocated = counters.deallocated


def _unary(method: UnaryMethod) -> grpc.RpcMethodHandler[bytes, bytes]:
    async def handle(request: bytes, context: Context) -> bytes:
        try:
            return await method(request)
        except errors.Error as error:
            await _abort(context, error)
            raise AssertionError from error  # abort has raised

    return grpc.unary_unary_rpc_method_handler(handle)


async def _abort(context: Context, error: errors.Error) -> None:
    """The one place where an error becomes a status: its class names the code, its fields go along."""
    code: Any = getattr(grpc.StatusCode, error.status)
    await context.abort(code, wire.clipped(str(error), 300), ((wire.ERROR_KEY, wire.error_detail(error)),))
