# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Programs that are recorded once, without a server, and served as models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np

from remotegpu import errors, graph, program
from remotegpu.array import Array
from remotegpu.dtypes import BYTES, Dtype, number_of
from remotegpu.model import Model
from remotegpu.namespace import Namespace
from remotegpu.operations import travelling
from remotegpu.reservation import check_text
from remotegpu.saved import FORMAT, ONLY_OUTPUT
from remotegpu.strings import STRINGS
from remotegpu.v1 import compute_pb2, saved_pb2

if TYPE_CHECKING:
    from remotegpu.session import DeviceSession

# Whole numbers, symbols, and None or "" for any.
Sizes = Sequence[int | str | None]


def save_program(
    function: Callable[..., Mapping[str, Array] | Array], inputs: Mapping[str, tuple[Any, Sizes | None]]
) -> bytes:
    """Records `function(xp, **arrays)` and gives the bytes of a program that does the same with any arrays: a model for
    `Client.load_model(name, content=...)`, or for a model repository (`DIR/<name>/<version>/program.rgpu`).

    `inputs` has by name a dtype ("uint8", ...; "bytes" for strings, which only models take) and sizes: numbers, symbols
    such as "height" (two equal ones are the same number), or None for any; None for all sizes stands for any number of
    dimensions. `xp` is the Array API namespace, and `xp.model(name)` a model of the server's, which is looked up when
    the program runs: `xp.model("digits")(image=x)["boxes"]`. NumPy arrays are saved with the program. The function
    gives arrays by name, or one array, which is called "output".

    Calls no server, so nothing may ask for data: a size that is a symbol, a value, or the outputs of a model other than
    by name. Raises InvalidInput for that, for inputs that cannot be, and for anything but arrays as outputs; also what
    the function raises."""
    trace = _Trace()
    arrays, signatures = {}, []
    dims: dict[str, graph.Dim] = {}
    for index, (name, (dtype, sizes)) in enumerate(inputs.items()):
        check_text("input", name, "a name")
        signature, meta = _input(name, dtype, sizes, dims)
        signatures.append(signature)
        arrays[name] = Array(graph.Value(graph.Placeholder(index), meta), trace)
    outputs = _outputs(trace, function(trace.xp, **arrays))
    message, body = program.encode(graph.plan([array._value for array in outputs.values()], keep=None))
    saved = saved_pb2.SavedProgram(format=FORMAT, inputs=signatures, outputs=list(outputs), program=message)
    saved.body = b"".join(body.parts)
    return saved.SerializeToString(deterministic=True)


def _input(
    name: str, dtype: Any, sizes: Sizes | None, dims: dict[str, graph.Dim]
) -> tuple[compute_pb2.TensorSignature, graph.Meta]:
    """An input as the server gets it, and as it is recorded with; `dims` stand for the symbols."""
    is_text = isinstance(dtype, str) and dtype == "bytes"
    known: Dtype = STRINGS if is_text else travelling(dtype)
    number = BYTES if is_text else number_of(known)
    made = compute_pb2.TensorSignature(name=name, dtype=number)  # type: ignore[arg-type]  # an enum's number
    if sizes is None:
        made.unknown_rank = True
        return made, graph.Meta(known)
    shape: list[graph.Size] = []
    for size in sizes:
        if isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**63:
            made.shape.add(fixed=size)
            shape.append(size)
        elif size is None or size == "":
            made.shape.add()
            shape.append(graph.Dim())
        else:
            check_text(f"size of input {name!r}", size, "whole numbers, symbols, and None for any")
            made.shape.add(symbol=cast("str", size))
            shape.append(dims.setdefault(cast("str", size), graph.Dim()))
    return made, graph.Meta(known, tuple(shape))


def _outputs(trace: _Trace, made: Any) -> dict[str, Array]:
    found = dict(made) if isinstance(made, Mapping) else {ONLY_OUTPUT: made}
    if not found:
        raise errors.InvalidInput(field="outputs", limit="one array or more", given="none")
    for name, array in found.items():
        if not isinstance(name, str) or not name or not isinstance(array, Array | np.ndarray):
            limit = "an array, or arrays by name"
            raise errors.InvalidInput(field="outputs", limit=limit, given=f"{name!r:.40}: a {type(array).__name__}")
        check_text("output", name, "a name")
        found[name] = trace.xp.asarray(array)
    return found


class SavingNamespace(Namespace):
    """The namespace that a function is recorded with."""

    __slots__ = ()

    def model(self, name: str) -> Model:
        """A model of the server's: `name`, `name:version` or `name:alias`."""
        check_text("model", name, "a model's name")
        return Model(cast("DeviceSession", self._session), name)


class _Trace:
    """Implements `remotegpu.array.Session` and what a `Model` asks of one, without a server."""

    def __init__(self) -> None:
        self.xp = SavingNamespace(self)

    @property
    def device(self) -> object:
        """Comparable and printable."""
        return "the device of a saved program"

    def fetch_values(self, wanted: Sequence[graph.Value | graph.ModelCall]) -> list[Any]:
        """There is no data."""
        _refuse("values")

    def resolve(self, values: Sequence[graph.Value]) -> None:
        """There are no sizes."""
        _refuse("a dtype or size that only a call has")

    def known_signature(self, name: str) -> None:
        """None: models are looked up when the program runs."""

    def signature(self, name: str) -> NoReturn:
        """As `known_signature`."""
        _refuse(f"the outputs of model {name!r:.80} other than by name")


def _refuse(given: str) -> NoReturn:
    limit = "what can be recorded before there is a call"
    raise errors.InvalidInput(field="a program that is saved", limit=limit, given=given)
