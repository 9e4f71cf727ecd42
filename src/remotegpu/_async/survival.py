# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""How a client for an event loop lives through snapshots. A forked child has no event loop of its parent's: there
`AsyncConnection` says so. And nothing can be awaited before either, so connections stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remotegpu.generation import registry

if TYPE_CHECKING:
    from .client import AsyncClient


def watch(client: AsyncClient) -> None:
    """Has the client start anew in each generation."""
    registry.watch(client, type(client)._begin_again)
