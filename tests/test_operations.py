# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Every row of the table of operations: what it gives, and what is known of that beforehand, against NumPy."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from remotegpu import dtypes, graph, operations
from remotegpu.operations import record
from remotegpu.opset import TABLE
from tests.fixtures.numpy_session import NumpySession

RNG = np.random.default_rng(0)
ELEMENTWISE = [name for name, row in TABLE.items() if row.family == "elementwise"]
UNARY = [name for name in ELEMENTWISE if len(TABLE[name].signature.names) == 1]
BINARY = [name for name in ELEMENTWISE if len(TABLE[name].signature.names) == 2]

F = RNG.normal(size=(3, 4)).astype(np.float32)
I = RNG.integers(-5, 5, (3, 4)).astype(np.int16)  # noqa: E741  # as F and B
B = RNG.random((3, 4)) > 0.5
C = (F + 1j * F[::-1]).astype(np.complex64)
T3 = RNG.normal(size=(2, 3, 4))
V = np.array([3.0, 1.0, 2.0, 1.0])
U8 = np.array([0, 7, 255], np.uint8)

Case = tuple[tuple[Any, ...], dict[str, Any]]


def c(*args: Any, **kwargs: Any) -> Case:
    return args, kwargs


REDUCED = [c(F), c(F, axis=0), c(T3, axis=(0, -1)), c(T3, axis=1, keepdims=True), c(I), c(F, axis=())]
CASES: dict[str, list[Case]] = {
    "all": [*REDUCED, c(B, axis=1), c(np.empty((0, 3)), axis=0)],
    "any": [*REDUCED, c(B, axis=1), c(np.empty((0, 3)), axis=0)],
    "count_nonzero": [*REDUCED, c(B, axis=1), c(C)],
    "max": [*REDUCED, c(np.empty((0, 3)), axis=1)],
    "min": [*REDUCED, c(np.empty((0, 3)), axis=1)],
    "mean": [*REDUCED, c(C, axis=0), c(F.astype(np.float16))],
    "prod": [*REDUCED, c(I, dtype=np.float64), c(U8), c(B), c(C, axis=0)],
    "sum": [*REDUCED, c(I, dtype=np.int8), c(U8), c(B), c(C, axis=0), c(np.empty((0, 3)), axis=0), c(F, dtype="f8")],
    "std": [*REDUCED, c(T3, axis=2, correction=1), c(C, axis=0), c(F, correction=0.5, keepdims=True)],
    "var": [*REDUCED, c(T3, axis=2, correction=1), c(C, axis=0), c(np.float16(3))],
    "argmax": [c(F), c(F, axis=0), c(T3, axis=-1, keepdims=True), c(I, keepdims=True), c(B)],
    "argmin": [c(F), c(F, axis=0), c(T3, axis=-1, keepdims=True), c(U8)],
    "clip": [c(F, -0.5, 0.5), c(I, min=0), c(I, max=F.shape[0]), c(U8, -5, 300), c(F, F[0]), c(F, F[0] - 1, F[1])],
    "where": [c(B, F, I), c(B, 1, 0), c(B, F, 0.5), c(B[0], 2, F), c(B, U8[:1], 7), c(B, 1j, F), c(B, True, 2.0)],
    "astype": [c(F, np.int32), c(B, "float16"), c(I, np.complex64), c(C, np.bool_), c(I, float, copy=False)],
    "arange": [c(5), c(2, 9, 3), c(9, 2, -2), c(0.5, 3), c(1, 2, 0.1), c(3, 1), c(4, dtype=np.float32), c(0, 7, 7)],
    "empty": [c(3), c((2, 0), dtype=np.int8)],
    "zeros": [c(3), c((2, 3), dtype=np.int8), c(()), c([2, 2], dtype=bool)],
    "ones": [c(3), c((2, 3), dtype=np.complex64), c((np.int64(2),))],
    "full": [c((2, 2), 7), c(3, 1.5), c((), True), c(2, 1j), c(2, 2**63), c(2, 1, dtype=np.float32), c(2, np.int8(3))],
    "empty_like": [c(F), c(I, dtype=np.float64)],
    "zeros_like": [c(F), c(I, dtype=np.float64), c(np.float32(1))],
    "ones_like": [c(F), c(I, dtype=np.bool_)],
    "full_like": [c(F, 3), c(I, 2, dtype=np.complex128), c(C, 1j), c(B, True), c(F, np.float64(2))],
    "linspace": [c(0, 1, 5), c(0.0, 2.0, 4, endpoint=False), c(0, 9, num=4, dtype=np.float32), c(1j, 2, 3), c(0, 1, 0)],
    "eye": [c(3), c(2, 3), c(2, 3, k=1, dtype=np.int8), c(0)],
    "tril": [c(F), c(T3, k=1)],
    "triu": [c(F), c(T3, k=-1)],
    "cumulative_sum": [c(V), c(F, axis=1), c(I, axis=0, include_initial=True), c(U8), c(I, axis=0, dtype=np.float32)],
    "cumulative_prod": [c(V), c(F, axis=-1), c(I, axis=0, include_initial=True), c(B, axis=1)],
    "diff": [c(V), c(T3, axis=0), c(I, n=2), c(B), c(V, n=9), c(V, n=0, append=V), c(F, prepend=I[:, :2], append=I)],
    "argsort": [c(V), c(F, axis=0), c(V, descending=True), c(I, axis=1, descending=True, stable=False)],
    "sort": [c(V), c(F, axis=0), c(V, descending=True), c(U8, stable=False)],
    "getitem": [
        *[c(T3, (index,)) for index in (0, -1, slice(1), slice(None, None, -2), None, ..., [1, 0], [], True, False)],
        *[c(T3, (np.array([[1, 0]], dtype),)) for dtype in (np.int64, np.uint8)],
        *[c(T3, (..., index)) for index in (0, None, slice(5, 1), slice(-3, None), slice(1, -1, 2), [0, 0, -1])],
        c(T3, ()),
        c(T3, (1, ..., None, slice(2))),
        c(T3, (T3 > 0,)),
        c(T3, (slice(None), B)),
        c(T3, (slice(None), B[:, 0], 1)),
        c(T3, (0, slice(None), np.array([1, 2]))),
        c(T3, (np.array([1, 0]), slice(None), np.array([[1], [2]]))),
        c(T3, (np.array([0]), ..., np.array([1]))),
        c(T3, (slice(1), np.array([0, 2]), ..., np.array([1, 1]))),
        c(T3, (slice(None), np.array([0, 2]), np.array([1, 1]))),
        c(T3, (np.array(1), slice(None), 0)),
        c(V, (np.array(True),)),
        c(V[:0], (V[:0] > 0,)),
        c(np.float64(3), ((...,)[0],)),
    ],
    "take": [c(V, np.array([3, 0])), c(T3, np.array([[1, 0]]), axis=1), c(F, np.array([], np.int32), axis=-1)],
    "take_along_axis": [c(F, np.array([[3, 0]])), c(T3, np.array([[[1]]]), axis=0), c(F, I[:2] % 3, axis=0)],
    "nonzero": [c(F > 0), c(V), c(np.zeros((2, 3)))],
    "searchsorted": [
        c(np.sort(V), F),
        c(np.sort(V), 1.5, side="right"),
        c(V, np.array([1.5, 2.5]), sorter=np.argsort(V)),
    ],
    "matmul": [c(F, F.T), c(T3, V), c(V, V), c(V, T3[:, :1].mT), c(T3, I.T), c(C, C.T), c(B, B.T), c(T3[:1], T3.mT)],
    "matrix_transpose": [c(F), c(T3)],
    "tensordot": [c(T3, T3, axes=3), c(T3, F), c(F, V, axes=1), c(T3, F, axes=((1, 2), (0, 1))), c(F, I, axes=0)],
    "vecdot": [c(F, V), c(C, C), c(F, I, axis=0), c(T3, F)],
    "broadcast_arrays": [c(F, V, 0 * T3), c(V), c()],
    "broadcast_to": [c(V, (3, 4)), c(V[:1], 5), c(np.float32(1), (2, 0)), c(F, shape=(2, 3, 4))],
    "concat": [c([F, I]), c((F, F), axis=1), c([F, V], axis=None), c([U8, I[0]]), c([T3], axis=-1)],
    "expand_dims": [c(F, 0), c(F, axis=-1), c(F, (0, 2)), c(V, (-1, 0))],
    "flip": [c(F), c(F, axis=1), c(T3, axis=(0, 2))],
    "meshgrid": [c(V, U8), c(V, U8, V[:2], indexing="ij"), c(V), c(V, U8, V[:2]), c()],
    "moveaxis": [c(T3, 0, -1), c(T3, (0, 1), (2, 0)), c(T3, [2], [0]), c(T3, (0, 1), (1, 0))],
    "permute_dims": [c(T3, (2, 0, 1)), c(T3, axes=(-1, -2, -3)), c(np.float64(1), ())],
    "repeat": [c(F, 2), c(F, 3, axis=1), c(F, 0), c(F, U8 % 3, axis=0), c(V, np.array([2])), c(V[:0], U8[:0])],
    "reshape": [c(F, (2, 6)), c(F, -1), c(F, (2, -1, 3)), c(F, shape=(12,), copy=True), c(V[:1], ()), c(F[:0], (0, 7))],
    "roll": [c(F, 1), c(F, 2, axis=1), c(T3, (1, 2), axis=(0, 2)), c(T3, 1, axis=(0, 1)), c(T3, (1, -1), axis=0)],
    "squeeze": [c(F[None], 0), c(F[:, None, :, None], (1, -1)), c(F[None], axis=())],
    "stack": [c([F, I]), c((F, F), axis=-1), c([F, C], axis=1)],
    "tile": [c(F, (2, 1)), c(V, 3), c(V, (2, 2, 1)), c(T3, (0,)), c(F, ())],
    "unstack": [c(F), c(T3, axis=-1), c(V)],
}  # fmt: skip

