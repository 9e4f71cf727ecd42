# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""`remotegpu bench` from its options to its output."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

from remotegpu import errors
from remotegpu._version import __version__
from remotegpu.cli import output
from remotegpu.cli.bench import settings

if TYPE_CHECKING:
    from remotegpu.cli.bench.inputs import Array, Tensor
    from remotegpu.cli.bench.outcome import Level
    from remotegpu.cli.bench.report import Report
    from remotegpu.cli.bench.targets import Address, Target

HELP = "put load on a model, and tell throughput and latencies"
EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
_RICH_MISSING = "rich is missing: pip install 'remotegpu[cli]', or give --json"
_LIBRARIES = ("grpcio", "protobuf", "numpy")

add_arguments = settings.add_arguments


def run(options: argparse.Namespace) -> int:
    """Measures and prints. Exit codes: 0 every measured call was answered, 1 some were not, or none of a warm-up, 2
    rich is missing, 130 interrupted. Raises what `Target.tensors` and `inputs.arrays` raise, ConfigurationError for a
    server that speaks another protocol."""
    asked = settings.parse(options)
    if asked.plot is not None:
        from remotegpu.cli.bench import plot

        plot.check(asked.plot)
    if not asked.json:
        try:
            from remotegpu.cli import tables  # noqa: F401 - whether it is there
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "rich":
                raise
            output.complain(_RICH_MISSING)
            return EXIT_USAGE
    report = _measure(asked)
    hopeless = report.levels[-1].hopeless
    if asked.json or not hopeless or len(report.levels) > 1:
        _print(report)
    if hopeless:
        output.complain(f"{asked.address.model} at {asked.address.url}: {hopeless}")
        return EXIT_FAILED
    if asked.plot is not None:
        title = f"{asked.address.model} at {asked.address.url} ({asked.address.protocol})"
        plot.draw(report.levels, title, asked.plot)
    if report.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_FAILED if report.failed else 0


def _measure(asked: settings.Settings) -> Report:
    from remotegpu.cli.bench import inputs, targets
    from remotegpu.cli.bench.report import Report

    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    first = targets.connect(asked.address)
    try:
        arrays = inputs.arrays(_tensors(first, asked.address), asked.choice)
        server = _server(first)
    finally:
        first.close()
    levels: list[Level] = []
    for concurrency in asked.concurrencies:
        level = _level(asked, arrays, concurrency)
        levels.append(level)
        if level.interrupted or level.hopeless:
            break
    return Report(asked, started, _versions(), server, arrays, levels)


def _level(asked: settings.Settings, arrays: dict[str, Array], concurrency: int) -> Level:
    from remotegpu.cli.bench import load, targets

    with ExitStack() as connections, _progress(concurrency, asked.json) as progress:
        calls: list[load.Call] = []
        for _ in range(concurrency):
            connection = connections.enter_context(closing(targets.connect(asked.address)))
            calls.append(connection.call(arrays))
        return load.run(calls, asked.amount, progress)


def _tensors(target: Target, address: Address) -> list[Tensor]:
    from remotegpu.cli.bench import mismatch

    try:
        return target.tensors()
    except errors.Error as error:
        why = mismatch.explained(error, address)
        if not why:
            raise
        raise errors.ConfigurationError(setting="--url", why=why) from None


def _server(target: Target) -> dict[str, Any]:
    """What the server says of itself; one that answers no such question can be measured all the same."""
    try:
        return target.server()
    except (errors.ProtocolError, errors.UnknownRemoteError) as error:
        return {"unknown": str(error)}


def _versions() -> dict[str, str]:
    import platform
    from importlib import metadata

    libraries = {name: metadata.version(name) for name in _LIBRARIES}
    return {
        "remotegpu": __version__,
        "python": platform.python_version(),
        **libraries,
        "platform": platform.platform(),
        "processors": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
    }


def _print(report: Report) -> None:
    from remotegpu.cli.bench.report import fields, lines

    if report.settings.json:
        output.write(json.dumps(fields(report)))
        return
    from remotegpu.cli import tables

    if sys.stdout is None:
        raise errors.ConfigurationError(setting=output.SETTING, why="it is closed")
    width = os.get_terminal_size(sys.stdout.fileno()).columns or None if sys.stdout.isatty() else None
    encoding = sys.stdout.encoding or "utf-8"
    text = "\n".join(tables.painted(lines(report, width), tables.colours(sys.stdout)))
    output.write(tables.encoded(text, encoding).decode(encoding))


@contextmanager
def _progress(concurrency: int, quiet: bool) -> Iterator[Callable[[float, float, int], None]]:
    """A line on the terminal of standard error that is written again and again, and taken away at the end."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield lambda share, rate, failed: None
        return
    from remotegpu.cli import tables

    stream, encoding = sys.stderr, sys.stderr.encoding or "utf-8"

    def show(share: float, rate: float, failed: int) -> None:
        state = f"{tables.bar(share)} {rate:.1f} calls/s" if share else "warming up"
        line = tables.line(f"{concurrency} callers: {state}, {failed} errors")
        text = tables.cut(line, max(os.get_terminal_size(stream.fileno()).columns - 1, 1)).plain
        stream.write("\r" + tables.encoded(text, encoding).decode(encoding) + "\x1b[K")
        stream.flush()

    try:
        yield show
    finally:
        stream.write("\r\x1b[K")
        stream.flush()
