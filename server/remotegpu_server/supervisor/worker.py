# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The worker of one device through all its restarts: epochs, readiness, backing off, and out of service."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from remotegpu import errors
from remotegpu_server import records
from remotegpu_server.slabs import Arena
from remotegpu_server.worker.settings import WorkerSettings

from .life import Ears, Life

if TYPE_CHECKING:
    from remotegpu_server.devices.reading import Reading

logger = logging.getLogger("remotegpu.supervisor")

# Pauses before the next start of a worker that died before it was ready, by how often in a row. Seconds.
_BACKOFF = (0.0, 0.5, 2.0, 10.0, 30.0)
# How long a process may take to be warm: large models take a minute to load, a driver may hang for ever. Seconds.
START_PATIENCE = 180.0


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

    # The models that a new worker of that device is to serve: a `remotegpu.v1.ModelTable`.
    models: Callable[[int], bytes]
    arena_size: int
    threads: int
    # Seconds.
    start_patience: float = START_PATIENCE
    # Rows that one run of a model may have (1: each call runs by itself), seconds that a call waits for others, runs of
    # models at once.
    max_batch: int = 1
    max_delay: float = 0.0
    sessions: int = 1
    # Of loaded models; None: no limit on CPU devices, what is free on GPUs.
    model_memory: int | None = None
    # Of ONNX Runtime.
    provider_options: Mapping[str, str] = field(default_factory=dict)
    session_options: Mapping[str, str] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """Calls that a worker has at once: enough for the run under way and for the next one, and two to begin with,
        so that the device does not wait for the daemon."""
        return 2 * max(self.max_batch, self.sessions)


class Listener(Protocol):
    """Who wants to know what becomes of workers."""

    def worker_ready(self, worker: DeviceWorker, report: bytes) -> None:
        """It is warm; `report` is a `remotegpu.v1.ModelReport`."""

    def models_changed(self, worker: DeviceWorker, report: bytes) -> None:
        """Models have come or gone beside programs; `report` is a `remotegpu.v1.ModelReport`."""

    def worker_lost(self, worker: DeviceWorker) -> None:
        """It died; what it held is gone. It will be started again, unless the device is suspended."""

    def worker_failed(self, worker: DeviceWorker, why: str) -> None:
        """It cannot start, for a reason that it could say. It will be tried again."""

    def lease_dropped(self, worker: DeviceWorker, lease: int) -> None:
        """Nothing of that lease is left on the device."""

    def model_warm(self, worker: DeviceWorker, model: str) -> None:
        """The present process has run that model for the first time; forgotten when it dies."""


