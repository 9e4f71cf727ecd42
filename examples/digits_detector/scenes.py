# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of handwritten digits on textured paper, with the true boxes and labels.

The digits are real: the 1797 scans of 8×8 pixels that scikit-learn ships (`sklearn.datasets.load_digits`, from
E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998). The
backgrounds are procedural. Training, evaluation and the demo pictures all draw from here; a seed fixes a scene.

    python -m examples.digits_detector.scenes     # makes pictures/ anew
"""

import json
import math
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

Floats = NDArray[np.float32]

SPLIT_SEED: Final = 1998
TEST_SHARE: Final = 0.2
PICTURE_SEED: Final = 416
PICTURES: Final = {  # name → width, height
    "ledger.jpg": (640, 480),
    "note.jpg": (480, 320),
    "form.png": (352, 288),
    "stamp.png": (320, 240),
}
PICTURE_BYTES: Final = 250_000

DIGIT_HEIGHT: Final = (16.0, 56.0)  # pixels
MAX_DIGITS: Final = 12
GAP: Final = 3  # pixels kept free between two boxes
INK_EDGE: Final = 0.25  # a pixel with more ink than this lies inside the box
MIN_CONTRAST: Final = 0.35  # between ink and the paper under it, in luminance
LUMINANCE: Final = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


class Digits(NamedTuple):
    """`images`: float32 [digits, 8, 8], ink 0..1; `labels`: int64 [digits], 0..9."""

    images: Floats
    labels: NDArray[np.int64]


class Scene(NamedTuple):
    """`image`: uint8 [height, width, 3], RGB; `boxes`: float32 [digits, 4], x1 y1 x2 y2 in pixels, the second corner
    exclusive; `labels`: int64 [digits]."""

    image: NDArray[np.uint8]
    boxes: Floats
    labels: NDArray[np.int64]


def load_split(split: Literal["train", "test"]) -> Digits:
    """The digits of one side of a fixed stratified split: the same fifth of every class is held out for "test"."""
    bundle = load_digits()
    images = np.asarray(bundle.images, np.float32) / 16
    labels = np.asarray(bundle.target, np.int64)
    rng = np.random.default_rng(SPLIT_SEED)
    chosen = []
    for digit in range(10):
        order = rng.permutation(np.flatnonzero(labels == digit))
        held_out = round(TEST_SHARE * len(order))
        chosen.append(order[:held_out] if split == "test" else order[held_out:])
    index = np.sort(np.concatenate(chosen))
    return Digits(images[index], labels[index])


def make_scene(rng: np.random.Generator, digits: Digits, width: int, height: int, *, distort: bool = False) -> Scene:
    """One picture of `width` × `height` pixels (96 or more) with 1 to 12 of `digits`, never twice the same one.

    `distort` also turns, shears and stretches each digit a little: training data only.
    """
    canvas = _paper(rng, width, height)
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    wanted = int(rng.integers(1, MAX_DIGITS + 1))
    for index in rng.choice(len(digits.labels), wanted, replace=False):
        ink = _ink(rng, digits.images[index], distort)
        corner = _free_corner(rng, boxes, ink.shape, (height, width))
        if corner is None:  # the picture is full
            continue
        y, x = corner
        _write(rng, canvas[y : y + ink.shape[0], x : x + ink.shape[1]], ink)
        boxes.append((x, y, x + ink.shape[1], y + ink.shape[0]))
        labels.append(int(digits.labels[index]))
    grain = rng.uniform(0, 0.03) * rng.standard_normal(canvas.shape, np.float32)
    image = np.rint(np.clip(canvas + grain, 0, 1) * 255).astype(np.uint8)
    return Scene(image, np.array(boxes, np.float32), np.array(labels, np.int64))


def _paper(rng: np.random.Generator, width: int, height: int) -> Floats:
    """float32 [height, width, 3]: two colours blended along a line, blotches at several scales, stripes, rules."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    first = rng.uniform(0.05, 0.95) + rng.uniform(-0.2, 0.2, 3)
    second = first + rng.uniform(-0.25, 0.25, 3)
    angle, stripe_angle = rng.uniform(0, 2 * math.pi, 2)
    ramp = (x / width - 0.5) * math.cos(angle) + (y / height - 0.5) * math.sin(angle) + 0.5
    shade = np.zeros((height, width), np.float32)
    for cell in (3, 12, 48):
        shade += rng.uniform(0, 0.06) * _blotches(rng, width, height, cell)
    if rng.random() < 0.4:
        along = x * math.cos(stripe_angle) + y * math.sin(stripe_angle)
        shade += rng.uniform(0, 0.06) * np.sin(along * (2 * math.pi / rng.uniform(5, 50)))
    if rng.random() < 0.3:  # ruled or squared paper
        pitch = int(rng.integers(14, 48))
        tone = rng.uniform(-0.15, 0.15)
        shade[int(rng.integers(pitch)) :: pitch] += tone
        if rng.random() < 0.5:
            shade[:, int(rng.integers(pitch)) :: pitch] += tone
    colour: Floats = (first + ramp[..., None] * (second - first) + shade[..., None]).astype(np.float32)
    return colour.clip(0, 1)


