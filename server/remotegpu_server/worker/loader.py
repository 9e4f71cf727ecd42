# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Models come and go beside the programs: one thread loads, whatever the programs do meanwhile.

The daemon tells by a table what programs may call (`remotegpu.v1.ModelTable`). A model is loaded when the worker starts
("wanted"), by a command, or when a program asks for one that is not there. A command to load changes nothing that a
program sees; the table that follows does, at once and as a whole, and a program that runs keeps the sessions that it
has. So a model is exchanged without a failed call, and taken back by the old table if another device cannot load it.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from remotegpu import errors, wire
from remotegpu.v1 import worker_pb2 as pb
from remotegpu_server import repository
from remotegpu_server.backends.device import Device
from remotegpu_server.backends.models import Model
from remotegpu_server.backends.sessions import SessionOptions

from . import kinds
from .prepared import Loading
from .programs import NotLoaded
from .residency import NoRoom, Residency

logger = logging.getLogger("remotegpu.worker")

# How long a model that was loaded for a waiting program stays for it; the program comes for it within milliseconds,
# unless its caller has gone. Seconds.
_PROMISE = 1.0
# How long models that run are waited for when others are to take their place. Seconds.
_PATIENCE = 30.0

# Gets the answer to a command, or its error.
Answer = Callable[[bytes | errors.Error], None]


class Awaited(Loading):
    """A model that is on its way for programs that wait for it."""

    def __init__(self, file: pb.ModelFile) -> None:
        self.file = file
        # Leases that wait; they have it pinned when it arrives.
        self.leases: set[int] = set()

    def __repr__(self) -> str:
        return f"<loading {self.file.name}:{self.file.version}>"


@dataclass(frozen=True, slots=True)
class _Names:
    """A table, ready to be asked."""

    files: Mapping[int, pb.ModelFile] = field(default_factory=dict)
    ids: Mapping[tuple[str, str], int] = field(default_factory=dict)
    # References that were found.
    _found: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, table: pb.ModelTable) -> _Names:
        files = {file.id: file for file in table.files}
        ids = {(file.name, file.version): file.id for file in table.files}
        named = [(alias.name, alias.alias, alias.version) for alias in table.aliases]
        named += [(name, "", version) for name, version in table.defaults.items()]
        for name, alias, version in named:
            if (name, version) in ids:
                ids[name, alias] = ids[name, version]
        return cls(files, ids)

    def find(self, reference: str) -> pb.ModelFile:
        return self.files[self.number(reference)]

    def number(self, reference: str) -> int:
        number = self._found.get(reference)
        if number is not None:
            return number
        number = self.ids.get(repository.split(reference))
        if number is None:
            known = ", ".join(f"{file.name}:{file.version}" for file in islice(self.files.values(), 100))
            raise errors.ModelNotFound(field="model", limit=known or "none", given=reference)
        self._found[reference] = number
        return number


