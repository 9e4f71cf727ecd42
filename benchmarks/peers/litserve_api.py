# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The class whose objects LitServe sends to its worker processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import litserve
import numpy as np
import onnxruntime
from fastapi import Response


class Onnx(litserve.LitAPI):  # type: ignore[misc]
    """The model of ONNX Runtime that has the name of its path."""

    def __init__(self, models: str, **settings: Any) -> None:
        super().__init__(**settings)
        self._models = models

    def setup(self, _device: Any) -> None:
        self._session = onnxruntime.InferenceSession(Path(self._models) / self.api_path[1:] / "1" / "model.onnx")

    # Without a type, so that it is the request itself: LitServe would take `Any` for a parameter of the URL.
    def decode_request(self, request):  # type: ignore[no-untyped-def]
        return np.frombuffer(request["x"].file.read(), np.float32).reshape(1, -1)

    def predict(self, x: Any) -> Any:
        return self._session.run(None, {"x": x})[0]

    def encode_response(self, y: Any) -> Any:
        return Response(y.tobytes(), media_type="application/octet-stream")
