# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Recording: a call of an array function becomes a node of the graph, with dtype and shape of its results.

This is the hot path of a caller's array code. The table (`remotegpu.opset`) says how the call is spelled, a rule
(`remotegpu.inference`) what comes out; what a rule found is kept by operation, dtypes, shapes and arguments, so a
call like an earlier one costs a look-up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import EllipsisType, NoneType
from typing import Any

import numpy as np

from remotegpu import dtypes, errors
from remotegpu.dtypes import Dtype
from remotegpu.graph import UNKNOWN, Dim, Meta, Operation, Source, Value
from remotegpu.inference import RULES
from remotegpu.inference.shapes import settled
from remotegpu.opset import TABLE, Row

# Parameters that take an array or a number; which of the two, the rule decides.
_TENSORS = frozenset(("x", "x1", "x2", "condition", "indices", "sorter", "prepend", "append", "repeats"))
_OPERANDS = _TENSORS | {"min", "max", "fill_value", "start", "stop", "step"}
# Parameters that mean something on this side only: arrays are immutable, so a copy is no different from a view.
_LOCAL = frozenset(("copy", "device"))
# Families whose results depend on the numbers they are given, and not only on their types.
_BY_VALUE = frozenset(("filled", "like", "arange", "linspace", "repeat"))
# Arguments of these types travel as they are, except for these parameters.
_PLAIN = frozenset((int, float, bool, str, NoneType, Value))
_TRANSLATED = frozenset(("arrays", "index", "dtype"))
_CACHE_LIMIT = 4096

_cache: dict[tuple[Any, ...], tuple[Meta, ...]] = {}


class Unresolved(Exception):
    """The call depends on dtypes or shapes that are not known here. `values` are those to resolve before a retry."""

    def __init__(self, values: Sequence[Value]) -> None:
        super().__init__(values)
        self.values = values


def travelling(dtype: Any) -> Dtype:
    """The dtype of anything that NumPy takes for one. Raises InvalidInput for one that does not travel."""
    try:
        found = np.dtype(dtype)
    except TypeError:
        raise errors.InvalidInput(field="dtype", limit=", ".join(dtypes.NAMES), given=repr(dtype)) from None
    known = dtypes.from_number(dtypes.number_of(found) or 0)
    if known is None:
        raise errors.InvalidInput(field="dtype", limit=", ".join(dtypes.NAMES), given=str(found))
    return known


def host_value(array: np.ndarray[Any, Dtype] | np.generic, *, copy: bool | None = None) -> Value:
    """A value that travels with the first program that needs it: C-contiguous, little-endian.

    By default an array is copied unless it is read-only, since its owner may write to it before it travels. With
    `copy=False` it never is: ValueError if it would have to be. Raises InvalidInput for a dtype that does not
    travel."""
    dtype = travelling(array.dtype)
    host = np.asarray(array, dtype=dtype.newbyteorder("<"), order="C")
    shared = np.may_share_memory(host, array)
    if copy is False and not shared and array.size:
        raise ValueError("the array must be copied to travel: it is not C-contiguous and little-endian")
    if shared and (copy or (copy is None and _writable(host))):
        host = host.copy()
    return Value(Source(host), Meta(dtype, host.shape))


def _writable(array: Any) -> bool:
    """Whether somebody may write to the array's memory; a read-only view of a writable array counts as such."""
    while isinstance(array, np.ndarray):
        if array.flags.writeable:
            return True
        array = array.base
    return False


def record(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Operation, tuple[Meta, ...]]:
    """The node of a call of operation `name`, and what is known of its results.

    `args` and `kwargs` are those of the Array API function; arrays are `graph.Value`s, or NumPy arrays, which are sent
    along. Python scalars stay scalars, so they do not widen dtypes. `device` is left to the caller to check.

    Raises, without a round trip: TypeError for arguments that the function does not have or dtypes it does not take,
    ValueError for shapes and axes, IndexError for indices, OverflowError for a Python integer that does not fit,
    InvalidInput for a dtype that does not travel; and Unresolved."""
    row = TABLE[name]
    signature = row.signature
    bound = signature.bind(name, args, kwargs)
    key: list[Any] = [name, len(bound)]
    for i, value in enumerate(bound):
        parameter = signature.names[i]
        kind = type(value)
        if kind not in _PLAIN or parameter in _TRANSLATED:
            bound[i] = value = _converted(name, parameter, value, bound)
            kind = type(value)
        elif kind is int and parameter in _OPERANDS and not -(2**63) <= value < 2**63:
            bound[i] = value = _as_array(value, bound)
            kind = Value
        if kind is Value:
            if parameter not in _OPERANDS:
                raise _elsewhere(name, parameter)
            key.append(value.meta.dtype)
            key.append(value.meta.shape)
        else:
            # The type belongs to the key: 1, 1.0 and True are equal, but not the same argument.
            key.append(kind)
            key.append(_operand_key(value) if parameter in _OPERANDS and row.family not in _BY_VALUE else _key(value))
    found = _cache.get(ready := tuple(key))
    if found is None:
        found = _infer(row, bound, ready)
    return _node(row, bound), found


def _node(row: Row, bound: list[Any]) -> Operation:
    signature = row.signature
    defaults, first = signature.defaults, signature.keyword_only
    if signature.variadic:
        args = bound[0]
    else:
        last = first
        while last and bound[last - 1] is defaults[last - 1]:
            last -= 1
        args = tuple(bound[:last])
    if first == len(bound):
        return Operation(row.name, args)
    named = zip(signature.names[first:], bound[first:], defaults[first:], strict=True)
    kwargs = tuple((name, value) for name, value, default in named if value is not default and name not in _LOCAL)
    return Operation(row.name, args, kwargs)


