# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Checks every GPU path on a machine that has one, and prints PASS or FAIL lines with figures.

    python benchmarks/gpu_check.py          from the root of the project, with [cuda] installed (or on PYTHONPATH)

A server on the GPU and one on the CPU run the same programs; results are compared. ONNX models are checked to run on
the CUDA provider: the worker refuses to start otherwise. Exit code 1 if anything failed. Figures go to
`benchmarks/results/gpu_check.json`.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parent.parent
for part in ("src", "server", "."):
    sys.path.insert(0, str(ROOT / part))
os.environ["PYTHONPATH"] = os.pathsep.join(str(ROOT / part) for part in ("src", "server", "."))

import numpy as np  # noqa: E402 - the path comes first

import remotegpu  # noqa: E402
from benchmarks import gpu_serving_checks, models  # noqa: E402
from remotegpu.local import LocalServer  # noqa: E402
from remotegpu_server.devices.nvml import Nvml  # noqa: E402
from remotegpu_server.devices.reading import Reading  # noqa: E402

DIGITS = ROOT / "examples" / "digits_detector"
Figures = dict[str, Any]
E = TypeVar("E", bound=Exception)


class Check:
    """Runs checks and keeps what came of them."""

    def __init__(self) -> None:
        self.figures: Figures = {}
        self.failed: list[str] = []

    def __call__(self, name: str, work: Callable[[], Figures | None]) -> None:
        """Prints PASS or FAIL for one check."""
        try:
            figures = work() or {}
        except Exception:
            self.failed.append(name)
            print(f"FAIL  {name}\n{traceback.format_exc()}", flush=True)
            return
        self.figures[name] = figures
        shown = "  ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in figures.items()
        )
        print(f"PASS  {name}  {shown}", flush=True)


