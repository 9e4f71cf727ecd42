# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Calls in the background and over many inputs: bounds, order, errors, ends; for threads and for event loops."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remotegpu import AsyncClient, Client, errors
from remotegpu._async.submission import AsyncSubmissions
from remotegpu.local import LocalServer
from remotegpu.submission import Submissions
from tests.conftest import wait_until
from tests.fixtures.event_loop import in_loop


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[LocalServer]:
    running = LocalServer(["--gpus", "cpu", "--models", str(models), "--arena", "16MiB"])
    yield running
    assert running.stop() == 0


def inputs(count: int) -> list[Any]:
    return [np.full((1, 64), n, np.float32) for n in range(count)]


class Work:
    """Counts what is under way; item `n` ends when it may, `bad` fails."""

    def __init__(self, bad: int | None = None) -> None:
        self.taken = self.begun = self.under_way = self.most = self.ended = 0
        self._bad = bad
        self._lock = threading.Lock()
        self.gates = [threading.Event() for _ in range(100)]
        # The same for tasks; and one more for each that has begun.
        self.doors = [asyncio.Event() for _ in range(100)]
        self.begins = asyncio.Semaphore(0)

    def items(self, count: int | None = None) -> Iterator[int]:
        for n in itertools.count() if count is None else range(count):
            self.taken += 1
            yield n

    def _begin(self) -> None:
        with self._lock:
            self.begun += 1
            self.under_way += 1
            self.most = max(self.most, self.under_way)

    def _end(self, n: int) -> int:
        with self._lock:
            self.under_way -= 1
            self.ended += 1
        if n == self._bad:
            raise KeyError(n)
        return n * 10

    def __call__(self, n: int) -> int:
        self._begin()
        assert self.gates[n].wait(20)
        return self._end(n)

    async def awaited(self, n: int) -> int:
        self._begin()
        self.begins.release()
        try:
            await self.doors[n].wait()
        finally:
            result = self._end(n)
        return result

    def open(self, *numbers: int) -> None:
        for n in numbers:
            self.gates[n].set()
            self.doors[n].set()


# ---- for threads ------------------------------------------------------------------------------------------


@pytest.fixture
def submissions() -> Iterator[Submissions]:
    made = Submissions()
    yield made
    made.close()
    wait_until(lambda: not callers(), "its threads have ended")


def callers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("remotegpu-call")]


def test_submit_gives_a_future_of_what_the_call_gives(server: LocalServer) -> None:
    with Client(server.url, timeout=20) as client:
        model = client.model("linear")
        assert not callers()
        calls = [model.submit(x) for x in inputs(40)]
        named = model.submit(x=inputs(1)[0], timeout=10)
        assert all(isinstance(call, futures.Future) for call in calls)
        for x, call in zip(inputs(40), calls, strict=True):
            np.testing.assert_allclose(call.result(20)["y"], model(x)["y"], rtol=1e-5)
        assert named.result(20).keys() == {"y"}
        assert isinstance(model.submit(np.zeros((1, 63), np.float32)).exception(20), errors.InvalidInput)
        assert client.statistics().connections == 1
    wait_until(lambda: not callers(), "the threads end with the client")
    with pytest.raises(errors.ConfigurationError, match="closed"):
        model.submit(inputs(1)[0])


@pytest.mark.parametrize("ordered", [True, False])
def test_map_gives_each_result_once(server: LocalServer, ordered: bool) -> None:
    with Client(server.url, timeout=20) as client:
        model = client.model("linear")
        wanted = [model(x)["y"] for x in inputs(50)]
        given: list[Any] = [{"x": x} if n % 2 else x for n, x in enumerate(inputs(50))]
        found = [outputs["y"] for outputs in model.map(given, in_flight=7, ordered=ordered)]
        if not ordered:
            found.sort(key=lambda y: float(abs(y - wanted[0]).sum()))
        np.testing.assert_allclose(np.stack(found), np.stack(wanted), rtol=1e-4, atol=1e-4)
        assert list(model.map([])) == []


