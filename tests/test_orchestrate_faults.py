# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The orchestrator when what is around it fails: S3, SQS, the scheduler, and the functions that it calls."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from remotegpu.aws.answers import Delivery, Object, Queue, ServiceError
from remotegpu.aws.services import Services
from remotegpu.local import LocalServer
from remotegpu.orchestrator import runner, sqs_handler
from tests import orchestration
from tests.conftest import StartServer, halt, wait_until
from tests.orchestration import Aws, Cloud, Working

HANDLER = "handler:tests.orchestration:"


@pytest.fixture(scope="module")
def aws() -> Iterator[Aws]:
    running = Aws()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running
    running.stop()


@pytest.fixture
def cloud(aws: Aws) -> Iterator[Cloud]:
    orchestration.seen.clear()
    orchestration.gate.clear()
    yield aws.cloud()
    orchestration.gate.set()


@pytest.fixture(scope="module")
def single(models: Path) -> Iterator[LocalServer]:
    """A server whose one device takes one lease at a time."""
    running = LocalServer(["--gpus", "cpu", "--slots", "1", "--arena", "16MiB", "--models", str(models)])
    yield running
    assert running.stop() == 0


@pytest.fixture
def hung(start_server: StartServer) -> Iterator[tuple[LocalServer, Callable[[], None]]]:
    """A server, and what stops its daemon in the middle of everything, until the test is over."""
    server = start_server()
    yield server, partial(halt, server.process.pid)
    os.kill(server.process.pid, signal.SIGCONT)


def test_a_folder_is_no_work(cloud: Cloud, single: LocalServer) -> None:
    cloud.send({"Records": [cloud.record("pictures/", cloud.put("pictures/", b""))]})
    with Working(cloud, single.url, HANDLER + "echo") as working:
        assert working.until(1)[0].outcome.value == "ignored"
        wait_until(lambda: cloud.count() == (0, 0), "the message is deleted")
    assert not orchestration.seen


def test_a_bucket_that_is_not_there_is_no_object_that_has_gone(cloud: Cloud, single: LocalServer) -> None:
    record = cloud.record("a")
    record["s3"]["bucket"]["name"] = "nowhere-at-all"
    cloud.send({"Records": [record]})
    with Working(cloud, single.url, HANDLER + "echo") as working:
        job = working.until(1)[0]
    assert (job.outcome.value, cloud.count()) == ("failed", (1, 0))
    assert "nowhere-at-all" in job.error


