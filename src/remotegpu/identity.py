# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Who this process is, for servers that ask: the interface, and which credential the environment asks for.

REMOTEGPU_TOKEN       a static token
REMOTEGPU_IDENTITY    aws-jwt or aws-sts: the role of this process, by a web identity token or a presigned request
REMOTEGPU_AUDIENCE    the server's name, for which these are made (default: the host of its URL)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from remotegpu import errors

TOKEN_VARIABLE = "REMOTEGPU_TOKEN"
IDENTITY_VARIABLE = "REMOTEGPU_IDENTITY"
AUDIENCE_VARIABLE = "REMOTEGPU_AUDIENCE"
KINDS = ("aws-jwt", "aws-sts")
# Of a call's metadata.
AUTHORIZATION = "authorization"
_PRINTABLE = re.compile(r"[!-~]+")

Pairs = tuple[tuple[str, str], ...]


class IdentityProvider(Protocol):
    """Makes the credential of a client. Safe to use from many threads."""

    def metadata(self) -> Pairs:
        """Metadata for a stream or a call that begins now. May take a round trip to whoever vouches, so it is kept
        until shortly before it expires. Raises AuthError if there is none to be had."""


class StaticToken:
    """A token that does not expire. Implements `IdentityProvider`."""

    def __init__(self, token: str, setting: str = "token") -> None:
        """Raises ConfigurationError for one that cannot travel in a header."""
        if not _PRINTABLE.fullmatch(token):
            raise errors.ConfigurationError(setting=setting, why="a token is printable ASCII characters without spaces")
        self._pairs: Pairs = ((AUTHORIZATION, f"Bearer {token}"),)

    def metadata(self) -> Pairs:
        """Always the same."""
        return self._pairs


def from_env(environment: Mapping[str, str], host: str) -> IdentityProvider | None:
    """What the environment asks for, to be shown to the server of that host. Raises ConfigurationError."""
    kind = environment.get(IDENTITY_VARIABLE, "")
    if not kind:
        token = environment.get(TOKEN_VARIABLE, "")
        return StaticToken(token, TOKEN_VARIABLE) if token else None
    if kind not in KINDS:
        raise errors.ConfigurationError(setting=IDENTITY_VARIABLE, why=f"{kind!r} is none of {', '.join(KINDS)}")
    from remotegpu.aws import identity as aws  # only here: others need no signatures

    audience = environment.get(AUDIENCE_VARIABLE) or host
    if not _PRINTABLE.fullmatch(audience):
        raise errors.ConfigurationError(setting=AUDIENCE_VARIABLE, why="printable ASCII characters without spaces")
    made = aws.WebIdentity if kind == "aws-jwt" else aws.CallerIdentity
    return made(audience, environment)
