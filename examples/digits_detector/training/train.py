# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Trains the detector on one CPU core and writes `models/digits/1/model.onnx`.

    python -m examples.digits_detector.training.train

Needs torch, numpy, pillow, scikit-learn and onnx. Every scene is new, and none holds a digit of the test split.
"""

import argparse
import copy
import time
from pathlib import Path

import numpy as np
import torch

from examples.digits_detector.scenes import load_split, make_scene
from examples.digits_detector.training.export import export
from examples.digits_detector.training.network import STRIDE, Detector, assign, loss

SEED = 8
BATCH = 12
SIDES = (128, 320)  # height and width of the scenes, in pixels
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.02
AVERAGING = 0.998  # of the weights, per step
MODEL = Path(__file__).parents[1] / "models" / "digits" / "1" / "model.onnx"


def train(steps: int) -> Detector:
    """A detector trained on `steps` batches, in evaluation mode: the running average of the weights."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    digits = load_split("train")
    detector = Detector().to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(detector).eval()
    optimizer = torch.optim.AdamW(detector.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.05)
    started, sums = time.monotonic(), 0.0
    for step in range(1, steps + 1):
        height, width = rng.integers(SIDES[0], SIDES[1], 2, endpoint=True)
        scenes = [make_scene(rng, digits, int(width), int(height), distort=True) for _ in range(BATCH)]
        pixels = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2)
        raw = detector(pixels.float() / 255)
        value = loss(raw, assign(scenes, -(-height // STRIDE), -(-width // STRIDE)))
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        average(averaged, detector, min(AVERAGING, 1 - 10 / (step + 10)))
        sums += value.item()
        if step % 100 == 0:
            print(f"step {step} of {steps}: loss {sums / 100:.3f}, {time.monotonic() - started:.0f} s", flush=True)
            sums = 0.0
    return averaged


@torch.no_grad()
def average(averaged: Detector, detector: Detector, keep: float) -> None:
    """Moves the weights and the batch statistics of `averaged` towards `detector`'s, in place."""
    for old, new in zip(averaged.state_dict().values(), detector.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - keep)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6000, help="batches of 12 scenes")
    parser.add_argument("--output", type=Path, default=MODEL, help="the ONNX file to write")
    arguments = parser.parse_args()
    export(train(arguments.steps), arguments.output)


if __name__ == "__main__":
    main()
