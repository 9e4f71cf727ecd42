# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""`remotegpu top` as a command: its options, and what it prints where there is no terminal."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest
from google.protobuf import json_format

from remotegpu.cli import tables, top
from remotegpu.v1 import scheduler_pb2 as pb
from tests.test_top import busy, text


class Printed:
    """A client that has one snapshot."""

    def __init__(self, snapshot: pb.Snapshot) -> None:
        self.snapshot = snapshot

    def top(self) -> pb.Snapshot:
        return self.snapshot


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="remotegpu top")
    top.add_arguments(parser)
    return parser.parse_args(arguments)


def test_json_is_the_snapshot(capsys: pytest.CaptureFixture[str]) -> None:
    snapshot = busy()
    snapshot.leases[0].tenant = "équipe"
    assert top.run(Printed(snapshot), options("--json")) == 0  # type: ignore[arg-type]
    printed = capsys.readouterr().out
    assert json_format.Parse(printed, pb.Snapshot()) == snapshot
    assert '"memory_reserved": "3221225472"' in printed
    assert '"exclusive": false' in printed, "also what has its default value"


def test_without_a_terminal_it_is_printed_once_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert top.run(Printed(busy(leases=100)), options()) == 0  # type: ignore[arg-type]
    printed = capsys.readouterr().out
    assert printed == text(busy(leases=100)) + "\n"
    assert "\x1b" not in printed
    assert "quit" not in printed


@pytest.mark.parametrize("interval", ["0.05", "-1", "nan", "inf", "61", "1e12", "soon"])
def test_interval_is_checked(interval: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options("--interval", interval)
    assert "is not a number of seconds from 0.1 to 60" in capsys.readouterr().err
    assert [options("--interval", given).interval for given in ("0.1", "60")] == [0.1, 60.0]
    assert options().interval == 1.0


def test_help_lists_the_keys(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options("--help")
    assert "keys:\n  ↑ ↓  j k   choose a lease" in capsys.readouterr().out


def ended(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=50)


def test_rich_is_loaded_by_the_running_command_alone() -> None:
    script = "import sys, remotegpu.cli, remotegpu.cli.top, remotegpu.cli.sizes\nprint('rich' in sys.modules)"
    assert ended(script).stdout == "False\n"


def test_missing_rich_is_told_in_a_sentence() -> None:
    script = """
import argparse, sys
sys.modules["rich"] = None
from remotegpu.cli import top
sys.exit(top.run(None, argparse.Namespace(json=False, once=True, interval=1.0)))
"""
    done = ended(script)
    assert done.returncode == 2
    assert done.stderr == "remotegpu: rich is missing: pip install 'remotegpu[cli]'\n"


def test_a_missing_module_of_our_own_is_not_taken_for_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "remotegpu.cli.screen", None)
    with pytest.raises(ModuleNotFoundError, match="screen"):
        top.run(Printed(busy()), options("--once"))  # type: ignore[arg-type]


def test_colours_are_asked_of_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tty:
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("COLORTERM", raising=False)
    assert tables.colours(Tty()) == "256"  # type: ignore[arg-type]
    monkeypatch.setenv("TERM", "dumb")
    assert tables.colours(Tty()) is None  # type: ignore[arg-type]
