# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Rules for what moves elements without looking at them, and for what runs along one axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from remotegpu.dtypes import Dtype
from remotegpu.graph import Dim, Meta, Shape, Size
from remotegpu.inference import shapes
from remotegpu.inference.elementwise import Metas, Operand, dtype_from, refuse_complex, shape_of

_INT = np.dtype(np.int64)


def _shapes_of(operation: str, arrays: tuple[Operand, ...]) -> list[Shape]:
    return [shape_of(operation, f"arrays[{i}]", array) for i, array in enumerate(arrays)]


def _joined(operation: str, found: list[Shape], axis: int | None = None) -> list[Size]:
    """The common sizes of arrays that are joined; `axis` is the one on which they may differ. Raises ValueError."""
    if not found:
        raise ValueError(f"{operation} needs at least one array")
    sizes = list(found[0])
    for shape in found[1:]:
        pairs = enumerate(zip(sizes, shape, strict=False))
        merged = [first if i == axis else shapes.unified(first, second) for i, (first, second) in pairs]
        if len(shape) != len(sizes) or None in merged:
            but = "" if axis is None else f", except on axis {axis}"
            given = " and ".join(map(shapes.text, found))
            raise ValueError(f"{operation}: shapes must be the same{but}; they are {given}")
        sizes = [size for size in merged if size is not None]
    return sizes


def concat(operation: str, arrays: Any, axis: Any) -> Metas:
    """Joins along an axis there is, or flattened arrays for None; dtypes are promoted."""
    found = _shapes_of(operation, arrays)
    if axis is None:
        found, axis = [(shapes.product(shape),) for shape in found], 0
    if found:
        axis = shapes.axis_of(operation, axis, len(found[0]))
    sizes = _joined(operation, found, axis)
    sizes[axis] = shapes.total([shape[axis] for shape in found])
    return (Meta(np.result_type(*(array.dtype for array in arrays)), tuple(sizes)),)


def stack(operation: str, arrays: Any, axis: Any) -> Metas:
    """Joins along a new axis; dtypes are promoted."""
    found = _shapes_of(operation, arrays)
    sizes = _joined(operation, found)
    sizes.insert(shapes.axis_of(operation, axis, len(sizes) + 1), len(found))
    return (Meta(np.result_type(*(array.dtype for array in arrays)), tuple(sizes)),)


def unstack(operation: str, x: Operand, axis: Any) -> Metas:
    """One array for each position on an axis, whose size must be known."""
    shape = shape_of(operation, "x", x)
    axis = shapes.axis_of(operation, axis, len(shape))
    size = shape[axis]
    assert isinstance(size, int), "the number of arrays is found out before"
    return (Meta(x.dtype, shapes.without(shape, (axis,))),) * size


def meshgrid(operation: str, arrays: Any, indexing: Any) -> Metas:
    """Coordinates of a grid, from 1-d arrays."""
    sizes: list[Size] = []
    for i, shape in enumerate(_shapes_of(operation, arrays)):
        if len(shape) > 1:
            raise ValueError(f"{operation}: arrays[{i}] must have one dimension, its shape is {shapes.text(shape)}")
        sizes.extend(shape or (1,))
    if indexing not in {"xy", "ij"}:
        raise ValueError(f"{operation}: indexing must be 'xy' or 'ij', not {indexing!r}")
    if indexing == "xy":
        sizes[:2] = sizes[1::-1]
    return tuple(Meta(array.dtype, tuple(sizes)) for array in arrays)


def broadcast_arrays(operation: str, arrays: Any) -> Metas:
    """Each array in the common shape."""
    shape = shapes.broadcast(operation, _shapes_of(operation, arrays))
    return tuple(Meta(array.dtype, shape) for array in arrays)


def broadcast_to(operation: str, x: Operand, shape: Any) -> Metas:
    """The array in that shape."""
    target = shapes.integers(operation, "shape", shape)
    given = shape_of(operation, "x", x)
    pairs = zip(reversed(given), reversed(target), strict=False)
    fits = len(given) <= len(target) and all(isinstance(a, Dim) or a in (1, b) for a, b in pairs)
    if not fits or any(size < 0 for size in target):
        raise ValueError(f"{operation}: shape {shapes.text(given)} does not broadcast to {target}")
    return (Meta(x.dtype, target),)


