# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Models on a real server: versions, all kinds of tensors, files that cannot be served, changes while calls go on."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import remotegpu
from remotegpu import Client, cli, errors
from remotegpu.local import LocalServer

from .conftest import StartServer, pids, wait_until
from .fixtures.onnx_models import FLOAT, STRING, identity, over_batch, scale, with_external_data, write

MIB = 1 << 20
ONE = np.ones((1, 2), np.float32)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    for version in (1, 2, 3):
        write(made, "scale", version, scale(version))
    (made / "scale" / "aliases.toml").write_text("stable = 2")
    write(made, "mean", 1, over_batch("ReduceMean"))
    write(made, "scalar", 1, identity(FLOAT, []))
    write(made, "unranked", 1, identity(FLOAT, None))
    write(made, "dynamic", 1, identity(FLOAT, ["n", None, "n"]))
    write(made, "external", 1, with_external_data())
    (made / "external" / "1" / "weights.bin").write_bytes(np.array([1, 2], np.float32).tobytes())
    write(made, "text", 1, identity(STRING, ["n", "m"]))
    write(made, "broken", 1, b"no model")
    write(made, "broken", 2, identity(FLOAT, [1], ir_version=99))
    write(made, "broken", 3, identity(FLOAT, [1], opset=999))
    write(made, "broken", 4, identity(FLOAT, [1]))
    return made


@pytest.fixture(scope="module")
def changeable(root: Path) -> Iterator[LocalServer]:
    """A server whose models may be changed; each test has models of its own to change."""
    running = LocalServer(["--gpus", "cpu:2", "--models", str(root), "--arena", "16MiB", "--allow-uploads"])
    yield running
    assert running.stop() == 0


@pytest.fixture
def caller(changeable: LocalServer) -> Iterator[Client]:
    with Client(changeable.url, timeout=20) as connected:
        yield connected


def factor(client: Client, reference: str) -> float:
    return float(client.model(reference)(ONE)["y"][0, 0])


def states(client: Client, name: str = "") -> dict[str, str]:
    return {f"{entry.name}:{entry.version}": entry.state for entry in client.index(name)}


def test_versions_and_aliases(caller: Client) -> None:
    assert [factor(caller, name) for name in ("scale", "scale:3", "scale:1", "scale:stable")] == [3, 3, 1, 2]
    with caller.lease() as lease:
        older = lease.model("scale:1")(lease.model("scale:stable")(ONE)["y"])
        np.testing.assert_array_equal(lease.fetch(older)["y"], 2 * ONE)
        assert older.names == ("y",)
    for reference in ("scale:4", "scale:other", "nothing", "../scale", "scale:1:2"):
        with pytest.raises(remotegpu.ModelNotFound) as caught:
            caller.model(reference)(ONE)
        assert caught.value.given == reference
    signatures = {f"{s.name}:{s.version}": s for s in caller.models()}
    assert signatures["scale:3"].is_default
    assert not signatures["scale:2"].is_default
    assert signatures["scale:2"].aliases == ("stable",)


def test_calls_may_be_put_together_only_where_rows_do_not_meet(caller: Client) -> None:
    found = {signature.name: signature.max_batch for signature in caller.models() if signature.is_default}
    assert found["scale"] == found["text"] == 32
    assert found["mean"] == found["scalar"] == found["dynamic"] == 0


def test_scalars_empty_arrays_and_any_shape(caller: Client) -> None:
    scalar = caller.model("scalar")(np.float32(2.5))["y"]
    assert scalar.shape == ()
    assert scalar == 2.5
    for array in (np.zeros((0, 2), np.float32), np.zeros((3, 0, 3), np.float32), np.ones((2, 5, 2), np.float32)):
        name = "scale" if array.ndim == 2 else "dynamic"
        assert caller.model(name)(array)["y"].shape == array.shape
    for shape in ((), (0,), (2, 3), (1, 300, 300)):  # the last one does not fit into one message
        array = np.random.default_rng(0).random(shape, np.float32)
        np.testing.assert_array_equal(caller.model("unranked")(array)["y"], array)
    with caller.lease() as lease:
        x = lease.xp.asarray(np.float32(4))
        np.testing.assert_array_equal(lease.fetch(lease.model("scalar")(x)["y"] + 1), np.float32(5), strict=True)
    np.testing.assert_array_equal(caller.model("external")(ONE)["y"], [[2, 3]])
    with pytest.raises(remotegpu.InvalidInput, match=r"float32\[\]"):
        caller.model("scalar")(ONE)
    with pytest.raises(remotegpu.InvalidInput):
        caller.model("dynamic")(np.ones((2, 5, 3), np.float32))


