# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What a model is called with: random arrays that fit its signature, or those of a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from remotegpu import errors

Array = np.ndarray[Any, np.dtype[Any]]

# Of all inputs of a call together. Bytes; gRPC and the protocol's sizes end there.
LARGEST = 2**31 - 1
# Bytes of each element of a tensor of strings, and what stands before each of them on the wire.
_STRING, _STRING_HEAD = 8, 4
_BYTE = 256


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input that a model takes: sizes that may be anything are None, and so is a shape of any number of sizes. A
    dtype of objects means strings of bytes."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True)
class Choice:
    """How inputs are chosen: by file, or at random with these shapes and this first dimension (0: 1 where it is
    free)."""

    shapes: Mapping[str, tuple[int, ...]]
    batch: int
    seed: int
    file: Path | None


def arrays(tensors: Sequence[Tensor], choice: Choice) -> dict[str, Array]:
    """The inputs of each call, by name in the model's order. Raises ConfigurationError for options that do not fit."""
    names = [tensor.name for tensor in tensors]
    if choice.file is not None:
        return _read(choice.file, names)
    for name in choice.shapes:
        if name not in names:
            why = f"the model has no input {name!r}; it has: {', '.join(names)}"
            raise errors.ConfigurationError(setting="--shape", why=why)
    shapes = {tensor.name: _shape(tensor, choice) for tensor in tensors}
    size = sum(math.prod(shapes[tensor.name]) * _item_size(tensor.dtype) for tensor in tensors)
    if size > LARGEST:
        why = f"the inputs of a call would have {size} bytes; at most {LARGEST} can be sent"
        raise errors.ConfigurationError(setting="--shape and --batch", why=why)
    random = np.random.default_rng(choice.seed)
    return {tensor.name: _random(random, tensor.dtype, shapes[tensor.name]) for tensor in tensors}


def _shape(tensor: Tensor, choice: Choice) -> tuple[int, ...]:
    if tensor.name in choice.shapes:
        return _given_shape(tensor.name, choice.shapes[tensor.name], choice.batch)
    shape = tensor.shape
    if shape is None:
        why = f"input {tensor.name!r} may have any number of sizes: give --shape {tensor.name}:D1,D2"
        raise errors.ConfigurationError(setting="--shape", why=why)
    if shape and shape[0] is None:
        shape = (choice.batch or 1, *shape[1:])
    elif choice.batch and (not shape or shape[0] != choice.batch):
        why = f"input {tensor.name!r} has the fixed shape {list(shape)}"
        raise errors.ConfigurationError(setting="--batch", why=why)
    known = [size for size in shape if size is not None]
    if len(known) < len(shape):
        sizes = ",".join("?" if size is None else str(size) for size in shape)
        why = f"input {tensor.name!r} has sizes that may be anything: give --shape {tensor.name}:{sizes}"
        raise errors.ConfigurationError(setting="--shape", why=why)
    return tuple(known)


def _given_shape(name: str, shape: tuple[int, ...], batch: int) -> tuple[int, ...]:
    if batch and (not shape or shape[0] != batch):
        sizes = ",".join(map(str, shape))
        why = f"--shape {name}:{sizes} has another first size than {batch}; write it there, and leave out --batch"
        raise errors.ConfigurationError(setting="--batch", why=why)
    return shape


def _item_size(dtype: np.dtype[Any]) -> int:
    return _STRING_HEAD + _STRING if dtype.hasobject else dtype.itemsize


def _random(random: np.random.Generator, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Real numbers from 0 to 1, bytes from 0 to 255; wider whole numbers are 0 or 1, since many are indexes."""
    if dtype.hasobject:
        made = np.empty(shape, object)
        made.reshape(-1)[:] = [random.bytes(_STRING // 2).hex().encode() for _ in range(made.size)]
        return made
    if dtype.kind in "iub":
        end = _BYTE // (1 if dtype.kind == "u" else 2) if dtype.itemsize == 1 and dtype.kind != "b" else 2
        drawn: Array = random.integers(0, end, shape, dtype=np.uint8)
        return drawn.astype(dtype)
    return random.random(shape, dtype=np.float32).astype(dtype)


def _read(file: Path, names: Sequence[str]) -> dict[str, Array]:
    try:
        # Opened here: NumPy leaves a file open that only begins like an archive.
        with file.open("rb") as opened:
            found = np.load(opened, allow_pickle=False)
            if isinstance(found, np.ndarray):
                raise ValueError("it holds one array without a name; write one with numpy.savez")
            missing = [name for name in names if name not in found.files]
            if missing:
                raise ValueError(f"it has no array {', '.join(map(repr, missing))}; it has: {', '.join(found.files)}")
            return {name: found[name] for name in names}
    except (OSError, ValueError, BadZipFile, EOFError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise errors.ConfigurationError(setting="--input", why=f"{file}: {why}") from None
