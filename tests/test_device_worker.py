# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""A device's worker in this process, with a real worker process: suspending and resuming, warm models, figures, and the
line that records go over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from remotegpu import errors, wire
from remotegpu.v1 import program_pb2
from remotegpu_server import records
from remotegpu_server.gateway.models import ModelRegistry
from remotegpu_server.supervisor import life as life_module
from remotegpu_server.supervisor import overrun
from remotegpu_server.supervisor.line import Line
from remotegpu_server.supervisor.worker import DeviceSpec, DeviceWorker, WorkerOptions
from tests.conftest import alive

MIB = 1024**2


class Heard:
    """What a listener was told, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def worker_ready(self, worker: DeviceWorker, report: bytes) -> None:
        self.events.append(("ready", worker.epoch))

    def models_changed(self, worker: DeviceWorker, report: bytes) -> None:
        self.events.append(("changed", report))

    def worker_lost(self, worker: DeviceWorker) -> None:
        self.events.append(("lost", worker.epoch))

    def worker_failed(self, worker: DeviceWorker, why: str) -> None:
        self.events.append(("failed", why))

    def lease_dropped(self, worker: DeviceWorker, lease: int) -> None:
        self.events.append(("dropped", lease))

    def model_warm(self, worker: DeviceWorker, model: str) -> None:
        self.events.append(("warm", model))


@contextlib.asynccontextmanager
async def one_device(models: Path | None = None, patience: float = 60.0) -> AsyncIterator[tuple[DeviceWorker, Heard]]:
    heard = Heard()
    spec = DeviceSpec(3, "cpu", "CPU", "CPU-3", 2 * 1024**3)
    registry = ModelRegistry(models)
    worker = DeviceWorker(spec, WorkerOptions(registry.table_for, MIB, 1, patience), heard)
    worker.start()
    try:
        yield worker, heard
    finally:
        worker.stop()
        await until(lambda: not worker.pid, "its process is gone")


async def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.01)  # paces the asking; the condition decides


async def ran(worker: DeviceWorker, program: program_pb2.Program, body: bytes = b"") -> program_pb2.Result:
    """Runs a program of lease 7, raising its error."""
    life = await worker.life()
    message = program.SerializeToString()
    start = wire.aligned(len(message))
    slab = await life.allocate(start + len(body))
    slab.view[: len(message)] = message
    slab.view[start : start + len(body)] = body
    run = records.Run(0, slab.offset, len(message), len(body), lease=7, memory_limit=0, finish=0)
    reply = await life.call(slab, run, asyncio.get_running_loop().time() + 20)
    try:
        if reply.done.failed:
            raise wire.error_from(reply.result)
        return program_pb2.Result.FromString(bytes(reply.result))
    finally:
        reply.close()


def eye(size: int, times: int = 0) -> program_pb2.Program:
    """An identity matrix of that size, multiplied with itself so many times."""
    nodes = [
        program_pb2.Node(operation=program_pb2.Operation(name="eye", args=[program_pb2.Argument(integer=size)])),
        *(
            program_pb2.Node(
                operation=program_pb2.Operation(
                    name="matmul", args=[program_pb2.Argument(ref=program_pb2.Ref(node=i))] * 2
                )
            )
            for i in range(times)
        ),
    ]
    return program_pb2.Program(nodes=nodes, outputs=[program_pb2.Output(ref=program_pb2.Ref(node=times), keep=1)])


def test_suspended_device_refuses_until_it_is_resumed() -> None:
    async def scenario() -> None:
        async with one_device() as (worker, heard):
            await ran(worker, eye(4))
            assert (worker.state, worker.memory_held) == ("ready", 128)
            pid = worker.pid
            worker.suspend("it is on fire")
            worker.suspend("a second reason")
            assert (worker.state, worker.failure, worker.pid) == ("failed", "it is on fire", 0)
            assert (worker.memory_held, worker.epoch) == (0, 2)
            with pytest.raises(errors.DeviceFailed) as caught:
                await worker.life("abc")
            assert caught.value.fields() == {"lease": "abc", "device": 3, "why": "it is on fire"}
            assert isinstance(worker.lost("died"), errors.DeviceFailed)
            worker.drop(7)  # a process that is not there holds nothing
            await until(lambda: not alive(pid), "the process is gone")
            assert heard.events == [("ready", 1), ("lost", 2), ("dropped", 7)]
            worker.resume()
            worker.resume()
            assert (worker.state, worker.failure) == ("starting", "")
            assert isinstance(worker.lost("died"), errors.LeaseLost)
            await ran(worker, eye(4))
            assert worker.state == "ready"
            assert heard.events[3:] == [("ready", 2)]
            pid = worker.pid
            worker.resume()
            assert (worker.pid, worker.state) == (pid, "ready")

    asyncio.run(scenario())


def test_calls_under_way_and_those_that_wait_for_the_process_hear_of_the_suspension() -> None:
    async def scenario() -> None:
        async with one_device() as (worker, _):
            waiting = asyncio.create_task(worker.life("early"))
            await asyncio.sleep(0)
            worker.suspend("no power")
            with pytest.raises(errors.DeviceFailed, match="no power"):
                await asyncio.wait_for(waiting, 5)
            worker.resume()
            life = await worker.life()
            call = asyncio.create_task(ran(worker, eye(1200, 1000)))
            await until(lambda: life.arena_used, "the call is with the worker")
            worker.suspend("no power again")
            with pytest.raises(ConnectionResetError, match="no power again"):
                await asyncio.wait_for(call, 5)
            assert isinstance(worker.lost("died", "late"), errors.DeviceFailed)

    asyncio.run(scenario())


def test_suspended_device_is_not_restarted_by_a_death_before() -> None:
    async def scenario() -> None:
        async with one_device() as (worker, heard):
            os.kill(worker.pid, signal.SIGKILL)  # before it is warm: the second start waits
            await until(lambda: heard.events == [("lost", 2)], "the death was noticed")
            worker.suspend("enough")
            await asyncio.sleep(0.8)  # longer than the pause before the second start
            assert (worker.pid, worker.state) == (0, "failed")
            worker.resume()
            await worker.life()
            assert heard.events == [("lost", 2), ("ready", 2)]

    asyncio.run(scenario())


def test_listener_may_suspend_and_resume_while_it_is_told_of_a_death() -> None:
    async def scenario() -> None:
        async with one_device() as (worker, heard):
            await worker.life()
            told = heard.worker_lost

            def lost(lost_worker: DeviceWorker) -> None:
                told(lost_worker)
                lost_worker.suspend("it died")
                lost_worker.resume()

            heard.worker_lost = lost  # type: ignore[assignment,method-assign]
            os.kill(worker.pid, signal.SIGKILL)
            await until(lambda: ("ready", 2) in heard.events, "there is a new process")
            pid = worker.pid
            await asyncio.sleep(0.2)  # a second start would have been due at once
            assert worker.pid == pid
            assert heard.events == [("ready", 1), ("lost", 2), ("ready", 2)]

    asyncio.run(scenario())


@pytest.mark.slow
def test_process_that_hangs_while_it_starts_is_replaced() -> None:
    async def work() -> None:
        async with one_device(patience=8.0) as (worker, heard):
            os.kill(worker.pid, signal.SIGSTOP)  # long before it has loaded anything
            await until(lambda: ("ready", 2) in heard.events, "the next one is warm")
            assert heard.events == [("failed", "it was not ready within 8 s"), ("lost", 2), ("ready", 2)]

    asyncio.run(work())


def test_dead_process_that_no_thread_can_be_had_for_is_replaced_and_reaped_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refusals = [1, 2]

    class Thread(threading.Thread):
        """The first ones are more than the machine allows."""

        def start(self) -> None:
            if refusals:
                refusals.pop()
                raise RuntimeError("can't start new thread")
            super().start()

    async def work() -> None:
        async with one_device() as (worker, heard):
            life = await worker.life()
            # As with a driver that is slow to let go: it is not dead yet when it is looked at.
            monkeypatch.setattr(life.process, "poll", lambda: None)
            monkeypatch.setattr(life_module, "_REAP_PAUSE", 0.05)
            monkeypatch.setattr(life_module, "threading", SimpleNamespace(Thread=Thread))
            pid = worker.pid
            worker.suspend("no power")
            assert (worker.pid, heard.events) == (0, [("ready", 1), ("lost", 2)])
            await until(lambda: not alive(pid), "it is reaped")
            assert not refusals
            worker.resume()
            await worker.life()

    asyncio.run(work())


@pytest.mark.slow
def test_process_that_was_ready_in_time_stays() -> None:
    async def work() -> None:
        async with one_device(patience=5.0) as (worker, heard):
            await until(lambda: ("ready", 1) in heard.events, "it is warm")
            pid = worker.pid
            await asyncio.sleep(5.2)  # beyond the patience, which must not be running any more
            assert (worker.pid, heard.events) == (pid, [("ready", 1)])

    asyncio.run(work())


def test_model_is_warm_when_a_program_has_run_it(models: Path) -> None:
    tensor = program_pb2.Tensor(dtype=11, shape=(1, 64), size=256)  # type: ignore[arg-type]  # float32
    wrong = program_pb2.Tensor(dtype=11, shape=(1, 32), size=128)  # type: ignore[arg-type]
    node = program_pb2.ModelCall(model="linear", inputs=[program_pb2.ModelInput(ref=program_pb2.Ref(node=0))])
    outputs = [program_pb2.Output(ref=program_pb2.Ref(node=1), fetch=True)]

    def program(source: program_pb2.Tensor) -> program_pb2.Program:
        return program_pb2.Program(
            nodes=[program_pb2.Node(tensor=source), program_pb2.Node(model=node)], outputs=outputs
        )

    async def scenario() -> None:
        async with one_device(models) as (worker, heard):
            with pytest.raises(errors.InvalidInput):
                await ran(worker, program(wrong), bytes(128))
            assert not worker.warm_models
            for _ in range(3):
                await ran(worker, program(tensor), np.ones(64, np.float32).tobytes())
                assert worker.warm_models == ("linear",)
            assert heard.events == [("ready", 1), ("warm", "linear")]
            os.kill(worker.pid, signal.SIGKILL)
            await until(lambda: ("lost", 2) in heard.events, "the death was noticed")
            assert not worker.warm_models
            await ran(worker, program(tensor), bytes(256))
            assert worker.warm_models == ("linear",)
            assert heard.events.count(("warm", "linear")) == 2

    asyncio.run(scenario())


def test_figures_of_drops_and_calls_that_cross_end_right() -> None:
    """A Drop is answered by another thread than calls are: the last figure that arrives must be the last true one."""

    async def scenario() -> None:
        async with one_device() as (worker, heard):
            life = await worker.life()
            for lease in range(100, 400):
                message = eye(16).SerializeToString()
                calls = []
                for owner in (lease, 7):
                    slab = await life.allocate(len(message))
                    slab.view[: len(message)] = message
                    run = records.Run(0, slab.offset, len(message), 0, owner, memory_limit=0, finish=0)
                    calls.append(asyncio.create_task(life.call(slab, run, asyncio.get_running_loop().time() + 20)))
                (await calls[0]).close()
                worker.drop(lease)
                (await calls[1]).close()
                await until(lambda lease=lease: ("dropped", lease) in heard.events, "it is dropped")  # type: ignore[misc]
                assert worker.memory_held == 16 * 16 * 8

    asyncio.run(scenario())


def test_line_sends_all_records_in_order_when_the_other_end_reads_late() -> None:
    async def scenario() -> list[records.Record]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        theirs.setblocking(False)
        line = Line(ours)
        for lease in range(5000):
            (line.send if lease % 3 else line.send_soon)(records.Drop(lease))
        found: list[records.Record] = []
        async with asyncio.timeout(10):
            while len(found) < 5000:
                found += records.unpack(await asyncio.get_running_loop().sock_recv(theirs, records.PACKET_LIMIT))
        line.close()
        line.send(records.Drop(1))  # lost, as told
        assert await asyncio.get_running_loop().sock_recv(theirs, 1) == b""
        theirs.close()
        return found

    assert asyncio.run(scenario()) == [records.Drop(lease) for lease in range(5000)]


def test_the_call_that_the_worker_is_at_is_blamed_for_an_overrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overrun, "OVERRUN", 0.1)

    @dataclass
    class Call:
        call: int
        deadline: float

    async def scenario() -> None:
        now = asyncio.get_running_loop().time()
        running = {1: Call(1, now + 100), 2: Call(2, now), 3: Call(3, now)}
        blamed: list[int] = []
        watch = overrun.Overrun(running, lambda job: blamed.append(job.call))
        watch.look()
        watch.begun(3)
        del running[3]
        watch.look()
        await asyncio.sleep(0.2)
        assert not blamed  # the second merely waits behind the first, and the third has ended
        watch.begun(2)
        await until(lambda: blamed == [2], "the worker is at the second")
        for number, seconds in ((4, 100.0), (5, 0.0), (6, 0.3)):  # each ends before the next comes
            running.clear()
            running[number] = Call(number, asyncio.get_running_loop().time() + seconds)
            watch.look()
        await asyncio.sleep(0.25)
        assert blamed == [2]  # the fifth would have been due
        await until(lambda: blamed == [2, 6], "the sixth is due at last")
        watch.close()

    asyncio.run(scenario())
