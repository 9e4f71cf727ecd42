# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""How a connection is protected: TLS, and the credential that travels in it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from remotegpu import errors, identity
from remotegpu.config import Endpoint, parse_url
from remotegpu.identity import IdentityProvider, Pairs, StaticToken

CA_VARIABLE = "REMOTEGPU_CA"


class SecurityFields(TypedDict):
    """Those of `Client`."""

    ca: str | None
    identity: IdentityProvider | None


@dataclass(frozen=True, slots=True)
class Security:
    """`encrypted`: by TLS. `roots`: PEM certificates of the authorities that are trusted; None: those of the world."""

    encrypted: bool = False
    roots: bytes | None = None
    identity: IdentityProvider | None = None

    @classmethod
    def of(cls, endpoint: Endpoint, ca: str | Path | None, identity: IdentityProvider | None) -> Security:
        """For a server. Raises ConfigurationError for a file that cannot be read, and for an identity that would travel
        in clear."""
        if endpoint.local:
            return cls()
        if not endpoint.secure:
            if ca is not None:
                raise errors.ConfigurationError(setting="ca", why=f"{endpoint.url!r} is not encrypted: write grpcs://")
            # On the same machine a token is seen by nobody else; a credential that is made anew needs gRPC's own way,
            # which is closed without TLS.
            if identity is not None and not (isinstance(identity, StaticToken) and _is_loopback(endpoint.host)):
                why = f"a credential must not travel in clear, as to {endpoint.url!r}: write grpcs://"
                raise errors.ConfigurationError(setting="identity", why=why)
            return cls(identity=identity)
        return cls(True, None if ca is None else _read(Path(ca)), identity)

    @property
    def pairs(self) -> Pairs:
        """Metadata for each call, where gRPC does not ask for it itself."""
        if self.identity is None or (self.encrypted and not isinstance(self.identity, StaticToken)):
            return ()
        return self.identity.metadata()


def from_env(environment: Mapping[str, str], url: str) -> SecurityFields:
    """What the environment says, for the server of that URL. Raises ConfigurationError."""
    endpoint = parse_url(url)
    ca = environment.get(CA_VARIABLE) or None
    return {
        "ca": ca if endpoint.secure else None,
        "identity": None if endpoint.local else identity.from_env(environment, endpoint.host),
    }


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise errors.ConfigurationError(setting="ca", why=f"{path}: {error.strerror}") from error
    if b"-----BEGIN CERTIFICATE-----" not in data:
        raise errors.ConfigurationError(setting="ca", why=f"{path} holds no certificate in PEM")
    return data


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
