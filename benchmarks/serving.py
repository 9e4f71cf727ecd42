# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Our server against other servers and floors, each through the client that its users have.

`python -m benchmarks.serving --rounds 9 --peers flight,tcp,triton`: a call of a tiny model (float32 [1, 64] to [1, 8])
and 16 MiB there and back through an identity model, one caller. The floors are gRPC
echoes through an empty worker process: unary, and on an open stream; and gRPC alone, with the pieces and the options
of our own client and server, but neither worker nor shared memory: what is left above it is ours.

Each peer runs alone beside our server, in rounds: floors, our own door, our standard door, the peer. A ratio is that of
the medians within one round, and what counts is its median over the rounds, since machines drift. A peer that does not
run is told as such, and has no number. Results go to `benchmarks/results/serving.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import floors, models
from benchmarks.calls import RESULTS, environment
from benchmarks.peers.peer import ROOT, NotRun, Peer, Running, What, free_port
from benchmarks.peers.peers import PEERS
from remotegpu.local import LocalServer

# Calls of a round: of the tiny model, and of 16 MiB where the peer does not say otherwise.
TINY_CALLS, LARGE_CALLS = 300, 7
KINDS: tuple[What, ...] = ("tiny", "large")
OURS = "own"
_TITLES = {
    "stream": "floor: gRPC echo on an open stream, empty worker",
    "unary": "floor: gRPC echo, unary, empty worker",
    "raw": "floor: raw gRPC stream, same pieces",
    OURS: "remotegpu, own client",
    "standard": "remotegpu, tritonclient at the standard door",
}
# Medians in seconds: a round is {participant: {kind: seconds}}.
Round = Mapping[str, Mapping[What, float]]


def summary(rounds: Sequence[Round], other: str) -> dict[str, dict[str, float]]:
    """Of each kind: the median of the other's medians in milliseconds, and the median of the ratios ours / other."""
    found: dict[str, dict[str, float]] = {}
    for kind in KINDS:
        pairs = [(each[OURS][kind], each[other][kind]) for each in rounds]
        found[kind] = {
            "ms": statistics.median(theirs for _, theirs in pairs) * 1000,
            "ours_over_it": statistics.median(ours / theirs for ours, theirs in pairs),
        }
    return found


def table(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each participant; the ratio is above 1 where ours is slower."""
    lines = [f"{'':52} {'tiny µs':>9} {'ours/it':>8} {'16 MiB ms':>10} {'ours/it':>8}"]
    for name, found in results.items():
        title = _TITLES.get(name) or PEERS[name].title
        if "not_run" in found:
            lines.append(f"{title:52} not run: {found['not_run'].splitlines()[-1]}")
            continue
        tiny, large = found["tiny"], found["large"]
        cells = f"{tiny['ms'] * 1000:9.0f} {tiny['ours_over_it']:8.2f} {large['ms']:10.1f} {large['ours_over_it']:8.2f}"
        lines.append(f"{title:52} {cells}")
    return lines


@dataclass(frozen=True, slots=True)
class Bench:
    """What stays while peers come and go."""

    own: Mapping[str, Running]
    not_run: Mapping[str, str]
    models: Path
    rounds: int
    peers_folder: Path

    def against(self, peer: Peer | None) -> list[Round]:
        """Rounds of ours and the floors, and of the peer if there is one. Raises NotRun."""
        if peer is None:
            return self._rounds({}, LARGE_CALLS)
        python = peer.install(self.peers_folder)
        with peer.start(python, self.models) as running:
            return self._rounds({peer.name: running}, peer.large_calls)

    def _rounds(self, others: Mapping[str, Running], large_calls: int) -> list[Round]:
        """The first one warms up, and does not count."""
        taking_part = {**self.own, **others}
        rounds: list[Round] = []
        for _ in range(self.rounds + 1):
            each: dict[str, dict[What, float]] = {}
            for name, running in taking_part.items():
                large = large_calls if name in others else LARGE_CALLS
                each[name] = {"tiny": running.measure("tiny", TINY_CALLS), "large": running.measure("large", large)}
            rounds.append(each)
        return rounds[1:]


def write_models(root: Path) -> None:
    """The tiny model and the one that gives back what it gets."""
    for name, content in (("linear", models.linear()), ("identity", models.identity())):
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / "model.onnx").write_bytes(content)


@contextmanager
def _started(folder: Path, rounds: int, peers_folder: Path) -> Iterator[Bench]:
    """Our server, the floors, and a client of each door."""
    write_models(folder)
    with ExitStack() as stack:
        standard = free_port()
        arguments = ["--gpus", "cpu", "--models", str(folder), "--inference", f"127.0.0.1:{standard}"]
        server = LocalServer(arguments)
        stack.callback(server.stop)
        port = stack.enter_context(floors.served())
        ports = {"stream": port, "unary": port, "raw": port, OURS: server.port, "standard": standard}
        own: dict[str, Running] = {}
        not_run: dict[str, str] = {}
        for door, port in ports.items():
            running = stack.enter_context(Running(door))
            command = [sys.executable, "-m", "benchmarks.peers.own_calls", "call", str(port), door]
            try:
                running.connect(command, os.environ)
            except NotRun as error:
                if door == OURS:
                    raise
                not_run[door] = str(error)
            else:
                own[door] = running
        yield Bench(own, not_run, folder, rounds, peers_folder)


def measured(bench: Bench, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Ours against the floors, then each peer against ours; why, for one that does not run."""
    rounds = bench.against(None)
    results: dict[str, dict[str, Any]] = {door: summary(rounds, door) for door in bench.own}
    results |= {door: {"not_run": why} for door, why in bench.not_run.items()}
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        peer = PEERS[name]
        try:
            beside = bench.against(peer)
        except NotRun as error:
            results[name] = {"not_run": str(error)}
        else:
            results[name] = {**summary(beside, name), "requirements": list(peer.requirements)}
            if "standard" in bench.own:
                results[name]["standard_over_it"] = {
                    kind: statistics.median(each["standard"][kind] / each[name][kind] for each in beside)
                    for kind in KINDS
                }
    return results


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving")
    parser.add_argument("--rounds", type=int, default=9, help="that count, after one that warms up (default: 9)")
    parser.add_argument("--peers", default=",".join(PEERS), metavar="A,B", help="which ones (default: %(default)s)")
    parser.add_argument(
        "--peers-dir", type=Path, default=ROOT / "build" / "peers", help="where their environments are kept"
    )
    options = parser.parse_args(arguments)
    options.names = [name for name in options.peers.split(",") if name]
    unknown = [name for name in options.names if name not in PEERS]
    if unknown:
        parser.error(f"no peer {', '.join(unknown)}; there are: {', '.join(PEERS)}")
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints and writes."""
    options = _options(arguments)
    with (
        tempfile.TemporaryDirectory() as folder,
        _started(Path(folder), options.rounds, options.peers_dir.resolve()) as bench,
    ):
        results = measured(bench, options.names)
    print("\n".join(table(results)))
    RESULTS.mkdir(exist_ok=True)
    written = {"environment": environment("cpu"), "rounds": options.rounds, "results": results}
    (RESULTS / "serving.json").write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
