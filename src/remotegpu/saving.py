# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Programs that are recorded once, without a server, and served as models."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np

from remotegpu import errors, graph, program
from remotegpu.array import Array
from remotegpu.dtypes import BYTES, NAMES, Dtype, number_of
from remotegpu.model import Model, ModelOutputs
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

# What is told to somebody who has written something else.
_INPUTS = 'a dict with dtype and sizes of each argument, such as {"image": ("uint8", ("height", "width", 3))}'
_INPUT = 'a dtype and sizes, such as ("float32", ("n", 4)), or ("float32", None) for any number of dimensions'
_SIZES = 'a tuple of sizes, such as ("n", 4), or None for any number of dimensions'
_SIZE = 'a whole number from 0 on, a symbol such as "height" (the same number wherever it stands), or None for any'
_OUTPUTS = 'an array, or a dict of arrays by name, such as `return {"boxes": boxes, "scores": scores}`'
_BY_NAME = 'outputs by name, such as `xp.model("digits")(image=x)["boxes"]`: the model is looked up when a call runs'
_RECORDED = "what can be recorded, since nothing is computed before a call:"


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
    by name. Raises InvalidInput for that, for inputs that cannot be or that the function does not take, and for
    anything but arrays as outputs; also what the function raises."""
    if not isinstance(inputs, Mapping):
        raise errors.InvalidInput(field="inputs", limit=_INPUTS, given=_kind(inputs))
    trace = _Trace()
    arrays, signatures = {}, []
    dims: dict[str, graph.Dim] = {}
    for index, (name, described) in enumerate(inputs.items()):
        check_text("name of an input", name, "the name of an argument of the function")
        signature, meta = _input(name, described, dims)
        signatures.append(signature)
        arrays[name] = Array(graph.Value(graph.Placeholder(index), meta), trace)
    _check_takes(function, arrays)
    outputs = _outputs(trace, function(trace.xp, **arrays))
    message, body = program.encode(graph.plan([array._value for array in outputs.values()], keep=None))
    saved = saved_pb2.SavedProgram(format=FORMAT, inputs=signatures, outputs=list(outputs), program=message)
    saved.body = b"".join(body.parts)
    return saved.SerializeToString(deterministic=True)


def _check_takes(function: Any, arrays: Mapping[str, Array]) -> None:
    names = ", ".join(("xp", *arrays))
    limit = f"a function of {names}: the namespace, and then the inputs by their names"
    if not callable(function):
        raise errors.InvalidInput(field="function", limit=limit, given=_kind(function))
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # such as some written in C: the call will tell
        return
    try:
        signature.bind(None, **arrays)
    except TypeError as error:
        given = f"one of {signature}: {error}"
        raise errors.InvalidInput(field="function", limit=limit, given=given) from None


def _input(name: str, described: Any, dims: dict[str, graph.Dim]) -> tuple[compute_pb2.TensorSignature, graph.Meta]:
    """An input as the server gets it, and as it is recorded with; `dims` stand for the symbols."""
    if not isinstance(described, tuple | list) or len(described) != 2:
        raise errors.InvalidInput(field=f"input {name!r}", limit=_INPUT, given=f"{described!r:.80}")
    dtype, sizes = described
    known = _dtype(name, dtype)
    number = BYTES if known == STRINGS else number_of(known)
    made = compute_pb2.TensorSignature(name=name, dtype=number)  # type: ignore[arg-type]  # an enum's number
    if sizes is None:
        made.unknown_rank = True
        return made, graph.Meta(known)
    if isinstance(sizes, str) or not isinstance(sizes, Sequence):
        raise errors.InvalidInput(field=f"sizes of input {name!r}", limit=_SIZES, given=f"{sizes!r:.80}")
    shape: list[graph.Size] = []
    for size in sizes:
        if isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**63:
            made.shape.add(fixed=size)
            shape.append(size)
        elif size is None or size == "":
            made.shape.add()
            shape.append(graph.Dim())
        else:
            check_text(f"size of input {name!r}", size, _SIZE)
            made.shape.add(symbol=cast("str", size))
            shape.append(dims.setdefault(cast("str", size), graph.Dim()))
    return made, graph.Meta(known, tuple(shape))


def _dtype(name: str, dtype: Any) -> Dtype:
    if isinstance(dtype, str) and dtype == "bytes":
        return STRINGS
    try:
        return travelling(dtype)
    except errors.InvalidInput:
        limit = f'{", ".join(NAMES)}, or "bytes" for strings, which only models take'
        raise errors.InvalidInput(field=f"dtype of input {name!r}", limit=limit, given=f"{dtype!r:.80}") from None


def _outputs(trace: _Trace, made: Any) -> dict[str, Array]:
    found = dict(made) if isinstance(made, Mapping) else {ONLY_OUTPUT: made}
    if not found:
        raise errors.InvalidInput(field="outputs of the function", limit=_OUTPUTS, given="an empty dict")
    for name, array in found.items():
        if not isinstance(made, Mapping):
            field, given = "outputs of the function", "nothing (None)" if made is None else _kind(made)
        else:
            field, given = f"output {name!r:.40} of the function", _kind(array)
        if isinstance(array, ModelOutputs):
            raise errors.InvalidInput(field=field, limit=_BY_NAME, given=given)
        if not isinstance(array, Array | np.ndarray):
            raise errors.InvalidInput(field=field, limit=_OUTPUTS, given=given)
        if not name:
            raise errors.InvalidInput(field="name of an output", limit="text, not empty", given=repr(name))
        check_text("name of an output", name, "text, not empty")
        found[name] = trace.xp.asarray(array)
    return found


def _kind(made: Any) -> str:
    if isinstance(made, ModelOutputs):
        return f"all outputs of model {made.call.model!r:.80} at once"
    article = "an" if type(made).__name__[0] in "aeiou" else "a"
    return f"{article} {type(made).__name__}"


class SavingNamespace(Namespace):
    """The namespace that a function is recorded with."""

    __slots__ = ()

    def model(self, name: str) -> Model:
        """A model of the server's: `name`, `name:version` or `name:alias`."""
        check_text("model", name, 'a model\'s name, such as "digits", "digits:2" or "digits:stable"')
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
        _refuse(
            "one that asks for values, as `if x`, float(x) or numpy.asarray(x) do",
            f"{_RECORDED} write xp.where(condition, a, b) in the place of `if`, and what is known now as numbers or "
            "NumPy arrays",
        )

    def resolve(self, values: Sequence[graph.Value]) -> None:
        """There are no sizes."""
        _refuse(
            "one that asks for a dtype or size that only a call has, as x.shape, len(x) or a loop over x may do",
            f"{_RECORDED} write a number for that size into `inputs`, or use what needs none, such as "
            "xp.reshape(x, (-1,)), x[:, None] or xp.sum(x, axis=0)",
        )

    def known_signature(self, name: str) -> None:
        """None: models are looked up when the program runs."""

    def signature(self, name: str) -> NoReturn:
        """As `known_signature`."""
        _refuse(f"one that takes the outputs of model {name!r:.80} other than by name", _BY_NAME)


def _refuse(given: str, limit: str) -> NoReturn:
    raise errors.InvalidInput(field="function of a saved program", limit=limit, given=given)
