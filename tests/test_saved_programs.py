# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Saved programs as models of a real server, on both doors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import remotegpu
from remotegpu import Client, program, saved
from remotegpu.local import LocalServer
from remotegpu.saving import SavingNamespace
from remotegpu.v1 import program_pb2, saved_pb2
from remotegpu_server.worker.executor import Executor, ModelStep, Outputs, Request
from remotegpu_server.worker.outcome import Outcome
from remotegpu_server.worker.prepared import Loading
from remotegpu_server.worker.programs import NotLoaded

from .conftest import DIGITS, StartServer, wait_until
from .fixtures.onnx_models import identity, over_batch, scale, write
from .fixtures.rest import REST, ask
from .test_executor import NoModels, Unlimited

MIB = 1 << 20
ROWS = {"x": ("float32", ("n", 2))}
ONE = np.ones((1, 2), np.float32)

ALONE = """
inputs = {"x": ("float32", ("n", 2))}
outputs = {"y": ("float32", ("n", 2))}
max_batch = 0

def call(xp, x):
    return {"y": x}
"""
# Notes with how many rows it is called.
WATCHED = """
inputs = {{"x": ("float32", ("n", 2))}}
outputs = {{"y": ("float32", ("n", 2))}}

def call(xp, x):
    with open({path!r}, "a") as notes:
        print(x.shape[0], file=notes)
    return {{"y": x * 2}}
"""


def detect(xp: SavingNamespace, image: Any) -> dict[str, Any]:
    x = xp.permute_dims(xp.astype(image, xp.float32) / 255, (2, 0, 1))[None]
    found = xp.model("digits")(image=x)
    sure = found["scores"] > 0.5
    return {name: found[name][sure] for name in ("boxes", "scores", "labels")}


def through(model: str, factor: float = 1) -> bytes:
    """A program: y = that model of x, times a number."""
    return remotegpu.save_program(lambda xp, x: {"y": xp.model(model)(x)["y"] * np.float32(factor)}, ROWS)


def times(factor: float) -> bytes:
    return remotegpu.save_program(lambda xp, x: {"y": x * np.full((1, 2), factor, np.float32)}, ROWS)


def put(root: Path, name: str, content: bytes | str, *, version: int = 1) -> Path:
    """A saved program, or a function, in a repository."""
    folder = root / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ("function.py" if isinstance(content, str) else "program.rgpu")
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notes") / "rows"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, notes: Path) -> Path:
    made = tmp_path_factory.mktemp("models")
    (made / "digits").symlink_to(DIGITS / "models" / "digits")
    put(made, "detector", remotegpu.save_program(detect, {"image": ("uint8", ("height", "width", 3))}))
    put(made, "watched", WATCHED.format(path=str(notes)))
    put(made, "above", through("watched", 10))
    write(made, "mean", 1, over_batch("ReduceMean"))
    put(made, "above_mean", through("mean"))
    put(made, "alone", ALONE)
    put(made, "above_alone", through("alone"))
    put(made, "late", through("later"))
    put(made, "late", times(2), version=2)
    return made


@pytest.fixture(scope="module")
def running(root: Path) -> Iterator[LocalServer]:
    options = ["--models", str(root), "--allow-uploads", "--max-delay", "100", *REST]
    server = LocalServer(["--gpus", "cpu", "--arena", "16MiB", *options])
    yield server
    assert server.stop() == 0


@pytest.fixture
def gpu(running: LocalServer) -> Iterator[Client]:
    with Client(running.url, timeout=20) as connected:
        yield connected


def value(client: Client, name: str) -> float:
    return float(client.model(name)(ONE)["y"][0, 0])


def test_a_program_with_a_detector_is_a_model_on_both_doors(gpu: Client, running: LocalServer) -> None:
    picture = np.asarray(Image.open(DIGITS / "pictures" / "stamp.png").convert("RGB"))[:160, :160]
    with gpu.lease() as lease:
        x = lease.xp.permute_dims(lease.xp.astype(lease.xp.asarray(picture), lease.xp.float32) / 255, (2, 0, 1))[None]
        found = lease.fetch(lease.model("digits")(image=x))
    sure = found["scores"] > 0.5
    expected = {name: found[name][sure] for name in ("boxes", "scores", "labels")}
    assert len(expected["labels"]) > 0
    for outputs in (gpu.model("detector")(picture), gpu.model("detector:1")(image=picture)):
        assert list(outputs) == list(expected)
        for name, array in outputs.items():
            np.testing.assert_array_equal(array, expected[name], strict=True)
    with gpu.lease() as lease:
        detections = lease.model("detector")(lease.xp.asarray(picture))
        best = lease.xp.max(detections["scores"])
        labels, highest = lease.fetch(detections["labels"], best)
    np.testing.assert_array_equal(labels, expected["labels"])
    assert highest == expected["scores"].max()
    given = {"name": "image", "datatype": "UINT8", "shape": list(picture.shape), "data": picture.reshape(-1).tolist()}
    status, answer = ask(running, "POST", "/v2/models/detector/infer", {"inputs": [given]})
    assert status == 200
    by_name = {output["name"]: output for output in answer["outputs"]}
    np.testing.assert_allclose(by_name["boxes"]["data"], expected["boxes"].reshape(-1), rtol=1e-6)
    assert by_name["labels"]["data"] == expected["labels"].tolist()
    _, metadata = ask(running, "GET", "/v2/models/detector")
    assert metadata["platform"] == "remotegpu_program"
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, 3]}]
    assert [(each["datatype"], each["shape"]) for each in metadata["outputs"]] == [
        ("FP32", [-1, 4]),
        ("FP32", [-1]),
        ("INT64", [-1]),
    ]


