# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The store of contents: the pure index against a simple model, the disk, and what survives a restart."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from remotegpu import errors
from remotegpu_server.content_index import Entry, Index
from remotegpu_server.contents import ContentStore

LIMIT, MOST_ENTRIES = 100, 12
DIGESTS = [bytes([number]) * 32 for number in range(6)]
# The bytes of each: the last one is more than the whole store.
SIZES = dict(zip(DIGESTS, [0, 1, 30, 40, 60, 101], strict=True))
TENANTS = ["ann", "bob"]


class IndexMachine(RuleBasedStateMachine):
    """The index beside a list in the order of use, which says in the simplest words what must be there."""

    def __init__(self) -> None:
        super().__init__()
        self.index = Index(LIMIT, MOST_ENTRIES)
        self.order: list[tuple[bytes, str]] = []  # the least recently used first
        self.sizes: dict[tuple[bytes, str], int] = {}
        self.owners: dict[bytes, set[str]] = {}
        self.pinned: list[Entry] = []
        self.uploads: list[tuple[Entry, int]] = []

    def touched(self, key: tuple[bytes, str]) -> None:
        if key in self.order:
            self.order.remove(key)
        self.order.append(key)

    def is_pinned(self, key: tuple[bytes, str]) -> bool:
        return any(entry.key == key for entry in [*self.pinned, *(entry for entry, _ in self.uploads)])

    def gone(self, evicted: list[Entry], more: int, spared: tuple[bytes, str] | None = None) -> None:
        """What must have been evicted, in that order."""
        expected = []
        for key in list(self.order):
            weight = len(self.sizes) + sum(map(len, self.owners.values()))
            if sum(self.sizes.values()) + more <= LIMIT and weight <= MOST_ENTRIES:
                break
            if not self.is_pinned(key) and key != spared:
                expected.append(key)
                self.forget(key)
        assert [entry.key for entry in evicted] == expected

    def forget(self, key: tuple[bytes, str]) -> None:
        self.order.remove(key)
        del self.sizes[key]
        if not key[1]:
            del self.owners[key[0]]

    @rule(digest=st.sampled_from(DIGESTS), tenant=st.sampled_from(TENANTS))
    def begin(self, digest: bytes, tenant: str) -> None:
        key, size = (digest, tenant), SIZES[digest]
        if self.index.find(tenant, digest) or any(entry.key == key for entry, _ in self.uploads):
            return
        there = self.sizes.get(key, 0)
        promised = sum(size for _, size in self.uploads)
        promised += sum(entry.size for entry in {entry.key: entry for entry in self.pinned}.values())
        try:
            entry = self.index.begin(tenant, digest, size, there)
        except (errors.InvalidInput, errors.StoreFull):
            assert size > LIMIT or promised + size > LIMIT
            return
        assert promised + size <= LIMIT
        self.sizes[key] = there
        self.touched(key)
        self.uploads.append((entry, size))

    @precondition(lambda self: self.uploads)
    @rule(data=st.data(), how=st.sampled_from(["complete", "rest", "discard"]))
    def finish(self, data: st.DataObject, how: str) -> None:
        upload = data.draw(st.sampled_from(self.uploads))
        entry, size = upload
        count = size - entry.size if how == "complete" else (size - entry.size) // 2
        try:
            evicted = self.index.grow(entry, count)
        except errors.StoreFull:
            # A content that was not in use when the upload began is now.
            assert self.index._promised > self.index.limit
            self.uploads.remove(upload)
            self.index.remove(entry)
            self.forget(entry.key)
            return
        self.gone(evicted, count)
        self.sizes[entry.key] += count
        self.uploads.remove(upload)
        if how == "rest":
            self.index.unpin(entry)
        elif how == "discard":
            self.index.remove(entry)
            self.forget(entry.key)
        else:
            whole = entry.digest, ""
            is_new, evicted = self.index.complete(entry)
            assert is_new == (whole not in self.sizes)
            self.forget(entry.key)
            self.sizes[whole] = size
            self.owners.setdefault(entry.digest, set()).add(entry.tenant)
            self.touched(whole)
            self.gone(evicted, 0, spared=whole)

    @rule(digest=st.sampled_from(DIGESTS), tenant=st.sampled_from(TENANTS), pin=st.booleans())
    def use(self, digest: bytes, tenant: str, pin: bool) -> None:
        entry = self.index.find(tenant, digest)
        assert (entry is not None) == (tenant in self.owners.get(digest, set()))
        if entry is not None:
            self.touched(entry.key)
            if pin:
                self.index.pin(entry)
                self.pinned.append(entry)
            else:
                self.index.use(entry)

    @precondition(lambda self: self.pinned)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.pinned))
        self.pinned.remove(entry)
        self.index.unpin(entry)

    @invariant()
    def sums_are_right(self) -> None:
        assert self.index.size == sum(self.sizes.values())
        assert len(self.index) == len(self.sizes)
        assert self.index.size <= LIMIT


