# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The plain parts of the benchmark of serving: its sums, its table, the processes that it asks. Installs nothing."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks import floors, serving
from benchmarks.peers import triton
from benchmarks.peers.peer import NotRun, Peer, Running
from benchmarks.peers.peers import PEERS
from remotegpu import wire

READY = "import json, sys\nprint('a library says hello')\nprint(json.dumps({'ready': True}), flush=True)\n"


def test_peers_are_pinned_and_have_their_modules() -> None:
    for found in PEERS.values():
        assert importlib.util.find_spec(f"benchmarks.peers.{found.module}") is not None
        assert all("==" in requirement for requirement in found.requirements)
        assert not found.home or PEERS[found.home].requirements == found.requirements


def test_ratios_are_of_one_round_and_their_median_counts() -> None:
    rounds: list[serving.Round] = [
        {"own": {"tiny": 0.002, "large": 0.03}, "tcp": {"tiny": 0.001, "large": 0.01}},
        {"own": {"tiny": 0.009, "large": 0.03}, "tcp": {"tiny": 0.003, "large": 0.03}},
        {"own": {"tiny": 0.016, "large": 0.03}, "tcp": {"tiny": 0.002, "large": 0.06}},
    ]
    found = serving.summary(rounds, "tcp")
    assert found["tiny"] == {"ms": pytest.approx(2.0), "ours_over_it": pytest.approx(3.0)}
    assert found["large"] == {"ms": pytest.approx(30.0), "ours_over_it": pytest.approx(1.0)}
    lines = serving.table({"tcp": found, "ray": {"not_run": "a traceback\nits last line"}})
    assert lines[1].split()[-4:] == ["2000", "3.00", "30.0", "1.00"]
    assert lines[2].endswith("not run: its last line")


def test_a_peer_from_its_start_to_its_end(tmp_path: Path) -> None:
    with PEERS["tcp"].start(Path(sys.executable), tmp_path) as running:
        assert 0 < running.measure("tiny", 20) < 1
        assert 0 < running.measure("large", 1) < 30
        folder = running.folder
        assert os.path.isdir(folder)
        processes = [process for process in (running._client, running._server) if process is not None]
    assert [process.poll() is not None for process in processes] == [True, True]
    assert not os.path.exists(folder)


def test_a_server_that_ends_is_no_number(tmp_path: Path) -> None:
    broken = Peer("broken", "no_such_module", (), "")
    with pytest.raises(NotRun, match=r"No module named benchmarks\.peers\.no_such_module"):
        broken.start(Path(sys.executable), tmp_path)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("import sys\nsys.exit('no library')", "its client has ended: no library"),
        (READY + "sys.exit('crashed')", "crashed"),
        (READY + "for line in sys.stdin: print(json.dumps({'error': 'TooLarge: 16 MiB'}), flush=True)", "TooLarge"),
    ],
)
def test_a_client_that_fails_is_no_number(script: str, told: str) -> None:
    def ask() -> None:
        with Running("broken") as running:
            running.connect([sys.executable, "-c", script], os.environ)
            running.measure("tiny", 1)

    with pytest.raises(NotRun, match=told):
        ask()


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Peer("one", "plain_tcp", ("numpy==2.4.6",), "", home="shared")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "installed.txt").write_text("numpy==2.4.6")
    monkeypatch.setattr("benchmarks.peers.peer.subprocess.run", lambda *_, **__: pytest.fail("it is there already"))
    assert one.install(tmp_path) == tmp_path / "shared" / "bin" / "python"


def test_a_failed_installation_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.peer.sys.executable", "/bin/false")
    with pytest.raises(NotRun, match="not installed"):
        Peer("one", "plain_tcp", ("numpy==0",), "").install(tmp_path)
    assert not (tmp_path / "one" / "installed.txt").exists()


def test_the_repository_of_triton(tmp_path: Path) -> None:
    triton.write_repository(tmp_path / "models", tmp_path / "repository")
    text = (tmp_path / "repository" / "linear" / "config.pbtxt").read_text()
    assert f"dims: [-1, {json.dumps(64)}]" in text
    assert str(tmp_path / "models" / "linear" / "1" / "model.onnx") in text
    assert (tmp_path / "repository" / "identity" / "1" / "model.py").exists()


def test_an_unknown_peer_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        serving.main(["--peers", "tcp,nobody"])
    assert "no peer nobody; there are: flight, tcp" in capsys.readouterr().err


def test_the_raw_floors_carry_what_they_are_given() -> None:
    data = memoryview(bytes(range(256)) * 9000)  # three pieces, the last of them short
    with floors.served() as port, closing(floors.Raw(port)) as raw:
        assert raw.exchange(data) == data
        assert raw.exchange(data, 10) == bytes(10)
        assert raw.exchange(data[:1], 2 * wire.CHUNK + 1) == bytes(2 * wire.CHUNK + 1)
        raw.sink(data)
        with Running("raw") as running:
            command = [sys.executable, "-m", "benchmarks.peers.own_calls", "call", str(port), "raw"]
            running.connect(command, os.environ)  # it checks what comes back
            assert 0 < running.measure("tiny", 3) < 1
