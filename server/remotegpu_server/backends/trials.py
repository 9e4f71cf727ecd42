# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Runs of a model before anybody calls it: to make it warm, and to see whether calls may be put together.

That the first dimension of everything has one name does not say that its rows are independent: a model may normalise
over it. So two single rows and the same two joined are run on random values, and must agree.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from remotegpu.strings import is_strings

logger = logging.getLogger("remotegpu.worker")

HostArray = np.ndarray[Any, np.dtype[Any]]
# Host arrays by input name to host arrays in the model's order.
Run = Callable[[Mapping[str, HostArray]], Sequence[HostArray]]

# What stands for sizes that are not fixed: 1 suits most; some networks need a picture of some size.
_SIZES = (1, 64)
# Bounds of random whole numbers, which may be places in a table of any length.
_BOUNDS = (64, 2)
# By bytes of an element, of each value and of the largest one. Kernels for other sizes add up in another order, and
# those for float32 on a GPU may round to the 10 bits of TF32; a model that looks at other rows differs by far more.
_TOLERANCES = {2: 2e-2, 4: 2e-3, 8: 1e-6}


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: sizes are numbers, symbols, or "" for any; None if not even their number is known."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...] | None

    def sized(self, size: int) -> tuple[int, ...]:
        """The shape with `size` for all that is not fixed."""
        return tuple(wanted if isinstance(wanted, int) else size for wanted in self.shape or ())


def zeros(port: Port, size: int) -> HostArray:
    """Zeros of the port's shape, or empty strings."""
    shape = port.sized(size)
    return np.full(shape, b"", object) if port.dtype == object else np.zeros(shape, port.dtype)


def warm(name: str, inputs: Sequence[Port], run: Run) -> None:
    """Runs the model once on zeros, so that the first caller does not pay for kernels and memory."""
    for size in _SIZES:
        try:
            run({port.name: zeros(port, size) for port in inputs})
            return
        except Exception as error:  # what a model demands of its sizes is known to the model alone
            logger.info("model %s does not run on sizes of %d: %s", name, size, error)
    logger.warning("model %s could not be warmed up: its first call will be slow", name)


def first_outputs(inputs: Sequence[Port], run: Run) -> Sequence[HostArray] | None:
    """What a model gives for zeros, of the first sizes that it runs on; None if it runs on none."""
    for size in _SIZES:
        try:
            return run({port.name: zeros(port, size) for port in inputs})
        except Exception as error:  # as in `warm`
            logger.info("a model does not run on sizes of %d: %s", size, error)
    return None


def may_join(inputs: Sequence[Port], outputs: Sequence[Port]) -> bool:
    """Whether all begin with the same named dimension, which is nowhere else."""
    if not inputs or not outputs:
        return False
    shapes = [port.shape or ("",) for port in (*inputs, *outputs)]
    symbol = shapes[0][0]
    return symbol != "" and isinstance(symbol, str) and all(s[0] == symbol and symbol not in s[1:] for s in shapes)


def rows_agree(inputs: Sequence[Port], run: Run) -> bool:
    """Whether two rows give the same alone and joined, in either order. False for a model that runs on none of the
    sizes tried."""
    random = np.random.default_rng(0)
    for size in _SIZES:
        for bound in _BOUNDS:
            rows = [{port.name: _row(port, size, bound, random) for port in inputs} for _ in range(2)]
            try:
                alone = [run(row) for row in rows]
                joined = [run(_joined(rows)), run(_joined(rows[::-1]))]
            except Exception as error:  # it may want other sizes, or does not take more than one row
                logger.info("a trial with sizes of %d does not run: %s", size, error)
                continue
            return all(
                _agree([pair[0], pair[1]], both)
                for pair, both in (
                    *zip(zip(alone[0], alone[1], strict=True), joined[0], strict=True),
                    *zip(zip(alone[1], alone[0], strict=True), joined[1], strict=True),
                )
            )
    return False


def _row(port: Port, size: int, bound: int, random: np.random.Generator) -> HostArray:
    shape = (1, *port.sized(size)[1:])
    kind = port.dtype.kind
    if kind == "O":
        texts = [str(number).encode() for number in random.integers(0, bound, np.prod(shape, dtype=int))]
        return np.array(texts, object).reshape(shape)
    if kind in "iu":
        return random.integers(0, bound, shape).astype(port.dtype)
    if kind == "b":
        return random.integers(0, 2, shape).astype(port.dtype)
    values = random.standard_normal(shape)
    return (values + 1j * random.standard_normal(shape) if kind == "c" else values).astype(port.dtype)


def _joined(rows: Sequence[Mapping[str, HostArray]]) -> dict[str, HostArray]:
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _agree(alone: Sequence[HostArray], joined: HostArray) -> bool:
    if any(array.ndim == 0 or array.shape[0] != 1 for array in alone) or alone[0].shape != alone[1].shape:
        return False
    expected = np.concatenate(alone)
    if expected.shape != joined.shape or expected.dtype != joined.dtype:
        return False
    if is_strings(expected) or expected.dtype.kind not in "fc":
        return bool(np.array_equal(expected, joined))
    width = expected.dtype.itemsize // (2 if expected.dtype.kind == "c" else 1)
    tolerance = _TOLERANCES[width]
    largest = float(np.max(np.abs(expected), where=np.isfinite(expected), initial=0))
    return bool(np.allclose(joined, expected, rtol=tolerance, atol=tolerance * largest, equal_nan=True))
