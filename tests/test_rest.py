# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The Open Inference Protocol over HTTP, against a real server: the unmodified `tritonclient.http`, and plain requests
as curl sends them."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio

from remotegpu.local import LocalServer
from remotegpu_server.standard.rest import coding_asked
from tests.conftest import StartServer
from tests.fixtures.onnx_models import FLOAT, identity, write
from tests.fixtures.rest import ARENA, REST, ask, floats, write_models

INFER = "/v2/models/echo/infer"
EMPTY = {"name": "x", "datatype": "FP32", "shape": [1]}
SIZE = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def rest(repository: Path) -> Iterator[LocalServer]:
    server = LocalServer(["--gpus", "cpu", "--arena", "16MiB", "--models", str(repository), *REST])
    yield server
    assert server.stop() == 0


@pytest.fixture
def client(rest: LocalServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{rest.rest_port}", concurrency=4) as connected:
        yield connected


# The unmodified client.


def test_what_the_server_says_of_itself_and_its_models(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("linear")
    assert client.is_model_ready("linear", "1")
    assert not client.is_model_ready("linear", "9")
    assert not client.is_model_ready("nope")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert client.get_model_metadata("linear") == {
        "name": "linear",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 8]}],
    }
    config = client.get_model_config("linear", "1")
    assert config["input"][0]["dims"] == [-1, 64]
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    index = {entry["name"]: entry["state"] for entry in client.get_model_repository_index()}
    assert index == {"linear": "READY", "echo": "READY", "kinds": "READY", "words": "READY"}


@pytest.mark.parametrize("count", [0, 1, 1000, 2_000_000])
@pytest.mark.parametrize("named", [False, True])
def test_binary_data_there_and_back(client: triton.InferenceServerClient, count: int, named: bool) -> None:
    values, given = floats(count)
    outputs = [triton.InferRequestedOutput("x_out")] if named else None
    result = client.infer("echo", [given], outputs=outputs, request_id="q1")
    np.testing.assert_array_equal(result.as_numpy("x_out"), values)
    assert result.get_response()["id"] == "q1"
    assert result.get_response()["model_version"] == "1"


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
def test_all_kinds_in_json_and_binary(client: triton.InferenceServerClient, binary_in: bool, binary_out: bool) -> None:
    arrays = {
        "a": np.array([1.5, -2, 65504], np.float16),
        "b": np.array([-128, 0, 127], np.int8),
        "c": np.array([0, 1, 2**64 - 1], np.uint64),
        "d": np.array([True, False, True]),
    }
    inputs = []
    for (name, array), datatype in zip(arrays.items(), ("FP16", "INT8", "UINT64", "BOOL"), strict=True):
        inputs.append(triton.InferInput(name, [3], datatype))
        # One of them the other way: both may be in one message.
        inputs[-1].set_data_from_numpy(array, binary_data=binary_in != (name == "b"))
    outputs = [triton.InferRequestedOutput(f"{name}_out", binary_data=binary_out != (name == "c")) for name in arrays]
    result = client.infer("kinds", inputs, outputs=outputs)
    for name, array in arrays.items():
        np.testing.assert_array_equal(result.as_numpy(f"{name}_out"), array)


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
def test_strings(client: triton.InferenceServerClient, binary_in: bool, binary_out: bool) -> None:
    words = ["", "a", "Grüße", "\U0001f600" * 100]
    given = triton.InferInput("x", [4], "BYTES")
    given.set_data_from_numpy(np.array(words, object), binary_data=binary_in)
    wanted = triton.InferRequestedOutput("x_out", binary_data=binary_out)
    found = client.infer("words", [given], outputs=[wanted]).as_numpy("x_out")
    assert [item if isinstance(item, str) else item.decode() for item in found] == words


def test_classification(client: triton.InferenceServerClient) -> None:
    given = triton.InferInput("x", [4], "FP32")
    given.set_data_from_numpy(np.array([0.5, 3, -1, 2], np.float32))
    for binary in (False, True):
        wanted = triton.InferRequestedOutput("x_out", binary_data=binary, class_count=2)
        best = client.infer("echo", [given], outputs=[wanted]).as_numpy("x_out")
        assert [item if isinstance(item, str) else item.decode() for item in best.reshape(-1)] == [
            "3.000000:1",
            "2.000000:3",
        ]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("count", [10, 1_000_000])
def test_compressed_both_ways(client: triton.InferenceServerClient, algorithm: str, count: int) -> None:
    values, given = floats(count)
    result = client.infer(
        "echo", [given], request_compression_algorithm=algorithm, response_compression_algorithm=algorithm
    )
    np.testing.assert_array_equal(result.as_numpy("x_out"), values)


