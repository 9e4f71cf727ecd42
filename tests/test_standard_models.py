# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The standard door while models come and go, and while a device is busy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from remotegpu import Client
from remotegpu.local import LocalServer
from tests.conftest import wait_until
from tests.fixtures import standard_models
from tests.fixtures.triton import Triton, encoded

# About a second on one core.
LONG = 600_000
QUEUE = 3


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = standard_models.write(tmp_path_factory.mktemp("standard"))
    shutil.copytree(root / "same_int8" / "1", root / "same_int8" / "2")
    (root / "same_int8" / "aliases.toml").write_text("old = 1\n")
    return root


@pytest.fixture(scope="module")
def running(repository: Path) -> Iterator[LocalServer]:
    options = ["--models", str(repository), "--queue", str(QUEUE), "--allow-uploads", "--inference", "127.0.0.1:0"]
    server = LocalServer(["--gpus", "cpu", "--arena", "16MiB", *options])
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def triton(running: LocalServer) -> Iterator[Triton]:
    asked = Triton(running.inference_port, processes=2)
    yield asked
    asked.close()


@pytest.fixture
def client(running: LocalServer) -> Iterator[Client]:
    with Client(running.url, timeout=20) as connected:
        yield connected


def states(triton: Triton, model: str) -> dict[str, tuple[str, str]]:
    """State and reason of each version."""
    found = triton("ask", "get_model_repository_index")["models"]
    return {each["version"]: (each["state"], each["reason"]) for each in found if each["name"] == model}


def test_versions_and_aliases(triton: Triton) -> None:
    x = {"x": np.arange(3, dtype=np.int8)}
    assert states(triton, "same_int8") == {"1": ("", ""), "2": ("READY", "")}
    assert triton("ask", "is_model_ready", "same_int8", "1") is False
    assert triton("infer", "same_int8", x)[1]["model_version"] == "2"
    # A version that was not asked for yet is loaded by the first request.
    assert triton("infer", "same_int8", x, model_version="1")[1]["model_version"] == "1"
    assert triton("infer", "same_int8", x, model_version="old")[1]["model_version"] == "1"
    assert triton("infer", "same_int8", x)[1]["model_version"] == "2"
    assert states(triton, "same_int8")["1"] == ("READY", "")
    assert triton("ask", "get_model_metadata", "same_int8")["versions"] == ["1", "2"]
    figures = triton("ask", "get_inference_statistics", "same_int8")["model_stats"]
    assert {each["version"]: each["inference_count"] for each in figures} == {"1": "2", "2": "2"}


def test_load_and_unload(triton: Triton, repository: Path) -> None:
    x = {"x": np.arange(3, dtype=np.float64)}
    assert triton("infer", "same_fp64", x)[1]["model_version"] == "1"
    assert triton("ask", "unload_model", "same_fp64") is None
    gone = ("NOT_FOUND", "Request for unknown model: 'same_fp64' has no available versions")
    assert triton("raw", "ModelInfer", {"model_name": "same_fp64"}) == gone
    assert triton("raw", "ModelMetadata", {"name": "same_fp64"}) == gone
    assert states(triton, "same_fp64") == {"1": ("UNAVAILABLE", "unloaded")}
    assert triton("ask", "is_model_ready", "same_fp64") is False
    ready = triton("raw", "RepositoryIndex", {"ready": True})["models"]
    assert "same_fp64" not in {each["name"] for each in ready}
    assert triton("ask", "load_model", "same_fp64") is None
    np.testing.assert_array_equal(triton("infer", "same_fp64", x)[0]["y"], x["x"])
    # Neither is a mistake.
    assert triton("ask", "unload_model", "nope") is None
    for _ in range(2):
        assert triton("ask", "unload_model", "same_bool") is None


def test_a_model_whose_file_comes_along(triton: Triton) -> None:
    x = {"x": np.arange(3, dtype=np.int8)}
    file = {"file:7/model.onnx": standard_models.same(TensorProto.INT8)}
    assert triton("ask", "load_model", "mine", config='{"backend": "onnxruntime"}', files=file) is None
    assert triton("infer", "mine", x)[1]["model_version"] == "7"
    # Another model of that name and version: what was remembered of requests is of no use.
    file = {"file:7/model.onnx": standard_models.same(TensorProto.FLOAT16)}
    assert triton("ask", "load_model", "mine", config="{}", files=file) is None
    assert triton("ask", "get_model_metadata", "mine")["inputs"][0]["datatype"] == "FP16"
    y = {"x": np.arange(3, dtype=np.float16)}
    np.testing.assert_array_equal(triton("infer", "mine", y)[0]["y"], y["x"])
    tensor = {"name": "x", "datatype": "INT8", "shape": [3]}
    request = {"model_name": "mine", "inputs": [tensor], "raw_input_contents": encoded(x["x"])}
    code, message = triton("raw", "ModelInfer", request)
    assert (code, "data-type is 'INT8', but model 'mine' expects 'FP16'" in message) == ("INVALID_ARGUMENT", True)


FILE = {"bytes_param": ""}
NO_MODEL = {"file:1/model.onnx": {"bytes_param": encoded(b"not a model")[0]}}
POLL = "failed to load 'simple', failed to poll from model repository"


