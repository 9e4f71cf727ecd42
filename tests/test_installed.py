# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The package as its users install it: alone, and with the oldest versions that it says it works with."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

from remotegpu.local import LocalServer

ROOT = Path(__file__).resolve().parent.parent
CALL = """
import sys
import numpy as np
import remotegpu
from importlib.metadata import version
client = remotegpu.Client(sys.argv[1])
with client.lease() as lease:
    assert lease.finish(lease.xp.sum(lease.xp.asarray(np.ones(5)))) == 5
assert client.model("linear")(np.ones((2, 64), np.float32))["y"].shape == (2, 8)
try:
    client.alloc_nowait(gpus=99)
except remotegpu.Impossible as error:
    assert error.limit == 2
else:
    raise SystemExit("no error")
print(version("grpcio"), version("protobuf"), version("numpy"), version("tenacity"))
"""


def installed(folder: Path, *requirements: str) -> Path:
    """The interpreter of a new environment with these."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements], check=True
    )
    return python


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_client_alone_works(tmp_path: Path, server: LocalServer) -> None:
    python = installed(tmp_path / "venv", str(ROOT))
    subprocess.run([python, "-c", CALL, server.url], check=True, cwd=tmp_path)
    missing = subprocess.run([tmp_path / "venv/bin/remotegpu-server"], capture_output=True, text=True, check=False)
    assert missing.returncode == 2
    assert "pip install 'remotegpu[cpu]'" in missing.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="the oldest releases have no wheels for this Python")
def test_oldest_versions_work(tmp_path: Path, server: LocalServer) -> None:
    floors = ["grpcio==1.71.2", "protobuf==5.29.0", "numpy==2.0.0" if sys.version_info < (3, 13) else "numpy==2.1.0"]
    python = installed(tmp_path / "venv", str(ROOT), *floors, "tenacity==9.0.0")
    done = subprocess.run([python, "-c", CALL, server.url], check=True, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert done.stdout.startswith("1.71.2 5.29.0")
