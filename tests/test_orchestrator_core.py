# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the orchestrator decides: messages, the course of their jobs, results, settings. No I/O and no clock."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import Any

import pytest

from remotegpu import errors
from remotegpu.aws.answers import Object
from remotegpu.cli.job_bar import Bar
from remotegpu.orchestrator import job, results, settings
from remotegpu.orchestrator.events import Source, is_older, parse
from remotegpu.orchestrator.job import (
    Abandon,
    Delete,
    Ended,
    Extend,
    Granted,
    Lease,
    Look,
    Looked,
    Message,
    Refused,
    Release,
    Run,
    Stopped,
    Ticked,
)
from remotegpu.orchestrator.metrics import JobReport, Outcome, line, told
from remotegpu.orchestrator.results import Standing, Target
from tests.conftest import wait_until


def record(**changes: Any) -> dict[str, Any]:
    thing = {"key": "a+b%2Bc/%C3%A4.png", "eTag": "e1", "size": 3, **changes}
    name = thing.pop("eventName", "ObjectCreated:Put")
    return {"eventName": name, "s3": {"bucket": {"name": "pictures"}, "object": thing}}


def body(*records: Any) -> str:
    return json.dumps({"Records": records})


# Messages.


def test_keys_are_decoded_and_objects_are_told_once() -> None:
    again, other = record(versionId="null", sequencer="0A"), record(versionId="v2")
    first, second = parse(body(record(), again, other, record()))[::2]
    assert (first.bucket, first.key, first.version, first.edition) == ("pictures", "a b+c/ä.png", None, "e1")
    assert (second.version, second.edition) == ("v2", "v2")
    assert first.job != second.job
    assert first.place == second.place
    assert first.job == parse(body(record(sequencer="0B")))[0].job, "an event that comes twice is one job"


@pytest.mark.parametrize(
    "text", ['{"Service":"Amazon S3","Event":"s3:TestEvent"}', body(record(eventName="ObjectRemoved:Delete"))]
)
def test_messages_without_work(text: str) -> None:
    assert parse(text) == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[" * 100_000,
        "[]",
        "3",
        "{}",
        '{"Records":[]}',
        '{"Records":{}}',
        '{"Records":[3]}',
        body(record(), {"eventName": "ObjectCreated:Put"}),
        body(record(eventName=3)),
        body(record(key=3)),
        body(record(key="")),
        body(record(key="%ff")),
        body(record(eTag=None)),
        body(record(key="\ud800")),
        body(record(versionId="\ud800")),
        json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": 3}, "object": {}}}]}),
    ],
)
def test_poison_is_told_apart(text: str) -> None:
    with pytest.raises(errors.InvalidInput, match="allowed: an event notification of S3"):
        parse(text)


def test_sequencers_are_padded_on_the_right() -> None:
    assert is_older("0055AED6DCD90281E5", "0055AED6DCD90281E6")
    assert is_older("1", "10000001")
    assert not is_older("1", "1000")
    assert not is_older("2", "10")
    assert not is_older("", "1")
    assert not is_older("1", "")


# The course of a message.


def message(count: int | None, deliveries: int = 1, visibility: int = 30, patience: float = 100.0) -> Message:
    return Message(count=count, deliveries=deliveries, received=0.0, visibility=visibility, patience=patience)


def test_a_message_is_deleted_when_its_last_job_is_done() -> None:
    it = message(2)
    assert it.begin() == [Look(0)]
    assert it.handle(Looked(0, needed=True), 1) == [Lease(0)]
    assert it.handle(Granted(0), 2) == [Run(0, 102), Look(1)]
    assert it.handle(Ended(0, done=True), 3) == []
    assert it.handle(Looked(1, needed=False), 4) == [Delete()]
    assert it.over
    assert it.due == float("inf")
    assert it.handle(Ended(0, done=True), 5) == []


def test_a_message_without_jobs_is_deleted_and_poison_is_kept_back_longer_each_time() -> None:
    assert message(0).begin() == [Delete()]
    assert [message(None, deliveries).begin() for deliveries in (1, 2, 3, 5, 99)] == [
        [Release(seconds)] for seconds in (0, 1, 3, 15, job.LONGEST_DELAY)
    ]


def test_one_failure_gives_the_message_back_when_all_are_settled() -> None:
    it = message(2, deliveries=3)
    for event in (Looked(0, needed=True), Granted(0), Looked(1, needed=True), Granted(1)):
        it.begin() if event.index == 0 and isinstance(event, Looked) else None
        it.handle(event, 0)
    assert it.handle(Ended(1, done=False), 1) == []
    assert it.handle(Ended(0, done=True), 2) == [Release(3)]


