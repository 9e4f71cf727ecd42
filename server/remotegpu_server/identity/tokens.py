# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Static bearer tokens: for callers who have no IAM role, such as an operator's own machine.

Only their SHA-256 is in the file. That is as good as the token is random, so tokens are made by a machine:
`openssl rand -hex 32`; their hash by `printf %s "$TOKEN" | sha256sum`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from .provider import Identity


class StaticTokens:
    """Knows tokens by their SHA-256 in hexadecimal digits. Implements `provider.Checker`."""

    def __init__(self, tenants: Mapping[str, str]) -> None:
        self._tenants = tuple(tenants.items())

    async def check(self, token: str, now: float) -> Identity | None:
        """Takes the same time whichever it is."""
        digest, found = hashlib.sha256(token.encode()).hexdigest(), None
        for known, tenant in self._tenants:
            if hmac.compare_digest(digest, known):
                found = tenant
        return None if found is None else Identity(found)
