# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Refusals of the standard door: a gRPC code and a text.

Clients of this protocol get no more than these two, and some match the text, so where Triton has words for a case, they
are used.
"""

from __future__ import annotations

from remotegpu import errors


class Refused(Exception):
    """A request that is not answered. `code` is the name of a gRPC status; `message` is for people and their regular
    expressions."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def invalid(message: str) -> Refused:
    """The caller's mistake."""
    return Refused("INVALID_ARGUMENT", message)


def not_found(message: str) -> Refused:
    """Something that this server does not have."""
    return Refused("NOT_FOUND", message)


def labelled(request_id: str) -> str:
    """How messages about one request begin."""
    return f"[request id: {request_id or '<id_unknown>'}] "


def unknown_model(name: str) -> Refused:
    """No model of that name."""
    return not_found(f"Request for unknown model: '{name}' is not found")


def refused(error: errors.Error, request_id: str = "") -> Refused:
    """An error of this server in the words of the protocol, where it has some."""
    if isinstance(error, errors.ModelNotFound):
        return unknown_model(error.given)
    if isinstance(error, errors.QueueTimeout) or (isinstance(error, errors.Busy) and error.waited):
        return Refused("UNAVAILABLE", "Request timeout expired")
    if isinstance(error, errors.QueueFull | errors.Busy) and not isinstance(error, errors.QuotaExceeded):
        return Refused("UNAVAILABLE", f"{labelled(request_id)}Exceeds maximum queue size")
    if isinstance(error, errors.Busy):
        return Refused("UNAVAILABLE", labelled(request_id) + str(error))
    return Refused(error.status, str(error))
