# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the protocol says of the models that are served. Pure.

No model has a batch dimension of its own here (`max_batch_size` is 0 everywhere): shapes are whole, with -1 where any
size will do. Calls are put together on the worker all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from remotegpu.v1 import compute_pb2 as pb

from .refusals import Refused, invalid, not_found, unknown_model
from .tensors import datatype_of

DEFAULT_PLATFORM = "onnxruntime_onnx"


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or an output. `shape`: -1 for any size. `unknown_rank`: any shape will do; the protocol has no words for
    that, so `shape` is empty then."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    unknown_rank: bool = False


@dataclass(frozen=True, slots=True)
class Served:
    """One version of a model. Inputs and outputs in the model's order."""

    name: str
    version: str
    platform: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    aliases: tuple[str, ...] = ()
    is_default: bool = False


class Models:
    """The models of a catalog, by name and version: what was loaded once and may be called."""

    def __init__(self, catalog: pb.Catalog) -> None:
        self.digest = catalog.digest
        self._by_name: dict[str, list[Served]] = {}
        for signature in catalog.models:
            self._by_name.setdefault(signature.name, []).append(_served(signature))
        for versions in self._by_name.values():
            versions.sort(key=lambda served: (len(served.version), served.version))

    def __iter__(self) -> Iterator[Served]:
        for versions in self._by_name.values():
            yield from versions

    def versions(self, name: str) -> list[Served]:
        """All that are served, the lowest first; empty for an unknown name."""
        return self._by_name.get(name, [])

    def find(self, name: str, version: str = "") -> Served:
        """`version` is a number, an alias, or empty for the one that the bare name stands for. Raises Refused."""
        versions = self._by_name.get(name, [])
        for served in versions:
            if (served.version == version or version in served.aliases) if version else served.is_default:
                return served
        self.check_version(version)
        if version and versions:
            raise not_available(name, version)
        raise unknown_model(name)

    @staticmethod
    def check_version(version: str) -> None:
        """Whether a version that no alias stands for is a number. Raises Refused."""
        if version and not version.isdecimal():
            raise invalid(
                f"failed to get model version from specified version string '{version}' (details: stol), version "
                "should be an integral value > 0"
            )


def not_available(name: str, version: str) -> Refused:
    """A model that is known, but not that version of it, or ("") none that may be called."""
    what = f"version {version} is not found" if version else "has no available versions"
    return not_found(f"Request for unknown model: '{name}' {what}")


def _served(signature: pb.ModelSignature) -> Served:
    return Served(
        name=signature.name,
        version=signature.version,
        platform=signature.platform or DEFAULT_PLATFORM,
        inputs=tuple(map(_tensor, signature.inputs)),
        outputs=tuple(map(_tensor, signature.outputs)),
        aliases=tuple(signature.aliases),
        is_default=signature.is_default,
    )


def _tensor(signature: pb.TensorSignature) -> Tensor:
    shape = tuple(size.fixed if size.WhichOneof("value") == "fixed" else -1 for size in signature.shape)
    return Tensor(signature.name, datatype_of(signature.dtype), shape, signature.unknown_rank)
