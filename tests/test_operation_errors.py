# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Wrong calls of array functions: refused where they are written, without a round trip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from remotegpu.array import Array
from tests.fixtures.numpy_session import NumpySession

REFUSED: list[tuple[type[Exception], str, Callable[[Any, Any], object]]] = [
    (TypeError, "takes no argument 'foo' of that name", lambda xp, x: xp.sum(x, foo=1)),
    (TypeError, "no argument 'x' by keyword", lambda xp, x: xp.abs(x=x)),
    (TypeError, "got 'axis' twice", lambda xp, x: xp.expand_dims(x, 0, axis=0)),
    (TypeError, "misses the argument 'x2'", lambda xp, x: xp.add(x)),
    (TypeError, "takes 1 positional arguments, 2", lambda xp, x: xp.sum(x, 0)),
    (TypeError, "x must be an array", lambda xp, x: xp.sum(3)),
    (TypeError, "x must be an array or a number, not list", lambda xp, x: xp.sum([1, 2])),
    (TypeError, "one of the arguments must be an array", lambda xp, x: xp.add(1, 2)),
    (TypeError, "not None", lambda xp, x: xp.add(x, None)),
    (TypeError, "bitwise_and takes bool or integer arrays, not float64 and float64", lambda xp, x: x & x),
    (TypeError, "imaginary part", lambda xp, x: xp.astype(x * 1j, xp.float32)),
    (TypeError, "imaginary part", lambda xp, x: xp.sum(x * 1j, dtype=xp.float32)),
    (TypeError, "must be a dtype", lambda xp, x: xp.astype(x, None)),
    (TypeError, "min does not fit an array of int64", lambda xp, x: xp.clip(xp.arange(3), 0.5)),
    (TypeError, "max does not fit an array of float64", lambda xp, x: xp.clip(x, 0.0, 1j)),
    (TypeError, "clip takes integer or floating", lambda xp, x: xp.clip(x > 0, 0, 1)),
    (TypeError, "axis must be an integer", lambda xp, x: xp.argmax(x, axis=(0,))),
    (TypeError, "axis must be known here", lambda xp, x: xp.sum(x, axis=xp.asarray(0))),
    (TypeError, "keepdims must be known here", lambda xp, x: xp.sum(x, keepdims=xp.asarray(False))),
    (TypeError, "shape must be known here", lambda xp, x: xp.reshape(x, (xp.asarray(4), -1))),
    (TypeError, "arrays must be a tuple or list", lambda xp, x: xp.concat(x)),
    (TypeError, "indices must be an integer array", lambda xp, x: xp.take(x, x, axis=0)),
    (TypeError, "repeats must be an integer", lambda xp, x: xp.repeat(x, x)),
    (TypeError, "fill_value must be a number", lambda xp, x: xp.full(3, "a")),
    (TypeError, "start and stop must be Python numbers", lambda xp, x: xp.linspace(0, xp.ones(()), 3)),
    (TypeError, "no range of bool", lambda xp, x: xp.arange(3, dtype=xp.bool)),
    (TypeError, "finite real numbers", lambda xp, x: xp.arange(float("inf"))),
    (TypeError, "not None", lambda xp, x: xp.squeeze(x, None)),
    (OverflowError, "add: Python integer 300", lambda xp, x: xp.ones(2, dtype=xp.uint8) + 300),
    (OverflowError, "lies within", lambda xp, x: xp.clip(xp.ones(2, dtype=xp.uint8), 300)),
    (OverflowError, "out of bounds", lambda xp, x: xp.full(2, 300, dtype=xp.uint8)),
    (TypeError, "integers of 64 bits", lambda xp, x: xp.arange(2**63)),
    (ValueError, r"add: the shapes \(2, 3\) and \(4,\) do not broadcast", lambda xp, x: x + xp.ones(4)),
    (ValueError, "where: the shapes", lambda xp, x: xp.where(x > 0, x, xp.ones(2))),
    (ValueError, "axis 2 is out of bounds for 2", lambda xp, x: xp.sum(x, axis=2)),
    (IndexError, "axis -3 is out of bounds", lambda xp, x: xp.sort(x, axis=-3)),
    (ValueError, "same axis twice", lambda xp, x: xp.max(x, axis=(0, -2))),
    (ValueError, "max of no elements", lambda xp, x: xp.max(x[:0], axis=0)),
    (ValueError, "argmin of no elements", lambda xp, x: xp.argmin(x[:0])),
    (ValueError, "sizes 3 and 2 must be equal", lambda xp, x: x @ x),
    (ValueError, "at least 1 dim", lambda xp, x: x @ xp.ones(())),
    (ValueError, "matmul: the shapes", lambda xp, x: xp.ones((2, 1, 3)) @ xp.ones((4, 3, 1))),
    (ValueError, "sizes 3 and 4 must be equal", lambda xp, x: xp.vecdot(x, xp.ones(4))),
    (ValueError, "must be equal", lambda xp, x: xp.tensordot(x, x, axes=1)),
    (ValueError, "3 axes of 2 and 2", lambda xp, x: xp.tensordot(x, x, axes=3)),
    (ValueError, "axes must be an integer or a pair", lambda xp, x: xp.tensordot(x, x, axes=(0, 0, 0))),
    (ValueError, "1 axes of x1 for 2 of x2", lambda xp, x: xp.tensordot(x, x, axes=((0,), (0, 1)))),
    (ValueError, "at least 2 dim", lambda xp, x: xp.matrix_transpose(x[0])),
    (ValueError, "at least 2 dim", lambda xp, x: xp.tril(x[0])),
    (ValueError, "same, except on axis 0", lambda xp, x: xp.concat([x, x.T])),
    (ValueError, "concat needs at least one", lambda xp, x: xp.concat([])),
    (ValueError, "stack: shapes must be the same;", lambda xp, x: xp.stack([x, x[0]])),
    (ValueError, "cannot become", lambda xp, x: xp.reshape(x, (4, 2))),
    (ValueError, "cannot become", lambda xp, x: xp.reshape(x, (-1, 4))),
    (ValueError, "cannot become", lambda xp, x: xp.reshape(x, (-1, -1))),
    (ValueError, "cannot become", lambda xp, x: xp.reshape(x[:0], (0, -1))),
    (ValueError, "cannot become", lambda xp, x: xp.reshape(x, (-2, -3))),
    (ValueError, "is not of size 1", lambda xp, x: xp.squeeze(x, 0)),
    (ValueError, "same axis twice", lambda xp, x: xp.expand_dims(x, (0, 0))),
    (ValueError, "must name each", lambda xp, x: xp.permute_dims(x, (0,))),
    (ValueError, "cannot move", lambda xp, x: xp.moveaxis(x, (0, 1), 0)),
    (ValueError, "does not broadcast to", lambda xp, x: xp.broadcast_to(x, (3, 2, 2))),
    (ValueError, "does not broadcast to", lambda xp, x: xp.broadcast_to(x, (3,))),
    (ValueError, "several shifts need an axis each", lambda xp, x: xp.roll(x, (1, 2))),
    (ValueError, "2 shifts for 3 axes", lambda xp, x: xp.roll(x, (1, 2), axis=(0, 1, 1))),
    (ValueError, "not be negative", lambda xp, x: xp.repeat(x, -1)),
    (ValueError, "repeats for", lambda xp, x: xp.repeat(x, xp.arange(4), axis=0)),
    (ValueError, "not be negative", lambda xp, x: xp.tile(x, -1)),
    (ValueError, "not be negative", lambda xp, x: xp.diff(x, n=-1)),
    (ValueError, "axis must be given", lambda xp, x: xp.cumulative_sum(x)),
    (ValueError, "at least 1 dim", lambda xp, x: xp.cumulative_sum(xp.ones(()))),
    (ValueError, "axis must be given", lambda xp, x: xp.take(x, xp.arange(1))),
    (ValueError, "they must agree", lambda xp, x: xp.take_along_axis(x, xp.arange(1))),
    (ValueError, "at least 1 dim", lambda xp, x: xp.nonzero(xp.ones(()))),
    (ValueError, "x1 must have one dim", lambda xp, x: xp.searchsorted(x, x)),
    (ValueError, "side must be", lambda xp, x: xp.searchsorted(x[0], x, side="middle")),
    (ValueError, "sorter has shape", lambda xp, x: xp.searchsorted(x[0], x, sorter=xp.arange(2))),
    (ValueError, "indexing must be", lambda xp, x: xp.meshgrid(x[0], indexing="yx")),
    (ValueError, "must have one dimension", lambda xp, x: xp.meshgrid(x)),
    (ValueError, "negative size", lambda xp, x: xp.zeros((2, -1))),
    (ValueError, "negative size", lambda xp, x: xp.linspace(0, 1, -1)),
    (ValueError, "step must not be 0", lambda xp, x: xp.arange(0, 1, 0)),
    (ValueError, "fill_value must be one number", lambda xp, x: xp.full((2, 3), x)),
    (ValueError, "slice step", lambda xp, x: x[::0]),
    (IndexError, "index 2 is out of bounds for a size of 2", lambda xp, x: x[2]),
    (IndexError, "index -4 is out of bounds", lambda xp, x: x[..., -4]),
    (IndexError, "too many indices: 3", lambda xp, x: x[0, 0, 0]),
    (IndexError, "too many indices: 3", lambda xp, x: x[x > 0, 0]),
    (IndexError, "one ellipsis", lambda xp, x: x[..., ...]),
    (IndexError, r"mask of shape \(3,\) does not fit", lambda xp, x: x[x[0] > 0]),
    (IndexError, "float64 cannot be indices", lambda xp, x: x[x]),
    (IndexError, "not 1.5", lambda xp, x: x[1.5]),
    (IndexError, "not 'a'", lambda xp, x: x["a"]),
    (IndexError, "do not broadcast", lambda xp, x: x[xp.arange(2), xp.arange(3)]),
]  # fmt: skip


@pytest.mark.parametrize(("error", "match", "make"), REFUSED)
def test_wrong_call_is_refused_at_once(
    error: type[Exception], match: str, make: Callable[[Any, Array], object]
) -> None:
    session = NumpySession()
    x = session.array(np.ones((2, 3)))
    with pytest.raises(error, match=match):
        make(session.xp, x)
    assert session.calls == 0