class Loader:
    """The models of one device. `get` and `drop` may be called by any thread."""

    def __init__(
        self,
        device: Device,
        options: SessionOptions,
        budget: int | None,
        ring: Callable[[], None],
        report: Callable[[bytes], None],
    ) -> None:
        """`budget`: bytes of loaded models, None: no limit. The thread that loads calls `ring` when a model that
        programs wait for is there, or cannot be loaded, and `report` with a `remotegpu.v1.ModelReport` then."""
        self._device = device
        self._options = options
        self._ring = ring
        self._report = report
        self._lock = threading.Lock()
        self._names = _Names()
        self._models: dict[int, Model] = {}
        self._residency = Residency(budget)
        # By file: what is known of it, whether it is loaded or not; and why it cannot be.
        self._states: dict[int, pb.ModelState] = {}
        self._unusable: dict[int, errors.Error] = {}
        # Loaded for programs that have not come for it yet; until when they may, on the monotonic clock.
        self._promised: dict[int, float] = {}
        # Those that are being loaded now, each for the one before it that calls it; and by which thread.
        self._opening: list[pb.ModelFile] = []
        self._thread = threading.get_ident()
        # Set when a model has ended its last run.
        self._idle = threading.Event()
        self._loading: dict[int, Awaited] = {}
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def open(self, table: bytes) -> bytes:
        """Takes over the table that the worker starts with, loads what is wanted, and reports. Before `serve`. A model
        that cannot be loaded is reported, since the rest must go on."""
        with self._lock:
            self._names = _Names.of(wire.parse(pb.ModelTable, table))
        for file in self._names.files.values():
            if not file.wanted:
                continue
            try:
                self._load(file)
            except errors.Error as error:
                logger.warning("%s (the others are served)", error)
                with self._lock:
                    if file.id not in self._unusable:  # too large for this device
                        self._state(file.id, "failed", reason=str(error))
        self._thread = 0  # until `serve`
        return self._reported()

    @property
    def used(self) -> int:
        """Bytes that loaded models are counted with."""
        return self._residency.used

    def get(self, reference: str, lease: int) -> Model | Loading:
        """The model that `name`, `name:version` or `name:alias` stands for now. It stays loaded while the lease lives.

        Raises ModelNotFound for another name, ModelUnusable for one that cannot be loaded; that there is no room for it
        is told by what stands for it until it is there."""
        with self._lock:
            number = self._names.number(reference)
            model = self._models.get(number)
            if model is not None:
                self._residency.use(number, lease)
                self._promised.pop(number, None)
                return model
            if number in self._unusable:
                raise self._unusable[number]
            return self._awaited(self._names.files[number], lease)

    def callee(self, reference: str) -> Model:
        """The model that a reference in a saved program stands for now. The thread that loads gets it loaded; others
        NotLoaded, if it is not. Raises as `get`."""
        if threading.get_ident() == self._thread:
            return self._loaded_at_once(reference)
        found = self.get(reference, 0)
        if isinstance(found, Loading):
            raise NotLoaded(found)
        return found

    def output_names(self, reference: str) -> list[str] | None:
        """The names of the outputs, in the model's order, if the model was loaded before; None otherwise. Raises
        ModelNotFound."""
        with self._lock:
            state = self._states.get(self._names.find(reference).id)
            known = state is not None and state.HasField("signature")
            return [output.name for output in state.signature.outputs] if state is not None and known else None

    def pin(self, number: int, lease: int) -> None:
        """That file, if programs may call it, gets loaded, and stays so while the lease lives."""
        with self._lock:
            if number in self._models:
                self._residency.use(number, lease)
            elif number in self._names.files and number not in self._unusable:
                self._awaited(self._names.files[number], lease)

    def drop(self, lease: int) -> None:
        """The lease is over: what it used may be evicted."""
        with self._lock:
            self._residency.end(lease)
            for loading in self._loading.values():
                loading.leases.discard(lease)

    def command(self, payload: bytes, answer: Answer) -> None:
        """Has a `remotegpu.v1.WorkerCommand` run by the thread that loads. `answer` is called there."""
        self._tasks.put(lambda: self._answer(payload, answer))

    def serve(self) -> None:
        """Runs commands and loads models, for ever: the thread that loads."""
        self._thread = threading.get_ident()
        while True:
            self._tasks.get()()

    # In the thread that loads, from here on.

    def _awaited(self, file: pb.ModelFile, lease: int) -> Awaited:
        """With the lock held, in any thread."""
        loading = self._loading.get(file.id)
        if loading is None:
            loading = self._loading[file.id] = Awaited(file)
            self._tasks.put(lambda: self._load_awaited(loading))
        if lease:
            loading.leases.add(lease)
        return loading

    def _load_awaited(self, loading: Awaited) -> None:
        with self._lock:
            is_served = loading.file.id in self._names.files
        try:
            if is_served:  # not unloaded meanwhile; those who wait for it ask again, and hear so
                self._load(loading.file)
        except errors.Error as error:
            logger.warning("%s", error)
            loading.error = error
        with self._lock:
            self._loading.pop(loading.file.id, None)
        # First: who has an answer of the model finds it in the catalog too.
        self._report(self._reported())
        self._ring()

    def _loaded_at_once(self, reference: str) -> Model:
        with self._lock:
            file = self._names.find(reference)
            if file.id in self._unusable:
                raise self._unusable[file.id]
        self._load(file)
        with self._lock:
            return self._models[file.id]

    def _answer(self, payload: bytes, answer: Answer) -> None:
        try:
            found: bytes | errors.Error = self._run(wire.parse(pb.WorkerCommand, payload))
        except errors.Error as error:
            found = error
        answer(found)

    def _run(self, command: pb.WorkerCommand) -> bytes:
        if command.WhichOneof("kind") == "load":
            self._load(command.load)
            return self._states[command.load.id].SerializeToString()
        self._publish(command.publish)
        return self._reported()

    def _load(self, file: pb.ModelFile) -> None:
        """Has the file loaded and warm. Raises ModelUnusable or OutOfMemory."""
        with self._lock:
            if file.id in self._models:
                return
            known = self._states.get(file.id)
            if not file.digest and known is not None:
                # It was evicted: what comes back must be what it was.
                file = pb.ModelFile.FromString(file.SerializeToString())
                file.digest = known.signature.digest
        self._check_no_cycle(file)
        self._opening.append(file)
        try:
            self._make_room(self._expected(file))
            model = self._loaded(file)
            self._make_room(model.nbytes)
        except NoRoom as full:
            raise _no_room(file, full) from None
        except errors.ModelUnusable as error:
            with self._lock:
                self._unusable[file.id] = error
                self._state(file.id, "failed", reason=error.why)
            raise
        finally:
            self._opening.pop()
        self._arrived(file, model)

    def _check_no_cycle(self, file: pb.ModelFile) -> None:
        if any(other.id == file.id for other in self._opening):
            names = " → ".join(f"{other.name}:{other.version}" for other in (*self._opening, file))
            raise errors.ModelUnusable(model=f"{file.name}:{file.version}", why=f"it comes to call itself: {names}")

    def _arrived(self, file: pb.ModelFile, model: Model) -> None:
        model.on_idle = self._has_room
        with self._lock:
            self._models[file.id] = model
            self._residency.add(file.id, model.nbytes)
            state = self._state(file.id, "loaded", memory=model.nbytes)
            state.signature.CopyFrom(model.signature)
            awaited = self._loading.get(file.id)
            if awaited is not None:
                for lease in awaited.leases:
                    self._residency.use(file.id, lease)
                self._promised[file.id] = time.monotonic() + _PROMISE

    def _has_room(self) -> None:
        """A model runs no longer; any thread says so. An event that is set costs more to set again than to ask, and who
        clears it looks for what runs after that."""
        if not self._idle.is_set():
            self._idle.set()

    def _expected(self, file: pb.ModelFile) -> int:
        """Bytes that it will take: what it took last time, else its size."""
        state = self._states.get(file.id)
        return max(file.size, state.memory if state is not None else 0)

    def _make_room(self, size: int) -> None:
        """Evicts what must go; waits for models that are only busy. Raises NoRoom."""
        until = time.monotonic() + _PATIENCE
        while True:
            self._idle.clear()
            with self._lock:
                try:
                    for number in self._residency.make_room(size, self._busy()):
                        self._evicted(number)
                    return
                except NoRoom as full:
                    if not full.passes or time.monotonic() > until:
                        raise
            self._idle.wait(_PROMISE)

    def _loaded(self, file: pb.ModelFile) -> Model:
        """Loads; as long as the device has no memory for it, others go."""
        while True:
            try:
                return kinds.load(file, self._device, self._options, self)
            except errors.OutOfMemory:
                with self._lock:
                    victim = self._residency.evict(self._busy())
                    if victim is None:
                        raise
                    self._evicted(victim)

    def _busy(self) -> set[int]:
        """With the lock held: what runs, and what was loaded for programs that are yet to come for it."""
        now = time.monotonic()
        self._promised = {number: until for number, until in self._promised.items() if until > now}
        return {number for number, model in self._models.items() if model.is_running} | set(self._promised)

    def _evicted(self, number: int) -> None:
        """With the lock held: forgets a session, which is gone when nobody has it in hand any more."""
        self._models.pop(number, None)
        state = self._states.get(number)
        if state is not None:
            state.state = "evicted"

    def _publish(self, table: pb.ModelTable) -> None:
        names = _Names.of(table)
        with self._lock:
            self._names = names
            for number in [number for number in self._states if number not in names.files]:
                self._states.pop(number)
                self._models.pop(number, None)
                self._residency.remove(number)
                self._unusable.pop(number, None)
            for file in names.files.values():
                if kinds.calls_models(file) and file.id in self._unusable:
                    del self._unusable[file.id], self._states[file.id]  # what it calls may be there now
                if file.wanted and file.id not in self._states:
                    self._awaited(file, 0)

    def _state(self, number: int, state: str, *, memory: int = 0, reason: str = "") -> pb.ModelState:
        """With the lock held."""
        made = self._states.setdefault(number, pb.ModelState(id=number))
        made.state, made.memory, made.reason = state, memory, reason
        return made

    def _reported(self) -> bytes:
        with self._lock:
            return pb.ModelReport(models=list(self._states.values())).SerializeToString()


def _no_room(file: pb.ModelFile, full: NoRoom) -> errors.OutOfMemory:
    operation = f"load of model {file.name}:{file.version}"
    why = "that is the memory for models, and models that live leases use take up too much of it"
    return errors.OutOfMemory(node=0, operation=operation, why=why, asked=full.asked, limit=full.limit)
