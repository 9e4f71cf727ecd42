# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""`remotegpu bench` against a real server through its doors, and its load loop with calls of the test's own."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remotegpu import cli, errors
from remotegpu.cli.bench import inputs, load, oip_tensors, outcome, plot
from remotegpu.cli.bench.inputs import Choice, Tensor
from remotegpu.cli.bench.load import Amount
from remotegpu.cli.bench.oip_grpc import infer_request
from remotegpu.local import LocalServer
from remotegpu.v1 import inference_pb2

QUICK = ("--requests", "20", "--warm-up", "0", "--concurrency", "1,3")
NOWHERE = Choice({}, 0, 0, None)


@pytest.fixture(scope="module")
def doors(models: Path) -> Iterator[dict[str, tuple[str, ...]]]:
    """The options that choose each door of one server."""
    listeners = ("--inference", "127.0.0.1:0", "--rest", "127.0.0.1:0")
    server = LocalServer(["--gpus", "cpu", "--models", str(models), "--arena", "16MiB", *listeners])
    yield {
        "own": ("--url", server.url),
        "grpc": ("--url", f"grpc://127.0.0.1:{server.inference_port}", "--protocol", "oip"),
        "rest": ("--url", f"http://127.0.0.1:{server.rest_port}"),
    }
    assert server.stop() == 0


