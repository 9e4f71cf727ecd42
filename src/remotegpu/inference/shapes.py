# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Arithmetic on shapes whose sizes may be symbols (`graph.Dim`).

A symbol equals only itself. Where a known size and a symbol must agree, the known one is taken: if they do not agree,
the program fails on the server. A size that cannot be told from the symbols gets a fresh symbol.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any

import numpy as np

from remotegpu.graph import Dim, Shape, Size


def settled(shape: Shape) -> Shape:
    """The shape with those symbols replaced that have become known."""
    return tuple(size if isinstance(size, int) or size.size is None else size.size for size in shape)


def text(shape: Sequence[Size]) -> str:
    """As NumPy writes shapes, with "?" for an unknown size."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def integer(operation: str, name: str, value: Any) -> int:
    """An argument as plain int. Raises TypeError for what is none."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{operation}: {name} must be an integer, not {value!r:.60}") from None


def integers(operation: str, name: str, value: Any) -> tuple[int, ...]:
    """An integer or a sequence of them as tuple. Raises TypeError for anything else."""
    items = value if isinstance(value, tuple) else (value,)
    return tuple(integer(operation, name, item) for item in items)


def axis_of(operation: str, axis: Any, ndim: int) -> int:
    """The axis counted from 0. Raises TypeError, or AxisError (a ValueError and an IndexError) if there is none."""
    index = integer(operation, "axis", axis)
    if not -ndim <= index < ndim:
        raise np.exceptions.AxisError(f"{operation}: axis {index} is out of bounds for {ndim} dimensions")
    return index % ndim


def axes_of(operation: str, axis: Any, ndim: int) -> tuple[int, ...]:
    """The axes counted from 0, in their order; all of them for None. Raises as `axis_of`, ValueError for one twice."""
    if axis is None:
        return tuple(range(ndim))
    axes = tuple(axis_of(operation, item, ndim) for item in (axis if isinstance(axis, tuple) else (axis,)))
    if len(set(axes)) != len(axes):
        raise ValueError(f"{operation}: the same axis twice in {axis}")
    return axes


def product(sizes: Iterable[Size]) -> Size:
    """The number of elements: a fresh symbol if it depends on symbols, but the symbol itself for it times 1."""
    number, symbols = factors(sizes)
    if number == 0 or not symbols:
        return number
    return symbols[0] if number == 1 and len(symbols) == 1 else Dim()


def factors(sizes: Iterable[Size]) -> tuple[int, list[Dim]]:
    """The product of the known sizes, and the symbols."""
    known, symbols = 1, []
    for size in sizes:
        if isinstance(size, Dim):
            symbols.append(size)
        else:
            known *= size
    return known, symbols


def total(sizes: Sequence[Size]) -> Size:
    """The sum of sizes: a fresh symbol if one of them is a symbol."""
    known = [size for size in sizes if isinstance(size, int)]
    return sum(known) if len(known) == len(sizes) else Dim()


def unified(first: Size, second: Size) -> Size | None:
    """The size of two that must be equal; None if they are not."""
    if first is second or first == second or isinstance(second, Dim):
        return first
    return second if isinstance(first, Dim) else None


def _broadcast_size(first: Size, second: Size) -> Size | None:
    if first is second or first == second or second == 1:
        return first
    if first == 1:
        return second
    if isinstance(first, Dim):
        # A symbol that is 1 stretches to a known size; of two symbols either may be 1.
        return Dim() if isinstance(second, Dim) else second
    return first if isinstance(second, Dim) else None


def _common(first: Shape, second: Shape) -> Shape | None:
    if len(first) < len(second):
        first, second = second, first
    ahead = len(first) - len(second)
    sizes = list(first[:ahead])
    for a, b in zip(first[ahead:], second, strict=True):
        size = _broadcast_size(a, b)
        if size is None:
            return None
        sizes.append(size)
    return tuple(sizes)


def broadcast(operation: str, shapes: Sequence[Shape]) -> Shape:
    """The common shape by NumPy's rules. Raises ValueError, naming all shapes, if there is none."""
    if not shapes:
        return ()

    def step(first: Shape, second: Shape) -> Shape:
        made = _common(first, second)
        if made is None:
            raise ValueError(f"{operation}: the shapes {' and '.join(map(text, shapes))} do not broadcast together")
        return made

    return reduce(step, shapes)


def without(shape: Shape, axes: Iterable[int], *, keep: bool = False) -> Shape:
    """The shape without those axes, or with size 1 in their places."""
    gone = set(axes)
    if keep:
        return tuple(1 if axis in gone else size for axis, size in enumerate(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in gone)


def at_least(operation: str, name: str, shape: Shape, ndim: int) -> None:
    """Raises ValueError for fewer dimensions than that."""
    if len(shape) < ndim:
        raise ValueError(f"{operation}: {name} must have at least {ndim} dimensions, its shape is {text(shape)}")
