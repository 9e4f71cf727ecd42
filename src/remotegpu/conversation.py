# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The long-lived stream of a client, for many threads.

There is no thread that reads: of those that wait for an answer, one reads for all (the leader), and when it has its own
answer another one goes on. A caller that is alone, which is the usual one, waits for one thing only, and its answer
wakes one thread less.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Protocol

from remotegpu import errors
from remotegpu.multiplexer import MOST_CALLS, Call, Multiplexer, copy_of
from remotegpu.watchdog import Watchdog


class Stream(Protocol):
    """One stream of gRPC's."""

    def read(self) -> bytes:
        """The next frame. Raises ConnectError if there never was a connection, ConnectionLost when the stream is over,
        or the error with which the server has ended it."""

    def cancel(self) -> None:
        """Ends the stream; `read` raises ConnectionLost. Any thread may call it."""


# Opens a stream, given the frames to send. Does not wait.
Dial = Callable[[Iterator[bytes]], Stream]


class _Line:
    """A stream and what is to be sent on it."""

    def __init__(self, dial: Dial, first: list[bytes]) -> None:
        self._unsent: SimpleQueue[bytes | None] = SimpleQueue()
        self.send(first)
        self.stream = dial(iter(self._unsent.get, None))

    def send(self, frames: list[bytes]) -> None:
        """Frames, in this order."""
        for frame in frames:
            self._unsent.put(frame)

    def end(self) -> None:
        """Nothing more is sent: the thread that takes the frames ends."""
        self._unsent.put(None)


class Conversation:
    """All calls of a client on its stream, opened when it is needed."""

    def __init__(self, dial: Dial, address: str) -> None:
        self._dial = dial
        # Held while the state below is looked at or changed, never while anything is waited for.
        self._lock = threading.Lock()
        self._calls = Multiplexer(secrets.token_bytes(16), address)
        self._line: _Line | None = None
        self._has_leader = False
        # Those who wait for the leader, with what wakes them.
        self._followers: dict[Call, threading.Event] = {}
        # Why the stream of a follower broke.
        self._interrupted: dict[Call, errors.Error] = {}
        self._watchdog = Watchdog(self._silent)

    def begin(self, method: str, message: bytes, *, idempotent: bool) -> Call | None:
        """Begins a call; `wait` or `abandon` follows. None if too many are under way."""
        with self._lock:
            if self._calls.pending >= MOST_CALLS:
                return None
            call, frame = self._calls.begin(method, message, idempotent=idempotent)
            if frame is not None:
                assert self._line is not None, "the stream is open"
                self._line.send([frame])
            return call

    def wait(self, call: Call, until: float) -> None:
        """Returns when the call is done. Opens a stream if there is none.

        Raises ConnectError, ConnectionLost or the server's error when the stream breaks meanwhile (the call goes on
        with the next `wait`), TimeoutError when it is not done by `until` (of `time.monotonic`)."""
        try:
            while True:
                event: threading.Event | None = None
                with self._lock:
                    if call.done:
                        return
                    line = self._line or self._open()
                    if self._has_leader:
                        event = self._followers[call] = threading.Event()
                    else:
                        self._has_leader = True
                if event is None:
                    self._lead(call, line, until)
                else:
                    self._follow(call, event, until)
        finally:
            with self._lock:
                if self._followers:
                    self._hand_over()

    def _hand_over(self) -> None:
        """Somebody has to read, if anybody waits. Two who are woken sort it out."""
        if not self._has_leader:
            for event in self._followers.values():
                if not event.is_set():
                    event.set()
                    return

    def _open(self) -> _Line:
        try:
            self._line = _Line(self._dial, self._calls.open())
        except errors.Error:
            self._calls.broken(connected=False)
            raise
        return self._line

    def _follow(self, call: Call, event: threading.Event, until: float) -> None:
        try:
            woken = event.wait(max(until - time.monotonic(), 0.0))
        finally:
            with self._lock:
                self._followers.pop(call, None)
                error = self._interrupted.pop(call, None)
        if call.done:
            return
        if error is not None:
            raise error
        if not woken:
            raise TimeoutError

    def _lead(self, call: Call, line: _Line, until: float) -> None:
        self._watchdog.arm(until)
        ended = False
        try:
            while not call.done:
                try:
                    message = line.stream.read()
                except errors.Error as error:
                    ended = True
                    self._broke(line, error)
                    if call.done:
                        return
                    if time.monotonic() >= until:
                        raise TimeoutError from None
                    raise self._calls.interruption(call, error) from None
                self._received(line, message)
        finally:
            self._watchdog.disarm()
            with self._lock:
                self._has_leader = False
                is_left = self._line is not line
            if is_left and not ended:
                _read_end(line.stream)

    def _received(self, line: _Line, message: bytes) -> None:
        with self._lock:
            done, frames = self._calls.receive(message)
            if frames:
                line.send(frames)
            if self._followers:
                self._wake(done)

    def _wake(self, done: list[Call]) -> None:
        for call in done:
            event = self._followers.get(call)
            if event is not None:
                event.set()

    def _broke(self, line: _Line, error: errors.Error) -> None:
        with self._lock:
            line.end()
            if self._line is not line:
                return
            self._line = None
            if isinstance(error, errors.TransportError):
                self._calls.broken(connected=not isinstance(error, errors.ConnectError))
                for call, event in self._followers.items():
                    self._interrupted[call] = self._calls.interruption(call, error)
                    event.set()
            else:
                refused = self._calls.refused()
                for call in refused:
                    call.error = copy_of(error)
                self._wake(refused)

    def _silent(self) -> None:
        """The leader's time has passed: whoever still waits goes on on another stream."""
        with self._lock:
            line = self._line
        if line is not None:
            line.stream.cancel()

    def abandon(self, call: Call) -> None:
        """Nobody waits for the call any more; the server is told if it may have it."""
        with self._lock:
            frame = self._calls.abandon(call)
            if frame is not None and self._line is not None:
                self._line.send([frame])

    def hang_up(self) -> None:
        """Ends the stream; calls under way go on on the next one."""
        with self._lock:
            line, self._line = self._line, None
            self._calls.broken(connected=True)
            has_reader = self._has_leader
        if line is None:
            return
        # In this order: at the end of the frames, gRPC would say it to the server, from another thread.
        line.stream.cancel()
        line.end()
        if not has_reader:
            _read_end(line.stream)

    def close(self) -> None:
        """Ends the stream. Calls under way fail with ConnectionLost."""
        self._watchdog.close()
        with self._lock:
            line, self._line = self._line, None
            self._calls.broken(connected=True)
        if line is not None:
            line.end()
            line.stream.cancel()


def _read_end(stream: Stream) -> None:
    """Of one that was cancelled, so that it is known to be over."""
    try:
        while True:
            stream.read()
    except errors.Error:
        pass  # that is its end
