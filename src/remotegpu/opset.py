# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The array operations that a program may name: one table for both sides of the wire. Data only.

Names and signatures are those of the Python Array API standard 2025.12
(https://data-apis.org/array-api/2025.12/API_specification/); `getitem`, which the standard spells `x[index]`, is the
one name that is not from there. To add an operation, add a row. Its family names the rule in `remotegpu.inference`
that finds dtypes and shapes; the server runs the function of the same name of its Array API namespace, unless
`remotegpu_server.backends.operations` says otherwise.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

STANDARD: Final = "2025.12"


REQUIRED: Final = object()


class Signature:
    """The parameters of an operation, read from text as in a `def`: "x, /, shape, *, axis=None" or "*arrays, axis=0".

    `names` and `defaults` (REQUIRED where there is none) are in order; the first `positional_only` cannot be given by
    keyword, those from `keyword_only` on must be. With `variadic` the first takes all positional arguments."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.names: list[str] = []
        self.defaults: list[Any] = []
        self.positional_only = 0
        self.variadic = text.startswith("*") and not text.startswith("*,")
        keyword_only = 1 if self.variadic else None
        for part in text.split(", "):
            name, _, default = part.partition("=")
            if part == "/":
                self.positional_only = len(self.names)
            elif part == "*":
                keyword_only = len(self.names)
            else:
                self.names.append(name.lstrip("*"))
                self.defaults.append(ast.literal_eval(default) if default else REQUIRED)
        self.keyword_only = len(self.names) if keyword_only is None else keyword_only
        self._by_keyword = {name: i for i, name in enumerate(self.names) if i >= self.positional_only + self.variadic}

    def bind(self, operation: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """Values in the order of `names`, defaults filled in. Raises TypeError as a Python call would."""
        given = len(args)
        if self.variadic:
            bound = [tuple(args), *self.defaults[1:]]
            given = 1
        elif given > self.keyword_only:
            raise self._refusal(operation, f"takes {self.keyword_only} positional arguments, {given} were given")
        else:
            bound = [*args, *self.defaults[given:]]
        for name, value in kwargs.items():
            position = self._by_keyword.get(name)
            if position is None:
                how = "by keyword" if name in self.names else "of that name"
                raise self._refusal(operation, f"takes no argument {name!r} {how}")
            if position < given:
                raise self._refusal(operation, f"got {name!r} twice")
            bound[position] = value
        for name, value in zip(self.names, bound, strict=True):
            if value is REQUIRED:
                raise self._refusal(operation, f"misses the argument {name!r}")
        return bound

    def _refusal(self, operation: str, why: str) -> TypeError:
        return TypeError(f"{operation} {why}: {operation}({self.text})")


class Row:
    """One operation. `several` says that it gives a tuple of arrays, even of one."""

    def __init__(self, name: str, signature: str, family: str, *, several: bool = False) -> None:
        self.name = name
        self.family = family
        self.several = several
        self._signature = signature

    @cached_property
    def signature(self) -> Signature:
        """The signature, read when it is first needed: a process uses few of the rows."""
        return Signature(self._signature)


_UNARY = (
    "abs acos acosh asin asinh atan atanh bitwise_invert ceil conj cos cosh exp expm1 floor imag isfinite isinf isnan "
    "log log10 log1p log2 logical_not negative positive real reciprocal round sign signbit sin sinh sqrt square tan "
    "tanh trunc"
)
_BINARY = (
    "add atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor copysign divide equal "
    "floor_divide greater greater_equal hypot less less_equal logaddexp logical_and logical_or logical_xor maximum "
    "minimum multiply nextafter not_equal pow remainder subtract"
)

_ROWS = (
    *(Row(name, "x, /", "elementwise") for name in _UNARY.split()),
    *(Row(name, "x1, x2, /", "elementwise") for name in _BINARY.split()),
    Row("clip", "x, /, min=None, max=None", "clip"),
    Row("where", "condition, x1, x2, /", "where"),
    Row("astype", "x, dtype, /, *, copy=True, device=None", "astype"),
    # Creation. `asarray` of something on this side is a tensor of the program, not an operation.
    Row("arange", "start, /, stop=None, step=1, *, dtype=None, device=None", "arange"),
    Row("empty", "shape, *, dtype=None, device=None", "filled"),
    Row("empty_like", "x, /, *, dtype=None, device=None", "like"),
    Row("eye", "n_rows, n_cols=None, /, *, k=0, dtype=None, device=None", "eye"),
    Row("full", "shape, fill_value, *, dtype=None, device=None", "filled"),
    Row("full_like", "x, /, fill_value, *, dtype=None, device=None", "like"),
    Row("linspace", "start, stop, /, num, *, dtype=None, device=None, endpoint=True", "linspace"),
    Row("ones", "shape, *, dtype=None, device=None", "filled"),
    Row("ones_like", "x, /, *, dtype=None, device=None", "like"),
    Row("zeros", "shape, *, dtype=None, device=None", "filled"),
    Row("zeros_like", "x, /, *, dtype=None, device=None", "like"),
    Row("tril", "x, /, *, k=0", "triangle"),
    Row("triu", "x, /, *, k=0", "triangle"),
    # Reductions.
    Row("all", "x, /, *, axis=None, keepdims=False", "reduction"),
    Row("any", "x, /, *, axis=None, keepdims=False", "reduction"),
    Row("count_nonzero", "x, /, *, axis=None, keepdims=False", "reduction"),
    Row("max", "x, /, *, axis=None, keepdims=False", "reduction"),
    Row("mean", "x, /, *, axis=None, keepdims=False", "reduction"),
    Row("min", "x, /, *, axis=None, keepdims=False", "reduction"),
    Row("prod", "x, /, *, axis=None, dtype=None, keepdims=False", "reduction"),
    Row("std", "x, /, *, axis=None, correction=0.0, keepdims=False", "reduction"),
    Row("sum", "x, /, *, axis=None, dtype=None, keepdims=False", "reduction"),
    Row("var", "x, /, *, axis=None, correction=0.0, keepdims=False", "reduction"),
    Row("argmax", "x, /, *, axis=None, keepdims=False", "reduction"),
    Row("argmin", "x, /, *, axis=None, keepdims=False", "reduction"),
    # Along one axis.
    Row("cumulative_prod", "x, /, *, axis=None, dtype=None, include_initial=False", "cumulative"),
    Row("cumulative_sum", "x, /, *, axis=None, dtype=None, include_initial=False", "cumulative"),
    Row("diff", "x, /, *, axis=-1, n=1, prepend=None, append=None", "diff"),
    Row("argsort", "x, /, *, axis=-1, descending=False, stable=True", "sort"),
    Row("sort", "x, /, *, axis=-1, descending=False, stable=True", "sort"),
    # Indexing and searching.
    Row("getitem", "x, index, /", "getitem"),
    Row("take", "x, indices, /, *, axis=None", "take"),
    Row("take_along_axis", "x, indices, /, *, axis=-1", "take_along_axis"),
    Row("nonzero", "x, /", "nonzero", several=True),
    Row("searchsorted", "x1, x2, /, *, side='left', sorter=None", "searchsorted"),
    # Linear algebra.
    Row("matmul", "x1, x2, /", "matmul"),
    Row("matrix_transpose", "x, /", "matrix_transpose"),
    Row("tensordot", "x1, x2, /, *, axes=2", "tensordot"),
    Row("vecdot", "x1, x2, /, *, axis=-1", "vecdot"),
    # Manipulation of shapes.
    Row("broadcast_arrays", "*arrays", "broadcast_arrays", several=True),
    Row("broadcast_to", "x, /, shape", "broadcast_to"),
    Row("concat", "arrays, /, *, axis=0", "concat"),
    Row("expand_dims", "x, /, axis", "expand_dims"),
    Row("flip", "x, /, *, axis=None", "flip"),
    Row("meshgrid", "*arrays, indexing='xy'", "meshgrid", several=True),
    Row("moveaxis", "x, source, destination, /", "moveaxis"),
    Row("permute_dims", "x, /, axes", "permute_dims"),
    Row("repeat", "x, repeats, /, *, axis=None", "repeat"),
    Row("reshape", "x, /, shape, *, copy=None", "reshape"),
    Row("roll", "x, /, shift, *, axis=None", "roll"),
    Row("squeeze", "x, /, axis", "squeeze"),
    Row("stack", "arrays, /, *, axis=0", "stack"),
    Row("tile", "x, repetitions, /", "tile"),
    Row("unstack", "x, /, *, axis=0", "unstack", several=True),
)

TABLE: Final[Mapping[str, Row]] = {row.name: row for row in _ROWS}
