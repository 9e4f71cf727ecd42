# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The standard door with the unmodified tritonclient, in a process of its own: see `tests.fixtures.triton`."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from remotegpu import Client, errors
from remotegpu.local import LocalServer
from remotegpu.v1 import inference_pb2
from tests.conftest import StartServer
from tests.fixtures import standard_models
from tests.fixtures.triton import Triton, encoded

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    models = standard_models.write(tmp_path_factory.mktemp("standard"))
    running = LocalServer(["--gpus", "cpu", "--models", str(models), "--arena", "32MiB", "--inference", "127.0.0.1:0"])
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def triton(served: LocalServer) -> Iterator[Triton]:
    asked = Triton(served.inference_port)
    yield asked
    asked.close()


def simple(seed: int, rows: int = 2) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    return {f"INPUT{i}": random.integers(-99, 99, (rows, 16), np.int32) for i in range(2)}


def check_simple(arrays: dict[str, Array], outputs: dict[str, Array]) -> None:
    np.testing.assert_array_equal(outputs["OUTPUT0"], arrays["INPUT0"] + arrays["INPUT1"])
    np.testing.assert_array_equal(outputs["OUTPUT1"], arrays["INPUT0"] - arrays["INPUT1"])


def test_what_the_server_says_of_itself_and_its_models(triton: Triton) -> None:
    assert triton("ask", "is_server_live") is True
    assert triton("ask", "is_server_ready") is True
    assert triton("ask", "is_model_ready", "simple") is True
    assert triton("ask", "is_model_ready", "simple", "1") is True
    assert triton("ask", "is_model_ready", "simple", "9") is False
    assert triton("ask", "is_model_ready", "nope") is False
    server = triton("ask", "get_server_metadata")
    assert server["name"] == "remotegpu"
    assert "statistics" in server["extensions"]
    metadata = triton("ask", "get_model_metadata", "simple")
    assert metadata["versions"] == ["1"]
    assert metadata["platform"] == "onnxruntime_onnx"
    assert metadata["inputs"][1] == {"name": "INPUT1", "datatype": "INT32", "shape": ["-1", "16"]}
    assert [output["name"] for output in metadata["outputs"]] == ["OUTPUT0", "OUTPUT1"]
    config = triton("ask", "get_model_config", "simple")["config"]
    assert config["max_batch_size"] == 0
    assert config["input"][0]["data_type"] == "TYPE_INT32"
    assert config["input"][0]["dims"] == ["-1", "16"]
    assert config["model_transaction_policy"] == {"decoupled": False}
    index = triton("ask", "get_model_repository_index")["models"]
    assert {"name": "simple", "version": "1", "state": "READY", "reason": ""} in index


def test_infer(triton: Triton) -> None:
    arrays = simple(1)
    outputs, reply = triton("infer", "simple", arrays, request_id="mine")
    check_simple(arrays, outputs)
    assert reply["model_name"] == "simple"
    assert reply["model_version"] == "1"
    assert reply["id"] == "mine"
    # Again, as a request that was seen before; with inputs in the other order; of another size; by version.
    check_simple(arrays, triton("infer", "simple", arrays)[0])
    check_simple(arrays, triton("infer", "simple", dict(reversed(arrays.items())))[0])
    check_simple(simple(2, 5), triton("infer", "simple", simple(2, 5), model_version="1")[0])
    check_simple(simple(3, 0), triton("infer", "simple", simple(3, 0))[0])


def test_requested_outputs_come_in_the_models_order(triton: Triton) -> None:
    outputs, _ = triton("infer", "simple", simple(1), outputs={"OUTPUT1": 0, "OUTPUT0": 0})
    assert list(outputs) == ["OUTPUT0", "OUTPUT1"]
    outputs, _ = triton("infer", "simple", simple(1), outputs={"OUTPUT1": 0})
    assert list(outputs) == ["OUTPUT1"]
    np.testing.assert_array_equal(outputs["OUTPUT1"], simple(1)["INPUT0"] - simple(1)["INPUT1"])


def test_classification(triton: Triton) -> None:
    arrays = simple(4)
    outputs, reply = triton("infer", "simple", arrays, outputs={"OUTPUT0": 2, "OUTPUT1": 0})
    total = arrays["INPUT0"] + arrays["INPUT1"]
    best = np.argsort(-total, axis=1, kind="stable")[:, :2]
    expected = [[f"{total[row, i]}:{i}".encode() for i in best[row]] for row in range(2)]
    assert outputs["OUTPUT0"].tolist() == expected
    assert reply["outputs"][0]["datatype"] == "BYTES"
    np.testing.assert_array_equal(outputs["OUTPUT1"], arrays["INPUT0"] - arrays["INPUT1"])


