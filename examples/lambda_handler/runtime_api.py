# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Run a Lambda handler on this machine, under the same runtime client that AWS Lambda uses.

AWS Lambda talks to a function over a small HTTP interface, the Runtime API: the runtime asks for the next event, runs
the handler, and posts the result or the error (https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html). This
file is a local server of that interface, and `LambdaFunction`, which starts the real client (`awslambdaric` on PyPI)
in a subprocess and feeds it events. It keeps the habits of the service that break GPU clients: the process is stopped
between invocations, and killed without warning after a timeout or too large a response. Linux only.
"""

import json
import os
import queue
import re
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import weakref
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Self

PAYLOAD_LIMIT = 6_291_556  # bytes of an event or a response, as measured on AWS's own runtime interface emulator
INIT_TIMEOUT = 10.0  # seconds from the start of the runtime to its first request for an event
LOG_LIMIT = 256 * 1024  # bytes of output shown

_OUTCOME = re.compile(r"/2018-06-01/runtime/(init|restore|invocation/(?P<id>[^/]+))/(?P<kind>response|error)")


class FunctionError(Exception):
    """The handler raised, or could not be imported, or its process exited.

    `error_type`, `error_message` and `stack_trace` are the service's errorType, errorMessage and stackTrace. After an
    exit, `exit_code` is set (negative: the signal that ended it) and `log` is what the function printed.
    """

    def __init__(self, error: Mapping[str, Any], exit_code: int | None = None, log: str = "") -> None:
        self.error_type: str = error["errorType"]
        self.error_message: str = error["errorMessage"]
        self.stack_trace: list[str] = error.get("stackTrace", [])
        self.exit_code = exit_code
        self.log = log
        super().__init__(f"{self.error_type}: {self.error_message}" + (f"\n{log}" if log else ""))


class FunctionTimeout(Exception):
    """The function was not done within its time limit, and its environment was destroyed."""

    def __init__(self, phase: str, timeout: float) -> None:
        super().__init__(f"the function's {phase} timed out after {timeout:.2f} seconds; its process was killed")


class PayloadTooLarge(Exception):
    """An event or a response is over `PAYLOAD_LIMIT`; in the second case the environment was destroyed."""

    def __init__(self, what: str, size: int) -> None:
        super().__init__(f"the {what} has {size} bytes, over the limit of {PAYLOAD_LIMIT}; pass a reference")


class _RuntimeApi(socketserver.ThreadingTCPServer):
    """The server. An event is its headers and body, or None when the runtime is dead. A report is what the runtime did:
    None when it asked for an event, or for its snapshot, the body of a response, or what went wrong."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _RequestHandler)
        self.events: queue.SimpleQueue[tuple[Mapping[str, str], bytes] | None] = queue.SimpleQueue()
        self.reports: queue.SimpleQueue[bytes | Exception | None] = queue.SimpleQueue()
        self.restored = threading.Event()  # the runtime may go on from its snapshot, or is dead
        self.request_id: str | None = None  # of the invocation that the runtime works on

    def handle_error(self, request: object, client_address: object) -> None:
        # The runtime is killed while it talks to us, so a lost connection is expected; all else is a bug here.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _RequestHandler(BaseHTTPRequestHandler):
    server: _RuntimeApi
    protocol_version = "HTTP/1.1"
    # Header and body are written apart; Nagle's algorithm would hold the body back until the header is acknowledged,
    # and the peer delays that acknowledgement by 40 ms.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path == "/2018-06-01/runtime/restore/next":
            self.server.reports.put(None)
            self.server.restored.wait()
            self._answer(200)
            return
        if self.path != "/2018-06-01/runtime/invocation/next":
            self._answer(404)
            return
        self.server.reports.put(None)
        if (event := self.server.events.get()) is not None:
            self.server.request_id = event[0]["Lambda-Runtime-Aws-Request-Id"]
            self._answer(200, *event)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        outcome = _OUTCOME.fullmatch(self.path)
        if outcome is None or outcome["id"] != self.server.request_id:  # both None in the init phase
            self._answer(400)
        elif outcome["kind"] == "error":
            self._report(FunctionError(json.loads(body)), 202)
        elif len(body) > PAYLOAD_LIMIT:
            self._report(PayloadTooLarge("response", len(body)), 413)
        else:
            self._report(body, 202)

    def _report(self, report: bytes | Exception, status: int) -> None:
        # The report goes first: once answered, the runtime may already ask for the next event.
        self.server.reports.put(report)
        self._answer(status)

    def _answer(self, status: int, headers: Mapping[str, str] = {}, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged."""


class _Environment:
    """A runtime process and the server that feeds it: created, invoked some times, closed for good."""

    def __init__(self, function: "LambdaFunction") -> None:
        self.function, self.api = function, _RuntimeApi()
        self.is_ready = False  # the runtime waits for an event
        self.is_snapshot = False  # it waits to be restored
        try:
            self.process = subprocess.Popen(
                [*function.interpreter, "-m", "awslambdaric", function.handler],
                cwd=function.task_root,
                env={"AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self.api.server_address[1]}", **function.variables},
                stdin=subprocess.DEVNULL,
                stdout=function.output,
                stderr=function.output,
                start_new_session=True,  # a process group of its own: stopping and killing reach its children
            )
        except BaseException:
            self.api.server_close()
            raise
        self._server = threading.Thread(target=self.api.serve_forever, args=(0.02,), name="lambda-runtime-api")
        self._server.start()
        self._exit_watch = threading.Thread(target=self._watch_exit, name="lambda-exit-watch")
        self._exit_watch.start()

    def _watch_exit(self) -> None:
        # Not reaped here: until close() has killed the group, the zombie keeps its number from being used again.
        exited = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        assert exited is not None  # only WNOHANG gives None
        code = exited.si_status if exited.si_code == os.CLD_EXITED else -exited.si_status
        error = {"errorType": "Runtime.ExitError", "errorMessage": f"the runtime exited with code {code}"}
        self.api.reports.put(FunctionError(error, code, self.function.log))

    def close(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self._exit_watch.join()
        self.process.wait()
        self.api.events.put(None)
        self.api.restored.set()
        self.api.shutdown()
        self._server.join()
        self.api.server_close()  # joins the threads of the connections


class LambdaFunction:
    """One execution environment: the real runtime client in a subprocess, fed by a local Runtime API.

    `handler` is `module.function`, found under `task_root`. `environment` is added to the variables that the service
    sets, and wins over them; nothing else of this process's environment is passed on. `timeout` is in seconds.
    `memory`, in MB, is told to the function but not enforced. `interpreter` is the command that runs the runtime
    client, which must find it. With `snap_start` it is initialised as for a snapshot, and goes on from there with its
    first invocation. For one thread, in a `with` statement.
    """

    def __init__(
        self,
        handler: str,
        *,
        task_root: Path,
        environment: Mapping[str, str] = {},
        timeout: float = 30.0,
        memory: int = 512,
        interpreter: Sequence[str] = (sys.executable,),
        snap_start: bool = False,
    ) -> None:
        self.handler = handler
        self.name = handler.rsplit(".", 1)[0].replace("/", "-")
        self.task_root = task_root.resolve()
        self.timeout = timeout
        self.interpreter = interpreter
        self.snap_start = snap_start
        self.variables = {**_service_variables(self, memory), **environment}
        self._environment: _Environment | None = None
        # A file and not a pipe: what was printed before a response is there when the response is, and after exit.
        self.output = tempfile.TemporaryFile()  # noqa: SIM115 -- the next line closes it
        weakref.finalize(self, self.output.close)

    def __enter__(self) -> Self:
        self._environment = _Environment(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._destroy()

    def invoke(self, event: object) -> object:
        """Run the handler on `event` and return its result, both JSON values.

        A frozen environment is thawed first, and a destroyed one replaced, as the service does; the time for that is
        limited to `INIT_TIMEOUT` seconds and not part of `timeout`. Raises `FunctionError`, `FunctionTimeout` or
        `PayloadTooLarge`; all but an exception in the handler, or too large an event, destroy the environment.
        """
        body = json.dumps(event).encode()
        if len(body) > PAYLOAD_LIMIT:
            raise PayloadTooLarge("event", len(body))
        environment = self._environment = self._environment or _Environment(self)
        self.thaw()
        self._restore(environment)
        self._wait_ready(environment)
        environment.is_ready = False
        region = self.variables["AWS_REGION"]
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": str(uuid.uuid4()),
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + self.timeout) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": f"arn:aws:lambda:{region}:123456789012:function:{self.name}",
            "Lambda-Runtime-Trace-Id": f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]};Sampled=0",
        }
        environment.api.events.put((headers, body))
        response = self._next_report(environment, "invocation", self.timeout)
        assert response is not None  # a runtime asks for an event only after it answered the last
        return json.loads(response)

    @property
    def pid(self) -> int:
        """The id of the runtime's process. Raises `RuntimeError` when there is none."""
        return self._running().process.pid

    def freeze(self) -> None:
        """Stop all threads of the function once it waits for an event, as the service does between invocations, or for
        its restore from a snapshot."""
        environment = self._running()
        if self.snap_start and not environment.api.restored.is_set():
            self._wait_snapshot(environment)
        else:
            self._wait_ready(environment)
        os.killpg(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """Let a frozen function go on; does nothing to a running one."""
        os.killpg(self.pid, signal.SIGCONT)

    @property
    def log(self) -> str:
        """What the function printed to stdout and stderr, at most the last `LOG_LIMIT` bytes."""
        size = os.fstat(self.output.fileno()).st_size
        return os.pread(self.output.fileno(), LOG_LIMIT, max(0, size - LOG_LIMIT)).decode(errors="replace")

    def _destroy(self) -> None:
        environment, self._environment = self._environment, None
        if environment is not None:
            environment.close()

    def _running(self) -> _Environment:
        if self._environment is None:
            raise RuntimeError(f"{self.handler} has no running environment: start one with `with` or `invoke`")
        return self._environment

    def _wait_snapshot(self, environment: _Environment) -> None:
        if not environment.is_snapshot:
            self._next_report(environment, "init phase", INIT_TIMEOUT)
            environment.is_snapshot = True

    def _restore(self, environment: _Environment) -> None:
        if self.snap_start and not environment.api.restored.is_set():
            self._wait_snapshot(environment)
            environment.api.restored.set()

    def _wait_ready(self, environment: _Environment) -> None:
        if not environment.is_ready:
            self._next_report(environment, "init phase", INIT_TIMEOUT)
            environment.is_ready = True

    def _next_report(self, environment: _Environment, phase: str, timeout: float) -> bytes | None:
        try:
            report = environment.api.reports.get(timeout=timeout)
        except queue.Empty:
            report = FunctionTimeout(phase, timeout)
        if not isinstance(report, Exception):
            return report
        if not (phase == "invocation" and isinstance(report, FunctionError) and report.exit_code is None):
            self._destroy()
        raise report


def _service_variables(function: LambdaFunction, memory: int) -> dict[str, str]:
    # https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html, "defined runtime environment variables"
    return {
        "_HANDLER": function.handler,
        "LAMBDA_TASK_ROOT": str(function.task_root),
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory),
        "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start" if function.snap_start else "on-demand",
        "AWS_EXECUTION_ENV": f"AWS_Lambda_python{sys.version_info.major}.{sys.version_info.minor}",
        "AWS_REGION": "us-east-1",
        "LANG": "en_US.UTF-8",
        "TZ": ":UTC",
        "PATH": "/usr/local/bin:/usr/bin:/bin:/opt/bin",
    }
