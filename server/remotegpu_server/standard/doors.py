# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The listeners of the standard door: which there are, and what they have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from .entrance import Entrance
from .listener import Listener

Address = tuple[str, int]


class Door(Protocol):
    """A listener."""

    async def start(self, address: str) -> int:
        """Opens HOST:PORT, and returns the port. Raises ConfigurationError if it cannot be had."""

    async def stop(self, grace: float) -> None:
        """Takes no more requests, and ends when those under way are answered, after `grace` seconds at most."""


def _rest(entrance: Entrance) -> Door:
    from .rest import Rest  # only here: a server without this door need not load aiohttp

    return Rest(entrance)


# By the name under which the port is announced.
DOORS: Mapping[str, Callable[[Entrance], Door]] = {"inference": Listener, "rest": _rest}


class Doors:
    """The listeners that the settings ask for; all serve the same models and count into the same statistics."""

    def __init__(self, entrance: Entrance) -> None:
        self._entrance = entrance
        self._open: list[Door] = []
        # What is announced, such as "inference on 127.0.0.1:8001", with a comma and a space before each.
        self.announced = ""

    async def open(self, addresses: Mapping[str, Address | None]) -> None:
        """Opens those that have an address. Raises ConfigurationError."""
        for name, address in addresses.items():
            if address is not None:
                host, port = address
                door = DOORS[name](self._entrance)
                port = await door.start(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
                self._open.append(door)
                self.announced += f", {name} on {host}:{port}"

    async def close(self, grace: float) -> None:
        """Stops all of them at the same time."""
        await asyncio.gather(*(door.stop(grace) for door in self._open))