def test_many_requests_at_once(triton: Triton) -> None:
    many = [simple(seed) for seed in range(40)]
    for ask in ("infer_in_background", "infer_aio"):
        outputs = triton(ask, "simple", many)
        for arrays, each in zip(many * 2, outputs, strict=ask == "infer_aio"):
            check_simple(arrays, each)


def test_large_tensors(triton: Triton) -> None:
    random = np.random.default_rng(5)
    # Together they are larger than the arenas, so each reply must make room.
    many = [random.integers(-128, 127, 12 * 1024**2, np.int8) for _ in range(3)]
    for array in many:
        outputs, _ = triton("infer", "same_int8", {"x": array})
        np.testing.assert_array_equal(outputs["y"], array)
    replies = triton("stream", [(str(n), "same_int8", {"x": array}) for n, array in enumerate(many)])
    for array, reply in zip(many, replies, strict=True):
        np.testing.assert_array_equal(reply[2]["y"], array)


@pytest.mark.parametrize(
    ("kind", "field", "datatype", "values"),
    [
        ("int8", "int_contents", "INT8", [-128, 127, 0]),
        ("bool", "bool_contents", "BOOL", [True, False, True]),
        ("uint64", "uint64_contents", "UINT64", ["18446744073709551615", "0", "1"]),
        ("fp64", "fp64_contents", "FP64", [0.1, -2.5, 1e300]),
    ],
)
def test_typed_contents(triton: Triton, kind: str, field: str, datatype: str, values: list[Any]) -> None:
    dtype = {"INT8": np.int8, "BOOL": np.bool_, "UINT64": np.uint64, "FP64": np.float64}[datatype]
    array: Array = np.array([int(value) if isinstance(value, str) else value for value in values], dtype)
    tensor = {"name": "x", "datatype": datatype, "shape": [3], "contents": {field: values}}
    for _ in range(2):  # the same bytes again are read again
        reply = triton("raw", "ModelInfer", {"model_name": f"same_{kind}", "inputs": [tensor]})
        assert reply["raw_output_contents"] == encoded(array)


def test_half_precision_travels_raw(triton: Triton) -> None:
    array = np.array([1.5, -0.25], np.float16)
    np.testing.assert_array_equal(triton("infer", "same_fp16", {"x": array})[0]["y"], array)


def test_strings(triton: Triton) -> None:
    array = np.array([b"", b"\xc3\xa9t\xc3\xa9", b"\x00\xc3\xa9" * 200], np.object_)
    assert triton("infer", "same_string", {"x": array})[0]["y"].tolist() == array.tolist()
    tensor = {"name": "x", "datatype": "BYTES", "shape": [2], "contents": {"bytes_contents": encoded(b"a", b"bc")}}
    reply = triton("raw", "ModelInfer", {"model_name": "same_string", "inputs": [tensor]})
    assert reply["raw_output_contents"] == encoded(b"\x01\0\0\0a\x02\0\0\0bc")


def test_a_stream_answers_in_order_and_survives_errors(triton: Triton) -> None:
    requests = [(str(n), "nope" if n == 3 else "simple", simple(n)) for n in range(60)]
    replies = triton("stream", requests)
    for (name, _, arrays), (answered, error, outputs, is_final) in zip(requests, replies, strict=True):
        if name == "3":
            assert error == "Request for unknown model: 'nope' is not found"
        else:
            assert (answered, error, is_final) == (name, "", True)
            check_simple(arrays, outputs)


def test_a_stream_ends_when_the_caller_has_all_replies(triton: Triton) -> None:
    good = request_of(simple(1), "good")
    replies = triton("raw_stream", [good, {"model_name": "simple", "id": "bad"}, {**good, "id": "last"}])
    assert [reply["infer_response"]["id"] for reply in replies] == ["good", "bad", "last"]
    assert [bool(reply["error_message"]) for reply in replies] == [False, True, False]
    assert "expected 2 inputs but got 0 inputs" in replies[1]["error_message"]
    assert triton("raw_stream", []) == []


def request_of(arrays: dict[str, Array], name: str) -> dict[str, Any]:
    inputs = [{"name": key, "datatype": "INT32", "shape": list(array.shape)} for key, array in arrays.items()]
    return {
        "model_name": "simple",
        "id": name,
        "inputs": inputs,
        "raw_input_contents": encoded(*arrays.values()),
    }


