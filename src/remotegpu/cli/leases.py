# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""`remotegpu alloc`, `renew`, `dealloc`, `explain` and `set`: reservations for people and for shell scripts.

A lease of the command line outlives the command: it ends by its TTL unless it is used, renewed or deallocated.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from remotegpu import config, errors
from remotegpu.cli import output
from remotegpu.cli.sizes import parse_size

if TYPE_CHECKING:
    from remotegpu.answers import Explanation
    from remotegpu.client import Client
    from remotegpu.lease import Lease
    from remotegpu.reservation import ReservationFields
    from remotegpu.v1 import lease_pb2

DEFAULT_TIMEOUT = 60.0
# Long enough for a person to type the next command. Seconds.
DEFAULT_TTL = 300.0
# Characters of a lease's name in `remotegpu top`.
SHORT_ID = 8
_MOMENT_MS = 100
EXIT_BUSY = 75  # EX_TEMPFAIL of sysexits.h
EXIT_IMPOSSIBLE = 2


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand: its line of help, what adds its options, and what runs it and gives the exit code."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Client, argparse.Namespace], int]


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_lease(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lease", help="the lease's key; the eight characters that `remotegpu top` shows are not enough")
    _add_json(parser)


def _add_ended(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lease", help="the lease's key, or the eight characters that `remotegpu top` shows")
    _add_json(parser)


def _add_request(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-g", "--gpus", type=int, default=1, help="devices, all or none (default: 1)")
    parser.add_argument("--memory", default="0", metavar="SIZE", help="on each device, such as 4GiB; also the limit")
    parser.add_argument("--exclusive", action="store_true", help="take the devices whole")
    parser.add_argument("--priority", type=int, default=0, metavar="0-9", help="a higher one is served first")
    parser.add_argument("--model", default="", metavar="NAME", help="what will be run: kept loaded for the lease")
    parser.add_argument(
        "--ttl",
        type=float,
        default=DEFAULT_TTL,
        metavar="SECONDS",
        help="the lease ends when it was not used for so long (default: %(default)g)",
    )
    parser.add_argument("--hard-ttl", type=float, metavar="SECONDS", help="it ends so long after the grant")


def _add_alloc(parser: argparse.ArgumentParser) -> None:
    _add_request(parser)
    parser.add_argument(
        "--timeout",
        type=float,
        default=DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help="how long to wait in the queue; 0 answers at once (default: %(default)g)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--env", action="store_true", help="print lines for a shell to evaluate")


def _add_explain(parser: argparse.ArgumentParser) -> None:
    _add_request(parser)
    _add_json(parser)


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "changes",
        nargs="*",
        metavar="NAME=VALUE",
        help="policy=NAME, slots=N (leases that may share a device), queue=N (requests that may wait); "
        "without any, prints what holds",
    )
    _add_json(parser)


def _fields(options: argparse.Namespace) -> ReservationFields:
    return {
        "gpus": options.gpus,
        "memory": parse_size(options.memory, "--memory"),
        "exclusive": options.exclusive,
        "idle_ttl": options.ttl,
        "hard_ttl": options.hard_ttl,
        "priority": options.priority,
        "model": options.model,
    }


def alloc(client: Client, options: argparse.Namespace) -> int:
    """Allocates a lease and prints it; gives it back if that fails, since nobody would know it. Raises what
    `Client.alloc` raises, and ConfigurationError if it cannot be printed."""
    lease = client.alloc(timeout=options.timeout, **_fields(options))
    if options.json:
        text = json.dumps(lease_fields(lease))
    else:
        text = exports(lease.id, client.url, client.tenant) if options.env else lease_text(lease)
    try:
        why = "" if output.write(text) else "nobody reads it"
    except errors.ConfigurationError as error:
        why = error.why
    if why:
        given_back = client.dealloc(lease.id, tolerant=True)
        end = "was given back" if given_back else f"could not be given back: it ends after {lease.idle_ttl:g} s"
        raise errors.ConfigurationError(setting=output.SETTING, why=f"{why}, so the lease {lease.short_id} {end}")
    return 0


def renew(client: Client, options: argparse.Namespace) -> int:
    """Renews a lease and prints how long it has."""
    try:
        grant = client.renewed(options.lease)
    except errors.LeaseUnknown:
        if len(options.lease) == SHORT_ID:
            limit = "the lease's whole key; the eight characters that `remotegpu top` shows are not enough"
            raise errors.InvalidInput(field="lease", limit=limit, given=options.lease) from None
        raise
    left, ending = time_left(grant)
    if options.json:
        output.write(json.dumps({"ttl_left": left, "ending": ending}))
    else:
        output.write(renewed_text(left, ending))
    return 0


def dealloc(client: Client, options: argparse.Namespace) -> int:
    """Ends a lease; one that had ended already is no error."""
    ended = client.dealloc(options.lease)
    if options.json:
        output.write(json.dumps({"ended_now": ended}))
    else:
        output.write("deallocated" if ended else "it had ended already")
    return 0


def set_(client: Client, options: argparse.Namespace) -> int:
    """Changes settings and prints what holds."""
    settings = asdict(client.set(**changes(options.changes)))
    text = "\n".join(f"{name}={value}" for name, value in settings.items())
    output.write(json.dumps(settings) if options.json else text)
    return 0


def explain(client: Client, options: argparse.Namespace) -> int:
    """Prints what `alloc --timeout 0` would be answered; the exit code is that of such an `alloc`."""
    explanation = client.explain(**_fields(options))
    output.write(json.dumps(asdict(explanation)) if options.json else explanation_text(explanation))
    return {"granted": 0, "busy": EXIT_BUSY}.get(explanation.verdict, EXIT_IMPOSSIBLE)


COMMANDS: Mapping[str, Command] = {
    "alloc": Command("reserve devices", _add_alloc, alloc),
    "renew": Command("restart a lease's idle clock", _add_lease, renew),
    "dealloc": Command("give a lease back", _add_ended, dealloc),
    "explain": Command("tell whether a request would be granted, and why not", _add_explain, explain),
    "set": Command("show or change the scheduler's settings", _add_set, set_),
}


# What is printed. Pure.


def lease_fields(lease: Lease) -> dict[str, Any]:
    """A lease as JSON has it."""
    return {
        "lease": lease.id,
        "id": lease.short_id,
        "devices": [{"index": d.index, "name": d.name, "uuid": d.uuid} for d in lease.devices],
        "idle_ttl": lease.idle_ttl,
        "hard_ttl": lease.hard_ttl,
        "fence": str(lease.fence),  # 64 bits, which not every reader of JSON has for a number
    }


def lease_text(lease: Lease) -> str:
    """A lease for a person."""
    devices = [f"  device {device.index}: {device.name}, {device.uuid}" for device in lease.devices]
    cap = "" if lease.hard_ttl is None else f", {lease.hard_ttl:g} s in all at most"
    end = f"  ttl {lease.idle_ttl:g} s from its last use{cap}, fence {lease.fence}"
    return "\n".join((f"lease {lease.id}", *devices, end))


def time_left(grant: lease_pb2.LeaseGrant) -> tuple[float | None, str]:
    """The seconds until a lease that was just renewed ends if nothing more happens, and by what, in the words of
    `errors.LeaseExpired`: "idle", "hard_cap", or None and "" if it would not end."""
    left, idle = grant.ttl_left_ms, grant.idle_ttl_ms
    if not left:
        return None, ""
    # What passed on the server between the renewal and the answer is no sign of another end.
    by_idle = not grant.hard_ttl_ms or idle - _MOMENT_MS <= left <= idle
    return left / 1000, "idle" if by_idle else "hard_cap"


def renewed_text(left: float | None, ending: str) -> str:
    """The same for a person."""
    if left is None:
        return "renewed"
    return f"renewed: it ends in {left:g} s" + (" unless it is used" if ending == "idle" else ", used or not")


def exports(lease: str, url: str, tenant: str) -> str:
    """Lines with which a shell hands a lease on. Also the tenant that is the default one: the shell may have another in
    its environment, whose lease this is not."""
    variables = {config.LEASE_VARIABLE: lease, config.URL_VARIABLE: url, config.TENANT_VARIABLE: tenant}
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())


def error_fields(error: errors.Error) -> dict[str, Any]:
    """An error as JSON has it: its class, its sentence, its fields; those of a refusal that are unknown are null."""
    told: dict[str, Any] = {"error": type(error).__name__, "message": str(error), **error.fields()}
    if isinstance(error, errors.Busy):
        told["estimated_wait"] = error.estimated_wait
        told["free"] = {what: told.pop(f"free_{what}") for what in ("gpus", "slots", "memory")}
    return told


def explanation_text(explanation: Explanation) -> str:
    """An explanation for a person."""
    if explanation.verdict == "granted":
        granted = f"would be granted now on devices {', '.join(map(str, explanation.devices))}"
        lines = [f"{granted}, but calls would fail: {explanation.why}" if explanation.why else granted]
    else:
        lines = [explanation.why or explanation.verdict]
    for device in explanation.verdicts:
        lines.append(f"  device {device.index}: {device.name}, {'fits' if device.fits else device.why}")
    return "\n".join(lines)


def changes(words: Sequence[str]) -> dict[str, Any]:
    """The arguments of `Client.set` in words such as "slots=8". Raises ConfigurationError for others."""
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in {"policy", "slots", "queue"} or not equals:
            why = "write policy=NAME, slots=NUMBER or queue=NUMBER"
            raise errors.ConfigurationError(setting=repr(word), why=why)
        if name in found:
            raise errors.ConfigurationError(setting=name, why="it is given twice")
        if name != "policy" and not (value.isascii() and value.isdigit()):
            raise errors.ConfigurationError(setting=name, why=f"{value!r} is not a whole number")
        found[name] = value if name == "policy" else int(value)
    return found
