# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What an orchestrator is told: by options of the command, or by environment variables. Pure.

An option wins over its variable, which wins over the default."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from remotegpu import errors
from remotegpu.orchestrator.results import Target

PREFIX = "REMOTEGPU_ORCHESTRATE_"
KINDS = ("lambda", "handler", "model")
# What SQS allows. Seconds.
LONGEST_WAIT, LONGEST_VISIBILITY = 20, 43200
# A shorter one could not be extended in time. Seconds.
LEAST_VISIBILITY = 3
# Waiting for a lease and running must end before SQS takes the message back after 12 hours. Seconds.
LONGEST_TIMES = 11 * 3600.0


@dataclass(frozen=True, slots=True)
class Option:
    """One setting: its name in code, its default as text (None: it must be given), and its line of help."""

    name: str
    default: str | None
    metavar: str
    help: str

    @property
    def flag(self) -> str:
        """As an option of the command."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """As an environment variable."""
        return PREFIX + self.name.upper()


OPTIONS = (
    Option("queue", None, "NAME|URL", "the SQS queue that S3 tells of new objects"),
    Option(
        "output",
        None,
        "s3://BUCKET/PREFIX",
        "where results go, as PREFIX/{key}.json (.npz for a model); or a pattern for the whole key, with {bucket}, "
        "{key} and {stem} (the key without its ending), such as s3://BUCKET/out/{stem}.png",
    ),
    Option(
        "invoke",
        None,
        "KIND:WHAT",
        "what is run for each object, under a lease of its own: lambda:NAME (a function, invoked and waited for), "
        "handler:MODULE:FUNCTION (called here, with an event and a context as in Lambda) or model:NAME[:VERSION] "
        "(the object, a JPEG or PNG or .npy, is the input of a model)",
    ),
    Option("gpus", "1", "N", "devices for each job"),
    Option("in_flight", "8", "N", "jobs that run at the same time, at most"),
    Option(
        "visibility",
        "60",
        "SECONDS",
        "for how long a message is hidden from other receivers, from its receipt; extended at a third of it for as "
        "long as it is held, so it bounds only how late another one takes over from an orchestrator that died",
    ),
    Option(
        "wait",
        "10",
        "SECONDS",
        "how long one request for a message waits for one (1 to 20: SQS's long poll); ending may take as long",
    ),
    Option(
        "reservation_timeout",
        "3600",
        "SECONDS",
        "how long a job waits in the scheduler's queue for its devices; then its message is given back, which counts "
        "as a delivery",
    ),
    Option("result_timeout", "300", "SECONDS", "how long a job may run; then its message is given back"),
    Option("empty_timeout", "0", "SECONDS", "end when the queue was empty and nothing ran for so long; 0: never"),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """Checked settings: see `OPTIONS`. Times in seconds."""

    queue: str
    target: Target
    kind: str
    what: str
    gpus: int
    in_flight: int
    visibility: int
    wait: int
    reservation_timeout: float
    result_timeout: float
    empty_timeout: float

    @property
    def invoke(self) -> str:
        """What is run, as it was given."""
        return f"{self.kind}:{self.what}"


def parse(given: Mapping[str, str | None], environment: Mapping[str, str], *, queue: bool = True) -> Settings:
    """From options (by name; None: not given) and variables. `queue`: whether there must be one. Raises
    ConfigurationError that names the option or the variable."""
    texts, names = {}, {}
    for option in OPTIONS:
        text = given.get(option.name)
        names[option.name] = option.variable if text is None else option.flag
        text = environment.get(option.variable) or option.default if text is None else text
        if text is None and (queue or option.name != "queue"):
            why = f"it is missing: give {option.flag} {option.metavar}, or set {option.variable}"
            raise errors.ConfigurationError(setting=option.flag, why=why)
        texts[option.name] = text or ""
    reader = _Reader(texts, names)
    kind, what = reader.invoked()
    ending = ".npz" if kind == "model" else ".json"
    settings = Settings(
        queue=texts["queue"],
        target=Target.parse(texts["output"], names["output"], ending),
        kind=kind,
        what=what,
        gpus=reader.whole("gpus", 1, 1024),
        in_flight=reader.whole("in_flight", 1, 512),
        visibility=reader.whole("visibility", LEAST_VISIBILITY, LONGEST_VISIBILITY),
        wait=reader.whole("wait", 1, LONGEST_WAIT),
        reservation_timeout=reader.seconds("reservation_timeout", 0.001),
        result_timeout=reader.seconds("result_timeout", 0.001),
        empty_timeout=reader.seconds("empty_timeout", 0.0),
    )
    if settings.reservation_timeout + settings.result_timeout > LONGEST_TIMES:
        why = f"with the result timeout it must stay below {LONGEST_TIMES:.0f} s: SQS lends a message for 12 hours"
        raise errors.ConfigurationError(setting=names["reservation_timeout"], why=why)
    return settings


@dataclass(frozen=True, slots=True)
class _Reader:
    texts: Mapping[str, str]
    names: Mapping[str, str]

    def _refused(self, name: str, allowed: str) -> errors.ConfigurationError:
        return errors.ConfigurationError(setting=self.names[name], why=f"{self.texts[name]!r} is not {allowed}")

    def whole(self, name: str, least: int, most: int) -> int:
        text = self.texts[name]
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise self._refused(name, f"a whole number from {least} to {most}")
        return int(text)

    def seconds(self, name: str, least: float) -> float:
        try:
            value = float(self.texts[name])
        except ValueError:
            value = -1.0
        if not least <= value <= LONGEST_TIMES:  # false for NaN
            raise self._refused(name, f"a number of seconds from {least:g} to {LONGEST_TIMES:g}")
        return value

    def invoked(self) -> tuple[str, str]:
        kind, _, what = self.texts["invoke"].partition(":")
        if kind not in KINDS or not what or (kind == "handler" and not all(what.rpartition(":"))):
            raise self._refused("invoke", "lambda:NAME, handler:MODULE:FUNCTION or model:NAME[:VERSION]")
        return kind, what
