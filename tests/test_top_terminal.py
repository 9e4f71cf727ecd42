# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""`remotegpu top` in a real terminal: drawn, driven by keys, resized, and left as it was found."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from remotegpu import Client
from tests.conftest import StartServer, wait_until
from tests.fixtures.proxy import FaultProxy
from tests.fixtures.terminal import LEFT, Terminal

DOWN = b"\x1b[B"

OpenTerminal = Callable[..., Terminal]


@pytest.fixture
def terminal() -> Iterator[OpenTerminal]:
    """Opens terminals that are closed after the test."""
    opened: list[Terminal] = []

    def open_one(*arguments: str, **options: Any) -> Terminal:
        opened.append(Terminal(*arguments, **options))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def top(*arguments: str) -> tuple[str, ...]:
    return ("-m", "remotegpu.cli", "top", *arguments)


def leases_in(lines: list[str], *ids: str) -> list[str]:
    """Those of the ids that are in the table, in its order."""
    first = [line.strip(" ▸").split()[:2] for line in lines]
    return [words[0] for words in first if words[1:] == ["default"] and words[0] in ids]


# Against a server.


def test_watching_sorting_and_ending_a_lease(start_server: StartServer, terminal: OpenTerminal) -> None:
    server = start_server(gpus="cpu:2")
    screen = terminal(*top("--url", server.url, "--interval", "0.1"))
    shown = screen.wait(lambda lines: sum("CPU" in line and "ready" in line for line in lines) == 2, "both devices")
    assert any(line.startswith("no leases") for line in shown)
    assert shown[-1].startswith("q quit")
    with Client(server.url) as client:
        older, younger = client.alloc(memory=2 * 1024**2, idle_ttl=600), client.alloc(memory=1024**2, idle_ttl=60)
        ids = (older.id[:8], younger.id[:8])
        screen.wait(lambda lines: leases_in(lines, *ids) == [*ids], "both leases, the older one first")
        assert not any(older.id in line for line in screen.screen()), "the key is a secret"
        screen.press(b"s")
        screen.wait_text("s sort: ttl")
        screen.wait(lambda lines: leases_in(lines, *ids) == [*ids[::-1]], "the one that ends first is first")
        screen.press(b"r")
        screen.wait(lambda lines: leases_in(lines, *ids) == [*ids], "the reverse order")
        screen.press(DOWN + b"\x1bOB")
        screen.wait_text(f"▸ {ids[1]}")
        screen.press(b"d")
        screen.wait_text(f"dealloc {ids[1]}? y/n")
        screen.press(b"\x1b")
        screen.wait_text("not deallocated")
        assert len(client.top().leases) == 2
        screen.press(b"dy")
        screen.wait_text(f"{ids[1]} is deallocated")
        screen.wait(lambda lines: leases_in(lines, *ids) == [ids[0]], "it is gone from the table")
        assert [lease.lease for lease in client.top().leases] == [ids[0]]
        screen.wait_text(f"▸ {ids[0]}")
        older.dealloc()
    screen.press(b"q")
    assert screen.ends() == 0, screen.words
    assert screen.words == ""
    screen.check_restored()


def test_resizing_draws_at_once_and_nothing_overflows(start_server: StartServer, terminal: OpenTerminal) -> None:
    server = start_server(gpus="cpu:2")
    with Client(server.url) as client:
        leases = [client.alloc(idle_ttl=600) for _ in range(12)]
        # No second snapshot comes while the test runs: what is drawn after a resize is drawn because of it.
        screen = terminal(*top("--url", server.url, "--interval", "60"))
        screen.wait_text(leases[0].id[:8])
        for columns, lines in ((60, 20), (132, 43), (80, 24), (200, 50), (30, 8)):
            screen.resize(columns, lines)

            def fits(columns: int = columns, lines: int = lines) -> bool:
                frame = screen.frame()
                footer = len(frame) == lines and frame[-1].startswith("q quit")
                return footer and max(map(len, frame)) <= columns

            wait_until(fits, f"a frame of {columns} by {lines}")
            assert screen.screen()[0].startswith("remotegpu ")
            assert screen.screen()[-1] == screen.frame()[-1]
            if columns >= 132:
                assert leases_in(screen.screen(), *[lease.id[:8] for lease in leases])[11:]
        screen.press(b"q")
        assert screen.ends() == 0, screen.words


