# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Proves who calls, by the credentials that the file of `--identity` allows.

What was proved is remembered by the SHA-256 of the credential until it expires, so that a call of gRPC's own costs a
look into a table; the credential itself is not kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from remotegpu import errors
from remotegpu_server.gateway.identity import declared_tenant

from .asking import Asker
from .provider import Checker, Credential, Identity, Metadata, credential_of

_REMEMBERED = 4096


class Verified:
    """Tells who calls, and refuses who cannot prove it. Implements `provider.IdentityProvider`."""

    def __init__(
        self, checkers: Mapping[str, Sequence[Checker]], asker: Asker, clock: Callable[[], float] = time.time
    ) -> None:
        """`checkers` by scheme, asked in this order; `asker` is theirs, and is closed with this object."""
        self._checkers = checkers
        self._asker = asker
        self._clock = clock
        # The longest unused first.
        self._proved: OrderedDict[bytes, Identity] = OrderedDict()
        # The same credential in many calls at once is checked once.
        self._under_way: dict[bytes, asyncio.Task[Identity]] = {}

    async def identify(self, metadata: Metadata) -> Identity:
        """Implements `IdentityProvider.identify`."""
        pairs = tuple(metadata)
        credential = credential_of(pairs)
        identity = await self._identity(credential)
        declared = declared_tenant(pairs)
        if declared is not None and declared != identity.tenant:
            why = f"it proves tenant {identity.tenant!r}, and the call says that it acts for {declared!r}"
            raise errors.AuthError(why=why)
        return identity

    async def close(self) -> None:
        """Implements `IdentityProvider.close`."""
        await self._asker.close()

    async def _identity(self, credential: Credential) -> Identity:
        digest = hashlib.sha256(f"{credential.scheme} {credential.token}".encode()).digest()
        known = self._proved.get(digest)
        if known is not None:
            if self._clock() < known.expires:
                self._proved.move_to_end(digest)
                return known
            del self._proved[digest]
        task = self._under_way.get(digest)
        if task is None:
            task = self._under_way[digest] = asyncio.create_task(self._check(credential))
            task.add_done_callback(lambda done: self._checked(digest, done))
        # It goes on if this caller leaves: others may wait for it.
        return await asyncio.shield(task)

    async def _check(self, credential: Credential) -> Identity:
        now = self._clock()
        for checker in self._checkers.get(credential.scheme, ()):
            identity = await checker.check(credential.token, now)
            if identity is not None:
                return identity
        if credential.scheme not in self._checkers:
            raise errors.AuthError(why="this server does not take credentials of its kind")
        raise errors.AuthError(why="this server does not know it")

    def _checked(self, digest: bytes, done: asyncio.Task[Identity]) -> None:
        del self._under_way[digest]
        if done.cancelled() or done.exception() is not None:
            return  # those who wait are told
        self._proved[digest] = done.result()
        if len(self._proved) > _REMEMBERED:
            self._proved.popitem(last=False)
