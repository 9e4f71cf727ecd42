# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""A worker: one process, one device; programs take turns at their model calls.

    python -m remotegpu_server.worker SETTINGS

where SETTINGS is JSON (`WorkerSettings`), written by the supervisor. Descriptors of the two sockets and of the two
arenas are inherited. The process ends when the sockets do, and the kernel kills it when the daemon dies.

The main thread reads the call socket and runs the programs. A second thread reads the control socket, so that the
memory of a lease that has ended is free although a program of another lease runs, and calls can be taken back while
they wait; libraries let go of the interpreter while they compute. The daemon sends a Drop only when no call of that
lease is here, so the two threads never touch the arrays of one lease at once, but for the end of a call that finished
its lease itself, where both drop what is left. A third thread loads models.
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
from collections.abc import Callable
from typing import TYPE_CHECKING

from remotegpu_server import records
from remotegpu_server.process import die_with_parent, forbid_dumps
from remotegpu_server.slabs import Arena

from .cancellation import Verdict
from .inbox import Inbox
from .settings import WorkerSettings

if TYPE_CHECKING:
    from remotegpu_server.backends.device import Device

    from .calls import Task

logger = logging.getLogger("remotegpu.worker")


class Worker:
    """The loop. Heavy libraries are imported in `start`, after the process has tied its life to the daemon's."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._socket = socket.socket(fileno=settings.socket)
        self._inbox = Inbox(self._socket)
        self._control = socket.socket(fileno=settings.control)
        # Held while a figure is taken and sent, so that the daemon hears the newest one last.
        self._figures = threading.Lock()
        self._requests = Arena(settings.request_arena, settings.arena_size)
        self._replies_arena = Arena(settings.reply_arena, settings.arena_size)
        # Names of models that programs have run.
        self._warm: set[str] = set()

    def start(self) -> None:
        """Makes the device and its models warm and says so. Anything that prevents that is told to the daemon."""
        from .calls import Calls
        from .executor import Executor
        from .inference import Sessions
        from .replies import Replies

        settings = self._settings
        try:
            device = _device(settings)
            device.adopt_arena(self._requests.view)
            device.adopt_arena(self._replies_arena.view)
            self._replies = Replies(self._replies_arena, device, self._send, self._held, self._figures)
            report = self._open_models(device)
        except Exception as error:
            logger.exception("the worker cannot start")
            self._refuse(f"{type(error).__name__}: {error}")
            raise SystemExit(1) from error
        self._executor = Executor(device, self._loader, settings.index, settings.epoch, self._has_run)
        sessions: Sessions[list[Task]] = Sessions(settings.sessions, self._inbox.ring)
        self._calls = Calls(
            self._executor, self._replies, sessions, self._send, self._requests.view, settings.max_delay
        )
        self._send(records.Ready(self._replies.put(report), len(report), self._memory(device)))

    def serve(self) -> None:
        """Handles records until the daemon closes the sockets."""
        threading.Thread(target=self._guarded, args=(self._serve_control,), name="control", daemon=True).start()
        threading.Thread(target=self._guarded, args=(self._loader.serve,), name="loader", daemon=True).start()
        while self._turn():
            pass

    # The main thread.

    def _turn(self) -> bool:
        """Takes in what the daemon has sent, waiting for it while there is nothing else to do, and does one thing.
        Whether the daemon is still there."""
        if self._calls.idle:
            there = self._take_in(self._inbox.packet()) and self._take_in_all()
        else:
            patience = self._calls.patience()
            if patience != 0:
                self._inbox.wait(patience)
            if self._inbox.rung():
                self._calls.models_arrived()
            there = self._take_in_all()
        self._calls.begin()
        self._calls.run_models()
        return there

    def _take_in_all(self) -> bool:
        while (packet := self._inbox.packet_now()) is not None:
            if not self._take_in(packet):
                return False
        return True

    def _take_in(self, packet: bytes) -> bool:
        for record in records.unpack(packet):
            match record:
                case records.Run():
                    self._calls.arrive(record)
                case records.ReleaseReply(offset=offset):
                    self._replies.release(offset)
                case other:
                    raise ValueError(f"a record that the daemon does not send here: {other}")
        return bool(packet)

    # The thread of the control socket.

    def _serve_control(self) -> None:
        while packet := self._control.recv(records.PACKET_LIMIT):
            for record in records.unpack(packet):
                match record:
                    case records.Drop(lease=lease):
                        self._drop(lease)
                    case records.Pin(lease=lease, model=model):
                        self._loader.pin(model, lease)
                    case records.Cancel():
                        self._cancel(record)
                    case records.Command():
                        self._command(record)
                    case other:
                        raise ValueError(f"a record that the daemon does not send here: {other}")

    def _drop(self, lease: int) -> None:
        self._executor.drop(lease)
        with self._figures:
            self._send(records.Dropped(lease, self._held()))

    def _cancel(self, cancel: records.Cancel) -> None:
        verdict = self._calls.cancellation.take_back(cancel.call, force=bool(cancel.force))
        if verdict is Verdict.TAKEN:
            self._send(records.Cancelled(cancel.call))
            self._inbox.ring()  # others may have waited for it
        elif verdict is Verdict.BUSY:
            self._send(records.Begun(cancel.call))

    def _command(self, command: records.Command) -> None:
        """The place of everything that the daemon has done beside programs: the thread that loads models does it."""
        payload = bytes(self._requests.view[command.offset : command.offset + command.size])
        self._loader.command(payload, lambda answer: self._replies.tell(command.call, answer))

    # The thread that loads models, and what all threads use.

    def _open_models(self, device: Device) -> bytes:
        """Loads the models that are wanted from the start, and reports."""
        from remotegpu_server.backends import models
        from remotegpu_server.backends.sessions import SessionOptions

        from .loader import Loader

        settings = self._settings
        options = SessionOptions(
            settings.threads, settings.max_batch, settings.provider_options, settings.session_options
        )
        models.check_device(device, options)
        budget = settings.model_memory
        if budget is None and settings.kind == "cuda":
            budget = device.free_memory()
        self._loader = Loader(device, options, budget, self._inbox.ring, lambda report: self._replies.tell(0, report))
        return self._loader.open(bytes(self._requests.view[: settings.table_size]))

    def _memory(self, device: Device) -> int:
        """What leases may declare. On a GPU, models that are loaded later take theirs from the same memory."""
        asked = self._settings.model_memory
        reserved = 0 if asked is None or self._settings.kind == "cpu" else max(asked - self._loader.used, 0)
        return max(device.free_memory() - reserved, 0)

    def _guarded(self, serve: Callable[[], None]) -> None:
        try:
            serve()
        except BaseException:  # as in the main thread, nobody would trust this process any more
            logger.exception("the worker ends")
            os._exit(1)

    def _held(self) -> int:
        """Bytes held by leases that go on: what a finishing one holds is dropped as soon as its reply is out."""
        return self._executor.memory.held(without=self._calls.finishing)

    def _has_run(self, model: str) -> None:
        if model not in self._warm:
            self._warm.add(model)
            self._replies.warm(model)

    def _send(self, record: records.Record) -> None:
        self._socket.send(records.pack(record))

    def _refuse(self, why: str) -> None:
        text = why.encode()[: self._settings.arena_size]
        self._replies_arena.view[: len(text)] = text
        self._send(records.Failed(0, len(text)))


def _device(settings: WorkerSettings) -> Device:
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
