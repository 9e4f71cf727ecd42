# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""BentoML with ONNX Runtime and its own client, which sends arrays as JSON."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers import caller


def serve(port: int, models: Path) -> None:
    """Becomes `bentoml serve`."""
    command = str(Path(sys.executable).parent / "bentoml")
    environment = {**os.environ, "BENCHMARK_MODELS": str(models), "BENTOML_DO_NOT_TRACK": "True"}
    service = "benchmarks.peers.bentoml_service:Onnx"
    os.execve(command, [command, "serve", service, "--host", "127.0.0.1", "--port", str(port)], environment)


class _Calls:
    def __init__(self, port: int) -> None:
        import bentoml

        self._client = bentoml.SyncHTTPClient(f"http://127.0.0.1:{port}", timeout=300)

    def tiny(self, x: Any) -> Any:
        return self._client.linear(x=x)

    def large(self, x: Any) -> Any:
        import numpy as np

        return np.asarray(self._client.identity(x=x), np.float32)


if __name__ == "__main__":
    caller.run(serve, _Calls)
