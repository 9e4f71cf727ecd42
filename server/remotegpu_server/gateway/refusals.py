# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""From the scheduler's answers to the errors that callers see."""

from __future__ import annotations

from collections.abc import Mapping

from remotegpu import errors
from remotegpu_server import scheduler

Waited = scheduler.Busy | scheduler.TimedOut | scheduler.QueueFull


def ended(key: str, how: scheduler.Ended, failures: Mapping[int, str]) -> errors.Error:
    """The error for using a lease that is over. `failures`: why devices failed, by index."""
    if how.device is not None:
        return errors.DeviceFailed(lease=key, device=how.device, why=failures.get(how.device, "it was unhealthy"))
    return errors.LeaseExpired(lease=key, why=how.why)


def refusal(reason: scheduler.Reason, key: str = "") -> errors.Error:
    """The error that tells a caller why the scheduler refused."""
    match reason:
        case scheduler.Impossible(what=what, asked=asked, limit=limit):
            return errors.Impossible(what=what, asked=int(asked), limit=int(limit))
        case scheduler.Ended():
            return ended(key, reason, {})
        case scheduler.OverQuota():
            return _over_quota(reason)
        case _:
            return _busy(reason)


def _busy(reason: Waited) -> errors.Busy:
    return errors.Busy(
        retry_after=reason.retry_after,
        queue_length=reason.limit if isinstance(reason, scheduler.QueueFull) else reason.queue_length,
        free_slots=reason.free.slots,
        free_gpus=reason.free.gpus,
        free_memory=reason.free.largest_memory,
        waited=reason.waited if isinstance(reason, scheduler.TimedOut) else 0.0,
        estimated_wait=reason.estimated_wait,
        place=reason.place if isinstance(reason, scheduler.Busy) else 0,
    )


def _over_quota(reason: scheduler.OverQuota) -> errors.QuotaExceeded:
    return errors.QuotaExceeded(
        what=reason.what,
        asked=reason.asked,
        used=reason.used,
        limit=reason.limit,
        retry_after=reason.retry_after,
        queue_length=reason.queue_length,
        free_slots=reason.free.slots,
        free_gpus=reason.free.gpus,
        free_memory=reason.free.largest_memory,
        waited=reason.waited,
        estimated_wait=reason.estimated_wait,
        place=reason.place,
    )
