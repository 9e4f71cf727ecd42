# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""One worker process from start to death: its slabs, its calls, its sockets.

Everything here runs on the daemon's event loop. Calls wait in `_pending`, where callers take turns, and only so many
are with the worker that it can put model calls together. A slab belongs to its caller until `call`, and from then on to
this object until the worker has answered or died: a cancelled call frees nothing that the worker may still read. One
that is with the worker is taken back by asking (Cancel), and its slab is free when the worker says so (Cancelled).

The end of a lease (`drop`) does not stand in the queue of the calls: a worker frees a lease's memory while a program of
another lease runs. It is told to only when no call of that lease is with it, so that none can leave anything behind; a
Drop that comes earlier waits here for the last of them. A worker that nothing runs on has `DROP_PATIENCE` to answer,
and gets no call meanwhile, so that a hung one is found at once and not by the next call's deadline.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from remotegpu import errors, wire
from remotegpu_server import records
from remotegpu_server.fairness import Turns
from remotegpu_server.slabs import Arena

from .commands import Commands
from .drops import Drops
from .job import Job, Outcome, Reply, Slab
from .line import Line
from .overrun import OVERRUN, Overrun
from .room import Room

logger = logging.getLogger("remotegpu.supervisor")

# Before another look at a dead process that no thread could be had for. Seconds.
_REAP_PAUSE = 1.0


@dataclass(frozen=True, slots=True)
class Ears:
    """Who is told what: the records that are not answers to calls, and the end of the process."""

    ready: Callable[[records.Ready, bytes], None]
    failed: Callable[[str], None]
    dropped: Callable[[records.Dropped], None]
    done: Callable[[records.Done], None]
    warm: Callable[[str], None]
    reported: Callable[[bytes], None]
    dead: Callable[[], None]


