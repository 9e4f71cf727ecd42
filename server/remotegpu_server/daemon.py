# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The composition root: devices, workers, scheduler, gateway, signals. Nothing is decided here."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import grpc
import grpc.aio

from remotegpu import errors
from remotegpu.v1 import compute_pb2, repository_pb2, scheduler_pb2
from remotegpu_server import quotas, scheduler
from remotegpu_server.contents import ContentStore
from remotegpu_server.devices.monitor import Monitor
from remotegpu_server.devices.reading import Reading
from remotegpu_server.devices.sensors import Sensors, sensors_of
from remotegpu_server.gateway.attachments import Sources
from remotegpu_server.gateway.bounds import CALL_LIMIT, MESSAGE_LIMIT
from remotegpu_server.gateway.call import Gate
from remotegpu_server.gateway.identity import Declared
from remotegpu_server.gateway.leases import Leases
from remotegpu_server.gateway.models import ModelRegistry
from remotegpu_server.gateway.service import Gateway
from remotegpu_server.gateway.shared import SharedSlots
from remotegpu_server.gateway.stream import Streams
from remotegpu_server.identity.provider import IdentityProvider
from remotegpu_server.standard.doors import Doors
from remotegpu_server.standard.entrance import Entrance
from remotegpu_server.standard.health import add_health_and_reflection
from remotegpu_server.standard.infer import Inference
from remotegpu_server.supervisor.worker import DeviceSpec, DeviceWorker, WorkerOptions

from .settings import Settings
from .tls import Tls, add_port

logger = logging.getLogger("remotegpu.daemon")

# How long calls in flight may go on after SIGTERM. Seconds.
DRAIN = 10.0
_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
    # Typed errors travel as metadata, and may be longer than gRPC's 8 KiB in other alphabets.
    ("grpc.max_metadata_size", 64 * 1024),
    # A first picture must not wait for window updates: HTTP/2 starts with 64 KiB.
    ("grpc.http2.lookahead_bytes", 4 * 1024 * 1024),
    # Clients that ping while a call is quiet are not sent away (gRPC's default allows one ping in 5 minutes).
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
)


