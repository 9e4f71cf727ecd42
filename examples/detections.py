# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What becomes of the digits that were found in a picture: they are compared with the true ones, and drawn."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

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

    def __str__(self) -> str:
        return f"{self.matched} digits right, {self.missed} missed, {self.false} false"


def overlap(first: Box, second: Box) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2)."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (sum(areas) - width * height)


def compare(detections: Sequence[dict[str, Any]], truth: Sequence[dict[str, Any]]) -> Outcome:
    """Matches each true box with a detection of the same label that covers it (IoU at least 0.5), each used once."""
    left = list(detections)
    matched = 0
    for true in truth:
        hits = [d for d in left if d["label"] == true["label"] and overlap(d["box"], true["box"]) >= 0.5]
        if hits:
            left.remove(max(hits, key=lambda d: overlap(d["box"], true["box"])))
            matched += 1
    return Outcome(matched, len(truth) - matched, len(left))


def annotate(picture: bytes, detections: Sequence[dict[str, Any]]) -> bytes:
    """A PNG of the picture with boxes, labels and scores drawn into it."""
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
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