def test_what_no_service_can_be_asked_for_costs_its_message_and_not_the_others(
    cloud: Cloud, single: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("odd", "a"):
        cloud.send({"Records": [cloud.record(key, cloud.put(key))]})
    working = Working(cloud, single.url, HANDLER + "echo")
    head = working.services.head

    def picky(bucket: str, key: str, version: str | None = None) -> Object | None:
        if key == "odd":
            raise ValueError("not for this library")
        return head(bucket, key, version)

    monkeypatch.setattr(working.services, "head", picky)
    with working:
        wait_until(lambda: "done" in working.told.outcomes, "the other one is done")
    assert {job.error for job in working.told.jobs if job.key == "odd"} == {"ValueError: not for this library"}


def test_while_s3_is_away_messages_are_not_used_up(
    aws: Aws, single: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = aws.cloud(most=3)
    for key in ("a", "b", "c"):
        cloud.send({"Records": [cloud.record(key, cloud.put(key))]})
    working = Working(cloud, single.url, HANDLER + "echo")
    head, until = working.services.head, time.monotonic() + 2.0

    def away(bucket: str, key: str, version: str | None = None) -> Object | None:
        if time.monotonic() < until:
            raise ServiceError(operation="HeadObject", code="SlowDown", why="later", passing=True)
        return head(bucket, key, version)

    monkeypatch.setattr(working.services, "head", away)
    with working:
        wait_until(lambda: working.told.outcomes.count("done") == 3, "all are done", 15)
    assert cloud.count(cloud.dead) == (0, 0)


def test_services_say_whether_it_is_they_who_fail(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    services = Services()
    with pytest.raises(ServiceError) as caught:
        services.put(("nowhere-at-all", "a"), b"", content_type="a/b", metadata={})
    assert (caught.value.code, caught.value.passing) == ("NoSuchBucket", False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    services.close()
    services = Services()
    with pytest.raises(ServiceError) as caught:
        services.head("pictures", "a")
    services.close()
    assert (caught.value.code, caught.value.passing) == ("EndpointConnectionError", True)


def test_a_function_that_claims_a_result_is_believed_only_for_its_own_version(
    cloud: Cloud, single: LocalServer
) -> None:
    cloud.send({"Records": [cloud.record("a", cloud.put("a", b"1"), sequencer="01")]})
    with Working(cloud, single.url, HANDLER + "echo") as working:
        working.until(1)
    cloud.send({"Records": [cloud.record("a", cloud.put("a", b"2"), sequencer="02")]})
    with Working(cloud, single.url, HANDLER + "claiming") as working:
        job = working.until(1)[0]
    assert (job.outcome.value, cloud.count()) == ("failed", (1, 0))
    assert "says that it has stored its result" in job.error


def test_what_was_given_back_is_not_hidden_again(
    cloud: Cloud, single: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "DRAIN", 0.1)
    cloud.send({"Records": [cloud.record("a", cloud.put("a"))]})
    working = Working(cloud, single.url, HANDLER + "held", visibility=3)
    hide, extending, given_back = working.services.hide, threading.Event(), threading.Event()

    def slow(queue: Queue, delivery: Delivery, seconds: int) -> None:
        if seconds:
            extending.set()
            given_back.wait(1.0)
        hide(queue, delivery, seconds)
        if not seconds:
            given_back.set()

    monkeypatch.setattr(working.services, "hide", slow)
    with working:
        assert extending.wait(10)
    assert cloud.count() == (1, 0)


def test_messages_do_not_wait_for_a_scheduler_that_hangs(
    cloud: Cloud, hung: tuple[LocalServer, Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "DRAIN", 0.1)
    server, stop = hung
    for key in ("a", "b"):
        cloud.send({"Records": [cloud.record(key, cloud.put(key))]})
    with Working(cloud, server.url, HANDLER + "held") as working:
        wait_until(lambda: len(orchestration.seen) == 2, "both jobs run")
        stop()
        started = time.monotonic()
        working.runner.stop()
        working.thread.join(20)
    assert time.monotonic() - started < 8
    assert cloud.count() == (2, 0)


class Context:
    """Of an invocation that has so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.until = time.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        return int((self.until - time.monotonic()) * 1000)


def test_the_function_that_sqs_triggers_answers_in_time_though_the_scheduler_hangs(
    cloud: Cloud, hung: tuple[LocalServer, Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, stop = hung
    monkeypatch.setattr(sqs_handler, "RENEWAL", 0.5)
    monkeypatch.setenv("REMOTEGPU_URL", server.url)
    monkeypatch.setenv("REMOTEGPU_ORCHESTRATE_OUTPUT", f"s3://{cloud.results}/out")
    monkeypatch.setenv("REMOTEGPU_ORCHESTRATE_INVOKE", HANDLER + "held")
    sqs_handler._parts.cache_clear()

    def message(key: str) -> dict[str, Any]:
        return {"messageId": key, "body": json.dumps({"Records": [cloud.record(key, cloud.put(key))]})}

    batch, context = {"Records": [message("a"), message("b")]}, Context(4.0)

    def watch() -> None:
        wait_until(lambda: len(orchestration.seen) == 2, "both run")
        stop()

    watcher = threading.Thread(target=watch)
    watcher.start()
    answer = sqs_handler.handler(batch, context)
    left = context.get_remaining_time_in_millis()
    watcher.join()
    assert sorted(item["itemIdentifier"] for item in answer["batchItemFailures"]) == ["a", "b"]
    assert left > 0
    monkeypatch.setattr(sqs_handler, "MOST_LEFT", 1)
    with pytest.raises(SystemExit, match="2 jobs still run"):
        sqs_handler.handler(batch, Context(4.0))
    orchestration.gate.set()
    wait_until(lambda: len(cloud.keys()) == 2, "what still ran has stored its results")
    wait_until(lambda: not any(thread.is_alive() for thread in sqs_handler._left), "and has ended")
    assert sqs_handler.handler(batch, Context(4.0)) == {"batchItemFailures": []}
    sqs_handler._parts().client.close()
    sqs_handler._parts.cache_clear()