def test_strings(caller: Client) -> None:
    text = [["a", "größer"], ["", "x" * 300]]
    sent = np.array([[item.encode() for item in row] for row in text], object)
    model = caller.model("text")
    for given in (text, np.array(text), sent, np.array(text, object)):
        np.testing.assert_array_equal(model(given)["y"], sent, strict=True)
    assert model(np.zeros((0, 3), "U1"))["y"].shape == (0, 3)
    with caller.lease() as lease:
        outputs = lease.model("text")(text)
        kept = outputs["y"]
        np.testing.assert_array_equal(lease.fetch(kept), sent, strict=True)
        again = lease.model("text")(kept)  # it was kept on the server
        np.testing.assert_array_equal(lease.fetch(again)["y"], sent, strict=True)
        with pytest.raises(remotegpu.InvalidInput, match="strings"):
            lease.fetch(lease.xp.reshape(kept, (4,)))
    for wrong in (np.array([[b"\xff"]]), np.array([[1]], object)):
        with pytest.raises(remotegpu.InvalidInput):
            model(wrong)
    with pytest.raises(remotegpu.InvalidInput, match=r"float32"):
        caller.model("scale")(text)


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("1", "its file is not an ONNX model"),
        ("2", "IR version 99, and ONNX Runtime .* reads IR versions up to .* or install a newer onnxruntime"),
        ("3", "opset 999 of ai.onnx, and ONNX Runtime .* knows opsets up to .* or install a newer onnxruntime"),
    ],
)
def test_files_that_cannot_be_served_say_why(caller: Client, version: str, why: str) -> None:
    for _ in range(2):
        with pytest.raises(remotegpu.ModelUnusable, match=why):
            caller.model(f"broken:{version}")(np.ones(1, np.float32))
    assert states(caller, "broken")[f"broken:{version}"] == "failed"
    with pytest.raises(remotegpu.ModelUnusable, match=why) as caught:
        caller.load_model("broken", version)
    assert caught.value.model == f"broken:{version}"
    assert caller.model("broken")(np.ones(1, np.float32))["y"] == 1


def test_load_unload_and_aliases(caller: Client, root: Path) -> None:
    for version in (1, 2):
        write(root, "changed", version, scale(version))
    with pytest.raises(remotegpu.ModelNotFound):
        factor(caller, "changed")
    caller.load_model("changed")
    assert (factor(caller, "changed"), states(caller, "changed")) == (2, {"changed:2": "loaded"})
    entries = caller.load_model("changed", "1", aliases=["first"])
    assert [(e.version, e.aliases, e.is_default) for e in entries] == [("1", ("first",), False), ("2", (), True)]
    assert all(entry.state == "loaded" and entry.memory >= entry.size > 0 for entry in entries)
    assert (factor(caller, "changed"), factor(caller, "changed:first")) == (2, 1)
    caller.set_alias("changed", "first", "2")
    assert factor(caller, "changed:first") == 2
    caller.unload_model("changed", "first")
    assert factor(caller, "changed") == 1
    for reference in ("changed:2", "changed:first"):
        with pytest.raises(remotegpu.ModelNotFound):
            factor(caller, reference)
    assert states(caller, "changed") == {"changed:1": "loaded", "changed:2": "unloaded"}
    caller.unload_model("changed")
    with pytest.raises(remotegpu.ModelNotFound):
        factor(caller, "changed")
    with pytest.raises(remotegpu.InvalidInput):
        caller.load_model("../scale")
    with pytest.raises(remotegpu.InvalidInput):
        caller.set_alias("scale", "1", "2")
    with pytest.raises(remotegpu.ModelNotFound):
        caller.load_model("nothing")
    with pytest.raises(remotegpu.ModelNotFound):
        caller.load_model("scale", "9")
    with pytest.raises(remotegpu.ModelNotFound):
        caller.unload_model("changed")


