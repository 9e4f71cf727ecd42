# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What is known of models and what is served: a value that changes by being replaced. Pure; `models` acts on it.

A version is *known* (it lies in the repository, or was uploaded), and may be called unless it was unloaded. It is
*wanted* if it is kept loaded: at the start the highest of each model, later those that were loaded by request. A bare
name stands for the highest wanted version, or if none is, the highest that may be called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from remotegpu import errors
from remotegpu.v1 import worker_pb2 as pb
from remotegpu_server import repository
from remotegpu_server.repository import Entry, Repository

# So that callers cannot fill the server's memory with names.
MOST_FILES = 100_000
MOST_ALIASES = 64


@dataclass(frozen=True, slots=True)
class Known:
    """A version. `number` counts up: a file that is loaded again gets another. `digest` is known once it was loaded."""

    number: int
    entry: Entry
    wanted: bool = False
    unloaded: bool = False
    uploaded: bool = False
    digest: bytes = b""

    def file(self) -> pb.ModelFile:
        """As the workers get it."""
        return pb.ModelFile(
            id=self.number,
            name=self.entry.name,
            version=self.entry.version,
            path=str(self.entry.path),
            size=self.entry.size,
            uploaded=self.uploaded,
            digest=self.digest,
            wanted=self.wanted,
        )


@dataclass(frozen=True, slots=True)
class Served:
    """All models: versions by name, aliases by name. `next_number` is for the next file."""

    versions: Mapping[str, Mapping[str, Known]] = field(default_factory=dict)
    aliases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    next_number: int = 1

    @classmethod
    def of(cls, found: Repository) -> Served:
        """What is served at the start."""
        made = cls(aliases={name: aliases for name, aliases in found.aliases.items() if aliases})
        for entries in found.entries.values():
            highest = max(entries, key=int)
            for version, entry in entries.items():
                made = made.with_file(entry, wanted=version == highest)
        return made

    def callable_versions(self, name: str) -> list[str]:
        """The versions that may be called, ascending."""
        known = self.versions.get(name, {})
        return sorted((version for version, item in known.items() if not item.unloaded), key=int)

    def default(self, name: str) -> str:
        """The version that the bare name stands for; "" if there is none."""
        versions = self.callable_versions(name)
        wanted = [version for version in versions if self.versions[name][version].wanted]
        return (wanted or versions or [""])[-1]

    def aliases_of(self, name: str, version: str) -> list[str]:
        """The aliases of a version, sorted."""
        return sorted(alias for alias, target in self.aliases.get(name, {}).items() if target == version)

    def find(self, name: str, version: str = "") -> Known:
        """The version of that name: by its number, an alias, or "" for the default; `name` may also be a reference
        ("name:version"). Raises ModelNotFound for what may not be called."""
        if not version:
            name, version = repository.split(name)
        meant = self.aliases.get(name, {}).get(version, version) or self.default(name)
        known = self.versions.get(name, {}).get(meant)
        if known is None or known.unloaded:
            raise self.not_found(name, version)
        return known

    def not_found(self, name: str, version: str) -> errors.ModelNotFound:
        """The error for what is not there."""
        names = (f"{other}:{v}" for other in self.versions for v in self.callable_versions(other))
        given = f"{name}:{version}" if version else name
        return errors.ModelNotFound(field="model", limit=", ".join(islice(names, 100)) or "none", given=given[:200])

    def table(self) -> pb.ModelTable:
        """As the workers get it: only what may be called."""
        made = pb.ModelTable()
        for name, known in self.versions.items():
            made.files.extend(item.file() for item in known.values() if not item.unloaded)
            default = self.default(name)
            if default:
                made.defaults[name] = default
            for alias, version in self.aliases.get(name, {}).items():
                made.aliases.add(name=name, alias=alias, version=version)
        return made

    # Changes: each gives another value.

    def with_file(self, entry: Entry, *, wanted: bool, digest: bytes = b"", uploaded: bool = False) -> Served:
        """With another file for that version, or another version. Raises InvalidInput for one too many."""
        if self.next_number > MOST_FILES:
            limit = f"at most {MOST_FILES} in the life of a server"
            raise errors.InvalidInput(field="model files", limit=limit, given=str(self.next_number))
        known = Known(self.next_number, entry, wanted=wanted, digest=digest, uploaded=uploaded)
        return replace(self._with(known), next_number=self.next_number + 1)

    def with_digest(self, number: int, digest: bytes) -> Served:
        """With the digest that a file turned out to have."""
        for known in self.versions.values():
            for item in known.values():
                if item.number == number:
                    return self._with(replace(item, digest=digest))
        return self

    def with_wanted(self, name: str, version: str) -> Served:
        """With a version that stays loaded."""
        return self._with(replace(self.versions[name][version], wanted=True, unloaded=False))

    def without(self, name: str, version: str = "") -> Served:
        """With a version unloaded, or all of that name; an uploaded one is forgotten. Aliases of it end. Raises
        ModelNotFound if it may not be called now."""
        going = [version] if version else self.callable_versions(name)
        if not going or not set(going) <= set(self.callable_versions(name)):
            raise self.not_found(name, version)
        kept = dict(self.versions[name])
        for gone in going:
            item = kept.pop(gone)
            if not item.uploaded:
                kept[gone] = replace(item, wanted=False, unloaded=True)
        aliases = {alias: target for alias, target in self.aliases.get(name, {}).items() if target not in going}
        versions = {**self.versions, name: kept}
        if not kept:
            del versions[name]
        return replace(self, versions=versions, aliases={**self.aliases, name: aliases})

    def with_alias(self, name: str, alias: str, version: str) -> Served:
        """With another name for a version, or (version "") without that alias.

        Raises InvalidInput for an unusable alias or one too many, ModelNotFound for a version that may not be
        called, or an alias to take away that is not there."""
        if not repository.is_alias(alias):
            raise errors.InvalidInput(field="alias", limit=repository.ALIAS_NAMES, given=f"{alias!r:.80}")
        aliases = dict(self.aliases.get(name, {}))
        if version:
            self.find(name, version)
            aliases[alias] = aliases.get(version, version)
        elif aliases.pop(alias, None) is None:
            raise self.not_found(name, alias)
        if len(aliases) > MOST_ALIASES:
            limit = f"at most {MOST_ALIASES} of one model"
            raise errors.InvalidInput(field="aliases", limit=limit, given=str(len(aliases)))
        return replace(self, aliases={**self.aliases, name: aliases})

    def _with(self, known: Known) -> Served:
        entry = known.entry
        versions = {**self.versions.get(entry.name, {}), entry.version: known}
        return replace(self, versions={**self.versions, entry.name: versions})
