# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""`remotegpu cost` from its options to its output. No server is asked."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from remotegpu import cli
from remotegpu.cli import cost_report
from remotegpu.cost import prices
from remotegpu.cost.workload import Workload

Run = Callable[..., tuple[int, str, str]]
SLOW = ("--cpu-seconds", "88.96", "--remote-seconds", "1", "--remote-memory", "256", "--gpu", "g4dn.xlarge")
TABLE = Path(prices.__file__).with_name("prices.toml")


@pytest.fixture
def cost(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command: exit code, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = cli.main(("cost", *arguments))
        except SystemExit as ended:  # argparse
            code = int(str(ended.code))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def answer(cost: Run, *arguments: str) -> dict[str, Any]:
    code, out, err = cost(*arguments, "--json")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def test_table(cost: Run) -> None:
    code, out, err = cost(*SLOW)
    assert (code, err) == (0, "")
    lines = {line[:36].strip(): line[36:].split() for line in out.splitlines()}
    assert out.startswith("1,000,000 pictures a month (0.381 per second) at the prices of us-east-1, USD\n")
    assert lines["Lambda, CPU"][:2] == ["746.03", "746.03"]
    assert "1 × g4dn.xlarge for 4 functions" in out
    _, crossings = out.split("Cheaper than Lambda, CPU")
    crossing = next(line for line in crossings.splitlines() if line.startswith("Lambda + remote GPU of its own"))
    assert crossing.split()[-2:] == ["526,832", "526,832"]
    assert "Prices not read from AWS itself:  fargate.vcpu" in out


def test_json(cost: Run) -> None:
    found = answer(cost, *SLOW)
    assert found["schema"] == "remotegpu.cost/1"
    assert found["workload"]["cpu_seconds"] == 88.96
    bills = {each["name"]: each for each in found["alternatives"]}
    assert bills["lambda-gpu"]["count"] == 1
    assert bills["lambda-gpu"]["idle"] > bills["lambda-shared-gpu"]["idle"] > 0
    pair = {"lambda-cpu", "lambda-gpu"}
    (crossing,) = [each for each in found["crossings"] if {each["cheaper"], each["dearer"]} == pair]
    assert crossing["images"] == pytest.approx(526_832, abs=1)
    assert found["least"][0] == {"name": "lambda-cpu", "images": 1.0}
    duration = found["prices"]["entries"]["lambda.duration"]
    assert (duration["unit"], duration["as_of"], duration["origin"]) == ("USD per GB-s", "2026-09-19", "aws")


def test_options_reach_the_workload(cost: Run) -> None:
    options = "--rate 2 --cpu-memory 1769 --cpu-init 3 --remote-init 1 --cold-starts 0.5 --gpus 2 --gpu-seconds 0.01"
    more = "--functions 7 --utilisation 0.9 --spot 0.25 --image-bytes 1MiB --network nat --no-free-tier"
    assert answer(cost, *options.split(), *more.split())["workload"] == {
        "images_per_month": 2 * 730 * 3600,
        "cpu_seconds": 8.78,
        "cpu_memory_mb": 1769,
        "cpu_init_seconds": 3,
        "remote_seconds": 0.29,
        "remote_memory_mb": 512,
        "remote_init_seconds": 1,
        "cold_start_share": 0.5,
        "gpu": "g6.xlarge",
        "gpus": 2,
        "gpu_seconds": 0.01,
        "functions": 7,
        "utilisation": 0.9,
        "spot_share": 0.25,
        "image_bytes": 1024**2,
        "network": "nat",
        "free_tier": False,
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--utilisation", "1.5"), "--utilisation: '1.5' is not allowed; allowed: numbers above 0, at most 1"),
        (("--cpu-memory", "64"), "--cpu-memory: '64' is not allowed; allowed: whole numbers from 128 to 10,240"),
        (("--cpu-seconds", "nan"), "--cpu-seconds: 'nan' is not allowed"),
        (("--images", "5", "--rate", "1"), "not allowed with argument"),
        (
            ("--gpu", "t3.medium"),
            "--gpu: given 't3.medium'; allowed: a machine of the price table that has a GPU",
        ),
        (("--spot", "1", "--gpu", "g5.xlarge"), "--spot: given 1; allowed: 0 for g5.xlarge, as the price table has no"),
        (("--image-bytes", "3TiB"), "--image-bytes: given 3.29853e+12; allowed: numbers from 0 to 1,000,000,000,000"),
        (("--image-bytes", "big"), "--image-bytes: 'big' is not a size"),
        (("--prices", "/nowhere/prices.toml"), "--prices: /nowhere/prices.toml: No such file"),
        (("--plot", "cost.pdf"), "--plot: cost.pdf does not end in .png or .svg"),
    ],
)
def test_bad_usage_names_the_option_and_its_limit(cost: Run, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = cost(*arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_another_table(cost: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    own = '[machines."under the desk"]\nusd_per_hour = 0.05\nvcpus = 8\ngpu = "own"\n'
    own += 'as_of = 2026-11-20\nsource = "the electricity bill"\norigin = "memory"\n'
    file.write_text(TABLE.read_text().replace("us-east-1", "at home") + own)
    found = answer(cost, "--prices", str(file), "--gpu", "under the desk")
    assert (found["prices"]["region"], found["prices"]["file"]) == ("at home", str(file))
    assert "machines.under the desk" in found["prices"]["not_read_from_aws"]
    gpu = next(each for each in found["alternatives"] if each["name"] == "lambda-gpu")
    assert gpu["busy"] + gpu["idle"] == pytest.approx(730 * 0.05)
    file.write_bytes(b"\xff\xfe")
    assert cost("--prices", str(file))[2] == f"remotegpu: --prices: {file} is not UTF-8 text\n"


def test_plot(cost: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, start in (("cost.png", b"\x89PNG"), ("cost.svg", b"<?xml")):
        assert cost(*SLOW, "--plot", str(tmp_path / name))[0] == 0
        assert (tmp_path / name).read_bytes().startswith(start)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, _, err = cost("--plot", str(tmp_path / "more.png"))
    assert code == 2
    assert "pip install 'remotegpu[plot]'" in err


def test_spans_of_steps() -> None:
    found = cost_report.compared(Workload(), prices.packaged())
    assert cost_report.spans(found, "lambda-gpu") is None
    fargate = cost_report.spans(found, "fargate")
    assert fargate is not None
    assert fargate.first < fargate.steady
    assert fargate.until is None
    provisioned = cost_report.spans(found, "lambda-provisioned")
    assert provisioned is not None
    assert provisioned.until is not None  # the later tiers of functions on demand are cheaper
    free = cost_report.compared(Workload(gpu_seconds=1e-4, functions=10_000), prices.packaged())
    assert cost_report.spans(free, "lambda-shared-gpu", "lambda-gpu") == cost_report.Spans(1.0, 1.0, None)
