# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the server runs for an operation, where that is its own; `test_operations` compares all of them with NumPy."""

from __future__ import annotations

from typing import Any

import array_api_compat.numpy as xp
import numpy as np
import pytest

from remotegpu.opset import TABLE
from remotegpu_server.backends.operations import implementation


@pytest.mark.parametrize("name", ["load", "save", "fromfile", "memmap", "linalg", "__class__", "asarray", ""])
def test_only_names_of_the_table_are_looked_up(name: str) -> None:
    assert implementation(name) is None


def run(name: str, *args: Any, **kwargs: Any) -> Any:
    function = implementation(name)
    assert function is not None
    return function(xp, *args, **kwargs)


def test_clip_leaves_its_bounds_alone_and_keeps_the_dtype() -> None:
    x = np.array([-100, 0, 100], np.int8)
    low, high = np.array([-1000, 1, -5], np.int64), np.array([7, 7, 1000], np.int64)
    low.flags.writeable = high.flags.writeable = False
    np.testing.assert_array_equal(run("clip", x, low, high), np.array([-100, 1, 100], np.int8), strict=True)
    np.testing.assert_array_equal(run("clip", x.astype(np.uint8), 0, 0), np.zeros(3, np.uint8), strict=True)
    big = np.array([0, 2**64 - 1], np.uint64)
    np.testing.assert_array_equal(run("clip", big, np.int64(-3), np.array(2**62)), [0, 2**62])
    assert run("clip", np.float32(3), np.array([1.0, 2.0]), None).dtype == np.float32
    assert np.isnan(run("clip", np.array([np.nan, 1.0]), 0.0, np.array(np.nan))).all()


def test_empty_shows_nobody_elses_memory() -> None:
    np.full(10_000, 7.0)
    assert not run("empty", (10_000,), dtype=np.dtype(np.float64)).any()
    assert not run("empty_like", np.ones(10_000)).any()


def test_repeat_refuses_negative_numbers() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        run("repeat", np.ones(2), np.array([1, -1]))


def test_every_row_of_the_table_can_be_run() -> None:
    assert all(implementation(name) for name in TABLE)
    assert all(hasattr(xp, name) for name in set(TABLE) - {"getitem"})
