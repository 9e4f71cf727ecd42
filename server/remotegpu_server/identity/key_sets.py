# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""When an issuer's keys are asked for, and how long they hold. Pure.

A key that is not known is asked for at once, since issuers change theirs; but not more often than every `PAUSE`
seconds, since whoever invents key ids would otherwise have this server ask without end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Generic, TypeVar

K = TypeVar("K")

# Between two tries; from when keys are asked for again; until when they hold if nobody answers. Seconds.
PAUSE = 10.0
FRESH = 3600.0
HOLD = 24 * 3600.0

# Id of a key, and its algorithm.
KeyName = tuple[str, str]


class KeySet(Generic[K]):
    """The keys of one issuer. Times are seconds since the epoch."""

    def __init__(self) -> None:
        self._keys: Mapping[KeyName, K] = {}
        self._received = -math.inf
        self._tried = -math.inf

    def holds(self, now: float) -> bool:
        """Whether there is any key."""
        return bool(self._keys) and now - self._received < HOLD

    def due(self, name: KeyName, now: float) -> bool:
        """Whether the issuer is to be asked before that key is looked up."""
        wanted = name not in self._keys or now - self._received >= FRESH
        return wanted and abs(now - self._tried) >= PAUSE

    def asked(self, now: float) -> None:
        """The issuer is being asked."""
        self._tried = now

    def replace(self, keys: Mapping[KeyName, K], now: float) -> None:
        """It has answered: other keys do not hold any more."""
        self._keys, self._received = keys, now

    def find(self, name: KeyName, now: float) -> K | None:
        """The key, if there is one that holds."""
        return self._keys.get(name) if now - self._received < HOLD else None
