# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Ray Serve with ONNX Runtime, raw bytes over HTTP."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from benchmarks.peers import caller
from benchmarks.peers.http_client import HttpCalls


def serve(port: int, models: Path) -> None:
    """Serves each model at its own path, until it is stopped."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import numpy as np
    import onnxruntime
    import ray
    from ray import serve as ray_serve
    from starlette.requests import Request
    from starlette.responses import Response

    class Onnx:
        def __init__(self, name: str) -> None:
            self._session = onnxruntime.InferenceSession(models / name / "1" / "model.onnx")

        async def __call__(self, request: Request) -> Any:
            x = np.frombuffer(await request.body(), np.float32).reshape(1, -1)
            return Response(self._session.run(None, {"x": x})[0].tobytes())

    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, _temp_dir=os.environ["TMPDIR"])
    deployment: Any = ray_serve.deployment(ray_actor_options={"num_cpus": 0.5})(Onnx)
    ray_serve.start(http_options={"host": "127.0.0.1", "port": port})
    for name in ("linear", "identity"):
        ray_serve.run(deployment.bind(name), name=name, route_prefix=f"/{name}")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray.shutdown()


if __name__ == "__main__":
    caller.run(serve, HttpCalls)
