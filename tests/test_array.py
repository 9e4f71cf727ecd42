# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Arrays as their user sees them: operators, laziness, lifetime, sizes that depend on data, conversions."""

from __future__ import annotations

import copy
import gc
import operator
import pickle
from collections.abc import Callable
from typing import Any

import array_api_compat
import numpy as np
import pytest

from remotegpu import graph
from remotegpu.array import Array
from tests.fixtures.numpy_session import NumpySession


@pytest.fixture
def session() -> NumpySession:
    return NumpySession()


@pytest.fixture
def x(session: NumpySession) -> Array:
    return session.array(np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32))


ARITHMETIC = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow"]
BITWISE = ["and_", "or_", "xor", "lshift", "rshift"]
COMPARISONS = ["eq", "ne", "lt", "le", "gt", "ge"]
F = np.array([[1.5, 2.0], [3.0, 4.0]], np.float32)
N = np.array([[1, 2], [3, 4]], np.int32)


@pytest.mark.parametrize("name", ARITHMETIC + BITWISE + COMPARISONS)
def test_operator_with_arrays_scalars_and_numpy_arrays_on_both_sides(session: NumpySession, name: str) -> None:
    apply = getattr(operator, name)
    host = N if name in BITWISE else F
    x, other = session.array(host), host[::-1].copy()
    for first, second in (
        ((x, session.array(other)), (host, other)),
        ((x, 2), (host, 2)),
        ((2, x), (2, host)),
        ((x, other), (host, other)),
        ((other, x), (other, host)),
        ((np.int64(2), x), (np.int64(2), host)),
    ):
        made = apply(*first)
        assert isinstance(made, Array), "NumPy must not take the operation over"
        np.testing.assert_array_equal(np.asarray(made), apply(*second), strict=True)


@pytest.mark.parametrize("name", ["neg", "pos", "abs", "invert"])
def test_unary_operator(session: NumpySession, name: str) -> None:
    np.testing.assert_array_equal(np.asarray(getattr(operator, name)(session.array(-N))), getattr(operator, name)(-N))


def test_matmul_on_both_sides(session: NumpySession) -> None:
    x = session.array(F)
    for made in (x @ x, x @ F, F @ x):
        np.testing.assert_array_equal(np.asarray(made), F @ F)
    with pytest.raises(TypeError):
        x @ 2


@pytest.mark.parametrize("name", ARITHMETIC + BITWISE)
def test_in_place_operator_makes_a_new_array_of_the_same_dtype(session: NumpySession, name: str) -> None:
    apply = getattr(operator, "i" + name.rstrip("_"))
    host = N if name in BITWISE else F
    x = first = session.array(host)
    x = apply(x, 3)
    assert x is not first
    np.testing.assert_array_equal(np.asarray(x), getattr(operator, name)(host, 3), strict=True)
    np.testing.assert_array_equal(np.asarray(first), host)


def test_in_place_casts_as_numpy_does(session: NumpySession) -> None:
    x = session.array(N)
    x += session.array(np.array([10], np.int64))
    assert x.dtype == np.int32
    np.testing.assert_array_equal(np.asarray(x), N + 10)
    with pytest.raises(TypeError, match="result is float64, the array stays int32"):
        x /= 2
    with pytest.raises(ValueError, match=r"shape \(2, 2, 2\), the array stays \(2, 2\)"):
        x += session.array(np.ones((2, 2, 2), np.int32))
    with pytest.raises(TypeError):
        x += "a"
    y = session.array(F)
    y @= F
    np.testing.assert_array_equal(np.asarray(y), F @ F)


def test_in_place_with_an_unknown_size_costs_nothing_unless_the_sizes_may_differ(session: NumpySession) -> None:
    x = session.array(np.ones((3, 2)), hide=[0])
    x += 1
    x *= x
    assert session.calls == 0
    with pytest.raises(ValueError, match="stays"):
        x[:1][:, :1] += session.array(np.ones((5, 1)), hide=[0])
    assert session.calls > 0


def test_operand_that_is_no_array_is_left_to_python(session: NumpySession, x: Array) -> None:
    for operate in (operator.add, operator.matmul, operator.lt):
        with pytest.raises(TypeError):
            operate(x, "a")
        with pytest.raises(TypeError):
            operate([1, 2, 3], x)
    unequal: list[object] = [x == None, x == "a"]  # noqa: E711
    assert unequal == [False, False]


# Laziness.


def test_nothing_runs_until_it_is_asked_for_and_then_only_what_is_needed(session: NumpySession, x: Array) -> None:
    xp = session.xp
    total = xp.sum(x * 2, axis=0)
    dead = xp.exp(x) @ x.T
    shape, dtype, text = total.shape, total.dtype, repr(total)
    assert (shape, dtype) == ((3,), np.float32)
    assert "pending sum" in text
    assert session.calls == 0
    np.testing.assert_array_equal(np.asarray(total), [10, 14, 18])
    assert session.calls == 1
    assert session.ran == ["multiply", "sum"]
    assert "pending matmul" in repr(dead)


