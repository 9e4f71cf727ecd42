# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Credentials made of the IAM role of this process, with nothing stored. Each implements
`remotegpu.identity.IdentityProvider`."""

from __future__ import annotations

import base64
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from remotegpu import errors
from remotegpu.generation import registry

from .credentials import keys_of, region_of
from .sts import caller_identity_url, web_identity_token

_AUTHORIZATION = "authorization"
# Of a web identity token; how long before its end it is made anew. Seconds.
_LIFE = 300
_MARGIN = 60.0

Pairs = tuple[tuple[str, str], ...]


class _Kept(ABC):
    """Keeps what was made until shortly before it expires: for `kept` seconds."""

    kept: ClassVar[float]

    def __init__(self, audience: str, environment: Mapping[str, str]) -> None:
        """`audience`: the server's name, for which alone it is made. `environment` is read whenever one is made."""
        self._audience = audience
        self._environment = environment
        self._begin(False)
        registry.watch(self, type(self)._begin)

    def _begin(self, forked: bool) -> None:
        """Nothing is made yet. A SnapStart restore has other keys, and a forked child may have been left a lock."""
        # Held while one is made: others wait for it.
        self._lock = threading.Lock()
        self._pairs: Pairs = ()
        self._until = 0.0
        # Why the last try failed, and when, on the monotonic clock.
        self._failure: tuple[str, float] | None = None

    def metadata(self) -> Pairs:
        """Implements `IdentityProvider.metadata`. By the wall clock, which goes on while a process is frozen."""
        came = time.monotonic()
        with self._lock:
            now = time.time()
            if not self._pairs or not self._until - self.kept <= now < self._until:
                self._pairs, self._until = ((_AUTHORIZATION, self._tried(now, came)),), now + self.kept
            return self._pairs

    def _tried(self, now: float, came: float) -> str:
        """Who came while a try was under way has its failure too: each would wait for another one, after all others."""
        if self._failure is not None and came <= self._failure[1]:
            raise errors.AuthError(why=self._failure[0])
        try:
            return self._made(now)
        except errors.AuthError as error:
            self._failure = error.why, time.monotonic()
            raise

    @abstractmethod
    def _made(self, now: float) -> str: ...


class WebIdentity(_Kept):
    """A JWT that STS has signed for the role of this process; a round trip to STS every four minutes."""

    kept = _LIFE - _MARGIN

    def _made(self, now: float) -> str:
        keys, region = keys_of(self._environment), region_of(self._environment)
        return f"Bearer {web_identity_token(keys, region, self._audience, _LIFE, self._environment)}"


class CallerIdentity(_Kept):
    """A request to STS that this process signs and the server sends: for accounts without outbound identity
    federation."""

    # Servers take it for 120 seconds.
    kept = 60.0

    def _made(self, now: float) -> str:
        keys, region = keys_of(self._environment), region_of(self._environment)
        url = caller_identity_url(keys, region, self._audience, now)
        return f"RemotegpuSts {base64.urlsafe_b64encode(url.encode()).decode().rstrip('=')}"
