# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What arrays and model outputs ask their session for by themselves, such as for `float(x)`: each is a round trip."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from remotegpu import errors, graph
from remotegpu.model import ModelSignature

if TYPE_CHECKING:
    from remotegpu.client import Client


class Questions(ABC):
    """The part of `DeviceSession` that differs from its counterpart for an event loop."""

    @abstractmethod
    def run(self, wanted: Sequence[graph.Value | graph.ModelCall], *, fetch: bool) -> list[Any]:
        """Runs what is pending; brings it home or leaves it on the device."""

    @property
    @abstractmethod
    def client(self) -> Client:
        """Whose lease it is."""

    def fetch_values(self, wanted: Sequence[graph.Value | graph.ModelCall]) -> list[Any]:
        """Runs what is pending and brings values home: an array each, a dict of arrays for a model call."""
        return self.run(wanted, fetch=True)

    def resolve(self, values: Sequence[graph.Value]) -> None:
        """Computes values, keeps them on the device and learns their dtypes and shapes."""
        self.run(values, fetch=False)

    def known_signature(self, name: str) -> ModelSignature | None:
        """The model's signature if this process has it already. None says nothing about the server: it may have got
        the model since."""
        return self.client.catalog.models.get(name)

    def signature(self, name: str) -> ModelSignature:
        """The model's signature; asks the server if it is not known. Raises ModelNotFound if it has no such model."""
        found = self.known_signature(name)
        if found is None:
            self.client.models()
            found = self.known_signature(name)
        if found is None:
            names = ", ".join(self.client.catalog.models)
            raise errors.ModelNotFound(field="model", limit=names or "none", given=name)
        return found