def test_what_is_held_is_computed_once_and_the_rest_is_freed(session: NumpySession, x: Array) -> None:
    xp = session.xp
    held = x + 1
    np.asarray(xp.sum(held))
    assert session.ran == ["add", "sum"]
    assert "on the device" in repr(held)
    np.asarray(xp.max(held))
    assert session.ran == ["add", "sum", "max"]
    assert len(session.kept) == 3, "x, held and the last of the results, which the next call frees"
    del held
    gc.collect()
    np.asarray(xp.min(x))
    assert len(session.kept) == 2


def test_holders_are_counted(session: NumpySession) -> None:
    x = session.array(F)
    value = x._value
    assert value.holders == 1
    y = x + 1
    assert value.holders == 1, "a node that uses the value does not hold it"
    twin, other = copy.copy(x), copy.deepcopy(x)
    assert value.holders == 3
    assert np.array_equal(np.asarray(twin), np.asarray(other))
    del twin, other
    assert value.holders == 1
    del x
    gc.collect()
    assert value.holders == 0
    Array.__new__(Array).__del__()  # one that was never made holds nothing
    np.testing.assert_array_equal(np.asarray(y), F + 1)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(y)


def test_results_of_one_operation_are_ports_of_one_node(session: NumpySession, x: Array) -> None:
    first, second = session.xp.unstack(x)
    one, other = session.fetch_values([second._value, first._value])
    np.testing.assert_array_equal(one, [4, 5, 6])
    np.testing.assert_array_equal(other, [1, 2, 3])
    assert session.ran == ["unstack"]


# Sizes and dtypes that only the device knows.


def test_size_that_depends_on_data_is_asked_for_once(session: NumpySession, x: Array) -> None:
    chosen = x[x > 2]
    doubled = chosen * 2
    assert repr(doubled) == "<Array float32[?], pending multiply, device 0>"
    assert chosen.ndim == 1
    assert chosen.dtype == np.float32
    assert session.calls == 0
    assert (chosen.shape, chosen.size, len(chosen)) == ((4,), 4, 4)
    assert session.calls == 1
    assert doubled.shape == (4,), "the same symbol"
    assert session.calls == 1
    assert "float32[4]" in repr(doubled + 1)
    np.testing.assert_array_equal(np.asarray(doubled), [6, 8, 10, 12])
    assert session.ran.count("getitem") == 1


def test_number_of_results_that_depends_on_data_is_asked_for(session: NumpySession) -> None:
    x = session.array(np.eye(2), unknown=True)
    rows, columns = session.xp.nonzero(x)
    assert session.calls == 1
    np.testing.assert_array_equal(np.asarray(rows), [0, 1])
    np.testing.assert_array_equal(np.asarray(columns), [0, 1])
    y = session.array(np.eye(2), hide=[0])
    assert [part.shape for part in session.xp.unstack(y)] == [(2,), (2,)]
    assert session.calls == 4


@pytest.mark.parametrize("ask", [lambda x: x.dtype, lambda x: x.ndim, lambda x: x.shape, lambda x: x.size, len])
def test_unknown_array_is_resolved_once(session: NumpySession, ask: Callable[[Array], object]) -> None:
    x = session.array(F, unknown=True)
    y = x + 1
    assert repr(y) == "<Array of some dtype[...], pending add, device 0>"
    assert session.calls == 0
    assert ask(y) == ask(y) == ask(F)  # type: ignore[arg-type]  # NumPy's arrays answer the same
    assert session.calls == 1


def test_scalar_that_does_not_travel_waits_for_the_dtype(session: NumpySession) -> None:
    x = session.array(F, unknown=True)
    np.testing.assert_array_equal(np.asarray(x * 2j), F * 2j, strict=True)
    np.testing.assert_array_equal(np.asarray(np.complex64(2j) * x), np.complex64(2j) * F, strict=True)
    big = session.array(np.array([2**63], np.uint64))
    np.testing.assert_array_equal(np.asarray(big == 2**63), [True])
    chosen = session.xp.where(session.array([True, False]), 2**63, 0)
    np.testing.assert_array_equal(np.asarray(chosen), np.array([2**63, 0], np.uint64), strict=True)


# Conversions.


@pytest.mark.parametrize(
    ("convert", "host", "wanted"),
    [
        (bool, np.float32(0.5), True),
        (bool, np.array(False), False),
        (int, np.float32(2.5), 2),
        (int, np.uint64(2**64 - 1), 2**64 - 1),
        (float, np.int8(-3), -3.0),
        (float, np.float32(0.5), 0.5),
        (complex, np.complex64(1 + 2j), 1 + 2j),
        (operator.index, np.uint8(7), 7),
    ],
)
def test_python_number(session: NumpySession, convert: Callable[[Any], Any], host: Any, wanted: Any) -> None:
    found = convert(session.array(host))
    assert found == wanted
    assert type(found) is type(wanted)
    assert session.calls == 1


