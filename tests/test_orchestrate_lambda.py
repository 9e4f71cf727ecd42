# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Lambda functions around a lease, under the real runtime client: those that the orchestrator invokes, and the
orchestrator as one that SQS triggers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.lambda_handler.invoke_api import LambdaService
from examples.lambda_handler.runtime_api import LambdaFunction
from remotegpu import Client
from remotegpu.local import LocalServer
from tests.conftest import DIGITS, wait_until
from tests.orchestration import Aws, Cloud, Working, leases

FUNCTIONS = Path(__file__).resolve().parent / "fixtures"


@pytest.fixture(scope="module")
def aws() -> Iterator[Aws]:
    running = Aws()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running
    running.stop()


@pytest.fixture
def cloud(aws: Aws) -> Cloud:
    return aws.cloud()


def message(number: int, body: object) -> dict[str, Any]:
    """As SQS hands it to a function."""
    text = body if isinstance(body, str) else json.dumps(body)
    told = {"ApproximateReceiveCount": "1", "SentTimestamp": "1790000000000"}
    arn = "arn:aws:sqs:us-east-1:123456789012:pictures"
    return {"messageId": f"m{number}", "body": text, "attributes": told, "eventSourceARN": arn}


def test_a_function_computes_on_the_lease_it_was_handed(
    cloud: Cloud, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"REMOTEGPU_URL": server.url, **cloud.aws.environment}
    running = LambdaFunction("orchestrated_function.handler", task_root=FUNCTIONS, environment=environment)
    with running as function, LambdaService({"digits": function}) as service:
        monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", service.url)
        for key in ("json", "bytes", "own", "bad"):
            cloud.send({"Records": [cloud.record(key, cloud.put(key))]})
        with Working(cloud, server.url, "lambda:digits") as working, Client(server.url) as client:
            wait_until(lambda: working.told.outcomes.count("done") == 3, "three jobs are done")
            wait_until(lambda: "failed" in working.told.outcomes, "one fails")
            cloud.send({"Records": [cloud.record("own", cloud.put("own"))]})
            wait_until(lambda: "duplicate" in working.told.outcomes, "the function's own result is known again")
            wait_until(lambda: not leases(client), "all leases are given back")
    errors = {job.error for job in working.told.jobs if job.key == "bad"}
    assert errors == {"FunctionFailed: function digits failed: ValueError: no such picture"}
    assert json.loads(cloud.result("out/json.json")["Body"]) == {"total": 10, "left": True}
    found = cloud.result("out/bytes.json")
    assert (found["Body"], found["ContentType"]) == (b"\x0a", "image/png")
    assert cloud.result("out/own.json")["Body"] == b"own"


def test_a_function_that_is_not_there_is_told(
    cloud: Cloud, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LambdaService({}) as service:
        monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", service.url)
        cloud.send({"Records": [cloud.record("a", cloud.put("a"))]})
        with Working(cloud, server.url, "lambda:digits") as working:
            error = working.until(1)[0].error
    assert error.startswith("ServiceError: Invoke digits failed (ResourceNotFoundException)")


def test_the_function_that_sqs_triggers_answers_what_is_to_come_again(cloud: Cloud, server: LocalServer) -> None:
    picture = (DIGITS / "pictures" / "note.jpg").read_bytes()
    good = [cloud.record(f"{key}.jpg", cloud.put(f"{key}.jpg", picture)) for key in ("a", "b")]
    bad = cloud.record("bad.jpg", cloud.put("bad.jpg", b"no picture"))
    environment = {
        **cloud.aws.environment,
        "REMOTEGPU_URL": server.url,
        "REMOTEGPU_ORCHESTRATE_INVOKE": "model:digits",
        "REMOTEGPU_ORCHESTRATE_OUTPUT": f"s3://{cloud.results}/{{stem}}.json",
    }
    handler = "remotegpu.orchestrator.sqs_handler.handler"
    with LambdaFunction(handler, task_root=FUNCTIONS, environment=environment) as function:
        batch = [
            message(0, {"Records": [good[0], bad]}),
            message(1, {"Records": [good[1]]}),
            message(2, "not JSON"),
            message(3, {"Event": "s3:TestEvent", "Service": "Amazon S3"}),
        ]
        answer: Any = function.invoke({"Records": batch})
        assert sorted(item["itemIdentifier"] for item in answer["batchItemFailures"]) == ["m0", "m2"]
        assert function.invoke({"Records": [message(4, {"Records": good})]}) == {"batchItemFailures": []}
        lines = [json.loads(line) for line in function.log.splitlines() if line.startswith("{")]
    assert sorted(line["outcome"] for line in lines) == ["done", "done", "duplicate", "duplicate", "failed"]
    assert {line["Queue"] for line in lines} == {"pictures"}
    assert cloud.keys() == ["a.json", "b.json"]
    with Client(server.url) as client:
        assert not leases(client)


def test_who_waits_for_a_device_beyond_the_invocation_comes_again(cloud: Cloud, server: LocalServer) -> None:
    environment = {
        **cloud.aws.environment,
        "REMOTEGPU_URL": server.url,
        "REMOTEGPU_ORCHESTRATE_INVOKE": "model:digits",
        "REMOTEGPU_ORCHESTRATE_GPUS": "2",
        "REMOTEGPU_ORCHESTRATE_OUTPUT": f"s3://{cloud.results}/out",
    }
    handler = "remotegpu.orchestrator.sqs_handler.handler"
    running = LambdaFunction(handler, task_root=FUNCTIONS, environment=environment, timeout=3.0)
    batch = {"Records": [message(0, {"Records": [cloud.record("a", cloud.put("a"))]})]}
    with Client(server.url) as client, client.alloc(exclusive=True, gpus=2), running as function:
        assert function.invoke(batch) == {"batchItemFailures": [{"itemIdentifier": "m0"}]}
        wait_until(lambda: not client.top().queue, "its place in the queue is given up")


def test_the_example_detects_under_one_lease_in_one_round_trip(cloud: Cloud, server: LocalServer) -> None:
    root = DIGITS.parent / "sqs_handler"
    environment = {
        **cloud.aws.environment,
        "REMOTEGPU_URL": server.url,
        "REMOTEGPU_ORCHESTRATE_OUTPUT": f"s3://{cloud.results}/{{stem}}.json",
    }
    picture = (DIGITS / "pictures" / "note.jpg").read_bytes()
    truth = json.loads((DIGITS / "pictures" / "truth.json").read_text())["note.jpg"]
    record = cloud.record("note.jpg", cloud.put("note.jpg", picture))
    bad = cloud.record("bad.jpg", cloud.put("bad.jpg", b"no picture"))
    with LambdaFunction("handler.handler", task_root=root, environment=environment) as function:
        batch = [message(0, {"Records": [record]}), message(1, {"Records": [record, cloud.record("gone")]})]
        answer = function.invoke({"Records": [*batch, message(2, {"Records": [bad]}), message(3, "poison")]})
        log = function.log
    assert answer == {"batchItemFailures": [{"itemIdentifier": "m2"}, {"itemIdentifier": "m3"}]}
    found = json.loads(cloud.result("note.json")["Body"])
    assert sorted(item["label"] for item in found) == sorted(item["label"] for item in truth)
    assert "note.jpg the result of this very version" in log
    assert "gone no longer there" in log
