# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The REST form of the Open Inference Protocol, without a server: values in JSON, messages with a binary section."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from remotegpu import errors, strings
from remotegpu_server.standard import config, rest_json, rest_tensors, rest_values
from remotegpu_server.standard.infer import Input, Output, Response
from remotegpu_server.standard.refusals import Refused
from remotegpu_server.standard.rest_bodies import TooLarge
from remotegpu_server.standard.rest_repository import load_request, unload_request
from remotegpu_server.standard.rest_routes import NoRoute, Route, route
from remotegpu_server.standard.served import Served, Tensor
from remotegpu_server.standard.tensors import NUMPY

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
NUMBERS = st.sampled_from(sorted(NUMPY.items()))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, np.ndarray[Any, Any]]:
    """A datatype and an array of it; strings as object arrays of text."""
    name, dtype = draw(NUMBERS)
    return name, draw(hnp.arrays(np.dtype(dtype), SHAPES))


def nested_or_flat(array: np.ndarray[Any, Any], nested: bool) -> Any:
    return array.tolist() if nested and array.ndim else array.reshape(-1).tolist()


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


@given(tensors(), st.booleans())
def test_numbers_come_through_json_bit_for_bit(tensor: tuple[str, np.ndarray[Any, Any]], nested: bool) -> None:
    datatype, array = tensor
    raw = bytes(rest_values.raw(through_json(nested_or_flat(array, nested)), datatype, array.shape, "x"))
    np.testing.assert_array_equal(np.frombuffer(raw, array.dtype).reshape(array.shape), array)
    back = json.loads(b"".join(rest_values.listed(memoryview(raw), datatype, "x")))
    np.testing.assert_array_equal(np.array(back, array.dtype).reshape(array.shape), array)


@given(hnp.arrays(object, SHAPES, elements=TEXTS), st.booleans())
def test_text_comes_through_json(array: np.ndarray[Any, Any], nested: bool) -> None:
    raw = rest_values.raw(through_json(nested_or_flat(array, nested)), "BYTES", array.shape, "x")
    assert raw == strings.encode(array)
    assert json.loads(b"".join(rest_values.listed(memoryview(raw), "BYTES", "x"))) == array.reshape(-1).tolist()


