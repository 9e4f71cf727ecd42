# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Inferred shapes against NumPy's real ones, on arguments that nobody thought of.

Some sizes are hidden behind symbols. What NumPy gives must come out, and must be what was inferred (the session
compares); what NumPy refuses must be refused, at once if no size is hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remotegpu.array import Array
from tests.fixtures.numpy_session import NumpySession

SIZES = st.integers(0, 3)
AXES = st.integers(-4, 3)
SHAPES = st.lists(SIZES, max_size=3).map(tuple)
REFUSALS = (TypeError, ValueError, IndexError)  # AxisError is one of the last two

few = settings(max_examples=150, deadline=None)


def filled(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)


Function = Callable[..., Any]


def check(data: st.DataObject, numpys: Function, ours: Function, *hosts: np.ndarray[Any, Any]) -> None:
    """`numpys` on the arrays, and `ours`, called with the namespace, on remote ones, some sizes of which are hidden."""
    session = NumpySession()
    hides = [data.draw(st.sets(st.sampled_from(range(host.ndim)))) if host.ndim else set() for host in hosts]
    arrays = [session.array(host, hide=sorted(hide)) for host, hide in zip(hosts, hides, strict=True)]
    try:
        wanted = numpys(*hosts)
    except REFUSALS:
        with pytest.raises(REFUSALS):  # now, or when it runs if only the device knows
            home(session, ours(session.xp, *arrays))
        counted = any(host.dtype == np.bool_ for host in hosts)  # how often a mask is true, only the device knows
        assert any(hides) or counted or session.calls == 0
        return
    made = ours(session.xp, *arrays)
    assert session.calls == 0
    np.testing.assert_array_equal(home(session, made), wanted, strict=True)


def home(session: NumpySession, made: Array) -> Any:
    return session.fetch_values([made._value])[0]


@few
@given(data=st.data(), shapes=st.lists(SHAPES, min_size=2, max_size=2))
def test_broadcasting(data: st.DataObject, shapes: list[tuple[int, ...]]) -> None:
    check(data, lambda a, b: a + b, lambda xp, a, b: a + b, *map(filled, shapes))


@few
@given(data=st.data(), shapes=hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=3, max_side=3))
def test_broadcasting_of_three(data: st.DataObject, shapes: Any) -> None:
    hosts = [filled(shape) for shape in shapes.input_shapes]
    hosts[0] = hosts[0] % 2 == 0
    check(data, np.where, lambda xp, *arrays: xp.where(*arrays), *hosts)


def test_a_symbol_equals_itself_only() -> None:
    session = NumpySession()
    x, y = (session.array(np.ones((3, 2)), hide=[0]) for _ in range(2))
    rows = x._value.meta.shape
    assert rows is not None
    assert (x + x)._value.meta.shape == rows
    assert (x + 1)._value.meta.shape == rows
    assert (x + session.array(np.ones((1, 2))))._value.meta.shape == rows
    assert (x + session.array(np.ones((3, 2))))._value.meta.shape == (3, 2)
    assert (x + y)._value.meta.shape not in (rows, y._value.meta.shape)
    assert x.T._value.meta.shape == rows[::-1]
    assert session.xp.reshape(x, (-1, 2, 1))._value.meta.shape == (*rows, 1)
    assert session.xp.mean(x, axis=1)._value.meta.shape == rows[:1]
    assert session.xp.concat([x, x[:, :1]], axis=1)._value.meta.shape == (rows[0], 3)
    assert x[::-1]._value.meta.shape == x[0:]._value.meta.shape == rows
    with pytest.raises(ValueError, match="step"):
        x[::0]
    assert session.calls == 0


INDEX_ITEMS = st.one_of(
    st.integers(-4, 3),
    st.slices(3),
    st.sampled_from([None, ..., True, False]),
    hnp.arrays(np.int64, SHAPES.filter(lambda shape: len(shape) < 3), elements=st.integers(-3, 2)),
    # NumPy lets masks without elements pass that do not fit.
    hnp.arrays(np.bool_, SHAPES.filter(lambda shape: len(shape) < 3 and 0 not in shape)),
)


def with_arrays(index: tuple[Any, ...], arrays: tuple[Any, ...]) -> tuple[Any, ...]:
    """The index with those arrays in the place of its own."""
    left = iter(arrays)
    return tuple(next(left) if isinstance(item, np.ndarray) else item for item in index)


