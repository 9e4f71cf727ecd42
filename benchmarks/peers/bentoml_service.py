# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The service that BentoML loads by its name."""

from __future__ import annotations

import os
from pathlib import Path

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(workers=1, traffic={"timeout": 300})
class Onnx:
    """Both models of ONNX Runtime."""

    def __init__(self) -> None:
        models = Path(os.environ["BENCHMARK_MODELS"])
        self._sessions = {
            name: onnxruntime.InferenceSession(models / name / "1" / "model.onnx") for name in ("linear", "identity")
        }

    @bentoml.api  # type: ignore[untyped-decorator]
    def linear(self, x: np.ndarray) -> np.ndarray:
        """64 to 8."""
        return self._sessions["linear"].run(None, {"x": x.astype(np.float32)})[0]  # type: ignore[no-any-return]

    @bentoml.api  # type: ignore[untyped-decorator]
    def identity(self, x: np.ndarray) -> np.ndarray:
        """There and back."""
        return self._sessions["identity"].run(None, {"x": x.astype(np.float32)})[0]  # type: ignore[no-any-return]