def expand_dims(operation: str, x: Operand, axis: Any) -> Metas:
    """New axes of size 1 at those places of the result."""
    sizes = list(shape_of(operation, "x", x))
    new = axis if isinstance(axis, tuple) else (axis,)
    for place in sorted(shapes.axes_of(operation, new, len(sizes) + len(new))):
        sizes.insert(place, 1)
    return (Meta(x.dtype, tuple(sizes)),)


def squeeze(operation: str, x: Operand, axis: Any) -> Metas:
    """Without those axes, which must have size 1."""
    shape = shape_of(operation, "x", x)
    axes = shapes.axes_of(operation, () if axis is None else axis, len(shape))
    if axis is None:
        raise TypeError(f"{operation}: axis must be an integer or a tuple of them, not None")
    for place in axes:
        if isinstance(shape[place], int) and shape[place] != 1:
            raise ValueError(f"{operation}: axis {place} of shape {shapes.text(shape)} is not of size 1")
    return (Meta(x.dtype, shapes.without(shape, axes)),)


def permute_dims(operation: str, x: Operand, axes: Any) -> Metas:
    """The axes in another order."""
    shape = shape_of(operation, "x", x)
    order = shapes.axes_of(operation, shapes.integers(operation, "axes", axes), len(shape))
    if len(order) != len(shape):
        raise ValueError(f"{operation}: axes {axes} must name each of the {len(shape)} dimensions once")
    return (Meta(x.dtype, tuple(shape[axis] for axis in order)),)


def moveaxis(operation: str, x: Operand, source: Any, destination: Any) -> Metas:
    """Axes moved to other places, the others in their order."""
    shape = shape_of(operation, "x", x)
    sources = shapes.axes_of(operation, shapes.integers(operation, "source", source), len(shape))
    places = shapes.axes_of(operation, shapes.integers(operation, "destination", destination), len(shape))
    if len(sources) != len(places):
        raise ValueError(f"{operation}: {len(sources)} axes cannot move to {len(places)} places")
    order = [axis for axis in range(len(shape)) if axis not in sources]
    for place, axis in sorted(zip(places, sources, strict=True)):
        order.insert(place, axis)
    return (Meta(x.dtype, tuple(shape[axis] for axis in order)),)


def matrix_transpose(operation: str, x: Operand) -> Metas:
    """The last two axes exchanged."""
    shape = shape_of(operation, "x", x)
    shapes.at_least(operation, "x", shape, 2)
    return (Meta(x.dtype, (*shape[:-2], shape[-1], shape[-2])),)


def flip(operation: str, x: Operand, axis: Any) -> Metas:
    """The other way round along one, several or all axes."""
    shape = shape_of(operation, "x", x)
    shapes.axes_of(operation, axis, len(shape))
    return (Meta(x.dtype, shape),)


def roll(operation: str, x: Operand, shift: Any, axis: Any) -> Metas:
    """Shifted along axes, or as if flat for None."""
    shape = shape_of(operation, "x", x)
    shifts = shapes.integers(operation, "shift", shift)
    if axis is not None:
        axes = tuple(shapes.axis_of(operation, item, len(shape)) for item in shapes.integers(operation, "axis", axis))
        if 1 not in {len(shifts), len(axes)} and len(shifts) != len(axes):
            raise ValueError(f"{operation}: {len(shifts)} shifts for {len(axes)} axes")
    elif len(shifts) != 1:
        raise ValueError(f"{operation}: several shifts need an axis each")
    return (Meta(x.dtype, shape),)


def tile(operation: str, x: Operand, repetitions: Any) -> Metas:
    """Copies side by side."""
    shape = shape_of(operation, "x", x)
    times = shapes.integers(operation, "repetitions", repetitions)
    if any(time < 0 for time in times):
        raise ValueError(f"{operation}: repetitions {times} must not be negative")
    ndim = max(len(shape), len(times))
    sizes = (1,) * (ndim - len(shape)) + shape
    times = (1,) * (ndim - len(times)) + times
    return (Meta(x.dtype, tuple(shapes.product(pair) for pair in zip(times, sizes, strict=True))),)


