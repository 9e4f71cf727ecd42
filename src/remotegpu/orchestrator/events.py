# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The body of a queue's message to the objects that it is about. Pure.

The format is that of S3 event notifications, versions 2.x, told apart by its fields and not by its version:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
"""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from remotegpu import errors

_CREATED = "ObjectCreated:"
_JOB_DIGITS = 32
_HALVES = re.compile("[\ud800-\udfff]")
_shown = reprlib.Repr()
_shown.maxstring = 120


@dataclass(frozen=True, slots=True)
class Source:
    """One version of one object. `version` is None where the bucket keeps none. `sequencer` orders the events of one
    key; "" if it is not known."""

    bucket: str
    key: str
    version: str | None
    etag: str
    sequencer: str = ""

    @property
    def edition(self) -> str:
        """What tells this version of the object from others."""
        return self.version or self.etag

    @property
    def place(self) -> str:
        """The object, of whatever version, in 64 hexadecimal digits: keys need not be ASCII, as metadata must."""
        return _digest(self.bucket, self.key)

    @property
    def job(self) -> str:
        """The job's id: the same whenever, and however often, an event of this version arrives."""
        return _digest(self.bucket, self.key, self.edition)[:_JOB_DIGITS]

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def parse(body: str) -> tuple[Source, ...]:
    """The objects that were created, each once, in the message's order; none for `s3:TestEvent` and for events of other
    kinds. Raises InvalidInput for what is not an event of S3: nobody will ever be able to read it."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _poison(f"{_shown.repr(body)}, which is not JSON") from error
    if not isinstance(message, dict):
        raise _poison(_shown.repr(body))
    if message.get("Event") == "s3:TestEvent":
        return ()
    records = message.get("Records")
    if not isinstance(records, list) or not records:
        raise _poison(f"{_shown.repr(body)}, without Records")
    return tuple(dict.fromkeys(source for source in map(_source, records) if source is not None))


def _source(record: Any) -> Source | None:
    try:
        name, bucket, thing = record["eventName"], record["s3"]["bucket"]["name"], record["s3"]["object"]
        # With the prefix "s3:" in what users of other stores send.
        if not name.removeprefix("s3:").startswith(_CREATED):
            return None
        key = unquote_plus(thing["key"], errors="strict")
        version, etag = _text(thing, "versionId"), _text(thing, "eTag").strip('"')
        source = Source(bucket, key, None if version in {"", "null"} else version, etag, _text(thing, "sequencer"))
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise _poison(f"a record that lacks {error}") from error
    if not (isinstance(bucket, str) and bucket and key and source.edition):
        raise _poison("a record without a bucket, a key, or any of versionId and eTag")
    # JSON can name halves of characters, which no service can be asked for.
    if _HALVES.search("".join((bucket, key, source.edition, etag, source.sequencer))):
        raise _poison("a record with a text that is no Unicode")
    return source


def _text(thing: Mapping[str, Any], name: str) -> str:
    found = thing.get(name)
    return found if isinstance(found, str) else ""


def _poison(given: str) -> errors.InvalidInput:
    return errors.InvalidInput(field="message", limit="an event notification of S3", given=given)


def is_older(first: str, second: str) -> bool:
    """Whether the event of the first sequencer came before that of the second; False if one of them is not known. They
    are hexadecimal and may differ in length: the shorter one is padded on the right, says the page above."""
    width = max(len(first), len(second))
    return bool(first and second) and first.upper().ljust(width, "0") < second.upper().ljust(width, "0")
