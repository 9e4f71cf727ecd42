# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Rules for what works element by element, and for reductions.

NumPy itself says which dtype comes out: the real function runs on arrays of length 0, so promotion, weak Python
scalars and their overflow are NumPy's own. Shapes are computed, since sizes may be symbols.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from remotegpu.dtypes import Dtype
from remotegpu.graph import Meta, Shape
from remotegpu.inference import shapes

# One dtype of each kind, to tell which kinds a function takes.
_KINDS = {"bool": "bool", "int64": "integer", "float64": "floating", "complex128": "complex"}

Metas = tuple[Meta, ...]
Operand = Any  # a Meta, or a Python scalar


def shape_of(operation: str, name: str, value: Any) -> Shape:
    """The shape of an argument that must be an array. Raises TypeError for anything else."""
    if not isinstance(value, Meta):
        raise TypeError(f"{operation}: {name} must be an array, not {value!r:.60} (asarray makes one)")
    assert value.shape is not None, "rules see known metas only"
    return value.shape


def operand_shape(value: Operand) -> Shape:
    """The shape of an array or of a Python scalar."""
    return (value.shape or ()) if isinstance(value, Meta) else ()


def dtype_from(operation: str, function: Callable[..., Any], operands: list[Operand]) -> Dtype:
    """The dtype that `function` gives for such operands. Raises TypeError for a kind of dtype that it does not take,
    OverflowError for a Python integer that does not fit."""
    for operand in operands:
        if not isinstance(operand, Meta | int | float):
            raise TypeError(f"{operation} takes arrays and numbers, not {operand!r:.60}")
    probes = [np.empty(0, operand.dtype) if isinstance(operand, Meta) else operand for operand in operands]
    try:
        with np.errstate(all="ignore"):
            made: Dtype = function(*probes).dtype
    except OverflowError as error:
        raise OverflowError(f"{operation}: {error}") from None
    except TypeError:
        taken = [name for kind, name in _KINDS.items() if _takes(function, [np.empty(0, kind)] * len(operands))]
        given = " and ".join(str(o.dtype) if isinstance(o, Meta) else type(o).__name__ for o in operands)
        raise TypeError(f"{operation} takes {' or '.join(taken)} arrays, not {given}; astype converts") from None
    return made


def _takes(function: Callable[..., Any], probes: list[Any]) -> bool:
    try:
        function(*probes)
    except TypeError:
        return False
    return True


def _at_least_one_array(operation: str, operands: list[Operand]) -> None:
    if not any(isinstance(operand, Meta) for operand in operands):
        raise TypeError(f"{operation}: one of the arguments must be an array (asarray makes one)")


def elementwise(operation: str, **named: Operand) -> Metas:
    """Functions of one or two arrays of the same or broadcast shapes."""
    operands = list(named.values())
    _at_least_one_array(operation, operands)
    if operation in {"ceil", "floor", "trunc"} and operands[0].dtype.kind in "biu":
        dtype = operands[0].dtype  # NumPy 2.0 gives float64
    else:
        dtype = dtype_from(operation, getattr(np, operation), operands)
    return (Meta(dtype, shapes.broadcast(operation, [operand_shape(o) for o in operands])),)


def where(operation: str, condition: Operand, x1: Operand, x2: Operand) -> Metas:
    """Chooses by a condition; the dtype is that of the two others together."""
    shape_of(operation, "condition", condition)
    dtype = dtype_from(operation, lambda a, b: np.where(np.empty(0, bool), a, b), [x1, x2])
    return (Meta(dtype, shapes.broadcast(operation, [operand_shape(o) for o in (condition, x1, x2)])),)


def clip(operation: str, x: Operand, min: Operand, max: Operand) -> Metas:
    """Bounds are brought to the dtype of `x`, which the result has."""
    found = [shape_of(operation, "x", x)]
    if x.dtype.kind not in "iuf":
        raise TypeError(f"{operation} takes integer or floating arrays, not {x.dtype}; astype converts")
    for name, bound in (("min", min), ("max", max)):
        if bound is None:
            continue
        kind = np.result_type(bound.dtype if isinstance(bound, Meta) else type(bound)).kind
        if kind not in ("biuf" if x.dtype.kind == "f" else "biu"):
            raise TypeError(f"{operation}: {name} does not fit an array of {x.dtype}; astype converts")
        found.append(operand_shape(bound))
    if x.dtype.kind in "iu":
        limits = np.iinfo(x.dtype)
        if (isinstance(min, int) and min > limits.max) or (isinstance(max, int) and max < limits.min):
            raise OverflowError(f"{operation}: no {x.dtype} lies within the bounds {min} and {max}")
    return (Meta(x.dtype, shapes.broadcast(operation, found)),)


def astype(operation: str, x: Operand, dtype: Dtype | None) -> Metas:
    """Raises TypeError for complex to real: `real` and `imag` say which part is meant."""
    shape = shape_of(operation, "x", x)
    if dtype is None:
        raise TypeError(f"{operation}: dtype must be a dtype, not None")
    refuse_complex(operation, x.dtype, dtype)
    return (Meta(dtype, shape),)


def refuse_complex(operation: str, given: Dtype, wanted: Dtype | None) -> None:
    """Raises TypeError where complex numbers would lose their imaginary parts."""
    if wanted is not None and given.kind == "c" and wanted.kind not in "cb":
        raise TypeError(f"{operation}: {given} to {wanted} would drop the imaginary part; take real() or imag()")


def reduction(operation: str, x: Operand, axis: Any, keepdims: bool, **options: Any) -> Metas:
    """Statistics, `any`, `all`, and the positions of extremes, along one, several or all axes."""
    shape = shape_of(operation, "x", x)
    if operation in {"argmax", "argmin"} and isinstance(axis, tuple):
        raise TypeError(f"{operation}: axis must be an integer or None, not {axis}")
    axes = shapes.axes_of(operation, axis, len(shape))
    # The others have a neutral element: the sum of nothing is 0.
    if operation in {"max", "min", "argmax", "argmin"} and 0 in (shape[axis] for axis in axes):
        raise ValueError(f"{operation} of no elements: the shape is {shapes.text(shape)}, the axis {axis}")
    dtype = options.get("dtype")
    refuse_complex(operation, x.dtype, dtype)
    if dtype is None:
        function = getattr(np, operation)
        dtype = dtype_from(operation, lambda probe: function(probe.reshape(0, 1), axis=1), [x])
    return (Meta(dtype, shapes.without(shape, axes, keep=keepdims)),)
