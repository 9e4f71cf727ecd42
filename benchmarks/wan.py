# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""One picture over a long line, and why a call is a program: `python -m benchmarks.wan`.

A handler that finds digits in a picture runs through a proxy with a delay and a bandwidth. Beside it, through the same
proxy: a raw gRPC call that sends and receives as many bytes (the floor; what the server computed is added to it), and
the same handler with each operation as a call of its own, which is how call-forwarding systems work. Warm: the
connection is there. Cold: the call makes it. Medians; results go to `benchmarks/results/wan.json` and `wan.png`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks.calls import RESULTS, environment
from remotegpu import Client
from remotegpu.local import LocalServer
from tests.fixtures.proxy import FaultProxy

DIGITS = Path(__file__).resolve().parent.parent / "examples" / "digits_detector"
PICTURE = DIGITS / "pictures"
ROUND_TRIPS_MS = (0, 1, 30, 150)
BANDWIDTH = 50e6 / 8
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_LOCAL_POOL = [*_UNLIMITED, ("grpc.use_local_subchannel_pool", 1)]

Server = Callable[[], float]


def detect(client: Client, picture: bytes, *, stepwise: bool = False) -> tuple[Any, ...]:
    """The digits in a picture: all in one program, or each operation brought about by a call of its own."""
    with client.lease(timeout=20) as lease:
        xp = lease.xp

        def done(array: Any) -> Any:
            if stepwise:
                lease.on(0).resolve([array._value])
            return array

        image = done(xp.astype(done(lease.image(picture)), xp.float32))
        batch = done(xp.permute_dims(done(image / 255), (2, 0, 1))[None])
        found = lease.model("digits")(image=batch)
        sure = done(found["scores"] > 0.5)
        wanted = [done(found[name][sure]) for name in ("boxes", "scores", "labels")]
        if stepwise:
            results = tuple(lease.fetch(array) for array in wanted)
            lease.dealloc()
            return results
        return tuple(lease.finish(*wanted))


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median(work: Callable[[], float], calls: int) -> float:
    return statistics.median(work() for _ in range(calls))