class DeviceWorker:
    """Keeps one worker process running. All times in seconds."""

    def __init__(self, spec: DeviceSpec, options: WorkerOptions, listener: Listener) -> None:
        self.spec = spec
        # Counts the processes of this device; part of every handle, so that no handle outlives its process.
        self.epoch = 1
        self.calls = 0
        self.memory_held = 0
        self.memory = spec.memory
        # Names of the models that the present process has run.
        self.warm_models: tuple[str, ...] = ()
        # Why the device is out of service; "": it is in service.
        self.failure = ""
        # What was measured last.
        self.reading: Reading | None = None
        self._options = options
        self._listener = listener
        self._life: Life | None = None
        self._ready = False
        # Set while `life` has an answer: the process is warm, or the device is out of service.
        self._settled = asyncio.Event()
        self._stopping = False
        self._failures = 0
        self._restart: asyncio.TimerHandle | None = None
        self._start_timer: asyncio.TimerHandle | None = None

    @property
    def state(self) -> str:
        """Whether calls run now: "ready", "starting", or "failed" while it is suspended."""
        if self.failure:
            return "failed"
        return "ready" if self._ready else "starting"

    @property
    def pid(self) -> int:
        """Of the process that runs now; 0 if none does."""
        life = self._life  # read once: the monitor's thread asks too
        return life.process.pid if life else 0

    @property
    def arena_used(self) -> int:
        """Bytes of the request arena that calls in flight occupy."""
        return self._life.arena_used if self._life else 0

    def start(self) -> None:
        """Starts the process; the listener is told when it is warm. Raises OSError if the machine has no descriptors or
        memory for it."""
        size = self._options.arena_size
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as theirs:
            sockets = [self._socket_pair(undo, theirs) for _ in ("calls", "control")]
            arenas: list[Arena] = []
            for what in ("requests", "replies"):
                arenas.append(Arena.create(f"remotegpu-{what}-{self.spec.index}", size))
                theirs.callback(arenas[-1].close_descriptor)
            # Nobody else uses the arena before the worker is ready.
            table = self._options.models(self.spec.index)
            arenas[0].view[: len(table)] = table
            inherited = tuple(pair[1].fileno() for pair in sockets), tuple(arena.descriptor for arena in arenas)
            process = subprocess.Popen(
                [sys.executable, "-m", "remotegpu_server.worker", self._settings(*inherited, len(table)).to_json()],
                stdin=subprocess.DEVNULL,
                pass_fds=[*inherited[0], *inherited[1]],
                env=self._environment(),
            )
            undo.pop_all()
        ears = Ears(
            ready=self._on_ready,
            failed=self._on_failed,
            dropped=self._on_dropped,
            done=self._on_done,
            warm=self._on_warm,
            reported=self._on_reported,
            dead=self._on_dead,
        )
        ours, depth = (sockets[0][0], sockets[1][0]), self._options.depth
        life = self._life = Life(process, ours, (arenas[0], arenas[1]), ears, depth)
        loop = asyncio.get_running_loop()
        self._start_timer = loop.call_later(self._options.start_patience, self._not_ready, life)

    def _not_ready(self, life: Life) -> None:
        why = f"it was not ready within {self._options.start_patience:g} s"
        logger.warning("the worker of device %d is killed: %s", self.spec.index, why)
        self._listener.worker_failed(self, why)
        life.end(why)

    def _started(self) -> None:
        if self._start_timer is not None:
            self._start_timer.cancel()
            self._start_timer = None

    def _socket_pair(
        self, undo: contextlib.ExitStack, theirs: contextlib.ExitStack
    ) -> tuple[socket.socket, socket.socket]:
        """Our end, which `undo` closes, and the process's, which `theirs` closes."""
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.callback(pair[0].close)
        theirs.callback(pair[1].close)
        pair[0].setblocking(False)
        return pair

    def _settings(self, sockets: Sequence[int], arenas: Sequence[int], table_size: int) -> WorkerSettings:
        return WorkerSettings(
            index=self.spec.index,
            epoch=self.epoch,
            parent=os.getpid(),
            kind=self.spec.kind,
            memory=self.spec.memory,
            threads=self._options.threads,
            table_size=table_size,
            model_memory=self._options.model_memory,
            provider_options=dict(self._options.provider_options),
            session_options=dict(self._options.session_options),
            socket=sockets[0],
            control=sockets[1],
            request_arena=arenas[0],
            reply_arena=arenas[1],
            arena_size=self._options.arena_size,
            max_batch=self._options.max_batch,
            max_delay=self._options.max_delay,
            sessions=self._options.sessions,
        )

    def _environment(self) -> dict[str, str]:
        threads = str(self._options.threads)
        # Every worker owns one GPU, by UUID: an index would change with the driver's order.
        visible = self.spec.uuid if self.spec.kind == "cuda" else ""
        threading = {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        return {**os.environ, **threading, "CUDA_VISIBLE_DEVICES": visible}

    async def life(self, lease: str = "") -> Life:
        """The running process, as soon as it is warm. Raises DeviceFailed, which names the lease, when the device is
        out of service."""
        while self._life is None or not self._ready:
            if self.failure:
                raise self.lost(self.failure, lease)
            await self._settled.wait()
        return self._life

    @property
    def life_now(self) -> Life | None:
        """The running process if it is warm."""
        return self._life if self._ready else None

    def drop(self, lease: int) -> None:
        """Frees what a lease holds; `Listener.lease_dropped` follows. A process that is not there holds nothing."""
        if self._life is None:
            self._listener.lease_dropped(self, lease)
        else:
            self._life.drop(lease)

    def lost(self, why: str, lease: str = "") -> errors.LeaseLost | errors.DeviceFailed:
        """The error for a call of that lease whose process died."""
        if self.failure:
            return errors.DeviceFailed(lease=lease, device=self.spec.index, why=self.failure)
        return errors.LeaseLost(device=self.spec.index, epoch=self.epoch, why=why)

    def suspend(self, why: str) -> None:
        """Takes the device out of service: the process is killed and none is started until `resume`. Calls under way
        and those that wait for the process get DeviceFailed with `why`, which must not be empty.

        `Listener.worker_lost` is told before this returns, if there was a process. Does nothing when it is out of
        service already: the first reason stays."""
        if self.failure or self._stopping:
            return
        self.failure = why
        logger.warning("device %d is out of service: %s", self.spec.index, why)
        if self._restart is not None:
            self._restart.cancel()
        self._settled.set()
        if self._life is not None:
            self._life.end(why)

    def resume(self) -> None:
        """Takes the device back into service: a process is started, `Listener.worker_ready` follows. Does nothing when
        it is in service."""
        if not self.failure or self._stopping:
            return
        self.failure = ""
        self._failures = 0
        self._settled.clear()
        self._start_again()

    def stop(self) -> None:
        """Kills the process for good."""
        self._stopping = True
        if self._restart is not None:
            self._restart.cancel()
        if self._life is not None:
            self._life.kill()

    def _on_ready(self, ready: records.Ready, report: bytes) -> None:
        self._started()
        self._failures = 0
        self.memory = ready.memory
        self._ready = True
        self._settled.set()
        self._listener.worker_ready(self, report)

    def _on_failed(self, why: str) -> None:
        self._listener.worker_failed(self, why)

    def _on_dropped(self, dropped: records.Dropped) -> None:
        self.memory_held = dropped.memory_held
        self._listener.lease_dropped(self, dropped.lease)

    def _on_done(self, done: records.Done) -> None:
        self.calls += 1
        self.memory_held = done.memory_held

    def _on_reported(self, report: bytes) -> None:
        self._listener.models_changed(self, report)

    def _on_warm(self, name: str) -> None:
        self.warm_models += (name,)
        self._listener.model_warm(self, name)

    def _on_dead(self) -> None:
        self._started()
        was_ready = self._ready
        self.epoch += 1
        self._ready = False
        self._life = None
        self.memory_held = 0
        self.warm_models = ()
        if not self.failure:
            self._settled.clear()
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
        if self.failure or self._stopping or self._life is not None:
            return
        try:
            self.start()
        except OSError as error:
            logger.warning("the worker of device %d cannot be started now: %s", self.spec.index, error)
            self._failures += 1
            self._start_later()