def test_without_a_lease_the_rest_is_not_tried_and_nothing_is_kept_back() -> None:
    it = message(3, deliveries=4)
    it.begin()
    it.handle(Looked(0, needed=True), 0)
    it.handle(Granted(0), 0)
    it.handle(Looked(1, needed=True), 0)
    assert it.handle(Refused(1), 1) == []
    assert it.handle(Ended(0, done=True), 2) == [Release(0)]
    it = message(1, deliveries=4)
    it.begin()
    assert it.handle(Refused(0, delayed=True), 1) == [Release(7)]


def test_a_job_that_cannot_be_looked_at_does_not_keep_the_others() -> None:
    it = message(2, deliveries=3)
    it.begin()
    assert it.handle(Refused(0, delayed=True), 1) == [Look(1)]
    it.handle(Looked(1, needed=True), 1)
    it.handle(Granted(1), 1)
    assert it.handle(Ended(1, done=True), 2) == [Release(3)]


def test_visibility_is_extended_at_a_third_and_never_beyond_twelve_hours() -> None:
    it = message(1, visibility=30, patience=10**6)
    it.begin()
    assert it.due == 10
    assert it.handle(Ticked(), 9) == []
    assert it.handle(Ticked(), 10) == [Extend(30)]
    assert it.due == 20
    assert it.handle(Ticked(), job.LONGEST_HOLD - 6) == [Extend(6)]
    assert it.handle(Ticked(), job.LONGEST_HOLD - 1) == [Extend(1)]
    assert it.handle(Ticked(), job.LONGEST_HOLD) == []
    assert it.due == float("inf")


def test_a_job_whose_time_is_over_is_abandoned_and_its_answer_comes_too_late() -> None:
    it = message(1, deliveries=2, patience=5)
    it.begin()
    it.handle(Looked(0, needed=True), 0)
    it.handle(Granted(0), 1)
    assert it.due == 6
    assert it.handle(Ticked(), 6) == [Abandon(0), Release(1)]
    assert it.handle(Ended(0, done=True), 7) == []
    it = message(2, patience=5)
    it.begin()
    for event in (Looked(0, needed=True), Granted(0), Looked(1, needed=True)):
        it.handle(event, 0)
    it.handle(Granted(1), 3)
    assert it.handle(Ticked(), 6) == [Abandon(0)]
    assert it.handle(Ended(0, done=True), 7) == []
    assert it.handle(Ended(1, done=True), 7) == [Release(0)]


def test_whoever_stops_gives_back_at_once() -> None:
    it = message(1)
    it.begin()
    it.handle(Looked(0, needed=True), 0)
    assert it.handle(Stopped(), 1) == [Release(0)]
    assert it.handle(Granted(0), 2) == []


# Results.

SOURCE = Source("pictures", "a/b.c/d.tar.gz", None, "e1", "05")


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("s3://out-bucket", "a/b.c/d.tar.gz.json"),
        ("s3://out-bucket/x/", "x/a/b.c/d.tar.gz.json"),
        ("s3://out-bucket/{bucket}/{stem}.png", "pictures/a/b.c/d.tar.png"),
        ("s3://out-bucket/{bucket}", "pictures/a/b.c/d.tar.gz.json"),
    ],
)
def test_keys_of_results(url: str, key: str) -> None:
    assert Target.parse(url, "--output").key(SOURCE) == key


def test_keys_that_are_no_keys() -> None:
    for url in ("", "out", "s3://", "s3://B/x", "s3://bucket/{name}", "s3://bucket/{}"):
        with pytest.raises(errors.ConfigurationError, match=r"^--output: "):
            Target.parse(url, "--output")
    target = Target.parse("s3://out-bucket/{key}{key}", "--output")
    assert target.key(Source("b", "{bucket}", None, "e")) == "{bucket}{bucket}", "a key is no pattern"
    assert Target.parse("s3://out-bucket/{stem}", "").key(Source("b", "x/.hidden", None, "e")) == "x/.hidden"
    with pytest.raises(errors.InvalidInput, match="at most 1024 bytes"):
        target.key(Source("b", "ä" * 300, None, "e"))


def test_what_is_there_already() -> None:
    def there(**changes: str) -> Standing:
        return results.standing(Object("x", 1, results.metadata(SOURCE) | changes), SOURCE)

    assert results.standing(None, SOURCE) is Standing.NOTHING
    assert there() is Standing.SAME
    assert there(**{results.PLACE: "other"}) is Standing.FOREIGN
    assert results.standing(Object("x", 1, {}), SOURCE) is Standing.FOREIGN
    assert there(**{results.EDITION: "e0", results.SEQUENCER: "04"}) is Standing.OLDER
    assert there(**{results.EDITION: "e0", results.SEQUENCER: "06"}) is Standing.NEWER
    assert there(**{results.EDITION: "e0", results.SEQUENCER: ""}) is Standing.OLDER
    assert results.is_result(Object("x", 1, results.metadata(SOURCE)))
    assert all(value.isascii() for value in results.metadata(Source("b", "ä", None, "e")).values())


