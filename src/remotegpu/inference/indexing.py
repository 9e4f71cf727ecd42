# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Rules for choosing elements: `x[index]`, `take` and its siblings, and where elements are.

`x[index]` follows NumPy (https://numpy.org/doc/stable/user/basics.indexing.html), arrays as indices included.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from remotegpu.graph import Dim, Meta, Shape, Size
from remotegpu.inference import shapes
from remotegpu.inference.elementwise import Metas, Operand, dtype_from, operand_shape, shape_of

_INT = np.dtype(np.int64)


def _is_mask(item: Any) -> bool:
    return isinstance(item, bool) or (isinstance(item, Meta) and item.dtype == np.bool_)


def _consumed(item: Any) -> int:
    """How many axes of the array an item of the index speaks of."""
    if item is None or item is Ellipsis:
        return 0
    return len(operand_shape(item)) if _is_mask(item) else 1


def _completed(index: tuple[Any, ...], shape: Shape) -> list[Any]:
    """The index with an item for every axis. Raises IndexError for too many."""
    items = list(index)
    dots = [i for i, item in enumerate(items) if item is Ellipsis]
    if len(dots) > 1:
        raise IndexError("an index can have one ellipsis ('...') only")
    missing = len(shape) - sum(map(_consumed, items))
    if missing < 0:
        raise IndexError(f"too many indices: {len(shape) - missing} for shape {shapes.text(shape)}")
    if not dots:
        return [*items, *[slice(None)] * missing]
    # Keeps the ellipsis itself: even of no axes it stands between arrays.
    return [*items[: dots[0] + 1], *[slice(None)] * missing, *items[dots[0] + 1 :]]


def _sliced(size: Size, bounds: slice) -> Size:
    if isinstance(size, int):
        return len(range(*bounds.indices(size)))
    if bounds.step == 0:
        raise ValueError("slice step cannot be zero")
    if bounds.stop is None and bounds.start in {None, 0} and bounds.step in {None, 1}:
        return size
    turned = bounds.start is None and bounds.stop is None and bounds.step == -1
    return size if turned else Dim()


def _array_shape(item: Any, axes: Shape) -> Shape:
    """The shape that an integer, an integer array or a mask contributes. Raises IndexError if it does not fit."""
    if isinstance(item, bool):
        return (int(item),)
    if isinstance(item, int):
        (size,) = axes
        if isinstance(size, int) and not -size <= item < size:
            raise IndexError(f"index {item} is out of bounds for a size of {size}")
        return ()
    shape = operand_shape(item)
    if _is_mask(item):
        if any(shapes.unified(first, second) is None for first, second in zip(shape, axes, strict=True)):
            raise IndexError(f"a mask of shape {shapes.text(shape)} does not fit axes of shape {shapes.text(axes)}")
        return (Dim(),)
    if item.dtype.kind not in "iu":
        raise IndexError(f"arrays of {item.dtype} cannot be indices; integer and bool arrays can")
    return shape


def getitem(operation: str, x: Operand, index: tuple[Any, ...]) -> Metas:
    """Integers, slices, None, an ellipsis, integer arrays and masks, in NumPy's combinations."""
    shape = shape_of(operation, "x", x)
    items = _completed(index, shape)
    # Beside arrays, integers count as arrays without dimensions.
    advanced = any(isinstance(item, Meta | bool) for item in items)
    sizes: list[Size] = []
    arrays: list[Shape] = []
    places: list[int] = []  # of the items that are arrays
    ahead = 0  # dimensions of the result before those of the arrays, if these are side by side
    axis = 0
    for place, item in enumerate(items):
        axes = shape[axis : axis + _consumed(item)]
        axis += len(axes)
        if item is None:
            sizes.append(1)
        elif isinstance(item, slice):
            sizes.append(_sliced(axes[0], item))
        elif item is not Ellipsis:
            arrays.append(_array_shape(item, axes))
            ahead = len(sizes)
            places.append(place)
    if not advanced:
        return (Meta(x.dtype, tuple(sizes)),)
    try:
        common = shapes.broadcast("index", arrays)
    except ValueError as error:
        raise IndexError(str(error)) from None
    # Arrays side by side put their dimensions there, arrays apart put them first.
    ahead = ahead if places[-1] - places[0] == len(places) - 1 else 0
    return (Meta(x.dtype, (*sizes[:ahead], *common, *sizes[ahead:])),)


def _indices(operation: str, indices: Operand) -> Shape:
    shape = shape_of(operation, "indices", indices)
    if indices.dtype.kind not in "iu":
        raise TypeError(f"{operation}: indices must be an integer array, not {indices.dtype}; astype converts")
    return shape


def take(operation: str, x: Operand, indices: Operand, axis: Any) -> Metas:
    """Elements at positions along an axis, which may be left out for one dimension only."""
    shape, chosen = shape_of(operation, "x", x), _indices(operation, indices)
    if axis is None and len(shape) != 1:
        raise ValueError(f"{operation}: axis must be given for {len(shape)} dimensions")
    axis = shapes.axis_of(operation, 0 if axis is None else axis, len(shape))
    return (Meta(x.dtype, (*shape[:axis], *chosen, *shape[axis + 1 :])),)


def take_along_axis(operation: str, x: Operand, indices: Operand, axis: Any) -> Metas:
    """Elements at positions along an axis, others for each place on the other axes."""
    shape, chosen = shape_of(operation, "x", x), _indices(operation, indices)
    if len(shape) != len(chosen):
        raise ValueError(f"{operation}: x has {len(shape)} dimensions and indices {len(chosen)}; they must agree")
    axis = shapes.axis_of(operation, axis, len(shape))
    others = shapes.broadcast(operation, [shapes.without(shape, (axis,)), shapes.without(chosen, (axis,))])
    return (Meta(x.dtype, (*others[:axis], chosen[axis], *others[axis:])),)


def nonzero(operation: str, x: Operand) -> Metas:
    """Positions, an array for each dimension, of a length that only the server knows."""
    shape = shape_of(operation, "x", x)
    shapes.at_least(operation, "x", shape, 1)
    return (Meta(_INT, (Dim(),)),) * len(shape)


def searchsorted(operation: str, x1: Operand, x2: Operand, side: Any, sorter: Operand) -> Metas:
    """Where elements of `x2` would have to be put into the sorted `x1`."""
    shape = shape_of(operation, "x1", x1)
    dtype_from(operation, np.less, [x1, x2])
    if len(shape) != 1:
        raise ValueError(f"{operation}: x1 must have one dimension, its shape is {shapes.text(shape)}")
    if side not in {"left", "right"}:
        raise ValueError(f"{operation}: side must be 'left' or 'right', not {side!r}")
    if sorter is not None:
        order = _indices(operation, sorter)
        if len(order) != 1 or shapes.unified(order[0], shape[0]) is None:
            raise ValueError(f"{operation}: sorter has shape {shapes.text(order)}, x1 {shapes.text(shape)}")
    return (Meta(_INT, operand_shape(x2)),)
