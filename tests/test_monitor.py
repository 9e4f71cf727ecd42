# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The device monitor: what readings mean, the thread that takes them, and a whole server whose devices fail."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import remotegpu
from remotegpu import Client, errors
from remotegpu_server.devices.monitor import CLEAN_READINGS, Health, Monitor, Verdict, judge
from remotegpu_server.devices.reading import Reading, faulty
from tests.conftest import alive, wait_until
from tests.fixtures.faulty_server import FaultyServer

CLEAN = Reading(0.5, 1, 2, None, None, None, ())
LOST = faulty("it is lost")


# ---- what readings mean -----------------------------------------------------------------------------------


def verdicts(readings: Sequence[Reading]) -> list[Verdict]:
    found, health = [], Health()
    for reading in readings:
        health, verdict = judge(health, reading)
        found.append(verdict)
    return found


def test_one_fault_fails_a_device_and_three_clean_readings_in_a_row_heal_it() -> None:
    nothing = Verdict.NOTHING
    assert CLEAN_READINGS == 3
    assert verdicts([CLEAN, LOST, LOST, CLEAN, CLEAN, CLEAN, CLEAN]) == [
        nothing,
        Verdict.FAILED,
        nothing,
        nothing,
        nothing,
        Verdict.HEALTHY,
        nothing,
    ]
    assert verdicts([LOST, CLEAN, CLEAN, LOST, CLEAN, CLEAN]) == [Verdict.FAILED] + [nothing] * 5
    assert verdicts([LOST, CLEAN, CLEAN, CLEAN, LOST])[-1] is Verdict.FAILED


@given(st.lists(st.booleans(), max_size=40))
def test_failing_and_healing_alternate_and_follow_from_the_readings(faults: list[bool]) -> None:
    found = verdicts([LOST if fault else CLEAN for fault in faults])
    failed = False
    for number, (fault, verdict) in enumerate(zip(faults, found, strict=True)):
        if failed:
            healed = number >= 2 and not any(faults[number - 2 : number + 1])
            assert verdict is (Verdict.HEALTHY if healed else Verdict.NOTHING)
            failed = not healed
        else:
            assert verdict is (Verdict.FAILED if fault else Verdict.NOTHING)
            failed = fault


# ---- the thread -------------------------------------------------------------------------------------------


class Script:
    """Sensors that do what a function says, given the number of the reading from 1."""

    def __init__(self, act: Callable[[int], dict[int, Reading]], silence: str = "the driver does not answer") -> None:
        self.devices = (0, 1)
        self.silence = silence
        self.readings = 0
        self.at_once = 0
        self.most_at_once = 0
        self.threads: set[int] = set()
        self.closed = threading.Event()
        self._act = act

    def read(self) -> dict[int, Reading]:
        self.readings += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.threads.add(threading.get_ident())
        try:
            return self._act(self.readings)
        finally:
            self.at_once -= 1

    def close(self) -> None:
        self.closed.set()


class Log:
    """A listener that keeps what it hears, and wakes who waits for it."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []
        self.readings: list[Mapping[int, Reading]] = []
        self.threads: set[int] = set()
        self.news = asyncio.Event()

    def _hear(self, *what: object) -> None:
        self.threads.add(threading.get_ident())
        self.heard.extend([what] if what else [])
        self.news.set()

    def on_reading(self, readings: Mapping[int, Reading]) -> None:
        self.readings.append(readings)
        self._hear()

    def on_failed(self, index: int, why: str) -> None:
        self._hear("failed", index, why)

    def on_healthy(self, index: int) -> None:
        self._hear("healthy", index)

    async def until(self, condition: Callable[[], object]) -> None:
        """Waits for news until the condition holds."""
        async with asyncio.timeout(20):
            while not condition():
                self.news.clear()
                await self.news.wait()


def watch(sensors: Script, until: Callable[[Log], Callable[[], object]], patience: float = 5.0) -> Log:
    """Runs a monitor until the listener's condition holds; its sensors are closed then."""

    async def run() -> Log:
        log = Log()
        monitor = Monitor(sensors, log, period=0.005, patience=patience)
        monitor.start()
        try:
            await log.until(until(log))
        finally:
            monitor.stop()
            monitor.stop()
        return log

    return asyncio.run(run())


def test_readings_are_taken_in_one_thread_and_told_on_the_event_loop() -> None:
    sensors = Script(lambda number: {0: CLEAN, 1: LOST if number == 2 else CLEAN})
    log = watch(sensors, lambda log: lambda: ("healthy", 1) in log.heard)
    assert log.heard == [("failed", 1, "it is lost"), ("healthy", 1)]
    assert len(log.readings) == 5
    assert log.readings[1] == {0: CLEAN, 1: LOST}
    assert log.threads == {threading.get_ident()}
    assert len(sensors.threads) == 1
    assert not sensors.threads & log.threads
    assert sensors.closed.wait(10)