@pytest.mark.parametrize("count", [0, 1, rest_values.PIECE, rest_values.PIECE + 1, 3 * rest_values.PIECE])
@pytest.mark.parametrize("datatype", ["INT32", "BYTES"])
def test_long_lists_are_made_in_pieces_that_fit_together(count: int, datatype: str) -> None:
    values: list[Any] = [str(i) for i in range(count)] if datatype == "BYTES" else list(range(count))
    raw = memoryview(rest_values.raw(values, datatype, [count], "x"))
    pieces = list(rest_values.listed(raw, datatype, "x"))
    assert json.loads(b"".join(pieces)) == values
    assert len(pieces) == 2 + -(-count // rest_values.PIECE)


@pytest.mark.parametrize(
    ("data", "datatype", "shape", "words"),
    [
        ([1, 2, 3], "INT32", [4], "4 values"),
        ([[1, 2], [3]], "INT32", [2, 2], "nested lists of 2"),
        ([[1], [2]], "INT32", [2], "deeper"),
        ([[1, 2], [3, 4]], "INT32", [4], "nested lists of 4"),
        ([[[1]]], "INT32", [1, 1], "deeper"),
        ([[1, 2]], "INT32", [2, 1], "nested lists of 2"),
        ([[1], 2], "INT32", [2, 1], "equal depth"),
        ([[1, 2], [3, 4]], "INT32", [2, 2, 1], "depth 3"),
        (7, "INT32", [1], "a list"),
        ("7", "INT32", [1], "a list"),
        ({}, "INT32", [0], "a list"),
        (["7"], "INT32", [1], "str"),
        ([None], "FP32", [1], "NoneType"),
        ([True], "INT32", [1], "bool"),
        ([1], "BOOL", [1], "int"),
        ([1.5], "INT32", [1], "float"),
        ([300], "UINT8", [1], "UINT8 can hold"),
        ([-1], "UINT64", [1], "UINT64 can hold"),
        ([2**80], "INT64", [1], "INT64 can hold"),
        ([1e300], "FP32", [1], "FP32 can hold"),
        ([10**400], "FP64", [1], "FP64 can hold"),
        ([7], "BYTES", [1], "int"),
        (["\ud800"], "BYTES", [1], "UTF-8"),
    ],
)
def test_other_values_are_refused(data: Any, datatype: str, shape: list[int], words: str) -> None:
    with pytest.raises(errors.InvalidInput, match=words) as caught:
        rest_values.raw(data, datatype, shape, "input 'x'")
    assert caught.value.field == "input 'x'"


def test_bytes_that_are_no_text_are_refused_in_json() -> None:
    with pytest.raises(errors.InvalidInput, match="binary_data"):
        list(rest_values.listed(memoryview(b"\x01\x00\x00\x00\xff"), "BYTES", "x"))


SERVED = Served("m", "3", "onnxruntime_onnx", (Tensor("x", "FP32", (-1, 64)),), (Tensor("y", "INT8", (-1,)),))


def body_of(head: Any, binary: bytes = b"") -> tuple[memoryview, int]:
    """A body, and the bytes of its JSON."""
    data = head if isinstance(head, bytes) else json.dumps(head).encode()
    return memoryview(data + binary), len(data)


def binary_input(name: str, size: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": "UINT8", "shape": [size], "parameters": {"binary_data_size": size}, **more}


@given(st.lists(st.binary(max_size=20), max_size=4))
def test_binary_inputs_are_views_of_the_body_in_the_order_of_the_json(values: list[bytes]) -> None:
    head = {"inputs": [binary_input(str(i), len(value)) for i, value in enumerate(values)]}
    body, json_size = body_of(head, b"".join(values))
    message = rest_tensors.parse("m", "", body, rest_tensors.header_size(str(json_size), len(body)))
    assert message.request.inputs == tuple(Input(str(i), "UINT8", (len(v),)) for i, v in enumerate(values))
    found = rest_tensors.data_of(message)
    assert [bytes(each) for each in found] == values
    assert all(isinstance(each, memoryview) and each.obj is body.obj for each in found)


def test_a_request_is_read_with_all_its_fields() -> None:
    head = {
        "id": "q1",
        "parameters": {"timeout": 7, "mine": "x", "binary_data_output": True},
        "inputs": [
            {"name": "a", "datatype": "INT16", "shape": [2, 1], "data": [[1], [2]]},
            binary_input("b", 3),
            {"name": "c", "datatype": "BYTES", "shape": [1], "data": ["é"]},
        ],
        "outputs": [
            {"name": "p"},
            {"name": "q", "parameters": {"binary_data": False}},
            {"name": "r", "parameters": {"classification": 2, "binary_data": True}},
        ],
    }
    body, json_size = body_of(head, b"xyz")
    message = rest_tensors.parse("m", "3", body, json_size)
    request = message.request
    assert (request.model, request.version, request.id) == ("m", "3", "q1")
    assert request.parameters["timeout"] == 7
    assert [(each.name, each.classification) for each in request.outputs] == [("p", 0), ("q", 0), ("r", 2)]
    assert [message.wanted.is_binary(name) for name in "pqr"] == [True, False, True]
    assert [bytes(each) for each in rest_tensors.data_of(message)] == [b"\1\0\2\0", b"xyz", b"\2\0\0\0\xc3\xa9"]


@pytest.mark.parametrize(
    ("text", "size", "words"),
    [
        ("", 9, "not a number"),
        ("-1", 9, "not a number"),
        ("0x1", 9, "not a number"),
        ("１", 9, "not a number"),
        ("9" * 5000, 9, "not a number"),
        ("10", 9, "says 10 bytes of JSON, but the body has 9"),
    ],
)
def test_a_header_size_that_cannot_be_is_refused(text: str, size: int, words: str) -> None:
    with pytest.raises(Refused, match=words):
        rest_tensors.header_size(text, size)


def test_more_json_than_is_parsed_is_refused_and_told_of_binary_data() -> None:
    limit = rest_tensors.JSON.size
    assert rest_tensors.header_size(None, limit) == rest_tensors.header_size(str(limit), 2 * limit) == limit
    for text, size in ((None, limit + 1), (str(limit + 1), 2 * limit)):
        with pytest.raises(TooLarge, match="binary_data_size"):
            rest_tensors.header_size(text, size)


TENSOR = {"name": "x", "datatype": "UINT8", "shape": [1]}


@pytest.mark.parametrize(
    ("head", "binary", "words"),
    [
        (b"", b"", "parse the request JSON"),
        (b"[1]", b"", "not an object"),
        (b"{", b"", "parse the request JSON"),
        (b"\xff{}", b"", "parse the request JSON"),
        (b"[" * 100_000, b"", "parse the request JSON"),
        (b'{"id": ' + b"9" * 5000 + b"}", b"", "parse the request JSON"),
        ({"id": 7}, b"", "'id'"),
        ({"id": "\ud800"}, b"", "'id'"),
        ({"parameters": []}, b"", "'parameters'"),
        ({"parameters": {"a": [1]}}, b"", "parameter 'a'"),
        ({"parameters": {"a": None}}, b"", "parameter 'a'"),
        ({"parameters": {"binary_data_output": 1}}, b"", "binary_data_output"),
        ({"inputs": {}}, b"", "'inputs'"),
        ({"inputs": [1]}, b"", "'inputs'"),
        ({"inputs": [TENSOR] * 1025}, b"", "at most 1024"),
        ({"inputs": [{**TENSOR, "name": 7}]}, b"", "'name'"),
        ({"inputs": [{**TENSOR, "datatype": None}]}, b"", "'datatype'"),
        ({"inputs": [{"name": "x", "datatype": "UINT8"}]}, b"", "'shape'"),
        ({"inputs": [{**TENSOR, "shape": [1] * 65}]}, b"", "'shape'"),
        ({"inputs": [{**TENSOR, "shape": [True]}]}, b"", "'shape'"),
        ({"inputs": [{**TENSOR, "shape": [1.0]}]}, b"", "'shape'"),
        ({"inputs": [{**TENSOR, "shape": [2**63]}]}, b"", "'shape'"),
        ({"inputs": [binary_input("x", 2)]}, b"1", "says 2 bytes of binary data, but the body has 1 left"),
        ({"inputs": [binary_input("x", 1), binary_input("y", 1)]}, b"1", "body has 0 left"),
        ({"inputs": [binary_input("x", 10**3000, shape=[1])]}, b"1", "body has 1 left"),
        ({"inputs": [binary_input("x", 1)]}, b"123", "additional input data for model 'm': 2 bytes"),
        ({"inputs": []}, b"1", "additional input data"),
        ({"inputs": [binary_input("x", -1, shape=[1])]}, b"", "not a number of bytes"),
        ({"inputs": [binary_input("x", True, shape=[1])]}, b"1", "not a number of bytes"),
        ({"inputs": [binary_input("x", 1.0, shape=[1])]}, b"1", "not a number of bytes"),
        ({"inputs": [binary_input("x", "1", shape=[1])]}, b"1", "not a number of bytes"),
        ({"inputs": [binary_input("x", 1, data=[1])]}, b"1", "both"),
        ({"inputs": [{**TENSOR, "parameters": {"shared_memory_region": "r"}}]}, b"", "shared memory region"),
        ({"outputs": [{"name": "y", "parameters": {"classification": 0}}]}, b"", "classification"),
        ({"outputs": [{"name": "y", "parameters": {"binary_data": "yes"}}]}, b"", "binary_data"),
        ({"outputs": [{}]}, b"", "'name'"),
    ],
)
def test_a_message_that_is_wrong_or_lies_is_refused(head: Any, binary: bytes, words: str) -> None:
    with pytest.raises(Refused, match=words) as caught:
        rest_tensors.parse("m", "", *body_of(head, binary))
    assert caught.value.code in ("INVALID_ARGUMENT", "NOT_FOUND")
    assert len(caught.value.message) < 500


def test_an_input_without_data_is_refused() -> None:
    message = rest_tensors.parse("m", "", *body_of({"inputs": [TENSOR]}))
    with pytest.raises(Refused, match="unable to find data for input tensor 'x' for model 'm'"):
        rest_tensors.data_of(message)


@given(st.binary(max_size=200), st.integers(0, 200))
def test_whatever_comes_is_read_or_refused(data: bytes, json_size: int) -> None:
    try:
        message = rest_tensors.parse("m", "", memoryview(data), rest_tensors.header_size(str(json_size), len(data)))
        rest_tensors.data_of(message)
    except (Refused, errors.Error):
        pass


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3), st.lists, max_leaves=5
)


