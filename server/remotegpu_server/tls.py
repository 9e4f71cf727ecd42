# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""TLS of the listeners: one certificate for all."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio

from remotegpu import errors


@dataclass(frozen=True, slots=True)
class Tls:
    """A certificate with its chain, and its key, both PEM; `context` is for listeners that are not gRPC's."""

    certificate: bytes
    key: bytes = field(repr=False)
    context: ssl.SSLContext

    @classmethod
    def of(cls, certificate: Path | None, key: Path | None) -> Tls | None:
        """From files; None without any. Raises ConfigurationError that names the option."""
        if certificate is None and key is None:
            return None
        if certificate is None or key is None:
            missing = "--tls-cert" if certificate is None else "--tls-key"
            raise errors.ConfigurationError(setting=missing, why="--tls-cert and --tls-key are of use only together")
        data = _read(certificate, "--tls-cert"), _read(key, "--tls-key")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            # Without a password: the library would ask the terminal for one.
            context.load_cert_chain(certificate, key, password="")
        except (ssl.SSLError, ValueError) as error:
            why = f"{certificate} and {key} are not a certificate and its key in PEM, the key without a password"
            raise errors.ConfigurationError(setting="--tls-cert", why=why) from error
        return cls(*data, context)


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise errors.ConfigurationError(setting=setting, why=f"{path}: {error.strerror}") from error


def add_port(server: grpc.aio.Server, address: str, tls: Tls | None, setting: str) -> int:
    """Opens HOST:PORT for a server, and returns the port. Raises ConfigurationError if it cannot be had."""
    try:
        if tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, grpc.ssl_server_credentials([(tls.key, tls.certificate)]))
    except RuntimeError as error:
        raise errors.ConfigurationError(
            setting=setting, why=f"{address} cannot be had; is another server there?"
        ) from error
