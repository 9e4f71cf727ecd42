# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The sensors: NVML against a driver that is a table with the binding's own exceptions, and psutil against real
processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import psutil
import pynvml
import pytest

from remotegpu_server.devices.host import CpuDevice, Host, utilization
from remotegpu_server.devices.nvml import IGNORED_XIDS, Nvml
from remotegpu_server.devices.reading import Process, Reading
from remotegpu_server.devices.sensors import Gpus, sensors_of
from remotegpu_server.supervisor.worker import DeviceSpec
from tests.conftest import wait_until

GIB = 1024**3
CRITICAL = pynvml.nvmlEventTypeXidCriticalError


@dataclass(eq=False)
class FakeGpu:
    """What the driver knows of one GPU. An exception stands for the answer to that question."""

    answers: dict[str, Any]
    events: Any = CRITICAL | pynvml.nvmlEventTypeClock
    xids: list[int] = field(default_factory=list)
    found: Any = None
    registered: Any = None


class FakeDriver:
    """Stands in for the functions of `pynvml` that the sensor calls."""

    def __init__(self) -> None:
        self.gpus: dict[str, FakeGpu] = {}
        self.gone: Exception | None = None
        self.opened = self.closed = 0
        self.created = 0
        self.sets: dict[int, FakeGpu | None] = {}

    def add(self, uuid: str, **answers: Any) -> FakeGpu:
        """A healthy GPU; `answers` replace figures."""
        healthy = {
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=37, memory=12),
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80 * GIB, used=3 * GIB, free=77 * GIB),
            "nvmlDeviceGetTemperatureV": 54,
            "nvmlDeviceGetTemperature": 55,
            "nvmlDeviceGetPowerUsage": 312_500,
            "nvmlDeviceGetEnforcedPowerLimit": 700_000,
            "nvmlDeviceGetComputeRunningProcesses_v3": [
                SimpleNamespace(pid=41, usedGpuMemory=2 * GIB),
                SimpleNamespace(pid=42, usedGpuMemory=None),
            ],
            "nvmlDeviceGetTotalEccErrors": 0,
            "nvmlDeviceGetRemappedRows": (1, 0, 0, 0),
        }
        assert answers.keys() <= healthy.keys()
        self.gpus[uuid] = FakeGpu(healthy | answers)
        return self.gpus[uuid]

    def answer(self, value: Any) -> Any:
        if self.gone is not None:
            raise self.gone
        if isinstance(value, Exception):
            raise value
        return value

    def init(self) -> None:
        self.answer(None)
        self.opened += 1

    def shutdown(self) -> None:
        self.closed += 1
        self.answer(None)

    def handle(self, uuid: str) -> FakeGpu:
        gpu = self.gpus.get(uuid)
        self.answer(pynvml.NVMLError_NotFound() if gpu is None else gpu.found)
        assert gpu is not None
        return gpu

    def create_set(self) -> int:
        self.created += 1
        self.sets[self.created] = None
        return self.created

    def register(self, gpu: FakeGpu, kinds: int, events: int) -> None:
        assert kinds == CRITICAL
        self.answer(gpu.registered)
        self.sets[events] = gpu

    def wait(self, events: int, timeout: int) -> Any:
        assert timeout == 0
        gpu = self.sets[events]
        assert gpu is not None
        self.answer(gpu.found)
        if not gpu.xids:
            raise pynvml.NVMLError_Timeout()
        return SimpleNamespace(eventType=CRITICAL, eventData=gpu.xids.pop(0))

    def free(self, events: int) -> None:
        del self.sets[events]
        self.answer(None)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    fake = FakeDriver()
    functions = {
        "nvmlInit": fake.init,
        "nvmlShutdown": fake.shutdown,
        "nvmlDeviceGetHandleByUUID": fake.handle,
        "nvmlDeviceGetSupportedEventTypes": lambda gpu: fake.answer(gpu.events),
        "nvmlEventSetCreate": fake.create_set,
        "nvmlDeviceRegisterEvents": fake.register,
        "nvmlEventSetWait_v2": fake.wait,
        "nvmlEventSetFree": fake.free,
    }
    for name in FakeDriver().add("any").answers:
        functions[name] = lambda gpu, *_, name=name: fake.answer(gpu.answers[name])
    for name, function in functions.items():
        monkeypatch.setattr(pynvml, name, function)
    return fake


def one(nvml: Nvml, uuid: str = "GPU-a") -> Reading:
    return nvml.read([uuid])[uuid]


