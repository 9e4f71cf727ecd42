# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The model repository: a folder `DIR/<name>/<version>/model.onnx`, the layout that Triton uses, with no configuration.
In the place of `model.onnx` there may be `program.rgpu` (a saved program) or `function.py` (the operator's own).

Versions are whole numbers. A folder `<name>` may have a file `aliases.toml` with lines such as `stable = 2`. What else
lies there is passed over. Names from callers never become paths: they are looked up in what was found here.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

FILE = "model.onnx"
PROGRAM = "program.rgpu"
FUNCTION = "function.py"
# Exactly one of them makes a version.
FILES = (FILE, PROGRAM, FUNCTION)
ALIASES = "aliases.toml"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"0|[1-9][0-9]{0,17}")
# For messages.
NAMES = "1 to 128 letters, digits, dots, underscores and hyphens, not a dot or a hyphen first"
VERSIONS = "a whole number below 10**18 without leading zeros"
ALIAS_NAMES = f"{NAMES}, and not a number"


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of a model: its file, and the bytes of all that lies in the version's folder. `is_alone`: nothing
    else does, such as the external data of the model."""

    name: str
    version: str
    path: Path
    size: int
    is_alone: bool = True


@dataclass(frozen=True, slots=True)
class Repository:
    """What a folder has: entries by name and version, and per name the aliases with the version of each; and by the
    folder's name why a model cannot be served."""

    entries: Mapping[str, Mapping[str, Entry]] = field(default_factory=dict)
    aliases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)


def is_name(text: str) -> bool:
    """Whether a model may be called that."""
    return _NAME.fullmatch(text) is not None


def is_version(text: str) -> bool:
    """Whether that is a version."""
    return _VERSION.fullmatch(text) is not None


def is_alias(text: str) -> bool:
    """Whether a version may be called that: a name that cannot be taken for a version."""
    return is_name(text) and not text.isdecimal()


def split(reference: str) -> tuple[str, str]:
    """The name, and the version or alias ("" without one), of `name`, `name:version` or `name:alias`."""
    name, _, version = reference.partition(":")
    return name, version


def scan(folder: Path) -> Repository:
    """What the folder has now. Reads names, sizes and aliases, no model. What `scan_model` refuses is a problem of that
    model alone.

    Raises OSError for a folder that cannot be read."""
    entries: dict[str, dict[str, Entry]] = {}
    aliases: dict[str, dict[str, str]] = {}
    problems: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_dir():
            continue
        try:
            entries[path.name], aliases[path.name] = scan_model(path)
        except (ValueError, OSError) as error:
            problems[_text(path.name)] = _text(str(error))
    return Repository(entries, aliases, problems)


def _text(told: str) -> str:
    """A folder's name may have bytes that no message can tell."""
    return told.encode(errors="replace").decode()


def scan_model(folder: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """The versions, ascending, and the aliases of one model.

    Raises ValueError, which names the path, for a model without a version, a name or version that cannot be served, and
    aliases that are unreadable or name a version that is not there; OSError for a folder that cannot be read."""
    if not is_name(folder.name):
        raise ValueError(f"{folder}: a model's name is {NAMES}")
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder")
    versions = _versions(folder)
    return versions, _aliases(folder, versions)


def _versions(folder: Path) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for path in folder.iterdir():
        if not path.name.isdecimal() or not path.is_dir():
            continue
        if not is_version(path.name):
            raise ValueError(f"{path}: a version is {VERSIONS}")
        present = [file for file in FILES if (path / file).is_file()]
        if not present:
            raise ValueError(f"{path}: no {FILE} in it, nor {PROGRAM} or {FUNCTION}")
        if len(present) > 1:
            raise ValueError(f"{path}: {' and '.join(present)} in it: a version has one of them")
        sizes = [file.stat().st_size for file in path.iterdir() if file.is_file()]
        found[path.name] = Entry(folder.name, path.name, path / present[0], sum(sizes), is_alone=len(sizes) == 1)
    if not found:
        raise ValueError(f"{folder}: no <version>/{FILE} in it")
    return {version: found[version] for version in sorted(found, key=int)}


def _aliases(folder: Path, versions: Mapping[str, Entry]) -> dict[str, str]:
    path = folder / ALIASES
    if not path.is_file():
        return {}
    try:
        read = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # TOML and UTF-8 both
        raise ValueError(f"{path}: {error}") from error
    found: dict[str, str] = {}
    for alias, value in read.items():
        version = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
        if not is_alias(alias):
            raise ValueError(f"{path}: an alias is {ALIAS_NAMES}; not {alias!r:.80}")
        if version not in versions:
            raise ValueError(f"{path}: {alias} = {value!r:.80}, but the versions are {', '.join(versions)}")
        found[alias] = version
    return found
