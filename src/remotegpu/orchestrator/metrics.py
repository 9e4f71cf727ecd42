# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What is told of a job: one line of JSON, from which CloudWatch also takes metrics (no call, no library). Pure.

The format of `_aws` is CloudWatch's embedded metric format:
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass

NAMESPACE = "remotegpu"
# CloudWatch cuts events that are longer than 256 KB in pieces, of which no metrics are taken. Characters.
LONGEST_ERROR = 2000
_MILLISECONDS = ("JobMs", "QueueMs", "InvokeMs", "AgeMs")
_COUNTS = ("Jobs", "Failures", "Duplicates", "Vanished")


class Outcome(enum.Enum):
    """How a job ended; all but FAILED let its message be deleted."""

    DONE = "done"
    DUPLICATE = "duplicate"  # its result was there
    VANISHED = "vanished"  # its object is no longer there
    SUPERSEDED = "superseded"  # a later version of its object has a message, or a result, of its own
    IGNORED = "ignored"  # its object is a result, or stands for a folder
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class JobReport:
    """One job that has ended. Seconds: `total` from the message's receipt until all was done, of it `queue`
    waiting for the lease and `invoke` in the function; `age`: how old the message was when it was received."""

    job: str
    bucket: str
    key: str
    outcome: Outcome
    delivery: int
    total: float
    queue: float = 0.0
    invoke: float = 0.0
    age: float = 0.0
    result: str = ""
    error: str = ""


def told(error: BaseException) -> str:
    """An error in a report: its kind and its text, or as much of that as fits into a line of a log."""
    text = f"{type(error).__name__}: {error}"
    return text if len(text) <= LONGEST_ERROR else text[:LONGEST_ERROR] + " ..."


def line(report: JobReport, queue: str, invoke: str, now_ms: int) -> str:
    """A job as one line of JSON. `queue` and `invoke` are the dimensions; `now_ms`: since the epoch."""
    times = (report.total, report.queue, report.invoke, report.age)
    counts = {
        "Jobs": 1,
        "Failures": report.outcome is Outcome.FAILED,
        "Duplicates": report.outcome is Outcome.DUPLICATE,
        "Vanished": report.outcome is Outcome.VANISHED,
    }
    told = {"job": report.job, "bucket": report.bucket, "key": report.key, "outcome": report.outcome.value}
    extra = {"delivery": report.delivery, "result": report.result, "error": report.error}
    units = [(name, "Milliseconds") for name in _MILLISECONDS] + [(name, "Count") for name in _COUNTS]
    metrics = [{"Name": name, "Unit": unit} for name, unit in units]
    declared = {"Namespace": NAMESPACE, "Dimensions": [["Queue", "Invoke"]], "Metrics": metrics}
    return json.dumps(
        told
        | {name: value for name, value in extra.items() if value}
        | {name: round(seconds * 1000, 1) for name, seconds in zip(_MILLISECONDS, times, strict=True)}
        | {name: int(count) for name, count in counts.items()}
        | {"Queue": queue, "Invoke": invoke}
        | {"_aws": {"Timestamp": now_ms, "CloudWatchMetrics": [declared]}}
    )