def test_all_figures_of_a_gpu(driver: FakeDriver) -> None:
    driver.add("GPU-a")
    nvml = Nvml()
    assert one(nvml) == Reading(
        utilization=0.37,
        memory_used=3 * GIB,
        memory_total=80 * GIB,
        temperature=54.0,
        power=312.5,
        power_limit=700.0,
        processes=(Process(41, 2 * GIB), Process(42, 0)),
    )
    one(nvml)
    assert (driver.opened, driver.closed, driver.created) == (1, 0, 1)
    assert nvml.xids_watched == {"GPU-a"}
    nvml.close()
    assert (driver.closed, len(driver.sets)) == (1, 0)


@pytest.mark.parametrize(
    ("question", "changed"),
    [
        ("nvmlDeviceGetUtilizationRates", {"utilization": 0.0}),
        ("nvmlDeviceGetMemoryInfo", {"memory_used": 0, "memory_total": 0}),
        ("nvmlDeviceGetTemperatureV", {"temperature": 55.0}),
        ("nvmlDeviceGetPowerUsage", {"power": None}),
        ("nvmlDeviceGetEnforcedPowerLimit", {"power_limit": None}),
        ("nvmlDeviceGetComputeRunningProcesses_v3", {"processes": ()}),
        ("nvmlDeviceGetTotalEccErrors", {}),
        ("nvmlDeviceGetRemappedRows", {}),
    ],
)
@pytest.mark.parametrize("error", ["NotSupported", "FunctionNotFound", "NoPermission"])
def test_a_figure_that_a_gpu_does_not_tell_is_no_fault(
    driver: FakeDriver, question: str, changed: dict[str, object], error: str
) -> None:
    driver.add("GPU-a")
    before = one(Nvml())
    driver.gpus["GPU-a"].answers[question] = getattr(pynvml, f"NVMLError_{error}")()
    after = one(Nvml())
    differing = {
        name: getattr(after, name) for name in Reading.__slots__ if getattr(after, name) != getattr(before, name)
    }
    assert differing == changed


