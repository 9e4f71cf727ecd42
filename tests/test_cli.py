# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""`remotegpu` as a command, and its tables as text."""

from __future__ import annotations

import os
import subprocess
import sys

from remotegpu import Client
from remotegpu.cli.top import render, size_text
from remotegpu.local import LocalServer
from remotegpu.v1 import scheduler_pb2


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    base = {name: value for name, value in os.environ.items() if name != "REMOTEGPU_URL"}
    command = [sys.executable, "-m", "remotegpu.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=base | environment)


def test_top_shows_devices_leases_and_models(server: LocalServer) -> None:
    with Client(server.url) as client, client.alloc(gpus=2, memory=3 * 1024**2) as lease:
        done = run("top", "--once", REMOTEGPU_URL=server.url)
        assert done.returncode == 0, done.stderr
        assert "digits, linear" in done.stdout
        lines = done.stdout.splitlines()
        assert sum(line.split()[1:3] == ["CPU", "ready"] for line in lines) == 2
        row = next(line for line in lines if line.startswith(lease.id[:8]))
        assert row.split()[2] in {"0,1", "1,0"}
        assert "3.0 MiB" in row
        assert lease.id not in done.stdout, "the lease's key is a secret"


def test_top_prints_once_where_there_is_no_terminal(server: LocalServer) -> None:
    assert run("top", "--url", server.url).stdout.count("DEVICE") == 1


def test_server_that_is_not_there_and_variable_that_is_not_set() -> None:
    done = run("top", "--once", "--url", "grpc://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.startswith("remotegpu: nothing answered at 127.0.0.1:9")
    done = run("top", "--once")
    assert done.returncode == 2
    assert "REMOTEGPU_URL" in done.stderr


def test_render_with_a_queue() -> None:
    snapshot = scheduler_pb2.Snapshot(version="1", policy="round-robin")
    snapshot.devices.add(name="H200", state="ready", slots=8, slots_used=8, exclusive=True)
    snapshot.queue.add(place=1, tenant="default", gpus=2, waited_s=1.25)
    text = render(snapshot)
    assert "8/8 excl" in text
    assert "no leases" in text
    assert "1.2 s" in text


def test_size_text() -> None:
    assert [size_text(size) for size in (0, 1023, 1536, 3 * 1024**3, 2 * 1024**4)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "3.0 GiB",
        "2.0 TiB",
    ]
