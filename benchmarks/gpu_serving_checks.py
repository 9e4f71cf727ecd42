# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of model serving on a GPU, which `gpu_check.py` runs: batching, budgets, contents, strings, the standard door.

Each starts a server of its own on the devices that it is given, so that they can be tried on the CPU too."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from benchmarks import models
from remotegpu import Client
from remotegpu.local import LocalServer
from tests.fixtures import onnx_models

Figures = dict[str, Any]
CALLERS = 32


def _place(root: Path, name: str, content: bytes) -> None:
    (root / name / "1").mkdir(parents=True, exist_ok=True)
    (root / name / "1" / "model.onnx").write_bytes(content)


def _serving(gpus: str, root: Path, *arguments: str) -> tuple[LocalServer, Client]:
    server = LocalServer(["--gpus", gpus, "--models", str(root), *arguments])
    return server, Client(server.url, timeout=60)


def _crowd_rate(client: Client, seconds: float) -> float:
    """Calls per second of 32 callers; each checks its own answers."""
    model, done = client.model("small_cnn"), [0] * CALLERS
    images = np.random.default_rng(0).random((CALLERS, 1, 3, 64, 64), np.float32)
    wanted = [model(image)["logits"] for image in images]
    until = time.perf_counter() + seconds
    wrong: list[int] = []

    def call(index: int) -> None:
        while time.perf_counter() < until:
            got = model(images[index])["logits"]
            if not np.allclose(got, wanted[index], rtol=2e-2, atol=2e-2):
                wrong.append(index)
            done[index] += 1

    threads = [threading.Thread(target=call, args=(index,)) for index in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, f"wrong answers for callers {sorted(set(wrong))}"
    return sum(done) / seconds


def batching(gpus: str, root: Path, seconds: float = 4.0) -> Figures:
    """32 callers of a small CNN, put together and not; every answer is the caller's own."""
    _place(root, "small_cnn", models.small_cnn())
    rates = []
    for limit in (CALLERS, 1):
        server, client = _serving(gpus, root, "--max-batch", str(limit))
        with client:
            rates.append(_crowd_rate(client, seconds))
        server.stop()
    return {"batched_per_s": rates[0], "alone_per_s": rates[1], "gain": rates[0] / rates[1]}


def budget(gpus: str, root: Path) -> Figures:
    """Models within a budget: the least recently used gives way, and comes back when it is called."""
    for number in range(4):
        _place(root, f"m{number}", onnx_models.scale(float(number), weight=64 * 1024**2))
    server, client = _serving(gpus, root, "--model-memory", "160MiB")
    x = np.ones((1, 2), np.float32)
    with client:
        for number in (0, 1, 2, 3, 0, 1, 2, 3):
            np.testing.assert_allclose(client.model(f"m{number}")(x)["y"], x * number)
        states = sorted(entry.state for entry in client.index())
    server.stop()
    assert "evicted" in states, states
    return {"states": ",".join(states)}


def constants(gpus: str, root: Path) -> Figures:
    """A constant is sent once, and stays on the device for the next lease."""
    server, client = _serving(gpus, root)
    table = np.random.default_rng(0).random((1024, 1024), np.float32)
    times = []
    with client:
        for _ in range(3):
            started = time.perf_counter()
            with client.lease(timeout=10) as lease:
                got = lease.finish(lease.xp.sum(lease.constant(table)))
            times.append(time.perf_counter() - started)
            np.testing.assert_allclose(got, table.sum(), rtol=1e-3)
        with client.lease(timeout=10) as lease:
            packed = lease.upload(table, compression="zstd", as_float16=True)
            np.testing.assert_allclose(lease.finish(packed), table, atol=1e-3)
        sent = client.statistics().bytes_sent
    server.stop()
    assert sent < 2.2 * table.nbytes, f"{sent} bytes were sent"
    return {"first_ms": times[0] * 1000, "again_ms": times[-1] * 1000}


def strings(gpus: str, root: Path) -> Figures:
    """String tensors go to a model and come back on a device that has none of its own."""
    _place(root, "words", onnx_models.identity(TensorProto.STRING, ["n"]))
    server, client = _serving(gpus, root)
    with client:
        got = client.model("words")(np.array(["eins", "zwei", ""]))["y"]
    server.stop()
    assert list(got) == [b"eins", b"zwei", b""], got
    return {}


def standard_door(gpus: str, root: Path) -> Figures:
    """The Open Inference Protocol over HTTP gives what our own door gives."""
    _place(root, "linear", models.linear())
    server, client = _serving(gpus, root, "--rest", "127.0.0.1:0")
    x = np.random.default_rng(0).random((1, 64), np.float32)
    with client:
        wanted = client.model("linear")(x)["y"]
    tensor = {"name": "x", "shape": [1, 64], "datatype": "FP32", "data": x.ravel().tolist()}
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=30)
    connection.request("POST", "/v2/models/linear/infer", json.dumps({"inputs": [tensor]}))
    reply = json.loads(connection.getresponse().read())
    connection.close()
    server.stop()
    np.testing.assert_allclose(reply["outputs"][0]["data"], wanted.ravel(), rtol=1e-2, atol=1e-3)
    return {}


CHECKS: dict[str, Callable[[str, Path], Figures]] = {
    "batching gains and mixes nothing up": batching,
    "models within a budget": budget,
    "constants travel once, packed tensors arrive": constants,
    "strings": strings,
    "standard door equals ours": standard_door,
}
