# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The executor and the replies of a worker, in this process: no failure but that of the device ends the worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from remotegpu import errors, wire
from remotegpu.v1 import program_pb2 as pb
from remotegpu_server.backends.host import HostDevice
from remotegpu_server.backends.models import Model
from remotegpu_server.records import Done, Record
from remotegpu_server.slabs import Arena
from remotegpu_server.worker.executor import Executor, Request
from remotegpu_server.worker.memory import LeaseMemory
from remotegpu_server.worker.outcome import Outcome
from remotegpu_server.worker.prepared import Loading, Preparer
from remotegpu_server.worker.replies import Finished, Replies

MIB = 1 << 20
LEASE = 1


class Unlimited(HostDevice):
    """Without the limit of the process, which would be that of the tests, and with errors on demand."""

    def __init__(self) -> None:
        self._memory = 1 << 40
        self._arenas = []
        self.breaks = False

    def download(self, array: Any, target: Any) -> None:
        if self.breaks:
            raise MemoryError("no room for the copy")
        super().download(array, target)


class NoModels:
    """A repository without models."""

    def output_names(self, reference: str) -> list[str]:
        raise errors.ModelNotFound(field="model", limit="none", given=reference)

    def get(self, reference: str, lease: int) -> Model | Loading:
        raise errors.ModelNotFound(field="model", limit="none", given=reference)

    def drop(self, lease: int) -> None:
        pass


def ran(executor: Executor, request: Request) -> Outcome:
    """A program without models, from its start to its end."""
    outcome = executor.prepare(request).resume()
    assert isinstance(outcome, Outcome)
    return outcome


@pytest.fixture
def device() -> Unlimited:
    return Unlimited()


@pytest.fixture
def executor(device: Unlimited) -> Executor:
    return Executor(device, NoModels(), index=0, epoch=1)


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = Arena.create("test", MIB)
    yield made
    made.close_descriptor()


def argument(value: Any) -> pb.Argument:
    """`("ref", 3)` is node 3; numbers, text and lists of numbers are themselves."""
    match value:
        case ("ref", node):
            return pb.Argument(ref=pb.Ref(node=node))
        case str():
            return pb.Argument(text=value)
        case int():
            return pb.Argument(integer=value)
        case float():
            return pb.Argument(real=value)
    return pb.Argument(list=pb.ArgumentList(items=map(argument, value)))


def operation(name: str, *args: Any, **kwargs: Any) -> pb.Node:
    keywords = [pb.Keyword(name=key, value=argument(value)) for key, value in kwargs.items()]
    return pb.Node(operation=pb.Operation(name=name, args=map(argument, args), kwargs=keywords))


def ref(node: int) -> tuple[str, int]:
    return ("ref", node)


def output(node: int, *, keep: int = 0, fetch: bool = False) -> pb.Output:
    return pb.Output(ref=pb.Ref(node=node), keep=keep, fetch=fetch)


def request(nodes: list[pb.Node], outputs: list[pb.Output], body: bytes = b"", **limits: int) -> Request:
    message = pb.Program(nodes=nodes, outputs=outputs).SerializeToString()
    limits.setdefault("memory_limit", 0)
    return Request(memoryview(message), memoryview(body), LEASE, **limits)  # type: ignore[arg-type]


HUGE_VIEW = [operation("ones", [1]), operation("broadcast_to", ref(0), [10**13])]


def test_view_that_is_too_large_to_keep_is_an_error_of_its_node(executor: Executor) -> None:
    with pytest.raises(errors.OutOfMemory) as caught:
        ran(executor, request(HUGE_VIEW, [output(1, keep=7)]))
    assert (caught.value.node, caught.value.operation) == (1, "broadcast_to")
    assert executor.memory.held() == 0


