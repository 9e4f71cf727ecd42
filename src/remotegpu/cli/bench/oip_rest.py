# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""A load on any server of the Open Inference Protocol over HTTP that takes binary tensors."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from remotegpu import errors
from remotegpu.cli.bench import oip_tensors
from remotegpu.cli.bench.inputs import Array, Tensor
from remotegpu.cli.bench.targets import Address

# Characters of an error's body that are told.
_TOLD = 300
_JSON_SIZE = "Inference-Header-Content-Length"


class RestTarget:
    """A kept connection. Requests are assembled once; replies are received, and not decoded."""

    def __init__(self, address: Address) -> None:
        self._host, self._port = _host_of(address.url)
        self._address = f"{self._host}:{self._port}"
        self._timeout = address.timeout
        version = f"/versions/{quote(address.version, safe='')}" if address.version else ""
        self._path = f"/v2/models/{quote(address.model, safe='')}{version}"
        self._connection: http.client.HTTPConnection | None = None

    def tensors(self) -> list[Tensor]:
        """Raises UnknownRemoteError for an unknown model, ProtocolError, or a TransportError."""
        found = self._json(self._path)
        try:
            return [oip_tensors.tensor(given["name"], given["datatype"], given["shape"]) for given in found["inputs"]]
        except (KeyError, TypeError) as error:
            raise errors.ProtocolError(what=f"the model's metadata: {error!r}") from error

    def call(self, inputs: Mapping[str, Array]) -> Callable[[], object]:
        """Raises what `datatype_of` raises."""
        parts = [oip_tensors.raw(array) for array in inputs.values()]
        described = [
            {"name": name, **oip_tensors.described(array), "parameters": {"binary_data_size": len(part)}}
            for (name, array), part in zip(inputs.items(), parts, strict=True)
        ]
        head = json.dumps({"inputs": described, "parameters": {"binary_data_output": True}}).encode()
        body = b"".join((head, *parts))
        headers = {_JSON_SIZE: str(len(head)), "Content-Type": "application/octet-stream"}
        return lambda: self._request("POST", f"{self._path}/infer", body, headers)

    def server(self) -> dict[str, Any]:
        """Its name, version and extensions."""
        return self._json("/v2")

    def close(self) -> None:
        """A call under way fails when it next reads."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _json(self, path: str) -> dict[str, Any]:
        try:
            found = json.loads(self._request("GET", path, None, {}))
        except ValueError as error:
            raise errors.ProtocolError(what=f"{path} is not JSON: {error}") from error
        if not isinstance(found, dict):
            raise errors.ProtocolError(what=f"{path} is not a JSON object")
        return found

    def _request(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> bytes:
        connection = self._connection or self._connected()
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            answer = response.read()
        except TimeoutError:
            self.close()
            raise errors.DeadlineExceeded(deadline=self._timeout) from None
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise errors.ConnectionLost(address=self._address, why=str(error) or repr(error)) from error
        if response.status != http.client.OK:
            why = answer[:_TOLD].decode(errors="replace")
            raise errors.UnknownRemoteError(kind=f"HTTP {response.status}", why=why)
        return answer

    def _connected(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        try:
            connection.connect()
        except OSError as error:
            raise errors.ConnectError(address=self._address, why=error.strerror or str(error)) from error
        self._connection = connection
        return connection


def _host_of(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or http.client.HTTP_PORT
    except ValueError as error:
        raise errors.ConfigurationError(setting="--url", why=f"{url!r}: {error}") from error
    if not host or parts.path not in {"", "/"}:
        raise errors.ConfigurationError(setting="--url", why=f"{url!r}: write http://HOST:PORT")
    return host, port
