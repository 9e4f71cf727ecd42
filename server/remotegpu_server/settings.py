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
DEFAULT_MAX_BATCH = 32
DEFAULT_STORE_SIZE = 10 * 1024**3
_ALLOW_UPLOADS = "REMOTEGPU_SERVER_ALLOW_UPLOADS"
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
    # Model calls of several programs run together: rows of one run at most (1: none do), seconds that a call waits for
    # others to come, runs of models at once on a device.
    max_batch: int = DEFAULT_MAX_BATCH
    max_delay: float = 0.0
    sessions: int = 1
    # Bytes that loaded models may take on each device; None: no limit on CPU devices, what is free on GPUs.
    model_memory: int | None = None
    # Callers may upload, load and unload models.
    allow_uploads: bool = False
    # Options of ONNX Runtime's execution provider and of its sessions.
    provider_options: tuple[tuple[str, str], ...] = ()
    session_options: tuple[tuple[str, str], ...] = ()
    # Where the Open Inference Protocol is spoken over gRPC; None: nowhere.
    inference: tuple[str, int] | None = None
    # The same over HTTP.
    rest: tuple[str, int] | None = None
    # Where contents are kept over restarts; None: a temporary folder.
    store: Path | None = None
    store_size: int = DEFAULT_STORE_SIZE
    # From where files may be fetched: names of hosts, and ".suffixes".
    fetch_hosts: tuple[str, ...] = ()
    # The certificate of all listeners and its key; None: no TLS.
    tls_cert: Path | None = None
    tls_key: Path | None = None
    # Who is let in; None: everybody.
    identity: Path | None = None


def parse_size(text: str, setting: str) -> int:
    """Bytes in a text like "4GiB" or "1048576". Raises ConfigurationError."""
    match = re.fullmatch(r"(\d+)\s*(|KiB|MiB|GiB|TiB)", text.strip())
    if match is None:
        raise errors.ConfigurationError(setting=setting, why=f"{text!r} is not a size such as 512MiB or 4GiB")
    return int(match.group(1)) * _UNITS[match.group(2)]


@dataclass(frozen=True, slots=True)
class _Protection:
    tls: bool
    identity: bool
    insecure: bool

    def lacks(self) -> str:
        """What a listener that can be reached from outside lacks; empty for nothing."""
        if self.identity and not self.tls:
            return "callers' credentials would travel in clear: add --tls-cert and --tls-key, or listen on 127.0.0.1"
        if self.insecure or self.tls:
            ok = self.insecure or self.identity
            return "" if ok else "everybody may use the devices: add --identity, or --insecure if that is meant"
        return (
            "this server has neither encryption (--tls-cert) nor identity (--identity): listen on 127.0.0.1, or add "
            "--insecure if the network itself is trusted"
        )


def _address(text: str, protection: _Protection, setting: str = "--listen") -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise errors.ConfigurationError(setting=setting, why=f"{text!r} is not HOST:PORT, such as {DEFAULT_LISTEN}")
    lacks = "" if _is_loopback(host) else protection.lacks()
    if lacks:
        raise errors.ConfigurationError(setting=setting, why=f"{host} can be reached from outside, and {lacks}")
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

    def path(name: str) -> Path | None:
        given = value(name)
        return Path(given).resolve() if given else None

    insecure = bool(arguments.get("insecure")) or environment.get("REMOTEGPU_SERVER_INSECURE") == "1"
    certificate, identity = path("tls_cert"), path("identity")
    protection = _Protection(certificate is not None, identity is not None, insecure)
    host, port = _address(value("listen") or DEFAULT_LISTEN, protection)
    models, inference, rest = value("models"), value("inference"), value("rest")
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
        tenants=path("tenants"),
        max_batch=_number(value("max_batch"), "--max-batch", DEFAULT_MAX_BATCH, 1, 4096, "rows of one run"),
        max_delay=_delay(value("max_delay") or "0"),
        sessions=_number(value("sessions"), "--sessions", 1, 1, 64, "runs at once on a device"),
        model_memory=_model_memory(value("model_memory")),
        allow_uploads=bool(arguments.get("allow_uploads")) or environment.get(_ALLOW_UPLOADS) == "1",
        provider_options=_pairs(value("provider_option"), "--provider-option"),
        session_options=_pairs(value("session_option"), "--session-option"),
        inference=_address(inference, protection, "--inference") if inference else None,
        rest=_address(rest, protection, "--rest") if rest else None,
        store=path("store"),
        store_size=parse_size(value("store_size") or str(DEFAULT_STORE_SIZE), "--store-size"),
        fetch_hosts=_hosts(value("fetch_hosts") or ""),
        tls_cert=certificate,
        tls_key=path("tls_key"),
        identity=identity,
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _hosts(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if not re.fullmatch(r"\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?", name) and not _is_address(name):
            why = f"{name!r} is neither a host such as files.example.org nor a suffix such as .example.org"
            raise errors.ConfigurationError(setting="--fetch-hosts", why=why)
    return names


def _delay(text: str) -> float:
    """Seconds, from milliseconds."""
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) or float(text) > 10_000:
        raise errors.ConfigurationError(setting="--max-delay", why=f"0 to 10000 milliseconds, not {text}")
    return float(text) / 1000


def _model_memory(text: str | None) -> int | None:
    size = None if text is None else parse_size(text, "--model-memory")
    if size is not None and size < 1:
        raise errors.ConfigurationError(setting="--model-memory", why="more than 0")
    return size


def _pairs(text: str | None, setting: str) -> tuple[tuple[str, str], ...]:
    """KEY=VALUE pairs, with commas between them in an environment variable and on the command line alike."""
    found: dict[str, str] = {}
    for pair in (text or "").split(","):
        key, equals, given = pair.strip().partition("=")
        if pair and (not equals or not key):
            raise errors.ConfigurationError(setting=setting, why=f"{pair!r} is not KEY=VALUE")
        if pair:
            found[key] = given
    return tuple(found.items())


def _number(text: str | None, setting: str, default: int, least: int, most: int, what: str) -> int:
    if text is None:
        return default
    if not text.isdecimal() or not least <= int(text) <= most:
        raise errors.ConfigurationError(setting=setting, why=f"{least} to {most} {what}, not {text}")
    return int(text)
