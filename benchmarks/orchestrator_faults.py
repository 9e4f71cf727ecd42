# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Orchestrators die at each step of a job, and so does what they need: `python -m benchmarks.orchestrator_faults`.

Real processes: S3 and SQS (moto's server, behind a tap that knows the steps by their requests), a remotegpu server,
`remotegpu orchestrate`. Orchestrators, workers and the server die by SIGKILL and are started again; messages are sent
twice, and delivered again while they are held; some can never be read. In the end every picture must have exactly one
result, put once, equal to that of a direct call; the queue must be empty, only what can never succeed be with the dead
letters, and no lease be left. The faults are random (a seed tells which); results go to
`benchmarks/results/orchestrator_faults.json`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.aws_tap import Sight, Tap
from benchmarks.calls import RESULTS, environment
from benchmarks.orchestrated import digits
from remotegpu import Client
from remotegpu.local import LocalServer
from remotegpu.orchestrator.events import Source
from tests.orchestration import Aws, Cloud

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "examples" / "digits_detector"
# Steps of a job at which its orchestrator is killed, as the tap knows them: the message was taken from the queue, the
# place of the result looked at, the function called (under its lease), the function done (the lease not yet given
# back), the result about to be put, put and not yet known to be, the message about to be deleted, deleted.
KILLS = ("received", "looked", "invoked", "computed", "storing", "stored", "deleting", "deleted")
# Other faults, with the step at which they happen: the message is delivered again while its job runs, and so that
# another one's result comes before this one's; a worker dies, or the server.
OTHERS = {"redelivered": "invoked", "overtaken": "storing", "worker": "invoked", "server": "invoked"}
STEPS = {**{step: step for step in KILLS}, **OTHERS}
FAULTS = tuple(STEPS)

SIZE = 160, 120
IN_FLIGHT = 3
# Of the queue's messages, so that what a dead orchestrator held comes soon. Seconds.
VISIBILITY = 3
# The idle TTL of leases, after which those of dead orchestrators end, and some more. Seconds.
LEASES_END = 45.0
# Pictures that come when all faults are over, and how soon no lease may be left of them: long before a TTL. Seconds.
LAST, LAST_LEASES_END = 6, 5.0
OVERTAKEN_WITHIN = 20.0


@dataclass(frozen=True, slots=True)
class Scale:
    """How much there is to do. `most`: deliveries of what fails; `gap`: results between two faults; `patience`: for how
    long all of it may take, in seconds."""

    pictures: int
    duplicates: int
    orchestrators: int
    most: int
    gap: Callable[[], int]
    patience: float


@dataclass(slots=True)
class Report:
    """What came of it; `wrong` is empty if nothing was lost, wrong, done twice or left."""

    pictures: int
    fired: list[tuple[str, str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    most_deliveries: int = 0
    seconds: float = 0.0


def pictures(count: int, seed: int) -> dict[str, bytes]:
    """So many different cuts from the example's pictures, as PNG files by key."""
    chance = random.Random(seed)
    folder = DIGITS / "pictures"
    whole = [Image.open(path).convert("RGB") for path in sorted(folder.iterdir()) if path.suffix in {".png", ".jpg"}]
    cuts = {}
    for index in range(count):
        picture = whole[index % len(whole)]
        left, top = chance.randint(0, picture.width - SIZE[0]), chance.randint(0, picture.height - SIZE[1])
        file = io.BytesIO()
        picture.crop((left, top, left + SIZE[0], top + SIZE[1])).save(file, "PNG", compress_level=1)
        cuts[f"cut-{index:04}.png"] = file.getvalue()
    return cuts


class Orchestrators:
    """Processes of the real command, by name; one that was killed is started again under a new name."""

    def __init__(self, cloud: Cloud, tap: Tap, url: str, folder: Path) -> None:
        self._cloud, self._tap, self._url, self._folder = cloud, tap, url, folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._started = 0

    def start(self) -> None:
        """One more. What it prints goes to files, since nobody reads while it runs."""
        self._started += 1
        name = f"orchestrator-{self._started}"
        words = ["--queue", self._cloud.name, "--output", f"s3://{self._cloud.results}/out", "--wait", "1"]
        words += ["--visibility", str(VISIBILITY), "--in-flight", str(IN_FLIGHT)]
        words += ["--invoke", "handler:benchmarks.orchestrated:detect", "--json", "--url", self._url]
        found = {"AWS_ENDPOINT_URL": self._tap.url, "AWS_SDK_UA_APP_ID": name}
        with (self._folder / f"{name}.out").open("wb") as out, (self._folder / f"{name}.err").open("wb") as complaints:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "remotegpu.cli", "orchestrate", *words],
                env={**os.environ, **self._cloud.aws.environment, **found},
                stdout=out,
                stderr=complaints,
                cwd=ROOT,
            )

    def replace_the_killed(self) -> list[str]:
        """Complains of those that ended otherwise."""
        wrong = []
        for name, process in list(self.running.items()):
            if (code := process.poll()) is None:
                continue
            del self.running[name]
            if code != -signal.SIGKILL:
                wrong.append(f"{name} ended by itself, with {code}: {self.complaints(name)[-500:]}")
            self.start()
        return wrong

    def complaints(self, name: str) -> str:
        """What one wrote to standard error."""
        return (self._folder / f"{name}.err").read_text()

    def stop(self) -> list[str]:
        """In order; complains of those that do not end so."""
        for process in self.running.values():
            process.terminate()
        wrong = []
        for name, process in self.running.items():
            try:
                code = process.wait(20)
            except subprocess.TimeoutExpired:
                code = None
            if code != 0:
                wrong.append(f"{name} ended with {code} at SIGTERM: {self.complaints(name)[-500:]}")
        return wrong

    def kill(self) -> None:
        """Those that still run."""
        for process in self.running.values():
            process.kill()
            process.wait()

    def lines(self) -> list[dict[str, Any]]:
        """Of all jobs of all of them; the last line of one that was killed may be cut short."""
        texts = [line for path in self._folder.glob("*.out") for line in path.read_text().splitlines()]
        return [json.loads(text) for text in texts if text.endswith("}")]


class Campaign:
    """One run: `plan` names the faults, which happen one after the other."""

    def __init__(self, aws: Aws, plan: Sequence[str], scale: Scale, seed: int = 0) -> None:
        self._scale, self._plan, self._seed = scale, list(reversed(plan)), seed
        self._cloud = aws.cloud(most=scale.most)
        self._report = Report(scale.pictures)
        self._lock = threading.Lock()
        self._armed: str | None = None
        self._next_at = scale.gap()
        self._server = self._serve(0)
        self._port = self._server.port
        self._poison: list[str] = []
        self._etags: dict[str, str] = {}

    def _serve(self, port: int) -> LocalServer:
        words = ["--gpus", "cpu:2", "--slots", "32", "--arena", "32MiB", "--models", str(DIGITS / "models")]
        return LocalServer([*words, "--listen", f"127.0.0.1:{port}"])

    def run(self) -> Report:
        """Raises nothing for what the orchestrator does wrong: see `Report.wrong`."""
        started = time.monotonic()
        with ExitStack() as stack:
            stack.callback(lambda: self._server.stop())
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            cuts = pictures(self._scale.pictures, self._seed)
            with Client(self._server.url) as client:
                expected = {key: self._direct(client, cut) for key, cut in cuts.items()}
            self._send(dict(list(cuts.items())[:-LAST]), 0)
            buckets = self._cloud.pictures, self._cloud.results
            self._tap = stack.enter_context(
                Tap(self._cloud.aws.environment["AWS_ENDPOINT_URL"], buckets, self._watch),
            )
            self._orchestrators = Orchestrators(self._cloud, self._tap, self._server.url, folder)
            stack.callback(self._orchestrators.kill)
            for _ in range(self._scale.orchestrators):
                self._orchestrators.start()
            until = time.monotonic() + self._scale.patience
            self._until_settled(until)
            self._check_leases(LEASES_END)
            if not self._report.wrong:
                self._send(dict(list(cuts.items())[-LAST:]), len(cuts))
                self._until_settled(until)
                self._check_leases(LAST_LEASES_END)
            self._report.wrong += self._orchestrators.stop()
            self._check(expected)
            self._tell()
        self._report.seconds = time.monotonic() - started
        return self._report

    @staticmethod
    def _direct(client: Client, picture: bytes) -> dict[str, Any]:
        with client.alloc() as lease:
            return digits(lease, picture)

    def _send(self, cuts: Mapping[str, bytes], first: int) -> None:
        """Messages of pictures, of the first ones twice, and at first also of what can never succeed."""
        for index, (key, cut) in enumerate(cuts.items(), first):
            self._etags[key] = self._cloud.put(key, cut)
            body = {"Records": [self._cloud.record(key, self._etags[key], sequencer=f"{index:016X}")]}
            for _ in range(2 if index < self._scale.duplicates else 1):
                self._cloud.send(body)
            if index == 1:
                no_picture = {"Records": [self._cloud.record("no.png", self._cloud.put("no.png", b"\x89PNG, not"))]}
                self._poison = ["not JSON", json.dumps({"Records": [{"eventName": "ObjectCreated:Put"}]})]
                self._poison.append(json.dumps(no_picture))
                for poison in self._poison:
                    self._cloud.send(poison)

    # Faults.

    def _watch(self, seen: Sight) -> bool:
        """Called by the tap: whether the process that was seen is dead now."""
        with self._lock:
            process = self._orchestrators.running.get(seen.process)
            kind = self._armed
            if kind is None or process is None or process.poll() is not None or seen.step != STEPS[kind]:
                return False
            # The pictures that suffer are others each time: what always fails belongs to the dead letters.
            if seen.key not in self._etags or self._tap.deliveries[seen.key] > 1:
                return False
            self._armed = None
            self._report.fired.append((kind, seen.key))
        if kind in KILLS:
            process.kill()
        else:
            self._fault(kind, seen.key)
        return kind in KILLS

    def _fault(self, kind: str, key: str) -> None:
        match kind:
            case "server":
                self._server.process.kill()
            case "worker":
                with Client(self._server.url) as client:
                    busiest = max(client.top().devices, key=lambda device: device.slots_used)
                os.kill(busiest.worker_pid, signal.SIGKILL)
            case _:
                self._tap.redeliver(key, self._cloud.queue)
        if kind == "overtaken":
            with self._tap.changed:
                self._tap.changed.wait_for(lambda: self._tap.stored[key], OVERTAKEN_WITHIN)

    def _until_settled(self, until: float) -> None:
        while True:
            with self._lock:
                self._report.wrong += self._orchestrators.replace_the_killed()
                with self._tap.changed:
                    done = len(+self._tap.stored)
                if self._armed is None and self._plan and done >= self._next_at:
                    self._armed, self._next_at = self._plan.pop(), done + self._scale.gap()
                over = not self._plan and self._armed is None
            if self._server.process.poll() is not None:
                self._server.stop()
                self._server = self._serve(self._port)
            if (over and self._cloud.count() == (0, 0)) or self._report.wrong or time.monotonic() > until:
                break
            time.sleep(0.02)  # paces the asking
        if self._plan or self._armed is not None:
            self._report.wrong.append(f"faults that could not happen: {self._armed}, {len(self._plan)} more")

    # What must hold in the end.

    def _check_leases(self, seconds: float) -> None:
        """While the orchestrators still run, and have nothing to do."""
        until = time.monotonic() + seconds
        with Client(self._server.url) as client:
            while (left := len(client.top().leases)) and time.monotonic() < until and not self._report.wrong:
                time.sleep(0.1)  # paces the asking
        if left:
            self._report.wrong.append(f"{left} leases are left after {seconds:.0f} s")

    def _check(self, expected: Mapping[str, dict[str, Any]]) -> None:
        wrong = self._report.wrong
        stored = {key.removeprefix("out/").removesuffix(".json") for key in self._all_results()}
        if missing := sorted(expected.keys() - stored):
            wrong.append(f"no result of {len(missing)} pictures: {', '.join(missing[:5])}, ...")
        wrong += [f"{key}: a result that nobody asked for" for key in sorted(stored - expected.keys())]
        for key in sorted(expected.keys() & stored):
            found = self._cloud.result(f"out/{key}.json")
            if not alike(json.loads(found["Body"]), expected[key]):
                wrong.append(f"{key}: {found['Body'][:300]!r} instead of {expected[key]}")
            job = Source(self._cloud.pictures, key, None, self._etags[key]).job
            if found["Metadata"].get("remotegpu-job") != job:
                wrong.append(f"{key}: the result's metadata are {found['Metadata']}")
        wrong += [f"{key}: its result was put {count} times" for key, count in self._tap.stored.items() if count > 1]
        if self._cloud.count() != (0, 0):
            wrong.append(f"in the queue are left (waiting, held): {self._cloud.count()}")
        if (dead := self._dead_letters()) != sorted(self._poison):
            wrong.append(f"with the dead letters are {dead} instead of {sorted(self._poison)}")

    def _all_results(self) -> list[str]:
        pages = self._cloud.aws.s3.get_paginator("list_objects_v2").paginate(Bucket=self._cloud.results)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    def _dead_letters(self) -> list[str]:
        sqs, bodies = self._cloud.aws.sqs, []
        while found := sqs.receive_message(QueueUrl=self._cloud.dead, MaxNumberOfMessages=10).get("Messages"):
            bodies += [message["Body"] for message in found]
        return sorted(bodies)

    def _tell(self) -> None:
        for line in self._orchestrators.lines():
            self._report.outcomes[line["outcome"]] += 1
            if "error" in line and line["key"] in self._etags:
                self._report.errors[line["error"].partition(":")[0]] += 1
        self._report.refused = sum(self._tap.refused.values())
        good = [count for key, count in self._tap.deliveries.items() if key in self._etags]
        self._report.most_deliveries = max(good, default=0)


def alike(found: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    """Whether two results are the same: pixels and labels are equal, boxes to 0.2 pixels, scores to 0.002 (of a batch
    of several pictures the last digits may differ)."""
    if any(found.get(name) != expected[name] for name in ("pixels", "labels")):
        return False
    both = zip((*chain(*found["boxes"]),), (*chain(*expected["boxes"]),), strict=True)
    scores = zip(found["scores"], expected["scores"], strict=True)
    return all(abs(a - b) < 0.2 for a, b in both) and all(abs(a - b) < 0.002 for a, b in scores)


def random_plan(count: int, chance: random.Random) -> list[str]:
    """So many faults, each kind as often as others, in any order."""
    plan = [FAULTS[index % len(FAULTS)] for index in range(count)]
    chance.shuffle(plan)
    return plan


def main() -> None:
    """Runs it, prints what came of it and keeps it. Exits with 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--faults", type=int, default=36)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    chance = random.Random(options.seed)
    scale = Scale(options.pictures, options.pictures // 10, 2, 7, lambda: chance.randint(2, 12), 1200.0)
    aws = Aws()
    try:
        report = Campaign(aws, random_plan(options.faults, chance), scale, options.seed).run()
    finally:
        aws.stop()
    fired = Counter(kind for kind, _ in report.fired)
    print(f"\n{report.pictures} pictures, {len(report.fired)} faults in {report.seconds:.0f} s\n")
    for kind in FAULTS:
        print(f"{kind:<14} {fired[kind]:>4}  {'orchestrator killed' if kind in KILLS else ''}")
    print(f"\njobs by their end: {dict(report.outcomes)}; failures of pictures: {dict(report.errors)}")
    print(f"results refused since another was there: {report.refused}; most deliveries: {report.most_deliveries}\n")
    print(
        "PASS" if not report.wrong else "MISS", *report.wrong or ["nothing lost, wrong, done twice or left"], sep="\n  "
    )
    kept = {name: getattr(report, name) for name in ("pictures", "outcomes", "errors", "refused", "most_deliveries")}
    kept |= {"seed": options.seed, "faults": fired, "wrong": report.wrong, "seconds": round(report.seconds, 1)}
    (RESULTS / "orchestrator_faults.json").write_text(
        json.dumps({"environment": environment("cpu:2"), **kept}, indent=2) + "\n"
    )
    sys.exit(bool(report.wrong))


if __name__ == "__main__":
    main()