TestIndex = IndexMachine.TestCase
TestIndex.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_an_upload_that_cannot_fit_beside_what_is_in_use_is_refused_before_anything_goes() -> None:
    index = Index(100)
    used = index.begin("ann", DIGESTS[0], 60, 0)
    index.grow(used, 60)
    index.restore(Entry(DIGESTS[1], size=30, owners={"ann"}))
    with pytest.raises(errors.StoreFull) as caught:
        index.begin("bob", DIGESTS[2], 50, 0)
    assert caught.value.limit == 100
    assert index.find("ann", DIGESTS[1]) is not None


@pytest.mark.parametrize("offset", [1, 41])
def test_an_upload_begins_within_what_is_there(offset: int) -> None:
    index = Index(100)
    if offset > 1:
        part = index.begin("ann", DIGESTS[0], 60, 0)
        index.grow(part, 40)
        index.unpin(part)
    with pytest.raises(errors.InvalidInput, match="content offset"):
        index.begin("ann", DIGESTS[0], 60, offset)


# ---- the disk ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(folder: Path) -> Iterator[ContentStore]:
    opened = ContentStore(folder, 1000)
    yield opened
    opened.close()


def digest_of(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def put(store: ContentStore, data: bytes, tenant: str = "ann", until: int | None = None) -> None:
    """Uploads what is not there; with `until`, breaks off after so many bytes."""
    digest = digest_of(data)
    offset = store.stored(tenant, digest).size
    upload = store.begin(tenant, digest, len(data), offset)
    assert upload is not None
    upload.open()
    piece = data[offset:until]
    store.grow(upload, len(piece))
    upload.write(memoryview(piece))
    if until is not None:
        upload.close()
        store.rest(upload)
        return
    assert upload.seal() == digest
    upload.close()
    store.complete(upload)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


def test_a_content_is_whole_or_not_there(store: ContentStore) -> None:
    data = os.urandom(300)
    digest = digest_of(data)
    assert store.path_of("ann", digest) is None
    put(store, data)
    path = store.path_of("ann", digest)
    assert path is not None
    assert path.read_bytes() == data
    assert store.begin("ann", digest, 300, 0) is None


def test_tenants_have_what_they_have_put_and_share_the_space(store: ContentStore) -> None:
    data = os.urandom(300)
    digest = digest_of(data)
    put(store, data)
    assert not store.stored("bob", digest).complete
    assert store.stored("bob", digest).size == 0
    assert store.path_of("bob", digest) is None
    with pytest.raises(errors.ContentMissing, match=digest.hex()):
        store.pin("bob", [digest])
    put(store, data, "bob")
    assert store.path_of("bob", digest) == store.path_of("ann", digest)
    assert store.index.size == 300


def test_an_upload_is_resumed_where_it_stopped(store: ContentStore) -> None:
    data = os.urandom(300)
    put(store, data, until=120)
    stored = store.stored("ann", digest_of(data))
    assert (stored.complete, stored.size) == (False, 120)
    assert store.stored("bob", digest_of(data)).size == 0
    put(store, data)
    path = store.path_of("ann", digest_of(data))
    assert path is not None
    assert path.read_bytes() == data


def test_an_upload_may_begin_before_what_is_there_and_nothing_of_that_is_left(store: ContentStore) -> None:
    data = os.urandom(100)
    digest = digest_of(data)
    wrong = store.begin("ann", digest, 300, 0)
    assert wrong is not None
    wrong.open()
    store.grow(wrong, 250)
    wrong.write(memoryview(bytes(250)))
    wrong.close()
    store.rest(wrong)
    upload = store.begin("ann", digest, 100, 0)
    assert upload is not None
    upload.open()
    store.grow(upload, 100)
    upload.write(memoryview(data))
    assert upload.seal() == digest
    upload.close()
    store.complete(upload)
    path = store.path_of("ann", digest)
    assert path is not None
    assert path.read_bytes() == data
    assert store.index.size == 100


def test_what_is_evicted_is_gone_from_the_disk_and_what_is_pinned_is_not(store: ContentStore, folder: Path) -> None:
    first, second, third = (os.urandom(400) for _ in range(3))
    put(store, first)
    put(store, second)
    pins = store.pin("ann", [digest_of(first)])
    put(store, third)
    assert store.path_of("ann", digest_of(first)) is not None
    assert store.path_of("ann", digest_of(second)) is None
    pins.release()
    pins.release()
    put(store, second)
    assert store.path_of("ann", digest_of(first)) is None
    store.threads.shutdown()
    names = {digest_of(data).hex() for data in (second, third)}
    assert files(folder) == {f"contents/{name}" for name in names} | {f"owners/{name}@ann" for name in names}


def test_a_restart_finds_contents_owners_and_parts_without_reading_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = os.open

    def only_the_lock(path: str | Path, *args: Any, **kwargs: Any) -> int:
        assert Path(path).name == "lock"
        return real_open(path, *args, **kwargs)

    store = ContentStore(folder, 1000)
    whole, part, late = os.urandom(300), os.urandom(200), os.urandom(100)
    put(store, whole)
    put(store, part, until=150)
    put(store, late)
    store.close()
    os.utime(folder / "contents" / digest_of(whole).hex(), (1, 1))  # the oldest
    (folder / "contents" / ("0" * 64)).write_bytes(b"of nobody")
    (folder / "owners" / ("1" * 64 + "@ann")).touch()
    (folder / "trash" / "1").write_bytes(b"left over")
    (folder / "contents" / "README").write_bytes(b"not ours")
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", only_the_lock)
        store = ContentStore(folder, 1000)
    assert store.stored("ann", digest_of(whole)).complete
    assert store.stored("ann", digest_of(part)).size == 150
    assert store.path_of("bob", digest_of(whole)) is None
    store.close()
    assert "contents/README" in files(folder)
    assert not any("0" * 64 in name or "1" * 64 in name or "trash" in name for name in files(folder))
    smaller = ContentStore(folder, 260)  # the oldest goes
    assert not smaller.stored("ann", digest_of(whole)).complete
    assert smaller.stored("ann", digest_of(late)).complete
    smaller.close()


def test_a_content_that_somebody_took_away_is_missing_and_can_be_put_again(store: ContentStore, folder: Path) -> None:
    data = os.urandom(300)
    put(store, data)
    (folder / "contents" / digest_of(data).hex()).unlink()
    with pytest.raises(errors.ContentMissing):
        store.pin("ann", [digest_of(data)])
    put(store, data)
    assert store.pin("ann", [digest_of(data)]).paths[0].read_bytes() == data


def test_one_folder_is_for_one_server(store: ContentStore, folder: Path) -> None:
    with pytest.raises(errors.ConfigurationError, match="another server"):
        ContentStore(folder, 1000)


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(errors.ConfigurationError, match="--store"):
        ContentStore(tmp_path / "file" / "store", 1000)


def test_a_private_store_goes_with_its_server_and_what_a_killed_one_left_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = tmp_path / "remotegpu-store-killed"
    (killed / "contents").mkdir(parents=True)
    os.utime(killed, (1, 1))
    store = ContentStore(None, 1000)
    assert not killed.exists()
    os.utime(store.folder, (1, 1))
    other = ContentStore(None, 1000)
    assert store.folder.exists()  # somebody has it
    other.close()
    store.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("digest", [b"", b"\0" * 31, b"\0" * 33])
def test_what_is_no_digest_is_refused(store: ContentStore, digest: bytes) -> None:
    for ask in (store.stored, lambda tenant, digest: store.begin(tenant, digest, 1, 0)):
        with pytest.raises(errors.InvalidInput, match="content digest"):
            ask("ann", digest)
