# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Models as the client sees them: signatures, checks before anything is sent, and calls that become nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from remotegpu import errors, graph
from remotegpu.array import Session
from remotegpu.dtypes import BYTES, Dtype, from_number
from remotegpu.strings import STRINGS, strings_of
from remotegpu.v1 import compute_pb2 as pb

if TYPE_CHECKING:
    from remotegpu.array import Array


@dataclass(frozen=True, slots=True)
class TensorSignature:
    """One input or output. A size is a number, a symbol, or "" for any; `shape` None: any number of dimensions. Strings
    have the dtype `object`."""

    name: str
    dtype: Dtype
    shape: tuple[int | str, ...] | None

    def __str__(self) -> str:
        sizes = "..." if self.shape is None else ", ".join(str(size) or "?" for size in self.shape)
        return f"{'strings' if self.dtype == STRINGS else self.dtype}[{sizes}]"


@dataclass(frozen=True, slots=True)
class ModelSignature:
    """What a version of a model takes and gives. `digest` is the SHA-256 of its file. `is_default`: the bare name
    stands for it. `max_batch`: rows up to which calls may be put together; 0: they are not."""

    name: str
    version: str
    digest: bytes
    inputs: tuple[TensorSignature, ...]
    outputs: tuple[TensorSignature, ...]
    is_default: bool = True
    aliases: tuple[str, ...] = ()
    max_batch: int = 0

    @classmethod
    def from_message(cls, message: pb.ModelSignature) -> ModelSignature:
        """From the wire. Raises ProtocolError for a dtype that this version does not know."""
        inputs, outputs = (tuple(map(_tensor, tensors)) for tensors in (message.inputs, message.outputs))
        return cls(
            name=message.name,
            version=message.version,
            digest=message.digest,
            inputs=inputs,
            outputs=outputs,
            is_default=message.is_default,
            aliases=tuple(message.aliases),
            max_batch=message.max_batch,
        )

    def output_metas(self, inputs: Sequence[tuple[str, graph.Value]]) -> tuple[graph.Meta, ...]:
        """What is known of the outputs, given what is known of the inputs (by name, or by position: an empty name).

        Raises InvalidInput for a missing or unknown input, a wrong dtype, or a shape that cannot fit."""
        names = [tensor.name for tensor in self.inputs]
        given = {
            name or (names[i] if i < len(names) else f"number {i + 1}"): value for i, (name, value) in enumerate(inputs)
        }
        if set(given) != set(names) or len(given) != len(inputs):
            raise errors.InvalidInput(
                field=f"model {self.name!r}", limit=f"the inputs {', '.join(names)}", given=", ".join(given) or "none"
            )
        sizes: dict[str, graph.Size] = {}
        for tensor in self.inputs:
            self._check(tensor, given[tensor.name].meta, sizes)
        return tuple(
            graph.Meta(
                tensor.dtype,
                None if tensor.shape is None else tuple(_resolved(size, sizes) for size in tensor.shape),
            )
            for tensor in self.outputs
        )

    def _check(self, tensor: TensorSignature, meta: graph.Meta, sizes: dict[str, graph.Size]) -> None:
        fits = meta.dtype is None or meta.dtype == tensor.dtype
        if meta.shape is not None and tensor.shape is not None:
            fits = fits and len(meta.shape) == len(tensor.shape)
            for wanted, size in zip(tensor.shape, meta.shape, strict=False):
                known = size.size if isinstance(size, graph.Dim) else size
                if isinstance(wanted, int):
                    fits = fits and known in {None, wanted}
                elif wanted:
                    seen = sizes.setdefault(wanted, size)
                    fits = fits and (seen == size or isinstance(seen, graph.Dim) or known is None)
        if not fits:
            shape = "..." if meta.shape is None else ", ".join(map(str, meta.shape))
            given = f"{'strings' if meta.dtype == STRINGS else meta.dtype}[{shape}]"
            field = f"model {self.name!r}, input {tensor.name!r}"
            raise errors.InvalidInput(field=field, limit=str(tensor), given=given)


def _tensor(message: pb.TensorSignature) -> TensorSignature:
    dtype = STRINGS if message.dtype == BYTES else from_number(message.dtype)
    if dtype is None:
        raise errors.ProtocolError(what=f"dtype {message.dtype} of {message.name}")
    shape = tuple(s.fixed if s.WhichOneof("value") == "fixed" else s.symbol for s in message.shape)
    return TensorSignature(message.name, dtype, None if message.unknown_rank else shape)


def _resolved(size: int | str, sizes: dict[str, graph.Size]) -> graph.Size:
    if isinstance(size, int):
        return size
    return sizes.setdefault(size, graph.Dim()) if size else graph.Dim()