def test_a_reply_is_compressed_when_that_is_asked_for_alone(rest: LocalServer) -> None:
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1000], "data": [0.5] * 1000}]})
    for accept, coding in (("gzip", "gzip"), ("deflate", "deflate"), ("gzip, deflate, br", None)):
        connection = http.client.HTTPConnection("127.0.0.1", rest.rest_port, timeout=20)
        with contextlib.closing(connection):
            connection.request("POST", INFER, body, {"Accept-Encoding": accept})
            response = connection.getresponse()
            assert response.getheader("Content-Encoding") == coding
            assert (len(response.read()) < 1000) == (coding is not None)
    assert coding_asked("GZIP ") == "gzip"


def test_many_at_once(client: triton.InferenceServerClient) -> None:
    asked = [(floats(count)[0], client.async_infer("echo", [floats(count)[1]])) for count in range(1, 40)]
    for values, pending in asked:
        np.testing.assert_array_equal(pending.get_result().as_numpy("x_out"), values)


def test_the_asyncio_client(rest: LocalServer) -> None:
    async def main() -> None:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{rest.rest_port}") as client:
            assert await client.is_model_ready("echo")
            assert (await client.get_model_metadata("echo"))["inputs"][0]["shape"] == [-1]
            kinds = [(0, True), (5, True), (100_000, True), (0, False), (5, False)]
            asked = [floats(count, binary) for count, binary in kinds]
            results = await asyncio.gather(*(client.infer("echo", [given]) for _, given in asked))
            for (values, _), result in zip(asked, results, strict=True):
                np.testing.assert_array_equal(result.as_numpy("x_out"), values)

    asyncio.run(main())


def test_statistics_count_requests(client: triton.InferenceServerClient) -> None:
    def count() -> int:
        found: int = client.get_inference_statistics("linear")["model_stats"][0]["inference_stats"]["success"]["count"]
        return found

    before = count()
    given = triton.InferInput("x", [1, 64], "FP32")
    given.set_data_from_numpy(np.zeros((1, 64), np.float32))
    client.infer("linear", [given])
    assert count() == before + 1
    names = {stats["name"] for stats in client.get_inference_statistics()["model_stats"]}
    assert names == {"linear", "echo", "kinds", "words"}


@pytest.mark.parametrize(
    ("model", "version", "shape", "status", "words"),
    [
        ("nope", "", [1], "404", "unknown model: 'nope'"),
        ("echo", "9", [1], "404", "version 9 is not found"),
        ("echo", "abc", [1], "400", "version should be an integral value"),
        ("echo", "", [1, 1], "400", r"Expected \[-1\], got \[1,1\]"),
        ("kinds", "", [1], "400", "expected 4 inputs but got 1"),
    ],
)
def test_refusals(
    client: triton.InferenceServerClient, model: str, version: str, shape: list[int], status: str, words: str
) -> None:
    given = triton.InferInput("x", shape, "FP32")
    given.set_data_from_numpy(np.zeros(shape, np.float32))
    with pytest.raises(triton.InferenceServerException, match=words) as caught:
        client.infer(model, [given], version)
    assert caught.value.status() == status


def test_loading_is_refused_where_it_is_not_allowed(client: triton.InferenceServerClient) -> None:
    with pytest.raises(triton.InferenceServerException) as caught:
        client.load_model("echo")
    assert caught.value.status() == "503"
    with pytest.raises(triton.InferenceServerException):
        client.unload_model("echo")
    assert client.is_model_ready("echo")


def test_models_come_and_go(tmp_path: Path, start_server: StartServer) -> None:
    server = start_server("--models", str(write_models(tmp_path)), "--allow-uploads", *REST)
    with triton.InferenceServerClient(f"127.0.0.1:{server.rest_port}") as client:
        client.unload_model("echo")
        assert not client.is_model_ready("echo")
        client.load_model("echo")
        assert client.is_model_ready("echo")
        file = (tmp_path / "echo" / "1" / "model.onnx").read_bytes()
        client.load_model("new", config="{}", files={"file:7/model.onnx": file})
        values, given = floats(3)
        np.testing.assert_array_equal(client.infer("new", [given], "7").as_numpy("x_out"), values)
        with pytest.raises(triton.InferenceServerException, match="over gRPC") as caught:
            client.load_model("large", config="{}", files={"file:1/model.onnx": bytes(1024**2)})
        assert caught.value.status() == "413"


