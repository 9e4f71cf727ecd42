# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""An AWS Lambda function, triggered by an SQS queue that S3 tells of new pictures: it finds handwritten digits in them
on a GPU that is elsewhere, and stores what it found.

The handler does the whole job itself: the lease, the detection and the end of the lease are one round trip to the
server that REMOTEGPU_URL names. For any other function or model without code of one's own there is
`remotegpu.orchestrator.sqs_handler`. The trigger must have ReportBatchItemFailures; results go to
REMOTEGPU_ORCHESTRATE_OUTPUT, such as s3://results/digits/{stem}.json.
"""

from __future__ import annotations

import functools
import json
import os
from typing import Any

import remotegpu
from remotegpu.aws.services import Services
from remotegpu.orchestrator import events, results

# Outside of the handler, so that a warm function keeps its connection. Making it does no work yet.
gpu = remotegpu.Client.from_env()

LEAST_SCORE = 0.5
# What is left of the invocation's time for storing the result and for the answer. Seconds.
MARGIN = 2.0


@functools.cache
def aws() -> Services:
    """Made by the first call, and kept."""
    return Services()


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answers which messages SQS is to deliver again: those whose pictures could not all be dealt with."""
    target = results.Target.parse(os.environ["REMOTEGPU_ORCHESTRATE_OUTPUT"], "REMOTEGPU_ORCHESTRATE_OUTPUT")
    failed = []
    for message in event["Records"]:
        try:
            for source in events.parse(message["body"]):
                print(source, process(source, target, context))
        except remotegpu.Error as error:
            print(f"{message['messageId']} is to come again: {error}")
            failed.append({"itemIdentifier": message["messageId"]})
    return {"batchItemFailures": failed}


def remaining(context: Any) -> float:
    """Seconds for what is to be done before the result is stored. Raises Unavailable if there are none."""
    seconds: float = context.get_remaining_time_in_millis() / 1000 - MARGIN
    if seconds <= 0:
        raise remotegpu.Unavailable(why="the invocation's time is over")
    return seconds


def process(source: events.Source, target: results.Target, context: Any) -> str:
    """Stores the result for one picture, unless it is there; says what came of it."""
    remaining(context)
    key = target.key(source)
    found = results.standing(there := aws().head(target.bucket, key), source)
    if found in {results.Standing.SAME, results.Standing.NEWER}:
        return str(found.value)
    if found is results.Standing.FOREIGN:
        raise remotegpu.InvalidInput(field="output", limit="a free place for each picture's result", given=key)
    picture = aws().get(source.bucket, source.key, source.version)
    if picture is None:
        return "no longer there"
    body = json.dumps(detect(picture, remaining(context))).encode()
    stored = aws().put(
        (target.bucket, key),
        body,
        content_type=results.JSON,
        metadata=results.metadata(source),
        instead_of=None if there is None else there.etag,
    )
    if not stored:
        raise remotegpu.Unavailable(why=f"somebody else has just stored {key}")
    return "done"


def detect(picture: bytes, seconds: float) -> list[dict[str, Any]]:
    """The digits in an encoded picture, found within so many seconds, part of which may pass in the scheduler's
    queue."""
    with gpu.lease(timeout=seconds / 2, hard_ttl=seconds + 5) as lease:
        xp = lease.xp
        image = xp.astype(lease.image(picture), xp.float32) / 255
        found = lease.model("digits")(image=xp.permute_dims(image, (2, 0, 1))[None])
        sure = found["scores"] > LEAST_SCORE
        wanted = [found[name][sure] for name in ("boxes", "scores", "labels")]
        boxes, scores, labels = lease.finish(*wanted, timeout=seconds)
    return [
        {"box": [round(float(x), 1) for x in box], "score": round(float(score), 4), "label": int(label)}
        for box, score, label in zip(boxes, scores, labels, strict=True)
    ]
