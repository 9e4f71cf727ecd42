# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Many calls on one long-lived stream, told apart by numbers: frames in and out, no I/O.

A driver opens streams, sends what `open`, `begin` and `receive` hand out, in that order, and gives `receive` what
arrives. When a stream breaks it says so (`broken`) and opens the next one.

What becomes of calls then: one that was never handed out is simply sent. One that was may have run. The server knows
the numbers that it has seen from this client, so sending it again is safe, as long as it is the same server process:
that shows in its first frame, so what is to be repeated waits for that, and new calls wait behind it, since numbers
must arrive in order. With another server process, only calls that may run twice are repeated.
"""

from __future__ import annotations

from dataclasses import dataclass

from remotegpu import errors, wire
from remotegpu.v1 import stream_pb2

RUN = "Compute/Run"
# Calls under way on one stream; the server takes as many. More take calls of their own.
MOST_CALLS = 128


@dataclass(slots=True, eq=False)
class Call:
    """A call that was begun. `answer`: the frame that answers it; `error`: that it failed."""

    number: int
    envelope: bytes
    # In the form of a frame's other fields.
    message: bytes
    idempotent: bool
    # It was handed out on the present stream.
    handed_out: bool = False
    # It was handed out on an earlier one, so that the server may have it.
    sent: bool = False
    answer: bytes | None = None
    error: errors.Error | None = None

    @property
    def done(self) -> bool:
        """Whether there is an answer or an error."""
        return self.answer is not None or self.error is not None


class Multiplexer:
    """The calls of one client. `identity`: 16 random bytes; `address` is for errors."""

    def __init__(self, identity: bytes, address: str) -> None:
        self._identity = identity
        self._address = address
        self._last = 0
        # In the order of their numbers.
        self._pending: dict[int, Call] = {}
        # Which server process answers; empty before the first has.
        self._boot = b""
        self._open = False
        # Nothing is sent before the server's first frame, since something is to be repeated.
        self._waiting = False

    @property
    def pending(self) -> int:
        """Calls without an answer."""
        return len(self._pending)

    def begin(self, method: str, message: bytes, *, idempotent: bool) -> tuple[Call, bytes | None]:
        """A new call, and the frame to send now, if any. `method` is a unary one, `message` its request."""
        self._last = number = self._last + 1
        acknowledged = next(iter(self._pending)) - 1 if self._pending else number - 1
        if method == RUN:
            envelope = wire.request_envelope(number, "", acknowledged)
        else:
            envelope, message = wire.request_envelope(number, method, acknowledged), wire.join(b"", message)
        call = self._pending[number] = Call(number, envelope, message, idempotent)
        if not self._open or self._waiting:
            return call, None
        call.handed_out = True
        return call, wire.frame_of(envelope, message)

    def open(self) -> list[bytes]:
        """A stream begins: the frames to send at once."""
        self._open = True
        self._waiting = any(call.sent for call in self._pending.values())
        hello = stream_pb2.Envelope(hello=stream_pb2.Hello(id=self._identity)).SerializeToString()
        # With the first call in one frame, if there is one, so that the server does not answer twice.
        return [wire.frame_of(hello, b"")] if self._waiting or not self._pending else self._all_frames(hello)

    def _all_frames(self, hello: bytes = b"") -> list[bytes]:
        frames = []
        for call in self._pending.values():
            call.handed_out = True
            frames.append(wire.frame_of(call.envelope + hello, call.message))
            hello = b""
        return frames

    def receive(self, message: bytes) -> tuple[list[Call], list[bytes]]:
        """A frame has arrived: the calls that are over now, and frames to send. Raises ProtocolError."""
        number = wire.answered_call(message)
        if number:
            call = self._pending.pop(number, None)
            if call is None:
                return [], []  # it was abandoned
            call.answer = message
            return [call], []
        envelope = wire.parse(stream_pb2.Envelope, wire.split_frame(message)[0])
        if envelope.HasField("hello"):
            return self._greeted(envelope.hello)
        if envelope.go_away:
            self._last_arrived(envelope.call)
            return [], []
        call = self._pending.pop(envelope.call, None)
        if call is None or not envelope.HasField("error"):
            return [], []  # an abandoned one, or something that a newer server says to all
        call.error = wire.error_of(envelope.error)
        return [call], []

    def _last_arrived(self, last: int) -> None:
        """The server ends the stream, and says (if not 0) which call was the last that has arrived."""
        for call in self._pending.values():
            if last and call.number > last:
                call.handed_out = False

    def _greeted(self, hello: stream_pb2.Hello) -> tuple[list[Call], list[bytes]]:
        known, self._boot = self._boot, hello.id
        if not self._waiting:
            return [], []
        self._waiting = False
        why = "the server was restarted" if known else "it broke before the server said anything"
        failed = [] if known == hello.id else self._fail_sent(why)
        return failed, self._all_frames()

    def _fail_sent(self, why: str) -> list[Call]:
        """Ends the calls that may have run and must not run twice."""
        failed = [call for call in self._pending.values() if call.sent and not call.idempotent]
        for call in failed:
            del self._pending[call.number]
            call.error = errors.ConnectionLost(address=self._address, why=why)
        return failed

    def broken(self, *, connected: bool) -> None:
        """The stream is over. `connected`: there was a connection, so that what was handed out may have arrived."""
        self._open = self._waiting = False
        for call in self._pending.values():
            call.sent = call.sent or (call.handed_out and connected)
            call.handed_out = False

    def interruption(self, call: Call, error: errors.Error) -> errors.Error:
        """What a caller is told whose stream has ended with that error; `broken` was called before."""
        if isinstance(error, errors.ConnectionLost) and not call.sent:
            return errors.ConnectError(address=self._address, why=error.why)  # the server does not have it
        return copy_of(error)

    def refused(self) -> list[Call]:
        """The server has refused the stream as a whole, and with it all calls: the driver says why."""
        self._open = self._waiting = False
        failed = list(self._pending.values())
        self._pending.clear()
        return failed

    def abandon(self, call: Call) -> bytes | None:
        """Nobody waits for the call any more: the frame that tells the server, if it may have the call."""
        if self._pending.pop(call.number, None) is None or not call.handed_out:
            return None
        return wire.join(b"", b"", envelope=stream_pb2.Envelope(call=call.number, cancel=True).SerializeToString())


def copy_of(error: errors.Error) -> errors.Error:
    """One for each caller: an exception collects the frames of whoever raises it."""
    made = type(error)(**error.fields())
    made.__cause__ = error.__cause__
    return made
