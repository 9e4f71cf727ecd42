# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""`remotegpu top`: a live screen on a terminal, elsewhere the same once. Loads what it needs when it runs."""

from __future__ import annotations

import argparse
import math
import os
import sys
from typing import TYPE_CHECKING

from remotegpu import errors
from remotegpu.cli import output
from remotegpu.cli.keys import KEYS

if TYPE_CHECKING:
    from remotegpu.client import Client

DEFAULT_INTERVAL = 1.0
LEAST_INTERVAL = 0.1
MOST_INTERVAL = 60.0
_RICH_MISSING = "rich is missing: pip install 'remotegpu[cli]'"


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not LEAST_INTERVAL <= seconds <= MOST_INTERVAL:  # false for NaN
        limits = f"from {LEAST_INTERVAL:g} to {MOST_INTERVAL:g}"
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds {limits}")
    return seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `remotegpu top`, for `run`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n  ".join(("keys:", *KEYS))
    parser.add_argument("--once", action="store_true", help="print once, also on a terminal")
    parser.add_argument("--json", action="store_true", help="print the snapshot once, as JSON")
    parser.add_argument(
        "--interval",
        type=_interval,
        default=DEFAULT_INTERVAL,
        metavar="SECONDS",
        help=f"between snapshots, {LEAST_INTERVAL:g} to {MOST_INTERVAL:g} (default: %(default)s)",
    )


def run(client: Client, options: argparse.Namespace) -> int:
    """Shows the server's state. Exit code 0, or 2 where rich is missing. Raises what the first snapshot raises."""
    if options.json:
        output.write(_json(client))
        return 0
    try:
        from remotegpu.cli import tables
        from remotegpu.cli.screen import render
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        output.complain(_RICH_MISSING)
        return 2
    if options.once or not _is_screen():
        if sys.stdout is None:
            raise errors.ConfigurationError(setting=output.SETTING, why="it is closed")
        width = os.get_terminal_size(sys.stdout.fileno()).columns or None if sys.stdout.isatty() else None
        lines = render(client.top(), width=width)
        text = "\n".join(tables.painted(lines, tables.colours(sys.stdout)))
        encoding = sys.stdout.encoding or "utf-8"
        output.write(tables.encoded(text, encoding).decode(encoding))
        return 0
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
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))