def test_calls_of_a_program_are_put_together_where_its_models_allow_it(gpu: Client, notes: Path) -> None:
    limits = {signature.name: signature.max_batch for signature in gpu.models()}
    assert limits["above"] == limits["watched"] == 32
    assert limits["above_mean"] == limits["detector"] == limits["alone"] == limits["above_alone"] == 0
    notes.write_text("")
    count = 4
    ready = threading.Barrier(count)

    def call(number: int) -> Any:
        with Client(gpu.url, timeout=20) as mine:
            mine.models()
            ready.wait()
            return mine.model("above")(np.full((1, 2), number, np.float32))["y"]

    with ThreadPoolExecutor(count) as pool:
        results = list(pool.map(call, range(count)))
    for number, result in enumerate(results):
        np.testing.assert_array_equal(result, np.full((1, 2), 20 * number, np.float32), strict=True)
    rows = list(map(int, notes.read_text().split()))
    assert sum(rows) == count
    assert max(rows) > 1
    # It stays so when the model below is exchanged for one that looks at other rows.
    gpu.load_model("below", content=scale(2))
    gpu.load_model("over", content=through("below"))
    assert {s.name: s.max_batch for s in gpu.models()}["over"] == 32
    gpu.load_model("below", content=over_batch("ReduceMax"))
    ready.reset()

    def rest(number: int) -> Any:
        ready.wait()
        return gpu.model("over")(np.full((1, 2), number, np.float32))["y"]

    with ThreadPoolExecutor(count) as pool:
        for result in pool.map(rest, range(count)):
            np.testing.assert_array_equal(result, [[0, 0]])


def test_models_that_call_themselves_are_refused(gpu: Client, root: Path) -> None:
    for name, below in (("first", "second"), ("second", "first")):
        put(root, name, through(below))
    gpu.load_model("third", content=times(3))  # programs may be uploaded
    with pytest.raises(remotegpu.ModelUnusable, match="its own name"):
        gpu.load_model("third", content=through("third"))
    with pytest.raises(remotegpu.ModelUnusable, match="no model 'second' on this server"):
        gpu.load_model("first")
    gpu.load_model("fourth", content=through("third"))
    assert value(gpu, "fourth") == 3
    gpu.load_model("third", content=through("fourth"))  # each was right when it was loaded
    for name in ("third", "fourth"):
        with pytest.raises(remotegpu.InvalidInput, match=r"a cycle: \w+:\d → \w+:\d → \w+:\d"):
            value(gpu, name)
    assert value(gpu, "third:1") == 3


def test_a_cycle_in_the_repository_is_told_at_the_start(tmp_path: Path, start_server: StartServer) -> None:
    for name, below in (("first", "second"), ("second", "first")):
        put(tmp_path, name, through(below))
    server = start_server("--models", str(tmp_path))
    assert "first:1 → second:1 → first:1" in server.last_words()
    with Client(server.url) as client:
        assert {entry.name: entry.state for entry in client.index()} == {"first": "failed", "second": "failed"}


def test_programs_are_exchanged_while_calls_go_on(gpu: Client, root: Path) -> None:
    path = put(root, "hot", times(1))
    gpu.load_model("hot")
    gpu.load_model("over_hot", content=through("hot"))
    seen: list[float] = []
    failed: list[Exception] = []
    stop = threading.Event()

    def call(name: str) -> None:
        while not stop.is_set():
            try:
                seen.append(value(gpu, name))
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=call, args=(name,)) for name in ("hot", "over_hot")]
    for thread in threads:
        thread.start()
    try:
        for factor in (2, 3):
            before = len(seen)
            path.write_bytes(times(factor))
            gpu.load_model("hot")
            assert (value(gpu, "hot"), value(gpu, "over_hot")) == (factor, factor)
            wait_until(lambda at=before: len(seen) > at + 3, "calls go on")  # type: ignore[misc]
        path.write_bytes(times(4)[:-9])
        with pytest.raises(remotegpu.ModelUnusable, match="hot:1"):
            gpu.load_model("hot")
        assert value(gpu, "over_hot") == 3
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed
    assert set(seen) <= {1, 2, 3}
    # A model below that gives something else is told by the name of the output.
    gpu.load_model("hot", "1", content=identity(11, ["n", 2]))  # float64
    with pytest.raises(remotegpu.InvalidInput, match="float64"):
        value(gpu, "over_hot")