def test_uploaded_models_live_as_long_as_they_are_loaded(caller: Client, tmp_path: Path) -> None:
    caller.load_model("sent", content=scale(5))
    (tmp_path / "six.onnx").write_bytes(scale(6))
    caller.load_model("sent", path=tmp_path / "six.onnx", aliases=["newest"])
    assert [factor(caller, name) for name in ("sent", "sent:1", "sent:2", "sent:newest")] == [6, 5, 6, 6]
    for pid in (killed := pids(caller)):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not set(pids(caller)) & {0, *killed}, "new workers")
    assert [factor(caller, name) for name in ("sent", "sent:1")] == [6, 5]
    caller.unload_model("sent", "2")
    assert factor(caller, "sent") == 5
    assert states(caller, "sent") == {"sent:1": "loaded"}
    with pytest.raises(remotegpu.ModelUnusable, match="not an ONNX model"):
        caller.load_model("sent", content=b"no model")
    with pytest.raises(remotegpu.ModelUnusable, match="save it as one file"):
        caller.load_model("sent", content=with_external_data())
    assert states(caller, "sent") == {"sent:1": "loaded"}
    caller.unload_model("sent")
    with pytest.raises(remotegpu.ModelNotFound):
        caller.index("sent")


def test_a_file_that_changes_under_load_is_taken_over_without_a_failed_call(
    caller: Client, root: Path, changeable: LocalServer
) -> None:
    path = write(root, "hot", 1, scale(1, MIB))
    caller.load_model("hot")
    seen: list[float] = []
    failed: list[Exception] = []
    stop = threading.Event()

    def call() -> None:
        with Client(changeable.url, timeout=20) as mine:
            model = mine.model("hot")
            while not stop.is_set():
                try:
                    seen.append(float(model(ONE)["y"][0, 0]))
                except Exception as error:
                    failed.append(error)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for version in range(2, 6):
            before = len(seen)
            path.write_bytes(scale(version, MIB))
            caller.load_model("hot")
            assert factor(caller, "hot") == version
            wait_until(lambda at=before: len(seen) > at + 3, "calls go on")  # type: ignore[misc]
        path.write_bytes(b"no model")
        with pytest.raises(remotegpu.ModelUnusable):
            caller.load_model("hot")
        assert factor(caller, "hot") == 5  # as if nothing had been tried
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed
    assert set(seen) <= {1, 2, 3, 4, 5}
    assert len(set(seen)) > 1


def test_a_killed_worker_comes_back_with_the_same_models(caller: Client, root: Path) -> None:
    for version in (1, 2, 3):
        write(root, "kept", version, scale(version))
    caller.load_model("kept", "1", aliases=["old"])
    caller.load_model("kept", "2")
    caller.unload_model("kept", "1")
    caller.load_model("kept", "1", aliases=["older"])
    caller.unload_model("kept", "2")
    before = states(caller, "kept")
    killed = pids(caller)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not set(pids(caller)) & {0, *killed}, "new workers")
    for _ in range(4):  # on both devices
        assert (factor(caller, "kept"), factor(caller, "kept:older")) == (1, 1)
        with pytest.raises(remotegpu.ModelNotFound):
            factor(caller, "kept:2")
    wait_until(lambda: states(caller, "kept") == before, "the same states")


def test_a_file_that_changed_behind_the_servers_back_is_not_taken_for_the_old_one(caller: Client, root: Path) -> None:
    path = write(root, "swapped", 1, scale(1))
    caller.load_model("swapped")
    path.write_bytes(scale(7))
    assert factor(caller, "swapped") == 1
    killed = pids(caller)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not set(pids(caller)) & {0, *killed}, "new workers")
    with pytest.raises(remotegpu.ModelUnusable, match="load it again"):
        factor(caller, "swapped")
    caller.load_model("swapped")
    assert factor(caller, "swapped") == 7


def test_external_data_that_changed_is_taken_over_by_a_load(caller: Client, root: Path) -> None:
    write(root, "beside", 1, with_external_data("model.onnx.data"))
    data = root / "beside" / "1" / "model.onnx.data"
    for weights in ([1, 2], [3, 4]):
        data.unlink(missing_ok=True)
        data.write_bytes(np.array(weights, np.float32).tobytes())
        caller.load_model("beside")
        np.testing.assert_array_equal(caller.model("beside")(ONE)["y"], [[1 + each for each in weights]])