class Line:
    """A server and a floor behind proxies of one delay and bandwidth."""

    def __init__(self, stack: ExitStack, ports: tuple[int, int], round_trip: float) -> None:
        """`ports`: of the server and of the floors; `round_trip` in seconds."""
        addresses = []
        for port in ports:
            proxy = stack.enter_context(FaultProxy(("127.0.0.1", port), round_trip / 2, BANDWIDTH))
            addresses.append(proxy.address[1])
        self._url = f"grpc://127.0.0.1:{addresses[0]}"
        self._floor = f"127.0.0.1:{addresses[1]}"
        self.client = stack.enter_context(Client(self._url, timeout=120))
        self._channel = stack.enter_context(grpc.insecure_channel(self._floor, _LOCAL_POOL))

    def measure(self, picture: bytes, calls: int) -> dict[str, float]:
        """Milliseconds of all ways."""
        detect(self.client, picture)  # the connection, the model's signature, and gRPC's windows
        before = self.client.statistics()
        with self.client.lease(timeout=20) as lease:
            image = lease.image(picture)
            lease.finish(lease.xp.sum(image))
            compute = lease.timing
        after = self.client.statistics()
        assert compute is not None
        sent = after.bytes_sent - before.bytes_sent
        self._echo(self._channel, sent)
        warm = median(lambda: seconds(lambda: detect(self.client, picture)), calls)
        server = statistics.median(self._server_seconds(picture) for _ in range(calls))
        floor = median(lambda: seconds(lambda: self._echo(self._channel, sent)), calls)
        cold = median(lambda: self._cold(picture), calls)
        cold_floor = median(lambda: self._cold_floor(sent), calls)
        stepwise = median(lambda: seconds(lambda: detect(self.client, picture, stepwise=True)), max(calls // 3, 1))
        row = {
            "sent_bytes": float(sent),
            "server_ms": server,
            "floor_ms": floor,
            "warm_ms": warm,
            "cold_floor_ms": cold_floor,
            "cold_ms": cold,
            "stepwise_ms": stepwise,
        }
        row = {name: value * (1000 if name.endswith("_ms") else 1) for name, value in row.items()}
        row["warm_ratio"] = row["warm_ms"] / (row["floor_ms"] + row["server_ms"])
        row["cold_ratio"] = row["cold_ms"] / (row["cold_floor_ms"] + row["server_ms"])
        return row

    def _server_seconds(self, picture: bytes) -> float:
        """What the server computed, transfers within the machine included, without the upload."""
        with self.client.lease(timeout=20) as lease:
            xp = lease.xp
            image = xp.astype(lease.image(picture), xp.float32) / 255
            found = lease.model("digits")(image=xp.permute_dims(image, (2, 0, 1))[None])
            lease.finish(found["boxes"])
            timing = lease.timing
        assert timing is not None
        return timing.h2d + timing.compute + timing.d2h

    def _echo(self, channel: grpc.Channel, size: int) -> None:
        call: Any = channel.unary_unary("/floor.Floor/Sink")  # type: ignore[call-arg]
        call(bytes(size))

    def _cold(self, picture: bytes) -> float:
        def work() -> None:
            with Client(self._url, timeout=120) as client:
                detect(client, picture)

        return seconds(work)

    def _cold_floor(self, size: int) -> float:
        def work() -> None:
            with grpc.insecure_channel(self._floor, _LOCAL_POOL) as channel:
                self._echo(channel, size)

        return seconds(work)


def plot(rows: dict[str, dict[str, float]], path: Path) -> None:
    """The picture that explains the project."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=130)
    places = np.arange(len(rows))
    bars = (
        ("stepwise_ms", "one round trip per operation", "#b0b0b0"),
        ("warm_ms", "remotegpu: one program", "#2b6cb0"),
        ("floor_ms", "the same bytes by plain gRPC", "#9ae6b4"),
    )
    for number, (name, title, colour) in enumerate(bars):
        heights = [row[name] for row in rows.values()]
        drawn = axes.bar(places + (number - 1) * 0.27, heights, 0.26, label=title, color=colour)
        axes.bar_label(drawn, [f"{height:.0f}" for height in heights], fontsize=7)
    axes.set_yscale("log")
    axes.set_xticks(places, [f"{name} ms" for name in rows])
    axes.set_xlabel("round-trip time of the line, 50 Mbit/s")
    axes.set_ylabel("milliseconds for one picture")
    axes.set_title("Finding digits in a picture over a long line")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures all lines, prints a table and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=15, help="per figure")
    parser.add_argument("--gpus", default="cpu")
    options = parser.parse_args(arguments)
    picture = sorted(p for p in PICTURE.iterdir() if p.suffix in {".jpg", ".png"})[0].read_bytes()
    server = LocalServer(["--gpus", options.gpus, "--models", str(DIGITS / "models")])
    floors = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.floors"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert floors.stdout is not None
    ports = server.port, int(floors.stdout.readline())
    rows = {}
    for round_trip in ROUND_TRIPS_MS:
        with ExitStack() as stack:
            rows[str(round_trip)] = Line(stack, ports, round_trip / 1000).measure(picture, options.calls)
    floors.communicate()
    server.stop()
    print(
        "RTT ms    floor  server     ours  ratio  cold floor     cold  ratio  step by step   (ms; aim: ratios <= 1.1)"
    )
    for name, row in rows.items():
        print(
            f"{name:>6} {row['floor_ms']:8.1f} {row['server_ms']:7.1f} {row['warm_ms']:8.1f} {row['warm_ratio']:6.2f} "
            f"{row['cold_floor_ms']:10.1f} {row['cold_ms']:8.1f} {row['cold_ratio']:6.2f} {row['stepwise_ms']:12.1f}"
        )
    RESULTS.mkdir(exist_ok=True)
    written = {"environment": environment(options.gpus), "bandwidth_bytes_per_s": BANDWIDTH, "results": rows}
    (RESULTS / "wan.json").write_text(json.dumps(written, indent=2) + "\n")
    plot(rows, RESULTS / "wan.png")


if __name__ == "__main__":
    main()
