# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Where the server is, for whom this process acts, which lease it was handed: as given, or in the environment."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from remotegpu import errors

URL_VARIABLE = "REMOTEGPU_URL"
TENANT_VARIABLE = "REMOTEGPU_TENANT"
LEASE_VARIABLE = "REMOTEGPU_LEASE"
IDLE_GAP_VARIABLE = "REMOTEGPU_IDLE_GAP"
# AWS Lambda sets it in its functions' processes, which are frozen between calls.
LAMBDA_VARIABLE = "AWS_LAMBDA_FUNCTION_NAME"
DEFAULT_TENANT = "default"
# A connection that was not used for longer is replaced before it is used again: whatever lies between may have
# forgotten it, and nobody tells a process that was frozen meanwhile. Below what load balancers allow (AWS: 60 s for an
# application's, 350 s for a network's). Seconds.
DEFAULT_IDLE_GAP = 50.0
DEFAULT_PORT = 50051
_FORMS = "grpc://HOST:PORT, grpcs://HOST:PORT for one with TLS, or local: for a server of this process's own"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A parsed URL. `host` is empty for `local:`; `secure`: by TLS."""

    url: str
    host: str
    port: int
    secure: bool = False

    @property
    def local(self) -> bool:
        """Whether the client is to start a server of its own."""
        return not self.host

    @property
    def target(self) -> str:
        """As gRPC writes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_url(url: str, setting: str = "url") -> Endpoint:
    """Raises ConfigurationError that names the setting and the forms that are allowed."""
    if url == "local:":
        return Endpoint(url, "", 0)
    if "@" in url:  # not said: it may be a secret
        why = f"a URL holds no user and no password; a token goes into REMOTEGPU_TOKEN; write {_FORMS}"
        raise errors.ConfigurationError(setting=setting, why=why)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, DEFAULT_PORT if parts.port is None else parts.port
    except ValueError as error:
        raise errors.ConfigurationError(setting=setting, why=f"{url!r}: {error}; write {_FORMS}") from error
    if parts.scheme not in {"grpc", "grpcs"} or not host or not port or not _is_bare(parts):
        raise errors.ConfigurationError(setting=setting, why=f"{url!r} is not a server's address; write {_FORMS}")
    return Endpoint(url, host, port, parts.scheme == "grpcs")


def _is_bare(parts: SplitResult) -> bool:
    """Whether nothing follows the port."""
    return parts.path in {"", "/"} and not parts.query and not parts.fragment


def url_from(environment: Mapping[str, str]) -> str:
    """Raises ConfigurationError that names the variable if it is not set."""
    url = environment.get(URL_VARIABLE, "")
    if not url:
        raise errors.ConfigurationError(setting=URL_VARIABLE, why=f"this environment variable is not set: {_FORMS}")
    return url


def parse_tenant(tenant: str, setting: str = "tenant") -> str:
    """The name, if it is one. Raises ConfigurationError that names the setting and what is allowed."""
    if not isinstance(tenant, str) or not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", tenant):
        why = f"{tenant!r} is not a tenant's name: 1 to 64 of the characters A-Z a-z 0-9 . _ -"
        raise errors.ConfigurationError(setting=setting, why=why)
    return tenant


def tenant_from(environment: Mapping[str, str]) -> str:
    """Raises ConfigurationError that names the variable if it holds no tenant's name."""
    return parse_tenant(environment.get(TENANT_VARIABLE) or DEFAULT_TENANT, TENANT_VARIABLE)


def lease_from(environment: Mapping[str, str]) -> str:
    """Raises ConfigurationError that names the variable if it is not set."""
    lease = environment.get(LEASE_VARIABLE, "")
    if not lease:
        why = "this environment variable is not set; `remotegpu alloc --env` prints it"
        raise errors.ConfigurationError(setting=LEASE_VARIABLE, why=why)
    return lease


def idle_gap_from(environment: Mapping[str, str]) -> float:
    """After how many seconds without a call a connection is replaced: those in REMOTEGPU_IDLE_GAP, or 50. Raises
    ConfigurationError that names the variable if it holds no such number."""
    given = environment.get(IDLE_GAP_VARIABLE) or DEFAULT_IDLE_GAP
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        why = f"{given!r} is not a number of seconds, 0 or more"
        raise errors.ConfigurationError(setting=IDLE_GAP_VARIABLE, why=why)
    return seconds
