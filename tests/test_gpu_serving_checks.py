# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The checks of model serving that are meant for GPUs pass on the CPU, so that there they fail for the GPU's sake."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import gpu_serving_checks

CHECKS: dict[str, Callable[[str, Path], object]] = {
    **gpu_serving_checks.CHECKS,
    "batching": functools.partial(gpu_serving_checks.batching, seconds=1.0),
}
del CHECKS["batching gains and mixes nothing up"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_check_passes_on_the_cpu(name: str, tmp_path: Path) -> None:
    CHECKS[name]("cpu", tmp_path)
