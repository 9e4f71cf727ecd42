# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The main job, end to end: `make demo`.

Starts a server on this machine (on its GPUs, or on two CPU devices), runs the Lambda handler beside it under the real
Lambda runtime client, sends it the test pictures, and compares what it finds with the true boxes.
"""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from examples.lambda_handler.runtime_api import LambdaFunction
from remotegpu import errors
from remotegpu.local import LocalServer

EXAMPLES = Path(__file__).resolve().parent
DETECTOR = EXAMPLES / "digits_detector"
OUTPUT = EXAMPLES.parent / "demo-output"
_COLOURS = (
    "#e6194b",
    "#3cb44b",
    "#4363d8",
    "#f58231",
    "#911eb4",
    "#008080",
    "#9a6324",
    "#800000",
    "#808000",
    "#000075",
)

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the detections of one picture compare with the truth."""

    matched: int
    missed: int
    false: int


def overlap(first: Box, second: Box) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2)."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (sum(areas) - width * height)


def compare(detections: list[dict[str, Any]], truth: list[dict[str, Any]]) -> Outcome:
    """Matches each true box with a detection of the same label that covers it (IoU at least 0.5), each used once."""
    left = list(detections)
    matched = 0
    for true in truth:
        hits = [d for d in left if d["label"] == true["label"] and overlap(d["box"], true["box"]) >= 0.5]
        if hits:
            left.remove(max(hits, key=lambda d: overlap(d["box"], true["box"])))
            matched += 1
    return Outcome(matched, len(truth) - matched, len(left))


def http_event(picture: bytes) -> dict[str, Any]:
    """What a function URL makes of a POST with a picture."""
    return {"body": base64.b64encode(picture).decode(), "isBase64Encoded": True, "headers": {}}


def annotate(picture: bytes, detections: list[dict[str, Any]], target: Path) -> None:
    """Draws boxes, labels and scores and writes a PNG."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    draw = ImageDraw.Draw(image)
    for found in detections:
        colour = _COLOURS[found["label"]]
        x1, y1, x2, y2 = found["box"]
        draw.rectangle((x1, y1, x2, y2), outline=colour, width=2)
        text = f"{found['label']} {found['score']:.2f}"
        left, top, right, bottom = draw.textbbox((x1, max(y1 - 12, 0)), text)
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), fill=colour)
        draw.text((x1, max(y1 - 12, 0)), text, fill="white")
    image.save(target)


def report(name: str, result: dict[str, Any], outcome: Outcome) -> None:
    """Prints one picture's result."""
    counts = f"{outcome.matched} digits right, {outcome.missed} missed, {outcome.false} false"
    print(f"\n{name} on {result['device']}: {counts}")
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


def main() -> int:
    """Runs the demo. Exit code 1 if a detection does not match the truth."""
    OUTPUT.mkdir(exist_ok=True)
    truth = json.loads((DETECTOR / "pictures" / "truth.json").read_text())
    server = start_server()
    print(f"remotegpu-server on port {server.port}, process {server.process.pid}")
    wrong = 0
    try:
        environment = {"REMOTEGPU_URL": server.url}
        with LambdaFunction(
            "handler.handler", task_root=EXAMPLES / "lambda_handler", environment=environment
        ) as function:
            print(f"the handler runs under awslambdaric, process {function.pid}, without CUDA and without the model")
            for name, boxes in sorted(truth.items()):
                picture = (DETECTOR / "pictures" / name).read_bytes()
                response: Any = function.invoke(http_event(picture))
                result = json.loads(response["body"])
                if response["statusCode"] != 200:
                    raise SystemExit(f"{name}: {response['statusCode']} {result}")
                outcome = compare(result["detections"], boxes)
                wrong += outcome.missed + outcome.false
                report(name, result, outcome)
                annotate(picture, result["detections"], OUTPUT / f"{Path(name).stem}.png")
        print(f"\nannotated pictures: {OUTPUT}\n\n$ remotegpu top --once", flush=True)
        subprocess.run([sys.executable, "-m", "remotegpu.cli", "top", "--once", "--url", server.url], check=True)
    finally:
        server.stop()
    print("\nall detections match the true boxes" if not wrong else f"\n{wrong} detections do not match the true boxes")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
