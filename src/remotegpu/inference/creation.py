# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Rules for arrays made of nothing but numbers. Sizes here are always known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from remotegpu.dtypes import Dtype
from remotegpu.graph import Meta
from remotegpu.inference import shapes
from remotegpu.inference.elementwise import Metas, Operand, operand_shape, refuse_complex, shape_of

_FLOAT: Dtype = np.dtype(np.float64)
_INT: Dtype = np.dtype(np.int64)


def _sizes(operation: str, name: str, value: Any) -> tuple[int, ...]:
    sizes = shapes.integers(operation, name, value)
    if any(size < 0 for size in sizes):
        raise ValueError(f"{operation}: {name} {value} has a negative size")
    return sizes


def _fill(operation: str, fill_value: Operand, dtype: Dtype | None) -> Dtype:
    """The dtype of an array filled with that. Raises TypeError or OverflowError for what the dtype cannot hold."""
    if isinstance(fill_value, Meta):
        if operand_shape(fill_value) != ():
            raise ValueError(f"{operation}: fill_value must be one number, not of shape {fill_value.shape}")
        assert fill_value.dtype is not None, "rules see known metas only"
        refuse_complex(operation, fill_value.dtype, dtype)
        return fill_value.dtype if dtype is None else dtype
    if not isinstance(fill_value, int | float):
        raise TypeError(f"{operation}: fill_value must be a number, not {fill_value!r:.40}")
    with np.errstate(all="ignore"):
        made: Dtype = np.asarray(fill_value, dtype).dtype
    return made


def filled(operation: str, shape: Any, dtype: Dtype | None, **fill: Operand) -> Metas:
    """`zeros`, `ones`, `empty` and `full`; float64 unless something says otherwise."""
    sizes = _sizes(operation, "shape", shape)
    return (Meta(_fill(operation, fill.get("fill_value", 0.0), dtype), sizes),)


def like(operation: str, x: Operand, dtype: Dtype | None, **fill: Operand) -> Metas:
    """`zeros_like` and its siblings: shape and, unless given, dtype of `x`."""
    shape = shape_of(operation, "x", x)
    dtype = x.dtype if dtype is None else dtype
    return (Meta(_fill(operation, fill.get("fill_value", 0), dtype), shape),)


def arange(operation: str, start: Any, stop: Any, step: Any, dtype: Dtype | None) -> Metas:
    """int64 if all three are integers, float64 otherwise. The length is that of NumPy's `arange`."""
    if stop is None:
        start, stop = 0, start
    numbers = (start, stop, step)
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        raise TypeError(f"{operation}: start, stop and step must be finite real numbers, integers of 64 bits")
    if step == 0:
        raise ValueError(f"{operation}: step must not be 0")
    if dtype == np.bool_:
        raise TypeError(f"{operation}: there is no range of bool")
    if all(isinstance(number, int) for number in numbers):
        length, default = -((start - stop) // step), _INT
    else:
        length, default = math.ceil((stop - start) / step), _FLOAT
    return (Meta(default if dtype is None else dtype, (max(length, 0),)),)


def linspace(operation: str, start: Any, stop: Any, num: Any, dtype: Dtype | None, endpoint: bool) -> Metas:
    """`num` numbers: float64, or complex128 if an end is complex."""
    ends = [operand.dtype if isinstance(operand, Meta) else type(operand) for operand in (start, stop)]
    if not set(ends) <= {int, float} and np.result_type(*ends).kind != "c":
        raise TypeError(f"{operation}: start and stop must be Python numbers")
    found = np.result_type(_FLOAT, *ends)
    refuse_complex(operation, found, dtype)
    return (Meta(found if dtype is None else dtype, _sizes(operation, "num", shapes.integer(operation, "num", num))),)


def eye(operation: str, n_rows: Any, n_cols: Any, k: Any, dtype: Dtype | None) -> Metas:
    """Ones on diagonal `k` of a matrix of zeros."""
    rows = shapes.integer(operation, "n_rows", n_rows)
    columns = rows if n_cols is None else shapes.integer(operation, "n_cols", n_cols)
    shapes.integer(operation, "k", k)
    return (Meta(_FLOAT if dtype is None else dtype, _sizes(operation, "shape", (rows, columns))),)


def triangle(operation: str, x: Operand, k: Any) -> Metas:
    """`tril` and `triu` of a matrix or a stack of them."""
    shape = shape_of(operation, "x", x)
    shapes.at_least(operation, "x", shape, 2)
    shapes.integer(operation, "k", k)
    return (Meta(x.dtype, shape),)
