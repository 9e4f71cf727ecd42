# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The short cut of a worker for calls of one model: whatever comes of a call must be what the usual course makes of it.

All of a worker but its sockets, in this process. The first call of a program takes the usual course, later ones the
short cut.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from remotegpu import errors, wire
from remotegpu.strings import encode, strings_of
from remotegpu.v1 import program_pb2 as pb
from remotegpu_server import records
from remotegpu_server.backends.trials import Port
from remotegpu_server.slabs import Arena
from remotegpu_server.worker.calls import Calls, Task
from remotegpu_server.worker.cancellation import Verdict
from remotegpu_server.worker.inference import Sessions
from remotegpu_server.worker.order import Touched
from remotegpu_server.worker.prepared import Loading
from tests.fixtures.worker_calls import ARENA, FLOAT, Bench, Body, ones, program, values


@pytest.fixture
def bench() -> Iterator[Bench]:
    arenas = Arena.create("requests", ARENA), Arena.create("replies", ARENA)
    for arena in arenas:
        arena.view[:] = b"\xff" * ARENA
    yield Bench(*arenas)
    for arena in arenas:
        arena.close_descriptor()


WANTED: list[tuple[Sequence[str | int | None], list[tuple[int, str, int]]]] = [
    ([None], [(0, "y", 2), (0, "n", 0)]),
    ([1], [(0, "", 0)]),
    (["n", 0, "y"], [(0, "", 0), (1, "", 2), (2, "", 2)]),
    ([], []),
]


@pytest.mark.parametrize("shape", [(2, 3), (1, 17), (0, 3), (), (0,)])
@pytest.mark.parametrize(("wanted", "expected"), WANTED)
def test_it_is_taken_and_gives_the_same(
    bench: Bench, shape: tuple[int, ...], wanted: Sequence[str | int | None], expected: list[tuple[int, str, int]]
) -> None:
    model = bench.serve(lambda feed: [feed["x"] * 2, np.asarray(feed["x"].size)], ("y", "n"))
    x = ones(*shape)
    replies = set()
    for _ in range(3):
        done, result, body = bench.call(program([x], wanted), [x])
        assert bench.usual == 1
        assert np.array_equal(model.feeds[-1]["x"], x)
        assert not gaps(result, body)
        assert (done.failed, done.batch, done.started_ns > 0) == (0, 1, True)
        assert min(done.h2d_ns, done.compute_ns, done.d2h_ns) >= 0
        found = values(result, body)
        assert [(output, name) for output, name, _ in found] == [(output, name) for output, name, _ in expected]
        for (_, _, array), (_, _, factor) in zip(found, expected, strict=True):
            made = x * factor if factor else np.asarray(x.size)
            assert (array.dtype, array.shape) == (made.dtype, made.shape)
            assert np.array_equal(array, made)
        replies.add((result, body))
    assert len(replies) == 1
    assert bench.warm == ["m"] * 3
    assert bench.models.leases == [0] * 3
    assert bench.calls.idle


def gaps(result: bytes, body: bytes) -> bytes:
    """What lies between the values, without zeros."""
    left = bytearray(body)
    for value in pb.Result.FromString(result).values:
        left[value.offset : value.offset + value.size] = bytes(value.size)
    return bytes(left).strip(b"\0")


def test_other_data_and_several_inputs(bench: Bench) -> None:
    model = bench.serve(lambda feed: [feed["a"] - feed["b"]], inputs=("a", "b"))
    asked = program([ones(3), ones(2, 3)])
    asked.nodes[2].model.inputs[0].name, asked.nodes[2].model.inputs[1].name = "b", "a"
    for number in range(3):
        small, large = ones(3) + number, ones(2, 3) * number
        _, result, body = bench.call(asked, [small, large])
        assert np.array_equal(values(result, body)[0][2], large - small)
        assert list(model.feeds[-1]) == ["b", "a"]
    assert bench.usual == 1


