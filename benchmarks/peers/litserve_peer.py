# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""LitServe with ONNX Runtime. It reads JSON or forms, so the bytes of an array come as a file of a multipart form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.peers import caller
from benchmarks.peers.http_client import HttpCalls

_BOUNDARY = "benchmark-boundary"
_HEAD = (
    f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="x"; filename="x"\r\n'
    "Content-Type: application/octet-stream\r\n\r\n"
).encode()
_END = f"\r\n--{_BOUNDARY}--\r\n".encode()


def serve(port: int, models: Path) -> None:
    """Serves each model at its own path."""
    import litserve

    from benchmarks.peers.litserve_api import Onnx

    apis = [Onnx(str(models), api_path=f"/{name}") for name in ("linear", "identity")]
    litserve.LitServer(apis, accelerator="cpu").run(host="127.0.0.1", port=port, generate_client_file=False)


class _Calls(HttpCalls):
    def _post(self, path: str, body: bytes, content_type: str = "") -> Any:
        return super()._post(path, b"".join((_HEAD, body, _END)), f"multipart/form-data; boundary={_BOUNDARY}")


if __name__ == "__main__":
    caller.run(serve, _Calls)