# What NumPy gives, where it spells the operation otherwise or not in all of its versions.
EXPECTED: dict[str, Callable[..., Any]] = {
    "argsort": lambda x, axis=-1, descending=False, stable=True: np.argsort(
        -x if descending else x, axis=axis, kind="stable"
    ),
    "astype": lambda x, dtype, copy=True: x.astype(dtype),
    "clip": lambda x, min=None, max=None: np.clip(x.astype("f8"), min, max).astype(x.dtype),
    "cumulative_prod": lambda x, **kwargs: _cumulative(np.cumprod, 1, x, **kwargs),
    "cumulative_sum": lambda x, **kwargs: _cumulative(np.cumsum, 0, x, **kwargs),
    "empty": np.zeros,
    "empty_like": np.zeros_like,
    "eye": lambda n_rows, n_cols=None, **kwargs: np.eye(n_rows, n_cols, **kwargs),
    "getitem": lambda x, index: x[index],
    "repeat": lambda x, repeats, axis=None: np.repeat(x, repeats, axis),
    "reshape": lambda x, shape, copy=None: np.reshape(x, shape),
    "sort": lambda x, axis=-1, descending=False, stable=True: np.sort(x, axis=axis)[:: -1 if descending else 1],
    "take_along_axis": lambda x, indices, axis=-1: np.take_along_axis(x, indices, axis),
    "unstack": lambda x, axis=0: tuple(np.moveaxis(x, axis, 0)),
}


