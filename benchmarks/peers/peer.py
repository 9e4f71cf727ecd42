# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Peers from our side: an environment for each, its server as a process, and its client as another that is asked."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

from benchmarks.peers.caller import START_PATIENCE

ROOT = Path(__file__).resolve().parents[2]
_STOP_PATIENCE = 10.0
_ANSWER_PATIENCE = 300.0
_WORDS = 1500

What = Literal["tiny", "large"]


class NotRun(Exception):
    """Why there is no number of a peer."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A server that can be measured. `module` runs in its environment; `requirements` are what pip installs there;
    `floor`: it has no models, so its tiny call is an echo of as many bytes. `large_calls`: how many large calls a round
    has. `home`: whose environment it uses, its own if empty."""

    name: str
    module: str
    requirements: tuple[str, ...]
    title: str
    floor: bool = False
    large_calls: int = 7
    home: str = ""

    def install(self, folder: Path) -> Path:
        """The interpreter of the peer's environment under `folder`, made if these requirements were not installed there
        before. Raises NotRun."""
        home = folder / (self.home or self.name)
        python, stamp = home / "bin" / "python", home / "installed.txt"
        wanted = "\n".join(self.requirements)
        if stamp.exists() and stamp.read_text() == wanted:
            return python
        home.parent.mkdir(parents=True, exist_ok=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *self.requirements]
        for command in ([sys.executable, "-m", "venv", str(home)], install):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise NotRun(f"not installed: {done.stderr[-_WORDS:].strip()}")
        stamp.write_text(wanted)
        return python

    def start(self, python: Path, models: Path) -> Running:
        """Its server and its client, ready to be asked. Raises NotRun."""
        port = free_port()
        running = Running(self.name)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": running.folder}
        module = [str(python), "-m", f"benchmarks.peers.{self.module}"]
        try:
            running.serve([*module, "serve", str(port), str(models)], environment)
            running.connect([*module, "call", str(port)], environment)
        except BaseException:
            running.stop()
            raise
        return running


class Running:
    """A server and a client of it. Use it as a context, or `stop` it."""

    def __init__(self, name: str) -> None:
        self.name = name
        # For what servers leave behind. The name is short, since some put sockets there.
        self._folder = tempfile.TemporaryDirectory(prefix="peer-", dir="/tmp", ignore_cleanup_errors=True)
        self.folder = self._folder.name
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this object
        self._server: subprocess.Popen[bytes] | None = None
        self._client: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def serve(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Starts the server, in a process group of its own: many start others."""
        self._server = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._words,
            stderr=self._words,
            start_new_session=True,
        )

    def connect(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Starts the client, and waits until it has had right answers. Raises NotRun."""
        self._client = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            start_new_session=True,
        )
        if self._line(START_PATIENCE + _STOP_PATIENCE) != {"ready": True}:
            raise NotRun(f"not ready: {self.last_words()}")

    def measure(self, what: What, calls: int) -> float:
        """The median of so many calls, in seconds. Raises NotRun."""
        assert self._client is not None
        assert self._client.stdin is not None
        try:
            self._client.stdin.write(json.dumps({"what": what, "calls": calls}).encode() + b"\n")
            self._client.stdin.flush()
        except BrokenPipeError:
            raise NotRun(f"its client has ended: {self.last_words()}") from None
        found = self._line(_ANSWER_PATIENCE)
        if "seconds" not in found:
            raise NotRun(str(found.get("error")))
        times: list[float] = found["seconds"]
        return statistics.median(times)

    def stop(self) -> None:
        """Ends client and server with all that they have started."""
        for process in (self._client, self._server):
            if process is not None:
                _end(process)
        self._words.close()
        self._folder.cleanup()

    def last_words(self) -> str:
        """The end of what both wrote to standard error."""
        size = self._words.seek(0, 2)
        self._words.seek(max(size - _WORDS, 0))
        return self._words.read().decode(errors="replace").strip()

    def _line(self, patience: float) -> dict[str, Any]:
        """The client's next line of JSON; other lines are its library's. Raises NotRun."""
        assert self._client is not None
        assert self._client.stdout is not None
        until = time.monotonic() + patience
        text = b""
        while time.monotonic() < until:
            readable, _, _ = select.select([self._client.stdout], [], [], 0.5)
            if self._server is not None and self._server.poll() is not None:
                raise NotRun(f"its server has ended with {self._server.returncode}: {self.last_words()}")
            if not readable:
                continue
            piece = os.read(self._client.stdout.fileno(), 65536)
            if not piece:
                raise NotRun(f"its client has ended: {self.last_words()}")
            text += piece
            while b"\n" in text:
                line, _, text = text.partition(b"\n")
                if line.startswith(b"{"):
                    found: dict[str, Any] = json.loads(line)
                    return found
        raise NotRun(f"no answer within {patience:g} s: {self.last_words()}")


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks the whole group to end, and then makes it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_PATIENCE)
    streams: tuple[IO[bytes] | None, ...] = (process.stdin, process.stdout)
    for stream in streams:
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
