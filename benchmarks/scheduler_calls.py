# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The scheduler over gRPC on loopback: `python -m benchmarks.scheduler_calls`.

- `alloc_nowait` against a bare gRPC echo of the same kind (unary, Python, one call at a time) in the same run, in
  paired rounds; both by their 99th percentile;
- how long after the holder begins its `dealloc` a waiting `alloc` of another client returns: the server tells it,
  nobody asks again.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import grpc

from benchmarks.calls import RESULTS, environment
from remotegpu import Client
from remotegpu.local import LocalServer

CALLS, ROUNDS, WAKES = 1000, 9, 500


def percentiles(work: Callable[[], float], calls: int) -> tuple[float, float]:
    """The median and the 99th percentile of so many times in seconds."""
    times = sorted(work() for _ in range(calls))
    return times[calls // 2], times[calls * 99 // 100]


def alloc_nowait(url: str, port: int) -> dict[str, float]:
    """Milliseconds and the median of the rounds' ratios."""
    with Client(url) as client, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        echo: Any = channel.unary_unary("/floor.Floor/Echo")  # type: ignore[call-arg]
        message = bytes(40)

        def floor() -> float:
            started = time.perf_counter()
            echo(message)
            return time.perf_counter() - started

        def ours() -> float:
            started = time.perf_counter()
            lease = client.alloc_nowait()
            taken = time.perf_counter() - started
            lease.dealloc()
            return taken

        percentiles(floor, CALLS // 4), percentiles(ours, CALLS // 4)
        rounds = [(percentiles(floor, CALLS), percentiles(ours, CALLS)) for _ in range(ROUNDS)]
    ratios = sorted(ours[1] / floor[1] for floor, ours in rounds)
    return {
        "floor_p50_ms": statistics.median(floor[0] for floor, _ in rounds) * 1000,
        "ours_p50_ms": statistics.median(ours[0] for _, ours in rounds) * 1000,
        "floor_p99_ms": statistics.median(floor[1] for floor, _ in rounds) * 1000,
        "ours_p99_ms": statistics.median(ours[1] for _, ours in rounds) * 1000,
        "ratio_p99": statistics.median(ratios),
        "ratio_p99_least": ratios[0],
        "ratio_p99_most": ratios[-1],
    }


def wake(url: str) -> dict[str, float]:
    """A thread waits in `alloc(exclusive=True)` whenever the other holds the only device; milliseconds."""
    with Client(url) as holder, Client(url) as waiter:
        begin: SimpleQueue[None] = SimpleQueue()
        woken: SimpleQueue[float] = SimpleQueue()

        def wait() -> None:
            for _ in range(WAKES):
                begin.get()
                lease = waiter.alloc(exclusive=True, timeout=30)
                woken.put(time.perf_counter())
                lease.dealloc()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        times = []
        for _ in range(WAKES):
            held = holder.alloc(exclusive=True)
            begin.put(None)
            while not holder.top().queue:  # it must be waiting, or nothing would be measured
                pass
            started = time.perf_counter()
            held.dealloc()
            times.append(woken.get() - started)
        thread.join()
    times.sort()
    return {"p50_ms": times[WAKES // 2] * 1000, "p99_ms": times[WAKES * 99 // 100] * 1000, "most_ms": times[-1] * 1000}


def main() -> None:
    """Runs both, prints and keeps the figures."""
    server = LocalServer(["--gpus", "cpu"])
    floors = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.floors"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert floors.stdout is not None
    try:
        asked = alloc_nowait(server.url, int(floors.stdout.readline()))
        woken = wake(server.url)
    finally:
        floors.communicate()
        server.stop()
    print("\nscheduler over gRPC, loopback, one caller\n")
    print(f"{'':<28} {'p50 ms':>8} {'p99 ms':>8}")
    print(f"{'bare echo':<28} {asked['floor_p50_ms']:>8.3f} {asked['floor_p99_ms']:>8.3f}")
    print(f"{'alloc_nowait':<28} {asked['ours_p50_ms']:>8.3f} {asked['ours_p99_ms']:>8.3f}")
    print(f"{'dealloc to waiter woken':<28} {woken['p50_ms']:>8.3f} {woken['p99_ms']:>8.3f}\n")
    ratio, p99 = asked["ratio_p99"], woken["p99_ms"]
    spread = f"{asked['ratio_p99_least']:.2f} to {asked['ratio_p99_most']:.2f} in {ROUNDS} rounds"
    print("PASS" if ratio < 2 else "MISS", f"alloc_nowait p99 / echo p99 below 2: {ratio:.2f} (median; {spread})")
    print("PASS" if p99 <= 5 else "MISS", f"waiter woken within 5 ms (p99): {p99:.2f} ms")
    written = {"environment": environment("cpu"), "alloc_nowait": asked, "wake": woken}
    (RESULTS / "scheduler_calls.json").write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