def test_a_gpu_without_temperature_and_bindings_that_know_only_the_older_question(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = driver.add("GPU-a", nvmlDeviceGetTemperatureV=pynvml.NVMLError_NotSupported())
    gpu.answers["nvmlDeviceGetTemperature"] = pynvml.NVMLError_NotSupported()
    assert one(Nvml()).temperature is None
    monkeypatch.delattr(pynvml, "nvmlDeviceGetTemperatureV")
    gpu.answers["nvmlDeviceGetTemperature"] = 61
    assert one(Nvml()).temperature == 61.0


@pytest.mark.parametrize("error", ["GpuIsLost", "ResetRequired", "Unknown"])
@pytest.mark.parametrize(
    "question", ["nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetTotalEccErrors"]
)
def test_an_error_of_a_gpu_is_its_fault_alone_until_it_is_over(driver: FakeDriver, error: str, question: str) -> None:
    driver.add("GPU-a")
    driver.add("GPU-b")
    nvml = Nvml()
    healthy = one(nvml)
    good = driver.gpus["GPU-a"].answers[question]
    driver.gpus["GPU-a"].answers[question] = failure = getattr(pynvml, f"NVMLError_{error}")()
    for _ in range(3):
        found = nvml.read(["GPU-a", "GPU-b"])
        assert str(failure) in found["GPU-a"].fault
        assert found["GPU-b"].fault == ""
    assert len(driver.sets) == 1  # that of the other: nothing is left behind by asking again and again
    driver.gpus["GPU-a"].answers[question] = good
    assert one(nvml) == healthy
    assert (driver.opened, len(driver.sets)) == (1, 2)


def test_a_gpu_that_cannot_be_found_is_a_fault(driver: FakeDriver) -> None:
    driver.add("GPU-b")
    found = Nvml().read(["GPU-a", "GPU-b"])
    assert "Not Found" in found["GPU-a"].fault
    assert found["GPU-b"].fault == ""


@pytest.mark.parametrize("error", ["DriverNotLoaded", "Uninitialized", "LibRmVersionMismatch", "LibraryNotFound"])
def test_without_its_driver_every_gpu_is_faulty_until_it_is_back(driver: FakeDriver, error: str) -> None:
    driver.add("GPU-a")
    driver.add("GPU-b")
    nvml = Nvml()
    healthy = nvml.read(["GPU-a", "GPU-b"])
    driver.gone = getattr(pynvml, f"NVMLError_{error}")()
    for _ in range(2):
        faults = [reading.fault for reading in nvml.read(["GPU-a", "GPU-b"]).values()]
        assert faults == [f"the NVIDIA driver cannot be used: {driver.gone}"] * 2
    assert len(driver.sets) == 0
    driver.gone = None
    assert nvml.read(["GPU-a", "GPU-b"]) == healthy
    assert driver.opened == 2


def test_nvml_that_does_not_open_is_a_fault(driver: FakeDriver) -> None:
    driver.add("GPU-a")
    driver.gone = pynvml.NVMLError_Unknown()
    assert one(Nvml()).fault == "NVML cannot be opened: Unknown Error"


def test_a_critical_xid_is_a_fault_in_the_reading_that_finds_it(driver: FakeDriver) -> None:
    gpu, other = driver.add("GPU-a"), driver.add("GPU-b")
    nvml = Nvml()
    nvml.read(["GPU-a", "GPU-b"])
    gpu.xids.extend([13, 79, 48])
    found = nvml.read(["GPU-a", "GPU-b"])
    assert found["GPU-a"].fault == "critical Xid 79, 48"
    assert found["GPU-a"].temperature == 54.0
    assert found["GPU-b"].fault == ""
    assert one(nvml).fault == ""
    other.xids.extend(IGNORED_XIDS)
    assert one(nvml, "GPU-b").fault == ""
    assert not other.xids


def test_many_xids_do_not_hold_up_a_reading(driver: FakeDriver) -> None:
    gpu = driver.add("GPU-a")
    nvml = Nvml()
    one(nvml)
    gpu.xids.extend([79] * 1000)
    assert one(nvml).fault
    assert 900 < len(gpu.xids) < 1000
    assert one(nvml).fault


@pytest.mark.parametrize(
    ("events", "registered"),
    [
        (pynvml.NVMLError_NotSupported(), None),
        (pynvml.nvmlEventTypeClock, None),
        (CRITICAL, pynvml.NVMLError_NotSupported()),
        (CRITICAL, pynvml.NVMLError_Unknown()),
    ],
)
def test_where_xids_cannot_be_watched_the_rest_is(driver: FakeDriver, events: Any, registered: Any) -> None:
    gpu = driver.add("GPU-a")
    gpu.events, gpu.registered = events, registered
    nvml = Nvml()
    assert one(nvml).fault == ""
    assert nvml.xids_watched == frozenset()
    assert len(driver.sets) == 0


def test_a_gpu_that_is_lost_while_its_xids_are_registered_is_a_fault(driver: FakeDriver) -> None:
    gpu = driver.add("GPU-a")
    gpu.registered = pynvml.NVMLError_GpuIsLost()
    assert one(Nvml()).fault == "the NVIDIA driver says: GPU is lost"
    assert len(driver.sets) == 0


def test_memory_errors_that_come_later_are_a_fault_until_a_reset(driver: FakeDriver) -> None:
    gpu = driver.add("GPU-a", nvmlDeviceGetTotalEccErrors=5)
    nvml = Nvml()
    assert one(nvml).fault == ""  # they were there before
    gpu.answers["nvmlDeviceGetTotalEccErrors"] = 7
    assert one(nvml).fault == "2 memory errors that ECC could not correct"
    gpu.answers["nvmlDeviceGetUtilizationRates"] = pynvml.NVMLError_GpuIsLost()
    assert one(nvml).fault
    gpu.answers["nvmlDeviceGetUtilizationRates"] = SimpleNamespace(gpu=0)
    assert one(nvml).fault.startswith("2 memory errors")  # being lost in between changes nothing
    gpu.answers["nvmlDeviceGetTotalEccErrors"] = 0
    assert one(nvml).fault == ""
    gpu.answers["nvmlDeviceGetTotalEccErrors"] = 1
    assert one(nvml).fault.startswith("1 memory error")


def test_a_row_that_cannot_be_remapped_is_a_fault(driver: FakeDriver) -> None:
    driver.add("GPU-a", nvmlDeviceGetRemappedRows=(0, 2, 1, 0))
    driver.add("GPU-b", nvmlDeviceGetRemappedRows=(0, 2, 0, 1))
    nvml = Nvml()
    assert one(nvml).fault == ""  # it waits for a reset, and the GPU works on
    assert "could not be replaced" in one(nvml, "GPU-b").fault


def test_gpus_are_told_by_the_index_of_their_device(driver: FakeDriver) -> None:
    driver.add("GPU-a", nvmlDeviceGetTemperatureV=40)
    driver.add("GPU-b", nvmlDeviceGetTemperatureV=50)
    specs = [DeviceSpec(0, "cuda", "GPU", "GPU-b", GIB), DeviceSpec(1, "cuda", "GPU", "GPU-a", GIB)]
    sensors = sensors_of([worker_of(spec, 0) for spec in specs], threads=1)
    assert isinstance(sensors, Gpus)
    assert sensors.devices == (0, 1)
    assert sensors.silence == "the NVIDIA driver does not answer"
    assert {index: reading.temperature for index, reading in sensors.read().items()} == {0: 50.0, 1: 40.0}
    sensors.close()
    assert driver.closed == 1


# ---- CPU devices ------------------------------------------------------------------------------------------


def worker_of(spec: DeviceSpec, pid: int) -> Any:
    """What the sensors ask of a worker."""
    return SimpleNamespace(spec=spec, pid=pid)


def child(code: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", f"print('up', flush=True)\n{code}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    return process


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[bytes]]:
    """A process that computes and holds 64 MiB of its own."""
    with child("data = bytearray(b'x') * (64 << 20)\nwhile True: pass") as process:
        yield process
        process.kill()


@pytest.fixture
def idle() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits."""
    with child("import sys; sys.stdin.read()") as process:
        yield process
        process.kill()


def cpu(index: int, process: subprocess.Popen[bytes] | None, threads: int = 1) -> CpuDevice:
    return CpuDevice(index, 8 * GIB, threads, lambda: 0 if process is None else process.pid)


def processor_time(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def test_the_load_of_cpu_devices_is_that_of_their_workers(
    busy: subprocess.Popen[bytes], idle: subprocess.Popen[bytes]
) -> None:
    host = Host([cpu(0, busy), cpu(1, busy, threads=4), cpu(2, idle)])
    first = host.read()
    assert [first[index].utilization for index in (0, 1, 2)] == [0, 0, 0]
    before = processor_time(busy.pid)
    wait_until(lambda: processor_time(busy.pid) >= before + 0.3, "it has computed", 30)
    found = host.read()
    # As much as the machine let it have, on one of one thread and on one of four.
    assert 0.05 < found[0].utilization <= 1
    assert found[1].utilization == pytest.approx(found[0].utilization / 4, rel=0.2)
    assert found[2].utilization < 0.05
    assert 64 * 1024**2 < found[0].memory_used < 128 * 1024**2
    assert found[0].memory_total == 8 * GIB
    (process,) = found[0].processes
    assert process.pid == busy.pid
    assert process.memory > found[0].memory_used
    assert (found[0].temperature, found[0].power, found[0].power_limit, found[0].fault) == (None, None, None, "")


@pytest.mark.parametrize(
    ("busy_seconds", "elapsed", "threads", "share"),
    [(0.5, 1.0, 1, 0.5), (3.0, 2.0, 4, 0.375), (2.02, 1.0, 2, 1.0), (-0.1, 1.0, 1, 0.0), (0.1, 0.0, 1, 0.0)],
)
def test_utilization_is_a_share(busy_seconds: float, elapsed: float, threads: int, share: float) -> None:
    assert utilization(busy_seconds, elapsed, threads) == pytest.approx(share)


def test_a_worker_that_is_being_started_again_is_no_load_and_no_fault(busy: subprocess.Popen[bytes]) -> None:
    pids = {"now": busy.pid}
    host = Host([CpuDevice(0, GIB, 1, lambda: pids["now"])])
    host.read()
    busy.kill()
    busy.wait()
    nothing = Reading(0.0, 0, GIB, None, None, None, ())
    assert host.read()[0] == nothing  # dead, and not yet noticed
    pids["now"] = 0
    assert host.read()[0] == nothing
    with child("import sys; sys.stdin.read()") as successor:
        pids["now"] = successor.pid
        assert host.read()[0].utilization == 0  # not the time of its predecessor
        assert [process.pid for process in host.read()[0].processes] == [successor.pid]
        successor.kill()


def test_the_time_of_another_process_is_not_taken_for_that_of_the_worker(
    busy: subprocess.Popen[bytes], idle: subprocess.Popen[bytes]
) -> None:
    pids = {"now": idle.pid}
    host = Host([CpuDevice(0, GIB, 1, lambda: pids["now"])])
    host.read()
    wait_until(lambda: processor_time(busy.pid) >= 0.3, "it has computed", 30)
    pids["now"] = busy.pid
    assert host.read()[0].utilization == 0


def test_cpu_devices_get_the_sensor_of_their_kind(busy: subprocess.Popen[bytes]) -> None:
    specs = [DeviceSpec(index, "cpu", "CPU", f"CPU-{index}", 2 * GIB) for index in range(2)]
    sensors = sensors_of([worker_of(spec, busy.pid) for spec in specs], threads=2)
    assert isinstance(sensors, Host)
    assert (sensors.devices, sensors.silence) == ((0, 1), "")
    assert [reading.memory_total for reading in sensors.read().values()] == [2 * GIB, 2 * GIB]
    sensors.close()
