# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""One worker process from start to death: its slabs, its calls, its sockets.

Everything here runs on the daemon's event loop. Calls wait in `_pending`, not in the socket, so that one whose caller
has gone is never run. A slab belongs to its caller until `submit`, and from then on to this object until the worker has
answered or died: a cancelled call frees nothing that the worker may still read.

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
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from remotegpu import wire
from remotegpu_server import records
from remotegpu_server.slabs import Arena, FreeList

from .line import Line

logger = logging.getLogger("remotegpu.supervisor")

# Calls handed to a worker: one runs, one is ready in its socket, so that the device does not wait for the daemon.
_DEPTH = 2
# How long after its deadline a call may keep a device busy before the worker is killed. Seconds.
OVERRUN = 5.0
# How long a worker that runs nothing may take to answer a Drop. It needs a millisecond, and a process that waits for a
# core on a crowded machine some hundreds; whoever gives a lease back should see the capacity free within a second.
DROP_PATIENCE = 0.8
# Before another look at a dead process that no thread could be had for. Seconds.
_REAP_PAUSE = 1.0
# A timer that fires so late says that the daemon itself was held up, and perhaps the worker with it. Seconds.
_LATE = 0.2


@dataclass(slots=True, eq=False)
class Slab:
    """A piece of the request arena of one process. `free` is harmless after that process's death."""

    life: Life
    offset: int
    view: memoryview

    def free(self) -> None:
        """Gives the slab back; only before it was submitted."""
        self.life.free_slab(self)


@dataclass(slots=True)
class Reply:
    """A result, in the reply arena until `close`, which the reader calls exactly once."""

    done: records.Done
    result: memoryview
    body: memoryview
    close: Callable[[], None]


@dataclass(slots=True, eq=False)
class _Job:
    run: records.Run
    slab: Slab
    future: asyncio.Future[Reply]
    # On the loop's clock.
    deadline: float


@dataclass(frozen=True, slots=True)
class Ears:
    """Who is told what: the records that are not answers to calls, and the end of the process."""

    ready: Callable[[records.Ready, bytes], None]
    failed: Callable[[str], None]
    dropped: Callable[[records.Dropped], None]
    done: Callable[[records.Done], None]
    warm: Callable[[records.Warm], None]
    dead: Callable[[], None]


