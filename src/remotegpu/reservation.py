# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What a lease asks for, checked before anything is sent."""

from __future__ import annotations

import numbers
import reprlib
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from remotegpu import deadlines, errors
from remotegpu.v1 import lease_pb2

# The longest time that can be asked for: what the wire's 32 bits of milliseconds hold. Seconds.
LONGEST = (2**32 - 1) / 1000
HIGHEST_PRIORITY = 9
# The most and the least often that snapshots are sent. Seconds.
SHORTEST_INTERVAL, LONGEST_INTERVAL = 0.1, 60.0


class ReservationFields(TypedDict, total=False):
    """The keyword arguments of `Client.alloc_nowait` and `Client.explain`; `Client.alloc` says what they mean."""

    gpus: int
    memory: int
    exclusive: bool
    idle_ttl: float
    hard_ttl: float | None
    priority: int
    model: str


class WaitingFields(ReservationFields, total=False):
    """The keyword arguments of `Client.alloc` and `Client.lease`: the same, and how long to wait in the queue."""

    timeout: float


def check_seconds(field: str, given: Any, *, or_none: bool = False) -> None:
    """Raises InvalidInput for what is not a time above 0 (`or_none`: or 0), or too long for the wire."""
    is_time = isinstance(given, numbers.Real) and not isinstance(given, bool)
    if not is_time or not (0 < given <= LONGEST or (or_none and given == 0)):  # false for NaN
        limit = f"{'0 or ' if or_none else ''}seconds above 0, at most {LONGEST:.0f}"
        raise errors.InvalidInput(field=field, limit=limit, given=reprlib.repr(given))


def check_interval(given: Any) -> None:
    """Raises InvalidInput for what is not a time between snapshots."""
    check_seconds("interval", given)
    if not SHORTEST_INTERVAL <= given <= LONGEST_INTERVAL:
        limit = f"{SHORTEST_INTERVAL:g} to {LONGEST_INTERVAL:g} seconds"
        raise errors.InvalidInput(field="interval", limit=limit, given=str(given))


def check_whole(field: str, given: Any, least: int, most: int) -> None:
    """Raises InvalidInput for what is not a whole number from `least` to `most`."""
    is_whole = isinstance(given, numbers.Integral) and not isinstance(given, bool)
    if not is_whole or not least <= given <= most:
        raise errors.InvalidInput(
            field=field, limit=f"a whole number from {least} to {most}", given=reprlib.repr(given)
        )


def check_text(field: str, given: object, limit: str) -> None:
    """Raises InvalidInput for what is not text that can travel. `limit` says what is allowed."""
    if not isinstance(given, str) or not _encodable(given):
        raise errors.InvalidInput(field=field, limit=limit, given=reprlib.repr(given))


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a lease asks for: see `Client.alloc` for the fields. Times in seconds, memory in bytes.

    Raises InvalidInput for what no server could grant."""

    gpus: int = 1
    memory: int = 0
    exclusive: bool = False
    timeout: float = 0.0
    idle_ttl: float = 30.0
    hard_ttl: float | None = None
    priority: int = 0
    model: str = ""

    def __post_init__(self) -> None:
        check_whole("gpus", self.gpus, 1, 2**32 - 1)
        check_whole("memory", self.memory, 0, 2**64 - 1)
        exclusive: Any = self.exclusive
        if not isinstance(exclusive, bool):
            raise errors.InvalidInput(field="exclusive", limit="True or False", given=reprlib.repr(exclusive))
        check_seconds("timeout", self.timeout, or_none=True)  # 0 is an answer at once
        check_seconds("idle_ttl", self.idle_ttl)
        if self.hard_ttl is not None:
            check_seconds("hard_ttl", self.hard_ttl)
        check_whole("priority", self.priority, 0, HIGHEST_PRIORITY)
        check_text("model", self.model, "a model's name")

    @classmethod
    def asked(cls, method: str, fields: WaitingFields | ReservationFields, *, waiting: bool = True) -> Reservation:
        """From the keyword arguments of a client's method, without a `timeout` if it is not `waiting`; no longer than
        the present invocation allows (`deadlines`). Raises TypeError that names the method for others, and
        DeadlineExceeded."""
        known = (WaitingFields if waiting else ReservationFields).__annotations__
        for name in fields:
            if name not in known:
                raise TypeError(f"Client.{method}() has no argument {name!r}; it has {', '.join(sorted(known))}")
        made = cls(**fields)
        if made.timeout:
            # The server is to answer for itself, and so a little earlier.
            made = replace(made, timeout=deadlines.bounded(made.timeout, deadlines.GRACE)[0])
        return made if "hard_ttl" in fields else replace(made, hard_ttl=deadlines.lease_limit())

    @classmethod
    def of(cls, grant: lease_pb2.LeaseGrant) -> Reservation:
        """What a granted lease has, for a process that did not ask for it. Raises ProtocolError for a grant that is
        none."""
        if not grant.lease or not grant.devices or not grant.idle_ttl_ms:
            raise errors.ProtocolError(what="a grant without a lease, devices or TTL")
        return cls(
            gpus=len(grant.devices),
            memory=grant.memory,
            exclusive=grant.exclusive,
            idle_ttl=grant.idle_ttl_ms / 1000,
            hard_ttl=grant.hard_ttl_ms / 1000 or None,
        )

    def message(self, request_id: str = "", waited: float = 0.0) -> lease_pb2.AllocRequest:
        """As it travels. `request_id`: the same one again is answered with the same lease; `waited`: seconds of the
        timeout that have passed already."""
        return lease_pb2.AllocRequest(
            gpus=self.gpus,
            memory=self.memory,
            exclusive=self.exclusive,
            timeout_ms=max(round((self.timeout - waited) * 1000), 0),
            idle_ttl_ms=max(round(self.idle_ttl * 1000), 1),
            hard_ttl_ms=0 if self.hard_ttl is None else max(round(self.hard_ttl * 1000), 1),
            request_id=request_id,
            priority=self.priority,
            model=self.model,
        )
