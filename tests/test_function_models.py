# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Functions that the operator has placed in the repository, as models of a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import remotegpu
from remotegpu import Client
from remotegpu.local import LocalServer
from remotegpu.v1.worker_pb2 import ModelFile
from remotegpu_server.backends.models import Model
from remotegpu_server.backends.sessions import SessionOptions
from remotegpu_server.worker import kinds

from .fixtures.rest import REST, ask
from .test_executor import Unlimited

ONE = np.ones((1, 2), np.float32)

GOOD = """
inputs = {"x": ("float32", ("n", 2)), "names": ("bytes", (None,))}
outputs = {"sums": ("float32", ("n",)), "upper": ("bytes", (None,))}
max_batch = 0

def call(xp, x, names):
    return {"upper": [name.upper() for name in names], "sums": xp.sum(x, axis=1)}
"""
# What it gives depends on the first number.
MOODS = """
inputs = {"x": ("float32", ("n", 2))}
outputs = {"y": ("float32", ("n", 2))}

def call(xp, x):
    match int(x[0, 0]):
        case 1:
            raise KeyError("of the operator's own")
        case 2:
            return {"y": xp.astype(x, xp.float64)}
        case 3:
            return {"y": x[:, :1]}
        case 4:
            return {"z": x}
        case 5:
            raise SystemExit(3)
        case 6:
            x[0, 0] = 9
    return (x + 1,)
"""


def put(root: Path, name: str, content: str) -> Path:
    """A function in a repository."""
    path = root / name / "1" / "function.py"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    return path


class NoCallees:
    """No models to call."""

    def callee(self, reference: str) -> Model:
        raise AssertionError(reference)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    put(made, "good", GOOD)
    put(made, "moods", MOODS)
    return made


@pytest.fixture(scope="module")
def running(root: Path) -> Iterator[LocalServer]:
    server = LocalServer(["--gpus", "cpu", "--arena", "16MiB", "--models", str(root), "--allow-uploads", *REST])
    yield server
    assert server.stop() == 0


@pytest.fixture
def gpu(running: LocalServer) -> Iterator[Client]:
    with Client(running.url, timeout=20) as connected:
        yield connected


def test_functions_of_the_operator(gpu: Client, running: LocalServer) -> None:
    outputs = gpu.model("good")(x=np.array([[1, 2], [3, 4]], np.float32), names=["a", "ö"])
    np.testing.assert_array_equal(outputs["sums"], np.array([3, 7], np.float32), strict=True)
    assert outputs["upper"].tolist() == [b"A", "ö".encode()]
    assert ask(running, "GET", "/v2/models/good")[1]["platform"] == "remotegpu_python"
    moods = gpu.model("moods")
    np.testing.assert_array_equal(moods(0 * ONE)["y"], ONE)
    with pytest.raises(remotegpu.RemoteError, match=r"KeyError: .of the operator") as caught:
        moods(ONE)
    assert 'raise KeyError("of the operator\'s own")' in caught.value.traceback
    assert "function.py" in caught.value.traceback
    for number, why in (
        (2, r"output 'y' of model moods:1 is float64\[1, 2\], not float32\[n, 2\]"),
        (3, r"output 'y' of model moods:1 is float32\[1, 1\], not float32\[n, 2\]"),
        (4, "model moods:1 gave the outputs 'z', not 'y'"),
        (5, "calls exit"),
    ):
        with pytest.raises(remotegpu.RemoteError, match=why):
            moods(number * ONE)
    with gpu.lease() as lease:
        kept = 5 * lease.xp.asarray(ONE) + 1
        np.testing.assert_array_equal(kept, 6 * ONE)
        with pytest.raises(remotegpu.RemoteError, match="read-only"):
            lease.fetch(lease.model("moods")(kept)["y"])
    np.testing.assert_array_equal(moods(0 * ONE)["y"], ONE)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("import nowhere_to_be", "cannot be imported: ModuleNotFoundError: No module named 'nowhere_to_be'"),
        ("raise SystemExit(1)", "cannot be imported: SystemExit"),
        ("inputs = {}", "it has no function `call`"),
        ("inputs = 1\ndef call(xp): ...", "`inputs` is not a dict"),
        ("inputs = {'x': ('object', ())}\noutputs = {}\ndef call(xp, x): ...", "`inputs`: 'x'.*does not travel"),
        ("inputs = {}\noutputs = {'y': ('int8', (-1,))}\ndef call(xp): ...", "`outputs`: 'y'.*a size is"),
    ],
)
def test_functions_that_cannot_be_served_say_why(gpu: Client, root: Path, content: str, why: str) -> None:
    path = put(root, "poor", content)
    try:
        with pytest.raises(remotegpu.ModelUnusable, match=why) as caught:
            gpu.load_model("poor")
        assert caught.value.model == "poor:1"
    finally:
        path.unlink()
        path.parent.rmdir()
        path.parent.parent.rmdir()


def test_functions_are_never_uploaded(gpu: Client, tmp_path: Path) -> None:
    (tmp_path / "function.py").write_text(MOODS)
    with pytest.raises(remotegpu.NotAllowed, match="operator"):
        gpu.load_model("moods", path=tmp_path / "function.py")
    with pytest.raises(remotegpu.ModelUnusable, match="not an ONNX model"):
        gpu.load_model("moods", content=b"import os\ncall = os.system\n")
    assert [entry.version for entry in gpu.index("moods")] == ["1"]
    file = ModelFile(path=str(tmp_path / "function.py"), uploaded=True)
    with pytest.raises(remotegpu.ModelUnusable, match="never uploaded"):  # nor would a worker take one
        kinds.load(file, Unlimited(), SessionOptions(1), NoCallees())


def test_a_function_is_exchanged_by_a_load_however_soon_its_file_has_changed(gpu: Client, root: Path) -> None:
    for number in range(3):
        path = root / "hot" / "1" / "function.py"
        if number:
            path.write_text(MOODS.replace("x + 1", f"x + {number}"))
        else:
            put(root, "hot", MOODS.replace("x + 1", "x + 0"))
        gpu.load_model("hot")
        np.testing.assert_array_equal(gpu.model("hot")(0 * ONE)["y"], number * ONE)
    assert [each.name for each in path.parent.iterdir()] == ["function.py"]