@given(
    st.fixed_dictionaries(
        {"name": JSON, "datatype": st.sampled_from(sorted(NUMPY)) | JSON, "shape": st.lists(st.integers(-1, 3)) | JSON},
        optional={"data": JSON, "parameters": st.dictionaries(st.sampled_from(["binary_data_size", "a"]), JSON)},
    ),
    st.binary(max_size=8),
)
def test_whatever_a_tensor_says_it_is_read_or_refused(tensor: dict[str, Any], binary: bytes) -> None:
    try:
        message = rest_tensors.parse("m", "", *body_of({"inputs": [tensor]}, binary))
        if message.request.inputs[0].datatype in NUMPY:  # as the comparison with a model makes sure
            rest_tensors.data_of(message)
    except (Refused, errors.Error):
        pass


def response(*outputs: Output) -> Response:
    return Response(SERVED, list(outputs), close=lambda: None, layout=None)


def wanted(binary: dict[str, bool], default: bool = False) -> rest_tensors.Wanted:
    return rest_tensors.Wanted("q", binary, default)


def test_a_reply_has_json_and_binary_outputs_as_asked() -> None:
    outputs = (
        Output("a", "INT16", (2, 1), b"\1\0\2\0"),
        Output("b", "UINT8", (3,), memoryview(b"xyz")),
        Output("c", "BYTES", (1,), b"\1\0\0\0s"),
    )
    made = rest_tensors.reply(wanted({"b": True}), response(*outputs))
    assert made.binary == [b"xyz"]
    assert json.loads(b"".join(made.head)) == {
        "model_name": "m",
        "model_version": "3",
        "id": "q",
        "outputs": [
            {"name": "a", "datatype": "INT16", "shape": [2, 1], "data": [1, 2]},
            {"name": "b", "datatype": "UINT8", "shape": [3], "parameters": {"binary_data_size": 3}},
            {"name": "c", "datatype": "BYTES", "shape": [1], "data": ["s"]},
        ],
    }
    assert rest_tensors.reply(wanted({}), response(*outputs)).binary is None
    assert rest_tensors.reply(wanted({}, default=True), response(*outputs)).binary == [each.data for each in outputs]


