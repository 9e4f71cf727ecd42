# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""One job, from the look at its object to its stored result: what the command and the SQS-triggered function share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from remotegpu import errors
from remotegpu.orchestrator import results
from remotegpu.orchestrator.events import Source
from remotegpu.orchestrator.invokers import Invoker, Vanished, Work
from remotegpu.orchestrator.metrics import Outcome
from remotegpu.orchestrator.results import Standing

if TYPE_CHECKING:
    from remotegpu.aws.services import Services

# How often a result is put again after somebody else's came between.
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job's result goes: its key, and the ETag of the earlier version's result that it replaces, if any."""

    key: str
    replaces: str | None = None


class Course:
    """For many threads. Raises ServiceError, and what the invoker raises."""

    def __init__(self, services: Services, invoker: Invoker, target: results.Target) -> None:
        self._services, self._invoker, self._target = services, invoker, target

    def url(self, place: Place) -> str:
        """Of the result."""
        return f"s3://{self._target.bucket}/{place.key}"

    def look(self, source: Source) -> Outcome | Place:
        """Whether there is anything to do for an object: where its result will go, or why not. Two requests to S3, and
        none to a device: what was done before takes no lease. Raises InvalidInput if its result cannot be put there."""
        found = self._services.head(source.bucket, source.key, source.version)
        if found is None:
            # Of a bucket that is not there, as after a mistake in the endpoint or the account, nothing has vanished.
            self._services.check_bucket(source.bucket)
            return Outcome.VANISHED
        # An empty object with a name like "pictures/" is what consoles make of a folder.
        if results.is_result(found) or (source.key.endswith("/") and not found.size):
            return Outcome.IGNORED
        if source.version is None and found.etag != source.etag:
            return Outcome.SUPERSEDED
        return self._standing(source, self._target.key(source))

    def _standing(self, source: Source, key: str) -> Outcome | Place:
        found = self._services.head(self._target.bucket, key)
        match results.standing(found, source):
            case Standing.SAME:
                return Outcome.DUPLICATE
            case Standing.NEWER:
                return Outcome.SUPERSEDED
            case Standing.FOREIGN:
                limit = f"a free place for the result of {source}; see {{bucket}}, {{key}} and {{stem}} in the output"
                given = f"s3://{self._target.bucket}/{key}, where something else is"
                raise errors.InvalidInput(field="output", limit=limit, given=given)
        return Place(key, None if found is None else found.etag)

    def run(
        self, source: Source, place: Place, lease: str, deadline: float, give_back: Callable[[], object]
    ) -> tuple[Outcome, float]:
        """Runs a job under a lease (its key), gives that back, and stores the result. The second value: seconds in the
        function. `deadline`: a reading of `time.monotonic`."""
        started = time.monotonic()
        try:
            answer = self._invoker.invoke(Work(source, lease, (self._target.bucket, place.key), deadline))
        except Vanished:
            return Outcome.VANISHED, time.monotonic() - started
        finally:
            taken = time.monotonic() - started
            give_back()
        return self._keep(source, place, results.result_of(answer)), taken

    def _keep(self, source: Source, place: Place, result: results.Result | None) -> Outcome:
        if result is None:
            there = results.standing(self._services.head(self._target.bucket, place.key), source)
            if there in {Standing.NOTHING, Standing.OLDER}:
                limit = f"an object at {self.url(place)}, where the function says that it has stored its result"
                raise errors.InvalidInput(field="the function's answer", limit=limit, given=str(there.value))
            return Outcome.DONE
        told, where = results.metadata(source), (self._target.bucket, place.key)
        for _ in range(_ATTEMPTS):
            if self._services.put(
                where, result.body, content_type=result.content_type, metadata=told, instead_of=place.replaces
            ):
                return Outcome.DONE
            standing = self._standing(source, place.key)
            if isinstance(standing, Outcome):
                return standing
            place = replace(place, replaces=standing.replaces)
        raise errors.Unavailable(why=f"{self.url(place)} changes again and again", retry_after=1.0)
