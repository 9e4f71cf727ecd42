# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The terminal's edge of `remotegpu top`: keys and snapshots in, frames out, and the terminal as it was afterwards."""

from __future__ import annotations

import errno
import os
import queue
import select
import shutil
import signal
import socket
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Protocol

from remotegpu import errors
from remotegpu.cli import tables
from remotegpu.cli.screen import render
from remotegpu.cli.view import Dealloc, Keyboard, Quit, View, follow, press
from remotegpu.v1 import scheduler_pb2 as pb

# Between attempts to get snapshots again, and how long an Escape may be the beginning of an arrow key. Seconds.
RETRY_PAUSE = 1.0
ESCAPE_PAUSE = 0.05
# The alternate screen without cursor, and without wrapping: a terminal may hold a letter for wider than it is.
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
_LEAVE = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"


class Source(Protocol):
    """What is needed of `remotegpu.Client`."""

    def top(self) -> pb.Snapshot: ...

    def watch(self, interval: float, /) -> Iterator[pb.Snapshot]: ...

    def dealloc(self, lease: str, /) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Lost:
    why: str


@dataclass(frozen=True, slots=True)
class _Said:
    message: str


# What other threads tell the one that has the terminal; an exception is a bug of theirs, and ends it.
_News = pb.Snapshot | _Lost | _Said | BaseException


class _Inbox:
    """News from other threads and from signals, and a socket that is readable when there is some."""

    def __init__(self) -> None:
        self._news: queue.SimpleQueue[_News] = queue.SimpleQueue()
        # Sockets and not a pipe: a late thread that writes to a closed one cannot hit another file of that number.
        self.bell, self._rope = socket.socketpair()
        self.bell.setblocking(False)
        self._rope.setblocking(False)
        self.closed = threading.Event()

    def fileno(self) -> int:
        """For `signal.set_wakeup_fd`: a byte written there wakes the reader."""
        return self._rope.fileno()

    def post(self, news: _News) -> None:
        """Safe from any thread, and after `close`."""
        self._news.put(news)
        try:
            self._rope.send(b"\0")
        except BlockingIOError:  # full of wake-ups that are not yet read: one is enough
            pass
        except OSError:
            if not self.closed.is_set():
                raise

    def take(self) -> list[_News]:
        """All that has come, without waiting."""
        try:
            while self.bell.recv(4096):
                pass
        except BlockingIOError:
            pass
        taken = []
        while not self._news.empty():
            taken.append(self._news.get())
        return taken

    def close(self) -> None:
        self.closed.set()
        self._rope.close()
        self.bell.close()


def show(client: Source, interval: float) -> None:
    """Draws a snapshot every `interval` seconds on the terminal of standard input and output, until `q` or a signal.

    Raises what the first snapshot raises; later failures stand on the screen, and it goes on trying. SIGINT, SIGTERM
    and SIGHUP do what they would have done without the screen, after the terminal is as it was."""
    first = client.top()
    inbox = _Inbox()
    try:
        with _signals(inbox) as signals, _terminal() as terminal:
            _in_thread(inbox, lambda: _watch(client, interval, inbox))
            _Screen(client, first, inbox, terminal, overdue=3 * interval + 1.0).run(signals)
    finally:
        inbox.close()
    for number in signals:
        signal.raise_signal(number)


def _in_thread(inbox: _Inbox, work: Callable[[], None]) -> None:
    def run() -> None:
        try:
            work()
        except BaseException as error:
            inbox.post(error)

    # A daemon: it may wait for the server for as long as a call takes, which nobody waits for after `q`.
    threading.Thread(target=run, daemon=True).start()


def _watch(client: Source, interval: float, inbox: _Inbox) -> None:
    """Posts snapshots, and in between why there are none."""
    while not inbox.closed.is_set():
        try:
            for snapshot in client.watch(interval):
                inbox.post(snapshot)
                if inbox.closed.is_set():
                    return
        except errors.Error as error:
            inbox.post(_Lost(str(error)))
        inbox.closed.wait(RETRY_PAUSE)


def _dealloc(client: Source, lease: str, inbox: _Inbox) -> None:
    try:
        ended = client.dealloc(lease)
    except errors.Error as error:
        inbox.post(_Said(f"{lease}: {error}"))
    else:
        inbox.post(_Said(f"{lease} is deallocated" if ended else f"{lease} had ended already"))


