# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Models as the client sees them: signatures, checks before anything is sent, and calls that become nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from remotegpu import errors, graph
from remotegpu.dtypes import Dtype, from_number
from remotegpu.v1 import compute_pb2 as pb

if TYPE_CHECKING:
    from remotegpu.array import Array
    from remotegpu.session import DeviceSession


@dataclass(frozen=True, slots=True)
class TensorSignature:
    """One input or output. A size is a number, a symbol, or "" for any."""

    name: str
    dtype: Dtype
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(str(size) or '?' for size in self.shape)}]"


@dataclass(frozen=True, slots=True)
class ModelSignature:
    """What a model takes and gives. `digest` is the SHA-256 of its file."""

    name: str
    version: str
    digest: bytes
    inputs: tuple[TensorSignature, ...]
    outputs: tuple[TensorSignature, ...]

    @classmethod
    def from_message(cls, message: pb.ModelSignature) -> ModelSignature:
        """From the wire. Raises ProtocolError for a dtype that this version does not know."""
        inputs, outputs = (tuple(map(_tensor, tensors)) for tensors in (message.inputs, message.outputs))
        return cls(message.name, message.version, message.digest, inputs, outputs)

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
            graph.Meta(tensor.dtype, tuple(_resolved(size, sizes) for size in tensor.shape)) for tensor in self.outputs
        )

    def _check(self, tensor: TensorSignature, meta: graph.Meta, sizes: dict[str, graph.Size]) -> None:
        fits = meta.dtype is None or meta.dtype == tensor.dtype
        if meta.shape is not None:
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
            raise errors.InvalidInput(
                field=f"model {self.name!r}, input {tensor.name!r}", limit=str(tensor), given=f"{meta.dtype}[{shape}]"
            )


def _tensor(message: pb.TensorSignature) -> TensorSignature:
    dtype = from_number(message.dtype)
    if dtype is None:
        raise errors.ProtocolError(what=f"dtype {message.dtype} of {message.name}")
    shape = tuple(s.fixed if s.WhichOneof("value") == "fixed" else s.symbol for s in message.shape)
    return TensorSignature(message.name, dtype, shape)


def _resolved(size: int | str, sizes: dict[str, graph.Size]) -> graph.Size:
    if isinstance(size, int):
        return size
    return sizes.setdefault(size, graph.Dim()) if size else graph.Dim()


class Catalog:
    """The signatures that this process has seen, by name; `digest` names the state of the server's models."""

    def __init__(self) -> None:
        self.digest = b""
        self.models: Mapping[str, ModelSignature] = {}

    def update(self, message: pb.Catalog) -> None:
        """Takes over what a reply brought along."""
        self.models = {model.name: ModelSignature.from_message(model) for model in message.models}
        self.digest = message.digest


class Model:
    """A model on a leased device. Calling it records a node; nothing is sent."""

    def __init__(self, session: DeviceSession, name: str) -> None:
        self.name = name
        self._session = session

    def __repr__(self) -> str:
        return f"<Model {self.name!r} on {self._session.device}>"

    def __call__(self, *inputs: Any, **named: Any) -> ModelOutputs:
        """Outputs that will be computed. Inputs by position in the model's order, or by name: remote arrays, NumPy
        arrays, or anything `numpy.asarray` takes.

        Raises InvalidInput at once for what cannot fit, if this process knows the model's signature (it does after
        the first reply of the server); otherwise the server answers the same."""
        asarray = self._session.xp.asarray
        pairs = [("", asarray(array)._value) for array in inputs]
        pairs += [(name, asarray(array)._value) for name, array in named.items()]
        signature = self._session.known_signature(self.name)
        metas = signature.output_metas(pairs) if signature else None
        call = graph.ModelCall(self.name, tuple(pairs), metas)
        return ModelOutputs(self._session, call, signature, metas)


class ModelOutputs:
    """The outputs of one call. By name they cost nothing; counting or unpacking them needs the model's signature, which
    costs one `Models` call in a process that has had no reply yet."""

    def __init__(
        self,
        session: DeviceSession,
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
        """The output of that name. Raises KeyError for another name, if the signature is known."""
        found = self._arrays.get(name)
        if found is None:
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
