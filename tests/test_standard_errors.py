# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Refusals of the standard door: codes and words are those of Triton 2.51, which were read off a running one.

Triton's rows about batch sizes do not apply, since no model has a batch dimension of its own here; its rows about
sequences, decoupled models and memory shared with clients are about what this server does not have.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from remotegpu.local import LocalServer
from tests.fixtures import standard_models
from tests.fixtures.triton import Triton, encoded

ROW = np.arange(16, dtype=np.int32)[None]
LABEL = "[request id: rq1] "


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    models = standard_models.write(tmp_path_factory.mktemp("standard"))
    server = LocalServer(["--gpus", "cpu", "--models", str(models), "--arena", "16MiB", "--inference", "127.0.0.1:0"])
    asked = Triton(server.inference_port)
    yield asked
    asked.close()
    assert server.stop() == 0


def tensor(
    name: str = "INPUT0", datatype: str = "INT32", shape: tuple[int, ...] = (1, 16), **more: Any
) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape), **more}


def request(*inputs: dict[str, Any], raw: list[str] | None = None, **more: Any) -> dict[str, Any]:
    """A request to `simple`; one row for each input that says nothing else."""
    raw = encoded(*(ROW for _ in inputs)) if raw is None else raw
    return {"model_name": "simple", "id": "rq1", "inputs": list(inputs), "raw_input_contents": raw, **more}


GOOD = (tensor(), tensor("INPUT1"))
TYPED: dict[str, Any] = {"contents": {"int_contents": list(range(16))}}
VERSION = (
    "failed to get model version from specified version string 'abc' (details: stol), version should be an integral "
)
MISSING = (
    "expected 2 inputs but got 1 inputs for model 'simple'. Got input(s) ['INPUT0'], but missing required input(s) "
    "['INPUT1']. Please provide all required input(s)."
)
STRINGS = [tensor("x", "BYTES", (3,))]


def strings(data: bytes) -> dict[str, Any]:
    return {**request(*STRINGS, raw=encoded(data)), "model_name": "same_string"}


def parameter(name: str, **value: Any) -> dict[str, Any]:
    return request(*GOOD, parameters={name: value})


INVALID, MISSES, AWAY = "INVALID_ARGUMENT", "NOT_FOUND", "UNAVAILABLE"

INFER = [
    ({"model_name": "nope"}, MISSES, "Request for unknown model: 'nope' is not found"),
    ({}, MISSES, "Request for unknown model: '' is not found"),
    ({**request(*GOOD), "model_version": "9"}, MISSES, "Request for unknown model: 'simple' version 9 is not found"),
    ({**request(*GOOD), "model_version": "abc"}, INVALID, VERSION + "value > 0"),
    (request(tensor()), INVALID, LABEL + MISSING),
    (request(tensor(), tensor("BOGUS")), INVALID, "unexpected inference input 'BOGUS' for model 'simple'"),
    (request(*GOOD, outputs=[{"name": "BOGUS"}]), INVALID, "unexpected inference output 'BOGUS' for model 'simple'"),
    (request(tensor(), tensor()), INVALID, f"{LABEL}input 'INPUT0' already exists in request"),
    (
        request(*GOOD, outputs=[{"name": "OUTPUT0"}, {"name": "OUTPUT0"}]),
        INVALID,
        f"{LABEL}output 'OUTPUT0' already exists in request",
    ),
    (
        request(tensor(), tensor("INPUT1", "FP32")),
        INVALID,
        f"{LABEL}inference input 'INPUT1' data-type is 'FP32', but model 'simple' expects 'INT32'",
    ),
    (
        request(tensor(), tensor("INPUT1", "BF16")),
        INVALID,
        f"{LABEL}inference input 'INPUT1' data-type is 'BF16', but model 'simple' expects 'INT32'",
    ),
    (
        request(tensor(), tensor("INPUT1", "STRANGE")),
        INVALID,
        f"{LABEL}inference input 'INPUT1' data-type is '<invalid>', but model 'simple' expects 'INT32'",
    ),
    (
        request(tensor(), tensor("INPUT1", shape=(1, 8))),
        INVALID,
        f"{LABEL}unexpected shape for input 'INPUT1' for model 'simple'. Expected [-1,16], got [1,8].",
    ),
    (
        request(tensor(), tensor("INPUT1", shape=(16,))),
        INVALID,
        f"{LABEL}unexpected shape for input 'INPUT1' for model 'simple'. Expected [-1,16], got [16].",
    ),
    (
        request(tensor(), tensor("INPUT1", shape=(1, -1))),
        INVALID,
        f"{LABEL}All input dimensions should be specified for input 'INPUT1' for model 'simple', got [1,-1]",
    ),
    (
        request(tensor(), tensor("INPUT1", shape=(2**60, 16))),  # more bytes than 64 bits can tell
        INVALID,
        f"{LABEL}input byte size mismatch for input 'INPUT1' for model 'simple'. Expected {2**66}, got 64",
    ),
    (
        request(*GOOD, raw=encoded(ROW, ROW.tobytes()[:60])),
        INVALID,
        f"{LABEL}input byte size mismatch for input 'INPUT1' for model 'simple'. Expected 64, got 60",
    ),
    (
        request(tensor(**TYPED), tensor("INPUT1", contents={"int_contents": [1] * 17}), raw=[]),
        INVALID,
        f"{LABEL}input byte size mismatch for input 'INPUT1' for model 'simple'. Expected 64, got 68",
    ),
    (
        {**request(*GOOD, raw=encoded(ROW, b"")), "id": ""},
        INVALID,
        "[request id: <id_unknown>] input byte size mismatch for input 'INPUT1' for model 'simple'. Expected 64, got 0",
    ),
    (
        request(*GOOD, raw=encoded(ROW)),
        INVALID,
        "unable to find data for input tensor 'INPUT1' for model 'simple' in request.",
    ),
    (
        request(*GOOD, raw=[]),
        INVALID,
        "unable to find data for input tensor 'INPUT0' for model 'simple' in request.",
    ),
    (
        request(*GOOD, raw=encoded(ROW, ROW, ROW)),
        INVALID,
        "expected 2 raw_input_contents for model 'simple', got 3",
    ),
    (
        request(tensor(**TYPED), tensor("INPUT1")),
        INVALID,
        "contents field must not be specified when using raw_input_contents for 'INPUT0' for model 'simple'",
    ),
    (
        request(tensor(contents={"fp32_contents": [1.0]}), tensor("INPUT1", **TYPED), raw=[]),
        INVALID,
        "unexpected explicit tensor data for input tensor 'INPUT0' for model 'simple' of type 'FP32', expected "
        "datatype 'INT32'",
    ),
    (
        strings(b"\x01\0\0\0a"),
        INVALID,
        "expected 3 string elements for inference input 'x', got 1",
    ),
    (
        strings(b"\x01\0\0\0a" * 4),
        INVALID,
        "unexpected number of string elements 4 for inference input 'x', expecting 3",
    ),
    (
        strings(bytes(8) + b"\x05\0\0\0ab"),
        INVALID,
        "incomplete string data for inference input 'x', expecting string of length 5 but only 2 bytes available",
    ),
    (
        parameter("triton_mine", bool_param=True),
        INVALID,
        "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys starting with "
        "'triton_' are allowed: triton_enable_empty_final_response",
    ),
    (
        parameter("priority", string_param="high"),
        INVALID,
        "invalid value type for 'priority' parameter, expected int64_param or uint64_param.",
    ),
    (parameter("priority", int64_param=-1), INVALID, "invalid value for 'priority', expected value >= 0."),
    (
        parameter("timeout", string_param="long"),
        INVALID,
        "invalid value type for 'timeout' parameter, expected int64_param.",
    ),
    (
        request(tensor(parameters={"shared_memory_region": {"string_param": "nope"}}), tensor("INPUT1")),
        MISSES,
        "Unable to find shared memory region: 'nope'",
    ),
    (
        request(*GOOD, outputs=[{"name": "OUTPUT0", "parameters": {"classification": {"int64_param": 0}}}]),
        INVALID,
        "invalid value for 'classification' parameter, expected >= 0",
    ),
]


