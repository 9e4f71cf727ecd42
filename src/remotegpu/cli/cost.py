# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""`remotegpu cost`: what a month of pictures costs in functions, on a shared remote GPU, in containers or on machines.

Asks no server: the prices are a table, and the rest is arithmetic."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remotegpu import errors
from remotegpu.cli import output
from remotegpu.cli.sizes import parse_size
from remotegpu.cost.workload import LIMITS, NETWORKS, Limit, Workload

if TYPE_CHECKING:
    from remotegpu.cost.prices import Prices

HELP = "compare what a month costs on Lambda, with a shared remote GPU, in containers and on machines"
PLOTS = (".png", ".svg")
EXIT_USAGE = 2
_RICH_MISSING = "rich is missing: pip install 'remotegpu[cli]', or give --json"
_RATE = Limit(1e-6, 3_800)
# Option, field, what it is a number of, help.
_NUMBERS = (
    ("--cpu-seconds", "cpu_seconds", "SECONDS", "of the function that computes by itself, for one picture"),
    ("--cpu-memory", "cpu_memory_mb", "MB", "of that function"),
    ("--cpu-init", "cpu_init_seconds", "SECONDS", "of INIT of that function, billed at each cold start"),
    ("--remote-seconds", "remote_seconds", "SECONDS", "of the function that calls the GPU server, for one picture"),
    ("--remote-memory", "remote_memory_mb", "MB", "of that function"),
    ("--remote-init", "remote_init_seconds", "SECONDS", "of INIT of that function"),
    ("--cold-starts", "cold_start_share", "SHARE", "of runs that begin with INIT, 0 to 1"),
    ("--gpus", "gpus", "N", "GPU machines that are always on, at least; more are added when they are full"),
    ("--gpu-seconds", "gpu_seconds", "SECONDS", "for which one picture keeps such a GPU busy"),
    ("--functions", "functions", "N", "functions of this load that share the GPUs, where they are shared"),
    ("--utilisation", "utilisation", "SHARE", "how busy what is always on may be in the mean, above 0, at most 1"),
    ("--spot", "spot_share", "SHARE", "of hours of GPU machines and Fargate tasks that are spot capacity, 0 to 1"),
)
# Of fields that differ from their option by more than dashes, for errors.
_OPTIONS = {field: option for option, field, _, _ in _NUMBERS} | {"images_per_month": "--images"}
_EPILOG = """What is always on is counted in whole machines, tasks or instances; its cost has steps.
The prices are list prices of one region with the day and place where each was read: see the file of --prices,
cost/prices.toml of this package by default. --json has all crossings and where the prices are from.

exit codes: 0 done, 2 bad usage, a bad price table, or an output that cannot be written."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `remotegpu cost`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    defaults = {field.name: field.default for field in fields(Workload)}
    load = parser.add_mutually_exclusive_group()
    images = _number(LIMITS["images_per_month"])
    default = defaults["images_per_month"]
    text = "pictures in a month (default: %(default)g)"
    load.add_argument("--images", type=images, default=default, metavar="N", help=text)
    load.add_argument("--rate", type=_number(_RATE), metavar="N", help="pictures per second in the mean, instead")
    for option, field, unit, text in _NUMBERS:
        shown = f"{text} (default: %(default)g)"
        parser.add_argument(
            option, dest=field, type=_number(LIMITS[field]), default=defaults[field], metavar=unit, help=shown
        )
    text = "the machine with the GPU, of the price table (default: %(default)s)"
    parser.add_argument("--gpu", default=defaults["gpu"], metavar="TYPE", help=text)
    text = "of a picture, which go to the GPU server (default: %(default)s)"
    parser.add_argument("--image-bytes", default="256KiB", metavar="SIZE", help=text)
    text = "from the function to the GPU server: in one VPC and zone, through a NAT gateway, or out of AWS directly"
    parser.add_argument("--network", choices=NETWORKS, default=defaults["network"], help=f"{text} (default: vpc)")
    parser.add_argument("--no-free-tier", action="store_true", help="the account's free amounts are used up elsewhere")
    parser.add_argument("--prices", type=Path, metavar="FILE", help="another price table, of the same form")
    parser.add_argument("--json", action="store_true", help="print JSON")
    text = "draw cost against pictures per month, with the crossings"
    parser.add_argument("--plot", type=Path, metavar="FILE.png|svg", help=text)


def run(options: argparse.Namespace) -> int:
    """Computes and prints. Exit code 0, or 2 where rich is missing. Raises ConfigurationError and InvalidInput."""
    from remotegpu.cost import prices

    if options.plot is not None:
        from remotegpu.cli import pictures

        pictures.check(options.plot, PLOTS)
    if not options.json and not _rich():
        output.complain(_RICH_MISSING)
        return EXIT_USAGE
    table = prices.packaged() if options.prices is None else prices.load(options.prices)
    try:
        _compare(_workload(options), table, options)
    except errors.InvalidInput as error:
        name = _OPTIONS.get(error.field, "--" + error.field.replace("_", "-"))
        raise errors.InvalidInput(field=name, limit=error.limit, given=error.given) from None
    return 0


def _workload(options: argparse.Namespace) -> Workload:
    from remotegpu.cost.formulas import SECONDS_PER_MONTH

    given: dict[str, Any] = {field: getattr(options, field) for _, field, _, _ in _NUMBERS}
    given["images_per_month"] = options.images if options.rate is None else options.rate * SECONDS_PER_MONTH
    given["gpus"], given["functions"] = int(options.gpus), int(options.functions)
    given["image_bytes"] = parse_size(options.image_bytes, "--image-bytes")
    return Workload(gpu=options.gpu, network=options.network, free_tier=not options.no_free_tier, **given)


def _compare(workload: Workload, table: Prices, options: argparse.Namespace) -> None:
    from remotegpu.cli import cost_report

    found = cost_report.compared(workload, table)
    if options.json:
        output.write(json.dumps(cost_report.fields(found)))
    else:
        from remotegpu.cli import tables

        if sys.stdout is None:
            raise errors.ConfigurationError(setting=output.SETTING, why="it is closed")
        width = os.get_terminal_size(sys.stdout.fileno()).columns or None if sys.stdout.isatty() else None
        text = "\n".join(tables.painted(cost_report.lines(found, width), tables.colours(sys.stdout)))
        encoding = sys.stdout.encoding or "utf-8"
        output.write(tables.encoded(text, encoding).decode(encoding))
    if options.plot is not None:
        from remotegpu.cli import cost_plot

        cost_plot.draw(found, options.plot)


def _rich() -> bool:
    try:
        from remotegpu.cli import tables  # noqa: F401 - whether it is there
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        return False
    return True


def _number(limit: Limit) -> Callable[[str], float]:
    def parse_number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not limit.holds(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed: {limit}")
        return value

    return parse_number
