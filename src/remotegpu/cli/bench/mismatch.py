# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""A server that speaks another protocol than it was asked in: what answered, and what to write instead. Pure."""

from __future__ import annotations

from http.client import BadStatusLine, RemoteDisconnected, UnknownProtocol

from remotegpu import errors
from remotegpu.cli.bench.targets import Address

# What gRPC says beside "failed to connect" when the first bytes of the other side are no HTTP/2, but an older HTTP.
_OLD_HTTP = "http1.x server"
_OIP = "the Open Inference Protocol"


def explained(error: errors.Error, address: Address) -> str:
    """A sentence if the first call failed because the server at this address speaks another protocol; "" otherwise."""
    target = address.url.partition("://")[2].rstrip("/")
    if address.url.startswith("http:"):
        return _over_http(error, target)
    if isinstance(error, errors.ConnectError) and _OLD_HTTP in error.why:
        return (
            f"an HTTP server answers at {target}, not one of gRPC: write http://{target} for {_OIP} over HTTP, or "
            "grpc:// with the port on which it serves gRPC"
        )
    if address.protocol == "oip":
        if isinstance(error, errors.UnknownRemoteError) and error.kind == "UNIMPLEMENTED":
            return (
                f"a gRPC server answers at {target}, but it does not know {_OIP} there ({error.why}): write the port "
                "on which it does (of remotegpu-server: that of --inference), or for remotegpu's own port leave out "
                "--protocol oip"
            )
    elif isinstance(error, errors.ProtocolError) and "does not know this call" in error.what:
        return (
            f"a gRPC server answers at {target}, but it is not remotegpu-server's own port: write that one, or add "
            f"--protocol oip for {_OIP}"
        )
    return ""


def _over_http(error: errors.Error, target: str) -> str:
    cause = error.__cause__
    # A connection that is closed without a word has the class of a bad answer too.
    if isinstance(cause, BadStatusLine | UnknownProtocol) and not isinstance(cause, RemoteDisconnected):
        return (
            f"a server answers at {target}, but not in HTTP/1.1: if it is one of gRPC, write grpc://{target}, and "
            f"--protocol oip for {_OIP}"
        )
    # Servers of the protocol say in JSON which model they do not have.
    is_page = isinstance(error, errors.UnknownRemoteError) and error.kind == "HTTP 404" and error.why[:1] != "{"
    if is_page or (isinstance(error, errors.ProtocolError) and "not JSON" in error.what):
        return (
            f"an HTTP server answers at {target}, but it does not know {_OIP}: write the port on which it does (of "
            "remotegpu-server: that of --rest)"
        )
    return ""
