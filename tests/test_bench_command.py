# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""`remotegpu bench` against a real server through its doors."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remotegpu import cli, errors
from remotegpu.cli.bench import inputs, load, mismatch, oip_tensors, outcome, own_door, plot
from remotegpu.cli.bench.inputs import Choice, Tensor
from remotegpu.cli.bench.load import Amount
from remotegpu.cli.bench.oip_grpc import infer_request
from remotegpu.cli.bench.targets import Address
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
def test_nothing_is_measured_if_every_call_of_the_warm_up_fails(
    bench: Bench, doors: dict[str, tuple[str, ...]], door: str, kind: str
) -> None:
    code, out, err = bench("linear", *doors[door], *QUICK, "--json", "--shape", "x:1,63")
    (run,) = json.loads(out)["runs"]
    assert code == 1
    assert (run["concurrency"], run["calls"], run["failed"], run["latency_ns"]) == (1, 0, 0, None)
    assert run["warm_up_errors"][kind]["count"] == 1
    assert "63" in run["warm_up_errors"][kind]["first"]
    assert "the one call of the warm-up failed, so nothing was measured: 1 × " + kind in err
    assert (bench("linear", *doors[door], *QUICK, "--shape", "x:1,63")[:2]) == (1, ""), (
        "for a person, the sentence only"
    )


def test_failed_calls_are_counted_by_kind_and_back_off(
    bench: Bench, doors: dict[str, tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = own_door.OwnTarget.call

    def breaks(self: own_door.OwnTarget, given: Any) -> Callable[[], object]:
        call, calls = one(self, given), itertools.count()

        def answered_once() -> object:
            if next(calls):
                raise errors.Unavailable(why="it is draining")
            return call()

        return answered_once

    monkeypatch.setattr(own_door.OwnTarget, "call", breaks)
    arguments = ("--requests", "4", "--warm-up", "0", "--json")
    code, out, _ = bench("linear", *doors["own"], *arguments)
    (run,) = json.loads(out)["runs"]
    assert (code, run["calls"], run["failed"], run["calls_per_second"]) == (1, 0, 4, 0.0)
    assert run["errors"] == {"Unavailable": {"count": 4, "first": str(errors.Unavailable(why="it is draining"))}}
    assert run["seconds"] >= 0.05 + 0.1 + 0.2


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
    ("scheme", "door", "options", "told"),
    [
        ("grpc", "own", ("--protocol", "oip"), "a gRPC server answers at {}, but it does not know the Open Inference"),
        ("grpc", "grpc", (), "a gRPC server answers at {}, but it is not remotegpu-server's own port"),
        ("grpc", "rest", (), "an HTTP server answers at {}, not one of gRPC: write http://{}"),
        ("grpc", "rest", ("--protocol", "oip"), "an HTTP server answers at {}, not one of gRPC: write http://{}"),
        ("http", "grpc", (), "a server answers at {}, but not in HTTP/1.1: if it is one of gRPC, write grpc://{}"),
    ],
)
def test_a_server_of_another_protocol_is_told(
    bench: Bench, doors: dict[str, tuple[str, ...]], scheme: str, door: str, options: tuple[str, ...], told: str
) -> None:
    target = doors[door][1].partition("://")[2]
    code, out, err = bench("linear", "--url", f"{scheme}://{target}", "--timeout", "1", *options)
    assert (code, out) == (2, "")
    assert told.replace("{}", target) in err


def test_a_page_is_no_server_of_the_protocol() -> None:
    address = Address("http://here:80", "oip", "m", "", "", 1.0, 1.0)
    for error in (
        errors.UnknownRemoteError(kind="HTTP 404", why="<!DOCTYPE HTML>"),
        errors.ProtocolError(what="/v2/models/m is not JSON: Expecting value"),
    ):
        assert "an HTTP server answers at here:80, but it does not know" in mismatch.explained(error, address)
    unknown = errors.UnknownRemoteError(kind="HTTP 404", why='{"error": "unknown model"}')
    assert mismatch.explained(unknown, address) == ""


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
    assert inputs.arrays(tensor("f4", None, None), Choice({"x": (8, 2)}, 8, 0, None))["x"].shape == (8, 2)
    strings = inputs.arrays(tensor(object, None, 2), NOWHERE)["x"]
    assert [type(item) for item in strings.reshape(-1)] == [bytes, bytes]
    assert inputs.arrays(tensor("f4"), NOWHERE)["x"].shape == ()


@pytest.mark.parametrize(
    ("shape", "choice", "told"),
    [
        ((None, None), NOWHERE, "give --shape x:1,\\?"),
        ((2, 3), Choice({}, 4, 0, None), "--batch: input 'x' has the fixed shape"),
        ((2,), Choice({"y": (1,)}, 0, 0, None), "no input 'y'; it has: x"),
        ((None, None), Choice({"x": (1, 64)}, 8, 0, None), "--batch: --shape x:1,64 has another first size than 8"),
        ((None, None), Choice({"x": ()}, 8, 0, None), "--batch: --shape x: has another first size than 8"),
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
