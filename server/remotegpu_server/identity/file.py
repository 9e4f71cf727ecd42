# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The file of `--identity`: whose word is taken, and who is let in.

    audience = "gpu.example"        # this server's name, for which callers' credentials must be made
    issuers = ["https://0a1b2c3d.tokens.sts.global.api.aws"]  # web identity tokens: one issuer per AWS account
    sts_regions = ["eu-west-1"]     # presigned GetCallerIdentity requests, to STS in these regions

    [roles]                         # who is let in by either, and for which tenant
    "arn:aws:iam::123456789012:role/vision" = "vision"

    [tokens]                        # static tokens, by their SHA-256
    "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae" = "operations"

What each tenant may use is in the file of `--tenants`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remotegpu import errors
from remotegpu_server.gateway.identity import is_tenant

from . import roles
from .caller_identity import REGION

_FIELDS = ("audience", "issuers", "sts_regions", "roles", "tokens")
_ISSUER = re.compile(r"https://[A-Za-z0-9.-]+(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~/-]*[A-Za-z0-9._~-])?")
# It travels as a header.
_AUDIENCE = re.compile(r"[!-~]{1,256}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class IdentityFile:
    """What the file says. `roles`: tenants by the ARN of a role without its path; `tokens`: tenants by SHA-256."""

    audience: str
    issuers: tuple[str, ...]
    regions: tuple[str, ...]
    roles: Mapping[str, str]
    tokens: Mapping[str, str]


def read(path: Path) -> IdentityFile:
    """Raises ConfigurationError that names file and field."""
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise errors.ConfigurationError(setting="--identity", why=f"{path}: {error}") from error
    unknown = set(content) - set(_FIELDS)
    if unknown:
        raise _wrong(path, f"{', '.join(sorted(unknown))} is not known; known are {', '.join(_FIELDS)}")
    found = IdentityFile(
        _text(path, content.get("audience", "")),
        _list(path, content, "issuers", _ISSUER, "https://... without a slash at the end"),
        _list(path, content, "sts_regions", REGION, "a region such as eu-west-1"),
        _roles(path, _tenants(path, content, "roles")),
        _tokens(path, _tenants(path, content, "tokens")),
    )
    by_role = bool(found.issuers or found.regions)
    if by_role and not found.audience:
        raise _wrong(path, "issuers and sts_regions need an audience: the name for which credentials are made")
    if by_role != bool(found.roles):
        raise _wrong(path, "[roles] and at least one of issuers and sts_regions are of use only together")
    if not found.roles and not found.tokens:
        raise _wrong(path, "it lets nobody in: name roles in [roles], or tokens in [tokens]")
    return found


def _wrong(path: Path, why: str) -> errors.ConfigurationError:
    return errors.ConfigurationError(setting="--identity", why=f"{path}: {why}")


def _text(path: Path, value: object) -> str:
    if not isinstance(value, str) or (value and not _AUDIENCE.fullmatch(value)):
        raise _wrong(path, "audience is 1 to 256 printable ASCII characters without spaces")
    return value


def _list(path: Path, content: Mapping[str, Any], name: str, form: re.Pattern[str], what: str) -> tuple[str, ...]:
    values = content.get(name, [])
    for value in values if isinstance(values, list) else [values]:
        if not isinstance(values, list) or not isinstance(value, str) or not form.fullmatch(value):
            raise _wrong(path, f"{name} is a list of which each is {what}, not {value!r}")
    return tuple(values)


def _tenants(path: Path, content: Mapping[str, Any], name: str) -> dict[str, str]:
    table = content.get(name, {})
    if not isinstance(table, dict):
        raise _wrong(path, f"{name} is a table: [{name}]")
    for tenant in table.values():
        if not isinstance(tenant, str) or not is_tenant(tenant):
            given = repr(tenant) if name == "roles" else "a value"  # of the others somebody may have written the token
            raise _wrong(path, f"[{name}]: {given} is not a tenant's name: 1 to 64 of A-Z a-z 0-9 . _ -")
    return table


def _roles(path: Path, table: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for arn, tenant in table.items():
        role = roles.canonical(arn)
        if role is None:
            raise _wrong(path, f"[roles]: {arn!r} is not the ARN of a role: arn:aws:iam::123456789012:role/NAME")
        if found.setdefault(role, tenant) != tenant:
            raise _wrong(path, f"[roles]: {role} stands there for two tenants (paths do not count)")
    return found


def _tokens(path: Path, table: Mapping[str, str]) -> dict[str, str]:
    for number, digest in enumerate(table):
        if not _DIGEST.fullmatch(digest):  # not said: somebody may have written the token itself
            why = f"[tokens]: name {number + 1} is not a SHA-256 in 64 lower-case hexadecimal digits"
            raise _wrong(path, f'{why}: printf %s "$TOKEN" | sha256sum')
    return dict(table)
