# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Puts together what the file of `--identity` asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from remotegpu import errors

from .asking import Asker
from .caller_identity import CallerIdentity
from .file import read
from .provider import Checker
from .tokens import StaticTokens
from .verified import Verified

# Schemes of the header, in lower case.
BEARER, PRESIGNED = "bearer", "remotegpusts"
# AWS's own name for the URL that takes the place of STS, such as a VPC endpoint's.
STS_VARIABLE = "AWS_ENDPOINT_URL_STS"


def verified(path: Path, environment: Mapping[str, str]) -> Verified:
    """Raises ConfigurationError for an unusable file, or an endpoint of STS without encryption."""
    file, asker, bearer = read(path), Asker(), list[Checker]()
    checkers: dict[str, Sequence[Checker]] = {}
    if file.tokens:
        bearer.append(StaticTokens(file.tokens))
    if file.issuers:
        from .jwt import WebIdentity  # only here: a server without issuers need not load PyJWT

        bearer.append(WebIdentity(file.issuers, file.audience, file.roles, asker))
    if bearer:
        checkers[BEARER] = bearer
    if file.regions:
        endpoint = environment.get(STS_VARIABLE, "")
        if endpoint and not endpoint.startswith("https://"):
            raise errors.ConfigurationError(setting=STS_VARIABLE, why="it must begin with https://")
        checkers[PRESIGNED] = [CallerIdentity(file.regions, file.audience, file.roles, asker, endpoint)]
    return Verified(checkers, asker)
