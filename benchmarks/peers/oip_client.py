# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""tritonclient over gRPC, as its users call it, for all servers of the Open Inference Protocol."""

from __future__ import annotations

from typing import Any


class TritonCalls:
    """Models `linear` (x to y) and `identity` (x to y)."""

    def __init__(self, port: int) -> None:
        from tritonclient import grpc as triton

        self._triton = triton
        self._client = triton.InferenceServerClient(f"127.0.0.1:{port}")

    def tiny(self, x: Any) -> Any:
        return self._infer("linear", x)

    def large(self, x: Any) -> Any:
        return self._infer("identity", x)

    def _infer(self, model: str, x: Any) -> Any:
        given = self._triton.InferInput("x", list(x.shape), "FP32")
        given.set_data_from_numpy(x)
        return self._client.infer(model, [given]).as_numpy("y")
