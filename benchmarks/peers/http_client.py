# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Raw bytes over one kept HTTP connection, for servers that have no client of their own for arrays."""

from __future__ import annotations

import http.client
from typing import Any


class HttpCalls:
    """Posts an array's bytes to "/linear" or "/identity"."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def tiny(self, x: Any) -> Any:
        """One call of the linear model."""
        return self._post("/linear", x.tobytes()).reshape(1, -1)

    def large(self, x: Any) -> Any:
        """16 MiB there and back."""
        return self._post("/identity", x.tobytes())

    def _post(self, path: str, body: bytes, content_type: str = "application/octet-stream") -> Any:
        import numpy as np

        self._connection.request("POST", path, body, {"Content-Type": content_type})
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != http.client.OK:
            raise ValueError(f"HTTP {response.status}: {answer[:300]!r}")
        return np.frombuffer(answer, np.float32)
