# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Functions that orchestrators of the benchmarks invoke: `handler:benchmarks.orchestrated:detect` and others."""

from __future__ import annotations

import os
import time
import urllib.request
from collections.abc import Mapping
from typing import Any

from remotegpu import Client
from remotegpu.aws.services import Services
from remotegpu.lease import Lease

LEAST_SCORE = 0.3
# Of the handler whose time is given. Seconds.
PAUSE = "ORCHESTRATED_PAUSE"

Event = Mapping[str, Any]
_client = Client.from_env() if "REMOTEGPU_URL" in os.environ else None
_services = Services() if "AWS_ENDPOINT_URL" in os.environ else None


def digits(lease: Lease, picture: bytes) -> dict[str, Any]:
    """What is in an encoded picture: the sum of its pixels, which tells it from all others, and its digits."""
    xp = lease.xp
    raw = lease.image(picture)
    image = xp.permute_dims(xp.astype(raw, xp.float32) / 255, (2, 0, 1))[None]
    found = lease.model("digits")(image=image)
    names = ("boxes", "scores", "labels")
    total, boxes, scores, labels = lease.fetch(xp.sum(xp.astype(raw, xp.int64)), *(found[name] for name in names))
    sure = [index for index, score in enumerate(scores) if score > LEAST_SCORE]
    return {
        "pixels": int(total),
        "boxes": [[round(float(value), 1) for value in boxes[index]] for index in sure],
        "scores": [round(float(scores[index]), 4) for index in sure],
        "labels": [int(labels[index]) for index in sure],
    }


def detect(event: Event, context: Any) -> dict[str, Any]:
    """The digits in the event's picture, on the lease that it names."""
    assert _client is not None
    assert _services is not None
    picture = _services.get(event["bucket"], event["key"], event["version"])
    assert picture is not None
    found = digits(_client.attach(event["lease"]), picture)
    _sign("computed", event["key"])
    return found


def _sign(step: str, key: str) -> None:
    """Tells the tap (see `aws_tap`) of a step that no request shows."""
    headers = {"User-Agent": f"app/{os.environ['AWS_SDK_UA_APP_ID']}"}
    url = f"{os.environ['AWS_ENDPOINT_URL']}/sign/{step}/{key}"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30):
        pass


def pause(event: Event, context: Any) -> dict[str, Any]:
    """Holds its lease for a given time."""
    time.sleep(float(os.environ[PAUSE]))  # the job itself
    return {"key": event["key"]}
