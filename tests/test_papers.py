# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Promises of the papers, executed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from remotegpu._version import __version__

ROOT = Path(__file__).resolve().parent.parent


def test_version_is_the_newest_entry_of_the_changelog() -> None:
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest.group(1) == __version__


def test_links_in_the_papers_lead_somewhere() -> None:
    for paper in ROOT.glob("*.md"):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", paper.read_text()):
            assert (ROOT / target).exists(), f"{paper.name} points to {target}"


def test_files_that_architecture_names_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    bases = (ROOT, ROOT / "src/remotegpu", ROOT / "server/remotegpu_server")
    for name in re.findall(r"`([\w/]+\.(?:py|proto|toml|json))`", text):
        found = any((base / name).exists() for base in bases) or list(ROOT.rglob(f"remotegpu*/**/{name}"))
        assert found, f"ARCHITECTURE.md names {name}"


def test_python_in_the_readme_compiles() -> None:
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
        compile(block, "README.md", "exec")


@pytest.mark.timeout(120)
def test_python_in_the_readme_that_needs_no_server_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (own,) = [block for block in blocks if 'Client("local:")' in block]
    done = subprocess.run([sys.executable, "-c", own], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("512.0 ")


def test_sources_have_a_licence_line_and_no_file_is_feared() -> None:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.split():
        if "/v1/" not in name:
            text = (ROOT / name).read_text()
            assert "SPDX-License-Identifier: Apache-2.0" in text[:200] or not text, name
            limit = 600 if name.startswith("tests/") else 400
            assert text.count("\n") <= limit, f"{name} has more than {limit} lines"
