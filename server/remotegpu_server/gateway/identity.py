# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""For whom a call is made.

There is no verified identity yet: a caller says which tenant it acts for, and is believed. Quotas thus guard against
mistakes, not against malice; leases are guarded by their keys, which are secrets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from remotegpu import errors

DEFAULT_TENANT = "default"
TENANT_KEY = "remotegpu-tenant"
_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")


def number_of(peer: str) -> int:
    """A number that stands for a connection."""
    return hash(peer) & (1 << 63) - 1


def tenant_of(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The tenant that a call's metadata names, else the default one. Raises InvalidInput for an unusable name."""
    for key, value in metadata:
        if key == TENANT_KEY:
            name = value if isinstance(value, str) else value.decode("latin-1")
            if not _TENANT.fullmatch(name):
                limit = "1 to 64 letters, digits, dots, underscores and hyphens"
                raise errors.InvalidInput(field=TENANT_KEY, limit=limit, given=repr(name[:80]))
            return name
    return DEFAULT_TENANT
