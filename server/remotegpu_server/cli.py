# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""`remotegpu-server`: the command line of the daemon."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
from collections.abc import Sequence

from remotegpu import errors
from remotegpu._version import __version__

from . import settings as server_settings


class _Joined(argparse.Action):
    """Puts repeated values together, with commas between them."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, f"{before},{values}" if before else values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="remotegpu-server",
        description="Shares the GPUs of this machine: array programs and ONNX models, one round trip each.",
        epilog="Each option may also be given as an environment variable: REMOTEGPU_SERVER_LISTEN, _GPUS, _MODELS, "
        "_SLOTS, _POLICY, _QUEUE, _TENANTS, _ARENA, _MAX_BATCH, _MAX_DELAY, _SESSIONS, _MODEL_MEMORY, "
        "_PROVIDER_OPTION, _SESSION_OPTION, _INFERENCE, _REST, _STORE, _STORE_SIZE, _FETCH_HOSTS, _TLS_CERT, "
        "_TLS_KEY, _IDENTITY, _ALLOW_UPLOADS=1, _INSECURE=1.",
    )
    parser.add_argument("--gpus", help='which devices: "0", "0,1", "all", "cpu", "cpu:4" (default: all GPUs, else cpu)')
    parser.add_argument("--listen", metavar="HOST:PORT", help=f"default {server_settings.DEFAULT_LISTEN}; port 0: any")
    parser.add_argument(
        "--inference", metavar="HOST:PORT", help="serve the Open Inference Protocol over gRPC there (default: nowhere)"
    )
    parser.add_argument("--rest", metavar="HOST:PORT", help="the same over HTTP/JSON (default: nowhere)")
    parser.add_argument("--tls-cert", metavar="FILE", help="PEM certificate (and its chain) of all listeners")
    parser.add_argument("--tls-key", metavar="FILE", help="its PEM key")
    parser.add_argument(
        "--identity", metavar="FILE", help="TOML file of who is let in: issuers, roles, tokens (default: everybody)"
    )
    parser.add_argument(
        "--insecure", action="store_true", help="allow other addresses than loopback without TLS or without identity"
    )
    parser.add_argument(
        "--models",
        metavar="DIR",
        help="model repository: DIR/<name>/<version>/model.onnx (or program.rgpu, function.py)",
    )
    parser.add_argument(
        "--model-memory",
        metavar="SIZE",
        help="of each device, for loaded models; those not used for longest give way (default: no limit on CPU "
        "devices, what is free on GPUs)",
    )
    parser.add_argument("--allow-uploads", action="store_true", help="let callers upload, load and unload models")
    for kind, what in (("provider", "the device's execution provider"), ("session", "sessions")):
        parser.add_argument(
            f"--{kind}-option",
            metavar="KEY=VALUE",
            action=_Joined,
            help=f"option of ONNX Runtime for {what}; may be repeated",
        )
    parser.add_argument(
        "--max-batch", metavar="ROWS", help="put model calls together, up to so many rows (default 32; 1: never)"
    )
    parser.add_argument(
        "--max-delay", metavar="MS", help="let a model call wait for others while its batch is not full (default 0)"
    )
    parser.add_argument("--sessions", metavar="N", help="runs of models at once on each device (default 1)")
    parser.add_argument("--slots", help=f"leases that may share a device (default {server_settings.DEFAULT_SLOTS})")
    parser.add_argument("--policy", help="round-robin (default), least-loaded, best-fit, sticky or fair")
    parser.add_argument("--queue", help=f"requests that may wait (default {server_settings.DEFAULT_QUEUE})")
    parser.add_argument("--tenants", metavar="FILE", help="TOML file of quotas: [default] and [tenants.NAME]")
    parser.add_argument("--arena", metavar="SIZE", help="shared memory per device and direction (default 256MiB)")
    parser.add_argument("--store", metavar="DIR", help="keep uploaded contents there (default: a temporary folder)")
    parser.add_argument("--store-size", metavar="SIZE", help="bytes of contents at most (default 10GiB)")
    parser.add_argument(
        "--fetch-hosts",
        metavar="HOST,...",
        help="fetch files that calls name by URL from these hosts; .example.org stands for all below (default: none)",
    )
    parser.add_argument("--version", action="version", version=f"remotegpu-server {__version__}")
    parser.add_argument("--stop-at-end-of-input", action="store_true", help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the server. Exit codes: 0 stopped, 2 it cannot start as asked."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="remotegpu-server: %(message)s", level=logging.WARNING)
    # Workers are exec'd from this process; gRPC's fork handlers would only get in their way.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    try:
        settings = server_settings.resolve(vars(options), os.environ)
        _serve(settings, options.stop_at_end_of_input)
    except errors.ConfigurationError as error:
        print(f"remotegpu-server: {error}", file=sys.stderr)
        return 2
    return 0


def _serve(settings: server_settings.Settings, stop_at_end_of_input: bool) -> None:
    try:
        from .devices import nvml, selection
        from .process import allow_many_connections, forbid_dumps, usable_memory
    except ModuleNotFoundError as error:
        raise errors.ConfigurationError(
            setting="installation", why=f"{error.name} is missing: pip install 'remotegpu[cpu]' or 'remotegpu[cuda]'"
        ) from error
    from . import daemon

    memory = usable_memory()
    # Half of the memory is for the arrays of CPU devices; an eighth, at most, for the arenas of all devices.
    selected = selection.select(settings.gpus, nvml.gpus, memory // 2)
    selection.check_packages(selected.devices)
    limit = memory // 8 // (2 * len(selected.devices))
    if selected.remark:
        print(f"remotegpu-server: {selected.remark}", file=sys.stderr)
    if settings.arena_size > limit:
        print(f"remotegpu-server: arenas of {limit >> 20} MiB, an eighth of the memory in all", file=sys.stderr)
        settings = dataclasses.replace(settings, arena_size=limit)
    allow_many_connections()
    forbid_dumps()
    daemon.run(settings, selected.devices, stop_at_end_of_input=stop_at_end_of_input)