def test_lost_connection_is_shown_and_made_again(start_server: StartServer, terminal: OpenTerminal) -> None:
    server = start_server()
    screen = terminal(*top("--url", server.url, "--interval", "0.1"))
    screen.wait_text("ready")
    server.stop()
    screen.wait_text("no snapshots: ")
    screen.wait_text("ready")  # the last state still stands there
    start_server("--listen", f"127.0.0.1:{server.port}", gpus="cpu:2")
    screen.wait(lambda lines: sum("CPU" in line and "ready" in line for line in lines) == 2, "the new server's devices")
    screen.wait(lambda lines: not any("no snapshots" in line for line in lines), "connected again")
    screen.press(b"q")
    assert screen.ends() == 0, screen.words
    screen.check_restored()


@pytest.mark.slow
def test_silence_is_shown_long_before_it_is_an_error(start_server: StartServer, terminal: OpenTerminal) -> None:
    server = start_server()
    with FaultProxy(("127.0.0.1", server.port)) as proxy:
        screen = terminal(*top("--url", f"grpc://127.0.0.1:{proxy.address[1]}", "--interval", "0.1"))
        screen.wait_text("ready")
        proxy.blackhole(True)
        screen.wait_text("no snapshot for 1 s")
        screen.wait_text("no snapshot for 3 s")  # it counts, though nothing happens
        screen.wait_text("no snapshots: no answer within the deadline of 5.1 s")
        proxy.blackhole(False)
        screen.wait(lambda lines: not any("no snapshots" in line for line in lines), "connected again")
        screen.press(b"q")
        assert screen.ends() == 0, screen.words


def test_server_that_is_not_there_is_an_error_and_no_screen(terminal: OpenTerminal) -> None:
    screen = terminal(*top("--url", "grpc://127.0.0.1:9"))
    assert screen.ends() == 1
    assert screen.words.startswith("remotegpu: nothing answered at 127.0.0.1:9")
    assert screen.raw == b""


@pytest.mark.parametrize("option", ["--once", "--json"])
def test_printing_once_on_a_terminal(option: str, start_server: StartServer, terminal: OpenTerminal) -> None:
    screen = terminal(*top("--url", start_server().url, option))
    assert screen.ends() == 0, screen.words
    assert b"\x1b[?1049h" not in screen.raw
    assert b"CPU" in screen.raw


def test_broken_pipe_is_quiet(start_server: StartServer) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, *top("--url", start_server().url)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=50)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


# Against a source of snapshots that does what no server does on request.

FAKE = """
import argparse, signal, sys, threading
from remotegpu.cli import top
from remotegpu.v1 import scheduler_pb2 as pb

class Source:
    def __init__(self, bug):
        self.bug = bug
        self.snapshot = pb.Snapshot(version="fake")
        self.snapshot.leases.add(lease="1a2b3c4d", tenant="somebody")
    def top(self):
        return self.snapshot
    def watch(self, interval):
        yield self.snapshot
        if self.bug == "watch":
            raise ZeroDivisionError("a bug")
        threading.Event().wait()
    def dealloc(self, lease):
        if self.bug == "dealloc":
            raise ZeroDivisionError("a bug")
        return False

if sys.argv[1] == "nohup":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
parser = argparse.ArgumentParser()
top.add_arguments(parser)
raise SystemExit(top.run(Source(sys.argv[1]), parser.parse_args([])))
"""