@pytest.mark.parametrize(
    ("model", "parameters", "code", "message"),
    [
        ("nope", {}, "INTERNAL", "failed to load 'nope', failed to poll from model repository"),
        ("simple", {"foo": {"bool_param": True}}, "INVALID_ARGUMENT", "unrecognized load parameter 'foo'."),
        (
            "simple",
            {"config": {"bool_param": True}},
            "INVALID_ARGUMENT",
            "invalid value type for load parameter 'config', expected string_param.",
        ),
        ("simple", {"config": {"string_param": "{"}}, "INTERNAL", POLL),
        ("simple", {"config": {"string_param": "[]"}}, "INTERNAL", POLL),
        ("simple", {"config": {"string_param": "[" * 500_000}}, "INTERNAL", POLL),
        ("simple", {"config": {"string_param": " " * 2**20 + "{}"}}, "INVALID_ARGUMENT", "at most 1048576 are read"),
        (
            "simple",
            {"file:1/model.onnx": {"string_param": "x"}},
            "INVALID_ARGUMENT",
            "invalid value type for load parameter 'file:1/model.onnx', expected bytes_param.",
        ),
        (
            "simple",
            {"file:../model.onnx": FILE},
            "INVALID_ARGUMENT",
            "load parameter 'file:../model.onnx': this server takes one file, 'file:<version>/model.onnx'",
        ),
        (
            "simple",
            {"file:1/model.onnx": FILE, "file:2/model.onnx": FILE},
            "INVALID_ARGUMENT",
            "this server takes one file",
        ),
        (
            "simple",
            {"file:1/model.onnx": {"bytes_param": "bm90IGEgbW9kZWw="}},
            "FAILED_PRECONDITION",
            "cannot be served",
        ),
        ("../simple", {"file:1/model.onnx": FILE}, "INVALID_ARGUMENT", "letters, digits"),
    ],
)
def test_refused_loads(triton: Triton, model: str, parameters: dict[str, Any], code: str, message: str) -> None:
    found = triton("raw", "RepositoryModelLoad", {"model_name": model, "parameters": parameters})
    assert found[0] == code
    assert message in found[1]
    assert triton("ask", "is_model_ready", "simple") is True


def test_outputs_keep_their_names_when_the_model_is_exchanged_before_a_request_runs(
    triton: Triton, client: Client, repository: Path
) -> None:
    path = repository / "exchanged" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(standard_models.simple())
    client.load_model("exchanged")
    inputs = {f"INPUT{i}": np.full((1, 16), i + 1, np.int32) for i in range(2)}
    assert triton("infer", "exchanged", inputs)[0]["OUTPUT1"][0, 0] == -1
    path.write_bytes(standard_models.simple(turned_round=True))
    long = triton.begin("raw", "ModelInfer", looped("long", LONG))
    wait_until(lambda: client.top().devices[0].arena_used, "the worker has the long request")
    before = client.top().devices[0].arena_used
    short = triton.begin("infer", "exchanged", inputs)
    wait_until(lambda: client.top().devices[0].arena_used > before, "the worker has the short request")
    client.load_model("exchanged")
    assert not short.done()
    outputs = short.result()[0]
    assert (outputs["OUTPUT0"][0, 0], outputs["OUTPUT1"][0, 0]) == (3, -1)
    assert long.result()["id"] == "long"


def test_executions_are_runs_of_the_model(triton: Triton, client: Client) -> None:
    def counts() -> tuple[int, int, dict[int, int]]:
        found = triton("ask", "get_inference_statistics", "linear")["model_stats"][0]
        batches = {int(each["batch_size"]): int(each["compute_infer"]["count"]) for each in found["batch_stats"]}
        return int(found["inference_count"]), int(found["execution_count"]), batches

    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 64]}
    request = {"model_name": "linear", "inputs": [tensor], "raw_input_contents": encoded(bytes(256))}
    triton("raw", "ModelInfer", request)
    assert counts() == (1, 1, {1: 1})
    # While the first runs, the others come together.
    replies = triton("raw_stream", [looped("long", LONG), request, request, request])
    assert not any(reply["error_message"] for reply in replies)
    assert counts() == (4, 2, {1: 1, 3: 1})


def looped(name: str, times: int, **parameters: Any) -> dict[str, Any]:
    """A request that takes so many turns."""
    inputs = [
        {"name": "times", "datatype": "INT64", "shape": []},
        {"name": "start", "datatype": "FP32", "shape": [1]},
    ]
    contents = encoded(np.array(times, np.int64), np.zeros(1, np.float32))
    request = {"model_name": "loop", "id": name, "inputs": inputs, "raw_input_contents": contents}
    return {**request, "parameters": {key: {"int64_param": str(value)} for key, value in parameters.items()}}


def test_a_request_whose_time_in_the_queue_is_over_is_answered_at_once(triton: Triton, client: Client) -> None:
    triton("raw", "ModelInfer", looped("warm", 1))
    long = triton.begin("raw", "ModelInfer", looped("long", LONG))
    wait_until(lambda: client.top().devices[0].arena_used, "the worker has the request")
    refused = triton("raw", "ModelInfer", looped("short", 1, timeout=50_000))
    assert not long.done()
    assert refused == ("UNAVAILABLE", "Request timeout expired")
    assert triton("raw", "ModelInfer", looped("patient", 1, timeout=20_000_000))["id"] == "patient"
    assert long.result()["id"] == "long"


def test_more_requests_than_may_wait(triton: Triton) -> None:
    requests = [looped("long", LONG), *(looped(str(n), 1) for n in range(QUEUE + 1))]
    replies = triton("raw_stream", requests)
    full = [f"[request id: {name}] Exceeds maximum queue size" for name in ("2", "3")]
    assert [reply["error_message"] for reply in replies] == ["", "", "", *full]
    assert triton("raw_stream", [looped("after", 1)])[0]["error_message"] == ""