def test_a_reading_that_hangs_is_a_fault_and_no_other_is_begun(caplog: pytest.LogCaptureFixture) -> None:
    released = threading.Event()

    def act(number: int) -> dict[int, Reading]:
        if number == 2:
            assert released.wait(20)
        return {0: CLEAN, 1: CLEAN}

    sensors = Script(act)

    async def run() -> Log:
        log = Log()
        monitor = Monitor(sensors, log, period=0.005, patience=0.1)
        monitor.start()
        await log.until(lambda: len(log.heard) == 2)
        await asyncio.sleep(0.2)  # many periods, and the patience once more: time for mistakes to happen in
        assert sensors.readings == 2
        assert len(log.readings) == 2
        released.set()
        await log.until(lambda: len(log.heard) == 4)
        monitor.stop()
        return log

    with caplog.at_level(logging.WARNING):
        log = asyncio.run(run())
    why = "the driver does not answer"
    assert log.heard == [("failed", 0, why), ("failed", 1, why), ("healthy", 0), ("healthy", 1)]
    # The late answer does not count: three others follow it.
    assert [len(log.readings), sensors.readings] == [5, 5]
    assert sensors.most_at_once == 1
    assert caplog.text.count("could not be measured within 0.1 s") == 1


def test_a_late_reading_of_a_sensor_that_may_be_late_is_no_fault() -> None:
    def act(number: int) -> dict[int, Reading]:
        if number == 1:
            threading.Event().wait(0.3)  # a reading that takes so long
        return {0: CLEAN, 1: CLEAN}

    log = watch(Script(act, silence=""), lambda log: lambda: log.readings, patience=0.05)
    assert log.readings == [{0: CLEAN, 1: CLEAN}]  # the second one: the late one tells of another time
    assert log.heard == []


def test_stopping_does_not_wait_for_a_reading_that_hangs() -> None:
    begun, released = threading.Event(), threading.Event()

    def act(number: int) -> dict[int, Reading]:
        begun.set()
        assert released.wait(20)
        return {0: CLEAN, 1: LOST}

    sensors = Script(act)

    async def run() -> Log:
        log = Log()
        monitor = Monitor(sensors, log, period=0.005)
        monitor.start()
        assert await asyncio.to_thread(begun.wait, 10)
        monitor.stop()
        return log

    log = asyncio.run(run())
    assert not sensors.closed.is_set()
    released.set()  # the event loop is closed by now
    assert sensors.closed.wait(10)
    assert (log.readings, log.heard) == ([], [])


def test_nothing_is_told_after_the_stop() -> None:
    begun, released = threading.Event(), threading.Event()

    def act(number: int) -> dict[int, Reading]:
        begun.set()
        assert released.wait(20)
        return {0: CLEAN, 1: LOST}

    sensors = Script(act)

    async def run() -> Log:
        log = Log()
        monitor = Monitor(sensors, log, period=0.005)
        monitor.start()
        assert await asyncio.to_thread(begun.wait, 10)
        monitor.stop()
        released.set()
        assert await asyncio.to_thread(sensors.closed.wait, 10)  # the answer was handed over before
        return log

    log = asyncio.run(run())
    assert (log.readings, log.heard) == ([], [])


def test_sensors_that_raise_are_a_fault_that_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    def act(number: int) -> dict[int, Reading]:
        if 2 <= number <= 4:
            raise OSError("no such thing")
        return {0: CLEAN, 1: CLEAN}

    log = watch(Script(act), lambda log: lambda: ("healthy", 1) in log.heard)
    assert log.heard[0] == ("failed", 0, "it cannot be measured: OSError: no such thing")
    assert len(log.readings) == 7
    assert caplog.text.count("the devices cannot be measured") == 1
    assert "Traceback" in caplog.text


class Failing(Log):
    """Raises after what it hears: always of readings, twice of each news of device 0."""

    def _hear(self, *what: object) -> None:
        super()._hear(*what)
        if not what:
            raise RuntimeError("never")
        if what[1] == 0 and self.heard.count(what) <= 2:
            raise RuntimeError("not now")


def test_a_listener_that_fails_is_told_again_and_hears_of_other_devices_at_once() -> None:
    sensors = Script(lambda number: dict.fromkeys((0, 1), CLEAN if number > 1 else LOST))

    async def run() -> tuple[Failing, list[str]]:
        log, raised = Failing(), []

        def on_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            raised.append(", ".join(str(error) for error in context["exception"].exceptions))

        asyncio.get_running_loop().set_exception_handler(on_error)
        monitor = Monitor(sensors, log, period=0.005)
        monitor.start()
        await log.until(lambda: len(log.readings) == 8)
        monitor.stop()
        return log, raised

    log, raised = asyncio.run(run())
    failed, healthy = ("failed", 0, "it is lost"), ("healthy", 0)
    others = ("failed", 1, "it is lost"), ("healthy", 1)
    assert log.heard == [failed, others[0], failed, failed, healthy, others[1], healthy, healthy]
    assert raised[:7] == ["never, not now"] * 2 + ["never"] + ["never, not now"] * 2 + ["never"] * 2


