# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures that all tests share: a model repository, a real server on CPU devices, a client."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks.models import linear
from remotegpu import Client
from remotegpu.local import LocalServer

DIGITS = Path(__file__).resolve().parent.parent / "examples" / "digits_detector"

StartServer = Callable[..., LocalServer]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with `linear` (64 to 8) and the digits detector."""
    root = tmp_path_factory.mktemp("models")
    (root / "linear" / "1").mkdir(parents=True)
    (root / "linear" / "1" / "model.onnx").write_bytes(linear())
    (root / "digits").symlink_to(DIGITS / "models" / "digits")
    return root


@pytest.fixture(scope="session")
def server(models: Path) -> Iterator[LocalServer]:
    """One server for all tests that leave it as they found it."""
    running = LocalServer(["--gpus", "cpu:2", "--models", str(models), "--arena", "64MiB"])
    yield running
    assert running.stop() == 0


@pytest.fixture
def client(server: LocalServer) -> Iterator[Client]:
    with Client(server.url, timeout=20) as connected:
        yield connected


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Starts servers of the test's own, which end with it."""
    running: list[LocalServer] = []

    def start(*arguments: str, gpus: str = "cpu", arena: str = "16MiB") -> LocalServer:
        running.append(LocalServer(["--gpus", gpus, "--arena", arena, *arguments]))
        return running[-1]

    yield start
    for server in running:
        server.stop()


def wait_until(condition: Callable[[], object], what: str, seconds: float = 10.0) -> None:
    """Asks again and again until the condition holds; fails with `what` after the time."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(0.01)  # paces the asking; the condition decides


def pids(client: Client) -> Sequence[int]:
    """Of the server's workers."""
    return [device.worker_pid for device in client.top().devices]


def halt(pid: int) -> None:
    """Stops a process, and returns when all its threads stand: SIGSTOP alone is heard by one of them first."""
    os.kill(pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{pid}/task")

    def states() -> set[str]:
        return {(task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks.iterdir()}

    wait_until(lambda: states() == {"T"}, "the process stands")


def alive(pid: int) -> bool:
    """Whether a process of that id exists (a zombie does)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
