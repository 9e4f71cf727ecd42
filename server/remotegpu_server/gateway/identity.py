# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""For whom a call is made, as it says itself.

Without `--identity` that is believed: quotas then guard against mistakes, not against malice; leases are guarded by
their keys, which are secrets. With it, a call must prove it (`remotegpu_server.identity`), and may only say the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from remotegpu import errors
from remotegpu_server.identity.provider import Identity

DEFAULT_TENANT = "default"
TENANT_KEY = "remotegpu-tenant"
_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")


def number_of(peer: str) -> int:
    """A number that stands for a connection."""
    return hash(peer) & (1 << 63) - 1


def is_tenant(name: str) -> bool:
    """Whether a tenant may have that name."""
    return _TENANT.fullmatch(name) is not None


def declared_tenant(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    """The tenant that a call's metadata names, if it does. Raises InvalidInput for an unusable name."""
    for key, value in metadata:
        if key == TENANT_KEY:
            name = value if isinstance(value, str) else value.decode("latin-1")
            if not is_tenant(name):
                limit = "1 to 64 letters, digits, dots, underscores and hyphens"
                raise errors.InvalidInput(field=TENANT_KEY, limit=limit, given=repr(name[:80]))
            return name
    return None


class Declared:
    """Believes what callers say. Implements `remotegpu_server.identity.provider.IdentityProvider`."""

    async def identify(self, metadata: Iterable[tuple[str, str | bytes]]) -> Identity:
        """The tenant that the metadata names, else the default one. Raises InvalidInput for an unusable name."""
        return Identity(declared_tenant(metadata) or DEFAULT_TENANT)

    async def close(self) -> None:
        """There is nothing to end."""