@pytest.mark.parametrize("convert", [bool, int, float, complex, operator.index])
def test_only_arrays_without_dimensions_are_numbers(session: NumpySession, convert: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"shape is \(1,\)"):
        convert(session.array(np.ones(1, np.int64)))
    assert session.calls == 0


@pytest.mark.parametrize(("convert", "host"), [(float, 1j), (int, 1j), (operator.index, 1.0), (operator.index, True)])
def test_number_of_another_kind(session: NumpySession, convert: Callable[[Any], Any], host: Any) -> None:
    with pytest.raises(TypeError, match="does not convert"):
        convert(session.array(host))


def test_coming_home(session: NumpySession, x: Array) -> None:
    assert np.asarray(x, dtype=np.float64).dtype == np.float64
    host = np.array(x)
    host[:] = 0
    assert np.asarray(x)[0, 0] == 1, "what came home belongs to the caller"
    with pytest.raises(ValueError, match="without a copy"):
        np.array(x, copy=False)
    with pytest.raises(TypeError):
        np.add(x, 1)  # would bring x home in secret


def test_length_iteration_and_membership(session: NumpySession, x: Array) -> None:
    rows = list(x)
    assert (len(x), session.calls) == (2, 0)
    assert [row.shape for row in rows] == [(3,), (3,)]
    np.testing.assert_array_equal(np.asarray(rows[1]), [4, 5, 6])
    assert 5 in x
    assert 7 not in x
    assert "a" not in x
    assert session.calls == 3
    scalar = session.array(1)
    for function in (len, iter):
        with pytest.raises(TypeError):
            function(scalar)


def test_index_with_arrays_of_both_sides(session: NumpySession, x: Array) -> None:
    host = np.asarray(x)
    for remote, local in (
        (x[x > 2], host[host > 2]),
        (x[host > 2], host[host > 2]),
        (x[:, session.array([2, 0])], host[:, [2, 0]]),
        (x[:, np.array([2, 0])], host[:, [2, 0]]),
        (x[:, [2, 0]], host[:, [2, 0]]),
        (x[np.int64(1), None, np.bool_(True)], host[np.int64(1), None, np.bool_(True)]),
    ):
        np.testing.assert_array_equal(np.asarray(remote), local)
    before = session.calls
    assert x[: session.array(1)].shape == (1, 3)
    assert session.calls == before + 1, "a bound must be known here"


def test_assignment_is_refused_with_the_way_out(session: NumpySession, x: Array) -> None:
    with pytest.raises(TypeError, match=r"immutable; xp\.where"):
        x[0] = 1
    with pytest.raises(TypeError, match="unhashable"):
        hash(x)


# Several devices.


def test_arrays_of_two_devices_do_not_meet(x: Array) -> None:
    other = NumpySession("device 1")
    y = other.array(np.ones(3))
    for combine in (
        lambda: x + y,
        lambda: y.__array_namespace__().concat([y, x]),
        lambda: other.xp.sum(x),
        lambda: x[y > 0],
        lambda: other.xp.asarray(x),
        lambda: other.xp.asarray(x, dtype=np.float64),
    ):
        with pytest.raises(ValueError, match=r"device [01].* device [01]"):
            combine()


def test_device(session: NumpySession, x: Array) -> None:
    assert x.device == session.device
    assert x.to_device("device 0") is x
    with pytest.raises(ValueError, match="cannot move to device 1"):
        x.to_device("device 1")
    with pytest.raises(ValueError, match="not on device 1"):
        session.xp.zeros(3, device="device 1")
    with pytest.raises(TypeError, match="takes no argument 'device'"):
        session.xp.sum(x, device="device 0")


def test_transposes(session: NumpySession, x: Array) -> None:
    np.testing.assert_array_equal(np.asarray(x.T), np.asarray(x).T)
    stack = session.array(np.arange(24).reshape(2, 3, 4))
    assert stack.mT.shape == (2, 4, 3)
    with pytest.raises(ValueError, match="T needs 2 dimensions, there are 3"):
        stack.T  # noqa: B018


def test_namespace_of_an_array(session: NumpySession, x: Array) -> None:
    assert x.__array_namespace__(api_version="2023.12") is session.xp
    assert array_api_compat.array_namespace(x, session.xp.zeros(3)) is session.xp
    assert array_api_compat.is_array_api_obj(x)
    with pytest.raises(ValueError, match=r"2099\.12"):
        x.__array_namespace__(api_version="2099.12")


@pytest.mark.parametrize(
    ("value", "state"),
    [
        (graph.Value(graph.Picture(b"")), "to be sent and decoded"),
        (graph.Value(graph.Source(F)), "to be sent"),
        (graph.Value(graph.ModelCall("m", ())), "pending model 'm'"),
        (graph.Value(graph.NamedPort(graph.ModelCall("m", ()), "y")), "pending model output"),
    ],
)
def test_repr_tells_the_state_without_asking(session: NumpySession, value: graph.Value, state: str) -> None:
    assert f", {state}, device 0>" in repr(Array(value, session))
    assert session.calls == 0
