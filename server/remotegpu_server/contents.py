# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Contents on the disk: `contents/<digest>`, who has them (`owners/<digest>@<tenant>`), and what broken uploads have
left (`parts/<digest>@<tenant>`). What is whole never changes: it comes by an atomic rename and goes by another one.

Names are made, moved and taken away at once, on the thread that owns the store, so that the folder is always what the
index says; the bytes themselves are written, synced and deleted by threads.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from remotegpu import errors

from .content_index import Entry, Index

logger = logging.getLogger("remotegpu.contents")

DIGEST_SIZE = 32
# Threads that hash and write: enough for the disk, and no more than a few cores at once.
_THREADS = 4
_READ_SIZE = 1024 * 1024
_PRIVATE = "remotegpu-store-"
_LOCK, _CONTENTS, _OWNERS, _PARTS, _TRASH = "lock", "contents", "owners", "parts", "trash"
# The second part is absent for a content.
_NAME = re.compile(r"([0-9a-f]{64})(?:@(.+))?")
# Before a folder that nobody has locked counts as left over: it may be one that is being made. Seconds.
_MAKING = 60.0


def check_digest(digest: bytes) -> None:
    """Raises InvalidInput for what is no SHA-256 digest."""
    if len(digest) != DIGEST_SIZE:
        limit = f"{DIGEST_SIZE} bytes of SHA-256"
        raise errors.InvalidInput(field="content digest", limit=limit, given=f"{len(digest)} bytes")


@dataclass(frozen=True, slots=True)
class Stored:
    """What a tenant has of a content."""

    complete: bool
    size: int