def test_statistics(triton: Triton) -> None:
    def figures() -> dict[str, Any]:
        found: dict[str, Any] = triton("ask", "get_inference_statistics", "same_fp64")["model_stats"][0]
        return found

    before = figures()
    for _ in range(3):
        triton("infer", "same_fp64", {"x": np.zeros(3)})
    after = figures()
    for count in ("inference_count", "execution_count"):
        assert int(after[count]) - int(before[count]) == 3
    spent = {name: int(each["ns"]) for name, each in after["inference_stats"].items()}
    parts = spent["queue"] + spent["compute_input"] + spent["compute_infer"] + spent["compute_output"]
    assert 0 < parts < spent["success"]
    assert abs(int(after["last_inference"]) / 1000 - time.time()) < 60
    assert len(triton("ask", "get_inference_statistics")["model_stats"]) == len(
        triton("ask", "get_model_repository_index")["models"]
    )


def test_a_request_that_is_larger_than_the_arena(triton: Triton) -> None:
    # The first is refused by the server's code, the second by gRPC, before it is in memory.
    for size, code in ((32 * 1024**2, "INVALID_ARGUMENT"), (34 * 1024**2, "RESOURCE_EXHAUSTED")):
        tensor = {"name": "x", "datatype": "INT8", "shape": [size]}
        request = {"model_name": "same_int8", "inputs": [tensor], "raw_input_contents": encoded(bytes(size))}
        assert triton("raw", "ModelInfer", request)[0] == code
    assert triton("ask", "is_model_ready", "same_int8") is True


def test_tenants_are_known_at_this_door(served: LocalServer, triton: Triton, client_of: Client) -> None:
    triton("infer", "simple", simple(1), headers={"remotegpu-tenant": "standard"})
    refused = triton("ask", "get_server_metadata", headers={"remotegpu-tenant": "no such name!"})
    assert refused[0] == "StatusCode.INVALID_ARGUMENT"
    assert not client_of.top().leases


@pytest.fixture
def client_of(served: LocalServer) -> Iterator[Client]:
    with Client(served.url) as client:
        yield client


def test_health_and_reflection_on_both_listeners(served: LocalServer) -> None:
    for port, service in (
        (served.port, "remotegpu.v1.Compute"),
        (served.inference_port, "inference.GRPCInferenceService"),
    ):
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for name in ("", service):
                answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.RpcError) as caught:
                health.Check(health_pb2.HealthCheckRequest(service="nope"), timeout=5)
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND
            reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
            asked = [
                reflection_pb2.ServerReflectionRequest(list_services=""),
                reflection_pb2.ServerReflectionRequest(file_containing_symbol=service),
            ]
            listed, file = reflection.ServerReflectionInfo(iter(asked), timeout=5)
            assert service in {each.name for each in listed.list_services_response.service}
            assert file.file_descriptor_response.file_descriptor_proto


def test_health_is_not_asked_with_other_bytes(served: LocalServer) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{served.inference_port}") as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/grpc.health.v1.Health/Check", None, None)(b"\xff", timeout=20)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError) as caught:
            list(channel.unary_stream("/grpc.health.v1.Health/Watch", None, None)(b"\xff", timeout=20))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_drain_answers_what_is_under_way_and_tells_watchers(models: Any, start_server: StartServer) -> None:
    server = start_server("--models", str(models), "--inference", "127.0.0.1:0")
    with grpc.insecure_channel(f"127.0.0.1:{server.inference_port}") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        # A stream on which nothing more is asked must not hold up the stop. It is the server's once it has answered.
        idle = threading.Event()
        asked = inference_pb2.ModelInferRequest(model_name="nobody's").SerializeToString()
        stream: Any = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer", None, None)(
            itertools.chain([asked], iter(lambda: idle.wait(30), True)), timeout=30
        )
        assert b"nobody's" in next(stream)
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 5
        assert [each.status for each in watch] == [health_pb2.HealthCheckResponse.NOT_SERVING]
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "draining" in str(caught.value.details())
        idle.set()


def test_the_listener_is_open_to_this_machine_only(start_server: StartServer) -> None:
    with pytest.raises(errors.ConfigurationError, match=r"--inference: 0\.0\.0\.0 can be reached from outside"):
        start_server("--inference", "0.0.0.0:0")
    with pytest.raises(errors.ConfigurationError, match="--inference: 'nonsense' is not HOST:PORT"):
        start_server("--inference", "nonsense")
