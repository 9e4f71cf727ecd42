# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark models have the shapes and the size that their numbers are quoted for."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from benchmarks import models


@pytest.fixture(scope="module")
def yolov3_tiny() -> bytes:
    return models.yolov3_tiny()


def session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def test_linear_is_a_matrix_product_and_a_sum() -> None:
    model = models.linear(inputs=5, outputs=3, seed=1)
    x = np.random.default_rng(2).standard_normal((4, 5), dtype=np.float32)
    (y,) = session(model).run(["y"], {"x": x})
    weight, bias = (numpy_helper.to_array(value) for value in onnx.load_from_string(model).graph.initializer)
    np.testing.assert_allclose(y, x @ weight + bias, rtol=1e-5, atol=1e-6)


def test_linear_takes_64_numbers_and_gives_8_by_default() -> None:
    (y,) = session(models.linear()).run(None, {"x": np.ones((2, 64), np.float32)})
    assert y.shape == (2, 8)


def test_yolov3_tiny_has_its_parameters_and_convolutions(yolov3_tiny: bytes) -> None:
    graph = onnx.load_from_string(yolov3_tiny).graph
    trained = {name for node in graph.node if node.op_type == "Conv" for name in node.input}
    parameters = sum(math.prod(value.dims) for value in graph.initializer if value.name in trained)
    assert parameters == 8_849_182  # 8,845,488 weights and 3,694 biases, added up by hand from the layer table
    kinds = Counter(node.op_type for node in graph.node)
    assert (kinds["Conv"], kinds["LeakyRelu"], kinds["MaxPool"], kinds["Resize"], kinds["Concat"]) == (13, 11, 6, 1, 1)


def test_yolov3_tiny_gives_two_grids_of_sane_numbers(yolov3_tiny: bytes) -> None:
    loaded = session(yolov3_tiny)
    assert [(x.name, x.type, x.shape) for x in loaded.get_inputs()] == [
        ("images", "tensor(float)", ["batch", 3, 416, 416])
    ]
    images = np.random.default_rng(0).random((2, 3, 416, 416), dtype=np.float32)
    large, small = loaded.run(["large", "small"], {"images": images})
    assert large.shape == (2, 255, 13, 13)
    assert small.shape == (2, 255, 26, 26)
    for grid in (large, small):  # He's scale: neither vanished nor overflowed after 10 layers
        assert 0.01 < grid.std() < 100
    (first,) = loaded.run(["large"], {"images": images[:1]})
    np.testing.assert_allclose(first, large[:1], rtol=1e-4, atol=1e-4)


def test_number_of_classes_sets_the_channels_of_the_heads() -> None:
    outputs = session(models.yolov3_tiny(classes=1)).get_outputs()
    assert [output.shape for output in outputs] == [["batch", 18, 13, 13], ["batch", 18, 26, 26]]


def test_same_seed_gives_the_same_bytes(yolov3_tiny: bytes) -> None:
    assert models.yolov3_tiny() == yolov3_tiny
    assert models.yolov3_tiny(seed=1) != yolov3_tiny
    assert models.linear() == models.linear()
    assert models.linear(seed=1) != models.linear()


def test_old_runtimes_can_load_the_models(yolov3_tiny: bytes) -> None:
    for data in (yolov3_tiny, models.linear()):
        model = onnx.load_from_string(data)
        assert model.ir_version <= 10
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]


def test_main_writes_a_model_repository(tmp_path: Path, yolov3_tiny: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    models.main([str(tmp_path / "models")])
    assert (tmp_path / "models/yolov3_tiny/1/model.onnx").read_bytes() == yolov3_tiny
    assert (tmp_path / "models/linear/1/model.onnx").read_bytes() == models.linear()
    assert len(capsys.readouterr().out.splitlines()) == 3
