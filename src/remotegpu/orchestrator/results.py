# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Where a result goes, what it says of where it came from, and what one that is there already means. Pure.

A result's metadata is the record that its object is done: the object (a digest of bucket and key), its version, the
sequencer of its event and the job's id. So no other store is needed to tell a message that was delivered twice.
"""

from __future__ import annotations

import base64
import binascii
import enum
import json
import re
from dataclasses import dataclass
from typing import Any

from remotegpu import errors
from remotegpu.aws.answers import Object
from remotegpu.orchestrator.events import Source, is_older

# Names of the metadata, as boto3 has them (S3 sends "x-amz-meta-" before).
PLACE, EDITION, SEQUENCER, JOB = "remotegpu-source", "remotegpu-version", "remotegpu-sequencer", "remotegpu-job"
# S3's own limit. Bytes of UTF-8.
LONGEST_KEY = 1024
_FIELDS = ("bucket", "key", "stem")
JSON, NPZ = "application/json", "application/x-npz"


@dataclass(frozen=True, slots=True)
class Target:
    """Where results go. `pattern`: the key, with {bucket}, {key} and {stem} (the key without its last ending) of the
    object in it."""

    bucket: str
    pattern: str

    @classmethod
    def parse(cls, url: str, setting: str, ending: str = ".json") -> Target:
        """From "s3://bucket/prefix", which stands for "s3://bucket/prefix/{key}" + `ending`, or from a whole pattern.
        Raises ConfigurationError."""
        match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", url)
        if match is None:
            why = f"{url!r} is not a place in S3; write s3://BUCKET/PREFIX, or s3://BUCKET/PATTERN with {{key}} in it"
            raise errors.ConfigurationError(setting=setting, why=why)
        bucket, path = match[1], match[2] or ""
        unknown = set(re.findall(r"{([^}]*)}", path)) - set(_FIELDS)
        if unknown:
            why = f"{url!r}: unknown {{{unknown.pop()}}}; allowed are {{bucket}}, {{key}} and {{stem}}"
            raise errors.ConfigurationError(setting=setting, why=why)
        if "{key}" not in path and "{stem}" not in path:
            path = f"{path.rstrip('/')}/{{key}}{ending}".lstrip("/")
        return cls(bucket, path)

    def key(self, source: Source) -> str:
        """Of an object's result. Raises InvalidInput if it is longer than S3 takes."""
        folder, slash, name = source.key.rpartition("/")
        stem = folder + slash + (name.rpartition(".")[0] or name)
        values = {"bucket": source.bucket, "key": source.key, "stem": stem}
        key = re.sub(r"{(\w+)}", lambda found: values[found[1]], self.pattern)
        if len(key.encode()) > LONGEST_KEY:
            limit = f"keys of results of at most {LONGEST_KEY} bytes"
            raise errors.InvalidInput(field="output", limit=limit, given=f"{len(key.encode())} bytes for {source}")
        return key


def metadata(source: Source) -> dict[str, str]:
    """What a result of that object has to say."""
    return {PLACE: source.place, EDITION: source.edition, SEQUENCER: source.sequencer, JOB: source.job}


class Standing(enum.Enum):
    """What is where a result is to go, seen from its source."""

    NOTHING = "nothing"
    SAME = "the result of this very version"
    OLDER = "the result of an earlier version"
    NEWER = "the result of a later version"
    FOREIGN = "something else"


def standing(found: Object | None, source: Source) -> Standing:
    """What the object there means. One that is no result of the same object is never written over. Of versions that no
    sequencer orders the one that comes last counts as the later one."""
    if found is None:
        return Standing.NOTHING
    if found.metadata.get(PLACE) != source.place:
        return Standing.FOREIGN
    if found.metadata.get(EDITION) == source.edition:
        return Standing.SAME
    return Standing.NEWER if is_older(source.sequencer, found.metadata.get(SEQUENCER, "")) else Standing.OLDER


def is_result(found: Object) -> bool:
    """Whether an object is a result of some orchestrator: such a one is no work, or results would make results."""
    return JOB in found.metadata


@dataclass(frozen=True, slots=True)
class Result:
    """What a function found, as it is stored."""

    body: bytes
    content_type: str


def result_of(answer: Any) -> Result | None:
    """What a function's answer means: the result, or None if it says that it has stored one itself ({"stored": true}).
    {"content_type": ..., "body_base64": ...} stands for those bytes, every other value for its JSON. Raises
    InvalidInput for what is neither."""
    if isinstance(answer, Result):
        return answer
    if isinstance(answer, dict) and answer.get("stored") is True and len(answer) == 1:
        return None
    if isinstance(answer, dict) and set(answer) == {"content_type", "body_base64"}:
        try:
            return Result(base64.b64decode(answer["body_base64"], validate=True), str(answer["content_type"]))
        except (binascii.Error, TypeError, ValueError) as error:
            raise errors.InvalidInput(field="body_base64", limit="base64", given=str(error)) from error
    try:
        return Result(json.dumps(answer, allow_nan=False).encode(), JSON)
    except (TypeError, ValueError, RecursionError) as error:
        raise errors.InvalidInput(field="the function's answer", limit="a JSON value", given=str(error)) from error
