# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The orchestrator as a Lambda function that SQS triggers: `remotegpu.orchestrator.sqs_handler.handler`.

It is configured by the variables of `settings.OPTIONS` (the queue is the trigger's), REMOTEGPU_URL and the others of
the client. Its trigger must have ReportBatchItemFailures: it answers which messages SQS is to deliver again, and SQS
deletes the others. What waits for a device waits in the scheduler's queue, up to the invocation's end; how many
invocations may do that at the same time is the trigger's MaximumConcurrency. The queue's visibility timeout must be at
least six times the function's (https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html).
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from remotegpu import errors
from remotegpu.aws.services import Services
from remotegpu.client import Client
from remotegpu.orchestrator import events, leasing, settings
from remotegpu.orchestrator.course import Course, Place
from remotegpu.orchestrator.invokers import invoker_of
from remotegpu.orchestrator.metrics import JobReport, Outcome, line, told

# What is left of the invocation's time for giving back leases and for the answer. Seconds.
MARGIN = 1.0
# A lease ends so long after the invocation, if nobody gives it back. Seconds.
LEASE_MARGIN = 5.0
# How often leases are renewed, a third of their idle TTL: the client renews none in Lambda, where it may be frozen, but
# while the handler waits for its jobs it is not. Seconds.
RENEWAL = 10.0
# How many functions of earlier invocations may still run. With more of them something hangs for ever, and this process
# ends, so that Lambda starts a fresh one.
MOST_LEFT = 32

_left: list[threading.Thread] = []


@dataclass(frozen=True, slots=True)
class _Parts:
    settings: settings.Settings
    client: Client
    course: Course


@functools.cache
def _parts() -> _Parts:
    """Made by the first invocation, and kept for the next ones."""
    chosen = settings.parse({}, os.environ, queue=False)
    client = Client.from_env()
    services = Services(connections=2 * chosen.in_flight, function_patience=chosen.result_timeout)
    return _Parts(chosen, client, Course(services, invoker_of(chosen, services, client), chosen.target))


def handler(event: dict[str, Any], context: Any) -> dict[str, list[dict[str, str]]]:
    """Runs the jobs of a batch of messages, as many at a time as are allowed in flight, and names those messages that
    are to be delivered again. Raises ConfigurationError, and SystemExit if too many earlier ones never ended."""
    _left[:] = [thread for thread in _left if thread.is_alive()]
    if len(_left) > MOST_LEFT:
        sys.exit(f"remotegpu: {len(_left)} jobs still run though their invocations are over")
    deadline = time.monotonic() + context.get_remaining_time_in_millis() / 1000 - MARGIN
    batch = _Batch(_parts(), event["Records"], deadline)
    return {"batchItemFailures": [{"itemIdentifier": message} for message in batch.run()]}


class _Batch:
    """The messages of one invocation."""

    def __init__(self, parts: _Parts, messages: list[dict[str, Any]], deadline: float) -> None:
        self._parts, self._deadline = parts, deadline
        # Guards what follows, and is notified when a message is done or has failed.
        self._changed = threading.Condition()
        self._waiting = list(reversed(messages))
        self._failed = [str(message["messageId"]) for message in messages]
        self._leases: set[str] = set()
        self._threads = 0
        self._over = False

    def run(self) -> list[str]:
        """The ids of the messages that are not done. What is not by the deadline is left: a thread that still runs has
        no lease any more, and what it may store yet tells the next delivery that all is done."""
        self._threads = min(self._parts.settings.in_flight, len(self._waiting))
        for _ in range(self._threads):
            thread = threading.Thread(target=self._work, daemon=True)
            thread.start()
            _left.append(thread)
        while True:
            with self._changed:
                left = self._deadline - time.monotonic()
                if self._changed.wait_for(lambda: not self._threads, max(min(left, RENEWAL), 0.0)) or left <= 0:
                    self._over = True
                    self._waiting.clear()
                    leases, failed = list(self._leases), list(self._failed)
                    break
                leases = list(self._leases)
            for lease in leases:
                self._renew(lease)
        leasing.end(self._parts.client, leases, MARGIN / 2)
        return failed

    def _renew(self, lease: str) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            return
        try:
            self._parts.client.renewed(lease, min(left, leasing.PATIENCE))
        except errors.Error as error:  # its job will hear of it too, and fails if it needs it
            _complain(f"lease {lease[:8]}: {error}")

    def _work(self) -> None:
        try:
            while True:
                with self._changed:
                    if not self._waiting:
                        return
                    message = self._waiting.pop()
                if self._settled(message):
                    with self._changed:
                        self._failed.remove(str(message["messageId"]))
        finally:
            with self._changed:
                self._threads -= 1
                self._changed.notify_all()

    def _settled(self, message: Mapping[str, Any]) -> bool:
        """Whether nothing is left to do for a message."""
        try:
            sources = events.parse(message["body"])
        except errors.InvalidInput as error:
            _complain(f"message {message['messageId']}: {error}")
            return False
        outcomes = [self._job(message, source) for source in sources]  # all of them, whatever the first gives
        return all(outcomes)

    def _job(self, message: Mapping[str, Any], source: events.Source) -> bool:
        started = time.monotonic()
        waited, invoked, result, error = 0.0, 0.0, "", ""
        try:
            found = self._parts.course.look(source)
            if isinstance(found, Outcome):
                outcome = found
            else:
                result = self._parts.course.url(found)
                lease = self._alloc()
                waited = time.monotonic() - started
                outcome, invoked = self._run(source, found, lease)
        except (Exception, SystemExit) as failure:  # whatever a function raises is the failure of its job
            outcome, error = Outcome.FAILED, told(failure)
        attributes = message.get("attributes", {})
        report = JobReport(
            job=source.job,
            bucket=source.bucket,
            key=source.key,
            outcome=outcome,
            delivery=int(attributes.get("ApproximateReceiveCount", 1)),
            total=time.monotonic() - started,
            queue=waited,
            invoke=invoked,
            age=max(time.time() - int(attributes.get("SentTimestamp", time.time() * 1000)) / 1000, 0.0),
            result=result,
            error=error,
        )
        queue = str(message.get("eventSourceARN", "")).rpartition(":")[2]
        _print(line(report, queue, self._parts.settings.invoke, now_ms=time.time_ns() // 1_000_000))
        return outcome is not Outcome.FAILED

    def _alloc(self) -> str:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise errors.Unavailable(why="the invocation's time is over")
        timeout = min(self._parts.settings.reservation_timeout, left)
        lease = self._parts.client.alloc(
            gpus=self._parts.settings.gpus, timeout=timeout, hard_ttl=left + MARGIN + LEASE_MARGIN
        )
        with self._changed:
            self._leases.add(lease.id)
            over = self._over
        if over:
            self._give_back(lease.id)
            raise errors.Unavailable(why="the invocation's time is over")
        return lease.id

    def _run(self, source: events.Source, place: Place, lease: str) -> tuple[Outcome, float]:
        deadline = min(self._deadline, time.monotonic() + self._parts.settings.result_timeout)
        return self._parts.course.run(source, place, lease, deadline, lambda: self._give_back(lease))

    def _give_back(self, lease: str) -> None:
        leasing.end(self._parts.client, [lease])
        with self._changed:
            self._leases.discard(lease)


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _complain(text: str) -> None:
    sys.stderr.write(f"remotegpu: {text}\n")
