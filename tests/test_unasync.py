# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The client for threads is as it was made of the one for asyncio, and whoever changes one of the two is told."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import unasync

ROOT = Path(__file__).resolve().parent.parent


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = root / "tests" / "unasync.py"
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False, timeout=30)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "src" / "remotegpu", tmp_path / "src" / "remotegpu")
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "unasync.py", tmp_path / "tests")
    return tmp_path


def test_generated_files_are_as_made() -> None:
    ended = run(ROOT, "--check")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_changed_file_is_named_and_made_again(copy: Path) -> None:
    changed = copy / "src" / "remotegpu" / "lease.py"
    before = changed.read_text()
    changed.write_text(before.replace("Lease", "Loan"))
    ended = run(copy, "--check")
    assert ended.returncode == 1
    assert ended.stderr == "src/remotegpu/lease.py is not as made by unasync.py\n"
    assert "Loan" in changed.read_text()
    assert run(copy).returncode == 0
    assert changed.read_text() == before


def test_rule_without_use_is_an_error(copy: Path) -> None:
    script = copy / "tests" / "unasync.py"
    script.write_text(script.read_text().replace('(r"\\bawait ", "")', '(r"\\bawait ", ""), (r"\\bawait ", "")'))
    ended = run(copy, "--check")
    assert ended.returncode == 1
    assert ended.stderr == "rule without use: \\bawait \n"


def test_client_for_threads_loads_nothing_of_the_other() -> None:
    code = "import sys, remotegpu; remotegpu.Client; sys.exit('remotegpu._async' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0


def test_nothing_of_asyncio_is_left() -> None:
    for name in unasync.MODULES:
        text = (ROOT / "src" / "remotegpu" / f"{name}.py").read_text()
        assert f"_async/{name}.py" in text.splitlines()[2]
        code = text.split("\n", 3)[3]
        assert not {word for word in ("async", "await", "anext", "aiter", "task") if word in code.lower()}, name
