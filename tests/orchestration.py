# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the orchestrator's tests share: S3 and SQS (moto's HTTP server, a process), and functions that it calls."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3

from remotegpu import Client
from remotegpu.aws.services import Services
from remotegpu.orchestrator import settings
from remotegpu.orchestrator.course import Course
from remotegpu.orchestrator.invokers import invoker_of
from remotegpu.orchestrator.metrics import JobReport
from remotegpu.orchestrator.runner import Edges, Runner
from tests.conftest import wait_until

ROOT = Path(__file__).resolve().parent.parent
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "us-east-1"}


class Aws:
    """The server, and the environment in which boto3 finds it."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert self.process.stderr is not None
        found = None
        while found is None:
            line = self.process.stderr.readline()
            assert line, "moto ended"
            found = re.search(r"Running on (http://[0-9.:]+)", line)
        # It logs every request.
        self._drain = threading.Thread(target=self.process.stderr.read, daemon=True)
        self._drain.start()
        self.environment = {**CREDENTIALS, "AWS_ENDPOINT_URL": found[1]}
        session = boto3.Session("none", "none", region_name="us-east-1")
        self.s3: Any = session.client("s3", endpoint_url=found[1])
        self.sqs: Any = session.client("sqs", endpoint_url=found[1])
        self._made = 0

    def stop(self) -> None:
        self.s3.close()
        self.sqs.close()
        self.process.kill()
        self.process.wait()
        self._drain.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def cloud(self, *, most: int = 5) -> Cloud:
        self._made += 1
        return Cloud(self, self._made, most)


class Cloud:
    """Two buckets, a queue that is told of new objects in the first one, and its dead letters."""

    def __init__(self, aws: Aws, number: int, most: int) -> None:
        self.aws, self.pictures, self.results = aws, f"pictures-{number}", f"results-{number}"
        for bucket in (self.pictures, self.results):
            aws.s3.create_bucket(Bucket=bucket)
        self.name = f"queue-{number}"
        self.dead = aws.sqs.create_queue(QueueName=f"dead-{number}")["QueueUrl"]
        redrive = json.dumps({"deadLetterTargetArn": self._arn(self.dead), "maxReceiveCount": str(most)})
        self.queue = aws.sqs.create_queue(QueueName=self.name, Attributes={"RedrivePolicy": redrive})["QueueUrl"]

    def _arn(self, url: str) -> str:
        asked = self.aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        found: str = asked["Attributes"]["QueueArn"]
        return found

    def notify(self) -> None:
        """Has the bucket tell the queue, which first gets S3's test event."""
        told = {"QueueConfigurations": [{"QueueArn": self._arn(self.queue), "Events": ["s3:ObjectCreated:*"]}]}
        self.aws.s3.put_bucket_notification_configuration(Bucket=self.pictures, NotificationConfiguration=told)

    def put(self, key: str, body: bytes = b"x") -> str:
        """An object, whose ETag it returns."""
        etag: str = self.aws.s3.put_object(Bucket=self.pictures, Key=key, Body=body)["ETag"]
        return etag.strip('"')

    def send(self, body: object) -> None:
        text = body if isinstance(body, str) else json.dumps(body)
        self.aws.sqs.send_message(QueueUrl=self.queue, MessageBody=text)

    def record(self, key: str, etag: str = "0", **more: str) -> dict[str, Any]:
        """One event, its key as S3 would encode it already."""
        thing = {"key": key, "eTag": etag, **more}
        return {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": self.pictures}, "object": thing}}

    def result(self, key: str) -> dict[str, Any]:
        """What is stored: body and metadata. Raises the service's error if nothing is."""
        found: dict[str, Any] = self.aws.s3.get_object(Bucket=self.results, Key=key)
        found["Body"] = found["Body"].read()
        return found

    def keys(self) -> list[str]:
        """Of the results."""
        return [item["Key"] for item in self.aws.s3.list_objects_v2(Bucket=self.results).get("Contents", ())]

    def count(self, url: str | None = None) -> tuple[int, int]:
        """Messages that wait in the queue, and that are held."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        asked = self.aws.sqs.get_queue_attributes(QueueUrl=url or self.queue, AttributeNames=names)["Attributes"]
        return int(asked[names[0]]), int(asked[names[1]])


class Told:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.jobs: list[JobReport] = []
        self.notes: list[str] = []

    def job(self, report: JobReport) -> None:
        self.jobs.append(report)

    def note(self, text: str) -> None:
        self.notes.append(text)

    @property
    def outcomes(self) -> list[str]:
        return [report.outcome.value for report in self.jobs]


class Working:
    """An orchestrator in threads of this process, in a `with` statement; at its end it gives back what it holds."""

    def __init__(self, cloud: Cloud, url: str, invoke: str, **options: object) -> None:
        given = {"queue": cloud.name, "output": f"s3://{cloud.results}/out", "invoke": invoke, "wait": "1"}
        given |= {name: str(value) for name, value in options.items()}
        chosen = settings.parse(given, {})
        self.told = Told()
        self.services = Services(connections=20, function_patience=chosen.result_timeout)
        self.line, self.client = (Client(url, connect_timeout=0.3) for _ in range(2))
        course = Course(self.services, invoker_of(chosen, self.services, self.client), chosen.target)
        queue = self.services.queue(chosen.queue)
        self.runner = Runner(chosen, Edges(self.services, queue, self.line, self.client, course, self.told))
        self.thread = threading.Thread(target=self.runner.run)

    def __enter__(self) -> Working:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.runner.stop()
        self.thread.join(20)
        assert not self.thread.is_alive()
        self.close()

    def close(self) -> None:
        """For one whose runner was run by the test."""
        self.line.close()
        self.client.close()
        self.services.close()

    def until(self, count: int, seconds: float = 15.0) -> list[JobReport]:
        """The jobs, when so many have ended."""
        try:
            wait_until(lambda: len(self.told.jobs) >= count, f"{count} jobs", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}, but {self.told.jobs} {self.told.notes}") from None
        return self.told.jobs


def command(cloud: Cloud, url: str, invoke: str, *more: str, **environment: str) -> subprocess.Popen[str]:
    """The real command."""
    words = ["--queue", cloud.name, "--output", f"s3://{cloud.results}/out", "--invoke", invoke, "--wait", "1", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "remotegpu.cli", "orchestrate", "--url", url, *words],
        env={**os.environ, **cloud.aws.environment, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


# Functions for `handler:`.

Event = Mapping[str, Any]
seen: list[Event] = []
# What `held` waits for, and what `failing` raises.
gate = threading.Event()
failures: list[BaseException] = []


def echo(event: Event, context: Any) -> dict[str, Any]:
    """The event without its time."""
    seen.append(event)
    return {"key": event["key"], "job": event["job"], "left": context.get_remaining_time_in_millis()}


def claiming(event: Event, context: Any) -> object:
    """Says that it has stored a result, and has not."""
    return {"stored": True}


def held(event: Event, context: Any) -> object:
    """Ends when the gate opens."""
    seen.append(event)
    gate.wait(context.get_remaining_time_in_millis() / 1000)
    return {"key": event["key"]}


def failing(event: Event, context: Any) -> object:
    """Raises what is left to raise."""
    seen.append(event)
    if failures:
        raise failures.pop()
    return "well"


def deaf(event: Event, context: Any) -> object:
    """Does not look at its time."""
    gate.wait(20)
    return None


# Processes that `killing` ends before it computes.
victims: list[int] = []


def killing(event: Event, context: Any) -> object:
    """Keeps something on the device, has the worker die, and asks for it."""
    with Client.from_env() as client:
        lease = client.attach(event["lease"])
        kept = lease.xp.arange(5)
        lease.fetch(kept)
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        victims.clear()
        return float(lease.fetch(lease.xp.sum(kept)))


def overtaken(event: Event, context: Any) -> object:
    """While it works, another orchestrator stores the result for the same message."""
    output = event["output"]
    s3 = boto3.client("s3")
    s3.put_object(Bucket=output["bucket"], Key=output["key"], Body=b"first", Metadata=output["metadata"])
    s3.close()
    return "late"


def sums(event: Event, context: Any) -> object:
    """Computes on the lease that it was handed."""
    with Client.from_env() as client:
        lease = client.attach(event["lease"])
        return {"sum": float(lease.fetch(lease.xp.sum(lease.xp.arange(5))))}


def forever(event: Event, context: Any) -> object:
    """For the process that is killed."""
    started = Path(os.environ["ORCHESTRATION_STARTED"])
    started.with_suffix(".part").write_text(event["lease"])
    started.with_suffix(".part").rename(started)
    time.sleep(60)
    return None


def leases(client: Client) -> int:
    """How many there are on the server."""
    return len(client.top().leases)
