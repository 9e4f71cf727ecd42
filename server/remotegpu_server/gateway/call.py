# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The life of one call: place, slab, body, worker, reply. Every exit gives back what was taken.

The daemon reads a call's header only. Program and body go into the slab as they came; the worker parses and checks
them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from remotegpu import errors, wire
from remotegpu.v1 import compute_pb2 as pb
from remotegpu.wire import Buffer
from remotegpu_server import records
from remotegpu_server.supervisor.job import Reply, Slab
from remotegpu_server.supervisor.worker import DeviceWorker

from .attachments import Attachments, Sources
from .begun import Begun, Ending
from .identity import number_of
from .leases import Held, Leases
from .models import ModelRegistry
from .requests import DEADLINE_LIMIT, DEFAULT_DEADLINE, check_name, grant_message, milliseconds, scheduler_request
from .shared import SharedSlots, Slot
from .traffic import Traffic

# How much of its deadline a call without a lease waits for a slot: what is left tells the caller that all are busy.
_ONE_CALL_PATIENCE = 0.9
_DIED = "its worker died during the call"

# The body, or what writes it into its place in the slab.
Fill = Buffer | Callable[[memoryview], Awaitable[None]]


@dataclass(slots=True)
class Gate:
    """What calls pass through: the leases, the workers, and whether the server still takes calls."""

    leases: Leases
    shared: SharedSlots
    workers: list[DeviceWorker]
    arena_size: int
    catalog: pb.Catalog = field(default_factory=pb.Catalog)
    traffic: Traffic = field(default_factory=Traffic)
    # Inputs beside bodies; None: there are none.
    sources: Sources | None = None
    # What is known of models beside the catalog; None: nothing.
    models: ModelRegistry | None = None
    # Callers may change what is served.
    allow_uploads: bool = False
    # The server takes no more calls.
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def draining(self) -> bool:
        """Whether calls are refused, since the server is about to stop."""
        return self.stopping.is_set()


@dataclass(slots=True)
class Answer:
    """A finished call: the header to send, and the reply whose slab the sender closes."""

    header: pb.RunReplyHeader
    reply: Reply


# Hears how a call that was begun has ended; None: nobody waits for it any more.
Told = Callable[[Answer | errors.Error | None], None]