def _cumulative(function: Any, start: int, x: Any, axis: int = 0, dtype: Any = None, include_initial: Any = 0) -> Any:
    made = function(x, axis=axis, dtype=dtype)
    first = np.full_like(made.take([0], axis), start)
    return np.concatenate([first, made], axis=axis) if include_initial else made


@pytest.fixture
def session() -> NumpySession:
    return NumpySession()


def remote(session: NumpySession, item: Any, **how: Any) -> Any:
    """The same arguments with remote arrays in the place of NumPy's; masks and positions too."""
    if isinstance(item, tuple | list) and any(isinstance(part, np.ndarray | np.generic) for part in item):
        return tuple(remote(session, part, **how) for part in item)
    if isinstance(item, np.ndarray | np.generic) and not isinstance(item, np.int64):  # np.int64(2) is a size here
        hide = range(np.ndim(item)) if how.get("hidden") else ()
        return session.array(item, hide=hide, unknown=how.get("unknown", False))
    return item


def evaluate(session: NumpySession, name: str, case: Case, **how: Any) -> Any:
    args, kwargs = case
    args = tuple(remote(session, item, **how) for item in args)
    kwargs = {key: remote(session, item, **how) for key, item in kwargs.items()}
    made = args[0][args[1]] if name == "getitem" else getattr(session.xp, name)(*args, **kwargs)
    assert isinstance(made, tuple) == TABLE[name].several
    if not isinstance(made, tuple):
        return session.fetch_values([made._value])[0]
    return tuple(session.fetch_values([part._value for part in made])) if made else ()


