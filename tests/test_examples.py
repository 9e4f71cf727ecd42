# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The examples that are programs of their own do what they show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_scheduler_answers_every_command_as_it_should() -> None:
    command = [sys.executable, "-m", "examples.scheduling"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all as it should be" in done.stdout
    assert done.stdout.count("$ ") > 20
