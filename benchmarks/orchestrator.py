# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What orchestration costs, with S3 and SQS on loopback (moto's server): `python -m benchmarks.orchestrator`.

- The overhead of a job: from one job's end to the next one's, of an orchestrator that runs one at a time and always
  finds a message, without the function's own time. It holds five requests to AWS (receive, look at the object and at
  its result, put, delete); the same five, bare and in the same run, are the floor. How soon an empty queue wakes its
  receiver is left out: moto does that in steps of a second.
- Throughput where slots bound it: a function that takes 250 ms, against as many threads as slots that each lease, wait
  as long and give back. Paired rounds, medians. For how long jobs waited for a slot tells what bounds it: the one
  receiver, if they hardly did. It needs moto and both servers to have their CPU time: see `load_before`.
- A cold start: the example function under Lambda's runtime client, from the process's start to its first result,
  against a function that imports numpy and grpc and answers. Paired rounds, medians.

Results go to `benchmarks/results/orchestrator.json`.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.calls import RESULTS, environment
from benchmarks.orchestrated import PAUSE
from examples.demo import http_event
from examples.lambda_handler.runtime_api import LambdaFunction
from remotegpu import Client
from remotegpu.aws.services import Services
from remotegpu.local import LocalServer
from tests.orchestration import Aws, Cloud

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "examples" / "digits_detector"
JOBS, WARM_UP = 200, 10
SLOTS, SECONDS, ROUNDS, FUNCTION = (2, 4), 8, 3, 0.25
COLD_STARTS = 11
AIM_OVERHEAD_MS, AIM_SHARE, AIM_COLD_MS = 100, 0.9, 250
_FLOOR = """
import grpc
import numpy
def handler(event, context):
    return {"statusCode": 200}
"""