def expected(name: str, case: Case) -> Any:
    args, kwargs = case
    with np.errstate(all="ignore"):
        return EXPECTED.get(name, getattr(np, name, None))(*args, **kwargs)  # type: ignore[misc]


def assert_same(found: Any, wanted: Any) -> None:
    if isinstance(found, tuple):
        assert isinstance(wanted, tuple)
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)
        return
    # NumPy rounds sums as the memory lies and the processor likes.
    tolerance = 64 * np.finfo(found.dtype).eps if found.dtype.kind in "fc" else 0
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance, strict=True)


def cases_of(name: str) -> list[Case]:
    return CASES[name]  # a row without a case is a KeyError: write one


@pytest.mark.parametrize("name", [name for name in TABLE if name not in ELEMENTWISE])
def test_row_gives_what_numpy_gives(session: NumpySession, name: str) -> None:
    for case in cases_of(name):
        wanted = expected(name, case)
        assert_same(evaluate(session, name, case), wanted)
        # And with sizes, or all, known to the device only: less is inferred, the same comes out.
        assert_same(evaluate(session, name, case, hidden=True), wanted)
        assert_same(evaluate(session, name, case, unknown=True), wanted)


def test_no_case_is_for_an_operation_that_is_not_there() -> None:
    assert set(CASES) | set(ELEMENTWISE) == set(TABLE)
    assert set(EXPECTED) <= set(TABLE)


def operand(dtype: str, *, second: bool = False) -> np.ndarray[Any, Any]:
    """Small positive numbers, so that shifts, powers and divisions are defined; shapes that broadcast."""
    values = np.array([1, 2, 3] if second else [[1, 0, 3], [2, 5, 4]])
    return values.astype(dtype)


def either(function: Callable[..., Any], *args: Any) -> Any:
    """What a function gives, or the class of error that it raises."""
    try:
        with np.errstate(all="ignore"):
            return function(*args)
    except (TypeError, OverflowError) as error:
        return next(kind for kind in (TypeError, OverflowError) if isinstance(error, kind))


def compare(session: NumpySession, name: str, *args: Any) -> None:
    whole = name in {"ceil", "floor", "trunc"} and args[0].dtype.kind in "biu"  # NumPy 2.0 makes floats of those
    wanted = args[0] if whole else either(getattr(np, name), *args)
    arrays = [session.array(arg) if isinstance(arg, np.ndarray) else arg for arg in args]
    before = session.calls
    if isinstance(wanted, type):
        with pytest.raises(wanted, match=name if wanted is TypeError else None):
            getattr(session.xp, name)(*arrays)
        assert session.calls == before
    else:
        made = getattr(session.xp, name)(*arrays)
        assert made.dtype == wanted.dtype
        assert session.calls == before
        assert_same(session.fetch_values([made._value])[0], wanted)


@pytest.mark.parametrize("name", UNARY)
def test_unary_function_on_every_dtype(session: NumpySession, name: str) -> None:
    for dtype in dtypes.NAMES:
        compare(session, name, operand(dtype))
    assert session.calls, "no dtype at all?"


@pytest.mark.parametrize("name", BINARY)
def test_binary_function_on_every_pair_of_dtypes_and_with_scalars(session: NumpySession, name: str) -> None:
    for first, second in itertools.product(dtypes.NAMES, repeat=2):
        compare(session, name, operand(first), operand(second, second=True))
    for dtype, scalar in itertools.product(dtypes.NAMES, (True, 2, 100, 1.5, 2j)):
        compare(session, name, operand(dtype), scalar)
        compare(session, name, scalar, operand(dtype))
    assert session.calls, "no dtypes at all?"


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", "int64", "uint64", "float16", "float32"])
def test_python_integers_fit_or_are_refused_as_by_numpy_whatever_was_called_before(
    session: NumpySession, dtype: str
) -> None:
    for bits in (0, 7, 8, 31, 32, 63, 64):
        for scalar in (2**bits - 1, 2**bits, -(2**bits), -(2**bits) - 1):
            compare(session, "add", operand(dtype), scalar)


def test_equal_arguments_of_different_types_are_not_confused(session: NumpySession) -> None:
    x = session.array(np.array([True, False]))
    assert [(x + one).dtype for one in (True, 1, 1.0)] == [np.bool_, np.int64, np.float64]
    full = session.xp.full
    assert [full((2,), one).dtype for one in (True, 1, 1.0)] == [np.bool_, np.int64, np.float64]
    reshape, four = session.xp.reshape, session.array(np.arange(4))
    assert reshape(four, (2, 2)).shape == (2, 2)
    with pytest.raises(TypeError, match="shape must be an integer"):
        reshape(four, (2.0, 2))


