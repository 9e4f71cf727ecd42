# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""`remotegpu models`: which models a server has, and changes to what it serves."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from remotegpu import errors
from remotegpu.cli import output
from remotegpu.cli.sizes import size_text

if TYPE_CHECKING:
    from remotegpu.client import Client
    from remotegpu.repository import ModelEntry

_ACTIONS = """actions:
  list [NAME]                   all models, or the versions of one (the default)
  load NAME[:VERSION]           serve a version, or with --file a file of this machine
  unload NAME[:VERSION]         serve it no longer; without a version all of that name
  alias NAME ALIAS [VERSION]    call a version also NAME:ALIAS; without a version, take the alias away"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `remotegpu models`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _ACTIONS
    parser.add_argument("action", nargs="?", default="list", choices=("list", "load", "unload", "alias"))
    parser.add_argument("names", nargs="*", metavar="NAME", help="see below")
    parser.add_argument("--file", type=Path, metavar="FILE", help="load: the model file to upload")
    parser.add_argument("--alias", action="append", default=[], metavar="ALIAS", help="load: another name for it")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(client: Client, options: argparse.Namespace) -> int:
    """Does what is asked, and prints the versions that it is about. Raises any error of the tree."""
    entries = _entries(client, options)
    if options.json:
        output.write(json.dumps([asdict(entry) for entry in entries]))
    else:
        output.write(text(entries))
    return 0


def _entries(client: Client, options: argparse.Namespace) -> Sequence[ModelEntry]:
    action, names = options.action, options.names
    if action == "alias":
        if not 2 <= len(names) <= 3:
            raise errors.ConfigurationError(setting="models alias", why="write NAME ALIAS VERSION, or NAME ALIAS")
        return client.set_alias(*names)
    if len(names) > 1 or (action != "list" and not names):
        raise errors.ConfigurationError(setting=f"models {action}", why="write one NAME or NAME:VERSION")
    if action == "list":
        return client.index(*names)
    name, _, version = names[0].partition(":")
    if action == "unload":
        return client.unload_model(name, version)
    try:
        return client.load_model(name, version, path=options.file, aliases=options.alias)
    except OSError as error:
        raise errors.ConfigurationError(
            setting="--file", why=f"{options.file}: {error.strerror or error}; give the path of a model file"
        ) from None


def text(entries: Sequence[ModelEntry]) -> str:
    """The versions for a person."""
    if not entries:
        return "no models"
    rows: list[tuple[str, ...]] = [("MODEL", "STATE", "MEMORY", "FILE", "")]
    rows += map(_row, entries)
    widths = [*(max(len(row[column]) for row in rows) for column in range(4)), 0]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _row(entry: ModelEntry) -> tuple[str, ...]:
    memory = size_text(entry.memory) if entry.memory else "-"
    return _title(entry), entry.state, memory, size_text(entry.size), entry.reason


def _title(entry: ModelEntry) -> str:
    also = [*(("default",) if entry.is_default else ()), *entry.aliases]
    version = f":{entry.version}" if entry.version else ""  # a folder of which no version could be known has none
    return f"{entry.name}{version}" + (f" ({', '.join(also)})" if also else "")
