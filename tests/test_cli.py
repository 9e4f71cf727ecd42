# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""`remotegpu` as a command."""

from __future__ import annotations

import os
import subprocess
import sys

from remotegpu import Client
from remotegpu.local import LocalServer


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
        assert row.split()[2] == "0,1"
        assert "3.0 MiB" in row
        assert lease.id not in done.stdout, "the lease's key is a secret"


def test_top_prints_once_where_there_is_no_terminal(server: LocalServer) -> None:
    printed = run("top", "--url", server.url).stdout
    assert printed.count("DEV ") == 1
    assert "\x1b" not in printed


def test_server_that_is_not_there_and_variable_that_is_not_set() -> None:
    done = run("top", "--once", "--url", "grpc://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.startswith("remotegpu: nothing answered at 127.0.0.1:9")
    done = run("top", "--once")
    assert done.returncode == 2
    assert "REMOTEGPU_URL" in done.stderr