class Life:
    """A running worker process."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        sockets: tuple[socket.socket, socket.socket],
        arenas: tuple[Arena, Arena],
        ears: Ears,
    ) -> None:
        """`sockets`: for calls and for control; `arenas`: for requests and for replies."""
        self.process = process
        self.alive = True
        self._socket = sockets[0]
        self._line, self._control = Line(sockets[0]), Line(sockets[1])
        self._requests, self._replies = arenas
        self._ears = ears
        self._slabs = FreeList(self._requests.size)
        self._slab_waiters: deque[tuple[int, asyncio.Future[Slab]]] = deque()
        self._pending: deque[_Job] = deque()
        # In the order in which the worker runs them.
        self._running: dict[int, _Job] = {}
        # They have run, but their replies wait for room.
        self._parked: dict[int, _Job] = {}
        self._overrun_timer: asyncio.TimerHandle | None = None
        # Leases that have ended, whose calls are still with the worker.
        self._ending: set[int] = set()
        # Leases that the worker was told to drop, and has not answered.
        self._dropping: set[int] = set()
        self._drop_timer: asyncio.TimerHandle | None = None
        self._calls = 0
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._read)

    @property
    def arena_used(self) -> int:
        """Bytes of the request arena in use."""
        return self._slabs.used

    async def allocate(self, size: int) -> Slab:
        """A slab; waits in order while there is no room. The size must be at most the arena's.

        Raises ConnectionResetError when the process dies meanwhile."""
        if not self.alive:
            raise ConnectionResetError
        offset = None if self._slab_waiters else self._slabs.allocate(size)
        if offset is not None:
            return Slab(self, offset, self._requests.view[offset : offset + size])
        future: asyncio.Future[Slab] = self._loop.create_future()
        self._slab_waiters.append((size, future))
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().free()
            else:
                self._serve_slab_waiters()  # the one who gives up may have held up others
            raise

    def free_slab(self, slab: Slab) -> None:
        """Gives a slab back and serves those who wait for room."""
        self._slabs.free(slab.offset)
        self._serve_slab_waiters()

    def _serve_slab_waiters(self) -> None:
        while self._slab_waiters:
            size, future = self._slab_waiters[0]
            offset = None if future.done() else self._slabs.allocate(size)
            if offset is not None:
                future.set_result(Slab(self, offset, self._requests.view[offset : offset + size]))
            elif not future.done():
                return
            self._slab_waiters.popleft()

    async def call(self, slab: Slab, run: records.Run, deadline: float) -> Reply:
        """Runs a program; `run.call` is set here, `deadline` is on the loop's clock. Cancelling takes back a call that
        has not begun. Raises ConnectionResetError when the process dies."""
        if not self.alive:
            raise ConnectionResetError
        self._calls += 1
        job = _Job(run._replace(call=self._calls), slab, self._loop.create_future(), deadline)
        self._pending.append(job)
        self._dispatch()
        try:
            return await job.future
        except asyncio.CancelledError:
            if job in self._pending:
                self._pending.remove(job)
                self.free_slab(slab)
                self._call_ended(run.lease)
            elif job.future.done() and not job.future.cancelled() and job.future.exception() is None:
                job.future.result().close()  # it came just as its caller gave up
            raise

    def drop(self, lease: int) -> None:
        """Has the worker free what a lease holds, as soon as no call of it is here; `Ears.dropped` follows, or
        `Ears.dead`. No call of that lease may follow."""
        if any(job.run.lease == lease for job in self._jobs()):
            self._ending.add(lease)
        else:
            self._send_drop(lease)

    def kill(self) -> None:
        """Kills the process; `Ears.dead` follows when it is gone."""
        self.process.kill()

    def end(self, why: str) -> None:
        """Kills the process and does not wait for its end, which may never come if it hangs in its driver: `Ears.dead`
        is told before this returns. `why` is for those whose calls it ran."""
        self._bury(why)

    def _jobs(self) -> Iterator[_Job]:
        yield from self._pending
        yield from self._running.values()
        yield from self._parked.values()

    def _call_ended(self, lease: int) -> None:
        """A call of that lease was answered or taken back."""
        if lease in self._ending and not any(job.run.lease == lease for job in self._jobs()):
            self._ending.remove(lease)
            self._send_drop(lease)

    def _send_drop(self, lease: int) -> None:
        self._dropping.add(lease)
        self._control.send(records.Drop(lease))
        self._watch_drops()

    def _watch_drops(self) -> None:
        """Times the answer to a Drop while nothing runs. While something does, its deadline decides: only code that
        does not let go of the interpreter can hold up the answer, and that ends with the call."""
        if not self._dropping or self._running:
            if self._drop_timer is not None:
                self._drop_timer.cancel()
                self._drop_timer = None
        elif self._drop_timer is None:
            due = self._loop.time() + DROP_PATIENCE
            self._drop_timer = self._loop.call_at(due, self._not_dropped, due)

    def _not_dropped(self, due: float) -> None:
        self._drop_timer = None
        if self._loop.time() > due + _LATE:
            self._watch_drops()
            return
        logger.warning("worker %d does not answer: killing it", self.process.pid)
        self._bury("its process hung")

    def _dropped(self, dropped: records.Dropped) -> None:
        self._dropping.remove(dropped.lease)
        if self._drop_timer is not None:  # it lives: those that are left have their time from now on
            self._drop_timer.cancel()
            self._drop_timer = None
        self._watch_drops()
        self._ears.dropped(dropped)
        self._dispatch()

    def _dispatch(self) -> None:
        while self._pending and len(self._running) < _DEPTH and (self._running or not self._dropping):
            job = self._pending.popleft()
            self._running[job.run.call] = job
            if len(self._running) == 1:
                self._watch()
            self._line.send(job.run)

    def _watch(self) -> None:
        """Times the call that the worker is at; one behind it cannot be blamed for the wait."""
        if self._overrun_timer is not None:
            self._overrun_timer.cancel()
            self._overrun_timer = None
        if self._running:
            job = next(iter(self._running.values()))
            until = max(job.deadline, self._loop.time()) + OVERRUN
            self._overrun_timer = self._loop.call_at(until, self._overrun, job)

    def _overrun(self, job: _Job) -> None:
        logger.warning(
            "call %d is %.0f s past its deadline: killing worker %d", job.run.call, OVERRUN, self.process.pid
        )
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
                self._dispatch()
            case records.Warm():
                self._ears.warm(record)
            case records.Ready(offset=offset, catalog_size=size):
                self._ears.ready(record, bytes(self._replies.view[offset : offset + size]))
                self._release(offset)
            case records.Failed(offset=offset, size=size):
                self._ears.failed(bytes(self._replies.view[offset : offset + size]).decode())
            case other:
                raise ValueError(f"a record that a worker does not send: {other}")

    def _finished(self, done: records.Done) -> None:
        job = self._parked.pop(done.call, None) or self._ran(done.call)
        self.free_slab(job.slab)
        self._ears.done(done)
        if job.future.done():
            self._release(done.offset)
        else:
            middle = wire.aligned(done.result_size)
            view = self._replies.view[done.offset : done.offset + middle + done.body_size]
            job.future.set_result(
                Reply(done, view[: done.result_size], view[middle:], lambda: self._release(done.offset))
            )
        if self._ending:
            self._call_ended(job.run.lease)
        self._dispatch()

    def _ran(self, call: int) -> _Job:
        job = self._running.pop(call)
        self._watch()
        if self._dropping:
            self._watch_drops()
        return job

    def _release(self, offset: int) -> None:
        if self.alive:
            self._line.send_soon(records.ReleaseReply(offset))

    def _bury(self, why: str) -> None:
        """The process is gone, or is made to go: nothing of it is waited for any longer."""
        if not self.alive:
            return
        self.alive = False
        self._loop.remove_reader(self._socket.fileno())
        self._line.close()
        self._control.close()
        self.process.kill()
        for timer in (self._overrun_timer, self._drop_timer):
            if timer is not None:
                timer.cancel()
        for job in self._jobs():
            if not job.future.done():
                job.future.set_exception(ConnectionResetError(why))
        for _, waiter in self._slab_waiters:
            if not waiter.done():
                waiter.set_exception(ConnectionResetError(why))
        for waiting in (self._running, self._parked, self._pending, self._slab_waiters, self._ending, self._dropping):
            waiting.clear()
        try:
            self._ears.dead()
        finally:
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