class Catalog:
    """The signatures that this process has seen; `digest` names the state of the server's models. `models`: by what
    callers call them, which is a name, "name:version" or "name:alias"; `signatures`: each once."""

    def __init__(self) -> None:
        self.digest = b""
        self.models: Mapping[str, ModelSignature] = {}
        self.signatures: tuple[ModelSignature, ...] = ()

    def update(self, message: pb.Catalog) -> None:
        """Takes over what a reply brought along."""
        self.signatures = tuple(map(ModelSignature.from_message, message.models))
        models: dict[str, ModelSignature] = {}
        for signature in self.signatures:
            for also in ("" if signature.is_default else signature.version, signature.version, *signature.aliases):
                models[f"{signature.name}:{also}" if also else signature.name] = signature
        self.models = models
        self.digest = message.digest

    def forget(self) -> None:
        """The server has other models now: the next reply brings them along."""
        self.update(pb.Catalog())


class ModelSession(Session, Protocol):
    """Where models run: one device of a lease. Beside what arrays need:"""

    def known_signature(self, name: str) -> ModelSignature | None:
        """The model's signature if this process has it already."""

    def signature(self, name: str) -> ModelSignature:
        """The model's signature; asks the server if it is not known."""


class Model:
    """A model on a leased device. Calling it records a node; nothing is sent."""

    def __init__(self, session: ModelSession, name: str) -> None:
        self.name = name
        self._session = session

    def __repr__(self) -> str:
        return f"<Model {self.name!r} on {self._session.device}>"

    def __call__(self, *inputs: Any, **named: Any) -> ModelOutputs:
        """Outputs that will be computed. Inputs by position in the model's order, or by name: remote arrays, NumPy
        arrays, or anything `numpy.asarray` takes; for strings arrays of text or bytes.

        Raises InvalidInput at once for what cannot fit, if this process knows the model's signature (it does after
        the first reply of the server); otherwise the server answers the same."""
        pairs = [("", self._value(item)) for item in inputs]
        pairs += [(name, self._value(item)) for name, item in named.items()]
        signature = self._session.known_signature(self.name)
        metas = signature.output_metas(pairs) if signature else None
        call = graph.ModelCall(self.name, tuple(pairs), metas)
        return ModelOutputs(self._session, call, signature, metas)

    def _value(self, item: Any) -> graph.Value:
        if isinstance(item, str | bytes | list | tuple | np.ndarray | np.generic):
            array = item if isinstance(item, np.ndarray) else _host(item)
            if array is not None and array.dtype.kind in "USO":
                host = strings_of(array)
                return graph.Value(graph.Source(host), graph.Meta(STRINGS, host.shape))
        value: graph.Value = self._session.xp.asarray(item)._value
        return value


def _host(item: Any) -> Any:
    """The item as NumPy has it; None for what the namespace should judge, such as a list with remote arrays."""
    from remotegpu.array import has_arrays

    if isinstance(item, list | tuple) and has_arrays(item):
        return None
    try:
        return np.asarray(item)
    except ValueError:  # lists that are not of one length
        return None


class ModelOutputs:
    """The outputs of one call. By name they cost nothing; counting or unpacking them needs the model's signature, which
    costs one `Models` call in a process that has had no reply yet."""

    def __init__(
        self,
        session: ModelSession,
        call: graph.ModelCall,
        signature: ModelSignature | None,
        metas: tuple[graph.Meta, ...] | None,
    ) -> None:
        self.call = call
        self.session = session
        self._signature = signature
        self._metas = metas
        self._arrays: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        """The output of that name. Raises KeyError for another name, if the signature is known, and InvalidInput for
        what is no text."""
        found = self._arrays.get(name)
        if found is None:
            if not isinstance(name, str):
                limit = 'the name of an output, such as ["boxes"]'
                raise errors.InvalidInput(field=f"output of model {self.call.model!r}", limit=limit, given=repr(name))
            found = self._arrays[name] = self._array(name)
        return found

    def _array(self, name: str) -> Array:
        from remotegpu.array import Array

        meta = graph.UNKNOWN
        if self._signature is not None and self._metas is not None:
            names = [tensor.name for tensor in self._signature.outputs]
            if name not in names:
                raise KeyError(f"model {self.call.model!r} has the outputs {', '.join(names)}, not {name!r}")
            meta = self._metas[names.index(name)]
        # By name, not by its place in the signature: the server may have another version of the model by now.
        return Array(graph.Value(graph.NamedPort(self.call, name), meta), self.session)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the outputs, in the model's order."""
        if self._signature is None:
            self._signature = self.session.signature(self.call.model)
            self._metas = self._signature.output_metas(self.call.inputs)
        return tuple(tensor.name for tensor in self._signature.outputs)

    def __iter__(self) -> Iterator[Array]:
        return iter([self[name] for name in self.names])

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"<outputs of model {self.call.model!r}, not fetched>"
