# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The options of `remotegpu bench`, and what they mean. Opens nothing."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from remotegpu import config, errors
from remotegpu.cli.bench.targets import PROTOCOLS, Address, Protocols

if TYPE_CHECKING:
    from remotegpu.cli.bench.inputs import Choice
    from remotegpu.cli.bench.load import Amount

DEFAULT_DURATION, DEFAULT_WARM_UP, DEFAULT_TIMEOUT = 5.0, 1.0, 60.0
CONNECT_PATIENCE = 5.0
LONGEST, MOST_SLOTS, MOST_REQUESTS = 86400.0, 1024, 10**9
_EPILOG = """The load is closed loop: each of N callers sends its next call when the last one was answered, so that a
slow server is asked less often. The latencies are what such callers saw; they do not tell what callers
that arrive at a fixed rate would have waited. Each caller has a connection of its own. One whose calls
fail pauses before its next one, from 0.05 s on, doubling up to 1 s; if no call of the warm-up is
answered, nothing is measured.

Inputs are made once, before the load: real numbers from 0 to 1, bytes from 0 to 255, wider whole numbers
0 or 1. Outputs are received; those of the Open Inference Protocol are not decoded.

exit codes: 0 every measured call was answered, 1 some failed or the server could not be asked, 2 bad usage,
130 interrupted (what was measured until then is printed)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All that was asked for."""

    address: Address
    concurrencies: tuple[int, ...]
    amount: Amount
    choice: Choice
    json: bool
    plot: Path | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `remotegpu bench`, for `parse`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("model", metavar="MODEL", help="the model's name, or NAME:VERSION")
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        help="what the server speaks: ours, or the Open Inference Protocol over gRPC (grpc://HOST:PORT) or HTTP with "
        "binary tensors (http://HOST:PORT) (default: ours for grpc://, oip for http://)",
    )
    parser.add_argument(
        "--concurrency",
        type=_concurrencies,
        default=(1,),
        metavar="N,N,...",
        help="callers at once, one measurement for each number (default: 1)",
    )
    amount = parser.add_mutually_exclusive_group()
    seconds = _number(0.0, LONGEST)
    amount.add_argument(
        "--duration",
        type=seconds,
        default=DEFAULT_DURATION,
        metavar="SECONDS",
        help="of each measurement (default: %(default)g)",
    )
    amount.add_argument("--requests", type=_whole(1, MOST_REQUESTS), default=0, metavar="N", help="calls instead")
    parser.add_argument(
        "--warm-up",
        type=_number(0.0, LONGEST, open_start=False),
        default=DEFAULT_WARM_UP,
        metavar="SECONDS",
        help="before each measurement; at least one call of each caller (default: %(default)g)",
    )
    parser.add_argument(
        "--timeout", type=seconds, default=DEFAULT_TIMEOUT, metavar="SECONDS", help="of a call (default: %(default)g)"
    )
    _add_inputs(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw throughput and latencies")


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shape",
        type=_shape,
        action="append",
        default=[],
        metavar="NAME:D1,D2",
        help="of an input whose sizes may be anything (repeatable)",
    )
    parser.add_argument(
        "--batch",
        type=_whole(1, 2**31),
        default=0,
        metavar="N",
        help="first size where it is free; with --shape, that shape's",
    )
    parser.add_argument("--seed", type=_whole(0, 2**63), default=0, help="of random inputs (default: %(default)s)")
    parser.add_argument("--input", type=Path, metavar="FILE.npz", help="inputs by name instead of random ones")


def parse(options: argparse.Namespace) -> Settings:
    """Raises ConfigurationError for options that are of no use together."""
    from remotegpu.cli.bench.inputs import Choice
    from remotegpu.cli.bench.load import Amount

    url = options.url or config.url_from(os.environ)
    tenant = config.tenant_from(os.environ) if options.tenant is None else config.parse_tenant(options.tenant)
    if options.input is not None and (options.shape or options.batch):
        why = "shapes are those of the file: give --input, or --shape and --batch"
        raise errors.ConfigurationError(setting="--input", why=why)
    model, _, version = options.model.partition(":")
    protocol: Protocols = options.protocol or ("oip" if url.startswith("http:") else "remotegpu")
    return Settings(
        Address(url, protocol, model, version, tenant, options.timeout, min(options.timeout, CONNECT_PATIENCE)),
        options.concurrency,
        Amount(options.duration, options.requests, options.warm_up),
        Choice(dict(options.shape), options.batch, options.seed, options.input),
        options.json,
        options.plot,
    )


def _number(least: float, greatest: float, *, open_start: bool = True) -> Callable[[str], float]:
    def parse_number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= greatest or (open_start and value == least):  # the first is false for NaN
            limits = f"above {least:g}, at most {greatest:g}" if open_start else f"from {least:g} to {greatest:g}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds {limits}")
        return value

    return parse_number


def _whole(least: int, greatest: int) -> Callable[[str], int]:
    def parse_whole(text: str) -> int:
        if not re.fullmatch(r"\d{1,20}", text, re.ASCII) or not least <= int(text) <= greatest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {greatest}")
        return int(text)

    return parse_whole


def _concurrencies(text: str) -> tuple[int, ...]:
    return tuple(map(_whole(1, MOST_SLOTS), text.split(",")))


def _shape(text: str) -> tuple[str, Sequence[int]]:
    name, colon, sizes = text.rpartition(":")
    if not colon or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:D1,D2, such as x:1,64")
    return name, tuple(map(_whole(0, 2**31), sizes.split(","))) if sizes else ()
