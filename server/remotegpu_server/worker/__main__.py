# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""A worker: one process, one device, one program at a time.

    python -m remotegpu_server.worker SETTINGS

where SETTINGS is JSON (`WorkerSettings`), written by the supervisor. Descriptors of the two sockets and of the two
arenas are inherited. The process ends when the sockets do, and the kernel kills it when the daemon dies.

The main thread reads the call socket and runs the programs. A second thread reads the control socket, so that the
memory of a lease that has ended is free although a program of another lease runs; libraries let go of the interpreter
while they compute. The daemon sends a Drop only when no call of that lease is here, so the two threads never touch the
arrays of one lease at once, but for the end of a call that finished its lease itself, where both drop what is left.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from remotegpu import errors, wire
from remotegpu_server import records
from remotegpu_server.process import die_with_parent, forbid_dumps
from remotegpu_server.slabs import Arena

from .settings import WorkerSettings

logger = logging.getLogger("remotegpu.worker")


class Worker:
    """The loop. Heavy libraries are imported in `start`, after the process has tied its life to the daemon's."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._socket = socket.socket(fileno=settings.socket)
        self._control = socket.socket(fileno=settings.control)
        # Held while a figure is taken and sent, so that the daemon hears the newest one last.
        self._figures = threading.Lock()
        self._requests = Arena(settings.request_arena, settings.arena_size)
        self._replies_arena = Arena(settings.reply_arena, settings.arena_size)
        # The lease whose last call is being answered; 0: none. The main thread's to set.
        self._finishing = 0

    def start(self) -> None:
        """Makes the device and its models warm and says so. Anything that prevents that is told to the daemon."""
        from remotegpu_server.backends import models

        from .executor import Executor
        from .replies import Replies

        try:
            device = _device(self._settings)
            device.adopt_arena(self._requests.view)
            device.adopt_arena(self._replies_arena.view)
            repository = Path(self._settings.models) if self._settings.models else None
            loaded = models.load(repository, device, self._settings.threads)
        except Exception as error:
            logger.exception("the worker cannot start")
            self._refuse(f"{type(error).__name__}: {error}")
            raise SystemExit(1) from error
        self._executor = Executor(device, loaded, self._settings.index, self._settings.epoch, self._warm)
        self._replies = Replies(self._replies_arena, device, self._send, self._held, self._figures)
        catalog = models.catalog(loaded).SerializeToString()
        self._send(records.Ready(self._replies.put(catalog), len(catalog), device.free_memory()))

    def serve(self) -> None:
        """Handles records until the daemon closes the sockets."""
        threading.Thread(target=self._serve_control, name="control", daemon=True).start()
        while packet := self._socket.recv(records.PACKET_LIMIT):
            for record in records.unpack(packet):
                self._handle(record)

    def _serve_control(self) -> None:
        try:
            while packet := self._control.recv(records.PACKET_LIMIT):
                for record in records.unpack(packet):
                    self._drop(record)
        except BaseException:  # as in the main thread, nobody would trust this process any more
            logger.exception("the worker ends")
            os._exit(1)

    def _drop(self, record: records.Record) -> None:
        if not isinstance(record, records.Drop):
            raise ValueError(f"a record that the daemon does not send here: {record}")
        self._executor.drop(record.lease)
        with self._figures:
            self._send(records.Dropped(record.lease, self._held()))

    def _handle(self, record: records.Record) -> None:
        match record:
            case records.Run():
                self._run(record)
            case records.ReleaseReply(offset=offset):
                self._replies.release(offset)
            case other:
                raise ValueError(f"a record that the daemon does not send here: {other}")

    def _run(self, run: records.Run) -> None:
        from .executor import Request
        from .replies import Finished

        started = time.monotonic_ns()
        try:
            slab = self._requests.view[run.offset :].toreadonly()
            body_start = wire.aligned(run.program_size)
            request = Request(
                program=slab[: run.program_size],
                body=slab[body_start : body_start + run.body_size],
                lease=run.lease,
                memory_limit=run.memory_limit,
                result_limit=self._settings.arena_size,
            )
            if 0 < run.deadline_ns < started:
                raise errors.DeadlineExceeded(deadline=0)  # nobody waits for it, so it is not run at all
            self._finishing = run.lease if run.finish else 0
            # No name for the outcome: its arrays must be gone when the lease's memory is dropped.
            self._replies.succeed(Finished(run.call, started, self._executor.run(request)))
            if run.finish:
                self._executor.drop(run.lease)
        except errors.Error as error:
            self._finishing = 0  # it goes on
            self._replies.fail(run.call, started, error)
        self._finishing = 0
        if self._replies.waits(run.call):
            self._send(records.Parked(run.call))

    def _held(self) -> int:
        """Bytes held by leases that go on: what a finishing one holds is dropped as soon as its reply is out."""
        return self._executor.memory.held(without=self._finishing)

    def _warm(self, model: int) -> None:
        self._send(records.Warm(model))

    def _send(self, record: records.Record) -> None:
        self._socket.send(records.pack(record))

    def _refuse(self, why: str) -> None:
        text = why.encode()[: self._settings.arena_size]
        self._replies_arena.view[: len(text)] = text
        self._send(records.Failed(0, len(text)))


def _device(settings: WorkerSettings):  # type: ignore[no-untyped-def]  # the type's module is imported only here
    if settings.kind == "cpu":
        from remotegpu_server.backends.host import HostDevice

        return HostDevice(settings.memory)
    from remotegpu_server.backends.cuda import CudaDevice

    return CudaDevice()


def main() -> None:
    """Runs a worker until its daemon is gone."""
    settings = WorkerSettings(**json.loads(sys.argv[1]))
    die_with_parent(settings.parent)
    forbid_dumps()
    # Ctrl-C at a terminal reaches the whole group; the daemon decides when its workers stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(format=f"worker {settings.index}: %(message)s", level=logging.WARNING)
    worker = Worker(settings)
    worker.start()
    gc.freeze()  # modules and models stay: the collector need not walk them again and again
    worker.serve()


if __name__ == "__main__":
    main()
