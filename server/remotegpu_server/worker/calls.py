# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The course of calls in a worker: each begins, pauses at model calls, goes on when the model has run, and is answered.

Everything here is the main thread's, but for `Calls.cancellation`.
"""

from __future__ import annotations

import dataclasses
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from remotegpu import errors, wire
from remotegpu_server import records
from remotegpu_server.backends.models import Model

from .batches import Batches, Waiting
from .cancellation import Cancellation
from .direct import Direct
from .executor import Execution, Executor, ModelStep, Outputs, Request
from .inference import Ended, NotJoinable, Sessions, join, kind_of, split
from .inputs import NOTHING, Attached
from .order import Touched
from .outcome import Outcome
from .prepared import Loading
from .replies import Finished, Replies


@dataclass(slots=True, eq=False)
class Task:
    """A call that has arrived and has not ended."""

    run: records.Run
    started_ns: int = 0
    execution: Execution | None = None
    # Of a lease's handles; None for a call without a lease.
    touched: Touched | None = None
    # The model step that it waits for, and where it stands for that.
    step: ModelStep | None = None
    waiting: Waiting | None = None
    # What it goes on with.
    outputs: Outputs | None = None
    # Of time.perf_counter_ns.
    paused_ns: int = 0
    # Calls in its last model run, if it was the first of them.
    batch: int = 0

    def close(self) -> None:
        """Frees what it holds."""
        self.step = self.outputs = None
        if self.execution is not None:
            self.execution.close()


class Calls:
    """All calls of one worker."""

    def __init__(
        self,
        executor: Executor,
        replies: Replies,
        sessions: Sessions[list[Task]],
        send: Callable[[records.Record], None],
        requests: memoryview,
        max_delay: float,
    ) -> None:
        """`requests`: the request arena; `max_delay`: how long a model call waits for others, seconds."""
        self.cancellation: Cancellation[Task] = Cancellation(Task.close)
        # The lease whose last call is being answered; 0: none.
        self.finishing = 0
        self._executor = executor
        self._replies = replies
        self._sessions = sessions
        self._send = send
        self._requests = requests.toreadonly()
        self._batches = Batches(max_delay)
        self._waits_for_company = max_delay > 0
        # Those that have arrived; they are known to `cancellation` when they begin.
        self._new: deque[records.Run] = deque()
        # Calls that can go on: their model has run, or those that they had to wait for have ended.
        self._ready: deque[int] = deque()
        # Calls whose model is being loaded.
        self._loading: list[int] = []
        # With sessions of other threads this one goes on while a model runs.
        self._direct = None
        if not sessions.are_threads:
            self._direct = Direct(executor, replies, self._end, self._requests)
        # Models that were found not to give a row for a row.
        self._apart: weakref.WeakSet[Model] = weakref.WeakSet()

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do before the next packet."""
        return not (self._new or self._ready or self._loading or len(self._batches) or self._sessions.busy)

    def patience(self) -> float | None:
        """How long there is nothing to do unless a packet comes or the bell rings. Seconds; None: for ever."""
        if self._new or self._ready:
            return 0.0
        due = self._batches.due() if self._sessions.free else None
        return None if due is None else max(due - time.monotonic(), 0.0)

    def arrive(self, run: records.Run) -> None:
        """A call was read from the socket."""
        self._new.append(run)

    def models_arrived(self) -> None:
        """Models may be there that were not: calls that wait for one ask again."""
        self._ready += self._loading
        self._loading.clear()

    def begin(self) -> None:
        """Begins all calls that have arrived, and takes up those that can go on."""
        for call in self.cancellation.gone():
            self._forget(call)
        for _ in range(len(self._ready)):
            self._go_on(self._ready.popleft())
        while self._new:
            self._begin(self._new.popleft())

    def run_models(self) -> None:
        """Has the next models run, as many as there are sessions for, and goes on with the calls of those that have."""
        while len(self._batches) and self._sessions.free and (batch := self._batches.next(time.monotonic())):
            self._run_models(batch)
            if self._collect():
                return  # others may have arrived meanwhile
        self._collect()

    def _collect(self) -> bool:
        """Hands out what models have made. Whether there was anything."""
        any_ended = False
        while (ended := self._sessions.ended()) is not None:
            any_ended = True
            self._ran(ended)
        return any_ended

    # From one pause of a call to the next.

    def _begin(self, run: records.Run) -> None:
        # One that comes when nothing else is there need not stand in line for its model.
        alone = not (self._new or self._ready or len(self._batches) or self._sessions.busy or self._waits_for_company)
        # First of all: once it is taken back, its slab may be another's, and its lease may have been dropped.
        if not self.cancellation.begin(run.call):
            return
        if alone and self._direct is not None and self._direct.run(run):
            return
        task = Task(run, time.monotonic_ns())
        try:
            _check_deadline(run, task.started_ns)
            task.execution = self._executor.prepare(self._request(run))
        except errors.Error as error:
            self._fail(task, error)
            return
        if run.lease:
            task.touched = task.execution.touched(finishes=bool(run.finish))
            if not self._executor.order.may_begin(run.call, run.lease, task.touched):
                self._hold(task)
                return
        self._advance(task, None, alone=alone)

    def _request(self, run: records.Run) -> Request:
        start = run.offset
        body = start + wire.aligned(run.program_size)
        attached = NOTHING
        if run.attachments_size:
            message = self._requests[body : body + run.attachments_size]
            body += wire.aligned(run.attachments_size)
            attached = Attached.of(message, self._requests[body:])
        return Request(
            program=self._requests[start : start + run.program_size],
            body=self._requests[body : body + run.body_size],
            lease=run.lease,
            memory_limit=run.memory_limit,
            result_limit=len(self._requests),
            call=run.call,
            attached=attached,
        )

    def _enter(self, call: int) -> Task | None:
        """A call that paused, if it is still there and somebody waits for it."""
        task = self.cancellation.enter(call)
        if task is None:
            return None
        assert task.execution is not None, "it has begun"
        task.execution.waited_ns += time.perf_counter_ns() - task.paused_ns
        try:
            _check_deadline(task.run, time.monotonic_ns())
        except errors.Error as error:
            self._fail(task, error)
            return None
        return task

    def _go_on(self, call: int) -> None:
        task = self._enter(call)
        if task is not None:
            outputs, task.outputs = task.outputs, None
            self._advance(task, outputs)

    def _advance(self, task: Task, outputs: Outputs | Exception | None, *, alone: bool = False) -> None:
        assert task.execution is not None, "it has begun"
        try:
            reached = task.execution.resume(outputs)
            if isinstance(reached, Outcome):
                self._succeed(task, reached)
                return
        except errors.Error as error:
            self.finishing = 0  # it goes on
            self._fail(task, error)
            return
        if isinstance(reached, Loading):
            if self._pause(task):
                self._loading.append(task.run.call)
        elif alone:
            task.execution.begun = True
            if task.touched is not None:
                task.execution.pauses(task.touched)
            self._sessions.submit([task], reached.model, reached.feed)
        else:
            self._await_model(task, reached)

    def _await_model(self, task: Task, step: ModelStep) -> None:
        model, kind, rows = step.model, None, 0
        if model.max_batch > 1 and not step.alone and model not in self._apart:
            kind, rows = kind_of(step.feed)
        task.step = step
        task.waiting = Waiting(task.run.call, task.run.caller, id(model), kind, rows, model.max_batch, time.monotonic())
        if self._pause(task):
            self._batches.add(task.waiting)

    def _pause(self, task: Task) -> bool:
        """Whether it was not taken back."""
        assert task.execution is not None, "it has begun"
        if task.touched is not None:
            task.execution.pauses(task.touched)
        return self._hold(task)

    def _hold(self, task: Task) -> bool:
        assert task.execution is not None, "it has begun"
        task.paused_ns = time.perf_counter_ns()
        if self.cancellation.pause(task.run.call, task, fresh=not task.execution.begun):
            return True
        task.close()
        self._send(records.Cancelled(task.run.call))
        self._forget(task.run.call)
        return False

    # Models.

    def _run_models(self, batch: list[Waiting]) -> None:
        tasks = [task for waiting in batch if (task := self._enter(waiting.call)) is not None]
        if not tasks:
            return
        feeds = []
        for task in tasks:
            assert task.step is not None, "it waits for one"
            assert task.execution is not None, "it has begun"
            task.execution.begun = True
            model = task.step.model
            feeds.append(task.step.feed)
            task.step = None if len(tasks) == 1 else task.step  # after a failed batch they are run one by one
        try:
            feed = join(self._executor.device, feeds)
        except Exception as error:
            self._ran(Ended(tasks, model, error, time.perf_counter_ns()))
            return
        del feeds
        self._sessions.submit(tasks, model, feed)

    def _ran(self, ended: Ended[list[Task]]) -> None:
        tasks, outcome = ended.ticket, ended.outcome
        since = time.perf_counter_ns() - ended.at_ns
        for task in tasks:
            assert task.execution is not None, "it has begun"
            task.execution.waited_ns += since
            task.batch = 0
        tasks[0].batch = len(tasks)
        if len(tasks) == 1:
            self._advance(tasks[0], outcome if isinstance(outcome, Exception) else Outputs(outcome))
        elif isinstance(outcome, Exception):
            if self._executor.device.is_broken(outcome):
                raise outcome
            self._run_apart(tasks)
        else:
            self._share_out(tasks, ended.model, outcome)

    def _share_out(self, tasks: list[Task], model: Model, outputs: list[object]) -> None:
        try:
            parts = split(outputs, [task.waiting.rows for task in tasks if task.waiting is not None])
        except NotJoinable:
            self._apart.add(model)
            self._run_apart(tasks)
            return
        for task, part in zip(tasks, parts, strict=True):
            task.step, task.outputs = None, Outputs(part, shared=True)
            # One that is taken up before it may run for long: the others can be taken back meanwhile.
            if self._pause(task):
                self._ready.append(task.run.call)

    def _run_apart(self, tasks: list[Task]) -> None:
        """Each by itself, so that only those fail that must."""
        for task in tasks:
            assert task.waiting is not None, "it waits for a model"
            task.waiting = dataclasses.replace(task.waiting, kind=None)
            if self._pause(task):
                self._batches.add(task.waiting)

    # Ends.

    def _succeed(self, task: Task, outcome: Outcome) -> None:
        """Raises InvalidInput if the result is larger than a reply may be."""
        run, execution = task.run, task.execution
        assert execution is not None, "it has run"
        self.finishing = run.lease if run.finish else 0
        # What has been computed is kept no longer than its reply needs it.
        task.execution = None
        self._replies.succeed(Finished(run.call, task.started_ns + execution.waited_ns, outcome, task.batch))
        if run.finish and run.lease:
            self._executor.drop(run.lease)
        self.finishing = 0
        self._end(run.call)

    def _fail(self, task: Task, error: errors.Error) -> None:
        task.close()
        self._replies.fail(task.run.call, task.started_ns, error)
        self._end(task.run.call)

    def _end(self, call: int) -> None:
        if self._replies.waits(call):
            self._send(records.Parked(call))
        self.cancellation.end(call)
        self._forget(call)

    def _forget(self, call: int) -> None:
        """It has ended, or was taken back."""
        self._batches.remove(call)
        self._ready += self._executor.order.ended(call)


def _check_deadline(run: records.Run, now: int) -> None:
    if 0 < run.deadline_ns < now:
        raise errors.DeadlineExceeded(deadline=0)  # nobody waits for it, so it is not run any further
