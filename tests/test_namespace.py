# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The namespace of a device: what is in it, `asarray`, and what it answers without the device."""

from __future__ import annotations

import array
import inspect
from typing import Any

import numpy as np
import pytest

from remotegpu import errors, graph
from remotegpu.opset import TABLE
from tests.fixtures.numpy_session import NumpySession


@pytest.fixture
def session() -> NumpySession:
    return NumpySession()


@pytest.fixture
def xp(session: NumpySession) -> Any:
    return session.xp


def test_every_public_name_is_there_and_is_what_it_says(xp: Any) -> None:
    assert {"add", "float32", "pi", "asarray", "__array_namespace_info__"} <= set(dir(xp))
    assert "getitem" not in dir(xp)
    for name in dir(xp):
        found = getattr(xp, name)
        assert getattr(xp, name) == found or name not in TABLE
        if name in TABLE:
            assert (found.__name__, found.__module__) == (name, "remotegpu.array")
            assert f"array_api.{name}.html" in found.__doc__
            wanted = TABLE[name].signature.text
            assert str(inspect.signature(found)).replace(" ", "") == f"({wanted})".replace(" ", "")
    assert xp.__name__ == "remotegpu.array"
    assert repr(xp) == "<array namespace of device 0>"


@pytest.mark.parametrize(
    ("name", "advice"),
    [("arcsin", "did you mean"), ("getitem", "has no"), ("fft", "has no"), ("zzzz", "it has .*zeros")],
)
def test_unknown_name_says_what_exists(xp: Any, name: str, advice: str) -> None:
    with pytest.raises(AttributeError, match=advice):
        getattr(xp, name)
    assert not hasattr(xp, "__wrapped__")


def test_constants_and_dtypes_are_numpys(xp: Any) -> None:
    assert (xp.pi, xp.e, xp.inf, xp.newaxis) == (np.pi, np.e, np.inf, None)
    assert np.isnan(xp.nan)
    assert xp.float32 is np.float32
    assert xp.bool is np.bool_
    assert (xp.float64 == None) is False, "which numpy.dtype gets wrong"  # noqa: E711
    assert xp.zeros(3, dtype=xp.float32).dtype == xp.float32


# asarray: what travels is what the array held when it was given.


def test_array_that_may_change_is_copied(session: NumpySession, xp: Any) -> None:
    host = np.arange(4.0)
    x, shared = xp.asarray(host), xp.asarray(host, copy=False)
    view = host[:]
    view.flags.writeable = False
    of_writable = xp.asarray(view)
    host[:] = 7
    np.testing.assert_array_equal(np.asarray(x), np.arange(4.0))
    np.testing.assert_array_equal(np.asarray(shared), host)
    np.testing.assert_array_equal(np.asarray(of_writable), np.arange(4.0))


def sent(x: Any) -> Any:
    assert isinstance(x._value.origin, graph.Source)
    return x._value.origin.array


def test_no_copy_is_made_without_need(xp: Any) -> None:
    frozen = np.arange(4.0)
    frozen.flags.writeable = False
    raw = np.frombuffer(b"12345678", np.uint8)
    for host in (frozen, raw):
        assert np.shares_memory(sent(xp.asarray(host)), host)
        assert not np.shares_memory(sent(xp.asarray(host, copy=True)), host)
    converted = xp.asarray(np.arange(4), dtype=np.float32)
    assert not sent(converted).flags.writeable, "what the conversion made is taken as it is"
    buffer = array.array("d", [1.0, 2.0])
    x = xp.asarray(buffer)
    buffer[0] = 5.0
    assert sent(x)[0] == 1.0


@pytest.mark.parametrize(
    "host",
    [
        np.arange(6).reshape(2, 3).T,
        np.arange(6)[::2],
        np.arange(3, dtype=">i4"),
        np.array(2.5),
        np.empty((0, 3)),
        np.float16(1.5),
    ],
)
def test_any_layout_and_byte_order_becomes_contiguous_and_little_endian(xp: Any, host: Any) -> None:
    x = xp.asarray(host)
    assert sent(x).flags.c_contiguous
    assert sent(x).dtype == host.dtype.newbyteorder("<")
    assert x.dtype.isnative
    np.testing.assert_array_equal(np.asarray(x), host)


