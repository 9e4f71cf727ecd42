# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The orchestrator's threads: one receives, one extends, one for each job; the caller's own waits for the end.

The receiver takes one message, and no other before that one's jobs have their leases: so a busy scheduler is asked
once, and wakes it; what waits is in the queue, where other orchestrators may take it; an empty queue holds no device.
What is decided is `job`'s; here it is done.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from remotegpu import errors
from remotegpu.aws.answers import Delivery, Queue, ServiceError
from remotegpu.aws.services import Services
from remotegpu.client import Client
from remotegpu.lease import Lease
from remotegpu.orchestrator import events, job, leasing
from remotegpu.orchestrator.course import Course, Place
from remotegpu.orchestrator.metrics import JobReport, Outcome, told
from remotegpu.orchestrator.progress import Reporter
from remotegpu.orchestrator.settings import Settings

# How long jobs that run may go on when the process is to end; what is left then is given back. Seconds.
DRAIN = 3.0
# For how long after that the receiver's last request for a message is waited for, beyond its own time. Seconds.
LAST_RECEIPT = 2.0
# Between attempts to reach AWS or a scheduler that is away, at first and at most. Seconds.
LEAST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
# A lease ends so long after its job's time is over, if nobody gives it back. Seconds.
LEASE_MARGIN = 30.0


@dataclass(frozen=True, slots=True)
class Edges:
    """With whom a runner speaks. `line` waits for leases and is closed to end that; `client` holds and ends them."""

    services: Services
    queue: Queue
    line: Client
    client: Client
    course: Course
    reporter: Reporter


@dataclass(slots=True, eq=False)
class _Task:
    """What is known of one job beside its state."""

    source: events.Source
    place: Place | None = None
    lease: Lease | None = None
    waited: float = 0.0


@dataclass(slots=True, eq=False)
class _Held:
    """A message that is held."""

    delivery: Delivery
    message: job.Message
    age: float
    tasks: Sequence[_Task] = field(default=())
    # Held while the queue is told, so that what was given back is not hidden again by an extension that was under way.
    telling: threading.Lock = field(default_factory=threading.Lock)


