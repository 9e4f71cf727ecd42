# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""KServe's Python server with ONNX Runtime, over gRPC."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.peers import caller
from benchmarks.peers.oip_client import TritonCalls

_LARGEST = str(2**31 - 1)


def serve(port: int, models: Path) -> None:
    """Serves both models. Its options are those of a command line, which it reads when it is imported."""
    limits = [f"--grpc_max_{which}_message_length={_LARGEST}" for which in ("send", "receive")]
    sys.argv[1:] = [f"--grpc_port={port}", "--http_port=0", *limits]
    import kserve
    import onnxruntime

    class Onnx(kserve.Model):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            super().__init__(name)
            self._session = onnxruntime.InferenceSession(models / name / "1" / "model.onnx")
            self.ready = True

        async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
            y = self._session.run(None, {"x": payload.inputs[0].as_numpy()})[0]
            output = kserve.InferOutput("y", list(y.shape), "FP32")
            output.set_data_from_numpy(y, binary_data=True)
            return kserve.InferResponse(payload.id, self.name, [output])

    server = kserve.ModelServer(grpc_port=port, http_port=0, enable_latency_logging=False)
    server.start([Onnx("linear"), Onnx("identity")])


if __name__ == "__main__":
    caller.run(serve, TritonCalls)
