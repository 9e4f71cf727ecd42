# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The file of `--tenants`: how much each tenant may hold.

    [default]              # whoever is not named below
    leases = 100

    [tenants.vision]
    gpus = 2               # in all leases together
    memory = "8GiB"        # declared on all devices together
    weight = 2.0           # share under the policy "fair"
    priority = 5           # the highest that it may ask for

What is not given is not limited.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remotegpu import errors
from remotegpu_server.scheduler import PRIORITIES, Quota

from .settings import parse_size

# What the messages that tell them can hold.
_MOST, _MOST_MEMORY = 2**31, 2**60
_FIELDS = ("leases", "gpus", "memory", "weight", "priority")


@dataclass(frozen=True, slots=True)
class Quotas:
    """By tenant, and for those who are not named."""

    tenants: Mapping[str, Quota]
    default: Quota


def read(path: Path | None) -> Quotas:
    """The quotas in a file; none at all without one. Raises ConfigurationError that names file and field."""
    if path is None:
        return Quotas({}, Quota())
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise errors.ConfigurationError(setting="--tenants", why=f"{path}: {error}") from error
    unknown = set(content) - {"default", "tenants"}
    tenants = content.get("tenants", {})
    if unknown or not isinstance(tenants, dict):
        why = f"{path}: only [default] and [tenants.NAME] are known, not {', '.join(sorted(unknown)) or 'tenants'}"
        raise errors.ConfigurationError(setting="--tenants", why=why)
    named = {name: _quota(f"{path}: [tenants.{name}]", fields) for name, fields in tenants.items()}
    return Quotas(named, _quota(f"{path}: [default]", content.get("default", {})))


def _quota(where: str, fields: Any) -> Quota:
    unknown = set(fields) - set(_FIELDS) if isinstance(fields, dict) else {"it is no table"}
    if unknown:
        why = f"{where}: {', '.join(sorted(unknown))}; known are {', '.join(_FIELDS)}"
        raise errors.ConfigurationError(setting="--tenants", why=why)
    memory = fields.get("memory")
    size = parse_size(str(memory), f"--tenants {where} memory") if memory is not None else None
    if size is not None and size > _MOST_MEMORY:
        raise errors.ConfigurationError(setting="--tenants", why=f"{where}: memory is at most {_MOST_MEMORY} bytes")
    return Quota(
        leases=_number(where, fields, "leases", None),
        gpus=_number(where, fields, "gpus", None),
        memory=size,
        weight=_weight(where, fields),
        priority=_priority(where, fields),
    )


def _number(where: str, fields: Mapping[str, Any], name: str, default: int | None) -> int | None:
    value = fields.get(name, default)
    if value is not None and (type(value) is not int or not 0 <= value <= _MOST):
        raise errors.ConfigurationError(setting="--tenants", why=f"{where}: {name} is 0 to {_MOST}, not {value!r}")
    return value


def _priority(where: str, fields: Mapping[str, Any]) -> int:
    most = PRIORITIES - 1
    value = _number(where, fields, "priority", most)
    if value is None or value > most:
        raise errors.ConfigurationError(setting="--tenants", why=f"{where}: priority is 0 to {most}, not {value!r}")
    return value


def _weight(where: str, fields: Mapping[str, Any]) -> float:
    value = fields.get("weight", 1.0)
    if type(value) not in {int, float} or not 0.001 <= value <= 1000:
        raise errors.ConfigurationError(setting="--tenants", why=f"{where}: weight is 0.001 to 1000, not {value!r}")
    return float(value)
