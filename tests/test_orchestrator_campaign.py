# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The orchestrator is killed at each step of a job, and so is what it works with: a short `orchestrator_faults`."""

from __future__ import annotations

import pytest

from benchmarks.orchestrator_faults import FAULTS, Campaign, Scale
from tests.orchestration import Aws


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_nothing_is_lost_or_done_twice_whatever_dies_at_whatever_step() -> None:
    aws = Aws()
    try:
        scale = Scale(pictures=60, duplicates=6, orchestrators=1, most=5, gap=lambda: 2, patience=150)
        report = Campaign(aws, FAULTS, scale).run()
    finally:
        aws.stop()
    assert report.wrong == []
    assert [kind for kind, _ in report.fired] == list(FAULTS)
    # The second result of what was delivered again: without a condition it would have been put over the first.
    assert report.refused >= 1
    assert report.outcomes["done"] + report.outcomes["duplicate"] >= 60
