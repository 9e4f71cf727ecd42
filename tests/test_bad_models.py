# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Models in the repository that cannot be served: the server starts with the others, and says which and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import remotegpu
from remotegpu import Client, cli
from remotegpu.local import LocalServer
from remotegpu.v1 import inference_pb2

from .conftest import StartServer
from .fixtures.onnx_models import FLOAT, identity, scale, write

ROW = np.ones((1, 2), np.float32)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A good model; one whose file cannot be read, one that is too large, and one without a version."""
    write(tmp_path, "good", 1, scale(3))
    write(tmp_path, "broken", 1, scale(1))
    write(tmp_path, "broken", 2, identity(FLOAT, [1], ir_version=99))
    write(tmp_path, "large", 1, scale(1))
    (tmp_path / "large" / "1" / "weights.bin").write_bytes(bytes(2**20))
    (tmp_path / "empty").mkdir()
    return tmp_path


def listed(capsys: pytest.CaptureFixture[str], server: LocalServer) -> str:
    assert cli.main(("models", "--url", server.url)) == 0
    return capsys.readouterr().out


def test_the_others_are_served_and_the_bad_ones_listed(
    repository: Path, start_server: StartServer, capsys: pytest.CaptureFixture[str]
) -> None:
    door = ("--inference", "127.0.0.1:0", "--allow-uploads", "--model-memory", "512KiB")
    server = start_server("--models", str(repository), *door)
    said = server.last_words()
    assert "remotegpu-server: --models: " in said
    assert f"{repository / 'empty'}: no <version>/model.onnx in it" in said
    assert "model broken:2 cannot be served: its file has IR version 99" in said
    assert "load of model large:1" in said
    with Client(server.url, timeout=20) as client:
        assert client.model("good")(ROW)["y"][0, 0] == 3
        assert client.model("broken:1")(ROW)["y"][0, 0] == 1
        with pytest.raises(remotegpu.ModelUnusable, match="IR version 99"):
            client.model("broken")(ROW)
        states = {f"{entry.name}:{entry.version}": (entry.state, entry.reason) for entry in client.index()}
        assert states["good:1"] == ("loaded", "")
        for name, why in (("broken:2", "IR version 99"), ("large:1", "524288 bytes"), ("empty:", "no <version>")):
            assert (states[name][0], why in states[name][1]) == ("failed", True), states[name]
        with grpc.insecure_channel(f"127.0.0.1:{server.inference_port}") as channel:
            ask: Any = channel.unary_unary("/inference.GRPCInferenceService/RepositoryIndex")  # type: ignore[call-arg]
            index = inference_pb2.RepositoryIndexResponse.FromString(ask(b"")).models
            told = {f"{entry.name}:{entry.version}": entry.reason for entry in index if entry.state == "UNAVAILABLE"}
            assert set(told) == {"broken:2", "large:1", "empty:"}
            assert "no <version>" in told["empty:"]
        assert "\nempty " in listed(capsys, server)
        write(repository, "empty", 1, scale(2))
        write(repository, "broken", 2, scale(2))
        client.load_model("empty")
        client.load_model("broken")
        assert {entry.state for entry in client.index() if entry.name != "large"} == {"loaded"}
        assert client.model("broken")(ROW)["y"][0, 0] == 2


def test_a_server_with_bad_models_only_starts(tmp_path: Path, start_server: StartServer) -> None:
    write(tmp_path, "broken", 1, identity(FLOAT, [1], ir_version=99))
    server = start_server("--models", str(tmp_path))
    assert "model broken:1 cannot be served" in server.last_words()
    with Client(server.url, timeout=20) as client, client.lease() as lease:
        assert float(lease.fetch(lease.xp.ones(()) + 1)) == 2
        (entry,) = client.index()
        assert (entry.name, entry.version, entry.state) == ("broken", "1", "failed")


def test_what_is_told_of_a_model_that_nobody_serves(
    repository: Path, start_server: StartServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server = start_server("--models", str(repository), "--allow-uploads")
    with Client(server.url, timeout=20) as client:
        for model, told in (
            ("nope", "no device serves it: no model 'nope' on this server; it has: "),
            ("good:7", "no device serves it: no model 'good:7' on this server"),
            ("empty", "no <version>/model.onnx in it"),
            ("broken", "no device serves broken:2: its file has IR version 99"),
        ):
            explained = client.explain(model=model)
            assert (explained.verdict, told in explained.why) == ("granted", True), explained.why
            assert cli.main(("explain", "--url", server.url, "--model", model)) == 0
            assert "on devices 0, but calls would fail: model " in capsys.readouterr().out
        for model in ("", "good", "broken:1"):
            assert client.explain(model=model).why == ""
        client.model("good")(ROW)
        assert list(client.top().devices[0].warm_models) == ["good"]
        client.unload_model("good")
        assert list(client.top().devices[0].warm_models) == []


def test_a_file_that_is_not_there_is_one_sentence(
    repository: Path, start_server: StartServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server = start_server("--models", str(repository), "--allow-uploads")
    for file, why in ((repository / "none.onnx", "No such file or directory"), (repository, "Is a directory")):
        assert cli.main(("models", "--url", server.url, "load", "new", "--file", str(file))) == 2
        assert capsys.readouterr().err == f"remotegpu: --file: {file}: {why}; give the path of a model file\n"
