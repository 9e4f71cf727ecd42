# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures are dropped into a bucket, and their results appear in another one: the second part of `make demo`.

S3 tells SQS, `remotegpu orchestrate` takes each message, a device and a Lambda function, and stores what that answers.
S3's test event and a message that comes twice are among it. In the end all of it is checked, line by line.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import remotegpu
from examples.detections import annotate, compare
from examples.lambda_handler.invoke_api import LambdaService
from examples.lambda_handler.runtime_api import LambdaFunction
from examples.local_aws import DEAD_LETTERS, INPUT, OUTPUT, QUEUE, LocalAws

ROOT = Path(__file__).resolve().parent.parent
FUNCTION = "find-digits"
COMMAND = [
    *("orchestrate", "--queue", QUEUE, "--output", f"s3://{OUTPUT}/{{stem}}.json"),
    *("--invoke", f"lambda:{FUNCTION}", "--wait", "1", "--empty-timeout", "2"),
]
# It ends itself when nothing is left to do; after this many seconds it is killed.
PATIENCE = 60.0

Truth = Mapping[str, Sequence[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Found:
    """What there is when the orchestrator has ended. `jobs`: its lines; `objects`: the results by key, and `puts`, how
    often each was put; `messages`: by queue; `leases`, `waiting`, `slots`: what the server has of them, in use."""

    first_message: int
    jobs: Sequence[dict[str, Any]]
    exit_code: int
    objects: Mapping[str, bytes]
    puts: Mapping[str, int]
    messages: Mapping[str, int]
    leases: int
    waiting: int
    slots: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of the check."""

    right: bool
    text: str

    def __str__(self) -> str:
        return f"   {'ok ' if self.right else 'NO '} {self.text}"


def show(url: str, pictures: Mapping[str, bytes], truth: Truth, folder: Path) -> bool:
    """Runs and checks it on the server at `url`, and leaves the results in `folder`, and nothing else. Whether all was
    right."""
    # What an earlier run has left says nothing of this one.
    shutil.rmtree(folder, ignore_errors=True)
    with LocalAws() as aws:
        environment = aws.environment | {"REMOTEGPU_URL": url}
        running = LambdaFunction("examples/bucket_handler/handler.handler", task_root=ROOT, environment=environment)
        with running as function, LambdaService({FUNCTION: function}) as service:
            first_message = aws.messages(QUEUE)
            for key, picture in pictures.items():
                aws.drop(key, picture)
            print(f"{len(pictures)} pictures are in s3://{INPUT}, which tells queue {QUEUE} (S3 and SQS are moto's)")
            print(f"\n$ remotegpu {shlex.join(COMMAND)}", flush=True)
            with _orchestrator(environment | {"AWS_ENDPOINT_URL_LAMBDA": service.url}) as process:
                jobs = list(_jobs(process, aws, twice=min(pictures)))
                exit_code = process.wait()
        found = _look(url, aws, first_message, jobs, exit_code)
    folder.mkdir(parents=True)
    for key, body in found.objects.items():
        (folder / key).write_bytes(body)
    print(f"\nwhat is in s3://{OUTPUT} now: {folder}\n\nchecked:")
    verdicts = check(found, pictures, truth)
    print(*verdicts, sep="\n", flush=True)
    return all(verdict.right for verdict in verdicts)


@contextmanager
def _orchestrator(environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """The real command, with nothing of this machine's settings for AWS and for remotegpu."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "REMOTEGPU_"))}
    command = [sys.executable, "-m", "remotegpu.cli", *COMMAND, "--json"]
    with subprocess.Popen(command, env={**kept, **environment}, stdout=subprocess.PIPE, text=True) as process:
        limit = threading.Timer(PATIENCE, process.kill)
        limit.start()
        try:
            yield process
        finally:
            limit.cancel()
            process.kill()


def _jobs(process: subprocess.Popen[str], aws: LocalAws, twice: str) -> Iterator[dict[str, Any]]:
    """The orchestrator's lines, until it ends, each told in short. When the picture `twice` is done, the queue gets its
    message again."""
    assert process.stdout is not None
    again = False
    for line in process.stdout:
        job = json.loads(line)
        times = f"{job['QueueMs']:.0f} ms until it had a lease, {job['InvokeMs']:.0f} ms for the function's answer"
        told = {"done": times, "duplicate": "announced again: its result is there, so it took no lease"}
        print(f"   {job['key']:<11} {job['outcome']:<10} {told.get(job['outcome'], job.get('error', ''))}", flush=True)
        yield job
        if job["key"] == twice and job["outcome"] == "done" and not again:
            again = True
            aws.announce_again(twice)


def _look(url: str, aws: LocalAws, first_message: int, jobs: Sequence[dict[str, Any]], exit_code: int) -> Found:
    with remotegpu.Client(url) as client:
        top = client.top()
    objects, puts = aws.results()
    return Found(
        first_message=first_message,
        jobs=jobs,
        exit_code=exit_code,
        objects=objects,
        puts=puts,
        messages={queue: aws.messages(queue) for queue in (QUEUE, DEAD_LETTERS)},
        leases=len(top.leases),
        waiting=len(top.queue),
        slots=sum(device.slots_used for device in top.devices),
    )


def check(found: Found, pictures: Mapping[str, bytes], truth: Truth) -> list[Verdict]:
    """What is right and what is not. Pure."""
    outcomes = sorted((job["key"], job["outcome"], job["InvokeMs"] > 0) for job in found.jobs)
    expected = sorted([(min(pictures), "duplicate", False), *((key, "done", True) for key in pictures)])
    places = {f"{Path(key).stem}.{kind}" for key in pictures for kind in ("json", "png")}
    unasked = sorted(set(found.objects) - places)
    return [
        *(_picture(found, key, picture, truth[key]) for key, picture in sorted(pictures.items())),
        Verdict(not unasked, f"nothing else is there{': ' if unasked else ''}{', '.join(unasked)}"),
        Verdict(found.first_message == 1, "S3's test event was the first message, and made nothing run"),
        Verdict(outcomes == expected, f"each picture was run once, also {min(pictures)} with its two messages"),
        Verdict(found.exit_code == 0, f"the orchestrator ended by itself, exit code {found.exit_code}"),
        *(Verdict(not count, f"queue {name}: {count} messages") for name, count in found.messages.items()),
        Verdict(not found.leases and not found.waiting, f"{found.leases} leases, {found.waiting} requests for one"),
        Verdict(not found.slots, f"{found.slots} slots of the devices are taken"),
    ]


def _picture(found: Found, key: str, picture: bytes, boxes: Sequence[dict[str, Any]]) -> Verdict:
    result, drawn = f"{Path(key).stem}.json", f"{Path(key).stem}.png"
    if not {result, drawn} <= set(found.objects):
        return Verdict(False, f"{key}: no {' and '.join(sorted({result, drawn} - set(found.objects)))}")
    detections = json.loads(found.objects[result])["detections"]
    outcome = compare(detections, boxes)
    is_drawn = found.objects[drawn] == annotate(picture, detections)
    right = not outcome.missed and not outcome.false and is_drawn and found.puts[result] == found.puts[drawn] == 1
    times = f"{result} put {found.puts[result]}×, {drawn} {found.puts[drawn]}×"
    return Verdict(right, f"{key}: {outcome}; {times}{'' if is_drawn else ', which is not its picture'}")
