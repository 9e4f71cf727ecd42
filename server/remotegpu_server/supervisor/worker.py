# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The worker of one device through all its restarts: epochs, readiness, backing off."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Protocol

from remotegpu import errors
from remotegpu_server import records
from remotegpu_server.slabs import Arena
from remotegpu_server.worker.settings import WorkerSettings

from .life import Ears, Life

logger = logging.getLogger("remotegpu.supervisor")

# Pauses before the next start of a worker that died before it was ready, by how often in a row. Seconds.
_BACKOFF = (0.0, 0.5, 2.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """A device that the daemon serves. `kind` is "cpu" or "cuda"; memory in bytes."""

    index: int
    kind: str
    name: str
    uuid: str
    memory: int


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What all workers of a daemon have in common. Sizes in bytes."""

    models: str | None
    arena_size: int
    threads: int


class Listener(Protocol):
    """Who wants to know what becomes of workers."""

    def worker_ready(self, worker: DeviceWorker, catalog: bytes) -> None:
        """It is warm; `catalog` is a `remotegpu.v1.Catalog`."""

    def worker_lost(self, worker: DeviceWorker) -> None:
        """It died; what it held is gone. It will be started again."""

    def worker_failed(self, worker: DeviceWorker, why: str) -> None:
        """It cannot start, for a reason that it could say. It will be tried again."""

    def lease_dropped(self, worker: DeviceWorker, lease: int) -> None:
        """Nothing of that lease is left on the device."""


class DeviceWorker:
    """Keeps one worker process running. All times in seconds."""

    def __init__(self, spec: DeviceSpec, options: WorkerOptions, listener: Listener) -> None:
        self.spec = spec
        # Counts the processes of this device; part of every handle, so that no handle outlives its process.
        self.epoch = 1
        self.calls = 0
        self.memory_held = 0
        self.memory = spec.memory
        self._options = options
        self._listener = listener
        self._life: Life | None = None
        self._ready = asyncio.Event()
        self._stopping = False
        self._failures = 0
        self._restart: asyncio.TimerHandle | None = None

    @property
    def state(self) -> str:
        """Whether calls run now: "ready" or "starting"."""
        return "ready" if self._ready.is_set() else "starting"

    @property
    def pid(self) -> int:
        """Of the process that runs now; 0 if none does."""
        return self._life.process.pid if self._life else 0

    @property
    def arena_used(self) -> int:
        """Bytes of the request arena that calls in flight occupy."""
        return self._life.arena_used if self._life else 0

    def start(self) -> None:
        """Starts the process; the listener is told when it is warm. Raises OSError if the machine has no descriptors or
        memory for it."""
        size = self._options.arena_size
        with contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(ours.close)
            with theirs:
                ours.setblocking(False)
                arenas = [Arena.create(f"remotegpu-{what}-{self.spec.index}", size) for what in ("requests", "replies")]
                descriptors = (theirs.fileno(), arenas[0].descriptor, arenas[1].descriptor)
                try:
                    process = subprocess.Popen(
                        [sys.executable, "-m", "remotegpu_server.worker", self._settings(descriptors).to_json()],
                        stdin=subprocess.DEVNULL,
                        pass_fds=descriptors,
                        env=self._environment(),
                    )
                finally:
                    for arena in arenas:
                        arena.close_descriptor()
            undo.pop_all()
        ears = Ears(self._on_ready, self._on_failed, self._on_dropped, self._on_done, self._on_dead)
        self._life = Life(process, ours, (arenas[0], arenas[1]), ears)

    def _settings(self, descriptors: tuple[int, int, int]) -> WorkerSettings:
        return WorkerSettings(
            index=self.spec.index,
            epoch=self.epoch,
            parent=os.getpid(),
            kind=self.spec.kind,
            memory=self.spec.memory,
            threads=self._options.threads,
            models=self._options.models,
            socket=descriptors[0],
            request_arena=descriptors[1],
            reply_arena=descriptors[2],
            arena_size=self._options.arena_size,
        )

    def _environment(self) -> dict[str, str]:
        threads = str(self._options.threads)
        # Every worker owns one GPU, by UUID: an index would change with the driver's order.
        visible = self.spec.uuid if self.spec.kind == "cuda" else ""
        threading = {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        return {**os.environ, **threading, "CUDA_VISIBLE_DEVICES": visible}

    async def life(self) -> Life:
        """The running process, as soon as it is warm."""
        while self._life is None or not self._ready.is_set():
            await self._ready.wait()
        return self._life

    def drop(self, lease: int) -> None:
        """Frees what a lease holds; `Listener.lease_dropped` follows. A process that is not there holds nothing."""
        if self._life is None:
            self._listener.lease_dropped(self, lease)
        else:
            self._life.drop(lease)

    def lost(self, why: str) -> errors.LeaseLost:
        """The error for a call whose process died."""
        return errors.LeaseLost(device=self.spec.index, epoch=self.epoch, why=why)

    def stop(self) -> None:
        """Kills the process for good."""
        self._stopping = True
        if self._restart is not None:
            self._restart.cancel()
        if self._life is not None:
            self._life.kill()

    def _on_ready(self, ready: records.Ready, catalog: bytes) -> None:
        self._failures = 0
        self.memory = ready.memory
        self._ready.set()
        self._listener.worker_ready(self, catalog)

    def _on_failed(self, why: str) -> None:
        self._listener.worker_failed(self, why)

    def _on_dropped(self, dropped: records.Dropped) -> None:
        self.memory_held = dropped.memory_held
        self._listener.lease_dropped(self, dropped.lease)

    def _on_done(self, done: records.Done) -> None:
        self.calls += 1
        self.memory_held = done.memory_held

    def _on_dead(self) -> None:
        was_ready = self._ready.is_set()
        self.epoch += 1
        self._ready.clear()
        self._life = None
        self.memory_held = 0
        if self._stopping:
            return
        logger.warning("the worker of device %d ended", self.spec.index)
        self._failures = 0 if was_ready else self._failures + 1
        self._listener.worker_lost(self)
        self._start_later()

    def _start_later(self) -> None:
        pause = _BACKOFF[min(self._failures, len(_BACKOFF) - 1)]
        self._restart = asyncio.get_running_loop().call_later(pause, self._start_again)

    def _start_again(self) -> None:
        try:
            self.start()
        except OSError as error:
            logger.warning("the worker of device %d cannot be started now: %s", self.spec.index, error)
            self._failures += 1
            self._start_later()
