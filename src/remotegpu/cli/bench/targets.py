# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What a load can be put on: a connection for one slot, whatever it speaks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from remotegpu import config, errors

if TYPE_CHECKING:
    from remotegpu.cli.bench.inputs import Array, Tensor

Protocols = Literal["remotegpu", "oip"]
PROTOCOLS: tuple[Protocols, ...] = ("remotegpu", "oip")


@dataclass(frozen=True, slots=True)
class Address:
    """Where the model is and how it is spoken to. `timeout` and `patience` (for connecting) in seconds."""

    url: str
    protocol: Protocols
    model: str
    version: str
    tenant: str
    timeout: float
    patience: float


class Target(Protocol):
    """One connection. Its methods raise any error of the tree."""

    def tensors(self) -> list[Tensor]:
        """The inputs that the model takes, in its order. One round trip."""

    def call(self, inputs: Mapping[str, Array]) -> Callable[[], object]:
        """What calls the model with these inputs and waits for its outputs; all that can be is prepared before."""

    def server(self) -> dict[str, Any]:
        """What the server says of itself, as JSON has it. One round trip."""

    def close(self) -> None:
        """Ends the connection and a call under way."""


def connect(address: Address) -> Target:
    """A connection of its own; nothing is sent yet. Raises ConfigurationError for a URL that is of no use here."""
    scheme = address.url.partition(":")[0]
    if address.protocol == "oip" and scheme == "http":
        from remotegpu.cli.bench.oip_rest import RestTarget

        return RestTarget(address)
    if address.protocol == "oip" and scheme != "grpc":
        why = f"{address.url!r}: write grpc://HOST:PORT or http://HOST:PORT for a server of the Open Inference Protocol"
        raise errors.ConfigurationError(setting="--url", why=why)
    endpoint = config.parse_url(address.url, "--url")
    if address.protocol == "oip":
        from remotegpu.cli.bench.oip_grpc import GrpcTarget

        return GrpcTarget(address, endpoint.target)
    from remotegpu.cli.bench.own_door import OwnTarget

    return OwnTarget(address)