@pytest.mark.parametrize(
    "made",
    [
        lambda number: np.full(number // 3, number, FLOAT),
        lambda number: np.full(4, number, [np.float32, np.int32][number // 3]),
        lambda number: strings_of(np.array(["a", "bc" * number])),
    ],
    ids=["shapes", "dtypes", "strings"],
)
def test_outputs_may_change_from_call_to_call(bench: Bench, made: Callable[[int], Any]) -> None:
    """The size of strings is nothing that a layout could be remembered by."""
    x = ones(2)
    bench.serve(lambda feed: [made(bench.number)])
    for number in range(1, 6):
        _, result, body = bench.call(program([x]), [x])
        ((_, _, found),) = values(result, body)
        assert (found.dtype, found.tolist()) == (made(number).dtype, made(number).tolist())
        assert not gaps(result, body)
    assert bench.usual == 1


def raises(error: Exception) -> Body:
    def run(feed: dict[str, Any]) -> list[Any]:
        raise error

    return run


@pytest.mark.parametrize(
    ("body", "x", "wanted"),
    [
        (raises(ValueError("no")), ones(2), [None]),
        (raises(MemoryError("no room")), ones(2), [None]),
        (raises(errors.InvalidInput(field="x", limit="even", given="odd")), ones(2), [None]),
        (lambda feed: [np.ones(2, "datetime64[s]")], ones(2), [None]),
        (lambda feed: [np.ones(ARENA, FLOAT)], ones(2), [None]),
        (lambda feed: [object()], ones(2), [None]),
        (lambda feed: [feed["x"]], ones(2), ["z"]),
        (lambda feed: [feed["x"]], ones(2), [7]),
        (lambda feed: [feed["x"]], ones(2).astype(np.float64), [None]),
    ],
)
def test_errors_are_those_of_the_usual_course(
    bench: Bench, body: Body, x: Any, wanted: Sequence[str | int | None]
) -> None:
    bench.serve(body)
    asked = program([x], wanted)
    first, second = bench.error(asked, [x]), bench.error(asked, [x])
    assert type(first) is type(second)
    told = [{**vars(error), "traceback": ""} for error in (first, second)]
    assert told[0] == told[1]
    assert bench.calls.idle
    bench.serve(lambda feed: [feed["x"] + 1])
    x = ones(2)
    _, result, answer = bench.call(program([x]), [x])
    assert np.array_equal(values(result, answer)[0][2], x + 1)


def test_a_copy_that_fails_is_an_error_and_frees_its_slab(bench: Bench) -> None:
    bench.serve(lambda feed: [np.ones(ARENA // 8, FLOAT)])
    x = ones(2)
    bench.call(program([x]), [x])
    bench.device.breaks = True
    error = bench.error(program([x]), [x])
    assert isinstance(error, errors.OutOfMemory)
    assert (error.node, error.operation) == (1, "fetch of the results")
    bench.device.breaks = False
    assert bench.call(program([x]), [x])[0].failed == 0
    assert bench.usual == 1


def test_another_model_of_the_same_name(bench: Bench) -> None:
    """Its outputs count from the next call on, and the old one is gone then."""
    x = ones(2)
    asked = program([x])
    old = weakref.ref(bench.serve(lambda feed: [feed["x"]]))
    for _ in range(2):
        assert values(*bench.call(asked, [x])[1:])[0][1] == "y"
    bench.serve(lambda feed: [feed["x"].astype(np.int64), feed["x"]], ("z", "w"))
    gc.collect()
    assert old() is None
    for _ in range(2):
        (_, z, first), (_, w, second) = values(*bench.call(asked, [x])[1:])
        assert (z, first.dtype, w, second.dtype) == ("z", np.int64, "w", FLOAT)
    assert bench.usual == 1
    bench.serve(lambda feed: [feed["u"]], inputs=("u", "v"))
    assert "no v" in str(bench.error(asked, [x]))
    bench.models.model = None
    assert isinstance(bench.error(asked, [x]), errors.ModelNotFound)
    assert bench.usual == 3


def test_a_model_that_is_being_loaded_is_waited_for(bench: Bench) -> None:
    x = ones(2)
    asked = program([x])
    model = bench.serve(lambda feed: [feed["x"]])
    bench.call(asked, [x])
    bench.models.model = Loading()
    call = bench.arrive(asked, [x])
    bench.turn()
    assert len(bench.sent) == 1
    assert bench.calls.cancellation.take_back(call, force=False) is Verdict.TAKEN
    call = bench.arrive(asked, [x])
    bench.turn()
    bench.models.model = model
    bench.calls.models_arrived()
    bench.turn()
    done = bench.sent[-1]
    assert isinstance(done, records.Done)
    assert (done.call, done.failed, len(bench.sent)) == (call, 0, 2)


def test_calls_that_are_taken_back(bench: Bench) -> None:
    x = ones(2)
    asked = program([x])
    verdicts: list[Verdict] = []

    def run(feed: dict[str, Any]) -> list[Any]:
        verdicts.append(bench.calls.cancellation.take_back(bench.number, force=True))
        return [feed["x"]]

    model = bench.serve(run)
    for _ in range(2):
        assert bench.call(asked, [x])[0].failed == 0
    assert verdicts == [Verdict.BUSY] * 2, "the call has begun, and is answered"
    assert bench.calls.cancellation.take_back(bench.number, force=True) is Verdict.OVER
    call = bench.arrive(asked, [x])
    assert bench.calls.cancellation.take_back(call, force=False) is Verdict.TAKEN
    bench.turn()
    assert (len(bench.sent), len(model.feeds), bench.usual) == (2, 2, 1)
    bench.call(asked, [x])


def test_nothing_is_done_for_a_call_that_can_still_be_taken_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lease may have been dropped then, and its model would stay pinned for ever."""
    x = ones(2)
    bench.serve(lambda feed: [feed["x"]])
    bench.call(program([x]), [x], lease=5)
    get, verdicts = bench.models.get, []

    def got(reference: str, lease: int) -> Any:
        verdicts.append(bench.calls.cancellation.take_back(bench.number, force=True))
        return get(reference, lease)

    monkeypatch.setattr(bench.models, "get", got)
    assert bench.call(program([x]), [x], lease=5)[0].failed == 0
    assert (verdicts, bench.usual) == ([Verdict.BUSY], 1)


def test_a_reply_that_finds_no_room_waits_for_it_and_those_behind_wait_too(bench: Bench) -> None:
    x = ones(2)
    sizes = [ARENA // 8] * 3 + [2]  # all but the last need half of the arena
    bench.serve(lambda feed: [np.full(sizes[bench.number - 1], bench.number, FLOAT)])
    asked = program([x])
    bench.call(asked, [x])
    for _ in range(3):
        bench.arrive(asked, [x])
        bench.turn()
    done, *parked = bench.sent[1:]
    assert isinstance(done, records.Done)
    assert parked == [records.Parked(3), records.Parked(4)]
    bench.replies.release(done.offset)
    for call, reply in zip((3, 4), bench.sent[4:], strict=True):
        assert isinstance(reply, records.Done)
        assert (reply.call, reply.failed) == (call, 0)
        start = reply.offset + wire.aligned(reply.result_size)
        assert np.frombuffer(bench.replies_arena.view[start : start + 4], FLOAT) == call
    assert bench.usual == 1


def test_several_sessions_run_models_in_their_threads(bench: Bench) -> None:
    x = ones(2)
    asked, open_, rung = program([x]), threading.Event(), threading.Event()
    sessions: Sessions[list[Task]] = Sessions(2, rung.set)
    bench.calls = Calls(bench.executor, bench.replies, sessions, bench.sent.append, bench.requests.view, 0.0)
    bench.serve(lambda feed: [np.asarray(open_.wait(10))])
    for _ in range(2):
        bench.arrive(asked, [x])
        bench.turn()
        assert not bench.calls.idle, "this thread goes on while the model runs"
        open_.set()
        assert rung.wait(10)
        bench.turn()
        assert bench.calls.idle
        open_.clear()
        rung.clear()
    assert [done.failed for done in bench.sent if isinstance(done, records.Done)] == [0, 0]


def test_late_calls_are_not_run(bench: Bench) -> None:
    x = ones(2)
    model = bench.serve(lambda feed: [feed["x"]])
    bench.call(program([x]), [x])
    assert isinstance(bench.error(program([x]), [x], deadline_ns=1), errors.DeadlineExceeded)
    assert len(model.feeds) == 1


def test_leases_take_it_where_nothing_depends_on_it(bench: Bench) -> None:
    x = ones(2)
    asked = program([x])
    bench.serve(lambda feed: [feed["x"]])
    bench.call(asked, [x])
    bench.call(asked, [x], lease=5)
    assert (bench.usual, bench.models.leases) == (1, [0, 5])
    bench.call(asked, [x], lease=5, memory_limit=ARENA)
    bench.call(asked, [x], lease=5, finish=1)
    assert bench.usual == 3
    bench.executor.order.paused(99, 5, Touched(frozenset(), frozenset()), type("Weight", (), {"bytes": 0})())
    bench.call(asked, [x], lease=5)
    assert bench.usual == 4


def test_strings_are_not_taken(bench: Bench) -> None:
    """Their bytes are no array as they lie."""
    texts = strings_of(np.array(["a", "bc"]))
    model = bench.serve(lambda feed: [feed["x"]])
    model.inputs[0] = Port("x", texts.dtype, None)
    sent = np.frombuffer(encode(texts), np.uint8)
    asked = program([sent])
    asked.nodes[0].tensor.dtype, asked.nodes[0].tensor.shape[:] = pb.DTYPE_BYTES, [2]
    for _ in range(2):
        _, result, body = bench.call(asked, [sent])
        assert values(result, body)[0][2].tolist() == [b"a", b"bc"]
    assert bench.usual == 2


def test_models_that_call_others_are_not_taken(bench: Bench) -> None:
    """Those may have to be loaded first."""
    x = ones(2)
    bench.serve(lambda feed: [feed["x"]]).calls = ("m",)
    for _ in range(2):
        assert bench.call(program([x]), [x])[0].failed == 0
    assert bench.usual == 2


def test_calls_that_come_together_are_one_batch(bench: Bench) -> None:
    model = bench.serve(lambda feed: [feed["x"]])
    model.max_batch = 8
    x = ones(1, 2)
    asked = program([x])
    bench.call(asked, [x])
    bench.arrive(asked, [x])
    bench.arrive(asked, [x + 1], offset=1024)
    bench.turn()
    bench.turn()
    assert [feed["x"].shape for feed in model.feeds] == [(1, 2), (2, 2)]
    assert [done.batch for done in bench.sent if isinstance(done, records.Done)] == [1, 2, 0]


def test_programs_that_are_more_than_that_are_not_taken(bench: Bench) -> None:
    bench.serve(lambda feed: [feed["x"]])
    x = ones(2)
    kept, freed, computed, unused, packed_in = (program([x]) for _ in range(5))
    kept.outputs[0].every_port, kept.outputs[0].keep = False, 3
    freed.free.append(9)
    computed.nodes.add().operation.CopyFrom(pb.Operation(name="negative", args=[pb.Argument(ref=pb.Ref(node=1))]))
    unused.nodes.add().CopyFrom(computed.nodes[2])
    computed.outputs.add(ref=pb.Ref(node=2), fetch=True)
    packed_in.nodes[0].tensor.travels_as = pb.DTYPE_FLOAT16
    packed_in.nodes[0].tensor.size = 4
    for asked in (kept, freed, computed, unused, packed_in):
        bench.usual = 0
        for _ in range(2):
            assert bench.call(asked, [x], lease=1)[0].failed == 0
        assert bench.usual == 2
