# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Measures the detector on scenes of held-out digits and writes `accuracy.json`.

    python -m examples.digits_detector.evaluate

Mean average precision at IoU 0.5 as PASCAL VOC computes it since 2010: the area under each class's precision-recall
curve over all of its points, with precision made monotonic first (M. Everingham et al., "The PASCAL Visual Object
Classes Challenge 2010 Development Kit", section 3.4.1), averaged over the ten digits.
"""

import argparse
import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from examples.digits_detector.scenes import Floats, Scene, load_split, make_scene

HERE: Final = Path(__file__).parent
MODEL: Final = HERE / "models" / "digits" / "1" / "model.onnx"
SEED: Final = 2010
SIDES: Final = (192, 480)  # height and width of the scenes, in pixels
IOU: Final = 0.5
SCORE: Final = 0.5  # for precision and recall


class Detections(NamedTuple):
    """`boxes`: float32 [detections, 4], x1 y1 x2 y2 in pixels; `scores`: float32 [detections], descending; `labels`:
    int64 [detections]."""

    boxes: Floats
    scores: Floats
    labels: NDArray[np.int64]


class Judged(NamedTuple):
    """All detections of all scenes: `scores`, `labels` and whether each is `correct`; all [detections]."""

    scores: Floats
    labels: NDArray[np.int64]
    correct: NDArray[np.bool_]


def detect(session: Any, image: NDArray[np.uint8]) -> Detections:
    """Runs the model on one RGB picture, uint8 [height, width, 3]."""
    pixels = image.transpose(2, 0, 1)[None].astype(np.float32) / 255
    return Detections(*session.run(["boxes", "scores", "labels"], {"image": pixels}))


def iou(first: Floats, second: Floats) -> Floats:
    """Intersection over union of boxes [n, 4] and [m, 4] (x1 y1 x2 y2), float32 [n, m]."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    overlap = (high - low).clip(0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    result: Floats = overlap / (areas[0][:, None] + areas[1] - overlap)
    return result


def judge(scene: Scene, found: Detections) -> NDArray[np.bool_]:
    """Which detections are correct, bool [detections]: each, best score first, may claim the true box of its own label
    that it overlaps most, if by IoU 0.5 or more; a box is claimed once, later claims are false (VOC's rule)."""
    overlap = np.where(found.labels[:, None] == scene.labels, iou(found.boxes, scene.boxes), 0)
    claimed: set[int] = set()
    correct = np.zeros(len(found.scores), bool)
    for detection, row in enumerate(overlap):
        truth = int(row.argmax())
        if row[truth] >= IOU and truth not in claimed:
            claimed.add(truth)
            correct[detection] = True
    return correct


def average_precision(scores: Floats, correct: NDArray[np.bool_], truths: int) -> float:
    """Area under the precision-recall curve of one class with `truths` true boxes, 0..1."""
    hits = correct[np.argsort(-scores, kind="stable")].cumsum()
    precision = hits / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]  # the best precision at this recall or a higher one
    return float((np.diff(hits, prepend=0) * precision).sum() / truths)


def summarize(judged: Judged, truths: NDArray[np.int64]) -> dict[str, object]:
    """Figures of `accuracy.json` from all detections and the labels of all true boxes, int64 [digits].

    Raises ValueError when a digit has no true box, since its average precision is then undefined.
    """
    per_digit = {}
    for digit in range(10):
        own = judged.labels == digit
        count = int((truths == digit).sum())
        if count == 0:
            raise ValueError(f"no scene holds the digit {digit}, so it has no average precision: ask for more scenes")
        per_digit[str(digit)] = average_precision(judged.scores[own], judged.correct[own], count)
    sure = judged.scores >= SCORE
    hits = int(judged.correct[sure].sum())
    return {
        "map_50": round(float(np.mean(list(per_digit.values()))), 4),
        "average_precision_50": {digit: round(value, 4) for digit, value in per_digit.items()},
        "precision": round(hits / max(int(sure.sum()), 1), 4),
        "recall": round(hits / len(truths), 4),
        "score_threshold": SCORE,
    }


def evaluate(model: Path, scenes: int) -> dict[str, object]:
    """Contents of `accuracy.json` for the model in the file `model`, on `scenes` scenes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(SEED)
    digits = load_split("test")
    founds, corrects, truths = [], [], []
    for _ in range(scenes):
        height, width = rng.integers(SIDES[0], SIDES[1], 2, endpoint=True).tolist()
        scene = make_scene(rng, digits, width, height)
        found = detect(session, scene.image)
        founds.append(found)
        corrects.append(judge(scene, found))
        truths.append(scene.labels)
    judged = Judged(
        np.concatenate([found.scores for found in founds]),
        np.concatenate([found.labels for found in founds]),
        np.concatenate(corrects),
    )
    packages = ("numpy", "onnxruntime", "pillow", "scikit-learn")
    return {
        **summarize(judged, np.concatenate(truths)),
        "scenes": scenes,
        "true_boxes": sum(len(labels) for labels in truths),
        "held_out_digits": len(digits.labels),
        "seed": SEED,
        "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=MODEL, help="the ONNX file to measure")
    parser.add_argument("--scenes", type=int, default=500, help="number of held-out scenes")
    parser.add_argument("--output", type=Path, default=HERE / "accuracy.json", help="the JSON file to write")
    arguments = parser.parse_args()
    text = json.dumps(evaluate(arguments.model, arguments.scenes), indent=2)
    arguments.output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
