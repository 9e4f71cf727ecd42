# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What runs for an operation of a program, on NumPy or CuPy alike.

For a name of the table (`remotegpu.opset`) it is the function of that name of the device's Array API namespace, except
for those below. Names that are not in the table are not looked up: a namespace has functions that read files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from remotegpu.opset import TABLE

Implementation = Callable[..., Any]


def implementation(name: str) -> Implementation | None:
    """The function of an operation, called `f(xp, *args, **kwargs)` with an Array API namespace, arrays of it, and
    Python scalars, tuples, slices and NumPy dtypes. It gives an array, or a tuple of arrays for operations with
    several results. None for a name that is not an operation."""
    return _IMPLEMENTATIONS.get(name)


def _standard(name: str) -> Implementation:
    def run(xp: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(xp, name)(*args, **kwargs)

    return run


def _arrays(run: Implementation) -> Implementation:
    """NumPy gives scalars where an array has no dimensions, older wrappers Python's own."""

    def as_array(xp: Any, made: Any) -> Any:
        return made if getattr(made, "ndim", 0) else xp.asarray(made)

    def run_to_arrays(xp: Any, *args: Any, **kwargs: Any) -> Any:
        made = run(xp, *args, **kwargs)
        return tuple(as_array(xp, part) for part in made) if isinstance(made, tuple | list) else as_array(xp, made)

    return run_to_arrays


def _getitem(xp: Any, x: Any, index: tuple[Any, ...]) -> Any:
    return x[index]


def _clip(xp: Any, x: Any, min: Any = None, max: Any = None) -> Any:
    """The dtype of `x` stays. array_api_compat 1.16 writes into the bounds of its caller, so this is our own."""
    lower, upper = _fitting(xp, min, x.dtype, lower=True), _fitting(xp, max, x.dtype, lower=False)
    if lower is not None:
        x = xp.maximum(x, lower)
    return x if upper is None else xp.minimum(x, upper)


def _fitting(xp: Any, bound: Any, dtype: Any, *, lower: bool) -> Any:
    """A bound in that dtype, at the end of its range if it lies beyond; None for one that binds nothing."""
    if bound is None or isinstance(bound, float):
        return bound
    limits = xp.iinfo(dtype) if xp.isdtype(dtype, "integral") else None
    if isinstance(bound, int):
        beyond = limits and (bound <= limits.min if lower else bound >= limits.max)
        return None if beyond else bound
    if limits and bound.dtype != dtype and xp.isdtype(bound.dtype, "integral"):
        own = xp.iinfo(bound.dtype)
        least, most = max(int(limits.min), int(own.min)), min(int(limits.max), int(own.max))
        bound = xp.minimum(xp.maximum(bound, least), most)
    return xp.astype(bound, dtype, copy=False)


def _repeat(xp: Any, x: Any, repeats: Any, *, axis: int | None = None) -> Any:
    """CuPy takes plain numbers for `repeats` only, so an array of them becomes positions."""
    if isinstance(repeats, int):
        return xp.repeat(x, repeats, axis=axis)
    if axis is None:
        x, axis = xp.reshape(x, (-1,)), 0
    if x.shape[axis] == 0:
        return x
    if bool(xp.any(repeats < 0)):
        raise ValueError("repeat: repeats must not be negative")
    ends = xp.cumulative_sum(xp.broadcast_to(repeats, (x.shape[axis],)))
    positions = xp.searchsorted(ends, xp.arange(int(ends[-1])), side="right")
    return xp.take(x, positions, axis=axis)


def _take_along_axis(xp: Any, x: Any, indices: Any, *, axis: int = -1) -> Any:
    return xp.take_along_axis(x, indices, axis=axis)  # array_api_compat 1.11 has no default


def _rounding(name: str) -> Implementation:
    """Integers and bools are whole already; some NumPys and CuPys would make floats of them."""

    def run(xp: Any, x: Any) -> Any:
        return x if xp.isdtype(x.dtype, ("bool", "integral")) else getattr(xp, name)(x)

    return run


def _zeros(xp: Any, shape: Any, **kwargs: Any) -> Any:
    """For `empty`: memory that nobody wrote to may hold what another lease left there."""
    return xp.zeros(shape, **kwargs)


def _zeros_like(xp: Any, x: Any, **kwargs: Any) -> Any:
    return xp.zeros_like(x, **kwargs)


_OWN: dict[str, Implementation] = {
    "ceil": _rounding("ceil"),
    "clip": _clip,
    "empty": _zeros,
    "empty_like": _zeros_like,
    "floor": _rounding("floor"),
    "getitem": _getitem,
    "repeat": _repeat,
    "take_along_axis": _take_along_axis,
    "trunc": _rounding("trunc"),
}
_IMPLEMENTATIONS = {name: _arrays(_OWN.get(name) or _standard(name)) for name in TABLE}