class Call:
    """One program on its way."""

    def __init__(
        self,
        gate: Gate,
        tenant: str,
        header: pb.RunHeader,
        program: Buffer,
        submitted: Callable[[], None] | None = None,
        caller: int = 0,
    ) -> None:
        """`submitted` hears when a worker has the program. Calls of one `caller` (0: of the tenant) share its turn when
        there are many. Raises InvalidInput, ProtocolError or Unavailable for what can be refused from the header alone.
        """
        self._arrived = time.monotonic_ns()
        self._gate = gate
        self._tenant = tenant
        self._header = header
        self._program = program
        self._submitted = submitted
        self._caller = caller or number_of(tenant)
        self._attachments: Attachments | None = None
        if header.contents or header.fetches:
            self._attachments = Attachments(gate.sources, tenant, header)
        self._size = wire.aligned(len(program)) + header.body_size
        self.deadline = milliseconds(header.deadline_ms, DEFAULT_DEADLINE, DEADLINE_LIMIT, "deadline_ms")
        if gate.draining:
            raise errors.Unavailable(why="it is draining before a stop")
        if not program:
            raise errors.ProtocolError(what="a call without a program")
        if self._size > gate.arena_size:
            limit = f"at most {gate.arena_size} bytes in one call (the server's --arena)"
            raise errors.InvalidInput(field="request size", limit=limit, given=f"{self._size} bytes")
        self._lease_ns = 0
        self._upload_ns = 0
        # The worker has freed all that the lease held.
        self._clean = False
        # The lease that this call allocated, if it goes on.
        self._granted: Held | None = None
        # For a call without a lease.
        self._slot: Slot | None = None
        # A worker has the program, and says when it is done with it.
        self._with_worker = False
        # On the loop's clock.
        self.ends = asyncio.get_running_loop().time() + self.deadline
        # Seconds; 0: as long as the deadline allows.
        self._queue_timeout = milliseconds(header.queue_timeout_ms, 0, DEADLINE_LIMIT, "queue_timeout_ms")
        self._queue_ends = self.ends - self.deadline + self._queue_timeout if self._queue_timeout else None

    async def run(self, fill: Fill) -> Answer:
        """Raises any error of the tree; DeadlineExceeded after `deadline` seconds."""
        if isinstance(fill, (memoryview, bytes)):
            future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            begun = self.begin(fill, partial(_settle, future))
            if begun is not None:
                return await _settled(future, begun)
        sent = 0
        try:
            async with asyncio.timeout_at(self.ends):
                if self._attachments is None:
                    answer = await self._placed(fill)
                else:
                    with self._attachments.held():
                        answer = await self._placed(fill)
            sent = len(answer.reply.result) + len(answer.reply.body)
            return answer
        except TimeoutError:
            raise errors.DeadlineExceeded(deadline=self.deadline) from None
        finally:
            self._count(sent)

    def _count(self, sent: int) -> None:
        now = time.monotonic_ns()
        self._gate.traffic.call(now / 1e9, (now - self._arrived) / 1e9, self._size, sent)

    def begin(self, body: Buffer, told: Told) -> Begun | None:
        """Begins a call that has nothing to wait for, which a small one to a model seldom has: then no task and no turn
        of the loop is spent on it. `told` hears the end, never before this has returned. None: `run` it.

        Raises InvalidInput."""
        header = self._header
        if header.WhichOneof("place") or header.device or self._attachments is not None or self._queue_ends is not None:
            return None
        check_name("model", header.model)
        slot = self._gate.shared.take_now(self._tenant, header.model)
        if slot is None:
            return None
        worker = self._gate.workers[slot.device]
        life = worker.life_now
        slab = None if life is None else life.allocate_now(self._size)
        if life is None or slab is None:
            self._gate.shared.give_back(slot)
            return None
        self._slot, start = slot, time.monotonic_ns()
        self._lease_ns = start - self._arrived
        program, place = self._program, wire.aligned(len(self._program))
        slab.view[: len(program)] = program
        slab.view[place : place + len(body)] = body
        return self._handed_over(slab, worker, start, told)

    def _handed_over(self, slab: Slab, worker: DeviceWorker, start: int, told: Told) -> Begun:
        submitted = time.monotonic_ns()
        self._upload_ns = submitted - start
        self._with_worker = True
        if self._submitted is not None:
            self._submitted()
        assert self._slot is not None, "it has one"

        def ended(outcome: Ending) -> None:
            answer = self._answer(outcome, submitted) if isinstance(outcome, Reply) else outcome
            self._count(len(answer.reply.result) + len(answer.reply.body) if isinstance(answer, Answer) else 0)
            told(answer)

        held = self._slot.held
        begun = Begun(partial(worker.lost, _DIED, held.key), ended, self.deadline, self.ends)
        record = self._run_record(held, slab)
        begun.job = slab.life.submit(slab, record, self.ends, self._ended, begun)
        return begun

    def _answer(self, reply: Reply, submitted: int) -> Answer | errors.Error:
        if reply.done.failed:
            failure = wire.error_from(reply.result)
            reply.close()
            return failure
        return Answer(self._reply_header(reply.done, submitted), reply)

    async def _placed(self, fill: Fill) -> Answer:
        kind = self._header.WhichOneof("place")
        if kind == "lease":
            return await self._under_lease(fill)
        if kind is None:
            return await self._without_lease(fill)
        held = await self._allocated()
        self._lease_ns = time.monotonic_ns() - self._arrived
        over = True
        try:
            answer = await self._on_device(held, fill)
            over = self._header.finish
        finally:
            self._gate.leases.end_call(held)
            # A lease that this call allocated and whose caller hears only of a failure would be nobody's.
            if over:
                self._gate.leases.finish(held, clean=self._clean)
        self._granted = None if over else held
        answer.header.lease.CopyFrom(grant_message(held, self._gate.workers))
        return answer

    async def _without_lease(self, fill: Fill) -> Answer:
        check_name("model", self._header.model)
        patience = self.deadline * _ONE_CALL_PATIENCE
        if self._queue_timeout:
            patience = min(patience, self._queue_timeout)
        self._slot = slot = await self._gate.shared.take(self._tenant, self._header.model, patience)
        self._lease_ns = time.monotonic_ns() - self._arrived
        try:
            return await self._on_device(slot.held, fill)
        finally:
            if not self._with_worker:
                self._gate.shared.give_back(slot)

    def abandon(self) -> None:
        """The caller will not hear of the lease that this call allocated, which would be nobody's."""
        if self._granted is not None:
            self._gate.leases.finish(self._granted, clean=False)

    async def _under_lease(self, fill: Fill) -> Answer:
        leases = self._gate.leases
        held = leases.begin_call(self._header.lease, self._tenant)
        try:
            answer = await self._on_device(held, fill)
        finally:
            leases.end_call(held)
        if self._header.finish:
            leases.finish(held, clean=self._clean)
        return answer

    async def _allocated(self) -> Held:
        alloc = self._header.alloc
        if alloc.request_id:
            limit = "none: a call cannot be repeated, only Scheduler/Alloc can"
            raise errors.InvalidInput(field="alloc.request_id", limit=limit, given=alloc.request_id)
        patience = milliseconds(alloc.timeout_ms, 0, DEADLINE_LIMIT, "timeout_ms")
        request, pinned = scheduler_request(alloc, self._tenant), not self._header.finish
        held = await self._gate.leases.alloc(request, patience, pinned=pinned)
        return self._gate.leases.begin_call(held.key, self._tenant)

    async def _on_device(self, held: Held, fill: Fill) -> Answer:
        if self._header.device >= len(held.devices):
            raise errors.InvalidInput(
                field="device", limit=f"0 to {len(held.devices) - 1} in this lease", given=str(self._header.device)
            )
        worker = self._gate.workers[held.devices[self._header.device]]
        try:
            slab = await self._allocated_slab(worker, held)
            await self._filled(slab, fill)
            self._touch(held, worker, slab)
            self._with_worker = True
            if self._submitted is not None:
                self._submitted()
            submitted = time.monotonic_ns()
            reply = await slab.life.call(slab, self._run_record(held, slab), self.ends, self._queue_ends, self._ended)
        except ConnectionResetError:
            raise worker.lost(_DIED, held.key) from None
        answer = self._answer(reply, submitted)
        if isinstance(answer, errors.Error):
            raise answer
        self._clean = self._header.finish and held.touched == {worker.spec.index}
        return answer

    def _ended(self) -> None:
        """The worker has nothing more to do with this call, whether or not anybody has waited for that."""
        if self._slot is not None:
            self._gate.shared.give_back(self._slot)

    def _touch(self, held: Held, worker: DeviceWorker, slab: Slab) -> None:
        if not slab.life.alive:  # it died during the upload: nobody would confirm what was never there
            raise ConnectionResetError
        if self._slot is not None:
            return  # it leaves nothing behind that would have to be freed
        try:
            self._gate.leases.touch(held, worker.spec.index)
        except errors.Error:
            slab.free()
            raise

    def _run_record(self, held: Held, slab: Slab) -> records.Run:
        return records.Run(
            call=0,
            offset=slab.offset,
            program_size=len(self._program),
            body_size=self._header.body_size,
            lease=0 if self._slot is not None else held.number,
            memory_limit=held.request.memory,
            finish=int(self._header.finish),
            deadline_ns=round(self.ends * 1e9),
            caller=self._caller,
            attachments_size=0 if self._attachments is None else self._attachments.size,
        )

    async def _allocated_slab(self, worker: DeviceWorker, held: Held) -> Slab:
        """A slab of the worker's process when that is ready. Raises QueueTimeout: this is waiting too."""
        size = self._size
        if self._attachments is not None:
            await self._attachments.open(len(self._program), self._gate.arena_size)
            size = self._attachments.end
        if self._queue_ends is None:
            return await (await worker.life(held.key)).allocate(size)
        try:
            async with asyncio.timeout_at(self._queue_ends):
                return await (await worker.life(held.key)).allocate(size)
        except TimeoutError:
            raise errors.QueueTimeout(waited=self._queue_timeout) from None

    async def _filled(self, slab: Slab, fill: Fill) -> None:
        program, attachments, start = self._program, self._attachments, time.monotonic_ns()
        try:
            slab.view[: len(program)] = program
            body = wire.aligned(len(program)) if attachments is None else attachments.body_start
            target = slab.view[body : body + self._header.body_size]
            if isinstance(fill, (memoryview, bytes)):
                target[:] = fill
            else:
                await fill(target)
            if attachments is not None:
                await attachments.fill(slab.view)
        except BaseException:
            if slab.life.alive:
                slab.free()
            raise
        self._upload_ns = time.monotonic_ns() - start

    def _reply_header(self, done: records.Done, submitted: int) -> pb.RunReplyHeader:
        header = pb.RunReplyHeader(body_size=done.body_size)
        timing = header.timing
        timing.queue_ns = self._lease_ns + max(done.started_ns - submitted, 0)
        timing.upload_ns = self._upload_ns
        timing.h2d_ns = done.h2d_ns
        timing.compute_ns = done.compute_ns
        timing.d2h_ns = done.d2h_ns
        timing.total_ns = time.monotonic_ns() - self._arrived
        if self._header.catalog != self._gate.catalog.digest:
            header.catalog.CopyFrom(self._gate.catalog)
        return header


def _settle(future: asyncio.Future[Answer], outcome: Answer | errors.Error | None) -> None:
    """Tells how a call has ended that was begun."""
    if future.cancelled():
        if isinstance(outcome, Answer):
            outcome.reply.close()  # it came just as its caller gave up
    elif isinstance(outcome, errors.Error):
        future.set_exception(outcome)
    elif outcome is not None:
        future.set_result(outcome)


async def _settled(future: asyncio.Future[Answer], begun: Begun) -> Answer:
    try:
        return await future
    except asyncio.CancelledError:
        if future.cancelled():
            begun.cancel()
        elif future.exception() is None:
            future.result().reply.close()  # it came just as its caller gave up
        raise
