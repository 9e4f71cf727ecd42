# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Which models stay loaded: the least recently used goes, and none that a live lease has used."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from remotegpu import errors
from remotegpu.v1 import worker_pb2 as pb
from remotegpu_server.backends.host import HostDevice
from remotegpu_server.backends.models import Model
from remotegpu_server.backends.sessions import SessionOptions
from remotegpu_server.worker.loader import Loader
from remotegpu_server.worker.prepared import Loading
from remotegpu_server.worker.residency import NoRoom, Residency

from .fixtures.onnx_models import scale, write


def loaded(budget: int | None, *sizes: int) -> Residency:
    residency = Residency(budget)
    for model, size in enumerate(sizes, start=1):
        residency.add(model, size)
    return residency


def test_the_least_recently_used_goes_and_no_more_than_must() -> None:
    residency = loaded(10, 3, 3, 3)
    assert residency.make_room(1) == []
    residency.use(1)
    assert residency.make_room(4) == [2]
    assert residency.used == 6
    residency.add(4, 4)
    assert residency.make_room(10) == [3, 1, 4]
    assert residency.used == 0


def test_what_a_lease_uses_stays_until_the_lease_ends() -> None:
    residency = loaded(10, 5, 5)
    residency.use(1, lease=7)
    residency.use(1, lease=8)
    assert residency.make_room(5) == [2]
    with pytest.raises(NoRoom) as caught:
        residency.make_room(6)
    assert (caught.value.asked, caught.value.limit, caught.value.passes) == (6, 10, False)
    residency.end(7)
    assert residency.evict() is None
    residency.end(8)
    assert residency.make_room(6) == [1]


def test_what_is_busy_stays_for_the_moment() -> None:
    residency = loaded(10, 5, 5)
    residency.use(2, lease=7)
    with pytest.raises(NoRoom) as caught:
        residency.make_room(5, busy={1})
    assert caught.value.passes
    assert residency.evict(busy={1}) is None
    assert residency.make_room(5) == [1]


def test_no_budget_evicts_only_when_the_device_has_no_more() -> None:
    residency = loaded(None, 5, 5)
    assert residency.make_room(1 << 60) == []
    assert residency.evict() == 1
    assert 1 not in residency
    assert residency.used == 5


class Machine(RuleBasedStateMachine):
    """Against a list in the order of last use."""

    BUDGET = 20
    models = st.integers(1, 6)
    leases = st.integers(1, 4)

    def __init__(self) -> None:
        super().__init__()
        self.residency = Residency(self.BUDGET)
        self.order: list[int] = []
        self.sizes: dict[int, int] = {}
        self.pins: dict[int, set[int]] = {}

    @rule(model=models, size=st.integers(1, 12), busy=st.sets(models, max_size=2))
    def load(self, model: int, size: int, busy: set[int]) -> None:
        if model in self.order:
            return
        idle = [m for m in self.order if not self.pins[m] and m not in busy]
        fits = sum(self.sizes.values()) - sum(self.sizes[m] for m in idle) + size <= self.BUDGET
        try:
            going = self.residency.make_room(size, busy)
        except NoRoom as full:
            passes: bool | None = full.passes
        else:
            passes = None
        assert fits == (passes is None)
        if passes is not None:
            pinned = sum(self.sizes[m] for m in self.order if self.pins[m])
            assert passes == (pinned + size <= self.BUDGET)
            return
        assert going == idle[: len(going)]
        free = self.BUDGET - sum(self.sizes.values())
        assert not going or free + sum(self.sizes[m] for m in going[:-1]) < size
        for gone in going:
            self.forget(gone)
        self.residency.add(model, size)
        self.order.append(model)
        self.sizes[model], self.pins[model] = size, set()

    def forget(self, model: int) -> None:
        self.order.remove(model)
        del self.sizes[model], self.pins[model]

    @rule(model=models, lease=st.just(0) | leases)
    def use(self, model: int, lease: int) -> None:
        if model in self.order:
            self.residency.use(model, lease)
            self.pins[model] |= {lease} - {0}
            self.order.remove(model)
            self.order.append(model)

    @rule(lease=leases)
    def end(self, lease: int) -> None:
        self.residency.end(lease)
        for pins in self.pins.values():
            pins.discard(lease)

    @rule(model=models)
    def unload(self, model: int) -> None:
        self.residency.remove(model)
        if model in self.order:
            self.forget(model)

    @invariant()
    def agrees(self) -> None:
        assert self.residency.used == sum(self.sizes.values()) <= self.BUDGET
        assert all((model in self.residency) == (model in self.order) for model in range(1, 7))
        assert all(self.residency.size(model) == size for model, size in self.sizes.items())


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def loader_of(tmp_path: Path, budget: int) -> tuple[Loader, pb.ModelTable]:
    """A loader, whose tasks are for the caller to run, and a table with one model that is not loaded yet."""
    path = write(tmp_path, "m", 1, scale(2))
    file = pb.ModelFile(id=1, name="m", version="1", path=str(path), size=path.stat().st_size)
    table = pb.ModelTable(files=[file], defaults={"m": "1"})
    loader = Loader(Unlimited(), SessionOptions(threads=1), budget, lambda: None, lambda report: None)
    loader.open(table.SerializeToString())
    return loader, table


class Unlimited(HostDevice):
    """Without the limit of the process, which would be that of the tests."""

    def __init__(self) -> None:
        self._memory = 1 << 40
        self._arenas = []


def run_tasks(loader: Loader) -> None:
    while not loader._tasks.empty():
        loader._tasks.get()()


def test_what_waits_for_a_model_without_room_hears_so_however_late_it_asks(tmp_path: Path) -> None:
    loader, _ = loader_of(tmp_path, budget=1)
    waiting = loader.get("m", 0)
    assert isinstance(waiting, Loading)
    assert waiting.error is None
    run_tasks(loader)
    assert isinstance(waiting.error, errors.OutOfMemory)


def test_a_lease_that_names_a_model_has_it_loaded_and_kept(tmp_path: Path) -> None:
    loader, _ = loader_of(tmp_path, budget=1 << 20)
    loader.pin(2, lease=6)  # a file that is not served
    loader.pin(1, lease=7)
    run_tasks(loader)
    assert loader.used > 0
    loader.pin(1, lease=8)
    loader.drop(7)
    assert loader._residency.evict() is None
    loader.drop(8)
    assert loader._residency.evict() == 1


def test_a_model_that_was_unloaded_before_its_turn_is_not_loaded(tmp_path: Path) -> None:
    loader, _ = loader_of(tmp_path, budget=1 << 20)
    loader.command(pb.WorkerCommand(publish=pb.ModelTable()).SerializeToString(), lambda answer: None)
    assert isinstance(loader.get("m", 0), Loading)
    run_tasks(loader)
    assert loader.used == 0
    with pytest.raises(errors.ModelNotFound):
        loader.get("m", 0)


def test_a_model_that_was_evicted_comes_back_as_it_was(tmp_path: Path) -> None:
    loader, _ = loader_of(tmp_path, budget=1 << 20)
    loader.get("m", 0)
    run_tasks(loader)
    assert isinstance(loader.get("m", 0), Model)
    loader._evicted(1)
    write(tmp_path, "m", 1, scale(3))
    waiting = loader.get("m", 0)
    assert isinstance(waiting, Loading)
    run_tasks(loader)
    assert isinstance(waiting.error, errors.ModelUnusable)
    assert "changed" in waiting.error.why
