# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The two ends of a long-lived stream without a network: the client's multiplexer and the server's log of its calls."""

from __future__ import annotations

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from remotegpu import errors, wire
from remotegpu.multiplexer import RUN, Call, Multiplexer
from remotegpu.v1 import stream_pb2
from remotegpu_server.gateway.call_log import LARGEST_KEPT, MOST_KEPT, MOST_WITHDRAWN, CallLog, Known

BOOT = bytes(16)


def envelope(frame: bytes) -> stream_pb2.Envelope:
    return wire.parse(stream_pb2.Envelope, wire.split_frame(frame)[0])


def hello(boot: bytes = BOOT) -> bytes:
    message = stream_pb2.Envelope(hello=stream_pb2.Hello(id=boot))
    return wire.join(b"", b"", envelope=message.SerializeToString())


def answer(call: int, text: bytes = b"answer") -> bytes:
    return wire.join(b"", text, envelope=wire.call_envelope(call))


def opened() -> Multiplexer:
    made = Multiplexer(b"i" * 16, "there")
    made.open()
    made.receive(hello())
    return made


def begin(calls: Multiplexer, *, idempotent: bool = False) -> tuple[Call, bytes]:
    call, frame = calls.begin(RUN, wire.join(b"h", b"m", (b"body",)), idempotent=idempotent)
    assert frame is not None
    return call, frame


def test_first_call_and_hello_are_one_frame_that_holds_the_message() -> None:
    calls = Multiplexer(b"i" * 16, "there")
    call, frame = calls.begin(RUN, wire.join(b"h", b"m", (b"body",)), idempotent=False)
    assert frame is None
    (first,) = calls.open()
    said = envelope(first)
    assert (said.call, said.method, said.hello.id) == (1, "", b"i" * 16)
    assert [bytes(part) for part in wire.split(first)] == [b"h", b"m", b"body"]
    assert calls.receive(hello()) == ([], [])
    assert calls.receive(answer(1)) == ([call], [])
    assert bytes(wire.split(call.answer or b"")[1]) == b"answer"
    assert calls.pending == 0


def test_other_methods_carry_their_request_whole() -> None:
    _, frame = opened().begin("Scheduler/Top", b"request", idempotent=True)
    assert frame is not None
    assert envelope(frame).method == "Scheduler/Top"
    assert bytes(wire.split(frame)[1]) == b"request"


def test_answers_come_in_any_order_and_acknowledge_what_has_arrived() -> None:
    calls = opened()
    first, second = begin(calls)[0], begin(calls)[0]
    assert calls.receive(answer(2))[0] == [second]
    assert envelope(begin(calls)[1]).acknowledged == 0  # the first one may still be asked for
    assert calls.receive(answer(1))[0] == [first]
    assert calls.receive(answer(3))[0]
    assert envelope(begin(calls)[1]).acknowledged == 3


def test_typed_error_ends_its_call_only() -> None:
    calls = opened()
    failing, other = begin(calls)[0], begin(calls)[0]
    detail = wire.error_message(errors.LeaseUnknown(lease="k"))
    frame = wire.join(b"", b"", envelope=stream_pb2.Envelope(call=1, error=detail).SerializeToString())
    assert calls.receive(frame)[0] == [failing]
    assert isinstance(failing.error, errors.LeaseUnknown)
    assert not other.done


def test_after_a_break_the_same_frames_are_sent_once_the_server_is_known_to_be_the_same() -> None:
    calls = opened()
    (first, sent), (second, _) = begin(calls), begin(calls)
    calls.broken(connected=True)
    third, frame = calls.begin(RUN, b"", idempotent=False)
    assert frame is None
    (only,) = calls.open()
    assert envelope(only).call == 0  # nothing but the hello yet
    done, frames = calls.receive(hello())
    assert not done
    assert [envelope(frame).call for frame in frames] == [first.number, second.number, third.number]
    assert frames[0] == sent


def test_another_server_process_gets_only_what_may_run_twice() -> None:
    calls = opened()
    once, twice = begin(calls)[0], begin(calls, idempotent=True)[0]
    calls.broken(connected=True)
    calls.open()
    done, frames = calls.receive(hello(b"b" * 16))
    assert done == [once]
    assert isinstance(once.error, errors.ConnectionLost)
    assert [envelope(frame).call for frame in frames] == [twice.number]


def test_a_break_before_the_server_said_anything_leaves_the_outcome_unknown() -> None:
    calls = Multiplexer(b"i" * 16, "there")
    call, _ = calls.begin(RUN, b"", idempotent=False)
    calls.open()
    calls.broken(connected=True)
    calls.open()
    assert calls.receive(hello())[0] == [call]
    assert isinstance(call.error, errors.ConnectionLost)


def test_what_never_left_is_simply_sent() -> None:
    calls = Multiplexer(b"i" * 16, "there")
    call, _ = calls.begin(RUN, b"", idempotent=False)
    calls.open()
    calls.broken(connected=False)
    (frame,) = calls.open()
    assert envelope(frame).call == call.number


