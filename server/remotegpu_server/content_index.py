# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Which contents are stored, who has them, and which goes when room is needed. Knows no disk and no clock.

A content belongs to the tenants that have put it, and to nobody else: that another tenant has stored the same bytes
cannot be found out. An upload that broke off belongs to its tenant alone. All of them stand in one line, the least
recently used first, and take their bytes from one bound; what is in use (pinned) stays.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from remotegpu import errors

# Entries and owners together: each takes some memory of the daemon and an entry of a folder, however small it is.
MOST_ENTRIES = 100_000


@dataclass(slots=True, eq=False)
class Entry:
    """A content, or with a `tenant` the part of one that this tenant has uploaded. Sizes in bytes; `promised` is what
    the disk must have room for: the whole size while an upload is under way."""

    digest: bytes
    tenant: str = ""
    size: int = 0
    promised: int = 0
    pins: int = 0
    owners: set[str] = field(default_factory=set)

    @property
    def key(self) -> tuple[bytes, str]:
        """Where it stands in the index."""
        return self.digest, self.tenant

    @property
    def weight(self) -> int:
        """How much of the bound of entries it takes."""
        return 1 + len(self.owners)


class Index:
    """What the store has, by digest, and for parts by digest and tenant. `limit` in bytes.

    What a method returns as evicted is out of the index and for the caller to delete."""

    def __init__(self, limit: int, most_entries: int = MOST_ENTRIES) -> None:
        self.limit = limit
        self.size = 0
        self._most_entries = most_entries
        self._weight = 0
        # Of what is pinned.
        self._promised = 0
        self._entries: OrderedDict[tuple[bytes, str], Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, tenant: str, digest: bytes) -> Entry | None:
        """The whole content, if that tenant has it."""
        entry = self._entries.get((digest, ""))
        return entry if entry is not None and tenant in entry.owners else None

    def part(self, tenant: str, digest: bytes) -> Entry | None:
        """What that tenant has uploaded of a content."""
        return self._entries.get((digest, tenant))

    def restore(self, entry: Entry) -> None:
        """Takes over what was found on the disk, the most recently used last."""
        self._insert(entry)

    def use(self, entry: Entry) -> None:
        """It is wanted now: the last to go."""
        self._entries.move_to_end(entry.key)

    def pin(self, entry: Entry) -> None:
        """It is in use until `unpin`, and is not evicted meanwhile."""
        if not entry.pins:
            self._promised += max(entry.size, entry.promised)
        entry.pins += 1
        self.use(entry)

    def unpin(self, entry: Entry) -> None:
        """Takes back one `pin`."""
        entry.pins -= 1
        if not entry.pins:
            self._promised -= max(entry.size, entry.promised)
            entry.promised = 0

    def begin(self, tenant: str, digest: bytes, size: int, offset: int) -> Entry:
        """Takes up an upload of `size` bytes, of which `offset` are there: a part, pinned, cut to these.

        Raises InvalidInput for a content above the bound or an offset beyond what is there, StoreFull if it cannot fit
        beside what is in use."""
        if size > self.limit:
            limit = f"at most {self.limit} bytes, which is the store's size"
            raise errors.InvalidInput(field="content size", limit=limit, given=f"{size} bytes")
        entry = self.part(tenant, digest)
        there = 0 if entry is None else entry.size
        if offset > min(there, size):
            limit = f"at most {min(there, size)}, the bytes that are there"
            raise errors.InvalidInput(field="content offset", limit=limit, given=str(offset))
        if self._promised + size > self.limit:
            raise errors.StoreFull(asked=size, limit=self.limit, why="contents in use take up the rest")
        if entry is None:
            entry = Entry(digest, tenant)
            self._insert(entry)
        self.size -= entry.size - offset
        entry.size, entry.promised = offset, size
        self.pin(entry)
        return entry

    def grow(self, entry: Entry, count: int) -> list[Entry]:
        """So many more bytes of an upload are about to be written; returns what was evicted for them.

        Raises StoreFull if there is no room: what is in use has grown meanwhile."""
        victims = self._victims(count)
        if victims is None:
            raise errors.StoreFull(asked=entry.promised, limit=self.limit, why="contents in use take up the rest")
        entry.size += count
        self.size += count
        return self._evict(victims)

    def complete(self, entry: Entry) -> tuple[bool, list[Entry]]:
        """An upload is whole and verified: its tenant has the content from now on. Whether the content is new here
        (otherwise another tenant's upload brought the same bytes), and what was evicted."""
        self.unpin(entry)
        self._take_out(entry)
        whole = self._entries.get((entry.digest, ""))
        is_new = whole is None
        if whole is None:
            whole = Entry(entry.digest, size=entry.size)
            self._insert(whole)
        if entry.tenant not in whole.owners:
            whole.owners.add(entry.tenant)
            self._weight += 1
        self.use(whole)
        whole.pins += 1  # not the one that has just come
        evicted = self.trim()
        whole.pins -= 1
        return is_new, evicted

    def remove(self, entry: Entry) -> None:
        """It is gone, whoever uses it."""
        if self._entries.get(entry.key) is entry:
            if entry.pins:
                self._promised -= max(entry.size, entry.promised)
            entry.pins = 0
            self._take_out(entry)

    def trim(self) -> list[Entry]:
        """What has to go for what is here to be within the bounds, as far as it is not in use."""
        return self._evict(self._victims(0) or [])

    def _insert(self, entry: Entry) -> None:
        self._entries[entry.key] = entry
        self.size += entry.size
        self._weight += entry.weight

    def _take_out(self, entry: Entry) -> None:
        del self._entries[entry.key]
        self.size -= entry.size
        self._weight -= entry.weight

    def _victims(self, more: int) -> list[Entry] | None:
        """What has to go for so many more bytes; None if that is not enough."""
        size, weight = self.size + more, self._weight
        victims: list[Entry] = []
        for entry in self._entries.values():
            if size <= self.limit and weight <= self._most_entries:
                break
            if not entry.pins:
                victims.append(entry)
                size -= entry.size
                weight -= entry.weight
        return victims if size <= self.limit else None

    def _evict(self, victims: list[Entry]) -> list[Entry]:
        for entry in victims:
            self._take_out(entry)
        return victims