def percentiles(times: Sequence[float]) -> dict[str, float]:
    """The median and the 99th percentile of seconds, in milliseconds."""
    ordered = sorted(times)
    return {"p50_ms": statistics.median(ordered) * 1000, "p99_ms": ordered[len(ordered) * 99 // 100] * 1000}


def fill(cloud: Cloud, count: int) -> None:
    """So many objects, and a message for each."""
    for index in range(count):
        key = f"{index:05}.txt"
        cloud.send({"Records": [cloud.record(key, cloud.put(key))]})


def orchestrate(cloud: Cloud, url: str, pause: float, *more: str) -> list[Mapping[str, Any]]:
    """The real command until the queue is empty: what it says of each job, in the order of their ends."""
    words = ["--queue", cloud.name, "--output", f"s3://{cloud.results}/out", "--wait", "1", "--empty-timeout", "1"]
    words += ["--invoke", "handler:benchmarks.orchestrated:pause", "--json", "--url", url, *more]
    with tempfile.TemporaryFile("w+") as printed:
        subprocess.run(
            [sys.executable, "-m", "remotegpu.cli", "orchestrate", *words],
            env={**os.environ, **cloud.aws.environment, PAUSE: str(pause)},
            stdout=printed,
            cwd=ROOT,
            check=True,
        )
        printed.seek(0)
        lines: list[Mapping[str, Any]] = [json.loads(line) for line in printed]
    assert all(line["outcome"] == "done" for line in lines), lines
    return lines


def ends(lines: Sequence[Mapping[str, Any]]) -> list[float]:
    """When each job was over, in seconds since the epoch."""
    return [line["_aws"]["Timestamp"] / 1000 for line in lines]


def overhead(aws: Aws) -> dict[str, float]:
    """Of one job, in milliseconds, and the floor's."""
    server = LocalServer(["--gpus", "cpu"])
    try:
        cloud = aws.cloud()
        fill(cloud, JOBS + WARM_UP)
        lines = orchestrate(cloud, server.url, 0.01, "--in-flight", "1")
    finally:
        server.stop()
    over = ends(lines)
    times = [after - before for before, after in itertools.pairwise(over)]
    ours = [taken - line["InvokeMs"] / 1000 for taken, line in zip(times, lines[1:], strict=True)][WARM_UP:]
    bare = floor(aws.cloud())
    return percentiles(ours) | {"floor_" + name: value for name, value in percentiles(bare).items()}


def floor(cloud: Cloud) -> list[float]:
    """The five requests of each job, bare. Seconds."""
    fill(cloud, JOBS + WARM_UP)
    services = Services()
    queue = services.queue(cloud.name)

    def one(index: int) -> float:
        started, key = time.perf_counter(), f"{index:05}.txt"
        delivery = services.receive(queue, wait=1, visibility=60)
        assert delivery is not None
        services.head(cloud.pictures, key)
        services.head(cloud.results, f"out/{key}.json")
        services.put((cloud.results, f"out/{key}.json"), b"{}", content_type="application/json", metadata={"a": "b"})
        services.delete(queue, delivery)
        return time.perf_counter() - started

    taken = [one(index) for index in range(JOBS + WARM_UP)]
    services.close()
    return taken[WARM_UP:]


def rate(over: Sequence[float], slots: int) -> float:
    """Jobs per second, once all slots are in use, by when each was over."""
    ordered = sorted(over)
    return (len(ordered) - slots) / (ordered[-1] - ordered[slots - 1])


def throughput(aws: Aws, slots: int) -> dict[str, float]:
    """Jobs per second of an orchestrator, and of direct calls on the same slots; medians of the rounds."""
    server = LocalServer(["--gpus", "cpu", "--slots", str(slots)])
    try:
        rounds = [_round(aws, server.url, slots) for _ in range(ROUNDS)]
    finally:
        server.stop()
    return {name: statistics.median(found[name] for found in rounds) for name in rounds[0]} | {
        "share_least": min(found["share"] for found in rounds),
        "share_most": max(found["share"] for found in rounds),
    }


def _round(aws: Aws, url: str, slots: int) -> dict[str, float]:
    jobs = round(slots * SECONDS / FUNCTION)
    straight = rate(direct(url, slots, jobs), slots)
    cloud = aws.cloud()
    fill(cloud, jobs)
    lines = orchestrate(cloud, url, FUNCTION)
    ours = rate(ends(lines), slots)
    waited = statistics.median(line["QueueMs"] for line in lines)
    return {"direct_per_s": straight, "ours_per_s": ours, "share": ours / straight, "waited_p50_ms": waited}


def direct(url: str, slots: int, jobs: int) -> list[float]:
    """When each job was over, of as many threads as slots."""
    over: list[float] = []
    with Client(url) as client:

        def work() -> None:
            for _ in range(jobs // slots):
                with client.alloc(timeout=30):
                    time.sleep(FUNCTION)  # the job itself
                over.append(time.time())

        threads = [threading.Thread(target=work) for _ in range(slots)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return over


def cold_starts() -> dict[str, float]:
    """Milliseconds, medians; `warm_ms`: the example's second invocation."""
    server = LocalServer(["--gpus", "cpu", "--models", str(DIGITS / "models")])
    event = http_event((DIGITS / "pictures" / "stamp.png").read_bytes())
    warm: list[float] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "floor.py").write_text(_FLOOR)

            def first(handler: str, root: Path, again: Callable[[float], None]) -> float:
                started = time.perf_counter()
                with LambdaFunction(handler, task_root=root, environment={"REMOTEGPU_URL": server.url}) as function:
                    answer: Any = function.invoke(event)
                    taken = time.perf_counter() - started
                    assert answer["statusCode"] == 200, answer
                    started = time.perf_counter()
                    function.invoke(event)
                    again(time.perf_counter() - started)
                return taken

            def pair() -> tuple[float, float]:
                bare = first("floor.handler", Path(folder), lambda taken: None)
                return bare, first("handler.handler", ROOT / "examples" / "lambda_handler", warm.append)

            pair()  # files come from the page cache, and the model is loaded
            pairs = [pair() for _ in range(COLD_STARTS)]
    finally:
        server.stop()
    return {
        "floor_ms": statistics.median(bare for bare, _ in pairs) * 1000,
        "ours_ms": statistics.median(ours for _, ours in pairs) * 1000,
        "more_ms": statistics.median(ours - bare for bare, ours in pairs) * 1000,
        "warm_ms": statistics.median(warm) * 1000,
    }


def verdict(good: bool, text: str) -> None:
    """One line."""
    print("PASS" if good else "MISS", text)


def main() -> None:
    """Runs all, prints and keeps the figures."""
    aws = Aws()
    os.environ.update(aws.environment)
    load = os.getloadavg()[0]
    try:
        job = overhead(aws)
        rates = {str(slots): throughput(aws, slots) for slots in SLOTS}
    finally:
        aws.stop()
    cold = cold_starts()
    print(f"\na job's overhead: p50 {job['p50_ms']:.1f} ms, p99 {job['p99_ms']:.1f} ms", end="; ")
    print(f"its five requests, bare: {job['floor_p50_ms']:.1f} and {job['floor_p99_ms']:.1f} ms\n")
    print(f"{'slots':>5} {'direct /s':>10} {'ours /s':>9} {'waited ms':>10} {'share':>7}")
    for slots, found in rates.items():
        print(f"{slots:>5} {found['direct_per_s']:>10.2f} {found['ours_per_s']:>9.2f}", end=" ")
        print(f"{found['waited_p50_ms']:>10.1f} {found['share']:>7.3f}", end=" ")
        print(f"({found['share_least']:.3f} to {found['share_most']:.3f} in {ROUNDS} rounds)")
    print(f"\ncold start: {cold['ours_ms']:.0f} ms, of numpy and grpc alone {cold['floor_ms']:.0f} ms", end="; ")
    print(f"a warm invocation: {cold['warm_ms']:.0f} ms\n")
    verdict(job["p50_ms"] <= AIM_OVERHEAD_MS, f"overhead of a job at most {AIM_OVERHEAD_MS} ms: {job['p50_ms']:.1f}")
    for slots, found in rates.items():
        verdict(found["share"] >= AIM_SHARE, f"{slots} slots, {AIM_SHARE} of direct calls: {found['share']:.3f}")
    verdict(cold["more_ms"] <= AIM_COLD_MS, f"cold start at most {AIM_COLD_MS} ms more: {cold['more_ms']:.0f}")
    written = {"environment": environment("cpu") | {"load_before": f"{load:.1f}"}, "overhead": job}
    written |= {"throughput": rates, "cold_start": cold}
    (RESULTS / "orchestrator.json").write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
