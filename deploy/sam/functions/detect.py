# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What is done with one object of the input bucket: replace it by your own.

The orchestrator calls it, in its own process or as a second function, with a lease that is granted already. What it
returns is the result, which the orchestrator stores.
"""

from __future__ import annotations

import time
from typing import Any

import boto3  # Lambda's runtimes have it

import remotegpu

# Outside of the handler, so that a warm function keeps its connections. Neither connects yet.
gpu = remotegpu.Client.from_env()
s3 = boto3.client("s3")

MODEL = "digits"
LEAST_SCORE = 0.5


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Boxes in pixels (x1, y1, x2, y2), scores and labels of the digits in a JPEG or PNG."""
    version = {"VersionId": event["version"]} if event["version"] else {}
    picture = s3.get_object(Bucket=event["bucket"], Key=event["key"], **version)["Body"].read()
    # The lease stays the orchestrator's, which ends it: `fetch`, and not `finish`.
    with gpu.attach(event["lease"]) as lease:
        xp = lease.xp
        image = xp.astype(lease.image(picture), xp.float32) / 255
        found = lease.model(MODEL)(image=xp.permute_dims(image, (2, 0, 1))[None])
        sure = found["scores"] > LEAST_SCORE
        wanted = [found[name][sure] for name in ("boxes", "scores", "labels")]
        boxes, scores, labels = lease.fetch(*wanted, timeout=event["deadline_ms"] / 1000 - time.time())
    return {
        "detections": [
            {"box": [round(float(x), 1) for x in box], "score": round(float(score), 4), "label": int(label)}
            for box, score, label in zip(boxes, scores, labels, strict=True)
        ]
    }
