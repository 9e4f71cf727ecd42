# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""A load on a remotegpu server through its own protocol: calls of a model without a lease."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from remotegpu import errors, security
from remotegpu.cli.bench.inputs import Array, Tensor
from remotegpu.cli.bench.targets import Address
from remotegpu.client import Client


class OwnTarget:
    """A client, as programs use it."""

    def __init__(self, address: Address) -> None:
        self._client = Client(
            address.url,
            timeout=address.timeout,
            tenant=address.tenant,
            connect_timeout=address.patience,
            renewal=False,
            **security.from_env(os.environ, address.url),
        )
        self._name = address.model
        self._model = f"{address.model}:{address.version}" if address.version else address.model

    def tensors(self) -> list[Tensor]:
        """Raises ModelNotFound, or a TransportError."""
        models = self._client.models()
        for model in models:
            if model.name == self._name:
                return [Tensor(tensor.name, tensor.dtype, _shape(tensor.shape)) for tensor in model.inputs]
        raise errors.ModelNotFound(
            field="model", limit=", ".join(sorted({model.name for model in models})) or "none", given=self._name
        )

    def call(self, inputs: Mapping[str, Array]) -> Callable[[], object]:
        """Outputs arrive as NumPy arrays."""
        model, arrays = self._client.model(self._model), tuple(inputs.values())
        return lambda: model(*arrays)

    def server(self) -> dict[str, Any]:
        """Its devices."""
        return {"devices": [device.name for device in self._client.top().devices]}

    def close(self) -> None:
        """Calls under way fail."""
        self._client.close()


def _shape(sizes: tuple[int | str, ...] | None) -> tuple[int | None, ...] | None:
    return None if sizes is None else tuple(size if isinstance(size, int) else None for size in sizes)