@pytest.mark.parametrize(("asked", "code", "message"), INFER)
def test_refused_requests(triton: Triton, asked: dict[str, Any], code: str, message: str) -> None:
    assert triton("raw", "ModelInfer", asked) == (code, message)


def test_a_request_that_was_refused_was_so_for_its_data_alone(triton: Triton) -> None:
    # The same head as of requests that were refused, so nothing that a refusal left behind may be in the way.
    reply = triton("raw", "ModelInfer", request(*GOOD))
    assert reply["raw_output_contents"] == encoded(2 * ROW, 0 * ROW)
    assert triton("raw", "ModelInfer", request(*GOOD, raw=encoded(ROW)))[0] == INVALID


@pytest.mark.parametrize(
    "parameters",
    [
        {"priority": {"uint64_param": "1"}, "timeout": {"int64_param": "60000000"}, "mine": {"string_param": "x"}},
        {"sequence_id": {"int64_param": "5"}, "sequence_start": {"bool_param": True}},
    ],
)
def test_parameters_that_mean_nothing_here_are_no_mistake(triton: Triton, parameters: dict[str, Any]) -> None:
    assert "outputs" in triton("raw", "ModelInfer", request(*GOOD, parameters=parameters))


OTHERS = [
    ("ModelMetadata", {"name": "nope"}, MISSES, "Request for unknown model: 'nope' is not found"),
    ("ModelConfig", {"name": ""}, MISSES, "Request for unknown model: '' is not found"),
    (
        "ModelMetadata",
        {"name": "simple", "version": "9"},
        MISSES,
        "Request for unknown model: 'simple' version 9 is not found",
    ),
    ("ModelConfig", {"name": "simple", "version": "abc"}, INVALID, VERSION + "value > 0"),
    ("ModelReady", {"name": "simple", "version": "abc"}, INVALID, VERSION + "value > 0"),
    ("ModelStatistics", {"name": "nope"}, INVALID, "requested model 'nope' is not available"),
    (
        "ModelStatistics",
        {"name": "simple", "version": "9"},
        INVALID,
        "requested model version is not available for model 'simple'",
    ),
    (
        "RepositoryModelLoad",
        {"model_name": "simple"},
        AWAY,
        "explicit model load / unload is not allowed if polling is enabled",
    ),
    (
        "RepositoryModelUnload",
        {"model_name": "simple"},
        AWAY,
        "explicit model load / unload is not allowed if polling is enabled",
    ),
    (
        "RepositoryIndex",
        {"repository_name": "mine"},
        "UNIMPLEMENTED",
        "'repository_name' specification is not supported",
    ),
]


@pytest.mark.parametrize(("method", "asked", "code", "message"), OTHERS)
def test_other_methods(triton: Triton, method: str, asked: dict[str, Any], code: str, message: str) -> None:
    assert triton("raw", method, asked) == (code, message)


@pytest.mark.parametrize("method", ["TraceSetting", "LogSettings", "SystemSharedMemoryStatus"])
def test_methods_that_are_not_there(triton: Triton, method: str) -> None:
    assert triton("raw", method, {})[0] == "UNIMPLEMENTED"
