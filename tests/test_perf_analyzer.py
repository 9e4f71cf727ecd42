# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's perf_analyzer against the standard door, as it comes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from remotegpu.local import LocalServer
from tests.fixtures.perf_analyzer import PerfAnalyzer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def analyzer() -> PerfAnalyzer:
    return PerfAnalyzer()


@pytest.fixture(scope="module")
def address(models: Path) -> Iterator[str]:
    server = LocalServer(["--gpus", "cpu", "--models", str(models), "--arena", "16MiB", "--inference", "127.0.0.1:0"])
    yield f"127.0.0.1:{server.inference_port}"
    assert server.stop() == 0


@pytest.mark.parametrize(
    "mode",
    [
        [],
        ["--async", "--concurrency-range", "4"],
        ["--streaming", "--async", "--concurrency-range", "4"],
        ["--streaming"],
        ["--request-rate-range", "100"],
    ],
    ids=" ".join,
)
def test_perf_analyzer_measures_this_server(analyzer: PerfAnalyzer, address: str, mode: list[str]) -> None:
    # No batch dimension is left out of shapes here, so the one that any size will do for must be given.
    model = ["-m", "linear", "--shape", "x:1,64"]
    done = analyzer.run("-i", "grpc", "-u", address, *model, "-p", "500", "-s", "999", *mode)
    assert done.returncode == 0, done.stdout + done.stderr
    throughput = re.search(r"throughput: ([\d.]+) infer/sec", done.stdout)
    assert throughput is not None, done.stdout
    assert float(throughput.group(1)) > 10
    # It asks the server for its own figures too.
    executed = re.search(r"Successful request count: (\d+)", done.stdout)
    assert executed is not None, done.stdout
    assert int(executed.group(1)) > 10