Bench = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str]) -> Bench:
    """Runs the command: exit code, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(("bench", *arguments))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.mark.parametrize("door", ["own", "grpc", "rest"])
def test_json_tells_every_call(bench: Bench, doors: dict[str, tuple[str, ...]], door: str) -> None:
    code, out, err = bench("linear", *doors[door], *QUICK, "--json", "--batch", "2", "--seed", "7")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["schema"] == "remotegpu.bench/1"
    assert found["inputs"] == [{"name": "x", "dtype": "float32", "shape": [2, 64]}]
    assert found["versions"]["numpy"] == np.__version__
    assert found["server"]
    assert "unknown" not in found["server"]
    settings = found["settings"]
    assert (settings["loop"], settings["requests"], settings["duration"], settings["seed"]) == ("closed", 20, None, 7)
    assert settings["protocol"] == ("remotegpu" if door == "own" else "oip")
    assert [run["concurrency"] for run in found["runs"]] == [1, 3]
    for run in found["runs"]:
        assert (run["calls"], run["failed"], run["errors"], run["warm_up_errors"]) == (20, 0, {}, {})
        assert sum(count for _, _, count in run["histogram"]["buckets"]) == 20
        latency = run["latency_ns"]
        assert 0 < latency["min"] <= latency["p50"] <= latency["p99"] <= latency["p99.9"] <= latency["max"]
        assert run["calls_per_second"] == pytest.approx(20 / run["seconds"])
        assert latency["max"] <= run["seconds"] * 1e9


def test_a_person_gets_a_table_and_histograms(bench: Bench, doors: dict[str, tuple[str, ...]]) -> None:
    code, out, err = bench("linear", *doors["own"], *QUICK)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].endswith("(remotegpu, closed loop): x float32[1, 64]")
    assert lines[2].split()[:3] == ["callers", "calls", "calls/s"]
    assert [line.split()[:2] for line in lines[3:5]] == [["1", "20"], ["3", "20"]]
    assert [line.split()[-1] for line in lines[3:5]] == ["0", "0"]
    assert "latencies of 3 callers" in out
    assert "█" in out


@pytest.mark.parametrize(
    ("door", "kind"), [("own", "InvalidInput"), ("grpc", "INVALID_ARGUMENT"), ("rest", "HTTP 400")]
)
def test_failed_calls_are_counted_by_kind(
    bench: Bench, doors: dict[str, tuple[str, ...]], door: str, kind: str
) -> None:
    code, out, _ = bench("linear", *doors[door], *QUICK, "--json", "--shape", "x:1,63")
    assert code == 1
    for run in json.loads(out)["runs"]:
        assert (run["calls"], run["failed"], run["calls_per_second"], run["latency_ns"]) == (0, 20, 0.0, None)
        assert run["errors"][kind]["count"] == 20
        assert "63" in run["errors"][kind]["first"]
        assert run["warm_up_errors"][kind]["count"] >= run["concurrency"]


@pytest.mark.parametrize(("door", "code"), [("own", 2), ("grpc", 1), ("rest", 1)])
def test_an_unknown_model_ends_it(bench: Bench, doors: dict[str, tuple[str, ...]], door: str, code: int) -> None:
    found, out, err = bench("nope", *doors[door])
    assert (found, out) == (code, "")
    assert "nope" in err


def test_inputs_of_a_file(bench: Bench, doors: dict[str, tuple[str, ...]], tmp_path: Path) -> None:
    file = tmp_path / "inputs.npz"
    np.savez(file, x=np.ones((4, 64), np.float32))
    code, out, _ = bench("linear", *doors["grpc"], *QUICK, "--json", "--input", str(file))
    assert code == 0
    assert json.loads(out)["inputs"] == [{"name": "x", "dtype": "float32", "shape": [4, 64]}]
    np.savez(file, z=np.ones(1))
    assert "it has no array 'x'; it has: z" in bench("linear", *doors["own"], "--input", str(file))[2]
    np.save(tmp_path / "one.npy", np.ones(1))
    assert "without a name" in bench("linear", *doors["own"], "--input", str(tmp_path / "one.npy"))[2]
    file.write_bytes(b"PK\3\4 nonsense")
    assert bench("linear", *doors["own"], "--input", str(file))[0] == 2
    missing = str(tmp_path / "none.npz")
    assert "No such file or directory" in bench("linear", *doors["own"], "--input", missing)[2]


def test_plot(bench: Bench, doors: dict[str, tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "load.png"
    assert bench("linear", *doors["own"], *QUICK, "--plot", str(file))[0] == 0
    assert file.read_bytes().startswith(b"\x89PNG")
    assert "does not end in .png" in bench("linear", "--url", "grpc://127.0.0.1:9", "--plot", "load.pdf")[2]
    with pytest.raises(errors.ConfigurationError, match="cannot be written"):
        plot.check(tmp_path / "nowhere" / "load.png")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = bench("linear", "--url", "grpc://127.0.0.1:9", "--plot", str(file))
    assert code == 2, "before the server is asked"
    assert "pip install 'remotegpu[plot]'" in err


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--url", "grpc://127.0.0.1:9", "--timeout", "1"), 1, "nothing answered at 127.0.0.1:9"),
        (("--url", "grpc://127.0.0.1:9", "--timeout", "1", "--protocol", "oip"), 1, "nothing answered at"),
        (("--url", "http://127.0.0.1:9"), 1, "nothing answered at 127.0.0.1:9 (Connection refused)"),
        (("--url", "https://a", "--protocol", "oip"), 2, "--url: 'https://a': write grpc://HOST:PORT or http"),
        (("--url", "http://a/b"), 2, "write http://HOST:PORT"),
        (("--url", "http://a", "--protocol", "remotegpu"), 2, "is not a server's address"),
        (("--url", "grpc://a", "--input", "a.npz", "--batch", "2"), 2, "--input: shapes are those of the file"),
    ],
)
def test_servers_and_options_that_do_not_do(bench: Bench, arguments: tuple[str, ...], code: int, told: str) -> None:
    found, out, err = bench("linear", *arguments)
    assert (found, out) == (code, "")
    assert told in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--concurrency", "0"),
        ("--concurrency", "1,,2"),
        ("--concurrency", "1025"),
        ("--duration", "0"),
        ("--duration", "nan"),
        ("--warm-up", "-1"),
        ("--timeout", "inf"),
        ("--requests", "1.5"),
        ("--requests", "5", "--duration", "5"),
        ("--shape", "x"),
        ("--shape", "x:1,-1"),
    ],
)
def test_bad_options_are_refused(bench: Bench, arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench("linear", *arguments)
    assert ended.value.code == 2


def test_without_rich_only_json_is_printed(doors: dict[str, tuple[str, ...]]) -> None:
    script = "import sys\nsys.modules['rich'] = None\nfrom remotegpu import cli\nsys.exit(cli.main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "bench", "linear", *doors["own"], *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stdout) == (2, "")
    assert "rich is missing: pip install 'remotegpu[cli]', or give --json" in done.stderr
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")


# The load loop.


def quiet(share: float, rate: float, failed: int) -> None:
    assert 0 <= share <= 1
    assert rate >= 0
    assert failed >= 0


def test_slots_share_the_requests_and_run_at_once() -> None:
    together, made = threading.Barrier(3), itertools.count()

    def call() -> None:
        together.wait(10)  # only passed if all three slots are in a call
        next(made)

    level = load.run([call] * 3, Amount(0.0, 30, 0.0), quiet)
    assert level.outcome.latencies.count == 30
    assert next(made) == 33, "and one call of each slot in the warm-up"
    assert not level.interrupted


def test_a_duration_ends_it() -> None:
    pause = threading.Event()
    level = load.run([lambda: pause.wait(0.02)], Amount(0.3, 0, 0.0), quiet)
    assert 1 <= level.outcome.latencies.count <= 15
    assert level.seconds >= 0.3
    assert level.outcome.latencies.least >= 0.02 * 1e9


def test_a_bug_is_raised_and_not_counted() -> None:
    calls = itertools.count()

    def call() -> None:
        if next(calls) == 5:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        load.run([call, call], Amount(30.0, 0, 0.0), quiet)


@pytest.mark.parametrize("warm_up", [0.0, 30.0])
def test_an_interrupt_gives_what_was_measured(warm_up: float) -> None:
    calls, ended, waiting = itertools.count(), threading.Event(), threading.Event()

    def call() -> None:
        if next(calls) == 50:
            waiting.wait(10)
            os.kill(os.getpid(), signal.SIGINT)
        ended.wait(0.001)

    level = load.run([call, call], Amount(30.0, 0, warm_up), lambda *_: waiting.set())
    assert level.interrupted
    for slot in threading.enumerate():
        if isinstance(slot, load._Slot):
            slot.join(5)
            assert not slot.is_alive(), "nobody goes on calling"
    if warm_up:
        assert (level.outcome.latencies.count, level.seconds) == (0, 0.0)
    else:
        assert level.outcome.latencies.count >= 40


def test_an_interrupted_command_prints_what_it_has(
    bench: Bench, doors: dict[str, tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = load.run

    def interrupted(calls: Any, amount: Amount, progress: load.Progress) -> outcome.Level:
        level = run(calls, amount, progress)
        return outcome.Level(level.concurrency, level.seconds, level.outcome, interrupted=True)

    monkeypatch.setattr(load, "run", interrupted)
    code, out, _ = bench("linear", *doors["own"], *QUICK)
    assert code == 130
    assert out.splitlines()[-1] == "interrupted: this is what was measured until then"
    assert "latencies of 3 callers" not in out, "the next concurrency is not begun"


def test_a_call_that_outlives_the_interrupt_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "INTERRUPT_PATIENCE", 0.1)
    calls, late, waiting = itertools.count(), threading.Event(), threading.Event()

    def call() -> None:
        if next(calls) == 4:
            waiting.wait(10)
            os.kill(os.getpid(), signal.SIGINT)
            late.wait(10)

    level = load.run([call], Amount(30.0, 0, 0.0), lambda *_: waiting.set())
    late.set()
    (slot,) = (thread for thread in threading.enumerate() if isinstance(thread, load._Slot))
    slot.join(5)
    assert not slot.is_alive()
    assert level.outcome.latencies.count == 3, "one of four calls was the warm-up's"


def test_failures_merge_by_kind() -> None:
    one, two = outcome.Outcome(), outcome.Outcome()
    one.fail(errors.Unavailable(why="first"))
    two.fail(errors.Unavailable(why="second"))
    two.fail(errors.UnknownRemoteError(kind="NOT_FOUND", why="gone"))
    two.fail(errors.Unavailable(why="third"), warm_up=True)
    one.merge(two)
    assert {kind: found.count for kind, found in one.failures.items()} == {"Unavailable": 2, "NOT_FOUND": 1}
    assert "first" in one.failures["Unavailable"].first
    assert one.failed == 3
    assert one.warm_up_failures["Unavailable"].count == 1


# Inputs.


def tensor(dtype: Any, *shape: int | None) -> list[Tensor]:
    return [Tensor("x", np.dtype(dtype), shape)]


def test_random_inputs_fit_the_signature_and_repeat() -> None:
    for dtype, greatest in (("u1", 255), ("i1", 127), ("i8", 1), ("?", 1), ("f2", 1), ("f8", 1), ("c8", 1)):
        made = inputs.arrays(tensor(dtype, None, 500), Choice({}, 4, 1, None))["x"]
        assert (made.dtype, made.shape) == (np.dtype(dtype), (4, 500))
        assert 0.9 * greatest <= abs(made).max() <= greatest
        assert (inputs.arrays(tensor(dtype, None, 500), Choice({}, 4, 1, None))["x"] == made).all()
        assert (inputs.arrays(tensor(dtype, None, 500), Choice({}, 4, 2, None))["x"] != made).any()
    strings = inputs.arrays(tensor(object, None, 2), NOWHERE)["x"]
    assert [type(item) for item in strings.reshape(-1)] == [bytes, bytes]
    assert inputs.arrays(tensor("f4"), NOWHERE)["x"].shape == ()


@pytest.mark.parametrize(
    ("shape", "choice", "told"),
    [
        ((None, None), NOWHERE, "give --shape x:1,\\?"),
        ((2, 3), Choice({}, 4, 0, None), "--batch: input 'x' has the fixed shape"),
        ((2,), Choice({"y": (1,)}, 0, 0, None), "no input 'y'; it has: x"),
        ((2**20, 2**20), NOWHERE, "would have 4398046511104 bytes"),
    ],
)
def test_inputs_that_cannot_be_made(shape: tuple[int | None, ...], choice: Choice, told: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=told):
        inputs.arrays(tensor("f4", *shape), choice)
    with pytest.raises(errors.ConfigurationError, match="any number of sizes"):
        inputs.arrays([Tensor("x", np.dtype("f4"), None)], NOWHERE)


def test_a_request_of_the_open_inference_protocol() -> None:
    arrays = {
        "a": np.arange(6, dtype=">f4").reshape(2, 3).T,
        "b": np.array([b"one", b"three"], object),
        "c": np.array(["é"]),
    }
    request = inference_pb2.ModelInferRequest.FromString(infer_request("m", "3", arrays))
    assert (request.model_name, request.model_version) == ("m", "3")
    found = [(given.name, given.datatype, list(given.shape)) for given in request.inputs]
    assert found == [("a", "FP32", [3, 2]), ("b", "BYTES", [2]), ("c", "BYTES", [1])]
    assert request.raw_input_contents[0] == np.array([0, 3, 1, 4, 2, 5], "<f4").tobytes()
    assert request.raw_input_contents[1] == b"\3\0\0\0one\5\0\0\0three"
    assert request.raw_input_contents[2] == b"\2\0\0\0\xc3\xa9"
    with pytest.raises(errors.ConfigurationError, match="no elements of complex64"):
        infer_request("m", "", {"x": np.ones(1, np.complex64)})
    with pytest.raises(errors.ProtocolError, match="BF16"):
        oip_tensors.tensor("x", "BF16", [1])
    assert oip_tensors.tensor("x", "INT64", [-1, 2]) == Tensor("x", np.dtype("i8"), (None, 2))
