# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What `save_program` cannot save: each is one sentence that says what was given, what is allowed and what to write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import remotegpu

ROWS = {"x": ("float32", ("n", 2))}


@pytest.mark.parametrize(
    ("function", "given", "told"),
    [
        (lambda xp, x: float(xp.sum(x)), "asks for values", "xp.where(condition, a, b)"),
        (lambda xp, x: x if x[0, 0] > 0 else -x, "asks for values", "xp.where(condition, a, b)"),
        (lambda xp, x: xp.reshape(x, (x.shape[0] * 2,)), "only a call has", "xp.reshape(x, (-1,))"),
        (lambda xp, x: xp.stack(list(x)), "only a call has", "write a number for that size into `inputs`"),
        (lambda xp, x: list(xp.model("m")(x)), "the outputs of model 'm' other than by name", '["boxes"]'),
        (lambda xp, x: xp.model("m")(x)[0], "output of model 'm': given 0", '["boxes"]'),
        (lambda xp, x: xp.model("m")(x), "all outputs of model 'm' at once", '["boxes"]'),
        (lambda xp, x: xp.model(3)(x)["y"], "model: given 3", '"digits:stable"'),
        (lambda xp, x: {}, "an empty dict", "a dict of arrays by name"),
        (lambda xp, x: {"y": 1}, "output 'y' of the function: given an int", "a dict of arrays by name"),
        (lambda xp, x: {1: x}, "name of an output: given 1", "text, not empty"),
        (lambda xp, x: {"": x}, "name of an output: given ''", "text, not empty"),
        (lambda xp, x: None, "nothing (None)", 'return {"boxes": boxes'),
        (lambda xp, x: (x, x), "given a tuple", 'return {"boxes": boxes'),
        (lambda xp, image: image, "one of (xp, image): missing", "a function of xp, x"),
        (lambda xp: xp.ones(3), "one of (xp): got an unexpected", "a function of xp, x"),
        (3, "function: given an int", "a function of xp, x"),
    ],
)
def test_functions_that_cannot_be_saved(function: Callable[..., Any], given: str, told: str) -> None:
    with pytest.raises(remotegpu.InvalidInput) as caught:
        remotegpu.save_program(function, ROWS)
    assert given in str(caught.value)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "given", "told"),
    [
        (["x"], "inputs: given a list", '{"image": ("uint8"'),
        ({"x": "float32"}, "input 'x': given 'float32'", '("float32", None)'),
        ({"x": ("float32",)}, "input 'x': given ('float32',)", '("float32", None)'),
        ({"x": ("float32", 3)}, "sizes of input 'x': given 3", 'a tuple of sizes, such as ("n", 4)'),
        ({"x": ("float32", "rows")}, "sizes of input 'x': given 'rows'", 'a tuple of sizes, such as ("n", 4)'),
        ({"x": ("float32", (-1,))}, "size of input 'x': given -1", "a whole number from 0 on"),
        ({"x": ("float33", (1,))}, "dtype of input 'x': given 'float33'", '"bytes" for strings'),
        ({1: ("float32", (1,))}, "name of an input: given 1", "the name of an argument"),
    ],
)
def test_inputs_that_cannot_be(inputs: Any, given: str, told: str) -> None:
    with pytest.raises(remotegpu.InvalidInput) as caught:
        remotegpu.save_program(lambda xp, x: x, inputs)
    assert given in str(caught.value)
    assert told in str(caught.value)