def test_a_version_that_was_not_asked_for_is_loaded_by_the_first_request(
    tmp_path: Path, start_server: StartServer
) -> None:
    root = write_models(tmp_path)
    for name in ("echo", "linear", "words"):
        shutil.copytree(root / name / "1", root / name / "2")
    server = start_server("--models", str(root), *REST)
    assert ask(server, "GET", "/v2/models/echo/versions/1/ready")[0] == 404
    with triton.InferenceServerClient(f"127.0.0.1:{server.rest_port}") as client:
        values, given = floats(3)
        np.testing.assert_array_equal(client.infer("echo", [given], "1").as_numpy("x_out"), values)
        assert client.get_model_metadata("linear", "1")["versions"] == ["1", "2"]
        assert client.get_model_config("words", "1")["name"] == "words"
    assert ask(server, "GET", "/v2/models/echo/versions/1/ready")[0] == 200
    status, answer = ask(server, "GET", "/v2/models/echo/versions/3")
    assert (status, answer) == (404, {"error": "Request for unknown model: 'echo' version 3 is not found"})
    status, answer = ask(server, "GET", "/v2/models/echo:1")  # the native door's way to say it
    assert (status, answer) == (404, {"error": "Request for unknown model: 'echo:1' is not found"})


def test_a_model_that_takes_any_shape(tmp_path: Path, start_server: StartServer) -> None:
    write(tmp_path, "any", 1, identity(FLOAT, None))
    server = start_server("--models", str(tmp_path), *REST)
    for shape in ([], [3], [2, 0, 2], [2, 2]):
        values = [1.5] * math.prod(shape)
        inputs = [{"name": "x", "datatype": "FP32", "shape": shape, "data": values}]
        status, answer = ask(server, "POST", "/v2/models/any/infer", {"inputs": inputs})
        assert (status, answer["outputs"][0]["shape"], answer["outputs"][0]["data"]) == (200, shape, values)
    outputs = [{"name": "y", "parameters": {"classification": 1}}]
    status, answer = ask(server, "POST", "/v2/models/any/infer", {"inputs": inputs, "outputs": outputs})
    assert (status, answer["outputs"][0]["data"]) == (200, ["1.500000:0"])


# Plain requests.


def test_plain_json(rest: LocalServer) -> None:
    inputs = [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": [[0.0] * 63 + [1]]}]
    status, reply = ask(rest, "POST", "/v2/models/linear/infer", {"inputs": inputs})
    assert status == 200
    assert reply["outputs"][0]["shape"] == [1, 8]
    flat = [{**inputs[0], "data": [0.0] * 63 + [1]}]
    assert ask(rest, "POST", "/v2/models/linear/versions/1/infer", {"inputs": flat}) == (200, reply)


def test_long_json_outputs_come_whole(rest: LocalServer) -> None:
    values = [float(i) for i in range(50_000)]
    inputs = [{"name": "x", "datatype": "FP32", "shape": [50_000], "data": values}]
    status, reply = ask(rest, "POST", INFER, {"inputs": inputs})
    assert status == 200
    assert reply["outputs"][0]["data"] == values


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "words"),
    [
        ("GET", "/v2/nope", None, {}, 404, "no such path"),
        ("GET", INFER, None, {}, 405, "POST"),
        ("GET", "/v2/systemsharedmemory/status", None, {}, 501, "systemsharedmemory"),
        ("POST", INFER, b"{", {}, 400, "parse the request JSON"),
        (
            "POST",
            INFER,
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]},
            {},
            400,
            "find data",
        ),
        ("POST", INFER, {"inputs": []}, {"remotegpu-tenant": "no spaces"}, 400, "remotegpu-tenant"),
        ("POST", INFER, b"{}", {"Content-Encoding": "br"}, 400, "gzip or deflate"),
        ("POST", INFER, b"{}", {"Content-Encoding": "gzip"}, 400, "incorrect header"),
        ("POST", INFER, b"{}", {SIZE: "3"}, 400, "but the body has 2"),
        ("POST", INFER, b"{}", {SIZE: "x"}, 400, "not a number"),
        (
            "POST",
            INFER,
            b"{}12",
            {SIZE: "2"},
            400,
            "additional input data",
        ),
        ("POST", INFER, b" " * (1024**2 + 1), {}, 413, "binary data"),
        ("POST", INFER, b" " * (ARENA + 1), {SIZE: "2"}, 413, "--arena"),
    ],
)
def test_plain_refusals(
    rest: LocalServer, method: str, path: str, body: Any, headers: dict[str, str], status: int, words: str
) -> None:
    found, reply = ask(rest, method, path, body, headers)
    assert found == status
    assert words in reply["error"]


def test_a_request_is_made_for_its_tenant(repository: Path, start_server: StartServer, tmp_path: Path) -> None:
    quotas = tmp_path / "tenants.toml"
    quotas.write_text("[tenants.none]\nleases = 0\n")
    server = start_server("--models", str(repository), "--tenants", str(quotas), *REST)
    with triton.InferenceServerClient(f"127.0.0.1:{server.rest_port}") as client:
        _, given = floats(3)
        client.infer("echo", [given], headers={"remotegpu-tenant": "some"})
        with pytest.raises(triton.InferenceServerException, match="leases"):
            client.infer("echo", [given], headers={"Remotegpu-Tenant": "none"})
