# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""`remotegpu`: the command line of the client. Each subcommand is loaded when it is used."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from remotegpu._version import __version__


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="remotegpu", description="Talks to a remotegpu server.")
    parser.add_argument("--version", action="version", version=f"remotegpu {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    top = commands.add_parser("top", help="show devices, leases and queue")
    top.add_argument("--once", action="store_true", help="print once; without it a terminal is refreshed every second")
    top.add_argument("--url", help="the server, such as grpc://127.0.0.1:50051 (default: $REMOTEGPU_URL)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. Exit codes: 0 done, 1 the server could not be asked, 2 bad usage."""
    options = _parser().parse_args(arguments)
    from remotegpu import errors

    try:
        from remotegpu.cli import top
        from remotegpu.client import Client
        from remotegpu.config import url_from

        with Client(options.url or url_from(os.environ)) as client:
            top.show(client, once=options.once or not sys.stdout.isatty())
    except errors.ConfigurationError as error:
        print(f"remotegpu: {error}", file=sys.stderr)
        return 2
    except errors.Error as error:
        print(f"remotegpu: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0