def _blotches(rng: np.random.Generator, width: int, height: int, cell: int) -> Floats:
    """float32 [height, width]: normal noise with one draw per `cell` pixels, smooth in between."""
    coarse = rng.standard_normal((height // cell + 2, width // cell + 2), np.float32)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.float32)


def _ink(rng: np.random.Generator, digit: Floats, distort: bool) -> Floats:
    """Ink 0..1 of one digit ([8, 8]) at a random size, float32 [height, width], cut to its tight box."""
    low, high = DIGIT_HEIGHT
    scale = low * (high / low) ** rng.random() / 8
    stretch, turn, shear = 1.0, 0.0, 0.0
    if distort:
        stretch = rng.uniform(0.85, 1.18)
        turn = rng.normal(0, 0.1)
        shear = rng.normal(0, 0.12)
    cos, sin = math.cos(turn), math.sin(turn)
    # PIL maps from the new picture to the old one: stretch · shear · rotation, about both centres.
    xx, xy = stretch * (cos + shear * sin) / scale, stretch * (shear * cos - sin) / scale
    yx, yy = sin / scale, cos / scale
    side = math.ceil(12 * scale)
    padded = np.pad(digit, 2)  # the ink fades out instead of being cut off
    mapping = (xx, xy, 6 - (xx + xy) * side / 2, yx, yy, 6 - (yx + yy) * side / 2)
    drawn = Image.fromarray(padded).transform(
        (side, side), Image.Transform.AFFINE, mapping, resample=Image.Resampling.BICUBIC
    )
    grey = np.asarray(drawn, np.float32)
    ink = ((grey - 0.1) / np.float32(rng.uniform(0.55, 0.9))).clip(0, 1)
    rows = np.flatnonzero((ink > INK_EDGE).any(1))
    columns = np.flatnonzero((ink > INK_EDGE).any(0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _free_corner(
    rng: np.random.Generator, boxes: list[tuple[int, int, int, int]], shape: tuple[int, ...], limits: tuple[int, int]
) -> tuple[int, int] | None:
    """Top and left of a place where `shape` (rows, columns) fits inside `limits` and touches none of `boxes`."""
    rows, columns = shape
    for _ in range(30):
        y = int(rng.integers(1, limits[0] - rows))
        x = int(rng.integers(1, limits[1] - columns))
        apart = (
            x + columns + GAP <= x1 or x2 + GAP <= x or y + rows + GAP <= y1 or y2 + GAP <= y
            for x1, y1, x2, y2 in boxes
        )
        if all(apart):
            return y, x
    return None


def _write(rng: np.random.Generator, paper: Floats, ink: Floats) -> None:
    """Blends ink ([rows, columns], 0..1) of one legible colour into `paper` ([rows, columns, 3]), in place."""
    under = float((paper.mean((0, 1)) * LUMINANCE).sum())
    colour = rng.uniform(0, 1, 3).astype(np.float32)
    while abs(float((colour * LUMINANCE).sum()) - under) < MIN_CONTRAST:
        colour = rng.uniform(0, 1, 3).astype(np.float32)
    cover = np.float32(rng.uniform(0.8, 1)) * ink[..., None]
    paper += cover * (colour - paper)


def write_pictures(folder: Path) -> None:
    """Writes the demo pictures and `truth.json` ({name: [{"box": [x1, y1, x2, y2], "label": digit}]}) to `folder`.

    Raises RuntimeError when a picture is larger than 250 kB.
    """
    folder.mkdir(parents=True, exist_ok=True)
    digits = load_split("test")
    truth = {}
    for number, (name, (width, height)) in enumerate(PICTURES.items()):
        scene = make_scene(np.random.default_rng([PICTURE_SEED, number]), digits, width, height)
        path = folder / name
        Image.fromarray(scene.image).save(path, **({"quality": 90} if path.suffix == ".jpg" else {"optimize": True}))
        if path.stat().st_size > PICTURE_BYTES:
            raise RuntimeError(f"{name} is {path.stat().st_size} bytes, over the limit of {PICTURE_BYTES}: shrink it")
        pairs = zip(scene.boxes.astype(int).tolist(), scene.labels.tolist(), strict=True)
        truth[name] = [{"box": box, "label": label} for box, label in pairs]
    lines = (f" {json.dumps(name)}: {json.dumps(entries)}" for name, entries in truth.items())
    (folder / "truth.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    write_pictures(Path(__file__).parent / "pictures")
