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
    # Bytes of the `remotegpu.v1.ModelTable` that lies at the start of the request arena until the worker is ready.
    table_size: int
    # Descriptors of the call socket, the control socket and the arenas.
    socket: int
    control: int
    request_arena: int
    reply_arena: int
    arena_size: int
    # Rows that one run of a model may have, seconds that a call waits for others, runs at once.
    max_batch: int
    max_delay: float
    sessions: int
    # Bytes that loaded models may take; None: no limit on CPU devices, what is free on GPUs.
    model_memory: int | None
    # Options of ONNX Runtime's execution provider and of its sessions.
    provider_options: dict[str, str]
    session_options: dict[str, str]

    def to_json(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))
