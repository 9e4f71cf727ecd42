# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The examples that are programs of their own do what they show."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from examples import pictures_in_a_bucket
from examples.detections import annotate
from examples.lambda_handler.invoke_api import LambdaService
from examples.lambda_handler.runtime_api import LambdaFunction
from examples.pictures_in_a_bucket import Found, check
from remotegpu import errors
from remotegpu.aws.services import Services
from remotegpu.local import LocalServer
from tests.conftest import DIGITS, wait_until

ROOT = Path(__file__).resolve().parent.parent
DEMO = [sys.executable, "-m", "examples.demo"]
TRUTH: dict[str, Any] = json.loads((DIGITS / "pictures" / "truth.json").read_text())
PICTURES = {name: (DIGITS / "pictures" / name).read_bytes() for name in ("note.jpg", "stamp.png")}


@pytest.mark.slow
def test_the_scheduler_answers_every_command_as_it_should() -> None:
    command = [sys.executable, "-m", "examples.scheduling"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all as it should be" in done.stdout
    assert done.stdout.count("$ ") > 20


def test_pictures_in_a_bucket_become_results_in_another(
    server: LocalServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    is_right = pictures_in_a_bucket.show(server.url, PICTURES, TRUTH, tmp_path)
    printed = capsys.readouterr().out
    assert is_right, printed
    assert "\n   note.jpg    duplicate " in printed
    assert printed.count("\n   ok  ") == 10
    detections = json.loads((tmp_path / "note.json").read_text())["detections"]
    assert (tmp_path / "note.png").read_bytes() == annotate(PICTURES["note.jpg"], detections)


@functools.cache
def perfect() -> Found:
    """What is found when all went well."""
    objects = {}
    for key, picture in PICTURES.items():
        detections = [{**true, "score": 1.0} for true in TRUTH[key]]
        objects[f"{Path(key).stem}.json"] = json.dumps({"detections": detections}).encode()
        objects[f"{Path(key).stem}.png"] = annotate(picture, detections)
    jobs = [{"key": key, "outcome": "done", "InvokeMs": 9.0} for key in PICTURES]
    jobs.append({"key": "note.jpg", "outcome": "duplicate", "InvokeMs": 0.0})
    messages = {"pictures": 0, "pictures-dead": 0}
    return Found(1, jobs, 0, objects, dict.fromkeys(objects, 1), messages, 0, 0, 0)


CHANGES: dict[str, Callable[[Found], Found]] = {
    "a digit that is not there": lambda found: replace(
        found, objects={**found.objects, "note.json": b'{"detections": []}'}
    ),
    "a picture without boxes": lambda found: replace(found, objects={**found.objects, "note.png": b""}),
    "no result": lambda found: replace(
        found, objects={key: found.objects[key] for key in ("note.json", "stamp.json", "stamp.png")}
    ),
    "a result put twice": lambda found: replace(found, puts={**found.puts, "note.json": 2}),
    "a result too many": lambda found: replace(found, objects={**found.objects, "other.json": b"{}"}),
    "no test event": lambda found: replace(found, first_message=0),
    "a job that ran twice": lambda found: replace(found, jobs=[*found.jobs[:2], found.jobs[0]]),
    "a duplicate that ran": lambda found: replace(found, jobs=[*found.jobs[:2], {**found.jobs[2], "InvokeMs": 5.0}]),
    "killed": lambda found: replace(found, exit_code=-9),
    "a message left": lambda found: replace(found, messages={"pictures": 1, "pictures-dead": 0}),
    "a dead letter": lambda found: replace(found, messages={"pictures": 0, "pictures-dead": 1}),
    "a lease": lambda found: replace(found, leases=1),
    "a waiting request": lambda found: replace(found, waiting=1),
    "a slot": lambda found: replace(found, slots=1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_check_sees_what_is_wrong(change: Callable[[Found], Found]) -> None:
    assert all(verdict.right for verdict in check(perfect(), PICTURES, TRUTH))
    lines = [str(verdict) for verdict in check(change(perfect()), PICTURES, TRUTH)]
    assert [line.startswith("   NO  ") for line in lines].count(True) == 1, lines


class Gated(LambdaFunction):
    """Answers when its gate opens, without a process."""

    gate = threading.Event()
    calls = 0

    def invoke(self, event: object) -> object:
        self.calls += 1
        self.gate.wait(10)
        return event


def test_who_waits_for_a_function_that_ends_does_not_start_it_again(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "none")
    function = Gated("no.handler", task_root=ROOT)
    answers: list[bytes] = []
    failures: list[errors.Error] = []

    def call() -> None:
        try:
            answers.append(services.invoke("gated", b"1"))
        except errors.Error as error:
            failures.append(error)

    def requests() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if "process_request_thread" in thread.name}

    before = requests()
    with LambdaService({"gated": function}) as service:
        monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", service.url)
        services = Services()
        threads = [threading.Thread(target=call) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(requests() - before) == 2, "both calls have come")
        wait_until(lambda: function.calls, "one runs")
        threading.Timer(0.3, function.gate.set).start()
    for thread in threads:
        thread.join()
    services.close()
    assert (function.calls, answers, len(failures)) == (1, [b"1"], 1)
    assert capfd.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_the_demo_shows_all_of_it() -> None:
    done = subprocess.run(DEMO, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert done.stdout.endswith("\nall as it should be\n")
    assert done.stdout.count("0 missed, 0 false") == 8
    assert {path.name for path in (ROOT / "demo-output" / "results").iterdir()} >= {"note.json", "note.png"}


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["remotegpu-server on port", "\n$ remotegpu orchestrate", " done "])
def test_nothing_of_the_demo_outlives_it(number: signal.Signals, moment: str) -> None:
    process = subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    family: list[psutil.Process] = []
    alive: list[psutil.Process] = []
    try:
        assert process.stdout is not None
        seen = ""
        while moment not in seen:
            line = process.stdout.readline()
            assert line, seen
            seen += line
        family = psutil.Process(process.pid).children(recursive=True)
        alive = family
        process.send_signal(number)
        _, complaints = process.communicate(timeout=60)
        _, alive = psutil.wait_procs(family, timeout=5)
    finally:
        for each in alive:
            each.kill()
        process.kill()
        process.communicate()
    assert (process.returncode, complaints, alive) == (128 + number, "", [])
    assert family
