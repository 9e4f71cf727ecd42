# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Model calls of several programs in one run, on real workers: answers, failures, who waits and who does not."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remotegpu import Client, errors, wire
from remotegpu.local import LocalServer
from remotegpu.v1 import program_pb2 as pb
from remotegpu.v1 import worker_pb2
from remotegpu_server import records
from remotegpu_server.gateway.models import ModelRegistry
from remotegpu_server.supervisor.life import Life
from remotegpu_server.supervisor.worker import DeviceSpec, DeviceWorker, WorkerOptions
from tests.conftest import wait_until
from tests.fixtures.probe_model import probe

MOST = 8
FLOAT32 = 11


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("probes")
    for name in ("probe", "other"):
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / "model.onnx").write_bytes(probe())
    return root


class Listener:
    """Nobody has to hear of anything here."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


@dataclass
class Bench:
    """A worker process, and the loop of its daemon's side. `slow`: turns that take it about 0.5 s."""

    worker: DeviceWorker
    runner: asyncio.Runner
    slow: float = 0.0

    def run(self, scenario: Callable[[Bench], Awaitable[None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(30):
                await scenario(self)
                life = await self.worker.life()
                await until(lambda: not life.arena_used, "all slabs are free")

        self.runner.run(bounded())

    async def measure(self) -> None:
        await self.call((0, 0, 0))
        began = time.monotonic()
        await self.call((5000, 0, 0))
        self.slow = 5000 * 0.5 / (time.monotonic() - began)

    async def call(self, *rows: tuple[float, float, float], model: str = "probe", **options: Any) -> Any:
        """Both outputs of a model for these rows."""
        outputs = [pb.Output(ref=pb.Ref(node=1), every_port=True, fetch=True)]
        return await self.program([tensor(len(rows)), infer(model)], outputs, rows, **options)

    async def program(
        self, nodes: list[pb.Node], outputs: list[pb.Output], rows: tuple[Any, ...] = (), **options: Any
    ) -> Any:
        """Runs a program, and gives the arrays that it fetches."""
        life: Life = await self.worker.life()
        message, body = pb.Program(nodes=nodes, outputs=outputs).SerializeToString(), np.asarray(rows, np.float32)
        start = wire.aligned(len(message))
        slab = await life.allocate(start + body.nbytes)
        slab.view[: len(message)] = message
        slab.view[start : start + body.nbytes] = body.tobytes()
        fields = {"lease": 0, "memory_limit": 0, "finish": 0, "caller": 1} | options
        rest = {name: fields.pop(name) for name in ("queue_deadline", "ended") if name in fields}
        run = records.Run(0, slab.offset, len(message), body.nbytes, **fields)
        reply = await life.call(slab, run, asyncio.get_running_loop().time() + 20, **rest)
        try:
            if reply.done.failed:
                raise wire.error_from(reply.result)
            values = pb.Result.FromString(bytes(reply.result)).values
            parts = [reply.body[value.offset : value.offset + value.size] for value in values if value.size]
            return [np.frombuffer(bytes(part), np.float32) for part in parts]
        finally:
            reply.close()

    async def busy(self, times: float = 1.0, **options: Any) -> asyncio.Task[Any]:
        """Occupies the worker for about half a second times `times`."""
        task = asyncio.create_task(self.call((self.slow * times, 0, 0), **options))
        await asyncio.sleep(0.1)  # it has begun by then; nothing here fails if it has not, but proves less
        return task


def tensor(rows: int) -> pb.Node:
    return pb.Node(tensor=pb.Tensor(dtype=FLOAT32, shape=(rows, 3), size=12 * rows))  # type: ignore[arg-type]


def infer(model: str = "probe", node: int = 0) -> pb.Node:
    return pb.Node(model=pb.ModelCall(model=model, inputs=[pb.ModelInput(ref=pb.Ref(node=node))]))


def ones(size: int) -> list[pb.Node]:
    shape = pb.Argument(list=pb.ArgumentList(items=[pb.Argument(integer=size)]))
    return [pb.Node(operation=pb.Operation(name="ones", args=[shape]))]


async def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.01)  # paces the asking; the condition decides


def bench(folder: Path, **options: Any) -> Iterator[Bench]:
    with asyncio.Runner() as runner:

        async def start() -> DeviceWorker:
            made = WorkerOptions(ModelRegistry(folder).table_for, 1 << 20, 1, max_batch=MOST, **options)
            worker = DeviceWorker(DeviceSpec(0, "cpu", "CPU", "CPU-0", 1 << 31), made, Listener())
            worker.start()
            return worker

        async def stop() -> None:
            started.worker.stop()
            await until(lambda: not started.worker.pid, "its process is gone")

        started = Bench(runner.run(start()), runner)
        runner.run(started.measure())
        yield started
        runner.run(stop())


@pytest.fixture(scope="module")
def one(folder: Path) -> Iterator[Bench]:
    """A worker that runs one model at once."""
    yield from bench(folder)


@pytest.fixture(scope="module")
def two(folder: Path) -> Iterator[Bench]:
    """One that runs two."""
    yield from bench(folder, sessions=2)


def test_many_threads_get_their_own_answers_from_few_runs(folder: Path) -> None:
    server = LocalServer(["--gpus", "cpu", "--models", str(folder), "--arena", "16MiB", "--slots", "64"])
    found: dict[int, Any] = {}
    with Client(server.url, timeout=30) as client:
        model = client.model("probe")
        model(np.zeros((1, 3), np.float32))

        def call(number: int) -> None:
            found[number] = model(np.array([[0, number % 10, number]], np.float32))

        slow = threading.Thread(target=model, args=(np.array([[40_000, 0, 0]], np.float32),))
        slow.start()
        wait_until(lambda: client.top().devices[0].arena_used, "the slow call is with the worker")
        threads = [threading.Thread(target=call, args=(number,)) for number in range(32)]
        for thread in threads:
            thread.start()
        for thread in (slow, *threads):
            thread.join()
    assert server.stop() == 0
    for number in range(32):
        assert found[number]["y"].tolist() == [[2 * number + number % 10 * 10]]
    # Half of them, at least, shared a run with three others or more.
    assert sum(answer["rows"][0, 0] >= 4 for answer in found.values()) >= 16


def test_calls_that_come_while_the_worker_is_busy_share_a_run_and_a_lone_call_runs_at_once(one: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        slow = await bench.busy()
        answers = await asyncio.gather(
            *(bench.call((0, number, number), (0, 0, 1)) for number in range(4)), bench.call((0, 1, 1), model="other")
        )
        for number, (y, rows) in enumerate(answers[:4]):
            assert (y.tolist(), rows.tolist()) == ([12 * number, 2], [8, 8])
        assert answers[4][0].tolist() == [12]
        assert (await slow)[1].tolist() == [0]

    one.run(scenario)


def test_item_that_fails_fails_alone(one: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        slow = await bench.busy()
        answers: list[Any] = await asyncio.gather(
            *(bench.call((0, 10 if number == 3 else number, 0)) for number in range(6)), return_exceptions=True
        )
        assert isinstance(answers[3], errors.RemoteError)
        assert (answers[3].node, answers[3].operation) == (1, "model probe")
        for number in (0, 1, 2, 4, 5):
            assert answers[number][0].tolist() == [10 * number]
        await slow
        assert bench.worker.epoch == 1

    one.run(scenario)


def test_parts_of_a_batch_are_charged_to_their_leases_with_their_own_size(one: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        slow = await bench.busy()
        outputs = [pb.Output(ref=pb.Ref(node=1), fetch=True, keep=1)]

        def limited(lease: int, limit: int) -> Awaitable[Any]:
            return bench.program([tensor(1), infer()], outputs, ((0, 1, 1),), lease=lease, memory_limit=limit)

        # 12 bytes of input, two outputs of 4, and the one that is kept. With the whole of the batch it were 76.
        answers: list[Any] = await asyncio.gather(
            *(limited(100 + number, 24) for number in range(7)), limited(200, 19), return_exceptions=True
        )
        assert [answer[0].tolist() for answer in answers[:7]] == [[12]] * 7
        assert isinstance(answers[7], errors.OutOfMemory)
        await slow
        assert bench.worker.memory_held == 7 * 4
        for lease in (*range(100, 107), 200):
            bench.worker.drop(lease)
        await until(lambda: not bench.worker.memory_held, "it is given back")

    one.run(scenario)


def test_call_without_a_lease_keeps_nothing(one: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        with pytest.raises(errors.InvalidInput, match="this call has none"):
            await bench.program(ones(2), [pb.Output(ref=pb.Ref(node=0), keep=5)])
        assert bench.worker.memory_held == 0

    one.run(scenario)


def test_programs_of_a_lease_see_each_others_handles_in_order(one: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        slow = await bench.busy()
        recall = [pb.Node(handle=pb.Handle(id=1, epoch=1))]
        kept = bench.program([tensor(1), infer()], [pb.Output(ref=pb.Ref(node=1), keep=1)], ((0, 1, 1),), lease=7)
        used = bench.program(recall, [pb.Output(ref=pb.Ref(node=0), fetch=True)], lease=7)
        freed = bench.program(ones(1), [pb.Output(ref=pb.Ref(node=0), keep=1)], lease=7, finish=1)
        _, (found,), _ = await asyncio.gather(kept, used, freed)
        assert found.tolist() == [12]
        await slow
        await until(lambda: not bench.worker.memory_held, "the last one has freed all")

    one.run(scenario)


def test_program_of_a_lease_waits_for_one_whose_only_model_runs_in_another_thread(two: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        keep = [pb.Output(ref=pb.Ref(node=1), keep=1)]
        kept = asyncio.create_task(
            bench.program([tensor(1), infer()], keep, ((bench.slow, 1, 1),), lease=7, memory_limit=1 << 20)
        )
        await asyncio.sleep(0.1)  # it runs alone, with nobody before it
        recall = [pb.Node(handle=pb.Handle(id=1, epoch=1))]
        (found,) = await bench.program(recall, [pb.Output(ref=pb.Ref(node=0), fetch=True)], lease=7, finish=1)
        assert found.tolist() == [12]
        await kept

    two.run(scenario)


def test_call_that_waits_too_long_is_taken_back_in_time_wherever_it_waits(one: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        loop, ended = asyncio.get_running_loop(), []

        async def late(seconds: float, **options: Any) -> float:
            began = loop.time()
            with pytest.raises(errors.QueueTimeout) as caught:
                await bench.call((0, 0, 0), queue_deadline=began + seconds, ended=lambda: ended.append(1), **options)
            assert seconds <= caught.value.waited <= loop.time() - began
            return loop.time() - began

        slow = await bench.busy(2)
        # Read and begun when the first has run; one runs then, and the other waits for it at its model.
        second = asyncio.create_task(bench.call((2 * bench.slow, 0, 0)))
        paused = asyncio.create_task(late(1.4, model="other"))
        assert await late(0.15) < 0.35  # in the socket
        crowd = [asyncio.create_task(bench.call((0, 0, 0))) for _ in range(2 * MOST)]
        await asyncio.sleep(0)
        assert await late(0.15, caller=1) < 0.35  # not sent yet
        assert not slow.done()
        assert await paused < 1.6
        assert slow.done()
        assert not second.done()
        assert len(ended) == 3
        await asyncio.gather(slow, second, *crowd)

    one.run(scenario)


def test_call_that_has_begun_in_time_is_not_taken_back_when_its_batch_is_shared_out(one: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        loop = asyncio.get_running_loop()
        slow = await bench.busy()
        due = loop.time() + 0.9
        row = 2 * bench.slow, 0, 1
        (y, rows), _ = await asyncio.gather(*(bench.call(row, row, queue_deadline=due) for _ in range(2)))
        assert loop.time() > due
        assert rows.tolist() == [4, 4]  # it was one batch
        assert y.tolist() == [2, 2]
        await slow

    one.run(scenario)


def test_call_that_is_cancelled_is_not_run(one: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        ended: list[int] = []
        slow = await bench.busy()
        # Were it run, it would take ten seconds.
        tasks = [asyncio.create_task(bench.call((20 * bench.slow, 0, 0), ended=lambda: ended.append(1)))]
        await asyncio.sleep(0.05)
        tasks[0].cancel()
        await until(lambda: ended, "it was taken back")
        assert not slow.done()
        began = time.monotonic()
        await asyncio.gather(slow, bench.call((0, 0, 0)))
        assert time.monotonic() - began < 2

    one.run(scenario)


def test_many_calls_of_one_caller_do_not_hold_up_another(one: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        slow = await bench.busy()
        order: list[int] = []

        async def call(caller: int) -> None:
            await bench.call((0, 0, 0), caller=caller)
            order.append(caller)

        greedy = [asyncio.create_task(call(1)) for _ in range(10 * MOST)]
        await asyncio.sleep(0)
        await asyncio.gather(call(2), call(2), slow)
        # The first runs hold what had been sent before the other came; then both take turns.
        assert order.index(2) <= 2 * MOST
        assert len(order) < 5 * MOST
        await asyncio.gather(*greedy)

    one.run(scenario)


def test_with_two_sessions_two_models_run_at_once_and_programs_meanwhile(two: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        began = time.monotonic()
        slow = [await bench.busy(2), await bench.busy(2, model="other")]
        fast = await bench.program(ones(2), [pb.Output(ref=pb.Ref(node=0), fetch=True)])
        assert fast[0].nbytes == 16
        assert not any(task.done() for task in slow)
        waiting = asyncio.create_task(bench.call((0, 10, 0)))
        ((y, _), _) = await asyncio.gather(*slow)
        assert y.tolist() == [0]
        with pytest.raises(errors.RemoteError):
            await waiting
        assert time.monotonic() - began < 30

    two.run(scenario)


def test_commands_are_answered_while_a_model_runs(one: Bench) -> None:
    async def scenario(bench: Bench) -> None:
        slow = await bench.busy()
        life = await bench.worker.life()
        with pytest.raises(errors.ProtocolError):
            await life.command(b"\xff")
        missing = worker_pb2.WorkerCommand(load=worker_pb2.ModelFile(id=99, name="x", version="1", path="/nowhere"))
        with pytest.raises(errors.ModelUnusable):
            await life.command(missing.SerializeToString())
        with pytest.raises(errors.InvalidInput, match="size of an arena"):
            await life.command(bytes(2 << 20))
        assert not slow.done()
        await slow

    one.run(scenario)
