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

    The head is the first waiter whom no quota keeps waiting. Once its patience is over, devices are kept for it: it
    owns them until it is served or leaves, also while another comes before it, who may then use them too.
    """

    def __init__(self, pool: Pool, tenants: Tenants, queue: Queue, patience: float) -> None:
        self.queue = queue
        self._pool = pool
        self._tenants = tenants
        self._patience = patience
        self._head: Waiter | None = None
        self._owner: Waiter | None = None  # for whom devices are kept

    def join(self, event: Alloc, now: float) -> tuple[Waiter, bool]:
        """The request waits from now on; whether the head may be another now."""
        request, head = event.request, self._head
        waiter, tenant = Waiter(event.key, request, now, self._pool.slots_asked(request)), self._tenants[request.tenant]
        self.queue.join(waiter, tenant)
        others = None if head is None else self._tenants[head.request.tenant]
        return waiter, head is None or others is None or self.queue.before(waiter, tenant, head, others)

    def leave(self, key: str) -> tuple[Waiter, bool]:
        """It waits no longer; whether others may be served now. Raises `KeyError` if it does not wait."""
        waiter = self.queue.leave(key, self._tenants)
        return waiter, waiter is self._head or waiter is self._owner

    def granted(self, request: Request) -> bool:
        """A newcomer was served; whether that may keep back the head, or the owner of what is kept, by their quota."""
        if self._head is None:
            return False
        return request.tenant in {waiter.request.tenant for waiter in (self._head, self._owner) if waiter is not None}

    def reorder(self, per_tenant: bool) -> None:
        """Tenants take turns from now on, or do not."""
        self.queue = self.queue.rebuilt(per_tenant, self._tenants)

    def next(self, now: float) -> Waiter | None:
        """Who is to be served now, `None` if nobody fits. Devices are kept for the head before anybody passes it."""
        self._head = head = self.queue.first(self._within_quota)
        if head is None or self._pool.fits_with_reserved(head.request):
            self._disown()
            return head
        self.keep(now)
        if self._owner is not None and self._owner is not head and not self._stands(self._owner):
            self._disown()
        return self.queue.first(self._obtainable) if len(self._pool.open.shared) else None

    def keep(self, now: float) -> None:
        """Reserves devices for the head, once its patience is over."""
        head = self._head
        if head is None:
            return
        overdue = now - head.since - self._patience
        if overdue >= 0:
            if self._owner is not head:
                self._owner = head
                self._pool.seek_again()
            self._pool.reserve(head.request, overdue)

    def came_free(self, device: PooledDevice) -> None:
        """Some of it: who waits for it together with others may need it."""
        if self._owner is not None:
            self._pool.keep_if_fitting(device, self._owner.request)

    def _stands(self, waiter: Waiter) -> bool:
        return waiter.key in self.queue and self._tenants.exceeded(waiter.request) is None

    def _disown(self) -> None:
        if self._owner is not None:
            self._owner = None
            self._pool.unreserve()

    def fits(self, request: Request) -> bool:
        """Whether it could be granted now, to a newcomer."""
        enough = self._pool.limit(request.gpus, request.exclusive) >= request.memory
        return enough and self._tenants.exceeded(request) is None

    def _obtainable(self, tenant: Tenant | None, gpus: int, exclusive: bool) -> int:
        free = self._pool.limit(gpus, exclusive)
        return free if tenant is None or free == NOTHING else min(free, tenant.limit(gpus))

    def _within_quota(self, tenant: Tenant | None, gpus: int, exclusive: bool) -> int:
        return UNLIMITED if tenant is None else tenant.limit(gpus)
