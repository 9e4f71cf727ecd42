# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The model repository: what a folder has, what of it is served, and how that changes; no server, no models."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from remotegpu import errors
from remotegpu.v1 import compute_pb2, worker_pb2
from remotegpu_server import repository
from remotegpu_server.gateway.models import ModelRegistry, Upload
from remotegpu_server.gateway.served import MOST_ALIASES, Served
from remotegpu_server.supervisor.worker import DeviceWorker

from .fixtures.onnx_models import write


def versions(root: Path, name: str, *numbers: str) -> Path:
    for number in numbers:
        folder = root / name / number
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(b"1234")
    return root / name


def test_finds_versions_in_the_order_of_numbers_with_sizes_and_aliases(tmp_path: Path) -> None:
    folder = versions(tmp_path, "digits", "10", "9", "2")
    (folder / "9" / "weights.bin").write_bytes(b"123456")
    (folder / "aliases.toml").write_text('stable = 9\nnext = "10"\n')
    (tmp_path / "README.md").write_text("not a model")
    (tmp_path / ".git").mkdir()
    (folder / "notes").mkdir()
    found = repository.scan(tmp_path)
    assert list(found.entries) == ["digits"]
    assert list(found.entries["digits"]) == ["2", "9", "10"]
    assert found.entries["digits"]["9"] == repository.Entry("digits", "9", folder / "9" / "model.onnx", 10, False)
    assert found.aliases == {"digits": {"stable": "9", "next": "10"}}


@pytest.mark.parametrize(
    ("name", "made", "why"),
    [
        ("a b", ["1"], "a model's name is"),
        ("-a", ["1"], "a model's name is"),
        ("ä", ["1"], "a model's name is"),
        ("a:b", ["1"], "a model's name is"),
        ("a" * 129, ["1"], "a model's name is"),
        ("a", ["01"], "a version is"),
        ("a", ["1" + "0" * 18], "a version is"),
        ("a", [], "no <version>/model.onnx"),
        ("a", ["x1"], "no <version>/model.onnx"),
    ],
)
def test_what_it_cannot_serve_is_a_problem_of_that_model_alone(
    tmp_path: Path, name: str, made: list[str], why: str
) -> None:
    (tmp_path / name).mkdir()
    versions(tmp_path, name, *made)
    versions(tmp_path, "good", "1")
    found = repository.scan(tmp_path)
    assert (list(found.entries), list(found.aliases), list(found.problems)) == (["good"], ["good"], [name])
    assert f"{tmp_path / name}" in found.problems[name]
    assert why in found.problems[name]
    with pytest.raises(ValueError, match=re.escape(why)):
        repository.scan_model(tmp_path / name)


def test_a_name_that_no_message_can_tell_is_a_problem_that_one_can(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"a\xff")).mkdir()
    ((name, why),) = repository.scan(tmp_path).problems.items()
    assert name == "a?"
    assert b"a model's name is" in why.encode()


def test_a_version_without_a_file_is_told(tmp_path: Path) -> None:
    versions(tmp_path, "a", "1")
    (tmp_path / "a" / "2").mkdir()
    assert "a/2: no model.onnx in it" in repository.scan(tmp_path).problems["a"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("stable = 3", "the versions are 1, 2"),
        ("stable = true", "the versions are 1, 2"),
        ('"../x" = 1', "an alias is"),
        ("7 = 1", "an alias is"),
        ("stable = ", "aliases.toml"),
    ],
)
def test_refuses_aliases_that_lead_nowhere(tmp_path: Path, text: str, why: str) -> None:
    (versions(tmp_path, "a", "1", "2") / "aliases.toml").write_text(text)
    assert why in repository.scan(tmp_path).problems["a"]


@pytest.mark.parametrize("name", ["..", ".", "a/b", "", "a\n", "a\0", "/etc"])
def test_no_name_is_a_path(name: str) -> None:
    assert not repository.is_name(name)
    assert not repository.is_alias(name)
    assert not repository.is_version(name)


@pytest.fixture
def served(tmp_path: Path) -> Served:
    (versions(tmp_path, "a", "1", "2", "10") / "aliases.toml").write_text("stable = 2")
    versions(tmp_path, "b", "5")
    return Served.of(repository.scan(tmp_path))


def test_the_highest_version_is_loaded_and_all_may_be_called(served: Served) -> None:
    assert served.find("a").entry.version == served.find("a", "10").entry.version == "10"
    assert served.find("a:stable").entry.version == served.find("a", "2").entry.version == "2"
    assert [item.wanted for item in served.versions["a"].values()] == [False, False, True]
    table = served.table()
    assert {(file.name, file.version) for file in table.files} == {("a", "1"), ("a", "2"), ("a", "10"), ("b", "5")}
    assert dict(table.defaults) == {"a": "10", "b": "5"}
    for reference in ("c", "a:3", "a:other", "a:", ":1", "a:1:2"):
        if reference == "a:":
            continue
        with pytest.raises(errors.ModelNotFound) as caught:
            served.find(reference)
        assert caught.value.given == reference


