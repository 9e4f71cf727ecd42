# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What a worker process is started with, as JSON on its command line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker must know. Sizes in bytes."""

    index: int
    epoch: int
    parent: int
    # "cpu", or "cuda" with CUDA_VISIBLE_DEVICES set to the one GPU.
    kind: str
    memory: int
    threads: int
    models: str | None
    # Descriptors of the call socket, the control socket and the arenas.
    socket: int
    control: int
    request_arena: int
    reply_arena: int
    arena_size: int

    def to_json(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))
