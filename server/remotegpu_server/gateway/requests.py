# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What requests may hold, and leases as they travel."""

from __future__ import annotations

from collections.abc import Sequence

from remotegpu import errors
from remotegpu.v1 import lease_pb2
from remotegpu_server import scheduler
from remotegpu_server.supervisor.worker import DeviceWorker

from .bounds import NAME_LIMIT
from .leases import Held

DEFAULT_DEADLINE = 60.0
DEADLINE_LIMIT = 3600.0
IDLE_TTL = 30.0
TTL_LIMIT = 86_400.0


def milliseconds(value: int, default: float, limit: float, what: str) -> float:
    """Milliseconds from the wire in seconds; 0 stands for the default. Raises InvalidInput above the limit."""
    seconds = value / 1000 or default
    if seconds > limit:
        raise errors.InvalidInput(field=what, limit=f"at most {limit:g} s", given=f"{seconds:g} s")
    return seconds


def check_name(field: str, name: str) -> None:
    """Raises InvalidInput for a name too long to be remembered."""
    if len(name.encode()) > NAME_LIMIT:
        raise errors.InvalidInput(field=field, limit=f"at most {NAME_LIMIT} bytes", given=f"{len(name.encode())} bytes")


def scheduler_request(alloc: lease_pb2.AllocRequest, tenant: str) -> scheduler.Request:
    """What the scheduler needs of a request. Raises InvalidInput for a TTL or a name above its limit."""
    check_name("request_id", alloc.request_id)
    check_name("model", alloc.model)
    return scheduler.Request(
        tenant=tenant,
        gpus=alloc.gpus,
        memory=alloc.memory,
        exclusive=alloc.exclusive,
        idle_ttl=milliseconds(alloc.idle_ttl_ms, IDLE_TTL, TTL_LIMIT, "idle_ttl_ms"),
        hard_ttl=milliseconds(alloc.hard_ttl_ms, 0, TTL_LIMIT, "hard_ttl_ms") or None,
        priority=alloc.priority,
        model=alloc.model,
    )


def grant_message(held: Held, workers: Sequence[DeviceWorker], ttl_left: float | None = None) -> lease_pb2.LeaseGrant:
    """A granted lease as it travels. `ttl_left`: seconds until it ends by itself, None if it would not."""
    request = held.request
    grant = lease_pb2.LeaseGrant(
        lease=held.key,
        idle_ttl_ms=round(request.idle_ttl * 1000),
        hard_ttl_ms=round((request.hard_ttl or 0) * 1000),
        fence=held.fence,
        memory=request.memory,
        exclusive=request.exclusive,
        ttl_left_ms=0 if ttl_left is None else max(round(ttl_left * 1000), 1),
    )
    for index in held.devices:
        worker = workers[index]
        grant.devices.add(index=index, name=worker.spec.name, uuid=worker.spec.uuid, epoch=worker.epoch)
    return grant