# ---- a server whose devices fail --------------------------------------------------------------------------


@pytest.fixture
def faulty_server(tmp_path: Path) -> Iterator[FaultyServer]:
    server = FaultyServer(tmp_path / "devices.json", devices=2)
    yield server
    assert server.stop() == 0


def state(client: Client, index: int) -> str:
    return client.top().devices[index].state


def lease_on(client: Client, index: int) -> tuple[remotegpu.Lease, remotegpu.Lease]:
    """A lease on that device, and one on the other of the two, each of whose slots it takes."""
    leases = {lease.devices[0].uuid: lease for lease in (client.alloc(), client.alloc())}
    return leases[f"CPU-{index}"], leases[f"CPU-{1 - index}"]


def test_a_failed_device_ends_its_leases_and_comes_back_when_it_is_healthy(faulty_server: FaultyServer) -> None:
    with Client(faulty_server.url, timeout=20) as client:
        struck, other = lease_on(client, 1)
        kept, others = struck.xp.ones((8,)), other.xp.ones((4,))
        assert struck.fetch(struck.xp.sum(kept)) == 8
        assert other.fetch(other.xp.sum(others)) == 4
        pid = client.top().devices[1].worker_pid

        faulty_server.say(d1={"fault": "critical Xid 79"})
        wait_until(lambda: state(client, 1) == "failed", "the fault is noticed")
        device = client.top().devices[1]
        assert (device.failure, device.worker_pid) == ("critical Xid 79", 0)
        wait_until(lambda: not alive(pid), "its worker has ended")
        for _ in range(2):
            with pytest.raises(errors.DeviceFailed) as caught:
                struck.fetch(struck.xp.sum(kept))
            assert (caught.value.device, caught.value.why) == (1, "critical Xid 79")
            assert caught.value.retryable
        assert other.fetch(others * 2).tolist() == [2, 2, 2, 2]
        assert [entry.lease for entry in client.top().leases] == [other.id[:8]]

        # Two devices exist, so two are not impossible: they are not there now.
        with pytest.raises(errors.Busy):
            client.alloc_nowait(gpus=2)
        with pytest.raises(errors.Impossible):
            client.alloc_nowait(gpus=3)

        faulty_server.say()
        again = client.alloc(timeout=20)
        assert again.devices[0].uuid == "CPU-1"
        np.testing.assert_array_equal(again.fetch(again.xp.ones((3,))), [1, 1, 1])
        device = client.top().devices[1]
        assert (device.state, device.failure) == ("ready", "")
        assert client.top().devices[0].epoch == 1
        assert other.fetch(others).tolist() == [1, 1, 1, 1]


def test_a_call_that_runs_when_its_device_fails_hears_why(faulty_server: FaultyServer) -> None:
    with Client(faulty_server.url, timeout=30) as client:
        struck, _ = lease_on(client, 0)
        heard: list[BaseException] = []

        def compute() -> None:
            x = struck.xp.eye(1500)
            for _ in range(400):
                x = x @ x
            try:
                struck.fetch(struck.xp.sum(x), timeout=30)
            except errors.Error as error:
                heard.append(error)

        thread = threading.Thread(target=compute)
        thread.start()
        wait_until(lambda: any(entry.calls_running for entry in client.top().leases), "the call runs")
        faulty_server.say(d0={"fault": "GPU is lost"})
        thread.join(20)
        assert not thread.is_alive()
        (error,) = heard
        assert isinstance(error, errors.DeviceFailed)
        assert (error.device, error.why) == (0, "GPU is lost")


def test_measurements_are_told(faulty_server: FaultyServer) -> None:
    with Client(faulty_server.url, timeout=20) as client:
        faulty_server.say(d0={"utilization": 0.25}, d1={"utilization": 0.75})
        wait_until(lambda: client.top().devices[1].load.utilization == 0.75, "the load is measured")
        loads = [device.load for device in client.top().devices]
        assert [load.utilization for load in loads] == [0.25, 0.75]
        assert loads[0].temperature_c == 40.0
        assert not loads[0].HasField("power_w")


def test_a_server_measures_its_own_workers(client: Client) -> None:
    wait_until(lambda: all(device.HasField("load") for device in client.top().devices), "they are measured")
    for device in client.top().devices:
        assert [process.pid for process in device.load.processes] == [device.worker_pid]
        assert 0 < device.load.memory_used < device.load.memory_total
