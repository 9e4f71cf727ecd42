# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Lambda's Invoke over HTTP, in front of functions that run under the real runtime client.

https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html, as much of it as a synchronous caller sees. With
AWS_ENDPOINT_URL_LAMBDA set to its `url`, boto3 and the AWS CLI invoke the functions here."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from examples.lambda_handler.runtime_api import FunctionError, FunctionTimeout, LambdaFunction


class LambdaService:
    """Serves functions by name, one call of a function at a time, in a `with` statement inside of theirs."""

    def __init__(self, functions: Mapping[str, LambdaFunction]) -> None:
        self._server = _Server(functions)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.end_calls()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, functions: Mapping[str, LambdaFunction]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.functions = functions
        self._locks = {name: threading.Lock() for name in functions}
        self._is_over = False

    def invoke(self, name: str, event: object) -> Any:
        """Waits for its turn. Raises FunctionError, FunctionTimeout, or ConnectionError if no more turns come."""
        with self._locks[name]:
            if self._is_over:
                raise ConnectionAbortedError(f"{name} is invoked no more")
            return self.functions[name].invoke(event)

    def end_calls(self) -> None:
        """Waits for the calls under way; those that wait for their turn get none, so that no function starts again."""
        self._is_over = True
        for lock in self._locks.values():
            with lock:
                pass

    def handle_error(self, request: object, client_address: object) -> None:
        # A caller that was killed does not wait for its answer; all else is a bug here.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = self.path.split("/")[3]
        if name not in self.server.functions:
            error = {"Message": f"no function {name}", "Type": "User"}
            self._answer(404, error, {"X-Amzn-ErrorType": "ResourceNotFoundException"})
            return
        try:
            answer = self.server.invoke(name, payload)
        except FunctionError as error:
            told = {"errorType": error.error_type, "errorMessage": error.error_message}
            self._answer(200, told, {"X-Amz-Function-Error": "Unhandled"})
        except FunctionTimeout as error:
            self._answer(200, {"errorMessage": str(error)}, {"X-Amz-Function-Error": "Unhandled"})
        else:
            self._answer(200, answer, {})

    def _answer(self, status: int, value: Any, headers: Mapping[str, str]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for header, text in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(header, text)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged."""
