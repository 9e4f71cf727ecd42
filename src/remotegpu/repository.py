# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The models of a server as its client asks for and changes them: requests to bytes, answers to objects. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from remotegpu import errors, wire
from remotegpu.reservation import check_text
from remotegpu.v1 import compute_pb2
from remotegpu.v1 import repository_pb2 as pb

# For loading: a large model takes a minute on each device. Seconds.
LOAD_TIMEOUT = 180.0


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A version of a model that a server knows.

    `state`: "loaded", "loading", "evicted" (the next call loads it again), "unloaded" or "failed", with a `reason` for
    people. `is_default`: the bare name stands for it. `memory`: bytes of device memory that it is counted with while it
    is loaded; `size`: bytes of its file."""

    name: str
    version: str
    state: str
    reason: str
    aliases: tuple[str, ...]
    is_default: bool
    memory: int
    size: int


def index_request(name: str) -> bytes:
    """Raises InvalidInput for what is no text."""
    if name:
        check_text("name", name, "a model's name")
    return pb.IndexRequest(name=name).SerializeToString()


def load_request(name: str, version: str, content: bytes, aliases: Sequence[str]) -> bytes:
    """`content`: the digest of an uploaded file, or empty. Raises InvalidInput for what is no text."""
    check_text("name", name, "a model's name")
    if isinstance(aliases, str):  # a sequence of letters otherwise
        raise errors.InvalidInput(field="aliases", limit="a list of names", given=repr(aliases))
    for alias in aliases:
        check_text("alias", alias, "a name for a version")
    message = pb.LoadRequest(name=name, version=str(version), content=content, aliases=aliases)
    return message.SerializeToString()


def unload_request(name: str, version: str) -> bytes:
    """Raises InvalidInput for what is no text."""
    check_text("name", name, "a model's name")
    return pb.UnloadRequest(name=name, version=str(version)).SerializeToString()


def alias_request(name: str, alias: str, version: str | None) -> bytes:
    """`version` None: takes the alias away. Raises InvalidInput for what is no text."""
    check_text("name", name, "a model's name")
    check_text("alias", alias, "a name for a version")
    message = pb.SetAliasRequest(name=name, alias=alias, version="" if version is None else str(version))
    return message.SerializeToString()


def answer(reply: bytes) -> tuple[tuple[ModelEntry, ...], compute_pb2.Catalog]:
    """The entries of an answer, and what calls may use from now on. Raises ProtocolError."""
    message = wire.parse(pb.IndexReply, reply)
    entries = tuple(
        ModelEntry(
            name=entry.name,
            version=entry.version,
            state=entry.state,
            reason=entry.reason,
            aliases=tuple(entry.aliases),
            is_default=entry.is_default,
            memory=entry.memory,
            size=entry.size,
        )
        for entry in message.entries
    )
    return entries, message.catalog