@settings(max_examples=600, deadline=None)
@given(data=st.data(), shape=SHAPES, index=st.lists(INDEX_ITEMS, max_size=4).map(tuple))
def test_index_of_any_kind(data: st.DataObject, shape: tuple[int, ...], index: tuple[Any, ...]) -> None:
    arrays = [item for item in index if isinstance(item, np.ndarray)]
    if any(array.dtype == np.int64 and array.size for array in arrays) and 0 in shape:
        return  # NumPy looks at the values of indices, which only the device knows
    try:
        filled(shape)[index]
    except DeprecationWarning:
        return  # the same: older NumPys only warn if nothing comes out
    except IndexError as error:
        if "is out of bounds for axis" in str(error) and arrays:
            return
    check(
        data,
        lambda x, *items: x[with_arrays(index, items)],
        lambda xp, x, *items: x[with_arrays(index, items)],
        filled(shape),
        *arrays,
    )


@st.composite
def fitting_indices(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Integers, slices, integer arrays and masks for each axis, with None and '...' between them."""
    common = draw(st.sampled_from([(), (1,), (2,), (2, 1)]))
    index: list[Any] = []
    for size in shape:
        one = st.integers(-size, size - 1)
        mask = np.arange(size) == draw(one) % size  # true once, so it broadcasts with the others
        arrays = hnp.arrays(np.int64, common, elements=one)
        index.append(draw(st.one_of(st.slices(size), one, arrays, arrays, st.just(mask))))
    for extra in draw(st.lists(st.sampled_from([None, None, ...]), max_size=2, unique=True)):
        index.insert(draw(st.integers(0, len(index))), extra)
    return tuple(index)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), shape=hnp.array_shapes(max_dims=4, max_side=3))
def test_index_with_arrays_that_fits(data: st.DataObject, shape: tuple[int, ...]) -> None:
    index = data.draw(fitting_indices(shape))
    arrays = [item for item in index if isinstance(item, np.ndarray)]
    check(
        data,
        lambda x, *items: x[with_arrays(index, items)],
        lambda xp, x, *items: x[with_arrays(index, items)],
        filled(shape),
        *arrays,
    )


@settings(max_examples=300, deadline=None)
@given(data=st.data(), shape=hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=3))
def test_basic_index(data: st.DataObject, shape: tuple[int, ...]) -> None:
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True))
    check(data, lambda x: x[index], lambda xp, x: x[index], filled(shape))


@few
@given(data=st.data(), shape=SHAPES, target=st.lists(st.sampled_from([-1, 0, 1, 2, 3, 4, 6]), max_size=3).map(tuple))
def test_reshape(data: st.DataObject, shape: tuple[int, ...], target: tuple[int, ...]) -> None:
    check(data, lambda x: np.reshape(x, target), lambda xp, x: xp.reshape(x, target), filled(shape))


@pytest.mark.parametrize("name", ["sum", "max", "argmax", "any"])
@few
@given(data=st.data(), shape=SHAPES, axis=st.none() | AXES | st.lists(AXES, max_size=3).map(tuple), keep=st.booleans())
def test_reduction(data: st.DataObject, name: str, shape: tuple[int, ...], axis: Any, keep: bool) -> None:
    if shape == () and axis not in (None, ()):
        return  # NumPy's sums, but nothing else, take an axis that is not there
    numpys = getattr(np, name)
    check(
        data,
        lambda x: np.asarray(numpys(x, axis=axis, keepdims=keep)),
        lambda xp, x: getattr(xp, name)(x, axis=axis, keepdims=keep),
        filled(shape),
    )


@pytest.mark.parametrize("name", ["concat", "stack"])
@few
@given(data=st.data(), shapes=st.lists(SHAPES, min_size=1, max_size=3), axis=AXES, alike=st.booleans())
def test_joining(data: st.DataObject, name: str, shapes: list[tuple[int, ...]], axis: int, alike: bool) -> None:
    if alike:
        shapes = [shapes[0]] * len(shapes)
    check(
        data,
        lambda *arrays: getattr(np, name)(arrays, axis=axis),
        lambda xp, *arrays: getattr(xp, name)(arrays, axis=axis),
        *map(filled, shapes),
    )


@pytest.mark.parametrize("name", ["flip", "expand_dims", "squeeze", "diff", "sort", "permute_dims", "tile", "repeat"])
@few
@given(data=st.data(), shape=SHAPES, number=AXES | st.lists(AXES, max_size=3).map(tuple))
def test_one_array_and_a_number_or_several(data: st.DataObject, name: str, shape: tuple[int, ...], number: Any) -> None:
    if name in {"diff", "sort"} and isinstance(number, tuple):
        number = len(number)
    if name in {"tile", "repeat"}:  # NumPy takes negative numbers if there is nothing to repeat
        number = tuple(map(abs, number)) if isinstance(number, tuple) and name == "tile" else abs(int(np.sum(number)))
    if name == "squeeze" and shape == ():
        return  # NumPy squeezes an axis that is not there
    by_keyword = name in {"flip", "diff", "sort"}

    def numpys(x: Any) -> Any:
        return getattr(np, name)(x, axis=number) if by_keyword else getattr(np, name)(x, number)

    def ours(xp: Any, x: Any) -> Any:
        return getattr(xp, name)(x, axis=number) if by_keyword else getattr(xp, name)(x, number)

    check(data, numpys, ours, filled(shape))


@pytest.mark.parametrize("name", ["matmul", "vecdot", "tensordot"])
@few
@given(data=st.data(), first=SHAPES, second=SHAPES, turned=st.booleans(), option=st.integers(-2, 3))
def test_products(
    data: st.DataObject, name: str, first: tuple[int, ...], second: tuple[int, ...], turned: bool, option: int
) -> None:
    if turned:
        second = first[::-1] if name == "matmul" else first
    options: dict[str, dict[str, Any]] = {"matmul": {}, "vecdot": {"axis": option}, "tensordot": {"axes": option}}
    kwargs = options[name]
    if name == "tensordot" and option < 0:
        return  # NumPy takes it for something, the standard does not
    check(
        data,
        lambda a, b: np.asarray(getattr(np, name)(a, b, **kwargs)),
        lambda xp, a, b: getattr(xp, name)(a, b, **kwargs),
        filled(first),
        filled(second),
    )


@few
@given(data=st.data(), shape=SHAPES, chosen=SHAPES, axis=AXES)
def test_take(data: st.DataObject, shape: tuple[int, ...], chosen: tuple[int, ...], axis: int) -> None:
    indices = np.zeros(chosen, np.int64)
    if 0 in shape or shape == ():
        return  # no index is right there, and NumPy looks at the values
    check(
        data, lambda x, i: np.take(x, i, axis=axis), lambda xp, x, i: xp.take(x, i, axis=axis), filled(shape), indices
    )
    check(
        data,
        lambda x, i: np.take_along_axis(x, i, axis=axis),
        lambda xp, x, i: xp.take_along_axis(x, i, axis=axis),
        filled(shape),
        indices,
    )


@few
@given(
    data=st.data(),
    shape=SHAPES,
    shift=st.lists(AXES, max_size=2).map(tuple),
    axes=st.lists(AXES, max_size=2).map(tuple),
)
def test_moving(data: st.DataObject, shape: tuple[int, ...], shift: tuple[int, ...], axes: tuple[int, ...]) -> None:
    check(data, lambda x: np.moveaxis(x, shift, axes), lambda xp, x: xp.moveaxis(x, shift, axes), filled(shape))
    check(data, lambda x: np.broadcast_to(x, shift), lambda xp, x: xp.broadcast_to(x, shift), filled(shape))
    if shift and len(shift) == len(axes):
        check(data, lambda x: np.roll(x, shift, axes), lambda xp, x: xp.roll(x, shift, axis=axes), filled(shape))
    if len(shift) == 1:
        check(data, lambda x: np.roll(x, shift), lambda xp, x: xp.roll(x, shift), filled(shape))


@few
@given(
    start=st.integers(-50, 50) | st.floats(-50, 50),
    stop=st.integers(-50, 50) | st.floats(-50, 50),
    step=st.integers(-9, 9) | st.floats(0.1, 9) | st.floats(-9, -0.1),
)
def test_length_of_a_range(start: float, stop: float, step: float) -> None:
    session = NumpySession()
    if step == 0:
        return
    made = session.xp.arange(start, stop, step)
    np.testing.assert_array_equal(home(session, made), np.arange(start, stop, step), strict=True)
