# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""An AWS Lambda function without a GPU that finds handwritten digits in a picture, on a GPU that is elsewhere.

The event is an HTTP request of a function URL or of API Gateway whose body is a JPEG or PNG. The whole job, from the
lease to the boxes, is one program: one round trip to the GPU server that REMOTEGPU_URL names.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import remotegpu

# Outside of the handler, so that a warm function keeps its connection. Making it does no work yet.
gpu = remotegpu.Client.from_env()

MODEL = "digits"
LEAST_SCORE = 0.5


# No call takes longer than the invocation may, less half a second for the answer itself.
@remotegpu.lambda_handler
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answers 200 with boxes in pixels (x1, y1, x2, y2), scores, labels and timing; 400 for what is not a picture; 503
    with Retry-After when the GPUs are busy or were lost."""
    body = event.get("body") or ""
    picture = base64.b64decode(body) if event.get("isBase64Encoded") else body.encode()
    try:
        return answer(200, detect(picture))
    except remotegpu.InvalidInput as error:
        return answer(400, {"error": str(error)})
    except (remotegpu.Busy, remotegpu.LeaseLost, remotegpu.Unavailable) as error:
        retry_after = max(1, round(getattr(error, "retry_after", 1.0)))
        return answer(503, {"error": str(error)}, {"Retry-After": str(retry_after)})


def detect(picture: bytes) -> dict[str, Any]:
    """The digits in an encoded picture."""
    before = gpu.statistics().round_trips
    with gpu.lease(timeout=2.0) as lease:
        xp = lease.xp
        image = xp.astype(lease.image(picture), xp.float32) / 255
        found = lease.model(MODEL)(image=xp.permute_dims(image, (2, 0, 1))[None])
        sure = found["scores"] > LEAST_SCORE
        wanted = [found[name][sure] for name in ("boxes", "scores", "labels")]
        boxes, scores, labels = lease.finish(*wanted)
    timing = lease.timing
    return {
        "detections": [
            {"box": [round(float(x), 1) for x in box], "score": round(float(score), 4), "label": int(label)}
            for box, score, label in zip(boxes, scores, labels, strict=True)
        ],
        "device": str(lease.devices[0]) if lease.devices else "",
        "round_trips": gpu.statistics().round_trips - before,
        "milliseconds": {
            name: round(getattr(timing, name) * 1000, 2)
            for name in ("queue", "upload", "h2d", "compute", "d2h", "server", "network", "round_trip")
        },
    }


def answer(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> dict[str, Any]:
    """A response as function URLs and API Gateway expect it."""
    all_headers = {"Content-Type": "application/json", **(headers or {})}
    return {"statusCode": status, "headers": all_headers, "body": json.dumps(body)}
