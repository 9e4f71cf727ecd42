# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The network: a small single-scale, anchor-free detector in the manner of YOLO, and its loss.

One cell per 8×8 pixels predicts 15 numbers: objectness, the offset of the box's centre from the cell's (in cells), the
logarithm of the box's width and height (in cells), and ten class logits.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from examples.digits_detector.scenes import Scene

STRIDE = 8
CLASSES = 10


class Targets(NamedTuple):
    """`objectness`: float32 [scenes, rows × columns]; `positive`: bool of the same shape; for the positive cells in
    their order: `boxes`, float32 [positives, 4] (centre x y, width height, in cells) and `labels`, int64 [positives].
    """

    objectness: torch.Tensor
    positive: torch.Tensor
    boxes: torch.Tensor
    labels: torch.Tensor


class ConvBlock(nn.Module):
    """3×3 convolution, batch normalization, ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.norm(self.conv(x)), inplace=True)


class Residual(nn.Module):
    """Two blocks with a shortcut around them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvBlock(channels, channels)
        self.second = ConvBlock(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(self.first(x))


class Detector(nn.Module):
    """float32 [scenes, 3, height, width], 0..1, → float32 [scenes, 15, rows, columns].

    Height and width are filled up with zeros, at the bottom and the right, to a multiple of 8.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList(
            [
                ConvBlock(3, 16, stride=2),
                ConvBlock(16, 32, stride=2),
                Residual(32),
                ConvBlock(32, 80, stride=2),
                Residual(80),
                Residual(80),
                Residual(80),
            ]
        )
        self.head = nn.Conv2d(80, 5 + CLASSES, 1)
        with torch.no_grad():
            self.head.bias.zero_()
            self.head.bias[0] = -4.0  # few cells hold a digit
            self.head.bias[3:5] = torch.log(torch.tensor([2.5, 4.0]))  # a typical box, in cells

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        x = functional.pad(x, (0, -width % STRIDE, 0, -height % STRIDE))
        for block in self.body:
            x = block(x)
        return self.head(x)


def assign(scenes: list[Scene], rows: int, columns: int) -> Targets:
    """Gives each digit the 2×2 cells around its centre; where two digits claim a cell, the nearer centre wins."""
    y, x = np.mgrid[0:rows, 0:columns].reshape(2, -1) + 0.5
    positive = np.zeros((len(scenes), rows * columns), bool)
    boxes, labels = [], []
    for mask, scene in zip(positive, scenes, strict=True):
        corners = scene.boxes / STRIDE
        centre = (corners[:, :2] + corners[:, 2:]) / 2
        distance = np.maximum(abs(x[:, None] - centre[:, 0]), abs(y[:, None] - centre[:, 1]))  # [cells, digits]
        nearest = distance.argmin(1)
        mask[:] = distance.min(1) < 1
        owner = nearest[mask]
        boxes.append(np.concatenate([centre[owner], (corners[:, 2:] - corners[:, :2])[owner]], 1))
        labels.append(scene.labels[owner])
    return Targets(
        torch.from_numpy(positive.astype(np.float32)),
        torch.from_numpy(positive),
        torch.from_numpy(np.concatenate(boxes).astype(np.float32)),
        torch.from_numpy(np.concatenate(labels)),
    )


def loss(raw: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Objectness (binary cross-entropy over all cells) + class (cross-entropy) + 2 × box (GIoU) over positive cells,
    each per positive cell."""
    columns = raw.shape[-1]
    cells = raw.flatten(2).transpose(1, 2)  # [scenes, cells, 15]
    chosen = cells[targets.positive]
    index = targets.positive.nonzero()[:, 1]
    grid = torch.stack([index % columns, index // columns], 1) + 0.5
    predicted = torch.cat([grid + chosen[:, 1:3], chosen[:, 3:5].exp()], 1)
    found = functional.binary_cross_entropy_with_logits(cells[..., 0], targets.objectness, reduction="sum")
    named = functional.cross_entropy(chosen[:, 5:], targets.labels, reduction="sum")
    placed = (1 - generalized_iou(predicted, targets.boxes)).sum()
    return (found + named + 2 * placed) / len(chosen)


def generalized_iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """GIoU of pairs of boxes, float32 [pairs, 4] (centre x y, width height) → [pairs], -1..1.

    H. Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019, equation 1 and algorithm 1.
    """
    low_a, high_a = first[:, :2] - first[:, 2:] / 2, first[:, :2] + first[:, 2:] / 2
    low_b, high_b = second[:, :2] - second[:, 2:] / 2, second[:, :2] + second[:, 2:] / 2
    overlap = (torch.minimum(high_a, high_b) - torch.maximum(low_a, low_b)).clamp(min=0).prod(1)
    hull = (torch.maximum(high_a, high_b) - torch.minimum(low_a, low_b)).prod(1)
    union = first[:, 2:].prod(1) + second[:, 2:].prod(1) - overlap
    return overlap / union - (hull - union) / hull