def test_a_program_may_be_called_as_soon_as_its_models_are_there(gpu: Client, running: LocalServer) -> None:
    for _ in range(2):
        with pytest.raises(remotegpu.ModelUnusable, match="no model 'later' on this server"):
            value(gpu, "late:1")
    assert ask(running, "GET", "/v2/models/late/versions/1")[0] != 200
    gpu.load_model("later", content=scale(5))
    assert ask(running, "GET", "/v2/models/late/versions/1")[0] == 200
    assert (value(gpu, "late:1"), value(gpu, "late")) == (5, 2)
    gpu.unload_model("later")
    with pytest.raises(remotegpu.ModelNotFound, match="later"):
        value(gpu, "late:1")


class Below:
    """A model of which nothing is known but that it can be called."""

    name, version, calls, max_batch, output_names = "over", "1", (), 0, ("y",)

    def arrange(self, inputs: Any) -> dict[str, Any]:
        return dict(inputs)


class OneModel(NoModels):
    """A repository of that one."""

    def output_names(self, reference: str) -> list[str]:
        return ["y"]

    def get(self, reference: str, lease: int) -> Any:
        return Below()


def test_a_program_whose_model_was_evicted_is_begun_again_but_not_for_ever() -> None:
    sent = program_pb2.Program()
    sent.nodes.add().model.model = "over"
    sent.outputs.add(fetch=True)
    executor = Executor(Unlimited(), OneModel(), 0, 1)
    for fits in (True, False):
        execution = executor.prepare(Request(memoryview(sent.SerializeToString()), memoryview(b""), 0, 0))
        reached = execution.resume()
        for _ in range(2):
            assert isinstance(reached, ModelStep)
            reached = execution.resume(NotLoaded(Loading()))
        if fits:
            assert isinstance(execution.resume(Outputs([np.ones(1)])), Outcome)
        else:
            with pytest.raises(remotegpu.RemoteError, match="each other's place"):
                execution.resume(NotLoaded(Loading()))


def test_models_below_are_loaded_when_they_are_needed(tmp_path: Path, start_server: StartServer) -> None:
    """There is room for one of the two; with a lease what it called stays."""
    for number in (2, 3):
        write(tmp_path, f"large{number}", 1, scale(number, MIB))
        put(tmp_path, f"over{number}", through(f"large{number}"))
    server = start_server("--models", str(tmp_path), "--model-memory", "1536KiB")
    with Client(server.url, timeout=20) as client:
        for _ in range(3):
            assert [value(client, f"over{number}") for number in (2, 3)] == [2, 3]
        with client.lease() as lease:
            over = lease.model("over2")(ONE)["y"]
            assert float(lease.fetch(over)[0, 0]) == 2
            with pytest.raises(remotegpu.OutOfMemory):
                value(client, "over3")
        wait_until(lambda: value(client, "over3") == 3, "room again")


def test_the_same_program_has_the_same_bytes() -> None:
    assert times(2) == times(2)
    assert times(2) != times(3)
    assert saved.is_saved(times(2))
    assert not saved.is_saved(scale(2))


def test_saved_programs_are_checked(gpu: Client) -> None:
    made = saved_pb2.SavedProgram.FromString(times(2))
    keeps, handles, shifted, unnamed = (saved_pb2.SavedProgram.FromString(times(2)) for _ in range(4))
    keeps.program.outputs[0].keep = 7
    handles.program.nodes.add().handle.id = 1
    shifted.program.nodes[0].placeholder.input = 1
    del unnamed.outputs[:]
    for wrong, why in (
        (keeps, "handles to keep"),
        (handles, "handle 1"),
        (shifted, "one of 1 inputs"),
        (unnamed, "a name for each"),
    ):
        with pytest.raises(remotegpu.ModelUnusable, match=why):
            gpu.load_model("wrong", content=wrong.SerializeToString(deterministic=True))
    odd = remotegpu.save_program(lambda xp, x: xp.model("alone")(x)["y"] + 1, {"x": ("bytes", ("n", 2))})
    with pytest.raises(remotegpu.ModelUnusable, match="node 1: model 'alone', input 'x': given strings, allowed"):
        gpu.load_model("wrong", content=odd)
    # Placeholders are for saved programs only.
    with pytest.raises(remotegpu.InvalidInput, match="one of 0 inputs"):
        program.check(
            program_pb2.Program(nodes=made.program.nodes), known=lambda _: True, body_size=MIB, epoch=1, device=0
        )
