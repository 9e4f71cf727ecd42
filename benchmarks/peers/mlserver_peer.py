# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""MLServer with ONNX Runtime, over gRPC, in its default settings."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.peers import caller
from benchmarks.peers.oip_client import TritonCalls
from benchmarks.peers.peer import free_port


def serve(port: int, models: Path) -> None:
    """Becomes `mlserver start`."""
    folder = Path(tempfile.mkdtemp(prefix="mlserver-"))
    settings = {
        "host": "127.0.0.1",
        "grpc_port": port,
        "http_port": free_port(),
        "metrics_port": free_port(),
        "grpc_max_message_length": 2**31 - 1,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    for name in ("linear", "identity"):
        (folder / name).mkdir()
        model = {
            "name": name,
            "implementation": "benchmarks.peers.mlserver_runtime.Onnx",
            "parameters": {"uri": str(models / name / "1" / "model.onnx")},
        }
        (folder / name / "model-settings.json").write_text(json.dumps(model))
    command = str(Path(sys.executable).parent / "mlserver")
    os.chdir(folder)  # where it keeps its metrics and environments
    os.execv(command, [command, "start", str(folder)])


if __name__ == "__main__":
    caller.run(serve, TritonCalls)
