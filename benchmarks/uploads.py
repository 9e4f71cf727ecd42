# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Large tensors one way: `python -m benchmarks.uploads`.

A tensor of 64, 128 and 256 MiB is sent with a program that gives back one element of it, beside a plain TCP connection
that carries as many bytes to another process, and a gRPC stream of as many bytes in pieces like ours to a server that
only counts them, in rounds of one each. Beside the rates, what memory both sides take more than
the tensor: the client beyond its array, the daemon beyond its arena. Results go to `benchmarks/results/uploads.json`.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.calls import RESULTS, environment
from benchmarks.floors import Raw, served
from remotegpu import Client
from remotegpu.local import LocalServer

SIZES_MIB = (64, 128, 256)
_PIECE = 1024 * 1024


def sink() -> None:
    """Takes connections one by one: reads as many bytes as the first eight say, and answers one."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(listening.getsockname()[1], flush=True)
        connection, _ = listening.accept()
        with connection:
            buffer = bytearray(_PIECE)
            while head := connection.recv(8, socket.MSG_WAITALL):
                left = int.from_bytes(head, "little")
                while left:
                    left -= connection.recv_into(buffer, min(left, _PIECE))
                connection.sendall(b".")


class Tcp:
    """The floor: a connection to the sink in a process of its own."""

    def __init__(self) -> None:
        arguments = [sys.executable, "-m", "benchmarks.uploads", "--sink"]
        self._process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._socket = socket.create_connection(("127.0.0.1", int(self._process.stdout.readline())))

    def send(self, data: memoryview) -> None:
        self._socket.sendall(len(data).to_bytes(8, "little"))
        self._socket.sendall(data)
        assert self._socket.recv(1) == b"."

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


def upload(client: Client, x: Any) -> None:
    """Sends the array and gets one element back."""
    with client.lease(timeout=10) as lease:
        assert lease.finish(lease.xp.asarray(x, copy=False)[-1]) == x[-1]


def seconds(work: Any, *arguments: Any) -> float:
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


def peak(pid: int | str) -> int:
    """The most bytes that a process has had in memory since `reset`."""
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmHWM"))


def reset(pid: int | str) -> int:
    """Begins a new measurement of the peak; what the process has now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak(pid)


def measure(client: Client, tcp: Tcp, raw: Raw, mib: int, rounds: int, daemon: int) -> dict[str, float]:
    """One size. `daemon` is the process of our server."""
    x = np.random.default_rng(0).integers(0, 255, mib * 1024**2, np.uint8)
    x.setflags(write=False)
    data = memoryview(x)  # type: ignore[arg-type]  # ndarray has the buffer protocol
    upload(client, x)
    before = reset("self"), reset(daemon)  # ahead of the floors, which take memory of this process too
    for _ in range(rounds):
        upload(client, x)
    extra = (peak("self") - before[0]) / 1024**2, (peak(daemon) - before[1]) / 1024**2
    seconds(tcp.send, data), seconds(raw.sink, data)
    times = [(seconds(tcp.send, data), seconds(raw.sink, data), seconds(upload, client, x)) for _ in range(rounds)]
    return {
        "tcp_gb_per_s": statistics.median(len(x) / floor / 1e9 for floor, _, _ in times),
        "grpc_gb_per_s": statistics.median(len(x) / grpc / 1e9 for _, grpc, _ in times),
        "ours_gb_per_s": statistics.median(len(x) / ours / 1e9 for _, _, ours in times),
        "share": statistics.median(floor / ours for floor, _, ours in times),
        "share_of_grpc": statistics.median(grpc / ours for _, grpc, ours in times),
        "client_extra_mib": extra[0],
        "daemon_extra_mib": extra[1],
    }


def table(rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A line for each size; shares are below 1 where ours is slower."""
    lines = [
        "  MiB  TCP GB/s  gRPC GB/s  ours GB/s  of TCP  of gRPC  client + MiB  daemon + MiB   "
        "(aim: >= 0.5 of TCP, memory: a few chunks)"
    ]
    for name, row in rows.items():
        lines.append(
            f"{name:>5} {row['tcp_gb_per_s']:9.2f} {row['grpc_gb_per_s']:10.2f} {row['ours_gb_per_s']:10.2f} "
            f"{row['share']:7.2f} {row['share_of_grpc']:8.2f} "
            f"{row['client_extra_mib']:13.1f} {row['daemon_extra_mib']:13.1f}"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures all sizes, prints a table and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--gpus", default="cpu")
    parser.add_argument("--sink", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.sink:
        sink()
        return
    server, tcp = LocalServer(["--gpus", options.gpus, "--arena", "512MiB"]), Tcp()
    with Client(server.url) as client, served() as port, closing(Raw(port)) as raw:
        pid = server.process.pid
        rows = {str(mib): measure(client, tcp, raw, mib, options.rounds, pid) for mib in SIZES_MIB}
    tcp.close()
    server.stop()
    print("\n".join(table(rows)))
    RESULTS.mkdir(exist_ok=True)
    written = {"environment": environment(options.gpus), "results": rows}
    (RESULTS / "uploads.json").write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
