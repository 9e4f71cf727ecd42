# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What `remotegpu.aws.services` answers, and how it fails: values, without boto3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from remotegpu.error_base import Error


@dataclass(kw_only=True, eq=False)
class ServiceError(Error):
    """AWS did not do what was asked. `code` is AWS's own, or the name of botocore's error for what got no answer.
    `passing`: whether the service itself fails, or cannot be reached, so that any request would have failed now."""

    operation: str
    code: str
    why: str
    passing: bool = False

    def __str__(self) -> str:
        return f"{self.operation} failed ({self.code}): {self.why}"


@dataclass(kw_only=True, eq=False)
class FunctionFailed(Error):
    """A Lambda function answered with an error of its own."""

    function: str
    why: str

    def __str__(self) -> str:
        return f"function {self.function} failed: {self.why}"


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue: its URL, and after how many deliveries a message goes to the dead letters (None: never)."""

    url: str
    most_deliveries: int | None

    @property
    def name(self) -> str:
        """The last part of its URL."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as it was received; `count` deliveries so far, `sent_ms` since the epoch."""

    id: str
    receipt: str
    body: str
    count: int
    sent_ms: int


@dataclass(frozen=True, slots=True)
class Object:
    """What is known of an object: ETag without quotes, size in bytes, metadata."""

    etag: str
    size: int
    metadata: Mapping[str, str]