def test_what_has_not_arrived_when_the_server_leaves_did_not_run() -> None:
    calls = opened()
    arrived, late = begin(calls)[0], begin(calls)[0]
    goodbye = stream_pb2.Envelope(go_away=True, call=1).SerializeToString()
    assert calls.receive(wire.join(b"", b"", envelope=goodbye)) == ([], [])
    calls.broken(connected=True)
    lost = errors.ConnectionLost(address="there", why="it has ended the stream")
    assert isinstance(calls.interruption(arrived, lost), errors.ConnectionLost)
    assert isinstance(calls.interruption(late, lost), errors.ConnectError)
    calls.open()
    done, frames = calls.receive(hello(b"b" * 16))  # another server
    assert done == [arrived]
    assert [envelope(frame).call for frame in frames] == [late.number]


def test_abandoned_call_is_cancelled_and_its_late_answer_passed_over() -> None:
    calls = opened()
    call, _ = begin(calls)
    frame = calls.abandon(call)
    assert frame is not None
    assert (envelope(frame).call, envelope(frame).cancel) == (1, True)
    assert calls.receive(answer(1)) == ([], [])
    assert calls.abandon(call) is None


def test_log_keeps_small_answers_until_they_are_acknowledged() -> None:
    log = CallLog()
    assert log.begin(1) is Known.NEW
    assert log.begin(1) is Known.RUNNING
    log.settle(1, b"one")
    assert log.begin(1) == b"one"
    log.acknowledge(1)
    assert log.begin(1) is Known.GONE
    assert log.begin(2) is Known.NEW
    log.settle(2, bytes(LARGEST_KEPT + 1))
    assert log.begin(2) is Known.GONE
    assert log.begin(3) is Known.NEW
    log.withdraw(3)
    assert log.begin(3) is Known.NEW


def test_log_is_bounded() -> None:
    log, count = CallLog(), MOST_KEPT // LARGEST_KEPT + 5
    for call in range(1, count + 1):
        log.begin(call)
        log.settle(call, bytes(LARGEST_KEPT))
    assert [log.begin(call) is Known.GONE for call in (1, 6, 7)] == [True, True, False]


def test_log_is_bounded_in_number_too() -> None:
    log = CallLog()
    for call in range(1, MOST_KEPT // 64):
        log.begin(call)
        log.settle(call, b"tiny")
    assert log.begin(1) is Known.GONE
    first = MOST_KEPT
    for call in range(first, first + MOST_WITHDRAWN + 1):
        log.begin(call)
        log.withdraw(call)
    assert log.begin(first) is Known.GONE
    assert log.begin(first + 1) is Known.NEW


class Streams(RuleBasedStateMachine):
    """Both ends with a network between them that loses what is under way when it breaks, and a server that may be
    restarted. No call that must not run twice does, and every call ends with its answer or an error."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = Multiplexer(b"i" * 16, "there")
        self.is_open = False
        self.to_server: deque[bytes] = deque()
        self.to_client: deque[bytes] = deque()
        self.begun: list[Call] = []
        self.runs: dict[int, int] = {}
        self.boots = 0
        self.restart()

    @rule()
    def restart(self) -> None:
        self.boots += 1
        self.log, self.running = CallLog(), set[int]()
        if self.is_open:
            self.cut(connected=True)

    @precondition(lambda self: self.is_open)
    @rule(connected=st.booleans())
    def cut(self, connected: bool) -> None:
        # Not connected: nothing of this stream has arrived.
        if not connected and self.arrived:
            connected = True
        self.to_server.clear()
        self.to_client.clear()
        self.is_open = False
        self.calls.broken(connected=connected)

    @precondition(lambda self: not self.is_open)
    @rule()
    def dial(self) -> None:
        self.is_open, self.arrived = True, False
        self.to_server.extend(self.calls.open())

    @rule(idempotent=st.booleans())
    def ask(self, idempotent: bool) -> None:
        call, frame = self.calls.begin(RUN, b"", idempotent=idempotent)
        self.begun.append(call)
        if frame is not None:
            self.to_server.append(frame)

    @precondition(lambda self: self.to_server)
    @rule()
    def arrive(self) -> None:
        self.arrived = True
        said = envelope(self.to_server.popleft())
        if said.HasField("hello"):
            self.to_client.append(hello(bytes([self.boots] * 16)))
        if not said.call:
            return
        self.log.acknowledge(said.acknowledged)
        known = self.log.begin(said.call)
        if known is Known.NEW:
            self.running.add(said.call)
            self.runs[said.call] = self.runs.get(said.call, 0) + 1
        elif isinstance(known, bytes):
            self.to_client.append(known)
        else:
            assert known is Known.RUNNING, "an answer that is still wanted is never gone: they are small here"

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 100))
    def finish(self, pick: int) -> None:
        call = sorted(self.running)[pick % len(self.running)]
        self.running.discard(call)
        self.log.settle(call, answer(call))
        if self.is_open:
            self.to_client.append(answer(call))

    @precondition(lambda self: self.to_client)
    @rule()
    def hear(self) -> None:
        _, frames = self.calls.receive(self.to_client.popleft())
        self.to_server.extend(frames)

    @invariant()
    def nothing_runs_twice(self) -> None:
        for call in self.begun:
            assert call.idempotent or self.runs.get(call.number, 0) <= 1

    def teardown(self) -> None:
        if not self.is_open:
            self.dial()
        while self.to_server or self.running or self.to_client:
            while self.to_server:
                self.arrive()
            while self.running:
                self.finish(0)
            while self.to_client:
                self.hear()
        assert all(call.done for call in self.begun)


Streams.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestStreams = Streams.TestCase
