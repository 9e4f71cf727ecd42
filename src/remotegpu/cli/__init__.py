# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""`remotegpu`: the command line of the client. Its libraries are loaded when a command runs."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from remotegpu import config, errors, security
from remotegpu._version import __version__
from remotegpu.cli import cost, leases, models, orchestrate, output, top
from remotegpu.cli.bench import command as bench

if TYPE_CHECKING:
    from remotegpu.client import Client

# For calls of the command line, and for connecting: a person waits. Seconds.
CALL_PATIENCE = 10.0
CONNECT_PATIENCE = 1.0
EXIT_INTERRUPTED = 130
_EXITS = """exit codes:
  0    done
  1    the server could not be asked
  2    impossible, bad usage, a bad setting, or an output that cannot be written
  75   busy: try again later
  130  interrupted (but 0 for top and orchestrate, which are left that way)"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="remotegpu",
        description="Talks to a remotegpu server.",
        epilog=_EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"remotegpu {__version__}")
    server = argparse.ArgumentParser(add_help=False)
    server.add_argument("--url", help=f"such as grpc://127.0.0.1:50051 (default: ${config.URL_VARIABLE})")
    server.add_argument("--tenant", help=f"for whom to act (default: ${config.TENANT_VARIABLE})")
    commands = parser.add_subparsers(dest="command", required=True)
    shown = leases.Command("show devices, leases and queue", top.add_arguments, top.run)
    listed = leases.Command("show or change which models are served", models.add_arguments, models.run)
    for name, command in {**leases.COMMANDS, "models": listed, "top": shown}.items():
        added = commands.add_parser(name, parents=[server], help=command.help, description=command.help)
        command.add_arguments(added)
        added.set_defaults(run=command.run)
    bench.add_arguments(commands.add_parser("bench", parents=[server], help=bench.HELP, description=bench.HELP))
    worked = commands.add_parser("orchestrate", parents=[server], help=orchestrate.HELP, description=orchestrate.HELP)
    orchestrate.add_arguments(worked)
    cost.add_arguments(commands.add_parser("cost", help=cost.HELP, description=cost.HELP))
    return parser


def _client(options: argparse.Namespace) -> Client:
    url = options.url or config.url_from(os.environ)
    endpoint = config.parse_url(url, "--url" if options.url else config.URL_VARIABLE)
    if endpoint.local and options.command == "alloc":
        raise errors.ConfigurationError(setting="local:", why="a lease there would end with this command")
    if options.tenant is None:
        tenant = config.tenant_from(os.environ)
    else:
        tenant = config.parse_tenant(options.tenant, "--tenant")
    from remotegpu.client import Client

    # A lease of the command line is not this process's: see `leases`.
    protection = security.from_env(os.environ, url)
    return Client(
        url, timeout=CALL_PATIENCE, tenant=tenant, connect_timeout=CONNECT_PATIENCE, renewal=False, **protection
    )


def exit_code(error: errors.Error) -> int:
    """Of a command that failed with it."""
    if isinstance(error, errors.Busy):
        return leases.EXIT_BUSY
    if isinstance(error, (errors.LeaseError, errors.InvalidInput, errors.ConfigurationError)):
        return 2
    return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. Exit codes: 0 done, 1 the server could not be asked, 2 impossible or bad usage or a bad setting
    or no output, 75 busy, 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "bench":  # of connections of its own, also to servers of other kinds
            return bench.run(options)
        if options.command == "orchestrate":  # of connections of its own too
            return orchestrate.run(options)
        if options.command == "cost":  # of no server
            return cost.run(options)
        with _client(options) as client:
            code: int = options.run(client, options)
            return code
    except errors.Error as error:
        if options.json:
            _print_error(error)
        output.complain(str(error))
        return exit_code(error)
    except KeyboardInterrupt:
        # `top` is left that way; of the others, a call under way was cancelled, and its place in the queue is free.
        return 0 if options.command == "top" else EXIT_INTERRUPTED


def _print_error(error: errors.Error) -> None:
    try:
        output.write(json.dumps(leases.error_fields(error)))
    except errors.ConfigurationError:  # the first error may be this one, and is told on standard error
        pass
