# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Settings of the daemon: argument, else environment variable REMOTEGPU_SERVER_*, else default."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from remotegpu import errors
from remotegpu_server.gateway.bounds import MOST_SLOTS, MOST_WAITING
from remotegpu_server.scheduler import POLICIES

DEFAULT_LISTEN = "127.0.0.1:50051"
DEFAULT_SLOTS = 8
DEFAULT_ARENA = 256 * 1024**2
DEFAULT_QUEUE = 1000
DEFAULT_POLICY = "round-robin"
_UNITS = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}


@dataclass(frozen=True, slots=True)
class Settings:
    """What one daemon is to do. Sizes in bytes."""

    host: str
    port: int
    gpus: str | None
    models: Path | None
    slots: int
    arena_size: int
    policy: str = DEFAULT_POLICY
    # Requests that may wait.
    queue: int = DEFAULT_QUEUE
    tenants: Path | None = None


def parse_size(text: str, setting: str) -> int:
    """Bytes in a text like "4GiB" or "1048576". Raises ConfigurationError."""
    match = re.fullmatch(r"(\d+)\s*(|KiB|MiB|GiB|TiB)", text.strip())
    if match is None:
        raise errors.ConfigurationError(setting=setting, why=f"{text!r} is not a size such as 512MiB or 4GiB")
    return int(match.group(1)) * _UNITS[match.group(2)]


def _address(text: str, insecure: bool) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise errors.ConfigurationError(setting="--listen", why=f"{text!r} is not HOST:PORT, such as {DEFAULT_LISTEN}")
    if not insecure and not _is_loopback(host):
        raise errors.ConfigurationError(
            setting="--listen",
            why=f"{host} can be reached from outside, and this server has neither encryption nor identity yet: "
            "listen on 127.0.0.1, or add --insecure if the network itself is trusted",
        )
    return host, int(port)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def resolve(arguments: Mapping[str, str | bool | None], environment: Mapping[str, str]) -> Settings:
    """Settings from parsed arguments (None: not given) and the environment. Raises ConfigurationError."""

    def value(name: str) -> str | None:
        given = arguments.get(name)
        return str(given) if given is not None else environment.get(f"REMOTEGPU_SERVER_{name.upper()}")

    insecure = bool(arguments.get("insecure")) or environment.get("REMOTEGPU_SERVER_INSECURE") == "1"
    host, port = _address(value("listen") or DEFAULT_LISTEN, insecure)
    models, tenants = value("models"), value("tenants")
    if models is not None and not Path(models).is_dir():
        raise errors.ConfigurationError(setting="--models", why=f"{models} is not a folder")
    arena = parse_size(value("arena") or str(DEFAULT_ARENA), "--arena")
    if arena < 1024**2:
        raise errors.ConfigurationError(setting="--arena", why="at least 1MiB")
    policy = value("policy") or DEFAULT_POLICY
    if policy not in POLICIES:
        raise errors.ConfigurationError(setting="--policy", why=f"{policy!r} is not one of {', '.join(POLICIES)}")
    return Settings(
        host=host,
        port=port,
        gpus=value("gpus"),
        models=Path(models).resolve() if models else None,
        slots=_number(value("slots"), "--slots", DEFAULT_SLOTS, 1, MOST_SLOTS, "leases may share a device"),
        arena_size=arena,
        policy=policy,
        queue=_number(value("queue"), "--queue", DEFAULT_QUEUE, 0, MOST_WAITING, "requests may wait"),
        tenants=Path(tenants).resolve() if tenants else None,
    )


def _number(text: str | None, setting: str, default: int, least: int, most: int, what: str) -> int:
    if text is None:
        return default
    if not text.isdecimal() or not least <= int(text) <= most:
        raise errors.ConfigurationError(setting=setting, why=f"{least} to {most} {what}, not {text}")
    return int(text)
