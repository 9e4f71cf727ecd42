# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The interface between calls and who makes them. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from remotegpu import errors

AUTHORIZATION = "authorization"
# Of the value of the header; tokens of AWS have some 1 to 3 KiB. Characters.
CREDENTIAL_LIMIT = 8 * 1024

Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls. `expires`: until when that is proved, in seconds since the epoch."""

    tenant: str
    expires: float = math.inf


class IdentityProvider(Protocol):
    """Tells who makes a call."""

    async def identify(self, metadata: Metadata) -> Identity:
        """From a call's metadata, or a request's headers in lower case.

        Raises AuthError if it proves nobody, InvalidInput for an unusable tenant, Unavailable if whoever must be asked
        does not answer."""

    async def close(self) -> None:
        """Ends connections."""


class Checker(Protocol):
    """Knows one kind of credential."""

    async def check(self, token: str, now: float) -> Identity | None:
        """Whose token it is; None if it is of another kind. `now` in seconds since the epoch. Raises AuthError,
        Unavailable."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What a call brings. `scheme` in lower case."""

    scheme: str
    token: str = field(repr=False)


def credential_of(metadata: Metadata) -> Credential:
    """The one credential of a call. Raises AuthError."""
    values = [value for key, value in metadata if key == AUTHORIZATION]
    if not values:
        raise errors.AuthError(why="it brings none, and this server takes no call without; see REMOTEGPU_IDENTITY")
    if len(values) > 1:
        raise errors.AuthError(why="it brings more than one")
    text = values[0] if isinstance(values[0], str) else values[0].decode("latin-1")
    if len(text) > CREDENTIAL_LIMIT:
        raise errors.AuthError(why=f"it is longer than {CREDENTIAL_LIMIT} characters")
    scheme, _, token = text.partition(" ")
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise errors.AuthError(why="it does not have the form SCHEME TOKEN")
    return Credential(scheme.lower(), token)