class Life:
    """A running worker process."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        sockets: tuple[socket.socket, socket.socket],
        arenas: tuple[Arena, Arena],
        ears: Ears,
        depth: int,
    ) -> None:
        """`sockets`: for calls and for control; `arenas`: for requests and for replies; `depth`: calls handed to the
        worker at once, at least 2, so that the device does not wait for the daemon."""
        self.process = process
        self.alive = True
        self._socket = sockets[0]
        self._line, self._control = Line(sockets[0]), Line(sockets[1])
        self._requests, self._replies = arenas
        self._ears = ears
        self._depth = depth
        self._room = Room(self._requests.size)
        self._pending: Turns[Job] = Turns()
        # With the worker, in the order in which they were sent.
        self._running: dict[int, Job] = {}
        # They have run, but their replies wait for room.
        self._parked: dict[int, Job] = {}
        self._overrun: Overrun[Job] = Overrun(self._running, self._overran)
        # Leases that have ended, whose calls are still with the worker.
        self._ending: set[int] = set()
        self._drops = Drops(lambda: not self._running and not self._commands, self._hung)
        self._calls = 0
        self._commands = Commands(self._control.send, self._room.free)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._read)

    @property
    def arena_used(self) -> int:
        """Bytes of the request arena in use."""
        return self._room.used

    async def allocate(self, size: int) -> Slab:
        """A slab; waits in order while there is no room. The size must be at most the arena's.

        Raises ConnectionResetError when the process dies meanwhile."""
        offset = await self._room.allocate(size)
        return Slab(self, offset, self._requests.view[offset : offset + size])

    def allocate_now(self, size: int) -> Slab | None:
        """A slab if there is room and nobody waits for any."""
        offset = self._room.allocate_now(size)
        return None if offset is None else Slab(self, offset, self._requests.view[offset : offset + size])

    def free_slab(self, slab: Slab) -> None:
        """Gives a slab back and serves those who wait for room."""
        self._room.free(slab.offset)

    async def call(
        self,
        slab: Slab,
        run: records.Run,
        deadline: float,
        queue_deadline: float | None = None,
        ended: Callable[[], None] = lambda: None,
    ) -> Reply:
        """Runs a program; `run.call` is set here. `deadline`, when its caller gives up, and `queue_deadline` are on the
        loop's clock. Cancelling takes back a call that has not begun, and stops one that has where it pauses next.
        `ended` hears once, and perhaps after this has returned, that the worker has nothing more to do with it.

        Raises QueueTimeout for a call that has not begun by its queue deadline, and ConnectionResetError when the
        process dies."""
        if not self.alive:
            ended()
            raise ConnectionResetError
        future: asyncio.Future[Reply] = self._loop.create_future()
        job = self.submit(slab, run, deadline, ended, future)
        timer = None if queue_deadline is None else self._loop.call_at(queue_deadline, self._not_begun, job)
        try:
            return await future
        except asyncio.CancelledError:
            if not future.cancelled() and future.exception() is None:
                future.result().close()  # it came just as its caller gave up
            elif future.cancelled():
                self.give_up(job)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def submit(self, slab: Slab, run: records.Run, deadline: float, ended: Callable[[], None], outcome: Outcome) -> Job:
        """As `call`, without waiting: `outcome` is told. Only while `alive`."""
        job = Job(run, slab, outcome, deadline, self._loop.time(), ended)
        self._pending.add(run.caller, job)
        self._dispatch()
        return job

    def give_up(self, job: Job) -> None:
        """Nobody waits for a job any more, whose outcome is cancelled."""
        if job.call in self._running:
            self._control.send(records.Cancel(job.call, 1))
        elif not job.call and self.alive:
            self._pending.remove(job.run.caller, job)
            self._over(job)

    def _not_begun(self, job: Job) -> None:
        if job.call in self._running:
            self._control.send(records.Cancel(job.call, 0))
        elif not job.call and self.alive and not job.outcome.done():
            job.outcome.set_exception(self._queue_timeout(job))
            self._pending.remove(job.run.caller, job)
            self._over(job)

    def _queue_timeout(self, job: Job) -> errors.QueueTimeout:
        return errors.QueueTimeout(waited=self._loop.time() - job.since)

    def _over(self, job: Job) -> None:
        """The worker has nothing more to do with that call, or never had."""
        self.free_slab(job.slab)
        job.ended()
        self._call_ended(job.run.lease)

    async def command(self, payload: bytes) -> bytes:
        """Has a `remotegpu.v1.WorkerCommand` carried out beside programs, and gives its answer. Raises the error that
        came back, and ConnectionResetError when the process dies."""
        if len(payload) > self._requests.size:
            limit = f"at most {self._requests.size} bytes, the size of an arena"
            raise errors.InvalidInput(field="command", limit=limit, given=f"{len(payload)} bytes")
        offset = await self._room.allocate(len(payload))
        if not self.alive:
            raise ConnectionResetError
        self._requests.view[offset : offset + len(payload)] = payload
        answer = self._commands.send(offset, len(payload))
        self._drops.look()
        return await answer

    def drop(self, lease: int) -> None:
        """Has the worker free what a lease holds, as soon as no call of it is here; `Ears.dropped` follows, or
        `Ears.dead`. No call of that lease may follow."""
        if any(job.run.lease == lease for job in self._jobs()):
            self._ending.add(lease)
        else:
            self._send_drop(lease)

    def pin(self, lease: int, model: int) -> None:
        """Has the worker keep a model, by its file's number, loaded until `drop` of that lease, which must follow."""
        self._control.send(records.Pin(lease, model))

    def kill(self) -> None:
        """Kills the process; `Ears.dead` follows when it is gone."""
        self.process.kill()

    def end(self, why: str) -> None:
        """Kills the process and does not wait for its end, which may never come if it hangs in its driver: `Ears.dead`
        is told before this returns. `why` is for those whose calls it ran."""
        self._bury(why)

    def _jobs(self) -> Iterator[Job]:
        yield from self._pending
        yield from self._running.values()
        yield from self._parked.values()

    def _call_ended(self, lease: int) -> None:
        """A call of that lease was answered or taken back."""
        if lease in self._ending and not any(job.run.lease == lease for job in self._jobs()):
            self._ending.remove(lease)
            self._send_drop(lease)

    def _send_drop(self, lease: int) -> None:
        self._control.send(records.Drop(lease))
        self._drops.sent(lease)

    def _hung(self) -> None:
        logger.warning("worker %d does not answer: killing it", self.process.pid)
        self._bury("its process hung")

    def _dropped(self, dropped: records.Dropped) -> None:
        self._drops.answered(dropped.lease)
        self._ears.dropped(dropped)
        self._dispatch()

    def _dispatch(self) -> None:
        while len(self._running) < self._depth and (self._running or not self._drops):
            job = self._pending.take()
            if job is None:
                break
            # Numbered here, so that numbers grow in the order in which calls are sent.
            self._calls += 1
            job.call = self._calls
            self._running[job.call] = job
            self._line.send(records.Run(job.call, *job.run[1:]))
        self._overrun.look()

    def _overran(self, job: Job) -> None:
        logger.warning("call %d is %.0f s past its deadline: killing worker %d", job.call, OVERRUN, self.process.pid)
        self._bury("its process hung")

    def _read(self) -> None:
        """One packet; the loop calls again while there are more."""
        try:
            packet = self._socket.recv(records.PACKET_LIMIT)
        except BlockingIOError:
            return
        except ConnectionResetError:
            packet = b""
        if not packet:
            self._bury("its process ended")
            return
        try:
            for record in records.unpack(packet):
                if self.alive:  # who hears of one may end this process
                    self._hear(record)
        except Exception:  # whatever it was, this object can no longer be trusted, and nobody else would hear of it
            logger.exception("worker %d is given up", self.process.pid)
            self._bury("the daemon failed to follow it")

    def _hear(self, record: records.Record) -> None:
        match record:
            case records.Done():
                self._finished(record)
            case records.Dropped():
                self._dropped(record)
            case records.Parked(call=call):
                self._parked[call] = self._ran(call)
                self._line.flush()  # it waits for the slabs of replies that were read
                self._dispatch()
            case records.Cancelled(call=call):
                self._cancelled(self._ran(call))
            case records.Begun(call=call):
                self._begun(call)
            case records.Warm(offset=offset, size=size):
                self._ears.warm(self._taken(offset, size).decode())
            case records.Answered():
                self._answered(record)
            case records.Ready(offset=offset, report_size=size):
                self._ears.ready(record, self._taken(offset, size))
            case records.Failed(offset=offset, size=size):
                self._ears.failed(bytes(self._replies.view[offset : offset + size]).decode())
            case other:
                raise ValueError(f"a record that a worker does not send: {other}")

    def _finished(self, done: records.Done) -> None:
        job = self._parked.pop(done.call, None) or self._ran(done.call)
        self._ears.done(done)
        if job.outcome.done():
            self._release(done.offset)
        else:
            middle = wire.aligned(done.result_size)
            view = self._replies.view[done.offset : done.offset + middle + done.body_size]
            job.outcome.set_result(
                Reply(done, view[: done.result_size], view[middle:], lambda: self._release(done.offset))
            )
        self._over(job)
        self._dispatch()

    def _cancelled(self, job: Job) -> None:
        if not job.outcome.done():
            job.outcome.set_exception(self._queue_timeout(job))
        self._over(job)
        self._dispatch()

    def _begun(self, call: int) -> None:
        job = self._running.get(call)
        if job is not None and job.outcome.cancelled():
            self._overrun.begun(call)

    def _answered(self, answered: records.Answered) -> None:
        data = self._taken(answered.offset, answered.size)
        if not answered.call:
            self._ears.reported(data)
            return
        self._commands.answered(answered.call, bool(answered.failed), data)
        self._drops.look()

    def _ran(self, call: int) -> Job:
        job = self._running.pop(call)
        self._overrun.look()
        if self._drops:
            self._drops.look()
        return job

    def _taken(self, offset: int, size: int) -> bytes:
        """A copy of what lies in a reply slab, which is given back."""
        data = bytes(self._replies.view[offset : offset + size])
        self._release(offset)
        return data

    def _release(self, offset: int) -> None:
        if self.alive:
            (self._line.send if self._parked else self._line.send_soon)(records.ReleaseReply(offset))

    def _bury(self, why: str) -> None:
        """The process is gone, or is made to go: nothing of it is waited for any longer."""
        if not self.alive:
            return
        self.alive = False
        self._loop.remove_reader(self._socket.fileno())
        self._line.close()
        self._control.close()
        self.process.kill()
        self._overrun.close()
        self._drops.close()
        self._room.close(why)
        self._commands.close(why)
        jobs = list(self._jobs())
        for waiting in (self._running, self._parked, self._pending, self._ending):
            waiting.clear()
        try:
            self._ears.dead()
            for job in jobs:
                job.ended()
        finally:
            for job in jobs:
                if not job.outcome.done():
                    job.outcome.set_exception(ConnectionResetError(why))
            self._reap()

    def _reap(self) -> None:
        """Beside the loop, by a thread that this process does not wait for when it ends: a worker may hang in its
        driver as it dies."""
        if self.process.poll() is not None:
            return
        try:
            threading.Thread(target=self.process.wait, daemon=True).start()
        except RuntimeError as error:  # as many threads as the machine allows: the dead process can wait, nobody else
            logger.warning("worker %d cannot be reaped now: %s", self.process.pid, error)
            self._loop.call_later(_REAP_PAUSE, self._reap)
