# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Rules for products of vectors, matrices and tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from remotegpu.graph import Meta, Shape, Size
from remotegpu.inference import shapes
from remotegpu.inference.elementwise import Metas, Operand, dtype_from, shape_of


def _contracted(operation: str, shapes_of: tuple[Shape, Shape], sizes: tuple[Size, Size]) -> None:
    if shapes.unified(*sizes) is None:
        first, second = map(shapes.text, shapes_of)
        raise ValueError(
            f"{operation}: sizes {sizes[0]} and {sizes[1]} must be equal; the shapes are {first} and {second}"
        )


def matmul(operation: str, x1: Operand, x2: Operand) -> Metas:
    """Matrix products, of stacks of matrices too; a vector counts as a row on the left, as a column on the right."""
    first, second = shape_of(operation, "x1", x1), shape_of(operation, "x2", x2)
    shapes.at_least(operation, "x1", first, 1)
    shapes.at_least(operation, "x2", second, 1)
    _contracted(operation, (first, second), (first[-1], second[-2] if len(second) > 1 else second[0]))
    dtype = dtype_from(operation, lambda a, b: np.matmul(a.reshape(0, 1), b.reshape(1, 0)), [x1, x2])
    stacked = shapes.broadcast(operation, [first[:-2], second[:-2]])
    return (Meta(dtype, (*stacked, *first[-2:-1], *(second[-1:] if len(second) > 1 else ()))),)


def vecdot(operation: str, x1: Operand, x2: Operand, axis: Any) -> Metas:
    """Sums of products along an axis, the first array conjugated."""
    first, second = shape_of(operation, "x1", x1), shape_of(operation, "x2", x2)
    places = [shapes.axis_of(operation, axis, len(shape)) for shape in (first, second)]
    _contracted(operation, (first, second), (first[places[0]], second[places[1]]))
    dtype = dtype_from(operation, lambda a, b: np.vecdot(a.reshape(0, 1), b.reshape(0, 1)), [x1, x2])
    rest = [shapes.without(first, places[:1]), shapes.without(second, places[1:])]
    return (Meta(dtype, shapes.broadcast(operation, rest)),)


def tensordot(operation: str, x1: Operand, x2: Operand, axes: Any) -> Metas:
    """Sums of products over several axes: the last of `x1` and the first of `x2`, or a pair of lists of axes."""
    first, second = shape_of(operation, "x1", x1), shape_of(operation, "x2", x2)
    if isinstance(axes, tuple):
        if len(axes) != 2:
            raise ValueError(f"{operation}: axes must be an integer or a pair, not {axes}")
        pair = [shapes.integers(operation, "axes", item) for item in axes]
    else:
        number = shapes.integer(operation, "axes", axes)
        if not 0 <= number <= min(len(first), len(second)):
            raise ValueError(f"{operation}: {number} axes of {len(first)} and {len(second)} dimensions")
        pair = [tuple(range(len(first) - number, len(first))), tuple(range(number))]
    left = shapes.axes_of(operation, pair[0], len(first))
    right = shapes.axes_of(operation, pair[1], len(second))
    if len(left) != len(right):
        raise ValueError(f"{operation}: {len(left)} axes of x1 for {len(right)} of x2")
    for a, b in zip(left, right, strict=True):
        _contracted(operation, (first, second), (first[a], second[b]))
    dtype = dtype_from(operation, lambda a, b: np.matmul(a.reshape(0, 1), b.reshape(1, 0)), [x1, x2])
    return (Meta(dtype, shapes.without(first, left) + shapes.without(second, right)),)
