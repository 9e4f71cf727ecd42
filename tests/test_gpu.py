# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""GPU against CPU: the checks of benchmarks/gpu_check.py as tests. Run with `pytest -m gpu` on a machine with a GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.gpu
@pytest.mark.timeout(600)
def test_everything_that_runs_on_a_gpu() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu_check.py"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.gpu
@pytest.mark.timeout(300)
def test_demo_on_the_gpu() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "(CPU)" not in done.stdout


POOLS = """
from remotegpu_server.backends.cuda import CudaDevice
device = CudaDevice()
xp, memory = device.xp, device.free_memory()
asked = [("undeclared", 1, 0, 7), ("declared", 2, memory * 8 // 10, 6), ("undeclared again", 3, 0, 7)]
for name, lease, limit, tenths in asked:
    with device.memory_scope(lease, limit):
        array = xp.zeros((memory * tenths // 10,), dtype=xp.uint8)
        del array
    device.drop(lease)
    print(name)
with device.memory_scope(4, 2**20):
    try:
        xp.zeros((2**20 + 1,), dtype=xp.uint8)
    except Exception as error:
        print(device.memory_error(error))
"""


@pytest.mark.gpu
@pytest.mark.timeout(300)
def test_memory_that_ended_leases_left_in_a_pool_is_there_for_others() -> None:
    done = subprocess.run([sys.executable, "-c", POOLS], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.splitlines() == ["undeclared", "declared", "undeclared again", str(2**20 + 512)]
