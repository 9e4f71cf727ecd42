# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""`local:`: a server of this process's own, on a free port, that ends with it."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

from remotegpu import errors

START_PATIENCE = 60.0
STOP_PATIENCE = 15.0


class LocalServer:
    """`remotegpu-server` as a child process. Its standard input is its life line: when this process ends, however it
    ends, the server finds the end of input and stops."""

    def __init__(self, arguments: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        """Starts it and waits until it is ready. Raises ConfigurationError with its last words if it does not start."""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this object
        self.process = subprocess.Popen(
            [sys.executable, "-m", "remotegpu_server", "--listen", "127.0.0.1:0", "--stop-at-end-of-input", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=None if environment is None else dict(environment),
        )
        # Of its other listeners, by name.
        self.ports: dict[str, int] = {}
        try:
            self.port = self._announced_port(time.monotonic() + START_PATIENCE)
        except BaseException:
            self.process.kill()
            self.stop()
            raise

    @property
    def url(self) -> str:
        """For `Client`."""
        return f"grpc://127.0.0.1:{self.port}"

    @property
    def inference_port(self) -> int:
        """Of the Open Inference Protocol over gRPC. Raises KeyError unless `--inference` was given."""
        return self.ports["inference"]

    @property
    def rest_port(self) -> int:
        """Of the Open Inference Protocol over HTTP. Raises KeyError unless `--rest` was given."""
        return self.ports["rest"]

    def _announced_port(self, until: float) -> int:
        assert self.process.stdout is not None
        text = b""
        while b"\n" not in text:
            readable, _, _ = select.select([self.process.stdout], [], [], max(until - time.monotonic(), 0))
            piece = os.read(self.process.stdout.fileno(), 4096) if readable else b""
            if not piece:
                why = "it ended" if readable else f"it was not ready within {START_PATIENCE:.0f} s"
                raise errors.ConfigurationError(setting="local:", why=f"no local server, {why}: {self.last_words()}")
            text += piece
        match = re.search(rb"ready on 127\.0\.0\.1:(\d+)((?:, \w+ on [^,]+:\d+)*)", text)
        if match is None:
            raise errors.ConfigurationError(setting="local:", why=f"another program answered: {text[:200]!r}")
        self.ports = {name.decode(): int(port) for name, port in re.findall(rb", (\w+) on [^,]+:(\d+)", match.group(2))}
        return int(match.group(1))

    def last_words(self) -> str:
        """The end of what it wrote to standard error."""
        if self._errors.closed:
            return ""
        size = self._errors.seek(0, 2)
        self._errors.seek(max(size - 4000, 0))
        return self._errors.read().decode(errors="replace").strip()

    def leave(self) -> None:
        """In a forked child: the server is the parent's, and ends with it, so its life line is not held here."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self._errors.close()
        self.process.returncode = 0  # to `subprocess`, which would warn of it: nothing to wait for

    def stop(self) -> int:
        """Ends the server, by force if it takes too long; returns its exit code. May be called again."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            code = self.process.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.process.stdout.close()
        self._errors.close()
        return code