def _infer(row: Row, bound: list[Any], key: tuple[Any, ...]) -> tuple[Meta, ...]:
    values = list(_values(bound))
    metas = [value.meta for value in values]
    if any(meta.dtype is None or meta.shape is None for meta in metas):
        if row.several:
            raise Unresolved(values)
        return (UNKNOWN,)
    named = {n: _metas(value) for n, value in zip(row.signature.names, bound, strict=True) if n not in _LOCAL}
    if row.family == "unstack" and any(isinstance(size, Dim) for size in named["x"].shape):
        raise Unresolved(values)
    found = RULES[row.family](row.name, **named)
    # A symbol stands for one size of one program: what was found with one, or gave one, is not found again.
    if not any(isinstance(size, Dim) for meta in (*metas, *found) for size in meta.shape or ()):
        if len(_cache) >= _CACHE_LIMIT:
            _cache.clear()
        _cache[key] = found
    return found


def _values(arguments: Sequence[Any]) -> Iterator[Value]:
    for argument in arguments:
        if isinstance(argument, Value):
            yield argument
        elif isinstance(argument, tuple):
            yield from _values(argument)


def _metas(argument: Any) -> Any:
    if isinstance(argument, Value):
        return Meta(argument.meta.dtype, settled(argument.meta.shape or ()))
    return tuple(map(_metas, argument)) if isinstance(argument, tuple) else argument


def _key(argument: Any) -> Any:
    if isinstance(argument, tuple):
        if all(type(item) is int for item in argument):
            return argument
        return tuple((type(item), _key(item)) for item in argument)
    if isinstance(argument, Value):
        return (argument.meta.dtype, argument.meta.shape)
    if isinstance(argument, slice):  # not hashable before Python 3.12
        return (argument.start, argument.stop, argument.step)
    return argument


def _operand_key(argument: Any) -> Any:
    """What a dtype rule sees of a Python scalar: of an integer, which dtypes can hold it."""
    if type(argument) is int:
        return argument.bit_length() if argument >= 0 else -1 - (~argument).bit_length()
    return None if type(argument) is float else argument


# Arguments, from what callers write to what travels.


def _converted(operation: str, parameter: str, value: Any, bound: list[Any]) -> Any:
    if parameter in _OPERANDS:
        return _operand(operation, parameter, value, bound)
    if parameter == "arrays":
        return _sequence(operation, value, bound)
    if parameter == "index":
        return tuple(map(_index, value if isinstance(value, tuple) else (value,)))
    if parameter == "dtype":
        return None if value is None else travelling(value)
    if parameter in _LOCAL:
        return None
    return _plain(operation, parameter, value)


def _operand(operation: str, parameter: str, value: Any, bound: list[Any]) -> Any:
    if isinstance(value, np.ndarray | np.generic):  # before scalars: np.float64 is a float, but of a fixed dtype
        return host_value(value)
    if isinstance(value, complex):
        return _as_array(complex(value), bound)
    if isinstance(value, int | float):
        return int(value) if isinstance(value, int) else float(value)
    raise TypeError(f"{operation}: {parameter} must be an array or a number, not {type(value).__name__}")


def _as_array(scalar: complex, bound: list[Any]) -> Value:
    """A Python scalar that does not travel as such (complex, or beyond 64 bits), as an array of the dtype that it
    takes on beside the other arguments."""
    values = [value for value in bound if isinstance(value, Value)]
    if any(value.meta.dtype is None for value in values):
        raise Unresolved(values)
    found = [value.meta.dtype for value in values]
    found += [value.dtype for value in bound if isinstance(value, np.ndarray | np.generic)]
    dtype = np.result_type(*(dtype for dtype in found if dtype != np.bool_), scalar)  # a condition has no say
    with np.errstate(all="ignore"):  # beyond float16 lies infinity
        return host_value(np.asarray(scalar, dtype))


def _sequence(operation: str, arrays: Any, bound: list[Any]) -> Any:
    if not isinstance(arrays, tuple | list):
        raise TypeError(f"{operation}: arrays must be a tuple or list of arrays, not {type(arrays).__name__}")
    return tuple(a if isinstance(a, Value) else _operand(operation, "each of arrays", a, bound) for a in arrays)


def _index(item: Any) -> Any:
    if item is None or isinstance(item, Value | bool | EllipsisType):
        return item
    if isinstance(item, slice):
        return slice(*(None if n is None else n.__index__() for n in (item.start, item.stop, item.step)))
    if isinstance(item, list) and not any(isinstance(part, Value) for part in item):
        array = np.asarray(item)
        item = array if array.size else array.astype(np.intp)
    if isinstance(item, np.ndarray):
        return host_value(item)
    if isinstance(item, np.bool_):
        return bool(item)
    try:
        return item.__index__()
    except AttributeError:
        raise IndexError(
            f"an index is made of integers, slices, None, '...', and integer or bool arrays, not {item!r:.40}"
        ) from None


def _elsewhere(operation: str, parameter: str) -> TypeError:
    return TypeError(f"{operation}: {parameter} must be known here, not an array on the device; int() fetches it")


def _plain(operation: str, parameter: str, value: Any) -> Any:
    """Sizes, axes and switches, as plain Python values."""
    if isinstance(value, Value):
        raise _elsewhere(operation, parameter)
    if isinstance(value, tuple | list):
        if all(type(item) is int for item in value):
            return tuple(value)
        return tuple(_plain(operation, parameter, item) for item in value)
    if isinstance(value, np.generic | np.ndarray):
        return _plain(operation, parameter, value.tolist())
    if value is None:
        return None
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"{operation}: {parameter} must not be {type(value).__name__}")