class Upload:
    """The file of an upload under way. Its methods block on the disk; one after the other, whatever the thread."""

    def __init__(self, path: Path, entry: Entry, size: int) -> None:
        self.entry = entry
        self.size = size
        self._path = path
        self._start = entry.size
        self._lock = threading.Lock()
        self._hash = hashlib.sha256()
        self._descriptor = -1
        # A write has failed: the file does not have what the index says.
        self.failed = False

    @property
    def left(self) -> int:
        """Bytes that are still to come."""
        return self.size - self.entry.size

    def open(self) -> None:
        """Opens the file, cut to what is kept of an earlier upload, which is read again for the digest. Raises
        OSError."""
        with self._lock:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.ftruncate(self._descriptor, self._start)
            for position in range(0, self._start, _READ_SIZE):
                piece = os.pread(self._descriptor, min(_READ_SIZE, self._start - position), position)
                self._hash.update(piece)
            os.lseek(self._descriptor, self._start, os.SEEK_SET)

    def write(self, piece: memoryview) -> None:
        """Appends bytes. Raises OSError."""
        with self._lock:
            self.failed = True
            self._hash.update(piece)
            while len(piece):
                piece = piece[os.write(self._descriptor, piece) :]
            self.failed = False

    def seal(self) -> bytes:
        """Brings everything to the disk; the digest of all bytes. Raises OSError."""
        with self._lock:
            os.fsync(self._descriptor)
            return self._hash.digest()

    def close(self) -> None:
        """Closes the file, after a write that is still under way."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1


class ContentStore:
    """Contents by SHA-256 within `size` bytes. All methods for one thread, and quick: they touch names only."""

    def __init__(self, folder: Path | None, size: int) -> None:
        """`folder` keeps its contents over restarts; None: a private temporary one, which ends with the store.

        Reads names and sizes, no contents. Raises ConfigurationError for a folder that cannot be used, or that another
        server uses."""
        self.index = Index(size)
        self._is_private = folder is None
        try:
            if folder is None:
                _sweep()
                folder = Path(tempfile.mkdtemp(prefix=_PRIVATE))
            self.folder = folder.absolute()
            for name in ("", _CONTENTS, _OWNERS, _PARTS, _TRASH):
                (self.folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _locked(self.folder)
            if self._lock < 0:
                raise errors.ConfigurationError(setting="--store", why=f"{folder} is in use by another server")
            self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="contents")
            self._trashed = 0
            self._scan()
        except OSError as error:
            raise errors.ConfigurationError(setting="--store", why=f"{folder}: {error.strerror}") from error

    def close(self) -> None:
        """Waits for what is being written or deleted, and gives the folder up."""
        self.threads.shutdown()
        if self._is_private:
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)

    # What is there.

    def stored(self, tenant: str, digest: bytes) -> Stored:
        """What that tenant has of a content. Raises InvalidInput for what is no digest."""
        check_digest(digest)
        entry = self._present(tenant, digest)
        if entry is not None:
            self.index.use(entry)
            return Stored(True, entry.size)
        part = self.index.part(tenant, digest)
        return Stored(False, part.size if part is not None else 0)

    def path_of(self, tenant: str, digest: bytes) -> Path | None:
        """The file of a content, if that tenant has it. It may go at any time unless it is pinned."""
        entry = self._present(tenant, digest)
        return None if entry is None else self._content_path(entry)

    def pin(self, tenant: str, digests: Sequence[bytes]) -> Pins:
        """Keeps contents until `Pins.release`, for a call or a loaded model.

        Raises ContentMissing, which names those that the tenant does not have, InvalidInput for what is no digest."""
        entries: list[Entry] = []
        missing: list[bytes] = []
        for digest in digests:
            check_digest(digest)
            entry = self._present(tenant, digest)
            if entry is None:
                missing.append(digest)
            else:
                entries.append(entry)
        if missing:
            raise missing_error(missing)
        for entry in entries:
            self.index.pin(entry)
        return Pins(self.index, entries, [self._content_path(entry) for entry in entries])

    def _present(self, tenant: str, digest: bytes) -> Entry | None:
        entry = self.index.find(tenant, digest)
        if entry is None:
            return None
        try:
            if self._content_path(entry).stat().st_size == entry.size:
                return entry
        except FileNotFoundError:
            pass
        # Somebody has been at the folder. As if it had never been put, so that it is put again.
        logger.warning("content %s is gone from %s", digest.hex(), self.folder)
        self.index.remove(entry)
        self._delete([entry])
        return None

    # Uploads. In this order: begin, then `grow` before each `Upload.write`, then one of complete, rest, discard.

    def begin(self, tenant: str, digest: bytes, size: int, offset: int) -> Upload | None:
        """An upload from `offset` on, which must be at most what is there of it; None if the tenant has the content
        already. Raises InvalidInput or StoreFull."""
        check_digest(digest)
        if self._present(tenant, digest) is not None:
            return None
        entry = self.index.begin(tenant, digest, size, offset)
        return Upload(self._part_path(entry), entry, size)

    def grow(self, upload: Upload, count: int) -> None:
        """So many more bytes are about to be written. Raises StoreFull."""
        self._delete(self.index.grow(upload.entry, count))

    def complete(self, upload: Upload) -> None:
        """All bytes are on the disk, and have the right digest. Raises OSError, and leaves the part."""
        entry = upload.entry
        owner = self._owner_path(entry.digest, entry.tenant)
        owner.touch(mode=0o600)
        # Over the same bytes of another tenant, or over nothing.
        self._part_path(entry).replace(self._content_path(entry))
        _, evicted = self.index.complete(entry)
        self._delete(evicted)

    def rest(self, upload: Upload) -> None:
        """It broke off; what has come is kept as long as there is room."""
        self.index.unpin(upload.entry)
        if not upload.entry.size:
            self.index.remove(upload.entry)
            self._delete([upload.entry])

    def discard(self, upload: Upload) -> None:
        """It cannot be used: nothing of it is kept."""
        self.index.remove(upload.entry)
        self._delete([upload.entry])

    # Names.

    def _content_path(self, entry: Entry) -> Path:
        return self.folder / _CONTENTS / entry.digest.hex()

    def _owner_path(self, digest: bytes, tenant: str) -> Path:
        return self.folder / _OWNERS / f"{digest.hex()}@{tenant}"

    def _part_path(self, entry: Entry) -> Path:
        return self.folder / _PARTS / f"{entry.digest.hex()}@{entry.tenant}"

    def _delete(self, entries: Sequence[Entry]) -> None:
        """Takes names away now; a thread gives the space back, which takes a while for large files."""
        for entry in entries:
            for owner in entry.owners:
                self._owner_path(entry.digest, owner).unlink(missing_ok=True)
            path = self._part_path(entry) if entry.tenant else self._content_path(entry)
            self._trashed += 1
            trash = self.folder / _TRASH / str(self._trashed)
            try:
                path.replace(trash)
            except FileNotFoundError:
                continue  # nothing was written yet, or somebody has been at the folder
            self.threads.submit(trash.unlink)

    def _scan(self) -> None:
        """Takes over what an earlier server has left: names and sizes, in the order in which they were written."""
        for path in _files(self.folder / _TRASH):
            path.unlink()
        owners: dict[bytes, set[str]] = {}
        for _, digest, tenant in _named(self.folder / _OWNERS):
            owners.setdefault(digest, set()).add(tenant)
        found: list[tuple[float, Entry]] = []
        for path, digest, _ in _named(self.folder / _CONTENTS):
            facts = path.stat()
            found.append((facts.st_mtime, Entry(digest, size=facts.st_size, owners=owners.pop(digest, set()))))
        for path, digest, tenant in _named(self.folder / _PARTS):
            facts = path.stat()
            found.append((facts.st_mtime, Entry(digest, tenant, facts.st_size)))
        # Owners of nothing, and contents of nobody: what a crash has left between two names.
        left = [Entry(digest, owners=tenants) for digest, tenants in owners.items()]
        for _, entry in sorted(found, key=lambda item: item[0]):
            if entry.tenant or entry.owners:
                self.index.restore(entry)
            else:
                left.append(entry)
        self._delete([*left, *self.index.trim()])


class Pins:
    """Contents that stay until `release`, in the order in which they were asked for."""

    def __init__(self, index: Index, entries: Sequence[Entry], paths: Sequence[Path]) -> None:
        self.entries = entries
        self.paths = paths
        self._index = index

    def release(self) -> None:
        """Nobody needs them here any more. Harmless the second time."""
        for entry in self.entries:
            self._index.unpin(entry)
        self.entries = ()


def missing_error(digests: Sequence[bytes]) -> errors.ContentMissing:
    """The error that names these digests, as many as fit into it."""
    return errors.ContentMissing(digests=" ".join(digest.hex() for digest in digests[:16]))


def _named(folder: Path) -> Iterator[tuple[Path, bytes, str]]:
    """The files of a folder with the digest and the tenant that they are named after; others are passed over."""
    for path in _files(folder):
        match = _NAME.fullmatch(path.name)
        if match is not None:
            yield path, bytes.fromhex(match[1]), match[2] or ""


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in list(folder.iterdir()) if path.is_file())


def _locked(folder: Path) -> int:
    """A descriptor that locks the folder as long as it is open; -1 if another process has it."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return -1
    return descriptor


def _sweep() -> None:
    """Removes the temporary stores of servers that were killed: of this user's, those that nobody has locked."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PRIVATE}*"):
        try:
            facts = folder.lstat()
            if facts.st_uid != os.getuid() or time.time() - facts.st_mtime < _MAKING:
                continue  # somebody else's, or one that is being made
            lock = _locked(folder)
        except OSError:
            continue  # it went meanwhile
        if lock >= 0:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
