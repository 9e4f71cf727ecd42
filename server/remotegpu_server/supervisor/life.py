# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""One worker process from start to death: its slabs, its calls, its socket.

Everything here runs on the daemon's event loop. Calls wait in `_pending`, not in the socket, so that one whose caller
has gone is never run. A slab belongs to its caller until `submit`, and from then on to this object until the worker has
answered or died: a cancelled call frees nothing that the worker may still read.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from remotegpu import wire
from remotegpu_server import records
from remotegpu_server.slabs import Arena, FreeList

logger = logging.getLogger("remotegpu.supervisor")

# Calls handed to a worker: one runs, one is ready in its socket, so that the device does not wait for the daemon.
_DEPTH = 2
# How long after its deadline a call may keep a device busy before the worker is killed. Seconds.
OVERRUN = 5.0

# How long a record may wait for another to travel with. Seconds.
_LATER = 0.001


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
    dead: Callable[[], None]


class Life:
    """A running worker process."""

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket, arenas: tuple[Arena, Arena], ears: Ears):
        self.process = process
        self.alive = True
        self._socket = sock
        self._requests, self._replies = arenas
        self._ears = ears
        self._slabs = FreeList(self._requests.size)
        self._slab_waiters: deque[tuple[int, asyncio.Future[Slab]]] = deque()
        self._pending: deque[_Job | records.Drop] = deque()
        # In the order in which the worker runs them.
        self._running: dict[int, _Job] = {}
        # They have run, but their replies wait for room.
        self._parked: dict[int, _Job] = {}
        self._overrun_timer: asyncio.TimerHandle | None = None
        self._calls = 0
        self._unsent: deque[bytes] = deque()
        self._later: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._read)

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
            elif job.future.done() and not job.future.cancelled() and job.future.exception() is None:
                job.future.result().close()  # it came just as its caller gave up
            raise

    def drop(self, lease: int) -> None:
        """Asks the worker to free what a lease holds, behind all calls that were submitted before."""
        self._pending.append(records.Drop(lease))
        self._dispatch()

    def kill(self) -> None:
        """Ends the process; `Ears.dead` follows."""
        self.process.kill()

    def _dispatch(self) -> None:
        while self._pending and (len(self._running) < _DEPTH or isinstance(self._pending[0], records.Drop)):
            job = self._pending.popleft()
            if isinstance(job, records.Drop):
                self._send(job)
                continue
            self._running[job.run.call] = job
            if len(self._running) == 1:
                self._watch()
            self._send(job.run)

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
        self.kill()

    def _send(self, record: records.Record) -> None:
        self._unsent.append(records.pack(record))
        self._flush()

    def _send_soon(self, record: records.Record) -> None:
        """With the next record, or a moment later: waking the worker costs more than the record."""
        self._unsent.append(records.pack(record))
        if self._later is None:
            self._later = self._loop.call_later(_LATER, self._flush)

    def _flush(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
        while self._unsent and self.alive:
            packet, count = b"", 0
            while count < len(self._unsent) and len(packet) + len(self._unsent[count]) <= records.PACKET_LIMIT:
                packet += self._unsent[count]
                count += 1
            try:
                self._socket.send(packet)
            except BlockingIOError:
                self._loop.add_writer(self._socket.fileno(), self._write_on)
                return
            except OSError:  # the process is gone; the reader finds the end of the socket and cleans up
                return
            for _ in range(count):
                self._unsent.popleft()

    def _write_on(self) -> None:
        self._loop.remove_writer(self._socket.fileno())
        self._flush()

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
        try:
            for record in records.unpack(packet):
                self._hear(record)
        except Exception:  # whatever it was, this object can no longer be trusted, and nobody else would hear of it
            logger.exception("worker %d is given up", self.process.pid)
            self._bury("the daemon failed to follow it")

    def _hear(self, record: records.Record) -> None:
        match record:
            case records.Done():
                self._finished(record)
            case records.Dropped():
                self._ears.dropped(record)
            case records.Parked(call=call):
                self._parked[call] = self._ran(call)
                self._dispatch()
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
        self._dispatch()

    def _ran(self, call: int) -> _Job:
        job = self._running.pop(call)
        self._watch()
        return job

    def _release(self, offset: int) -> None:
        if self.alive:
            self._send_soon(records.ReleaseReply(offset))

    def _bury(self, why: str) -> None:
        """The process is gone, or is made to go: nothing of it is waited for any longer."""
        self.alive = False
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        if self._later is not None:
            self._later.cancel()
        self._socket.close()
        self.process.kill()
        # Reaped beside the loop: a process may hang in its driver as it ends.
        self._loop.run_in_executor(None, self.process.wait)
        if self._overrun_timer is not None:
            self._overrun_timer.cancel()
        waiting = [job for job in self._pending if isinstance(job, _Job)]
        for job in (*self._running.values(), *self._parked.values(), *waiting):
            if not job.future.done():
                job.future.set_exception(ConnectionResetError(why))
        for _, waiter in self._slab_waiters:
            if not waiter.done():
                waiter.set_exception(ConnectionResetError(why))
        self._running.clear()
        self._parked.clear()
        self._pending.clear()
        self._slab_waiters.clear()
        self._ears.dead()
