# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The main job, end to end: `make demo`.

Starts a server on this machine (on its GPUs, or on two CPU devices), runs a Lambda handler beside it under the real
Lambda runtime client, sends it the test pictures, and compares what it finds with the true boxes. Then the same
pictures take the way of production, from a bucket by a queue to another bucket (`pictures_in_a_bucket`).
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from examples import pictures_in_a_bucket
from examples.detections import Outcome, annotate, compare
from examples.lambda_handler.runtime_api import LambdaFunction
from remotegpu import errors
from remotegpu.local import LocalServer

EXAMPLES = Path(__file__).resolve().parent
DETECTOR = EXAMPLES / "digits_detector"
OUTPUT = EXAMPLES.parent / "demo-output"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def http_event(picture: bytes) -> dict[str, Any]:
    """What a function URL makes of a POST with a picture."""
    return {"body": base64.b64encode(picture).decode(), "isBase64Encoded": True, "headers": {}}


def report(name: str, result: dict[str, Any], outcome: Outcome) -> None:
    """Prints one picture's result."""
    print(f"\n{name} on {result['device']}: {outcome}")
    for found in result["detections"]:
        box = "  ".join(f"{edge:6.1f}" for edge in found["box"])
        print(f"   {found['label']}   confidence {found['score']:.2f}   box {box}")
    parts = "   ".join(f"{key} {value:.1f}" for key, value in result["milliseconds"].items())
    print(f"   milliseconds: {parts}")
    print(f"   round trips: {result['round_trips']}")


def start_server() -> LocalServer:
    """On the GPUs if the server can use them, else on two CPU devices."""
    models = ["--models", str(DETECTOR / "models")]
    try:
        return LocalServer(["--gpus", "all", *models])
    except errors.ConfigurationError as error:
        print(f"no GPU here, so two CPU devices stand in for two GPUs ({error.why.rsplit(': ', 1)[-1]})")
        return LocalServer(["--gpus", "cpu:2", *models])


def function_url(url: str, pictures: Mapping[str, bytes], truth: pictures_in_a_bucket.Truth) -> int:
    """Has a function find digits in pictures that come in its events. Returns how many were missed or are false."""
    wrong = 0
    root = EXAMPLES / "lambda_handler"
    with LambdaFunction("handler.handler", task_root=root, environment={"REMOTEGPU_URL": url}) as function:
        print(f"the handler runs under awslambdaric, process {function.pid}, without CUDA and without the model")
        for name, picture in pictures.items():
            response: Any = function.invoke(http_event(picture))
            result = json.loads(response["body"])
            if response["statusCode"] != 200:
                raise SystemExit(f"{name}: {response['statusCode']} {result}")
            outcome = compare(result["detections"], truth[name])
            wrong += outcome.missed + outcome.false
            report(name, result, outcome)
            (OUTPUT / f"{Path(name).stem}.png").write_bytes(annotate(picture, result["detections"]))
    print(f"\nannotated pictures: {OUTPUT}")
    print("all detections match the true boxes" if not wrong else f"{wrong} detections do not match the true boxes")
    return wrong


def main() -> int:
    """Runs the demo. Exit code 1 if a detection does not match the truth, or anything is left."""
    OUTPUT.mkdir(exist_ok=True)
    truth = json.loads((DETECTOR / "pictures" / "truth.json").read_text())
    pictures = {name: (DETECTOR / "pictures" / name).read_bytes() for name in sorted(truth)}
    server = start_server()
    print(f"remotegpu-server on port {server.port}, process {server.process.pid}")
    try:
        print("\n1. A picture in each event\n", flush=True)
        wrong = function_url(server.url, pictures, truth)
        print("\n2. Pictures in a bucket\n", flush=True)
        right = pictures_in_a_bucket.show(server.url, pictures, truth, OUTPUT / "results")
        print("\n$ remotegpu top --once", flush=True)
        subprocess.run([sys.executable, "-m", "remotegpu.cli", "top", "--once", "--url", server.url], check=True)
    finally:
        server.stop()
    print("\nall as it should be" if right and not wrong else "\nnot as it should be: see above")
    return 0 if right and not wrong else 1


class Interrupted(BaseException):
    """A signal came; its argument is the signal's number."""


def _interrupt(number: int, frame: object) -> None:
    for each in _SIGNALS:
        signal.signal(each, _give_up)
    raise Interrupted(number)


def _give_up(number: int, frame: object) -> None:
    """Ends what is left: the signal may have come between the start of a process and the moment from which somebody
    would end it. A second signal does not wait for the others' ends either."""
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(128 + number)


if __name__ == "__main__":
    for each in _SIGNALS:
        signal.signal(each, _interrupt)
    try:
        code = main()
    except Interrupted as interruption:
        sys.stdout.flush()
        _give_up(interruption.args[0], None)
    raise SystemExit(code)
