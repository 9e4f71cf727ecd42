# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Which of the devices that fit a request are given, and (for `fair`) who is next.

A policy answers with positions (`Pool.devices`). It is asked only when enough devices fit, and asks the indexes of
the pool, so that no choice costs more than the request has devices and the logarithm of the pool.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Protocol

from .model import Request
from .pool import Pool

_LOOKED_AT = 256
"""Preferred devices that are looked at before any that fits is taken: they could all be too full."""


class Policy(Protocol):
    """Chooses devices."""

    @property
    def name(self) -> str:
        """As operators write it."""

    @property
    def per_tenant(self) -> bool:
        """Whether tenants take turns in the queue; otherwise it is first come, first served."""

    @property
    def ranked(self) -> bool:
        """Whether it needs `Pool.ranking`."""

    def choose(self, pool: Pool, request: Request) -> tuple[int, ...]:
        """`request.gpus` different positions of `pool.open` that fit. Changes nothing."""

    def given(self, positions: tuple[int, ...]) -> None:
        """What it has chosen was granted."""


class RoundRobin:
    """The next device after the last one given, around and around."""

    name = "round-robin"
    per_tenant = False
    ranked = False

    def __init__(self) -> None:
        self._next = 0

    def choose(self, pool: Pool, request: Request) -> tuple[int, ...]:
        """See `Policy.choose`."""
        return tuple(islice(self._around(pool, request), request.gpus))

    def _around(self, pool: Pool, request: Request) -> Iterator[int]:
        return pool.open.index(request.exclusive).around(self._next, request.memory)

    def given(self, positions: tuple[int, ...]) -> None:
        """See `Policy.given`."""
        self._next = positions[-1] + 1

    def _prefer(self, wanted: Iterable[int], pool: Pool, request: Request) -> tuple[int, ...]:
        """Those wanted that fit, and then whichever is next."""
        fitting = (at for at in islice(wanted, _LOOKED_AT) if pool.offers(pool.devices[at], request))
        chosen = tuple(islice(fitting, request.gpus))
        others = (at for at in self._around(pool, request) if at not in chosen)
        return (*chosen, *islice(others, request.gpus - len(chosen)))


class LeastLoaded(RoundRobin):
    """The device that measurably does least; among equals, the one with the least reserved memory."""

    name = "least-loaded"
    ranked = True

    def choose(self, pool: Pool, request: Request) -> tuple[int, ...]:
        """See `Policy.choose`."""
        return self._prefer(pool.ranking or (), pool, request)


class BestFit(RoundRobin):
    """The device on which the least memory stays free, so that large pieces remain for large requests."""

    name = "best-fit"

    def choose(self, pool: Pool, request: Request) -> tuple[int, ...]:
        """See `Policy.choose`."""
        return tuple(islice(pool.open.index(request.exclusive).tightest(request.memory), request.gpus))


class Sticky(RoundRobin):
    """A device where the request's model has run already, the one with the fewest leases; else the next one."""

    name = "sticky"

    def choose(self, pool: Pool, request: Request) -> tuple[int, ...]:
        """See `Policy.choose`."""
        warm = islice(pool.warm.get(request.model, ()), _LOOKED_AT)
        return self._prefer(sorted(warm, key=lambda at: (pool.devices[at].leases, at)), pool, request)


class Fair(RoundRobin):
    """Devices as in round-robin, but when there is a queue, the tenant that has had least is next."""

    name = "fair"
    per_tenant = True


_ALL: tuple[type[RoundRobin], ...] = (RoundRobin, LeastLoaded, BestFit, Sticky, Fair)
POLICIES: Mapping[str, type[RoundRobin]] = {policy.name: policy for policy in _ALL}
