# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is, and what is kept for the one at the head of the queue."""

from .events import Alloc
from .model import Request
from .pool import Pool, PooledDevice
from .positions import NOTHING, UNLIMITED
from .queue import Queue, Waiter
from .tenants import Tenant, Tenants


class Turns:
    """The queue in front of the pool.

    The head is the first waiter whom no quota keeps waiting. Devices are reserved for nobody else.
    """

    def __init__(self, pool: Pool, tenants: Tenants, queue: Queue, patience: float) -> None:
        self.queue = queue
        self._pool = pool
        self._tenants = tenants
        self._patience = patience
        self._head: Waiter | None = None

    def join(self, event: Alloc, now: float) -> tuple[Waiter, bool]:
        """The request waits from now on; whether the head may be another now."""
        request, head = event.request, self._head
        waiter = Waiter(event.key, request, now, self._pool.slots_asked(request))
        self.queue.join(waiter, self._tenants[request.tenant])
        return waiter, head is None or self.queue.per_tenant or request.priority > head.request.priority

    def leave(self, key: str) -> tuple[Waiter, bool]:
        """It waits no longer; whether it was the head. Raises `KeyError` if it does not wait."""
        waiter = self.queue.leave(key, self._tenants)
        return waiter, waiter is self._head

    def granted(self, request: Request) -> bool:
        """A newcomer was served; whether the head may be another now."""
        head = self._head
        return head is not None and (self.queue.per_tenant or head.request.tenant == request.tenant)

    def reorder(self, per_tenant: bool) -> None:
        """Tenants take turns from now on, or do not."""
        self.queue = self.queue.rebuilt(per_tenant, self._tenants)

    def next(self) -> Waiter | None:
        """Who is to be served now; `None` if nobody fits, and then the head is found."""
        if self._pool.reserved:
            self._settle()
        waiter = self.queue.first(self._obtainable)
        if waiter is None and not self._pool.reserved:
            self._settle()
        return waiter

    def _settle(self) -> None:
        """Finds the head. What is kept for another, or suffices now, is everybody's again."""
        head, pool = self.queue.first(self._within_quota), self._pool
        if head is not self._head or (head and pool.reserved and pool.fits_with_reserved(head.request)):
            pool.unreserve()
        self._head = head

    def keep(self, now: float) -> None:
        """Reserves devices for the head, once its patience is over."""
        if self._head is not None:
            overdue = now - self._head.since - self._patience
            if overdue >= 0:
                self._pool.reserve(self._head.request, overdue)

    def came_free(self, device: PooledDevice) -> None:
        """Some of it: the head of the queue may need it together with others."""
        if self._head is not None and self._pool.reserved:
            self._pool.keep_if_fitting(device, self._head.request)

    def fits(self, request: Request) -> bool:
        """Whether it could be granted now, to a newcomer."""
        enough = self._pool.limit(request.gpus, request.exclusive) >= request.memory
        return enough and self._tenants.exceeded(request) is None

    def _obtainable(self, tenant: Tenant | None, gpus: int, exclusive: bool) -> int:
        free = self._pool.limit(gpus, exclusive)
        return free if tenant is None or free == NOTHING else min(free, tenant.limit(gpus))

    def _within_quota(self, tenant: Tenant | None, gpus: int, exclusive: bool) -> int:
        return UNLIMITED if tenant is None else tenant.limit(gpus)