def test_unloading_moves_the_default_and_takes_aliases_along(served: Served) -> None:
    older = served.without("a", "10")
    assert older.find("a").entry.version == "2"
    with pytest.raises(errors.ModelNotFound):
        older.find("a", "10")
    with pytest.raises(errors.ModelNotFound):
        older.without("a", "10")
    assert older.without("a", "2").aliases["a"] == {}
    gone = served.without("a")
    assert not gone.callable_versions("a")
    assert list(gone.table().defaults) == ["b"]
    again = gone.with_wanted("a", "1")
    assert again.find("a").entry.version == "1"
    assert served.find("a").entry.version == "10"  # the value that it was made from is as it was


def test_a_version_that_was_asked_for_wins_over_one_that_may_only_be_called(served: Served) -> None:
    assert served.without("a", "10").with_wanted("a", "1").find("a").entry.version == "1"


def test_a_file_that_is_loaded_again_has_another_number(served: Served) -> None:
    before = served.find("a")
    after = served.with_file(before.entry, wanted=True, digest=b"d").find("a")
    assert after.number > max(item.number for item in served.versions["a"].values())
    assert served.with_digest(before.number, b"x").find("a").digest == b"x"


def test_an_uploaded_version_is_forgotten_when_it_is_unloaded(served: Served, tmp_path: Path) -> None:
    entry = repository.Entry("new", "1", tmp_path / "1.onnx", 4)
    with_new = served.with_file(entry, wanted=True, uploaded=True).with_alias("new", "best", "1")
    assert with_new.find("new:best").uploaded
    without = with_new.without("new")
    assert "new" not in without.versions
    with pytest.raises(errors.ModelNotFound):
        without.find("new:best")


def test_aliases_can_be_moved_taken_away_and_bounded(served: Served) -> None:
    moved = served.with_alias("a", "stable", "10")
    assert moved.find("a:stable").entry.version == "10"
    assert moved.with_alias("a", "also", "stable").find("a:also").entry.version == "10"
    with pytest.raises(errors.ModelNotFound):
        moved.with_alias("a", "stable", "").find("a:stable")
    for alias, version, kind in (
        ("stable", "3", errors.ModelNotFound),
        ("nobody", "", errors.ModelNotFound),
        ("7", "1", errors.InvalidInput),
        ("../x", "1", errors.InvalidInput),
    ):
        with pytest.raises(kind):
            served.with_alias("a", alias, version)
    many = served
    for count in range(MOST_ALIASES - 1):
        many = many.with_alias("a", f"alias{count}", "1")
    with pytest.raises(errors.InvalidInput, match=str(MOST_ALIASES)):
        many.with_alias("a", "more", "1")


class OneWorker:
    """A device whose worker loads what it is told to, unless it `refuses`."""

    def __init__(self, refuses: bool = False) -> None:
        self.refuses = refuses
        self.loads = 0
        self.spec, self.state = SimpleNamespace(index=0), "ready"
        self._loaded = worker_pb2.ModelReport()

    async def life(self) -> OneWorker:
        return self

    async def command(self, payload: bytes) -> bytes:
        asked = worker_pb2.WorkerCommand.FromString(payload)
        if asked.WhichOneof("kind") == "load":
            self.loads += 1
            await asyncio.sleep(0)
            if self.refuses:
                raise errors.OutOfMemory(node=0, operation="load", why="full", asked=1, limit=0)
            state = self._loaded.models.add(id=asked.load.id, state="loaded")
            state.signature.name, state.signature.version = asked.load.name, asked.load.version
            state.signature.digest = asked.load.digest
        return self._loaded.SerializeToString()


def registry_of(folder: Path | None, worker: OneWorker) -> ModelRegistry:
    registry = ModelRegistry(folder)
    registry.workers = [cast(DeviceWorker, worker)]
    return registry


def test_many_first_calls_of_a_version_load_it_once(tmp_path: Path) -> None:
    for version in "12":
        write(tmp_path, "m", version, b"x")

    async def main() -> None:
        for worker in (OneWorker(), OneWorker(refuses=True)):
            registry = registry_of(tmp_path, worker)
            found = await asyncio.gather(*(registry.signature("m", "1") for _ in range(50)), return_exceptions=True)
            assert {type(each) for each in found} == {
                errors.OutOfMemory if worker.refuses else compute_pb2.ModelSignature
            }
            assert worker.loads == 1

    asyncio.run(main())


def test_no_copy_of_an_upload_is_left_that_nothing_serves(tmp_path: Path) -> None:
    path = tmp_path / "sent"
    path.write_bytes(b"x")
    upload = Upload(path, hashlib.sha256(b"x").digest())

    async def main() -> None:
        worker = OneWorker()
        registry = registry_of(None, worker)
        await registry.load("m", "1", upload=upload)
        assert registry._uploads is not None
        copies = list(registry._uploads.iterdir())
        await registry.load("m", "1", upload=upload)  # what is there already
        worker.refuses = True
        with pytest.raises(errors.OutOfMemory):
            await registry.load("m", "2", upload=upload)
        assert list(registry._uploads.iterdir()) == copies
        await registry.unload("m")
        assert not list(registry._uploads.iterdir())
        registry.close()

    asyncio.run(main())