@pytest.mark.parametrize("in_flight", [0, -1, 129, 1.5, "8"])
def test_bounds_that_are_none_are_refused_at_once(server: LocalServer, in_flight: Any) -> None:
    with Client(server.url) as client, pytest.raises(errors.InvalidInput, match="in_flight"):
        client.model("linear").map(inputs(1), in_flight=in_flight)
    with pytest.raises(errors.InvalidInput, match="in_flight"):
        AsyncClient(server.url).model("linear").map(inputs(1), in_flight=in_flight)


def test_never_more_under_way_than_may_be_and_inputs_are_taken_as_there_is_room(submissions: Submissions) -> None:
    work = Work()
    results = submissions.map(work, work.items(), 4, ordered=True)
    assert work.taken == 0
    work.open(0, 1)
    assert next(results) == 0
    wait_until(lambda: work.begun == 4, "the rest is under way")
    assert work.taken == 4
    assert next(results) == 10
    wait_until(lambda: work.begun == 5, "one more, in the place of the first")
    assert work.taken == 5
    work.open(*range(2, 40))
    assert list(itertools.islice(results, 30)) == list(range(20, 320, 10))
    results.close()
    assert work.most <= 4


def test_unordered_results_come_as_they_are_ready(submissions: Submissions) -> None:
    work = Work()
    results = submissions.map(work, work.items(5), 3, ordered=False)
    work.open(2)
    assert next(results) == 20
    work.open(1)
    assert next(results) == 10
    work.open(0, 3, 4)
    assert sorted(results) == [0, 30, 40]
    assert work.most <= 3


def test_error_comes_in_the_place_of_its_result(submissions: Submissions) -> None:
    work = Work(bad=2)
    work.open(*range(10))
    results = submissions.map(work, work.items(10), 4, ordered=True)
    assert [next(results), next(results)] == [0, 10]
    with pytest.raises(KeyError, match="2"):
        next(results)
    assert list(results) == []
    assert work.taken < 10


def test_error_of_the_inputs_ends_it(submissions: Submissions) -> None:
    work = Work()
    work.open(*range(10))

    def failing() -> Iterator[int]:
        yield 0
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        list(submissions.map(work, failing(), 4, ordered=True))
    blocking = [submissions.submit(work, 99) for _ in range(128)]
    wait_until(lambda: work.under_way == 128, "there is no thread left")
    with pytest.raises(OSError, match="no more"):
        list(submissions.map(work, failing(), 4, ordered=True))
    work.open(99)
    assert [call.result(20) for call in blocking] == [990] * 128
    assert submissions.submit(work, 1).result(20) == 10
    assert work.begun == 1 + 128 + 1  # not the one that was waiting for a thread


def test_closed_iterator_begins_nothing_more(submissions: Submissions) -> None:
    work = Work()
    with closing(submissions.map(work, work.items(), 4, ordered=True)) as results:
        work.open(0)
        assert next(results) == 0
        wait_until(lambda: work.begun == 4, "all that may be are under way")
    work.open(*range(1, 100))
    wait_until(lambda: work.under_way == 0, "and end")
    assert (work.taken, work.begun) == (4, 4)


def test_close_cancels_what_has_not_begun_and_may_be_called_by_a_call() -> None:
    work, submissions = Work(), Submissions()
    told = []

    def consume(ordered: bool) -> None:
        with pytest.raises(errors.ConfigurationError) as caught:
            list(submissions.map(work, [1, 1, 1], 2, ordered=ordered))
        told.append(str(caught.value))

    calls = [submissions.submit(work, min(n, 1)) for n in range(200)]
    wait_until(lambda: work.begun == 128, "as many threads as may be")
    consumers = [threading.Thread(target=consume, args=[ordered]) for ordered in (True, False)]
    for consumer in consumers:
        consumer.start()
    pool = submissions._pool
    assert pool is not None
    wait_until(lambda: pool._work_queue.qsize() == 200 - 128 + 4, "two of each consumer's calls have not begun")
    ended: list[None] = []
    calls[0].add_done_callback(lambda _: ended.append(submissions.close()))  # type: ignore[func-returns-value]
    work.open(0)
    wait_until(lambda: ended, "closed by a thread of its own")
    assert calls[-1].cancelled()
    work.open(1)
    wait_until(lambda: all(call.done() for call in calls), "all have ended")
    assert sum(call.cancelled() for call in calls) + work.ended == 200
    assert not work.under_way
    for consumer in consumers:
        consumer.join(10)
    assert told == 2 * ["client: it is closed; make a new one"]
    wait_until(lambda: not callers(), "the threads have ended")


