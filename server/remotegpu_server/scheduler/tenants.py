# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What each tenant holds, may hold, and has had."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .events import Impossible
from .model import Quota, Request, Usage
from .positions import NOTHING, UNLIMITED

LEAST_CHARGED = 0.001
"""Seconds. Whoever is served falls behind those who are not, however short leases are."""
_REMEMBERED = 1024
"""Tenants; beyond that, those who are not there are forgotten, whatever they have had."""


@dataclass(slots=True, eq=False)
class Tenant:
    """One tenant. `received`: device time charged so far, in slot-seconds over weight."""

    name: str
    quota: Quota
    leases: int = 0
    gpus: int = 0
    memory: int = 0
    waiting: int = 0
    received: float = 0.0

    @property
    def limited(self) -> bool:
        """Whether the quota can keep a request waiting although there is room."""
        quota = self.quota
        return quota.leases is not None or quota.gpus is not None or quota.memory is not None

    def limit(self, gpus: int) -> int:
        """The most memory per device that one more lease of so many GPUs could declare within the quota; `NOTHING` if
        it could not be granted at all."""
        quota = self.quota
        if quota.leases is not None and self.leases >= quota.leases:
            return NOTHING
        if quota.gpus is not None and self.gpus + gpus > quota.gpus:
            return NOTHING
        if quota.memory is None:
            return UNLIMITED
        return min((quota.memory - self.memory) // gpus, UNLIMITED)


class Tenants:
    """All who hold or wait for something, and those with a quota.

    Fairness is that of start-time fair queueing (Goyal, Vin, Cheng: Start-Time Fair Queueing, 1996): the one who has
    received least is next, and who comes back after a pause is not paid for the time of absence: `received` starts
    at that of the tenant who was served last. A lease is charged when it begins, with the mean time that leases are
    held, and corrected when it ends.
    """

    def __init__(self, quotas: Mapping[str, Quota], default: Quota) -> None:
        self._quotas = dict(quotas)
        self._default = default
        self._tenants: dict[str, Tenant] = {}
        self._floor = 0.0
        self._sweep_at = _REMEMBERED

    def __iter__(self) -> Iterator[Tenant]:
        return iter(self._tenants.values())

    def __getitem__(self, name: str) -> Tenant:
        """The tenant, new if need be: `forget` must follow when nothing came of it."""
        tenant = self._tenants.get(name)
        if tenant is None:
            if len(self._tenants) >= self._sweep_at:
                self._sweep()
            tenant = self._tenants[name] = Tenant(name, self.quota(name), received=self._floor)
        elif not tenant.leases and not tenant.waiting:
            tenant.received = max(tenant.received, self._floor)
        return tenant

    def _sweep(self) -> None:
        self._tenants = {name: tenant for name, tenant in self._tenants.items() if tenant.leases or tenant.waiting}
        self._sweep_at = max(_REMEMBERED, 2 * len(self._tenants))

    def quota(self, name: str) -> Quota:
        """What a tenant of that name may hold."""
        return self._quotas.get(name, self._default)

    def usage(self) -> tuple[Usage, ...]:
        """What everybody holds who holds or waits for something, or has a quota of an own, by name."""
        present = (name for name, tenant in self._tenants.items() if tenant.leases or tenant.waiting)
        names = sorted({*present, *self._quotas})
        found = [self._tenants.get(name) or Tenant(name, self.quota(name)) for name in names]
        return tuple(Usage(t.name, t.leases, t.gpus, t.memory, t.quota) for t in found)

    def impossible(self, request: Request) -> Impossible | None:
        """What of the request the tenant's quota can never give."""
        quota = self.quota(request.tenant)
        if not 0 <= request.priority <= quota.priority:
            return Impossible("priority", request.priority, quota.priority if request.priority > 0 else 0)
        if quota.leases is not None and quota.leases < 1:
            return Impossible("leases of this tenant", 1, quota.leases)
        if quota.gpus is not None and request.gpus > quota.gpus:
            return Impossible("gpus of this tenant", request.gpus, quota.gpus)
        if quota.memory is not None and request.gpus * request.memory > quota.memory:
            return Impossible("memory of this tenant", request.gpus * request.memory, quota.memory)
        return None

    def exceeded(self, request: Request) -> tuple[str, int, int, int] | None:
        """What of the quota keeps the request waiting: what, how much is asked, used, allowed; `None` if nothing."""
        tenant = self._tenants.get(request.tenant)
        if tenant is None or tenant.limit(request.gpus) >= request.memory:
            return None
        quota, memory = tenant.quota, request.gpus * request.memory
        if quota.leases is not None and tenant.leases >= quota.leases:
            return "leases", 1, tenant.leases, quota.leases
        if quota.gpus is not None and tenant.gpus + request.gpus > quota.gpus:
            return "gpus", request.gpus, tenant.gpus, quota.gpus
        assert quota.memory is not None
        return "memory", memory, tenant.memory, quota.memory

    def take(self, tenant: Tenant, request: Request, slots: int, expected: float) -> None:
        """A lease of so many slots begins, which is expected to last so many seconds."""
        tenant.leases += 1
        tenant.gpus += request.gpus
        tenant.memory += request.gpus * request.memory
        self._floor = max(self._floor, tenant.received)
        tenant.received += slots * expected / tenant.quota.weight

    def give(self, tenant: Tenant, request: Request, slots: int, owed: float) -> None:
        """Its memory is free; `owed` is how many seconds longer than expected it lasted, below 0 if it was shorter."""
        tenant.leases -= 1
        tenant.gpus -= request.gpus
        tenant.memory -= request.gpus * request.memory
        tenant.received += slots * owed / tenant.quota.weight
        self.forget(tenant)

    def forget(self, tenant: Tenant) -> None:
        """Those who neither hold nor wait are only remembered while they have had more than others."""
        if not tenant.leases and not tenant.waiting and tenant.received <= self._floor:
            self._tenants.pop(tenant.name, None)