def test_only_so_many_values_are_sent_as_json() -> None:
    limit = rest_tensors.LISTED_LIMIT
    half = Output("a", "UINT8", (limit // 2,), memoryview(bytes(limit // 2)))
    more = Output("b", "UINT8", (limit // 2 + 1,), memoryview(bytes(limit // 2 + 1)))
    assert rest_tensors.reply(wanted({}), response(half, half)).is_long
    assert not rest_tensors.reply(wanted({}, default=True), response(half, more)).is_long
    with pytest.raises(Refused, match="binary_data_output"):
        rest_tensors.reply(wanted({}), response(half, more))


@pytest.mark.parametrize(
    ("method", "path", "found"),
    [
        ("GET", "/v2", Route("server")),
        ("GET", "/v2/", Route("server")),
        ("GET", "/v2/health/live", Route("live")),
        ("GET", "/v2/models/stats", Route("all_stats")),
        ("GET", "/v2/models/m", Route("metadata", "m")),
        ("GET", "/v2/models/stats/stats", Route("stats", "stats")),
        ("GET", "/v2/models/versions/versions/2/config", Route("config", "versions", "2")),
        ("POST", "/v2/models/a%2Fb%20c/versions/prod/infer", Route("infer", "a/b c", "prod")),
        ("POST", "/v2/repository/index", Route("index")),
        ("POST", "/v2/repository/models/m/unload", Route("unload", "m")),
    ],
)
def test_paths(method: str, path: str, found: Route) -> None:
    assert route(method, path) == found


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/models/m", 404),
        ("GET", "/v2/models", 404),
        ("GET", "/v2/models//infer", 404),
        ("GET", "/v2/models/m/versions", 404),
        ("GET", "/v2/models/m/versions//infer", 404),
        ("GET", "/v2/models/m/" + "x/" * 100, 404),
        ("GET", "/v2/repository/models/m/nope", 404),
        ("GET", "/v2/models/m/infer", 405),
        ("DELETE", "/v2", 405),
        ("GET", "/v2/repository/models/m/load", 405),
        ("GET", "/v2/systemsharedmemory/status", 501),
        ("POST", "/v2/models/m/generate", 501),
        ("GET", "/v2/logging", 501),
    ],
)
def test_paths_that_are_not_answered(method: str, path: str, status: int) -> None:
    with pytest.raises(NoRoute) as caught:
        route(method, path)
    assert caught.value.status == status


def test_messages_become_json_with_numbers_and_all_defaults() -> None:
    found = rest_json.fields(config.configuration(SERVED))
    assert found["input"] == [
        {"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 64], "is_shape_tensor": False, "optional": False}
    ]
    assert found["max_batch_size"] == 0
    assert found["version_policy"] == {"latest": {"num_versions": 1}}


def test_load_and_unload_parameters() -> None:
    message = load_request("m", b'{"parameters": {"config": "{}", "file:1/model.onnx": "AAE=", "n": 3}}')
    assert message.model_name == "m"
    assert message.parameters["config"].string_param == "{}"
    assert message.parameters["file:1/model.onnx"].bytes_param == b"\0\1"
    assert message.parameters["n"].int64_param == 3
    assert (
        unload_request("m", b'{"parameters": {"unload_dependents": true}}').parameters["unload_dependents"].bool_param
    )
    assert not unload_request("m", b"").parameters


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'{"parameters": 7}',
        b'{"parameters": {"a": null}}',
        b'{"parameters": {"a": 99999999999999999999}}',
        b'{"parameters": {"a": "\\ud800"}}',
        b'{"parameters": {"file:x": "no base64"}}',
    ],
)
def test_other_load_parameters_are_refused(body: bytes) -> None:
    with pytest.raises(Refused):
        load_request("m", body)
