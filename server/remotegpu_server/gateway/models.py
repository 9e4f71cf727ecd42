# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Models of all devices: what is served, and how that is changed while calls go on.

A change happens on all devices or on none. First every worker loads the new file, beside all that it serves; only when
all have it do they get the new table, which names it. If one cannot load it, they get the old table, and forget it. A
worker that dies meanwhile is started with the table that holds then, and told again before the change counts as done.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remotegpu import errors, wire
from remotegpu.v1 import compute_pb2, repository_pb2
from remotegpu.v1 import worker_pb2 as pb
from remotegpu_server import repository
from remotegpu_server.repository import Entry
from remotegpu_server.supervisor.worker import START_PATIENCE, DeviceWorker

from . import uploads
from .served import Known, Served
from .standing import failure_of, loaded_names, standing, without_version

logger = logging.getLogger("remotegpu.gateway")

# How often a table is sent to a worker that dies over it.
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Upload:
    """A model file that a caller has uploaded, and its SHA-256."""

    path: Path
    digest: bytes


class ModelRegistry:
    """The models of a server. `catalog` is what may be called and was loaded once, kept up to date in place."""

    def __init__(self, folder: Path | None, catalog: compute_pb2.Catalog | None = None) -> None:
        """`folder` is the repository. Raises ConfigurationError if it cannot be served."""
        self.catalog = compute_pb2.Catalog() if catalog is None else catalog
        self.workers: Sequence[DeviceWorker] = ()
        self._folder = folder
        try:
            found = repository.scan(folder) if folder else repository.Repository()
        except OSError as error:
            raise errors.ConfigurationError(setting="--models", why=str(error)) from error
        for why in found.problems.values():
            logger.warning("--models: %s (the others are served)", why)
        self._problems = found.problems
        self._served = Served.of(found)
        # By device: what its worker has said of the files that it has loaded, now or before.
        self._states: dict[int, dict[int, pb.ModelState]] = {}
        # What a device's worker was started with.
        self._given: dict[int, Served] = {}
        self._coming: set[tuple[str, str]] = set()
        # By file: the first load of a version that callers have asked for.
        self._first_loads: dict[int, asyncio.Task[None]] = {}
        # One change after the other; they go on although their callers have gone.
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._uploads: Path | None = None

    def close(self) -> None:
        """Deletes the copies of uploaded files."""
        for task in self._tasks:
            task.cancel()
        if self._uploads is not None:
            shutil.rmtree(self._uploads, ignore_errors=True)

    # What the supervisor tells and asks.

    def table_for(self, index: int) -> bytes:
        """What a new worker of that device is to serve: a `remotegpu.v1.ModelTable`."""
        self._given[index] = self._served
        self._states.pop(index, None)
        return self._served.table().SerializeToString()

    def worker_ready(self, index: int, report: bytes) -> None:
        """A worker is warm; `report` is its first `remotegpu.v1.ModelReport`."""
        self.reported(index, report)
        given = self._given.get(index)
        if given is not None and given.table() != self._served.table():
            self._task(self._publish(self._served))

    def reported(self, index: int, report: bytes) -> None:
        """A worker says which models it has loaded."""
        message = wire.parse(pb.ModelReport, report)
        self._states[index] = {state.id: state for state in message.models}
        for state in message.models:
            if state.HasField("signature"):
                self._served = self._served.with_digest(state.id, state.signature.digest)
        self._refresh()

    def worker_lost(self, index: int) -> None:
        """What it had loaded is gone."""
        self._states.pop(index, None)

    # What is served.

    def find(self, name: str, version: str = "") -> compute_pb2.ModelSignature:
        """The signature of a model: `version` is a number, an alias, or "" for the default.

        Raises ModelNotFound for what may not be called, ModelUnusable for a version that was never loaded or could not
        be; `signature` loads it."""
        known = self._served.find(name, version)
        found = self._signature(known)
        if found is None:
            why = self._failure(known) or "it was not asked for yet; the first call loads it"
            raise errors.ModelUnusable(model=f"{known.entry.name}:{known.entry.version}", why=why)
        return found

    async def signature(self, name: str, version: str = "") -> compute_pb2.ModelSignature:
        """As `find`, but loads a version that was never loaded. Raises ModelNotFound, ModelUnusable or OutOfMemory."""
        known = self._served.find(name, version)
        if self._signature(known) is None and not self._failure(known):
            await self._loaded_once(known)
        return self.find(name, version)

    async def _loaded_once(self, known: Known) -> None:
        """However many ask for it, it is loaded once, so that those who change models need not wait for all of them."""
        first = self._first_loads.get(known.number)
        if first is None:
            first = self._first_loads[known.number] = self._task(self._in_turn(self._load_once(known)))
            first.add_done_callback(lambda _: self._first_loads.pop(known.number))
        await asyncio.shield(first)

    def is_known(self, name: str) -> bool:
        """Whether there is a model of that name, even if all its versions were unloaded."""
        return name in self._served.versions

    def version_exists(self, name: str, version: str = "") -> bool:
        """Whether a call may name it."""
        return self.number_of(name, version) > 0

    def number_of(self, name: str, version: str = "") -> int:
        """The number of the file that such a call would run, from 1; 0: there is none."""
        try:
            return self._served.find(name, version).number
        except errors.ModelNotFound:
            return 0

    def trouble_with(self, reference: str) -> str:
        """A sentence if no device serves what a reference names; "" if the ones in service do, or will at a call."""
        try:
            known = self._served.find(reference)
        except errors.ModelNotFound as error:
            return f"no device serves it: {self._problems.get(reference) or error}"
        failure = self._failure(known)
        return f"no device serves {known.entry.name}:{known.entry.version}: {failure}" if failure else ""

    def loaded_on(self, index: int) -> set[str]:
        """The names of the models that a device has loaded now."""
        return loaded_names(self._all(), self._states.get(index, {}))

    def index(self, name: str = "") -> list[repository_pb2.IndexEntry]:
        """All that is known, or all versions of one model. Raises ModelNotFound for an unknown name."""
        entries = [self._entry(known) for known in self._all() if not name or known.entry.name == name]
        entries += without_version(self._problems, self._served, name)
        if name and not entries:
            raise self._served.not_found(name, "")
        return entries

    # Changes.

    async def load(
        self, name: str, version: str = "", aliases: Sequence[str] = (), upload: Upload | None = None
    ) -> None:
        """Serves a version: from the repository ("": its highest), again if its file has changed, or from an upload
        ("": one more than the highest). Answers when it is warm on every device in service.

        Raises InvalidInput for an unusable name, ModelNotFound, ModelUnusable, OutOfMemory or Unavailable; nothing has
        changed then."""
        if not repository.is_name(name):
            raise errors.InvalidInput(field="name", limit=repository.NAMES, given=f"{name!r:.80}")
        if upload is not None and version and not repository.is_version(version):
            raise errors.InvalidInput(field="version", limit=repository.VERSIONS, given=f"{version!r:.80}")
        for alias in aliases:
            if not repository.is_alias(alias):
                raise errors.InvalidInput(field="alias", limit=repository.ALIAS_NAMES, given=f"{alias!r:.80}")
        await self._changed(self._load(name, version, aliases, upload))

    async def unload(self, name: str, version: str = "") -> None:
        """No longer serves a version (a number or an alias), or all of that name. Calls that run on it go on. Raises
        ModelNotFound."""
        number = self._served.find(name, version).entry.version if version else ""
        await self._changed(self._swap(lambda served: served.without(name, number)))

    async def set_alias(self, name: str, alias: str, version: str = "") -> None:
        """Gives a version another name, or ("") takes it away. Raises InvalidInput or ModelNotFound."""
        await self._changed(self._swap(lambda served: served.with_alias(name, alias, version)))

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _changed(self, work: Coroutine[Any, Any, None]) -> None:
        """Does the work to its end, one after the other, even if the caller goes away meanwhile."""
        await asyncio.shield(self._task(self._in_turn(work)))

    async def _in_turn(self, work: Coroutine[Any, Any, None]) -> None:
        async with self._changing:
            await work

    async def _swap(self, change: Callable[[Served], Served]) -> None:
        before = self._served
        self._served = change(before)
        await self._publish(self._served)
        self._forget_uploads(before)

    async def _load(self, name: str, version: str, aliases: Sequence[str], upload: Upload | None) -> None:
        if upload is None:
            entry, digest = await asyncio.to_thread(self._in_repository, name, version)
        else:
            entry, digest = await asyncio.to_thread(self._kept, name, version, upload), upload.digest
        try:
            await self._load_entry(entry, digest, aliases, uploaded=upload is not None)
        finally:
            if upload is not None and all(known.entry.path != entry.path for known in self._all()):
                entry.path.unlink(missing_ok=True)

    async def _load_entry(self, entry: Entry, digest: bytes, aliases: Sequence[str], *, uploaded: bool) -> None:
        name, known = entry.name, self._served.versions.get(entry.name, {}).get(entry.version)
        is_same = known is not None and not known.unloaded and known.digest == digest and self._is_loaded(known)
        # The digest is the model file's: of what lies beside it nobody knows whether it has changed.
        is_new = not is_same or not entry.is_alone
        wanted = (
            self._served.with_file(entry, wanted=True, digest=digest, uploaded=uploaded)
            if is_new
            else self._served.with_wanted(name, entry.version)
        )
        for alias in aliases:
            wanted = wanted.with_alias(name, alias, entry.version)
        self._coming.add((name, entry.version))
        try:
            if is_new:
                await self._prepare(wanted.versions[name][entry.version].file())
        finally:
            self._coming.discard((name, entry.version))
        # What was reported meanwhile is about files that both have.
        await self._swap(lambda served: wanted)

    async def _prepare(self, file: pb.ModelFile) -> None:
        """Has all workers load a file. Raises what the first of them says that cannot, and has the others forget it."""
        payload = pb.WorkerCommand(load=file).SerializeToString()
        outcomes = await asyncio.gather(*(self._tell(w, payload, 1) for w in self.workers), return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if failures:
            await self._publish(self._served)
            if isinstance(failures[0], ConnectionResetError):
                why = "a worker died while it loaded it"
                raise errors.ModelUnusable(model=f"{file.name}:{file.version}", why=why)
            raise failures[0]

    async def _load_once(self, known: Known) -> None:
        await self._prepare(known.file())
        await self._publish(self._served)

    async def _publish(self, served: Served) -> None:
        """Tells all workers what holds. One that cannot be told is started again, with what holds then."""
        payload = pb.WorkerCommand(publish=served.table()).SerializeToString()

        async def tell(worker: DeviceWorker) -> None:
            try:
                answer = await self._tell(worker, payload, _ATTEMPTS)
            except (ConnectionResetError, errors.Error) as error:
                logger.warning("device %d was not told of the models: %s", worker.spec.index, error)
            else:
                if answer is not None:
                    self.reported(worker.spec.index, answer)

        await asyncio.gather(*map(tell, self.workers))
        self._refresh()

    async def _tell(self, worker: DeviceWorker, payload: bytes, attempts: int) -> bytes | None:
        """A command to the worker of a device; None if the device is out of service. Raises the error that it answers,
        or ConnectionResetError."""
        for attempt in range(attempts):
            try:
                life = await worker.life()
            except errors.DeviceFailed:
                return None
            try:
                async with asyncio.timeout(START_PATIENCE):
                    return await life.command(payload)
            except TimeoutError:
                life.end("it did not answer a command about models")
                raise ConnectionResetError from None
            except ConnectionResetError:
                if attempt == attempts - 1:
                    raise
        return None

    def _in_repository(self, name: str, version: str) -> tuple[Entry, bytes]:
        """In a thread: what the repository has now. Raises ModelNotFound or ModelUnusable."""
        if self._folder is None or not (self._folder / name).is_dir():
            raise self._served.not_found(name, version)
        try:
            versions, aliases = repository.scan_model(self._folder / name)
            number = aliases.get(version, version) or max(versions, key=int)
            if number not in versions:
                raise self._served.not_found(name, version)
            return versions[number], uploads.digest_of(versions[number].path)
        except (ValueError, OSError) as error:
            raise errors.ModelUnusable(model=f"{name}:{version or 'latest'}", why=str(error)) from error

    def _kept(self, name: str, version: str, upload: Upload) -> Entry:
        """In a thread: a copy that lives as long as the model, whatever becomes of the uploaded content."""
        if self._uploads is None:
            self._uploads = Path(tempfile.mkdtemp(prefix="remotegpu-models-"))
        if not version:
            known = self._served.versions.get(name, {})
            version = str(max(map(int, known), default=0) + 1)
        path = self._uploads / f"{self._served.next_number}{uploads.kind_of(upload.path)}"
        try:
            shutil.copyfile(upload.path, path)
            if uploads.digest_of(path) != upload.digest:
                raise OSError("the content is no longer whole")
        except OSError as error:
            path.unlink(missing_ok=True)
            raise errors.ModelUnusable(model=f"{name}:{version}", why=f"its content: {error}") from error
        return Entry(name, version, path, path.stat().st_size)

    def _forget_uploads(self, before: Served) -> None:
        """Deletes the files of uploaded models that are no longer known."""
        kept = {known.entry.path for known in self._all()}
        for versions in before.versions.values():
            for known in versions.values():
                if known.uploaded and known.entry.path not in kept:
                    known.entry.path.unlink(missing_ok=True)

    # What is told of them.

    def _all(self) -> Iterator[Known]:
        for name in sorted(self._served.versions):
            versions = self._served.versions[name]
            yield from (versions[version] for version in sorted(versions, key=int))

    def _of(self, known: Known) -> dict[int, pb.ModelState]:
        """By device, what its worker says of that file."""
        return {index: states[known.number] for index, states in self._states.items() if known.number in states}

    def _signature(self, known: Known) -> compute_pb2.ModelSignature | None:
        for state in self._of(known).values():
            if state.HasField("signature"):
                entry = known.entry
                found = compute_pb2.ModelSignature()
                found.CopyFrom(state.signature)
                found.is_default = self._served.default(entry.name) == entry.version
                found.aliases.extend(self._served.aliases_of(entry.name, entry.version))
                return found
        return None

    def _failure(self, known: Known) -> str:
        return failure_of(self._of(known))

    def _is_loaded(self, known: Known) -> bool:
        states = self._of(known)
        ready = [worker.spec.index for worker in self.workers if worker.state == "ready"]
        return bool(ready) and all(index in states and states[index].state == "loaded" for index in ready)

    def _refresh(self) -> None:
        """Brings the catalog up to date."""
        made = compute_pb2.Catalog()
        for known in self._all():
            signature = None if known.unloaded else self._signature(known)
            if signature is not None:
                made.models.append(signature)
        made.digest = hashlib.sha256(made.SerializeToString(deterministic=True)).digest()[:16]
        if made.digest != self.catalog.digest:
            self.catalog.CopyFrom(made)

    def _entry(self, known: Known) -> repository_pb2.IndexEntry:
        entry, states = known.entry, self._of(known)
        state, reason = standing(known, states, coming=(entry.name, entry.version) in self._coming)
        return repository_pb2.IndexEntry(
            name=entry.name,
            version=entry.version,
            state=state,
            reason=reason,
            aliases=self._served.aliases_of(entry.name, entry.version),
            is_default=self._served.default(entry.name) == entry.version,
            memory=max((item.memory for item in states.values() if item.state == "loaded"), default=0),
            size=entry.size,
        )
