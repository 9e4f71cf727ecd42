# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""`remotegpu top`: a live screen on a terminal, elsewhere the same once. Loads what it needs when it runs."""

from __future__ import annotations

import argparse
import math
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remotegpu.client import Client

DEFAULT_INTERVAL = 1.0
LEAST_INTERVAL = 0.1
_RICH_MISSING = "rich is missing: pip install 'remotegpu[cli]'"


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not LEAST_INTERVAL <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from {LEAST_INTERVAL} upwards")
    return seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `remotegpu top`, for `run`."""
    parser.add_argument("--once", action="store_true", help="print once, also on a terminal")
    parser.add_argument("--json", action="store_true", help="print the snapshot once, as JSON")
    parser.add_argument(
        "--interval",
        type=_interval,
        default=DEFAULT_INTERVAL,
        metavar="SECONDS",
        help=f"between snapshots, at least {LEAST_INTERVAL} (default: %(default)s)",
    )


def run(client: Client, options: argparse.Namespace) -> int:
    """Shows the server's state. Exit code 0, or 2 where rich is missing. Raises what the first snapshot raises."""
    if options.json:
        return _print(_json(client).encode())
    try:
        from remotegpu.cli import tables
        from remotegpu.cli.screen import render
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        print(_RICH_MISSING, file=sys.stderr)
        return 2
    if options.once or not _is_screen():
        width = os.get_terminal_size(sys.stdout.fileno()).columns or None if sys.stdout.isatty() else None
        lines = render(client.top(), width=width)
        text = "\n".join(tables.painted(lines, tables.colours(sys.stdout)))
        return _print(tables.encoded(text, sys.stdout.encoding))
    from remotegpu.cli import live

    live.show(client, options.interval)
    return 0


def _json(client: Client) -> str:
    from google.protobuf.json_format import MessageToJson

    return MessageToJson(client.top(), preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _is_screen() -> bool:
    """Whether keys can be read and lines be drawn again."""
    if os.name != "posix" or os.environ.get("TERM", "") in {"dumb", "unknown"}:
        return False
    return sys.stdin.isatty() and sys.stdout.isatty()


def _print(text: bytes) -> int:
    """Prints to whoever still reads: `remotegpu top | head -1` is no error."""
    try:
        sys.stdout.buffer.write(text + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # What is left in the buffer is written when the interpreter ends, and must not fail again then.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    return 0