def repeat(operation: str, x: Operand, repeats: Any, axis: Any) -> Metas:
    """Each element several times; with an array of numbers the size is known to the server alone."""
    shape = shape_of(operation, "x", x)
    if axis is None:
        shape, axis = (shapes.product(shape),), 0
    axis = shapes.axis_of(operation, axis, len(shape))
    if isinstance(repeats, Meta):
        _repeats(operation, repeats, shape[axis])
        size: Size = Dim()
    else:
        times = shapes.integer(operation, "repeats", repeats)
        if times < 0:
            raise ValueError(f"{operation}: repeats must not be negative, {times} was given")
        size = shapes.product((times, shape[axis]))
    return (Meta(x.dtype, (*shape[:axis], size, *shape[axis + 1 :])),)


def _repeats(operation: str, repeats: Meta, size: Size) -> None:
    assert repeats.dtype is not None, "rules see known metas only"
    assert repeats.shape is not None, "rules see known metas only"
    if repeats.dtype.kind not in "iu" or len(repeats.shape) > 1:
        raise TypeError(f"{operation}: repeats must be an integer or a 1-d integer array, not {repeats.dtype}")
    if repeats.shape and repeats.shape != (1,) and shapes.unified(repeats.shape[0], size) is None:
        raise ValueError(f"{operation}: {repeats.shape[0]} repeats for {size} elements")


def reshape(operation: str, x: Operand, shape: Any) -> Metas:
    """The same elements in another shape, of which one size may be -1: what is left."""
    given = shape_of(operation, "x", x)
    target = shapes.integers(operation, "shape", shape)
    known, symbols = shapes.factors(given)
    rest, _ = shapes.factors(size for size in target if size != -1)
    refusal = ValueError(f"{operation}: shape {shapes.text(given)} cannot become {shapes.text(target)}")
    if target.count(-1) > 1 or any(size < -1 for size in target) or (-1 in target and rest == 0):
        raise refusal
    if not symbols or known == 0:
        if (known % rest if -1 in target else known != rest) != 0:
            raise refusal
        left: Size = known // rest if rest else 0
    else:
        # One symbol whose companions are all spoken for is what is left; otherwise the server divides.
        left = symbols[0] if len(symbols) == 1 and known == rest else Dim()
    return (Meta(x.dtype, tuple(left if size == -1 else size for size in target)),)


def sort(operation: str, x: Operand, axis: Any, descending: Any, stable: Any) -> Metas:
    """`sort` and `argsort`."""
    shape = shape_of(operation, "x", x)
    shapes.axis_of(operation, axis, len(shape))
    return (Meta(_INT if operation == "argsort" else x.dtype, shape),)


def _longer(shape: Shape, axis: int, size: Size) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :])


def cumulative(operation: str, x: Operand, axis: Any, dtype: Dtype | None, include_initial: Any) -> Metas:
    """Sums or products so far; `axis` may be left out for one dimension only."""
    shape = shape_of(operation, "x", x)
    shapes.at_least(operation, "x", shape, 1)
    if axis is None and len(shape) > 1:
        raise ValueError(f"{operation}: axis must be given for {len(shape)} dimensions")
    axis = shapes.axis_of(operation, 0 if axis is None else axis, len(shape))
    refuse_complex(operation, x.dtype, dtype)
    if dtype is None:
        function: Any = np.cumsum if operation == "cumulative_sum" else np.cumprod
        dtype = dtype_from(operation, function, [x])
    size = shapes.total((shape[axis], 1)) if include_initial else shape[axis]
    return (Meta(dtype, _longer(shape, axis, size)),)


def diff(operation: str, x: Operand, axis: Any, n: Any, prepend: Operand, append: Operand) -> Metas:
    """Differences of neighbours, `n` times over."""
    shape = shape_of(operation, "x", x)
    shapes.at_least(operation, "x", shape, 1)
    axis = shapes.axis_of(operation, axis, len(shape))
    times = shapes.integer(operation, "n", n)
    if times < 0:
        raise ValueError(f"{operation}: n must not be negative, {times} was given")
    if times == 0:
        return (Meta(x.dtype, shape),)
    parts = [shape_of(operation, "prepend or append", part) for part in (prepend, append) if part is not None]
    parts = [part or _longer(shape, axis, 1) for part in parts]
    sizes = _joined(operation, [shape, *parts], axis)
    size = shapes.total([part[axis] for part in (shape, *parts)])
    sizes[axis] = max(size - times, 0) if isinstance(size, int) else Dim()
    dtype = np.result_type(*(part.dtype for part in (x, prepend, append) if part is not None))
    return (Meta(dtype_from(operation, lambda probe: np.diff(probe.reshape(1, 0)), [Meta(dtype, ())]), tuple(sizes)),)
