# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The example function under the real Lambda runtime client."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from examples.demo import http_event
from examples.detections import annotate, compare
from examples.lambda_handler.runtime_api import LambdaFunction
from remotegpu import Client
from remotegpu.local import LocalServer
from tests.conftest import DIGITS, pids

HANDLER = DIGITS.parent / "lambda_handler"
TRUTH: dict[str, Any] = json.loads((DIGITS / "pictures" / "truth.json").read_text())


@pytest.fixture(scope="module")
def function(server: LocalServer) -> Iterator[LambdaFunction]:
    environment = {"REMOTEGPU_URL": server.url}
    with LambdaFunction("handler.handler", task_root=HANDLER, environment=environment) as running:
        yield running


def invoke(function: LambdaFunction, event: object) -> tuple[int, dict[str, Any]]:
    response: Any = function.invoke(event)
    return response["statusCode"], json.loads(response["body"])


@pytest.mark.parametrize("name", sorted(TRUTH))
def test_detections_match_the_true_boxes_in_one_round_trip(function: LambdaFunction, name: str) -> None:
    picture = (DIGITS / "pictures" / name).read_bytes()
    status, result = invoke(function, http_event(picture))
    assert status == 200
    outcome = compare(result["detections"], TRUTH[name])
    assert (outcome.missed, outcome.false) == (0, 0)
    assert outcome.matched == len(TRUTH[name]) > 0
    assert result["round_trips"] == 1
    assert set(result["milliseconds"]) >= {"queue", "upload", "h2d", "compute", "d2h"}
    assert annotate(picture, result["detections"])[:4] == b"\x89PNG"


def test_compare_sees_what_is_wrong() -> None:
    truth = [{"box": [0, 0, 10, 10], "label": 3}, {"box": [20, 20, 30, 30], "label": 4}]
    found = [{"box": [1, 1, 10, 10], "label": 3, "score": 0.9}, {"box": [20, 20, 30, 30], "label": 5, "score": 0.9}]
    outcome = compare(found, truth)
    assert (outcome.matched, outcome.missed, outcome.false) == (1, 1, 1)


def test_what_is_not_a_picture_is_a_400_that_says_so(function: LambdaFunction) -> None:
    status, result = invoke(function, {"body": base64.b64encode(b"not a picture").decode(), "isBase64Encoded": True})
    assert status == 400
    assert "JPEG or PNG" in result["error"]


def test_busy_is_a_503_with_retry_after(function: LambdaFunction, server: LocalServer) -> None:
    picture = (DIGITS / "pictures" / sorted(TRUTH)[0]).read_bytes()
    with Client(server.url) as client, client.alloc(gpus=2, exclusive=True):
        response: Any = function.invoke(http_event(picture))
    assert response["statusCode"] == 503
    assert int(response["headers"]["Retry-After"]) >= 1
    assert "busy after 2.0 s" in response["body"]


def test_function_goes_on_after_a_worker_was_killed(function: LambdaFunction, server: LocalServer) -> None:
    with Client(server.url) as client:
        for pid in pids(client):
            os.kill(pid, signal.SIGKILL)
        name = sorted(TRUTH)[0]
        event = http_event((DIGITS / "pictures" / name).read_bytes())
        statuses = [invoke(function, event)[0] for _ in range(2)]
        assert statuses[-1] == 200
        assert set(statuses) <= {200, 503}
        assert not client.top().leases


def test_frozen_function_goes_on_after_the_thaw(function: LambdaFunction) -> None:
    name = sorted(TRUTH)[0]
    event = http_event((DIGITS / "pictures" / name).read_bytes())
    function.freeze()
    function.thaw()
    assert invoke(function, event)[0] == 200