class Daemon:
    """One running server. `sensors` measure its devices; None: those of their kind."""

    def __init__(self, settings: Settings, devices: Sequence[DeviceSpec], sensors: Sensors | None = None) -> None:
        self._settings = settings
        self._tls = Tls.of(settings.tls_cert, settings.tls_key)
        self._callers = _callers(settings.identity)
        self._quotas = quotas.read(settings.tenants)
        cores = len(os.sched_getaffinity(0))
        self._models = ModelRegistry(settings.models)
        options = WorkerOptions(
            models=self._models.table_for,
            arena_size=settings.arena_size,
            threads=max(1, cores // len(devices)),
            max_batch=settings.max_batch,
            max_delay=settings.max_delay,
            sessions=settings.sessions,
            model_memory=settings.model_memory,
            provider_options=dict(settings.provider_options),
            session_options=dict(settings.session_options),
        )
        self._workers = [DeviceWorker(spec, options, self) for spec in devices]
        self._models.workers = self._workers
        self._sensors = sensors or sensors_of(self._workers, options.threads)
        self._warm: set[int] = set()
        self._gate: Gate | None = None
        self._sources = Sources.of(ContentStore(settings.store, settings.store_size), settings.fetch_hosts)
        self._streams: Streams | None = None
        self._doors: Doors | None = None
        self._all_warm: asyncio.Future[None] | None = None

    @property
    def announced(self) -> str:
        """The listeners beside the first one, with a comma before each."""
        return "" if self._doors is None else self._doors.announced

    # What the supervisor tells (`supervisor.worker.Listener`).

    def worker_ready(self, worker: DeviceWorker, report: bytes) -> None:
        self._models.worker_ready(worker.spec.index, report)
        self._warm.add(worker.spec.index)
        if self._gate is not None:
            self._gate.leases.device_ready(worker.spec.index)
        elif self._all_warm is not None and len(self._warm) == len(self._workers) and not self._all_warm.done():
            self._all_warm.set_result(None)

    def models_changed(self, worker: DeviceWorker, report: bytes) -> None:
        self._models.reported(worker.spec.index, report)

    def worker_lost(self, worker: DeviceWorker) -> None:
        self._models.worker_lost(worker.spec.index)
        if self._gate is not None:
            self._gate.leases.device_lost(worker.spec.index)
        else:
            self._fail_start(f"the worker of device {worker.spec.index} died while it started")

    def worker_failed(self, worker: DeviceWorker, why: str) -> None:
        if self._gate is None:
            self._fail_start(f"device {worker.spec.index} ({worker.spec.name}): {why}")

    def lease_dropped(self, worker: DeviceWorker, lease: int) -> None:
        if self._gate is not None:
            self._gate.leases.released(lease, worker.spec.index)

    def model_warm(self, worker: DeviceWorker, model: str) -> None:
        if self._gate is not None:
            self._gate.leases.model_warm(worker.spec.index, model)

    # What the monitor tells (`devices.monitor.Listener`).

    def on_reading(self, readings: Mapping[int, Reading]) -> None:
        assert self._gate is not None
        for index, reading in readings.items():
            self._workers[index].reading = reading
        self._gate.leases.loads({index: reading.utilization for index, reading in readings.items()})

    def on_failed(self, index: int, why: str) -> None:
        assert self._gate is not None
        # Leases first: a call whose worker is killed is told why its lease is over.
        self._gate.leases.device_failed(index, why)
        self._workers[index].suspend(why)

    def on_healthy(self, index: int) -> None:
        logger.warning("device %d works again: its worker is started", index)
        self._workers[index].resume()

    def _fail_start(self, why: str) -> None:
        if self._all_warm is not None and not self._all_warm.done():
            self._all_warm.set_exception(errors.ConfigurationError(setting="start", why=why))

    async def run(self, announce: Callable[[int, Sequence[DeviceWorker]], None], stop: asyncio.Event) -> None:
        """Serves until `stop`. `announce` gets the port when every device is warm and the port is open.

        Raises ConfigurationError when a worker cannot start or the port cannot be had."""
        self._all_warm = asyncio.get_running_loop().create_future()
        try:
            for worker in self._workers:
                worker.start()
            await self._all_warm
            server, port = await self._serve()
            gc.freeze()  # what is here now stays: the collector need not walk it again and again
            monitor = Monitor(self._sensors, self)
            monitor.start()
            try:
                announce(port, self._workers)
                await stop.wait()
            finally:
                monitor.stop()
            await self._drain(server)
        finally:
            for worker in self._workers:
                worker.stop()
            self._models.close()
            await self._sources.close()
            await self._callers.close()

    async def _serve(self) -> tuple[grpc.aio.Server, int]:
        devices = [
            scheduler.Device(w.spec.index, w.spec.name, w.spec.uuid, w.memory, self._settings.slots)
            for w in self._workers
        ]
        pure = scheduler.Scheduler(
            devices,
            policy=scheduler.POLICIES[self._settings.policy](),
            queue_limit=self._settings.queue,
            quotas=self._quotas.tenants,
            default_quota=self._quotas.default,
        )
        leases = Leases(pure, self._workers)
        leases.model_number = self._models.number_of
        self._gate = Gate(
            leases,
            SharedSlots(leases, len(self._workers), self._settings.queue),
            self._workers,
            self._settings.arena_size,
            self._models.catalog,
            sources=self._sources,
            models=self._models,
            allow_uploads=self._settings.allow_uploads,
        )
        server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=CALL_LIMIT)
        gateway = Gateway(self._gate, self._callers)
        self._streams = gateway.streams
        server.add_generic_rpc_handlers(tuple(gateway.handlers()))
        modules = (compute_pb2, scheduler_pb2, repository_pb2)
        services = tuple(each.full_name for m in modules for each in m.DESCRIPTOR.services_by_name.values())
        add_health_and_reflection(server, services, self._gate.stopping)
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        address = f"{host}:{self._settings.port}"
        port = add_port(server, address, self._tls, "--listen")
        await server.start()
        self._doors = Doors(Entrance(Inference(self._gate), self._callers, self._tls))
        try:
            await self._doors.open({"inference": self._settings.inference, "rest": self._settings.rest})
        except BaseException:
            # What is left running complains, in gRPC's words, when the process ends.
            await asyncio.gather(server.stop(0), self._doors.close(0))
            raise
        return server, port

    async def _drain(self, server: grpc.aio.Server) -> None:
        assert self._gate is not None
        self._gate.stopping.set()
        assert self._streams is not None
        self._gate.leases.refuse_waiters(errors.Unavailable(why="it is draining before a stop"))
        assert self._doors is not None
        await asyncio.gather(self._drain_own(self._streams, server), self._doors.close(DRAIN))

    async def _drain_own(self, streams: Streams, server: grpc.aio.Server) -> None:
        # The port stays open until the streams have ended: gRPC breaks off, without a word, what comes to it later.
        loop = asyncio.get_running_loop()
        until = loop.time() + DRAIN
        await streams.drain(DRAIN)
        await server.stop(max(until - loop.time(), 0.1))


def _callers(file: Path | None) -> IdentityProvider:
    if file is None:
        return Declared()
    from remotegpu_server.identity.assembly import verified  # only here: most servers need no HTTP client for it

    return verified(file, os.environ)


def run(
    settings: Settings, devices: Sequence[DeviceSpec], *, stop_at_end_of_input: bool, sensors: Sensors | None = None
) -> None:
    """Runs a daemon in this process until SIGTERM or SIGINT (or the end of standard input). `sensors` measure the
    devices; None: those of their kind.

    Raises ConfigurationError."""

    async def main() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        if stop_at_end_of_input:

            def read_input() -> None:
                if not os.read(sys.stdin.fileno(), 4096):
                    loop.remove_reader(sys.stdin.fileno())
                    stop.set()

            loop.add_reader(sys.stdin.fileno(), read_input)
        daemon = Daemon(settings, devices, sensors)
        await daemon.run(lambda port, workers: _announce(settings, port, workers, daemon.announced), stop)

    asyncio.run(main())


def _announce(settings: Settings, port: int, workers: Sequence[DeviceWorker], others: str) -> None:
    names = ", ".join(f"{worker.spec.index}: {worker.spec.name}" for worker in workers)
    sys.stdout.write(f"remotegpu-server ready on {settings.host}:{port}{others}, devices {names}\n")
    sys.stdout.flush()
