# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Paths of the Open Inference Protocol over HTTP. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

_GET, _POST = frozenset({"GET"}), frozenset({"POST"})
# By the path after v2/: what is asked, and the methods that may ask.
_FIXED: Mapping[tuple[str, ...], tuple[str, frozenset[str]]] = {
    (): ("server", _GET),
    ("health", "live"): ("live", _GET),
    ("health", "ready"): ("ready", _GET),
    ("models", "stats"): ("all_stats", _GET),
    ("repository", "index"): ("index", _GET | _POST),
}
# By what follows the model.
_OF_MODELS: Mapping[tuple[str, ...], tuple[str, frozenset[str]]] = {
    (): ("metadata", _GET),
    ("ready",): ("model_ready", _GET),
    ("config",): ("config", _GET),
    ("stats",): ("stats", _GET),
    ("infer",): ("infer", _POST),
}
_OF_REPOSITORY: Mapping[str, tuple[str, frozenset[str]]] = {"load": ("load", _POST), "unload": ("unload", _POST)}
# Triton's, not this server's.
_UNSUPPORTED = frozenset({"systemsharedmemory", "cudasharedmemory", "trace", "logging"})
_OF_MODELS_UNSUPPORTED = frozenset({"trace", "generate", "generate_stream"})
_SEGMENTS = 8


@dataclass(frozen=True, slots=True)
class Route:
    """What a request asks for. `model` and `version` may be empty."""

    action: str
    model: str = ""
    version: str = ""


class NoRoute(Exception):
    """A path or method that is not answered: `status` is 404, 405 or 501, `allowed` the methods for 405."""

    def __init__(self, status: int, why: str, allowed: frozenset[str] = frozenset()) -> None:
        super().__init__(why)
        self.status = status
        self.why = why
        self.allowed = allowed


def route(method: str, path: str) -> Route:
    """The route of a path as it came, still quoted. Raises NoRoute."""
    first, *rest = path.strip("/").split("/", _SEGMENTS)
    if first != "v2" or len(rest) >= _SEGMENTS:
        raise NoRoute(404, "no such path: this server answers the Open Inference Protocol under /v2")
    segments = tuple(unquote(segment, errors="replace") for segment in rest)
    found, model, version = _find(segments)
    if found is None:
        raise NoRoute(404, "no such path of the Open Inference Protocol")
    action, methods = found
    if method not in methods:
        raise NoRoute(405, f"this path takes {' or '.join(sorted(methods))}", methods)
    return Route(action, model, version)


def _find(segments: tuple[str, ...]) -> tuple[tuple[str, frozenset[str]] | None, str, str]:
    if segments in _FIXED:
        return _FIXED[segments], "", ""
    if segments[0] in _UNSUPPORTED:
        raise NoRoute(501, f"this server has no {segments[0]}")
    if segments[0] == "repository" and len(segments) == 4 and segments[1] == "models":
        return _OF_REPOSITORY.get(segments[3]), segments[2], ""
    if segments[0] != "models" or len(segments) < 2 or not segments[1]:
        return None, "", ""
    model, version, rest = segments[1], "", segments[2:]
    if len(rest) >= 2 and rest[0] == "versions":
        version, rest = rest[1], rest[2:]
        if not version:
            return None, "", ""
    if rest and rest[0] in _OF_MODELS_UNSUPPORTED:
        raise NoRoute(501, f"this server has no {rest[0]}")
    return _OF_MODELS.get(rest), model, version