def test_only_an_operator_who_says_so_lets_callers_change_models(client: Client) -> None:
    assert states(client, "linear") == {"linear:1": "loaded"}
    with pytest.raises(remotegpu.NotAllowed, match="--allow-uploads"):
        client.load_model("linear")
    with pytest.raises(remotegpu.NotAllowed, match="--allow-uploads"):
        client.unload_model("linear")
    with pytest.raises(remotegpu.NotAllowed, match="--allow-uploads"):
        client.set_alias("linear", "a", "1")
    with pytest.raises(remotegpu.ModelNotFound):
        client.index("nothing")


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A server with room for two of its three models."""
    made = tmp_path_factory.mktemp("crowded")
    for number, name in enumerate("abc", start=1):
        write(made, name, 1, scale(number, MIB))
    write(made, "huge", 1, scale(1, 4 * MIB))
    write(made, "huge", 2, scale(1))
    running = LocalServer(["--gpus", "cpu", "--models", str(made), "--arena", "16MiB", "--model-memory", "3MiB"])
    yield running
    assert running.stop() == 0


def test_the_least_recently_used_model_gives_way_and_comes_back(crowded: LocalServer) -> None:
    with Client(crowded.url, timeout=20) as client:
        for name, number in (("a", 1), ("b", 2), ("a", 1), ("c", 3)):
            assert factor(client, name) == number
        assert states(client)["b:1"] == "evicted"
        assert sum(entry.memory for entry in client.index()) <= 3 * MIB
        assert factor(client, "b") == 2
        wait_until(lambda: states(client)["a:1"] == "evicted", "a gave way")
        assert {s.name for s in client.models()} >= {"a", "b", "c"}
        assert factor(client, "a") == 1


def test_what_a_live_lease_uses_stays(crowded: LocalServer) -> None:
    with Client(crowded.url, timeout=20) as client:
        with client.alloc() as lease:
            for name in "ab":
                lease.fetch(lease.model(name)(ONE)["y"])
            with pytest.raises(remotegpu.OutOfMemory) as caught:
                factor(client, "c")
            assert caught.value.asked > MIB
            assert (factor(client, "a"), factor(client, "b")) == (1, 2)  # that call only
        wait_until(lambda: not client.top().leases, "the lease has ended")
        wait_until(lambda: _works(client, "c"), "there is room again")


def _works(client: Client, name: str) -> bool:
    try:
        factor(client, name)
    except remotegpu.OutOfMemory:
        return False
    return True


def test_a_model_larger_than_all_room_is_refused(crowded: LocalServer) -> None:
    with Client(crowded.url, timeout=20) as client:
        with pytest.raises(remotegpu.OutOfMemory, match="load of model huge:1"):
            factor(client, "huge:1")
        assert factor(client, "huge") == 1


def test_more_callers_than_room_take_turns(crowded: LocalServer) -> None:
    failed: list[Exception] = []

    def call(name: str, number: int) -> None:
        with Client(crowded.url, timeout=20) as client:
            try:
                for _ in range(8):
                    assert factor(client, name) == number
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=call, args=pair) for pair in (("a", 1), ("b", 2), ("c", 3))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_the_command_lists_and_changes_models(
    changeable: LocalServer, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(root, "commanded", 1, scale(1))
    url = ["--url", changeable.url]
    assert cli.main(["models", *url, "load", "commanded", "--alias", "best"]) == 0
    assert "commanded:1 (default, best)  loaded" in capsys.readouterr().out
    assert cli.main(["models", *url, "alias", "commanded", "best"]) == 0
    capsys.readouterr()
    assert cli.main(["models", *url, "--json", "list", "commanded"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["state"], entry["aliases"]) == ("loaded", [])
    assert cli.main(["models", *url, "unload", "commanded:1"]) == 0
    assert cli.main(["models", *url, "list", "nothing"]) == 2
    assert cli.main(["models", *url, "unload"]) == 2
    capsys.readouterr()
    assert cli.main(["models", *url]) == 0
    assert "commanded:1" in capsys.readouterr().out


def test_session_options_reach_onnx_runtime(start_server: StartServer, tmp_path: Path) -> None:
    write(tmp_path, "scale", 3, scale(3))
    server = start_server("--session-option", "graph_optimization_level=disable_all", "--models", str(tmp_path))
    with Client(server.url, timeout=20) as client:
        assert factor(client, "scale") == 3
    with pytest.raises(errors.ConfigurationError, match="--session-option no_such=1"):
        start_server("--session-option", "no_such=1")