def versions() -> Figures:
    """Driver, GPU and packages."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,uuid", "--format=csv,noheader"]
    found: Figures = {"gpu": subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()}
    for package in ("cupy-cuda13x", "onnxruntime-gpu", "onnxruntime", "numpy", "grpcio", "protobuf", "nvidia-ml-py"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def median_ms(work: Callable[[], object], calls: int = 20) -> float:
    """After three calls that do not count."""
    times = []
    for number in range(calls + 3):
        started = time.perf_counter()
        work()
        if number >= 3:
            times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def raised(kind: type[E], work: Callable[[], object]) -> E:
    """The error of that kind that `work` raises. Raises AssertionError if it raises none."""
    try:
        work()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def arrays(gpu: remotegpu.Client, cpu: remotegpu.Client) -> Figures:
    """A program of many kinds of operation gives what the CPU gives."""
    x = np.random.default_rng(0).random((64, 48), dtype=np.float32)

    def program(client: remotegpu.Client) -> list[Any]:
        with client.lease() as lease:
            xp = lease.xp
            a = xp.asarray(x)
            b = xp.sqrt(a) * 2 + xp.sin(a) - xp.mean(a, axis=0)
            c = xp.matmul(a, xp.permute_dims(b, (1, 0)))
            found: list[Any] = lease.finish(b, c, a[a > 0.5], xp.argmax(a, axis=1), xp.concat([a, a])[::-1, None])
            return found

    for ours, reference in zip(program(gpu), program(cpu), strict=True):
        assert ours.dtype == reference.dtype
        np.testing.assert_allclose(ours, reference, rtol=2e-5, atol=1e-5)
    return {"round_trip_ms": median_ms(lambda: program(gpu))}


def kept_arrays(gpu: remotegpu.Client) -> Figures:
    """Handles stay, are freed, and are counted on the device."""
    x = np.ones((1024, 1024), np.float32)
    with gpu.alloc(memory=64 * 1024**2) as lease:
        a = lease.xp.asarray(x)
        lease.fetch(lease.xp.sum(a))
        held = gpu.top().devices[0].memory_held
        assert held == x.nbytes, held
        assert lease.fetch(lease.xp.sum(a * 2)) == 2 * x.size
        del a
        lease.fetch(lease.xp.zeros((1,)))
        assert gpu.top().devices[0].memory_held == 0
    return {}


def memory_limit(gpu: remotegpu.Client) -> Figures:
    """The pool of a lease stops at what was declared, and the device itself at what it has."""
    with gpu.lease(memory=1024**2) as lease:
        large = lease.xp.ones((4 * 1024**2,))
        error = raised(remotegpu.OutOfMemory, lambda: lease.fetch(lease.xp.sum(large)))
        assert error.limit == 1024**2
    with gpu.lease() as lease:
        huge = lease.xp.ones((2**40,))
        error = raised(remotegpu.OutOfMemory, lambda: lease.fetch(lease.xp.sum(huge)))
        return {"asked": error.asked, "free": error.limit}


def declared_after_undeclared(gpu: remotegpu.Client) -> Figures:
    """What leases without declared memory leave in the pool they share is there for one that declares memory."""
    memory = gpu.top().devices[0].memory
    with gpu.lease() as lease:
        large = lease.xp.zeros((memory * 7 // 10,), dtype=lease.xp.uint8)
        assert lease.fetch(large[-1:]) == 0
        del large
        assert lease.finish(lease.xp.ones((1,))) == 1
    declared = memory * 6 // 10
    with gpu.lease(memory=declared) as lease:
        large = lease.xp.zeros((declared * 9 // 10,), dtype=lease.xp.uint8)
        assert lease.finish(large[-1:]) == 0
    return {"undeclared": memory * 7 // 10, "declared": declared * 9 // 10}


def detector(gpu: remotegpu.Client, cpu: remotegpu.Client) -> Figures:
    """The digits detector, arrays and model on the device, finds what it finds on the CPU."""

    def detect(client: remotegpu.Client, picture: bytes) -> list[Any]:
        with client.lease() as lease:
            xp = lease.xp
            image = xp.astype(lease.image(picture), xp.float32) / 255
            found = lease.model("digits")(image=xp.permute_dims(image, (2, 0, 1))[None])
            sure = found["scores"] > 0.5
            result: list[Any] = lease.finish(found["boxes"][sure], found["scores"][sure], found["labels"][sure])
            timings.append(lease.timing)
            return result

    timings: list[Any] = []
    count = 0
    for path in sorted((DIGITS / "pictures").iterdir()):
        if path.suffix in {".jpg", ".png"}:
            ours, reference = detect(gpu, path.read_bytes()), detect(cpu, path.read_bytes())
            np.testing.assert_array_equal(ours[2], reference[2])
            np.testing.assert_allclose(ours[0], reference[0], atol=0.5)
            np.testing.assert_allclose(ours[1], reference[1], atol=0.01)
            count += len(ours[2])
    picture = path.read_bytes()
    figures: Figures = {"digits": count, "round_trip_ms": median_ms(lambda: detect(gpu, picture))}
    for name in ("queue", "upload", "h2d", "compute", "d2h", "server"):
        figures[f"{name}_ms"] = statistics.median(getattr(t, name) for t in timings[-20:]) * 1000
    return figures


def linear_model(gpu: remotegpu.Client, cpu: remotegpu.Client) -> Figures:
    """A tiny model: the same values, and the time of a call."""
    x = np.random.default_rng(0).random((4, 64), dtype=np.float32)
    np.testing.assert_allclose(gpu.model("linear")(x)["y"], cpu.model("linear")(x)["y"], rtol=1e-2, atol=1e-3)
    return {"round_trip_ms": median_ms(lambda: gpu.model("linear")(x), 200)}


def yolo(gpu: remotegpu.Client) -> Figures:
    """A YOLOv3-tiny-shaped network on one picture."""
    images = np.random.default_rng(0).random((1, 3, 416, 416), dtype=np.float32)
    return {"round_trip_ms": median_ms(lambda: gpu.model("yolov3_tiny")(images), 50)}


def large_tensor(gpu: remotegpu.Client) -> Figures:
    """64 MiB to the device and back, unchanged."""
    x = np.random.default_rng(0).integers(0, 255, 64 * 1024**2, dtype=np.uint8)
    with gpu.lease() as lease:
        np.testing.assert_array_equal(lease.finish(lease.xp.asarray(x)), x)
        timing = lease.timing
    assert timing is not None
    gigabytes = x.nbytes / 1e9
    return {
        "round_trip_ms": timing.round_trip * 1000,
        "upload_GB_per_s": gigabytes / timing.upload,
        "h2d_GB_per_s": gigabytes / timing.h2d,
        "d2h_GB_per_s": gigabytes / timing.d2h,
    }


def idle_readings(gpu: remotegpu.Client) -> Figures:
    """The sensor reads all figures of the idle GPU, quickly, and finds no fault."""
    uuid = gpu.top().devices[0].uuid
    nvml = Nvml()
    try:
        started = time.perf_counter()
        first = nvml.read([uuid])[uuid]
        first_ms = (time.perf_counter() - started) * 1000
        reading_ms = median_ms(lambda: nvml.read([uuid]))
        watched = uuid in nvml.xids_watched
    finally:
        nvml.close()
    assert first.fault == "", first.fault
    assert 0 <= first.utilization <= 1
    assert 0 < first.memory_used < first.memory_total
    assert first.temperature is None or 0 < first.temperature < 120
    assert first.power is None or first.power_limit is None or 0 < first.power < 2 * first.power_limit
    assert reading_ms < 250, reading_ms
    return {
        "first_ms": first_ms,
        "reading_ms": reading_ms,
        "temperature_C": first.temperature,
        "power_W": first.power,
        "power_limit_W": first.power_limit,
        "memory_used": first.memory_used,
        "memory_total": first.memory_total,
        "processes": len(first.processes),
        "xids_watched": watched,
    }


def busy_readings(gpu: remotegpu.Client) -> Figures:
    """While programs run, the sensor and the server's own monitor see the GPU at work, and no fault."""
    uuid, over = gpu.top().devices[0].uuid, threading.Event()

    def compute() -> None:
        with remotegpu.Client(gpu.url) as client, client.lease() as lease:
            while not over.is_set():
                x = lease.xp.ones((4096, 4096)) / 4096
                for _ in range(20):
                    x = lease.xp.matmul(x, x)
                lease.fetch(lease.xp.sum(x))

    thread = threading.Thread(target=compute)
    thread.start()
    nvml = Nvml()
    found: list[Reading] = []
    told: list[float] = []
    try:
        until = time.monotonic() + 15
        while time.monotonic() < until and not (any(r.utilization > 0.2 for r in found) and max(told, default=0) > 0.2):
            found.append(nvml.read([uuid])[uuid])
            told.append(gpu.top().devices[0].load.utilization)
            time.sleep(0.1)
    finally:
        over.set()
        thread.join()
        nvml.close()
    assert not [reading.fault for reading in found if reading.fault]
    assert max(reading.utilization for reading in found) > 0.2
    assert max(told) > 0.2
    assert gpu.top().devices[0].state == "ready"
    powers = [reading.power for reading in found if reading.power is not None]
    return {
        "utilization": max(reading.utilization for reading in found),
        "told_by_top": max(told),
        "power_W": max(powers, default=None),
        "processes": max(len(reading.processes) for reading in found),
    }


