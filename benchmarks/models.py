# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX models for timing only: the right shapes and amount of work, with random weights.

Run `python -m benchmarks.models DIR` to write them as a model repository, `DIR/<name>/1/model.onnx`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 9  # old enough for ONNX Runtime 1.20, which knows opsets to 21 and IR versions to 10


class _Graph:
    """The nodes and weights of a float32 network under construction; each method adds a layer, and names its output."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[Any] = []
        self._weights: list[Any] = []

    def node(self, kind: str, inputs: Sequence[str], **attributes: object) -> str:
        output = f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, value: NDArray[np.float32]) -> str:
        name = f"constant_{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(value, name))
        return name

    def weight(self, shape: tuple[int, ...], fan_in: int) -> str:
        """Normal with variance 2 / fan_in, which keeps activations of one size through the layers.

        Source: He et al., "Delving Deep into Rectifiers", 2015, eq. 10.
        """
        scale = np.float32(np.sqrt(2 / fan_in))
        return self.constant(self._random.standard_normal(shape, dtype=np.float32) * scale)

    def convolution(self, x: str, inputs: int, outputs: int, size: int, *, is_linear: bool = False) -> str:
        """A convolution of stride 1 that keeps height and width, and LeakyRelu(0.1) unless it is linear."""
        weight = self.weight((outputs, inputs, size, size), inputs * size * size)
        bias = self.constant(np.zeros(outputs, np.float32))
        x = self.node("Conv", [x, weight, bias], kernel_shape=[size, size], pads=[size // 2] * 4)
        return x if is_linear else self.node("LeakyRelu", [x], alpha=0.1)

    def model(self, name: str, x: tuple[str, list[int]], outputs: dict[str, tuple[str, list[int]]]) -> bytes:
        """Serialise; `x` is the name and shape of the input, `outputs` gives each output its inner value and shape."""
        for output, (value, _) in outputs.items():
            self._nodes.append(helper.make_node("Identity", [value], [output], name=output))
        graph = helper.make_graph(
            self._nodes,
            name,
            [_batch_of(*x)],
            [_batch_of(output, shape) for output, (_, shape) in outputs.items()],
            self._weights,
        )
        imports = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, producer_name="remotegpu", opset_imports=imports, ir_version=IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        data: bytes = model.SerializeToString(deterministic=True)
        return data


def _batch_of(name: str, shape: list[int]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])


def linear(inputs: int = 64, outputs: int = 8, seed: int = 0) -> bytes:
    """A model of one layer, y = x W + b: input `x` float32 [batch, inputs], output `y` float32 [batch, outputs]."""
    graph = _Graph(seed)
    product = graph.node("MatMul", ["x", graph.weight((inputs, outputs), inputs)])
    y = graph.node("Add", [product, graph.weight((outputs,), outputs)])
    return graph.model("linear", ("x", [inputs]), {"y": (y, [outputs])})


def identity(elements: int = 4 * 1024 * 1024) -> bytes:
    """A model that gives back its input: `x` and `y` float32 [batch, elements], by default 16 MiB per row."""
    return _Graph(0).model("identity", ("x", [elements]), {"y": ("x", [elements])})


def small_cnn(classes: int = 10, seed: int = 0) -> bytes:
    """A small classifier: four convolutions, and two layers of full connections (8.9 M parameters, most of them in the
    first of these, where one row alone waits for memory and many rows compute). Input `image` float32
    [batch, 3, 64, 64], output `logits` float32 [batch, classes]."""
    graph, x, channels = _Graph(seed), "image", 3
    for outputs in (32, 64, 128, 256):
        x = graph.convolution(x, channels, outputs, 3)
        x = graph.node("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
        channels = outputs
    x = graph.node("Flatten", [x], axis=1)
    for inputs, outputs in ((4096, 2048), (2048, classes)):
        bias = graph.constant(np.zeros(outputs, np.float32))
        x = graph.node("Gemm", [x, graph.weight((inputs, outputs), inputs), bias])
        x = graph.node("LeakyRelu", [x], alpha=0.1) if outputs != classes else x
    return graph.model("small_cnn", ("image", [3, 64, 64]), {"logits": (x, [classes])})


# The layers up to the first head: output channels and kernel size of a convolution, or stride of a 2 × 2 max pool.
# Source of this table and of the wiring in `yolov3_tiny`: cfg/yolov3-tiny.cfg in J. Redmon's darknet,
# https://github.com/pjreddie/darknet/blob/f86901f6177dfc6116360a13cc06ab680e0c86b0/cfg/yolov3-tiny.cfg
_Layer = tuple[Literal["convolution"], int, int] | tuple[Literal["max pool"], int]
_BACKBONE: tuple[_Layer, ...] = (
    ("convolution", 16, 3),
    ("max pool", 2),
    ("convolution", 32, 3),
    ("max pool", 2),
    ("convolution", 64, 3),
    ("max pool", 2),
    ("convolution", 128, 3),
    ("max pool", 2),
    ("convolution", 256, 3),
    ("max pool", 2),
    ("convolution", 512, 3),
    ("max pool", 1),
    ("convolution", 1024, 3),
    ("convolution", 256, 1),
)
_ROUTES = (8, 13)  # layers of the backbone that the second head takes up again


def yolov3_tiny(seed: int = 0, classes: int = 80) -> bytes:
    """A network with the layers of YOLOv3-tiny: 13 convolutions, 8.8 M parameters with 80 classes, untrained.

    Input `images` float32 [batch, 3, 416, 416]; outputs `large` float32 [batch, 3 (5 + classes), 13, 13] and `small`
    [batch, 3 (5 + classes), 26, 26], as they come from the last convolutions, before boxes are decoded from them.
    Batch normalisation is folded into the convolutions, as in a model made for inference.
    """
    graph = _Graph(seed)
    x, channels, layers = "images", 3, []
    for layer in _BACKBONE:
        if layer[0] == "convolution":
            x = graph.convolution(x, channels, layer[1], layer[2])
            channels = layer[1]
        else:
            # With stride 1 the size is kept by one more row and column at the end.
            end = 2 - layer[1]
            x = graph.node("MaxPool", [x], kernel_shape=[2, 2], strides=[layer[1]] * 2, pads=[0, 0, end, end])
        layers.append(x)
    early, late = (layers[index] for index in _ROUTES)
    head = 3 * (5 + classes)  # per anchor: box, objectness, classes; three anchors per head
    large = graph.convolution(graph.convolution(late, 256, 512, 3), 512, head, 1, is_linear=True)
    up = graph.convolution(late, 256, 128, 1)
    scales = graph.constant(np.array([1, 1, 2, 2], np.float32))
    up = graph.node(
        "Resize", [up, "", scales], mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )
    both = graph.node("Concat", [up, early], axis=1)
    small = graph.convolution(graph.convolution(both, 128 + 256, 256, 3), 256, head, 1, is_linear=True)
    outputs = {"large": (large, [head, 13, 13]), "small": (small, [head, 26, 26])}
    return graph.model("yolov3_tiny", ("images", [3, 416, 416]), outputs)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the models into the model repository named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=main.__doc__)
    parser.add_argument("directory", type=Path, help="the model repository, created where it is missing")
    directory = parser.parse_args(arguments).directory
    for build in (linear, small_cnn, yolov3_tiny):
        path = directory / build.__name__ / "1" / "model.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(build())
        print(path)


if __name__ == "__main__":
    main()