class _Terminal:
    """Standard input and output, as a screen of our own between `enter` and `leave`."""

    def __init__(self) -> None:
        self._stdin, self._stdout = sys.stdin.fileno(), sys.stdout.fileno()
        self._encoding = sys.stdout.encoding
        self._palette = tables.colours(sys.stdout)
        self._before = termios.tcgetattr(self._stdin)

    def enter(self) -> None:
        """Keys come one by one, unseen."""
        tty.setcbreak(self._stdin)
        self._write(_ENTER)

    def leave(self) -> None:
        """All as it was before, also if the terminal takes no more text."""
        try:
            self._write(_LEAVE)
        finally:
            termios.tcsetattr(self._stdin, termios.TCSADRAIN, self._before)

    def suspend(self) -> None:
        """Stops this process, as Ctrl-Z is to do, and comes back when it goes on."""
        self.leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self.enter()

    def read(self) -> bytes:
        """What has been typed; empty if the terminal is gone."""
        return os.read(self._stdin, 1024)

    def draw(self, snapshot: pb.Snapshot, view: View) -> None:
        """A frame of the size that the terminal has now."""
        size = os.get_terminal_size(self._stdout)
        if not size.columns or not size.lines:  # a serial line, for instance, does not know
            size = shutil.get_terminal_size()
        lines = render(snapshot, width=size.columns, height=size.lines, view=view)
        self._write(tables.frame(lines, size.columns, size.lines, self._palette))

    def _write(self, text: str) -> None:
        data = tables.encoded(text, self._encoding)
        while data:
            data = data[os.write(self._stdout, data) :]


@contextmanager
def _terminal() -> Iterator[_Terminal]:
    """The terminal, given back as it was however this ends."""
    terminal = _Terminal()
    try:
        terminal.enter()
        yield terminal
    except (OSError, termios.error) as error:
        if not _is_gone(error):
            raise
    finally:
        try:
            terminal.leave()
        except (OSError, termios.error) as error:
            if not _is_gone(error):
                raise


def _is_gone(error: OSError | termios.error) -> bool:
    """Whether the terminal was closed: nobody is there to be told."""
    return bool(error.args[0] == errno.EIO)


@contextmanager
def _signals(inbox: _Inbox) -> Iterator[list[int]]:
    """The signals that have come: they only wake the loop, which then leaves the terminal in order."""
    received: list[int] = []

    def receive(number: int, _: FrameType | None) -> None:
        if number != signal.SIGWINCH:  # waking is all
            received.append(number)

    # Those that are ignored stay so: nohup and shells rely on it.
    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP)
    caught = [number for number in ends if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, receive) for number in (*caught, signal.SIGWINCH)}
    wakes = signal.set_wakeup_fd(inbox.fileno(), warn_on_full_buffer=False)
    try:
        yield received
    finally:
        signal.set_wakeup_fd(wakes)
        for number, handler in before.items():
            signal.signal(number, handler)


def silence(view: View, passed: float, overdue: float) -> tuple[View, float | None]:
    """The view as it is to be drawn `passed` seconds after the last snapshot, and the seconds after which it is to be
    drawn anew even if nothing happens, None for never. Pure."""
    if view.lost:
        return view, None
    if passed < overdue:
        return view, overdue - passed
    return replace(view, lost=f"no snapshot for {passed:.0f} s"), 1.0


class _Screen:
    """The loop: draws, and waits for keys, news and signals."""

    def __init__(self, client: Source, first: pb.Snapshot, inbox: _Inbox, terminal: _Terminal, overdue: float) -> None:
        self._client, self._snapshot, self._inbox, self._terminal = client, first, inbox, terminal
        self._view = View()
        self._keyboard = Keyboard()
        # When the last snapshot came, and after how many seconds it is said that none does.
        self._heard, self._overdue = time.monotonic(), overdue

    def run(self, signals: list[int]) -> None:
        """Until the user leaves, the terminal is gone, or a signal has come."""
        while True:
            if signal.SIGTSTP in signals:
                signals.remove(signal.SIGTSTP)
                self._terminal.suspend()
            if signals:
                return
            view, patience = silence(self._view, time.monotonic() - self._heard, self._overdue)
            self._terminal.draw(self._snapshot, view)
            patience = ESCAPE_PAUSE if self._keyboard.waiting else patience
            readable, _, _ = select.select([sys.stdin, self._inbox.bell], [], [], patience)
            for news in self._inbox.take():
                self._hear(news)
            if sys.stdin in readable:
                typed = self._terminal.read()
                if not typed:
                    return
                keys = self._keyboard.feed(typed)
            else:
                keys = [] if readable else self._keyboard.flush()
            if not all(self._press(key) for key in keys):
                return

    def _hear(self, news: _News) -> None:
        if isinstance(news, pb.Snapshot):
            self._view = follow(self._view, self._snapshot, news)
            self._snapshot, self._heard = news, time.monotonic()
        elif isinstance(news, _Lost):
            self._view = replace(self._view, lost=f"no snapshots: {news.why}")
        elif isinstance(news, _Said):
            self._view = replace(self._view, message=news.message)
        else:
            raise news

    def _press(self, key: str) -> bool:
        """Whether to go on."""
        self._view, action = press(self._view, key, self._snapshot)
        if isinstance(action, Dealloc):
            lease = action.lease
            _in_thread(self._inbox, lambda: _dealloc(self._client, lease, self._inbox))
        return not isinstance(action, Quit)
