# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The Lambda layer: what is in it, and that a function finds all it needs there."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from deploy.layer import build as layer
from examples.demo import http_event
from examples.detections import compare
from examples.lambda_handler.runtime_api import LambdaFunction
from remotegpu.local import LocalServer
from tests.conftest import DIGITS
from tests.test_lambda_handler import HANDLER, TRUTH

# Of the runtime itself, which Lambda has beside the layers.
RUNTIME = ("awslambdaric", "runtime_client", "simplejson", "snapshot_restore_py")
PROBE = """
import sys
import handler as example

def handler(event, context):
    files = {name: module.__file__ for name, module in sys.modules.items() if getattr(module, "__file__", None)}
    return {"answer": example.handler(event, context), "files": files, "path": sys.path}
"""


def tree(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def test_names_of_layers_are_read_and_others_refused() -> None:
    assert layer.parse("cp313-arm64") == layer.Target("3.13", "arm64")
    assert layer.parse("cp313-arm64").archive == "remotegpu-cp313-arm64.zip"
    for name in ("cp313", "cp313-aarch64", "3.13-arm64", "cp27-x86_64"):
        with pytest.raises(layer.LayerError, match="is not a layer"):
            layer.parse(name)


def test_what_no_program_reads_is_left_out_and_licences_stay(tmp_path: Path) -> None:
    kept = {
        "numpy/__init__.py",
        "numpy/_core/_multiarray_umath.cpython-313-x86_64-linux-gnu.so",
        "numpy-2.5.5.dist-info/METADATA",
        "numpy-2.5.5.dist-info/licenses/LICENSE.txt",
        "grpc/_cython/_credentials/roots.pem",
        "remotegpu/cost/prices.toml",
    }
    dropped = {
        "numpy/tests/test_all.py",
        "numpy/f2py/__init__.py",
        "numpy/__init__.pyi",
        "numpy/_core/include/numpy/arrayobject.h",
        "numpy/_core/lib/libnpymath.a",
        "numpy/_core/_simd.cpython-313-x86_64-linux-gnu.so",
        "numpy/_core/_umath_tests.cpython-313-x86_64-linux-gnu.so",
        "numpy-2.5.5.dist-info/RECORD",
        "remotegpu_server/daemon.py",
        "bin/remotegpu",
    }
    root = tree(tmp_path, *kept, *dropped)
    layer._strip(root)
    assert {path.relative_to(root).as_posix() for path in layer._files(root)} == kept


def test_same_files_give_the_same_archive(tmp_path: Path) -> None:
    archives = []
    for number, names in enumerate((["b.py", "a/c.py"], ["a/c.py", "b.py"])):
        root = tree(tmp_path / str(number) / "python", *names)
        os.utime(root / "b.py", (1e9 + 1000 * number, 1e9 + 1000 * number))
        layer._pack(root, tmp_path / f"{number}.zip")
        archives.append((tmp_path / f"{number}.zip").read_bytes())
    assert archives[0] == archives[1]
    with zipfile.ZipFile(tmp_path / "0.zip") as packed:
        assert packed.namelist() == ["python/a/c.py", "python/b.py"]


def test_a_command_that_runs_another_version_compiles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert layer._interpreter(own) == sys.executable
    (tmp_path / "python3.99").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / "python3.98").write_text("#!/bin/sh\nexit 127\n")
    for name in ("python3.98", "python3.99"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert [layer._interpreter(version) for version in ("3.97", "3.98", "3.99")] == [None, None, None]


def runtime_folder(folder: Path) -> Path:
    """Only the runtime client, and nothing else of this environment."""
    folder.mkdir()
    for name in RUNTIME:
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        origin = Path(spec.origin)
        source = origin.parent if origin.name == "__init__.py" else origin
        (folder / source.name).symlink_to(source)
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layer.build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_function_runs_from_the_layer_alone(tmp_path: Path, server: LocalServer, wheel: Path) -> None:
    target = layer.Target(f"{sys.version_info.major}.{sys.version_info.minor}", "x86_64")
    # The NumPy for Python 3.11, which Lambda no longer has, is the larger, older one.
    built = layer.build(target, wheel, tmp_path, limit=90_000_000)
    assert built.compiled
    assert built.packed < 50_000_000  # Lambda's limit for an archive that is uploaded as it is
    with zipfile.ZipFile(built.path) as packed:
        assert sum(entry.file_size for entry in packed.infolist()) == built.unpacked
        packed.extractall(tmp_path / "opt")
    client = tmp_path / "opt" / "python"
    compiled = next((client / "remotegpu" / "__pycache__").glob("__init__.*.pyc")).read_bytes()
    assert int.from_bytes(compiled[4:8], "little") == 0b01  # by hash, never compared with the source (PEP 552)

    task = tmp_path / "task"
    task.mkdir()
    (task / "handler.py").write_bytes((HANDLER / "handler.py").read_bytes())
    (task / "probe.py").write_text(PROBE)
    runtime = runtime_folder(tmp_path / "runtime")
    environment = {"REMOTEGPU_URL": server.url, "PYTHONPATH": f"{client}:{runtime}"}
    # -S: without the packages of this environment.
    interpreter = (sys.executable, "-S")
    name = sorted(TRUTH)[0]
    event = http_event((DIGITS / "pictures" / name).read_bytes())
    with LambdaFunction("probe.handler", task_root=task, environment=environment, interpreter=interpreter) as function:
        result: Any = function.invoke(event)
    assert result["answer"]["statusCode"] == 200, result["answer"]
    detections = json.loads(result["answer"]["body"])["detections"]
    outcome = compare(detections, TRUTH[name])
    assert (outcome.missed, outcome.false) == (0, 0)
    for module in ("remotegpu", "numpy", "grpc", "google._upb._message"):
        assert result["files"][module].startswith(str(client)), module
    assert not [path for path in result["path"] if "site-packages" in path]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_layer_over_the_limit_is_not_written(tmp_path: Path, wheel: Path) -> None:
    with pytest.raises(layer.LayerError, match=r"cp313-arm64 has [0-9,]+ bytes unpacked, over the limit of 1,000"):
        layer.build(layer.Target("3.13", "arm64"), wheel, tmp_path / "out", limit=1_000)
    assert not (tmp_path / "out").exists()