@pytest.mark.parametrize(
    ("given", "dtype", "wanted"),
    [
        (1, None, np.array(1)),
        (2.5, np.float32, np.array(2.5, np.float32)),
        ([[1, 2], [3, 4]], None, np.array([[1, 2], [3, 4]])),
        ([True, 2.0], None, np.array([1.0, 2.0])),
        ([2**63], np.uint64, np.array([2**63], np.uint64)),
        (1j, None, np.array(1j)),
        (np.arange(3), "float16", np.arange(3, dtype=np.float16)),
        ((), None, np.array([])),
    ],
)
def test_numbers_and_lists_become_arrays_of_numpys_dtype(xp: Any, given: Any, dtype: Any, wanted: Any) -> None:
    np.testing.assert_array_equal(np.asarray(xp.asarray(given, dtype=dtype)), wanted, strict=True)


def test_remote_array_passes_through(session: NumpySession, xp: Any) -> None:
    x = session.array(np.arange(3))
    assert xp.asarray(x) is x
    assert xp.asarray(x, dtype=np.int64, copy=False) is x
    converted = xp.asarray(x, dtype=xp.float32)
    assert session.calls == 0
    np.testing.assert_array_equal(np.asarray(converted), np.arange(3, dtype=np.float32), strict=True)


def test_what_asarray_refuses(session: NumpySession, xp: Any) -> None:
    x = session.array(np.arange(3))
    refused: list[tuple[Any, dict[str, Any]]] = [
        ([1, 2], {"copy": False}),
        (np.arange(6)[::2], {"copy": False}),
        (np.arange(6), {"dtype": np.float32, "copy": False}),
        (x, {"dtype": np.float32, "copy": False}),
        (1, {"device": "device 7"}),
        ([[1], [2, 3]], {}),
    ]
    for given, how in refused:
        with pytest.raises(ValueError, match=r"copy|copied|device|shape"):
            xp.asarray(given, **how)
    with pytest.raises(TypeError, match="stack and concat"):
        xp.asarray([[x[0], 1]])
    with pytest.raises(TypeError, match="imaginary"):
        xp.asarray(np.array([1j]), dtype=np.float32)
    with pytest.raises(OverflowError):
        xp.asarray([300], dtype=np.uint8)
    assert session.calls == 0


@pytest.mark.parametrize("given", ["text", np.array(["a"]), np.array([object()]), np.array([1], "M8[s]"), 2**70])
def test_dtype_that_does_not_travel_is_named(xp: Any, given: Any) -> None:
    with pytest.raises(errors.InvalidInput, match=r"^dtype: given .*; allowed: bool, int8"):
        xp.asarray(given)


@pytest.mark.parametrize("dtype", ["U3", object, "no dtype", np.longdouble])
def test_dtype_argument_that_does_not_travel(xp: Any, dtype: Any) -> None:
    for call in (xp.zeros, xp.asarray):
        with pytest.raises(errors.InvalidInput, match=r"^dtype: "):
            call(3, dtype=dtype)


# Answered here.


def test_questions_about_dtypes(session: NumpySession, xp: Any) -> None:
    x = session.array(np.ones(3, np.float32))
    assert xp.result_type(x, xp.int8, 1.0) == np.float32
    assert xp.result_type(xp.int8, 1j) == np.complex128
    assert xp.result_type(x, np.float64(1)) == np.float64
    assert xp.result_type(True, xp.int8) == np.int8
    assert xp.can_cast(x, xp.float64)
    assert not xp.can_cast(xp.float64, x.dtype)
    assert xp.finfo(x).bits == xp.finfo(xp.float32).bits == 32
    assert xp.iinfo(xp.uint8).max == 255
    assert xp.isdtype(x.dtype, "real floating")
    assert xp.isdtype(xp.int8, ("bool", xp.int8))
    assert xp.broadcast_shapes((2, 1), (3,)) == (2, 3)
    with pytest.raises(ValueError, match="broadcast"):
        xp.broadcast_shapes((2,), (3,))
    with pytest.raises(TypeError, match="needs an array or a dtype"):
        xp.result_type()
    assert session.calls == 0


def test_inspection(session: NumpySession, xp: Any) -> None:
    info = xp.__array_namespace_info__()
    assert info.default_device() == session.device
    assert info.devices() == (session.device,)
    assert info.capabilities()["data-dependent shapes"]
    assert info.default_dtypes()["real floating"] == xp.zeros(3).dtype
    assert info.dtypes(kind="real floating") == {"float32": np.float32, "float64": np.float64}
    assert len(info.dtypes(kind=("bool", "integral"))) == 9
    assert len(info.dtypes()) == 13


def test_creation_sends_nothing(session: NumpySession, xp: Any) -> None:
    made = xp.zeros((10**6, 10**6)) + xp.arange(10**6)
    assert made.shape == (10**6, 10**6)
    assert session.calls == 0
