# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""`remotegpu orchestrate`: a result for each object that S3 announces in a queue, on leased devices."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from remotegpu import config, errors
from remotegpu.cli import output
from remotegpu.orchestrator import settings

if TYPE_CHECKING:
    from remotegpu.aws.services import Services
    from remotegpu.orchestrator.runner import Runner

HELP = "run a function or a model for each object that S3 announces in an SQS queue"
EPILOG = f"""Each message leads to a lease, the run, and the result in S3; then it is deleted. When anything goes wrong
it is delivered again; give the queue a redrive policy for what never succeeds. An object whose result is there already
takes no lease. Objects and results need the rights s3:GetObject (GetObjectVersion too, where buckets keep versions),
s3:PutObject and s3:ListBucket; the queue sqs:ReceiveMessage, ChangeMessageVisibility, DeleteMessage, GetQueueUrl and
GetQueueAttributes; a function that is invoked lambda:InvokeFunction.

orchGPU's intermediate bucket has no counterpart: a function is given names (of the object, the lease, the place for the
result), not copies, and is invoked without an upload. Its other flags are the options above; the scheduler's host and
port are --url. On a terminal a bar is shown (with rich), elsewhere one line of JSON for each job, from which CloudWatch
takes metrics. SIGTERM and SIGINT give back what is held; the second one ends at once. Each option has a variable, as in
{settings.PREFIX}RESULT_TIMEOUT for --result-timeout."""
EXIT_KILLED = 130
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.epilog = EPILOG
    for option in settings.OPTIONS:
        default = "" if option.default is None else f" (default: {option.default})"
        parser.add_argument(option.flag, metavar=option.metavar, help=option.help + default)
    parser.add_argument("--json", action="store_true", help="print JSON on a terminal too")


def run(options: argparse.Namespace) -> int:
    """Works until the queue was empty for long enough, or a signal. Raises ConfigurationError, ServiceError if the
    queue cannot be found."""
    given = {option.name: getattr(options, option.name) for option in settings.OPTIONS}
    chosen = settings.parse(given, os.environ)
    _hand_on(options)
    from remotegpu.aws.services import Services

    services = Services(connections=2 * chosen.in_flight + 4, function_patience=chosen.result_timeout)
    with closing(services):
        return _orchestrate(options, chosen, services)


def _hand_on(options: argparse.Namespace) -> None:
    """Functions of this process find the server where its clients do."""
    if options.url:
        os.environ[config.URL_VARIABLE] = options.url
    if options.tenant is not None:
        os.environ[config.TENANT_VARIABLE] = options.tenant
    url = config.url_from(os.environ)
    if config.parse_url(url, "--url" if options.url else config.URL_VARIABLE).local:
        raise errors.ConfigurationError(setting="local:", why="give the URL of a server; this command starts none")


def _orchestrate(options: argparse.Namespace, chosen: settings.Settings, services: Services) -> int:
    from remotegpu.client import Client
    from remotegpu.orchestrator.course import Course
    from remotegpu.orchestrator.invokers import invoker_of
    from remotegpu.orchestrator.progress import Lines
    from remotegpu.orchestrator.runner import Edges, Runner

    queue = services.queue(chosen.queue)
    if queue.most_deliveries is None:
        output.complain(
            f"queue {queue.name} has no redrive policy: a message that always fails comes back for as long as the "
            "queue keeps it; give it a dead-letter queue"
        )
    with Client.from_env() as line, Client.from_env() as client:
        course = Course(services, invoker_of(chosen, services, client), chosen.target)
        if not options.json and sys.stderr is not None and sys.stderr.isatty() and find_spec("rich") is not None:
            from remotegpu.cli.job_bar import Bar

            bar = Bar(sys.stderr, lambda: services.backlog(queue), lambda: runner.busy)
            runner = Runner(chosen, Edges(services, queue, line, client, course, bar))
            with bar:
                return _until_the_end(runner)
        lines = Lines(queue.name, chosen.invoke, output.write, output.complain)
        return _until_the_end(Runner(chosen, Edges(services, queue, line, client, course, lines)))


def _until_the_end(runner: Runner) -> int:
    with _signals(runner.stop):
        runner.run()
    return 0


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """The first signal has it give back what it holds; the second one ends the process.

    A thread hears of them by the interpreter's wake-up descriptor: a handler in Python would wait for the main thread,
    which a signal does not wake if the kernel gave it to another one."""
    heard, told = socket.socketpair()
    told.setblocking(False)
    before = {number: signal.signal(number, lambda number, frame: None) for number in _SIGNALS}
    woken = signal.set_wakeup_fd(told.fileno())
    thread = threading.Thread(target=_obey, args=(heard, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        told.close()
        thread.join()
        heard.close()


def _obey(heard: socket.socket, stop: Callable[[], None]) -> None:
    came = False
    while number := heard.recv(1):
        if number[0] not in _SIGNALS:
            continue
        if came:
            os._exit(EXIT_KILLED)
        came = True
        stop()
