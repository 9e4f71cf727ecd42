# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""PyTriton with ONNX Runtime, over gRPC with tritonclient."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path
from typing import Any

from benchmarks.peers import caller
from benchmarks.peers.oip_client import TritonCalls
from benchmarks.peers.peer import free_port


def serve(port: int, models: Path) -> None:
    """Serves both models from this process. Its processes must load the library of this Python: the one that the
    machine's linker finds may have another patch version, whose modules do not fit."""
    os.environ["LD_LIBRARY_PATH"] = str(sysconfig.get_config_var("LIBDIR"))
    import numpy as np
    import onnxruntime
    from pytriton.decorators import batch
    from pytriton.model_config import ModelConfig, Tensor
    from pytriton.triton import Triton, TritonConfig

    def model(name: str) -> Any:
        session = onnxruntime.InferenceSession(models / name / "1" / "model.onnx")

        @batch  # type: ignore[untyped-decorator]
        def infer(x: Any) -> Any:
            return {"y": session.run(None, {"x": x})[0]}

        return infer

    settings = TritonConfig(grpc_port=port, http_port=free_port(), metrics_port=free_port(), http_address="127.0.0.1")
    with Triton(config=settings) as triton:
        for name, inputs, outputs in (
            ("linear", caller.TINY[1], caller.OUTPUTS),
            ("identity", caller.LARGE[1], caller.LARGE[1]),
        ):
            triton.bind(
                name,
                model(name),
                [Tensor(name="x", dtype=np.float32, shape=(inputs,))],
                [Tensor(name="y", dtype=np.float32, shape=(outputs,))],
                config=ModelConfig(max_batch_size=16),
            )
        triton.serve()


if __name__ == "__main__":
    caller.run(serve, TritonCalls)
