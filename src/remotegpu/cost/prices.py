# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The table of prices: `prices.toml` of this package, or a file of the same form with other numbers."""

from __future__ import annotations

import datetime
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

from remotegpu import errors

SETTING = "--prices"
ORIGINS = ("aws", "second hand", "memory")
# A price per request taken for one per million was the annex's error, so the unit is part of the table.
UNITS: Mapping[str, str] = {
    "lambda.duration": "USD per GB-s",
    "lambda.duration_second_tier": "USD per GB-s",
    "lambda.duration_third_tier": "USD per GB-s",
    "lambda.second_tier_from": "GB-s per month",
    "lambda.third_tier_from": "GB-s per month",
    "lambda.free_duration": "GB-s per month",
    "lambda.requests": "USD per million requests",
    "lambda.free_requests": "requests per month",
    "lambda.provisioned": "USD per GB-s",
    "lambda.provisioned_duration": "USD per GB-s",
    "fargate.vcpu": "USD per vCPU-h",
    "fargate.memory": "USD per GB-h",
    "fargate.spot_vcpu": "USD per vCPU-h",
    "fargate.spot_memory": "USD per GB-h",
    "kubernetes.control_plane": "USD per h",
    "ec2.surplus_credits": "USD per vCPU-h",
    "network.egress": "USD per GB",
    "network.free_egress": "GB per month",
    "network.nat_hour": "USD per h",
    "network.nat_data": "USD per GB",
    "sqs.requests": "USD per million requests",
    "sqs.free_requests": "requests per month",
    "s3.puts": "USD per thousand requests",
    "s3.gets": "USD per thousand requests",
}
_FILE = "prices.toml"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a number was read, and when. `kind` is one of `ORIGINS`."""

    source: str
    as_of: datetime.date
    kind: str


@dataclass(frozen=True, slots=True)
class Price:
    """A number in the unit that `UNITS` has for its name."""

    value: float
    origin: Origin


@dataclass(frozen=True, slots=True)
class Machine:
    """A kind of machine by the hour. `gpu` is what it has, or nothing; `baseline` the share of its `vcpus` that it may
    use all the time without surplus credits, 1 if it does not know them."""

    name: str
    usd_per_hour: float
    vcpus: float
    gpu: str
    baseline: float
    origin: Origin
    spot: Price | None = None


@dataclass(frozen=True, slots=True)
class Prices:
    """All prices of one region. `prices["lambda.duration"]` is the number, in the unit of `UNITS`."""

    file: str
    region: str
    entries: Mapping[str, Price]
    machines: Mapping[str, Machine]

    def __getitem__(self, name: str) -> float:
        return self.entries[name].value


def packaged() -> Prices:
    """The table that comes with this package."""
    return parse(resources.files(__package__).joinpath(_FILE).read_text("utf-8"), _FILE)


def load(file: Path) -> Prices:
    """The table in a file. Raises ConfigurationError if it cannot be read or lacks a price."""
    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError:
        raise errors.ConfigurationError(setting=SETTING, why=f"{file} is not UTF-8 text") from None
    except OSError as error:
        raise errors.ConfigurationError(setting=SETTING, why=f"{file}: {error.strerror or error}") from None
    return parse(text, str(file))


def parse(text: str, file: str) -> Prices:
    """The table in a text; `file` is its name for errors. Raises ConfigurationError that names the entry."""
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise errors.ConfigurationError(setting=SETTING, why=f"{file} is not TOML: {error}") from None
    entries = {name: _price(file, name, found) for name in UNITS}
    machines = {name: _machine(file, name, each) for name, each in _table(file, "machines", found).items()}
    if entries["lambda.third_tier_from"].value < entries["lambda.second_tier_from"].value:
        _refuse(file, "lambda.third_tier_from", "must not be less than lambda.second_tier_from")
    return Prices(file, _text(file, "region", found), entries, machines)


def _refuse(file: str, name: str, why: str) -> NoReturn:
    raise errors.ConfigurationError(setting=SETTING, why=f"{file}: {name} {why}")


def _price(file: str, name: str, found: Mapping[str, Any]) -> Price:
    group, _, key = name.partition(".")
    entry = _table(file, name, {name: _table(file, group, found).get(key)})
    if entry.get("unit") != UNITS[name]:
        _refuse(file, f"{name}.unit", f"must be {UNITS[name]!r}; it is {entry.get('unit')!r}")
    return Price(_number(file, f"{name}.value", entry), _origin(file, name, entry))


def _machine(file: str, name: str, entry: object) -> Machine:
    where = f"machines.{name}"
    entry = _table(file, where, {where: entry})
    spot = None
    if "spot" in entry:
        offer = _table(file, f"{where}.spot", {f"{where}.spot": entry["spot"]})
        spot = Price(_number(file, f"{where}.spot.usd_per_hour", offer), _origin(file, f"{where}.spot", offer))
    vcpus = _number(file, f"{where}.vcpus", entry)
    baseline = _number(file, f"{where}.baseline", {"baseline": 1, **entry})
    if not vcpus or not 0 < baseline <= 1:
        _refuse(file, where, "must have vcpus above 0 and a baseline above 0, at most 1")
    gpu = _text(file, f"{where}.gpu", {"gpu": "", **entry}, empty=True)
    return Machine(
        name,
        _number(file, f"{where}.usd_per_hour", entry),
        vcpus,
        gpu,
        baseline,
        _origin(file, where, entry),
        spot,
    )


def _origin(file: str, name: str, entry: Mapping[str, Any]) -> Origin:
    as_of, kind = entry.get("as_of"), entry.get("origin")
    if not isinstance(as_of, datetime.date) or isinstance(as_of, datetime.datetime):
        _refuse(file, f"{name}.as_of", "must be a date such as 2026-09-19, without quotes")
    if kind not in ORIGINS:
        _refuse(file, f"{name}.origin", f"must be one of {', '.join(map(repr, ORIGINS))}; it is {kind!r}")
    return Origin(_text(file, f"{name}.source", entry), as_of, str(kind))


def _table(file: str, name: str, found: Mapping[str, Any]) -> Mapping[str, Any]:
    entry = found.get(name)
    if not isinstance(entry, dict):
        _refuse(file, name, "is missing" if entry is None else "must be a table")
    return entry


def _number(file: str, name: str, entry: Mapping[str, Any]) -> float:
    """`name` is the whole name; the last part of it is the key."""
    value = entry.get(name.rpartition(".")[2])
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        _refuse(file, name, "is missing" if value is None else f"must be a number of at least 0; it is {value!r}")
    return float(value)


def _text(file: str, name: str, entry: Mapping[str, Any], *, empty: bool = False) -> str:
    value = entry.get(name.rpartition(".")[2])
    if not isinstance(value, str) or not (value or empty):
        _refuse(file, name, "is missing" if value is None else f"must be a text; it is {value!r}")
    return value