def test_unexpected_error_is_remote_unless_the_device_is_broken(
    executor: Executor, device: Unlimited, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> int:
        raise RuntimeError("lost its clock")

    monkeypatch.setattr(device, "elapsed_ns", fail)
    asked = request([operation("ones", [4]), operation("abs", ref(0))], [output(1, keep=7)])
    with pytest.raises(errors.RemoteError, match="lost its clock") as caught:
        ran(executor, asked)
    assert caught.value.node == 1
    assert "Traceback" in caught.value.traceback
    assert executor.memory.held() == 0
    monkeypatch.setattr(device, "is_broken", lambda error: True)
    with pytest.raises(RuntimeError):
        ran(executor, asked)


def test_result_larger_than_the_limit_keeps_nothing(executor: Executor) -> None:
    asked = request([operation("ones", [1000])], [output(0, keep=7, fetch=True)], result_limit=4096)
    with pytest.raises(errors.InvalidInput, match="result size"):
        ran(executor, asked)
    assert executor.memory.held() == 0


def replies(arena: Arena, device: HostDevice, sent: list[Done]) -> Replies:
    def send(record: Record) -> None:
        assert isinstance(record, Done)
        sent.append(record)

    return Replies(arena, device, send, lambda: 0, threading.Lock())


def test_result_larger_than_the_arena_is_freed(executor: Executor, device: Unlimited, arena: Arena) -> None:
    outcome = ran(executor, request([operation("ones", [MIB])], [output(0, keep=7, fetch=True)]))
    assert executor.memory.held() == 8 * MIB
    with pytest.raises(errors.InvalidInput, match="result size"):
        replies(arena, device, []).succeed(Finished(1, 0, outcome))
    assert executor.memory.held() == 0


def test_download_that_fails_is_an_error_reply(executor: Executor, device: Unlimited, arena: Arena) -> None:
    def result() -> Outcome:  # needs more than half of the arena
        return ran(executor, request([operation("ones", [80_000])], [output(0, keep=7, fetch=True)]))

    sent: list[Done] = []
    writer = replies(arena, device, sent)
    device.breaks = True
    writer.succeed(Finished(1, 0, result()))
    assert (sent[0].failed, sent[0].body_size) == (1, 0)
    detail = bytes(arena.view[sent[0].offset : sent[0].offset + sent[0].result_size])
    error = wire.error_from(detail)
    assert isinstance(error, errors.OutOfMemory)
    assert "no room for the copy" in error.why
    assert executor.memory.held() == 0
    device.breaks = False
    writer.succeed(Finished(2, 0, result()))
    assert [done.failed for done in sent] == [1, 0], "the slab of the failed one is free again"


def chain(steps: int) -> list[pb.Node]:
    return [operation("ones", [MIB // 8]), *(operation("add", ref(i), 1.0) for i in range(steps))]


def test_memory_of_temporaries_comes_back_to_the_lease(executor: Executor) -> None:
    outcome = ran(executor, request(chain(20), [output(20, fetch=True)], memory_limit=2 * MIB))
    assert outcome.arrays[0][0] == 21
    with pytest.raises(errors.OutOfMemory) as caught:
        ran(executor, request(chain(20), [output(20, fetch=True)], memory_limit=2 * MIB - 1))
    assert (caught.value.node, caught.value.asked, caught.value.limit) == (1, MIB, 2 * MIB - 1)


def test_memory_that_a_view_needs_stays_counted(executor: Executor) -> None:
    nodes = [operation("ones", [MIB // 8]), operation("reshape", ref(0), [-1, 2]), operation("ones", [MIB // 8])]
    wanted = [output(1, fetch=True), output(2, fetch=True)]
    ran(executor, request(nodes, wanted, memory_limit=2 * MIB))
    with pytest.raises(errors.OutOfMemory):
        ran(executor, request(nodes, wanted, memory_limit=2 * MIB - 1))


def test_kept_arrays_and_copies_count(executor: Executor) -> None:
    ran(executor, request([operation("ones", [MIB // 8])], [output(0, keep=7)], memory_limit=MIB))
    nodes = [pb.Node(handle=pb.Handle(id=7, epoch=1)), operation("reshape", ref(0), [-1, 2])]
    ran(executor, request(nodes, [output(1, fetch=True)], memory_limit=MIB))
    with pytest.raises(errors.OutOfMemory) as caught:
        ran(executor, request(nodes, [output(1, keep=8)], memory_limit=2 * MIB - 1))
    assert (caught.value.node, caught.value.asked) == (1, MIB)
    assert executor.memory.held() == MIB
    ran(executor, request(nodes, [output(1, keep=8)], memory_limit=2 * MIB))
    assert executor.memory.held() == 2 * MIB
    huge = request(HUGE_VIEW, [output(1, keep=9)], memory_limit=3 * MIB)
    with pytest.raises(errors.OutOfMemory, match="declared no more"):
        ran(executor, huge)


def test_tensors_count(executor: Executor) -> None:
    tensor = pb.Node(tensor=pb.Tensor(dtype=pb.DTYPE_FLOAT64, shape=[8], size=64))
    ran(executor, request([tensor], [output(0, fetch=True)], bytes(64), memory_limit=64))
    with pytest.raises(errors.OutOfMemory) as caught:
        ran(executor, request([tensor], [output(0, fetch=True)], bytes(64), memory_limit=63))
    assert caught.value.asked == 64


@pytest.mark.parametrize(
    ("node", "given"),
    [
        (operation("add", ref(0), ref(0), where=0), "no argument 'where'"),
        (operation("add", ref(0), ref(0), out=ref(0)), "no argument 'out'"),
        (operation("add", ref(0), ref(0), ref(0)), "takes 2 positional arguments"),
        (operation("ones", [2], dtype="O"), "dtype as text"),
        (operation("astype", ref(0), "O"), "dtype as text"),
        (operation("astype", ref(0), ["O"]), "dtype as list"),
        (operation("ones", [2], device="cpu"), "device as text"),
    ],
)
def test_arguments_that_are_not_in_the_table(executor: Executor, node: pb.Node, given: str) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        ran(executor, request([operation("ones", [2]), node], [output(1, fetch=True)]))
    assert caught.value.field == "node 1"
    assert caught.value.limit.startswith(f"{node.operation.name}(")
    assert given in caught.value.given
    assert "(" not in caught.value.given


def test_keyword_twice(executor: Executor) -> None:
    node = operation("sum", ref(0), axis=0)
    node.operation.kwargs.append(node.operation.kwargs[0])
    with pytest.raises(errors.InvalidInput, match="keyword twice"):
        ran(executor, request([operation("ones", [2]), node], [output(1, fetch=True)]))


def test_preparing_many_values_with_one_last_use_is_linear() -> None:
    def seconds(count: int) -> float:
        last = operation("broadcast_arrays", *(ref(i) for i in range(count)))
        message = pb.Program(nodes=[*(operation("ones", [1]) for _ in range(count)), last]).SerializeToString()
        start = time.process_time()
        prepared = Preparer(0, 1).prepare(memoryview(message), 0)
        taken = time.process_time() - start
        assert np.array_equal(sorted(prepared.last_uses[count]), range(count))
        return taken

    assert seconds(90_000) < 30 * max(seconds(9_000), 0.02)


def test_figure_of_a_reply_is_taken_and_sent_under_one_lock(
    executor: Executor, device: Unlimited, arena: Arena
) -> None:
    figures, seen = threading.Lock(), []

    def held() -> int:
        seen.append(figures.locked())
        return 5

    def send(done: Record) -> None:
        seen.append(figures.locked())
        assert isinstance(done, Done)
        assert done.memory_held == 5

    replies = Replies(arena, device, send, held, figures)
    replies.succeed(Finished(1, 0, ran(executor, request([operation("ones", [2])], [output(0, fetch=True)]))))
    assert seen == [True, True]
    assert not figures.locked()


def test_held_without_one_lease() -> None:
    memory = LeaseMemory()
    memory.keep(1, 1, np.zeros(10))
    memory.keep(2, 1, np.zeros(100))
    memory.keep(2, 1, np.zeros(1000))
    assert (memory.held(), memory.held(1), memory.held(2), memory.held(3)) == (8080, 80, 8000, 0)
    assert (memory.held(without=2), memory.held(without=3)) == (80, 8080)
    memory.drop(2)
    memory.drop(2)
    assert (memory.held(), memory.held(without=2), memory.get(2, 1)) == (80, 80, None)


def test_gaps_between_values_are_cleared_in_a_used_slab(executor: Executor, device: Unlimited, arena: Arena) -> None:
    arena.view[:] = b"\xff" * arena.size
    sent: list[Done] = []
    nodes = [operation("ones", [3]), operation("ones", [8]), operation("ones", [0])]
    outcome = ran(executor, request(nodes, [output(node, fetch=True) for node in range(3)]))
    replies(arena, device, sent).succeed(Finished(1, 0, outcome))
    (done,) = sent
    start = done.offset + wire.aligned(done.result_size)
    one = np.ones(1).tobytes()
    assert bytes(arena.view[start : start + done.body_size]) == one * 3 + bytes(40) + one * 8
    assert arena.view[start + done.body_size] == 0xFF
