# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What arrays and model outputs ask their session for by themselves, such as for `float(x)`. Each would be a round trip
in a place where nothing can be awaited, so each is refused with what to write instead."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from remotegpu import errors, graph
from remotegpu.model import ModelSignature

if TYPE_CHECKING:
    from remotegpu._async.client import AsyncClient


class AsyncQuestions(ABC):
    """The part of `AsyncDeviceSession` that differs from its counterpart for threads."""

    @abstractmethod
    async def run(self, wanted: Sequence[graph.Value | graph.ModelCall], *, fetch: bool) -> list[Any]:
        """Runs what is pending; brings it home or leaves it on the device."""

    @property
    @abstractmethod
    def client(self) -> AsyncClient:
        """Whose lease it is."""

    def fetch_values(self, wanted: Sequence[graph.Value | graph.ModelCall]) -> list[Any]:
        """Raises WouldBlock."""
        raise errors.WouldBlock(what="the data of an array", instead="await lease.fetch(array)")

    def resolve(self, values: Sequence[graph.Value]) -> None:
        """Raises WouldBlock."""
        what = "a dtype or shape that is not known before the array is computed"
        raise errors.WouldBlock(what=what, instead="await lease.fetch(array)")

    def known_signature(self, name: str) -> ModelSignature | None:
        """The model's signature if this process has it already. None says nothing about the server: it may have got
        the model since."""
        return self.client.catalog.models.get(name)

    def signature(self, name: str) -> ModelSignature:
        """The model's signature. Raises WouldBlock if it is not known."""
        found = self.known_signature(name)
        if found is None:
            raise errors.WouldBlock(what=f"what outputs model {name!r} has", instead="await client.models()")
        return found
