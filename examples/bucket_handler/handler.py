# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""An AWS Lambda function that `remotegpu orchestrate` invokes for each picture in a bucket: it finds handwritten digits
in it, on the device whose lease it is handed, and puts an annotated PNG beside the place of its result.

The orchestrator stores the answer. It deals with what S3 and SQS say twice or out of order; here is the job alone.
"""

from __future__ import annotations

import functools
from typing import Any

import remotegpu
from examples.detections import annotate
from remotegpu.aws.services import Services

# Outside of the handler, so that a warm function keeps its connection. Making it does no work yet.
gpu = remotegpu.Client.from_env()

LEAST_SCORE = 0.5


@functools.cache
def aws() -> Services:
    """Made by the first call, and kept."""
    return Services()


@remotegpu.lambda_handler
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """The digits in a picture: boxes in pixels (x1, y1, x2, y2), scores and labels. Whatever is raised brings the
    picture's message back to the queue."""
    picture = aws().get(event["bucket"], event["key"], event["version"])
    if picture is None:
        raise remotegpu.Unavailable(why=f"{event['key']} is no longer there")
    found = detect(picture, event["lease"])
    keep(annotate(picture, found), event["output"])
    return {"detections": found}


def detect(picture: bytes, key: str) -> list[dict[str, Any]]:
    """The digits in an encoded picture, by one program. It ends the lease with that key: what follows needs no GPU."""
    lease = gpu.attach(key)
    xp = lease.xp
    image = xp.astype(lease.image(picture), xp.float32) / 255
    found = lease.model("digits")(image=xp.permute_dims(image, (2, 0, 1))[None])
    sure = found["scores"] > LEAST_SCORE
    boxes, scores, labels = lease.finish(*(found[name][sure] for name in ("boxes", "scores", "labels")))
    return [
        {"box": [round(float(x), 1) for x in box], "score": round(float(score), 4), "label": int(label)}
        for box, score, label in zip(boxes, scores, labels, strict=True)
    ]


def keep(png: bytes, output: dict[str, Any]) -> None:
    """Puts an annotated picture beside its result, instead of that of an earlier version or delivery."""
    where = output["bucket"], f"{output['key'].removesuffix('.json')}.png"
    there = aws().head(*where)
    if not aws().put(
        where,
        png,
        content_type="image/png",
        metadata=output["metadata"],
        instead_of=None if there is None else there.etag,
    ):
        raise remotegpu.Unavailable(why=f"somebody else has just stored {where[1]}")
