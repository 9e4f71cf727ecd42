# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What runs in a peer's environment: its server, or its client with the timing. Standard library and NumPy only.

`python -m benchmarks.peers.NAME serve PORT FOLDER` serves until it is stopped. `... call PORT` connects, prints a line
with "ready", and then answers each line {"what": "tiny" | "large", "calls": N} of standard input with a line of JSON:
the seconds of each call, or why there are none.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

# How long a server may take until its first answer, and between two tries. Seconds.
START_PATIENCE, PAUSE = 90.0, 0.25
# Of the tensors: float32.
TINY, LARGE = (1, 64), (1, 4 * 1024 * 1024)
OUTPUTS = 8


class Calls(Protocol):
    """A connected client. Both take and give float32 arrays."""

    def tiny(self, x: Any) -> Any:
        """One call of the linear model, [1, 64] to [1, 8]; a floor without models gives back what it likes."""

    def large(self, x: Any) -> Any:
        """16 MiB there and back, [1, 4194304]."""


Serve = Callable[[int, Path], None]
Connect = Callable[[int], Calls]


def seconds(work: Callable[[], object], calls: int) -> list[float]:
    """What each of so many calls took, one after the other."""
    times = []
    for _ in range(calls):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return times


def run(serve: Serve, connect: Connect, *, has_models: bool = True) -> None:
    """The command line of a peer's module."""
    command, port = sys.argv[1], int(sys.argv[2])
    if command == "serve":
        serve(port, Path(sys.argv[3]))
    else:
        answer(connect, port, has_models)


def answer(connect: Connect, port: int, has_models: bool = True) -> None:
    """The client's side: measures what it is told."""
    import numpy as np

    inputs = {
        "tiny": np.ones(TINY, np.float32),
        "large": np.random.default_rng(0).random(LARGE, dtype=np.float32),
    }
    calls = _connected(connect, port, inputs)
    _check(calls, inputs, has_models)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        work = functools.partial(getattr(calls, asked["what"]), inputs[asked["what"]])
        try:
            found: dict[str, Any] = {"seconds": seconds(work, asked["calls"])}
        except Exception as error:  # whatever the peer's library raises: told, and no number
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(found), flush=True)


def _connected(connect: Connect, port: int, inputs: dict[str, Any]) -> Calls:
    """Tries until the server answers both calls. Raises what the last try raised."""
    until = time.monotonic() + START_PATIENCE
    while True:
        try:
            calls = connect(port)
            calls.tiny(inputs["tiny"])
            calls.large(inputs["large"])
            return calls
        except Exception:
            if time.monotonic() > until:
                raise
            time.sleep(PAUSE)  # paces the asking; the answer decides


def _check(calls: Calls, inputs: dict[str, Any], has_models: bool) -> None:
    """A wrong answer is not worth a number."""
    import numpy as np

    tiny = np.asarray(calls.tiny(inputs["tiny"]))
    if has_models and tiny.shape != (1, OUTPUTS):
        raise ValueError(f"the linear model gave the shape {tiny.shape}")
    large = np.asarray(calls.large(inputs["large"]))
    if large.size != inputs["large"].size or not np.array_equal(large.reshape(-1), inputs["large"].reshape(-1)):
        raise ValueError("16 MiB came back other than they were sent")
