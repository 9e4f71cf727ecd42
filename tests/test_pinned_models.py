# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""A model that a lease was allocated for is loaded, and stays so while the lease lives, even if no call has used it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import remotegpu
from remotegpu import Client
from remotegpu.local import LocalServer

from .conftest import pids, wait_until
from .fixtures.onnx_models import scale, write

MIB = 1024**2
ONE = np.ones((1, 2), np.float32)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A server with room for two of its three models, the last two of which are loaded at its start."""
    made = tmp_path_factory.mktemp("crowded")
    for number, name in enumerate("abc", start=1):
        write(made, name, 1, scale(number, MIB))
    running = LocalServer(["--gpus", "cpu", "--models", str(made), "--arena", "16MiB", "--model-memory", "3MiB"])
    yield running
    assert running.stop() == 0


@pytest.fixture
def gpu(crowded: LocalServer) -> Iterator[Client]:
    with Client(crowded.url, timeout=20) as connected:
        yield connected


def run(client: Client, name: str) -> float:
    return float(client.model(name)(ONE)["y"][0, 0])


def state(client: Client, name: str) -> str:
    (entry,) = client.index(name)
    return entry.state


def refused(client: Client, name: str) -> bool:
    try:
        run(client, name)
    except remotegpu.OutOfMemory:
        return True
    return False


@pytest.mark.parametrize("how", ["dealloc", "finish"])
def test_a_model_that_a_lease_names_stays_until_the_lease_ends(gpu: Client, how: str) -> None:
    with gpu.alloc(model="a") as lease:
        wait_until(lambda: state(gpu, "a") == "loaded", "it is loaded for the lease")
        for name, number in (("b", 2), ("c", 3), ("b", 2), ("c", 3)):
            assert run(gpu, name) == number
            assert state(gpu, "a") == "loaded", "the others give way to each other"
        with gpu.alloc(model="b"):
            wait_until(lambda: state(gpu, "b") == "loaded", "it is loaded for the lease")
            assert refused(gpu, "c")
        if how == "finish":
            assert lease.finish(lease.xp.ones(()) + 1) == 2
    wait_until(lambda: not gpu.top().leases, "the leases have ended")
    wait_until(lambda: run(gpu, "b") + run(gpu, "c") == 5 and state(gpu, "a") == "evicted", "it gives way again")


def test_a_worker_that_was_started_again_knows_it_too(gpu: Client, crowded: LocalServer) -> None:
    with gpu.alloc(model="a"):
        before = list(pids(gpu))
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: pids(gpu) not in ([0], before) and _ready(gpu), "another worker is ready")
        wait_until(lambda: state(gpu, "a") == "loaded", "it is loaded for the lease")
        for name in "bcbc":
            run(gpu, name)
        assert state(gpu, "a") == "loaded"


def _ready(client: Client) -> bool:
    (device,) = client.top().devices
    return device.state == "ready"


def test_names_of_nothing_pin_nothing(gpu: Client) -> None:
    held: list[Any] = [gpu.alloc(model=name) for name in ("nope", "a:7", "")]
    for name, number in (("b", 2), ("c", 3), ("a", 1)):
        assert run(gpu, name) == number
    for lease in held:
        lease.dealloc()
    wait_until(lambda: not gpu.top().leases, "the leases have ended")