class Runner:
    """Runs until the queue was empty for long enough, or `stop`."""

    def __init__(self, settings: Settings, edges: Edges) -> None:
        self._settings, self._edges = settings, edges
        # Guards what follows, and is notified of every change.
        self._changed = threading.Condition()
        self._held: list[_Held] = []
        self._busy = 0  # threads of jobs
        self._hung = 0  # of them those whose time was over
        self._stopping = False
        self._over = False
        self._away = False  # whether the scheduler gave no answer, or none that helps
        self._passing = False  # whether S3 is what failed, when an object was last looked at
        # A SimpleQueue may be written to by a signal handler.
        self._ends: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    @property
    def busy(self) -> int:
        """Jobs that run."""
        return self._busy

    def stop(self) -> None:
        """Has `run` give back what is held, and return. For signal handlers too."""
        self._ends.put(None)

    def run(self) -> None:
        """Works. Raises ConfigurationError if functions that do not end take up all places, and whatever ended a
        thread; what was held has been given back by then."""
        loops = (self._receive_all, self._keep)
        threads = [threading.Thread(target=self._guarded, args=(loop,), daemon=True) for loop in loops]
        for thread in threads:
            thread.start()
        why = self._ends.get()
        try:
            self._give_back()
            threads[0].join(self._settings.wait + LAST_RECEIPT)
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()
            threads[1].join()
        if why is not None:
            raise why

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:  # of a thread of ours: `run` raises it
            self._ends.put(error)

    def _give_back(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._edges.line.close()
        with self._changed:
            self._changed.wait_for(lambda: self._busy <= self._hung, DRAIN)
            held = list(self._held)
        for each in held:
            self._step(each, job.Stopped())
        self._end_leases([task for each in held for task in each.tasks])

    # Receiving.

    def _receive_all(self) -> None:
        empty_since: float | None = None
        pause = LEAST_PAUSE
        while self._has_room():
            if self._away or self._passing:
                pause, self._passing = self._pause(pause), False
                if self._away and not self._scheduler_answers():
                    continue
            limit, now = self._settings.empty_timeout, time.monotonic()
            if self._busy or empty_since is None:
                empty_since = now
            elif limit and now - empty_since >= limit:
                break
            try:
                delivery = self._receive(limit)
            except ServiceError as error:
                self._edges.reporter.note(str(error))
                pause = self._pause(pause)
                continue
            if delivery is not None:
                self._take(delivery)
                empty_since = None
            if not (self._away or self._passing):
                pause = LEAST_PAUSE
        self._ends.put(None)

    def _receive(self, empty_timeout: float) -> Delivery | None:
        wait = self._settings.wait
        if empty_timeout:
            wait = min(wait, max(round(empty_timeout), 1))
        return self._edges.services.receive(self._edges.queue, wait=wait, visibility=self._settings.visibility)

    def _has_room(self, seconds: float | None = None) -> bool:
        """Waits until one more job may run; False if the process is to end first, or after so long."""
        most = self._settings.in_flight
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._busy < most or self._hung >= most, seconds)
            if self._hung >= most and not self._stopping:
                why = f"{most} jobs still run though their time was over, so none can begin"
                raise errors.ConfigurationError(setting="--result-timeout", why=why)
            return not self._stopping and self._busy < most

    def _pause(self, seconds: float) -> float:
        """Waits, and tells the next time to wait."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, seconds)
        return min(seconds * 2, LONGEST_PAUSE)

    def _scheduler_answers(self) -> bool:
        """Without a message in hand: while the scheduler is away none is taken, so none counts as delivered."""
        if why := leasing.obstacle(self._edges.client, self._settings.gpus):
            self._edges.reporter.note(why)
        self._away = bool(why)
        return not why

    def _take(self, delivery: Delivery) -> None:
        now = time.monotonic()
        try:
            sources: Sequence[events.Source] | None = events.parse(delivery.body)
        except errors.InvalidInput as error:
            self._edges.reporter.note(f"message {delivery.id}, delivery {delivery.count}: {error}")
            sources = None
        message = job.Message(
            count=None if sources is None else len(sources),
            deliveries=delivery.count,
            received=now,
            visibility=self._settings.visibility,
            patience=self._settings.result_timeout,
        )
        age = max(time.time() - delivery.sent_ms / 1000, 0.0)
        held = _Held(delivery, message, age, [_Task(source) for source in sources or ()])
        with self._changed:
            self._held.append(held)
            effects = deque(message.begin() if not self._stopping else message.handle(job.Stopped(), now))
            self._changed.notify_all()
        while effects:
            event = self._begin(held, effects.popleft())
            if event is not None:
                effects.extend(self._decide(held, event))
                if isinstance(event, job.Granted) and held.message.over:  # given back while it waited
                    self._end_leases([held.tasks[event.index]])

    def _begin(self, held: _Held, effect: job.Effect) -> job.Event | None:
        """Does what only the receiver does, with what comes of it; or anything else."""
        match effect:
            case job.Look(index=index):
                return self._look(held, index)
            case job.Lease(index=index):
                return self._lease(held, index)
            case job.Run(index=index, deadline=deadline):
                with self._changed:
                    self._busy += 1
                task = partial(self._work, held, index, deadline)
                threading.Thread(target=self._guarded, args=(task,), daemon=True).start()
            case _:
                self._perform(held, effect)
        return None

    def _look(self, held: _Held, index: int) -> job.Event:
        task = held.tasks[index]
        try:
            found = self._edges.course.look(task.source)
        except Exception as error:  # whatever it is about one object does not end the others
            # While S3 itself is away messages are received more and more slowly: each receipt counts as a delivery.
            self._passing = isinstance(error, ServiceError) and error.passing
            self._report(held, task, Outcome.FAILED, error=told(error))
            return job.Refused(index, delayed=True)
        if isinstance(found, Outcome):
            if found is Outcome.VANISHED:
                self._edges.reporter.note(f"{task.source} is no longer there: nothing to do")
            self._report(held, task, found)
            return job.Looked(index, needed=False)
        task.place = found
        return job.Looked(index, needed=True)

    def _lease(self, held: _Held, index: int) -> job.Event:
        task, started = held.tasks[index], time.monotonic()
        until = started + self._settings.reservation_timeout
        try:
            task.lease = self._alloc(until)
        except errors.Error as error:
            if not self._stopping:
                self._away = not isinstance(error, errors.Busy)
                self._edges.reporter.note(f"no lease for {task.source}, which goes back to the queue: {error}")
            return job.Refused(index)
        task.waited = time.monotonic() - started
        return job.Granted(index)

    def _alloc(self, until: float) -> Lease:
        hard_ttl = self._settings.result_timeout + LEASE_MARGIN
        while True:
            left = until - time.monotonic()
            if not self._has_room(max(left, 0)) or left <= 0:
                raise errors.Unavailable(why="all places are taken", retry_after=LEAST_PAUSE)
            try:
                granted = self._edges.line.alloc(gpus=self._settings.gpus, timeout=left, hard_ttl=hard_ttl)
                break
            except errors.Busy as error:
                # Refused before its time: the scheduler's own queue is full, or its answer was to come early.
                if time.monotonic() + error.retry_after >= until:
                    raise
                self._pause(max(error.retry_after, LEAST_PAUSE / 10))
        try:
            # Held by the other client, which lives on when waiting is ended.
            return self._edges.client.attach(granted.id)
        except errors.Error:
            leasing.end(self._edges.client, [granted.id])
            raise

    # A job, in its own thread.

    def _work(self, held: _Held, index: int, deadline: float) -> None:
        task = held.tasks[index]
        lease, place = task.lease, task.place
        assert lease is not None
        assert place is not None
        invoked, error, give_back = 0.0, "", partial(self._dealloc, lease)
        try:
            outcome, invoked = self._edges.course.run(task.source, place, lease.id, deadline, give_back)
        except (Exception, SystemExit) as failure:  # whatever a function raises is the failure of its job
            outcome, error = Outcome.FAILED, told(failure)
        task.lease = None
        with self._changed:
            in_time = held.message.states[index] is job.State.RUNNING
            effects = self._decide(held, job.Ended(index, outcome is not Outcome.FAILED))
        self._perform_all(held, effects)
        if in_time:
            self._report(held, task, outcome, invoked=invoked, error=error)
        with self._changed:
            self._busy -= 1
            self._hung -= not in_time
            self._changed.notify_all()

    def _dealloc(self, lease: Lease) -> None:
        try:
            self._edges.client.dealloc(lease.id, timeout=leasing.PATIENCE)
        except errors.Error as error:
            self._edges.reporter.note(f"lease {lease.short_id} ends by its TTL: it could not be given back ({error})")

    def _end_leases(self, tasks: Sequence[_Task]) -> None:
        # By their keys, since their jobs' threads have the objects.
        leasing.end(self._edges.client, [lease.id for task in tasks if (lease := task.lease) is not None])

    # What is decided, and done at the edges.

    def _decide(self, held: _Held, event: job.Event) -> list[job.Effect]:
        with self._changed:
            effects = held.message.handle(event, time.monotonic())
            self._changed.notify_all()
            return effects

    def _step(self, held: _Held, event: job.Event) -> None:
        self._perform_all(held, self._decide(held, event))

    def _perform_all(self, held: _Held, effects: Sequence[job.Effect]) -> None:
        for effect in effects:
            self._perform(held, effect)

    def _perform(self, held: _Held, effect: job.Effect) -> None:
        services, where = self._edges.services, self._edges.queue
        if isinstance(effect, job.Abandon):
            self._abandon(held, held.tasks[effect.index])
            return
        try:
            with held.telling:
                match effect:
                    case job.Extend(seconds=seconds):
                        if not held.message.over:
                            services.hide(where, held.delivery, seconds)
                    case job.Release(seconds=seconds):
                        services.hide(where, held.delivery, seconds)
                    case job.Delete():
                        services.delete(where, held.delivery)
        except ServiceError as error:
            # Its visibility ends: then it is delivered again, and its results tell what is done.
            self._edges.reporter.note(f"message {held.delivery.id}: {error}")
        if isinstance(effect, job.Delete | job.Release):
            with self._changed:
                self._held.remove(held)
                self._changed.notify_all()

    def _abandon(self, held: _Held, task: _Task) -> None:
        with self._changed:
            self._hung += 1
            self._changed.notify_all()
        self._end_leases([task])
        error = f"no result within {self._settings.result_timeout:g} s: its lease was taken back"
        self._report(held, task, Outcome.FAILED, error=error)

    def _keep(self) -> None:
        """Extends what is held, and ends jobs whose time is over."""
        while True:
            with self._changed:
                if self._over:
                    return
                due = min((held.message.due for held in self._held), default=None)
                if due is None or due > time.monotonic():
                    self._changed.wait(None if due is None else min(due - time.monotonic(), LONGEST_PAUSE))
                now = time.monotonic()
                late = [held for held in self._held if held.message.due <= now]
            for held in late:
                self._step(held, job.Ticked())

    def _report(self, held: _Held, task: _Task, outcome: Outcome, *, invoked: float = 0.0, error: str = "") -> None:
        self._edges.reporter.job(
            JobReport(
                job=task.source.job,
                bucket=task.source.bucket,
                key=task.source.key,
                outcome=outcome,
                delivery=held.delivery.count,
                total=time.monotonic() - held.message.received,
                queue=task.waited,
                invoke=invoked,
                age=held.age,
                result=self._edges.course.url(task.place) if task.place is not None else "",
                error=error,
            )
        )