def test_keys_before_q_work_and_an_ended_lease_is_told(terminal: OpenTerminal) -> None:
    screen = terminal("-c", FAKE, "")
    screen.wait_text("1a2b3c4d")
    screen.press(b"jdy")
    screen.wait_text("1a2b3c4d had ended already")
    screen.press(b"?")
    screen.wait_text("deallocate it: asks first")
    screen.press(b" ")
    screen.wait_text("▸ 1a2b3c4d")
    screen.press(b"q")
    assert screen.ends() == 0, screen.words
    screen.check_restored()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_leave_the_terminal_as_it_was(number: signal.Signals, terminal: OpenTerminal) -> None:
    screen = terminal("-c", FAKE, "")
    screen.wait_text("1a2b3c4d")
    assert termios.tcgetattr(screen.slave) != screen.before
    screen.process.send_signal(number)
    assert screen.ends() == -number
    screen.check_restored()


def test_ctrl_c_ends_the_command(start_server: StartServer, terminal: OpenTerminal) -> None:
    screen = terminal(*top("--url", start_server().url))
    screen.wait_text("ready")
    screen.press(b"\x03")
    assert screen.ends() == 0, screen.words
    assert screen.words == ""
    screen.check_restored()


def test_suspending_gives_the_terminal_back_meanwhile(terminal: OpenTerminal) -> None:
    screen = terminal("-c", FAKE, "")
    screen.wait_text("1a2b3c4d")
    screen.press(b"\x1a")
    _, status = os.waitpid(screen.process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    screen.read()
    screen.check_restored()
    screen.process.send_signal(signal.SIGCONT)
    wait_until(lambda: screen.screen() and not screen.raw.endswith(LEFT), "it draws again")
    screen.wait_text("1a2b3c4d")
    screen.press(b"q")
    assert screen.ends() == 0, screen.words
    screen.check_restored()


@pytest.mark.parametrize(("bug", "keys"), [("watch", b""), ("dealloc", b"jdy")])
def test_a_bug_is_shown_after_the_terminal_is_restored(bug: str, keys: bytes, terminal: OpenTerminal) -> None:
    screen = terminal("-c", FAKE, bug)
    if keys:
        screen.wait_text("1a2b3c4d")
        screen.press(keys)
    assert screen.ends() == 1
    assert "ZeroDivisionError: a bug" in screen.words
    screen.check_restored()


@pytest.mark.parametrize(("mode", "code"), [("", -signal.SIGHUP), ("nohup", 0)])
def test_terminal_that_is_closed_ends_the_command(mode: str, code: int, terminal: OpenTerminal) -> None:
    screen = terminal("-c", FAKE, mode)
    screen.wait_text("1a2b3c4d")
    screen.hang_up()
    assert screen.ends() == code
    assert screen.words == ""


def test_terminal_that_is_closed_while_suspended_ends_the_command(terminal: OpenTerminal) -> None:
    screen = terminal("-c", FAKE, "nohup")
    screen.wait_text("1a2b3c4d")
    screen.press(b"\x1a")
    _, status = os.waitpid(screen.process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    screen.hang_up()
    screen.process.send_signal(signal.SIGCONT)
    assert screen.ends() == 0, screen.words
    assert screen.words == ""


def test_terminal_without_colours_or_other_letters(terminal: OpenTerminal) -> None:
    screen = terminal("-c", FAKE, "", TERM="vt100", NO_COLOR="1", PYTHONIOENCODING="ascii")
    screen.wait_text("1a2b3c4d")
    screen.press(b"jd")
    screen.wait_text("> 1a2b3c4d")
    screen.wait_text("dealloc 1a2b3c4d? y/n")  # yellow elsewhere
    assert screen.raw.isascii()
    assert not re.search(rb"\x1b\[[0-9;]*3[0-9]m", screen.raw)
    screen.press(b"nq")
    assert screen.ends() == 0, screen.words


def test_dumb_terminal_is_printed_to_once(terminal: OpenTerminal) -> None:
    screen = terminal("-c", FAKE, "", TERM="dumb")
    assert screen.ends() == 0, screen.words
    assert b"\x1b" not in screen.raw
    assert b"1a2b3c4d" in screen.raw