# ---- for event loops --------------------------------------------------------------------------------------


@in_loop
async def test_submitted_tasks(server: LocalServer) -> None:
    async with AsyncClient(server.url, timeout=20) as client:
        model = client.model("linear")
        calls = [model.submit(x) for x in inputs(40)]
        assert all(isinstance(call, asyncio.Task) for call in calls)
        for x, call in zip(inputs(40), calls, strict=True):
            np.testing.assert_allclose((await call)["y"], (await model(x))["y"], rtol=1e-5)
        with pytest.raises(errors.InvalidInput):
            await model.submit(np.zeros((1, 63), np.float32))
        abandoned = model.submit(inputs(1)[0])
    assert abandoned.cancelled()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("asynchronous", [True, False])
def test_map_in_an_event_loop(server: LocalServer, ordered: bool, asynchronous: bool) -> None:
    async def given() -> AsyncIterator[Any]:
        for n, x in enumerate(inputs(50)):
            await asyncio.sleep(0)
            yield {"x": x} if n % 2 else x

    async def main() -> None:
        async with AsyncClient(server.url, timeout=20) as client:
            model = client.model("linear")
            wanted = [(await model(x))["y"] for x in inputs(50)]
            source = given() if asynchronous else inputs(50)
            found = [outputs["y"] async for outputs in model.map(source, in_flight=7, ordered=ordered)]
            if not ordered:
                found.sort(key=lambda y: float(abs(y - wanted[0]).sum()))
            np.testing.assert_allclose(np.stack(found), np.stack(wanted), rtol=1e-4, atol=1e-4)

    asyncio.run(main())


@in_loop
async def test_bounds_order_and_errors_in_an_event_loop() -> None:
    work, submissions = Work(bad=6), AsyncSubmissions()
    work.open(*range(10))
    async with aclosing(submissions.map(work.awaited, work.items(), 3, ordered=True)) as results:
        assert work.taken == 0
        assert await anext(results) == 0
        assert work.taken == 3
        assert [await anext(results) for _ in range(5)] == [10, 20, 30, 40, 50]
        with pytest.raises(KeyError, match="6"):
            await anext(results)
        assert [item async for item in results] == []
    assert work.most <= 3
    other = Work()
    unordered = submissions.map(other.awaited, other.items(3), 2, ordered=False)
    other.open(1)
    assert await anext(unordered) == 10
    other.open(0, 2)
    assert sorted([item async for item in unordered]) == [0, 20]
    assert asyncio.all_tasks() == {asyncio.current_task()}


@in_loop
async def test_early_end_cancels_the_calls_under_way() -> None:
    work, submissions = Work(), AsyncSubmissions()
    work.open(0)
    async with aclosing(submissions.map(work.awaited, work.items(), 4, ordered=True)) as results:
        async for result in results:
            assert result == 0
            break
    assert (work.taken, work.under_way) == (4, 0)
    waiting = asyncio.create_task(anext(submissions.map(work.awaited, iter([50, 51]), 2, ordered=True)))
    for _ in range(6):  # four before
        await work.begins.acquire()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert work.under_way == 0
    closed = asyncio.create_task(anext(submissions.map(work.awaited, iter([60]), 2, ordered=True)))
    await work.begins.acquire()
    await submissions.close()
    with pytest.raises(errors.ConfigurationError, match="closed"):
        await closed
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_results_of_slow_calls_are_not_waited_for_in_turn(server: LocalServer) -> None:
    """Calls are under way together: in the time of one, and not of all."""
    with Client(server.url, timeout=20) as client:
        model = client.model("linear")
        model(inputs(1)[0])  # from now on results are known to be small, and take the one stream
        lease = client.alloc(exclusive=True)
        results = model.map(inputs(8), in_flight=8)
        first = client.submissions.submit(next, results)
        conversation = client._connected()._conversation
        wait_until(lambda: conversation._calls.pending == 8, "all of them wait for the device")
        lease.dealloc()
        started = time.monotonic()
        assert first.result(20).keys() == {"y"}
        assert len(list(results)) == 7
        assert time.monotonic() - started < 5
