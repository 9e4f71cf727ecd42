# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What dynamic batching gains: `python -m benchmarks.batching`.

32 callers of a small CNN against two servers in turn, one that puts calls together and one that does not, in paired
rounds; and one caller alone against both, who must see no added delay. The measure is what ONNX Runtime itself gains in
this process from 32 rows at once over one row at a time, on as many threads. Results go to
`benchmarks/results/batching.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import models
from benchmarks.calls import RESULTS, environment, median_seconds
from remotegpu import Client
from remotegpu.local import LocalServer

CALLERS = 32
_SHAPE = (3, 64, 64)


def library_gain(model: bytes, threads: int, rounds: int) -> dict[str, float]:
    """Rows per second of ONNX Runtime in this process, one at a time and 32 at once."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as in the worker
    session = onnxruntime.InferenceSession(model, options)

    def rate(rows: int) -> float:
        feed = {"image": np.random.default_rng(0).random((rows, *_SHAPE), np.float32)}
        return rows / median_seconds(lambda: session.run(None, feed), max(64 // rows, 6))

    pairs = [(rate(1), rate(CALLERS)) for _ in range(rounds)]
    return {
        "one_row_per_s": statistics.median(one for one, _ in pairs),
        "many_rows_per_s": statistics.median(many for _, many in pairs),
        "gain": statistics.median(many / one for one, many in pairs),
    }


def crowd(client: Client, seconds: float) -> tuple[float, float]:
    """Calls per second and median seconds of a call, with 32 callers in a closed loop."""
    model, x = client.model("small_cnn"), np.random.default_rng(0).random((1, *_SHAPE), np.float32)
    times: list[list[float]] = [[] for _ in range(CALLERS)]
    start = threading.Barrier(CALLERS)

    def call(index: int) -> None:
        start.wait()
        until = time.perf_counter() + seconds
        while (begun := time.perf_counter()) < until:
            model(x)
            times[index].append(time.perf_counter() - begun)

    threads = [threading.Thread(target=call, args=(index,)) for index in range(CALLERS)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - begun
    every = [one for some in times for one in some]
    return len(every) / taken, statistics.median(every)


def one_caller(client: Client) -> float:
    """Median seconds of a call when there is no other."""
    model, x = client.model("small_cnn"), np.random.default_rng(0).random((1, *_SHAPE), np.float32)
    return median_seconds(lambda: model(x), 100)


def measure(batched: Client, plain: Client, rounds: int, seconds: float) -> dict[str, Any]:
    """Paired rounds of both servers."""
    crowd(batched, 1.0), crowd(plain, 1.0)
    pairs = [(crowd(batched, seconds), crowd(plain, seconds)) for _ in range(rounds)]
    alone = [(one_caller(batched), one_caller(plain)) for _ in range(rounds)]
    return {
        "batched_calls_per_s": statistics.median(ours[0] for ours, _ in pairs),
        "plain_calls_per_s": statistics.median(other[0] for _, other in pairs),
        "gain": statistics.median(ours[0] / other[0] for ours, other in pairs),
        "batched_p50_ms": statistics.median(ours[1] for ours, _ in pairs) * 1000,
        "plain_p50_ms": statistics.median(other[1] for _, other in pairs) * 1000,
        "p50_ratio": statistics.median(ours[1] / other[1] for ours, other in pairs),
        "alone_ratio": statistics.median(ours / other for ours, other in alone),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each round")
    parser.add_argument("--gpus", default="cpu")
    options = parser.parse_args(arguments)
    model = models.small_cnn()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small_cnn" / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(model)
        common = ["--gpus", options.gpus, "--models", folder]
        servers = [LocalServer([*common, "--max-batch", str(limit)]) for limit in (CALLERS, 1)]
        with Client(servers[0].url) as batched, Client(servers[1].url) as plain:
            results = measure(batched, plain, options.rounds, options.seconds)
        for server in servers:
            server.stop()
    library = library_gain(model, len(os.sched_getaffinity(0)), options.rounds)
    share = results["gain"] / library["gain"]
    print(f"ONNX Runtime, 32 rows at once over one at a time: {library['gain']:.2f}")
    print(
        f"32 callers, batched over not: {results['gain']:.2f} ({results['batched_calls_per_s']:.0f} over "
        f"{results['plain_calls_per_s']:.0f} calls/s), {share:.2f} of that (aim: >= 0.8)"
    )
    print(f"median call of the 32: {results['p50_ratio']:.2f} of that without batching (aim: <= 1)")
    print(f"one caller alone: {results['alone_ratio']:.2f} of the time without batching (aim: 1)")
    RESULTS.mkdir(exist_ok=True)
    written = {"environment": environment(options.gpus), "library": library, "results": results, "share": share}
    (RESULTS / "batching.json").write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