def test_what_was_found_is_kept_within_limits(session: NumpySession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "_CACHE_LIMIT", 3)
    monkeypatch.setattr(operations, "_cache", {})
    for size in range(20):
        assert session.xp.zeros(size).shape == (size,)
    assert 0 < len(operations._cache) <= 3


def test_sizes_of_two_masks_are_two_symbols(session: NumpySession) -> None:
    x = session.array(np.arange(6))
    first, second = x[x > 1], x[x > 2]
    shapes = [array._value.meta.shape for array in (first, second)]
    assert shapes[0] != shapes[1]
    assert (first + 1)._value.meta.shape == shapes[0]
    assert (first + first * 2)._value.meta.shape == shapes[0]
    assert (first.shape, second.shape) == ((4,), (3,))


def test_inference_costs_the_same_for_any_number_of_elements(session: NumpySession) -> None:
    xp, n = session.xp, 10**7
    x = xp.zeros((n, n))
    v = xp.arange(n)
    made = [
        xp.sort(x, axis=0),
        xp.concat([x, x], axis=1),
        xp.stack([x, x]),
        xp.roll(x, 3, axis=0),
        xp.tile(x, (n, 1)),
        xp.repeat(x, n, axis=0),
        xp.reshape(x, (-1,)),
        x @ x,
        xp.cumulative_sum(x, axis=0),
        xp.diff(x, axis=1),
        x[x > 0],
        x[v, v],
        x[::2, ::-3],
        xp.sum(x + v),
        xp.std(x, axis=0),
        xp.take(x, v, axis=1),
    ]
    assert made[4].shape == (n**2, n)
    assert made[12].shape == (n // 2, 3333334)
    assert session.calls == 0


def test_unknown_arguments_are_left_to_the_server_but_their_names_are_not(session: NumpySession) -> None:
    x = session.array(np.ones((2, 3)), unknown=True)
    y = session.array(np.ones((4, 4)))
    assert (x + y)._value.meta == graph.UNKNOWN
    with pytest.raises(TypeError, match="takes no argument"):
        session.xp.sum(x, axes=0)
    assert session.calls == 0
    with pytest.raises(ValueError, match="broadcast"):
        session.fetch_values([(x + y)._value])


def test_record_names_arguments_in_one_way() -> None:
    x = graph.Value(graph.Source(V), graph.Meta(V.dtype, V.shape))
    for args, kwargs in (((x, None, 2.0), {}), ((x,), {"max": 2.0}), ((x, None), {"max": np.float64(2.0)})):
        operation, metas = record("clip", args, kwargs)
        assert operation.name == "clip"
        assert operation.args[:2] == (x, None)
        assert metas == (graph.Meta(V.dtype, V.shape),)
    operation, _ = record("reshape", (x,), {"shape": [np.int64(2), -1], "copy": True})
    assert (operation.args, operation.kwargs) == ((x, (2, -1)), ())
    operation, _ = record("sum", (x,), {"dtype": "float32", "axis": 0, "keepdims": False})
    assert dict(operation.kwargs) == {"axis": 0, "dtype": np.dtype("float32")}


def test_record_makes_plain_values_of_what_python_takes_for_them() -> None:
    class Axis(enum.IntEnum):
        ROWS = 1

    x = graph.Value(graph.Source(F), graph.Meta(F.dtype, F.shape))
    operation, _ = record("sum", (x,), {"axis": [Axis.ROWS], "keepdims": np.True_})
    assert [(name, type(value)) for name, value in operation.kwargs] == [("axis", tuple), ("keepdims", bool)]
    assert type(operation.kwargs[0][1][0]) is int
    operation, _ = record("add", (x, Axis.ROWS), {})
    assert type(operation.args[1]) is int
    operation, _ = record("zeros", (np.array([2, 3]),), {"device": object()})
    assert (operation.args, operation.kwargs) == (((2, 3),), ())
    with pytest.raises(TypeError, match="axis must not be set"):
        record("sum", (x,), {"axis": {0}})
    with pytest.raises(TypeError, match="axis must be an integer, not None"):
        record("sum", (x,), {"axis": (None,)})