def unknown_gpu() -> Figures:
    """A GPU that the driver does not have is a fault in words, and no exception."""
    nvml = Nvml()
    try:
        fault = nvml.read(["GPU-00000000-0000-0000-0000-000000000000"]).popitem()[1].fault
    finally:
        nvml.close()
    assert fault
    return {"fault": fault}


def killed_worker(gpu: remotegpu.Client) -> Figures:
    """A worker that is killed is replaced, with a new epoch; old handles are lost, new calls work."""
    lease = gpu.alloc()
    kept = lease.xp.ones((8,))
    lease.fetch(lease.xp.sum(kept))
    started = time.perf_counter()
    os.kill(gpu.top().devices[0].worker_pid, signal.SIGKILL)
    assert raised(remotegpu.LeaseLost, lambda: lease.fetch(kept)).retryable
    assert lease.fetch(lease.xp.sum(lease.xp.ones((8,)))) == 8
    lease.dealloc()
    return {"back_after_s": time.perf_counter() - started, "epoch": gpu.top().devices[0].epoch}


def gpu_is_clean(gpu: remotegpu.Client) -> Figures:
    """Nothing is left when all leases have ended."""
    top = gpu.top()
    assert not top.leases
    assert top.devices[0].memory_held == top.devices[0].arena_used == top.devices[0].slots_used == 0
    return {"memory_for_leases": top.devices[0].memory, "calls": top.devices[0].calls}


def main() -> int:
    """Runs all checks."""
    check = Check()
    check("versions", versions)
    for module in ("cupy", "onnxruntime", "pynvml", "PIL", "array_api_compat"):
        if importlib.util.find_spec(module) is None:
            print(f"FAIL  {module} is missing")
            return 1
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        models.main([folder])
        (repository / "digits").symlink_to(DIGITS / "models" / "digits")
        servers: list[LocalServer] = []
        check("server starts with --gpus 0", lambda: servers.append(LocalServer(["--gpus", "0", "--models", folder])))
        check(
            "server starts with --gpus cpu", lambda: servers.append(LocalServer(["--gpus", "cpu", "--models", folder]))
        )
        if not check.failed:
            with remotegpu.Client(servers[0].url) as gpu, remotegpu.Client(servers[1].url) as cpu:
                check("array program equals CPU", lambda: arrays(gpu, cpu))
                check("arrays stay on the device and are freed", lambda: kept_arrays(gpu))
                check("declared memory is enforced", lambda: memory_limit(gpu))
                check("declared memory after undeclared", lambda: declared_after_undeclared(gpu))
                check("tiny model equals CPU", lambda: linear_model(gpu, cpu))
                check("detector equals CPU", lambda: detector(gpu, cpu))
                check("YOLOv3-tiny-shaped model", lambda: yolo(gpu))
                check("64 MiB to the device and back", lambda: large_tensor(gpu))
                check("NVML figures of the idle GPU", lambda: idle_readings(gpu))
                check("NVML figures and top of the busy GPU", lambda: busy_readings(gpu))
                check("a GPU that is not there is a fault", unknown_gpu)
                check("killed worker is replaced", lambda: killed_worker(gpu))
                check("nothing is left", lambda: gpu_is_clean(gpu))
        for server in servers:
            server.stop()
    for name, work in gpu_serving_checks.CHECKS.items():
        with tempfile.TemporaryDirectory() as folder:
            check(name, functools.partial(work, "0", Path(folder)))
    target = ROOT / "benchmarks" / "results" / "gpu_check.json"
    target.write_text(json.dumps({"failed": check.failed, "figures": check.figures}, indent=2) + "\n")
    print("all passed" if not check.failed else f"{len(check.failed)} failed: {', '.join(check.failed)}")
    return 1 if check.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
