# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Writes a trained network as one ONNX graph: padding, network, decoding and NonMaxSuppression.

The graph is written node by node: batch normalization is folded into the convolutions, and every height and width stays
dynamic. All operators have kernels in ONNX Runtime's CPU and CUDA providers.
"""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

from examples.digits_detector.training.network import CLASSES, STRIDE, ConvBlock, Detector, Residual

OPSET = 17
IR_VERSION = 8  # the one that came with opset 17; every ONNX Runtime since 1.12 loads it
IOU_THRESHOLD = 0.5
SCORE_THRESHOLD = 0.05
MAX_DETECTIONS = 100
CANDIDATES = 1024  # best cells that reach NonMaxSuppression, whose memory on a GPU grows with their square


class GraphWriter:
    """Collects nodes and constants; `add` returns the name of a node's first output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: ArrayLike, dtype: type[np.generic] = np.float32) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, op: str, *inputs: str, outputs: tuple[str, ...] = (), **attributes: object) -> str:
        names = outputs or (f"{op.lower()}_{len(self.nodes)}",)
        self.nodes.append(helper.make_node(op, inputs, names, name=f"{op}_{len(self.nodes)}", **attributes))
        return names[0]


def export(detector: Detector, path: Path) -> None:
    """Writes `detector` to `path`. `image`, float32 [1, 3, height, width], 0..1, RGB → `boxes`, float32 [detections, 4]
    (x1 y1 x2 y2 in the picture's pixels), `scores`, float32 [detections], descending, `labels`, int64 [detections]."""
    writer = GraphWriter()
    size = writer.add("Shape", "image", start=2)  # height, width
    padded = _pad(writer, size)
    raw = _network(writer, detector, padded)
    boxes, scores, labels = _decode(writer, raw, size)
    _suppress(writer, boxes, scores, labels)
    graph = helper.make_graph(
        writer.nodes,
        "digits_detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "height", "width"])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["detections", 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["detections"]),
            helper.make_tensor_value_info("labels", TensorProto.INT64, ["detections"]),
        ],
        writer.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="remotegpu")
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def _pad(writer: GraphWriter, size: str) -> str:
    """`image`, filled up with zeros at the bottom and the right to a multiple of the stride."""
    negative = writer.add("Sub", writer.constant(0, np.int64), size)
    missing = writer.add("Mod", negative, writer.constant(STRIDE, np.int64))  # sign of the divisor: 0..7
    pads = writer.add("Concat", writer.constant([0] * 6, np.int64), missing, axis=0)
    return writer.add("Pad", "image", pads)


def _network(writer: GraphWriter, detector: Detector, x: str) -> str:
    for block in detector.body:
        if isinstance(block, Residual):
            x = writer.add("Add", x, _conv_block(writer, block.second, _conv_block(writer, block.first, x)))
        else:
            x = _conv_block(writer, block, x)
    head = detector.head
    weight, bias = (tensor.detach().numpy() for tensor in (head.weight, head.bias))
    return writer.add("Conv", x, writer.constant(weight), writer.constant(bias))


def _conv_block(writer: GraphWriter, block: ConvBlock, x: str) -> str:
    norm = block.norm
    weight, gain, shift, mean, variance = (
        tensor.detach().double().numpy()
        for tensor in (block.conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    factor = gain / np.sqrt(variance + norm.eps)
    folded = writer.constant(weight * factor[:, None, None, None])
    bias = writer.constant(shift - mean * factor)
    return writer.add("Relu", writer.add("Conv", x, folded, bias, pads=[1] * 4, strides=list(block.conv.stride)))


def _decode(writer: GraphWriter, raw: str, size: str) -> tuple[str, str, str]:
    """Boxes [candidates, 4], scores [candidates] and labels [candidates] of the best cells."""
    columns = writer.add("Shape", raw, start=3)
    flat = writer.add("Reshape", raw, writer.constant([5 + CLASSES, -1], np.int64))
    parts = ("objectness", "offset", "log_extent", "logits")
    writer.add("Split", flat, writer.constant([1, 2, 2, CLASSES], np.int64), outputs=parts, axis=0)
    named = writer.add("ReduceMax", writer.add("Softmax", "logits", axis=0), axes=[0], keepdims=0)
    found = writer.add("Reshape", writer.add("Sigmoid", "objectness"), writer.constant([-1], np.int64))
    score = writer.add("Mul", found, named)
    count = writer.add("Min", writer.add("Shape", score), writer.constant([CANDIDATES], np.int64))
    writer.add("TopK", score, count, outputs=("candidate_scores", "cells"))
    label = writer.add("ArgMax", writer.add("Gather", "logits", "cells", axis=1), axis=0, keepdims=0)

    grid = writer.add(
        "Concat",
        writer.add("Unsqueeze", writer.add("Mod", "cells", columns), writer.constant([0], np.int64)),
        writer.add("Unsqueeze", writer.add("Div", "cells", columns), writer.constant([0], np.int64)),
        axis=0,
    )  # x and y of each cell, [2, candidates]
    middle = writer.add("Add", writer.add("Cast", grid, to=TensorProto.FLOAT), writer.constant(0.5))
    moved = writer.add("Add", middle, writer.add("Gather", "offset", "cells", axis=1))
    centre = writer.add("Mul", moved, writer.constant(STRIDE))
    extent = writer.add("Exp", writer.add("Gather", "log_extent", "cells", axis=1))
    half = writer.add("Mul", extent, writer.constant(STRIDE / 2))
    corners = writer.add("Concat", writer.add("Sub", centre, half), writer.add("Add", centre, half), axis=0)
    limit = writer.add("Gather", size, writer.constant([[1], [0], [1], [0]], np.int64))  # width, height, width, height
    inside = writer.add("Min", corners, writer.add("Cast", limit, to=TensorProto.FLOAT))
    boxes = writer.add("Transpose", writer.add("Max", inside, writer.constant(0)), perm=[1, 0])
    return boxes, "candidate_scores", label


def _suppress(writer: GraphWriter, boxes: str, scores: str, labels: str) -> None:
    """Writes the three outputs. One digit per place: the suppression does not look at the class."""
    selected = writer.add(
        "NonMaxSuppression",
        writer.add("Unsqueeze", boxes, writer.constant([0], np.int64)),
        writer.add("Unsqueeze", scores, writer.constant([0, 1], np.int64)),
        writer.constant(MAX_DETECTIONS, np.int64),
        writer.constant(IOU_THRESHOLD),
        writer.constant(SCORE_THRESHOLD),
    )  # rows of batch, class, box; ONNX leaves their order open, hence the sort
    kept = writer.add("Gather", selected, writer.constant(2, np.int64), axis=1)
    kept_scores = writer.add("Gather", scores, kept)
    writer.add("TopK", kept_scores, writer.add("Shape", kept_scores), outputs=("scores", "rank"))
    order = writer.add("Gather", kept, "rank")
    writer.add("Gather", boxes, order, outputs=("boxes",))
    writer.add("Gather", labels, order, outputs=("labels",))