def test_answers_of_functions() -> None:
    assert results.result_of({"stored": True}) is None
    assert results.result_of({"stored": 1}) == results.Result(b'{"stored": 1}', results.JSON)
    assert results.result_of(None) == results.Result(b"null", results.JSON)
    assert results.result_of(made := results.Result(b"", results.NPZ)) is made
    picture = {"content_type": "image/png", "body_base64": "iVA="}
    assert results.result_of(picture) == results.Result(b"\x89P", "image/png")
    endless: list[Any] = []
    endless.append(endless)
    for bad in ({**picture, "body_base64": "?"}, {**picture, "body_base64": 3}, {1, 2}, float("nan"), endless):
        with pytest.raises(errors.InvalidInput):
            results.result_of(bad)


# Settings.

GIVEN = {"queue": "q", "output": "s3://out-bucket", "invoke": "model:digits:3"}


def test_an_option_wins_over_its_variable_and_that_over_the_default() -> None:
    environment = {"REMOTEGPU_ORCHESTRATE_GPUS": "2", "REMOTEGPU_ORCHESTRATE_WAIT": "3"}
    chosen = settings.parse({**GIVEN, "gpus": "4", "wait": None}, environment)
    assert (chosen.gpus, chosen.wait, chosen.in_flight) == (4, 3, 8)
    assert (chosen.invoke, chosen.target.pattern) == ("model:digits:3", "{key}.npz")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gpus", "0"),
        ("gpus", "two"),
        ("wait", "21"),
        ("visibility", "2"),
        ("result_timeout", "0"),
        ("result_timeout", "long"),
        ("empty_timeout", "nan"),
        ("reservation_timeout", "1e9"),
        ("reservation_timeout", "39500"),
        ("invoke", "digits"),
        ("invoke", "model:"),
        ("invoke", "handler:module"),
        ("output", "here"),
    ],
)
def test_bad_settings_are_named_as_they_were_given(name: str, text: str) -> None:
    flag, variable = "--" + name.replace("_", "-"), "REMOTEGPU_ORCHESTRATE_" + name.upper()
    with pytest.raises(errors.ConfigurationError) as caught:
        settings.parse({**GIVEN, name: text}, {})
    assert caught.value.setting == flag
    with pytest.raises(errors.ConfigurationError) as caught:
        settings.parse({**GIVEN, name: None}, {variable: text})
    assert caught.value.setting == variable


def test_what_must_be_given() -> None:
    for name in GIVEN:
        with pytest.raises(errors.ConfigurationError, match=f"--{name}: it is missing"):
            settings.parse({**GIVEN, name: None}, {})
    assert settings.parse({**GIVEN, "queue": None}, {}, queue=False).queue == ""


# What is told.


def test_a_line_fits_into_an_event_of_a_log_whatever_a_function_raises() -> None:
    assert told(ValueError("no")) == "ValueError: no"
    report = JobReport("j", "pictures", "k" * 1024, Outcome.FAILED, 1, total=1.0, error=told(ValueError("x" * 10**6)))
    assert len(line(report, "queue", "model:digits", now_ms=1)) < 16 * 1024


# The bar.


def test_the_bar_counts_and_tells_failures_above_itself() -> None:
    screen = io.StringIO()
    bar = Bar(screen, backlog=lambda: 2, busy=lambda: 1)
    with bar:
        for outcome in (Outcome.DONE, Outcome.DUPLICATE, Outcome.FAILED):
            bar.job(JobReport("j", "pictures", "a.png", outcome, delivery=3, total=1.0, error="no \x1b[2J luck"))
        wait_until(lambda: "2 done  1 failed  1 running  about 2 waiting" in screen.getvalue(), "it is drawn")
    text = screen.getvalue()
    assert "40%" in text
    assert "s3://pictures/a.png, delivery 3: no \ufffd[2J luck\n" in text
    assert "1 done, 1 duplicate, 1 failed in " in text.splitlines()[-1]


# The command before it reaches anybody.


def run(*words: str, script: str = "") -> subprocess.CompletedProcess[str]:
    code = f"import sys\n{script}\nfrom remotegpu import cli\nsys.exit(cli.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "orchestrate", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)


def test_the_command_says_what_is_missing() -> None:
    words = ("--queue", "q", "--output", "s3://out-bucket", "--invoke", "model:digits", "--url")
    done = run(*words, "local:")
    assert done.returncode == 2
    assert done.stderr == "remotegpu: local:: give the URL of a server; this command starts none\n"
    done = run(*words, "grpc://127.0.0.1:9", script="sys.modules['boto3'] = None")
    assert (done.returncode, done.stderr) == (2, "remotegpu: AWS: boto3 is missing: pip install 'remotegpu[aws]'\n")
