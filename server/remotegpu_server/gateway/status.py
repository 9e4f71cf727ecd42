# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""How things stand, as messages: what `remotegpu top`, `explain` and `set` show. Nothing is decided here."""

from __future__ import annotations

import time

from remotegpu import errors
from remotegpu._version import __version__
from remotegpu.v1 import scheduler_pb2 as pb
from remotegpu_server import scheduler
from remotegpu_server.devices.reading import Reading
from remotegpu_server.supervisor.worker import DeviceWorker

from .call import Gate
from .leases import PUBLIC_ID
from .refusals import refusal


def snapshot_message(gate: Gate, uptime: float) -> pb.Snapshot:
    """What `remotegpu top` shows. `uptime` in seconds."""
    facts = gate.leases.snapshot()
    message = pb.Snapshot(version=__version__, uptime_s=uptime, settings=settings_message(facts))
    message.models.extend(m.name if m.is_default else f"{m.name}:{m.version}" for m in gate.catalog.models)
    if facts.mean_held is not None:
        message.mean_held_s = facts.mean_held
    for view, worker in zip(facts.devices, gate.workers, strict=True):
        message.devices.append(_device(view, worker, gate))
    message.leases.extend(map(_lease, facts.leases))
    message.queue.extend(map(_waiter, facts.queue))
    message.tenants.extend(map(_tenant, facts.tenants))
    message.counters.CopyFrom(_counters(facts.counters))
    figures = gate.traffic.figures(time.monotonic())
    message.traffic.CopyFrom(
        pb.Traffic(
            calls_per_s=figures.calls_per_s,
            received_per_s=figures.received_per_s,
            sent_per_s=figures.sent_per_s,
            p50_s=figures.p50_s,
            p99_s=figures.p99_s,
        )
    )
    return message


def settings_message(facts: scheduler.Snapshot) -> pb.SchedulerSettings:
    """What can be set while the server runs."""
    return pb.SchedulerSettings(policy=facts.policy, slots=facts.slots, queue=facts.queue_limit)


def explanation_message(explanation: scheduler.Explanation, gate: Gate, model: str = "") -> pb.Explanation:
    """What an alloc would be answered; and what its holder would be told of the model that it names, which is no reason
    to refuse a lease: it may be uploaded or loaded later."""
    reason = explanation.reason
    message = pb.Explanation(verdict="granted", devices=explanation.devices)
    for verdict in explanation.verdicts:
        name = gate.workers[verdict.device].spec.name
        message.verdicts.add(index=verdict.device, name=name, fits=not verdict.why, why=verdict.why)
    if reason is not None:
        error = refusal(reason)
        message.why = str(error)
        message.verdict = "busy" if isinstance(error, errors.Busy) else "impossible"
        if isinstance(error, errors.Busy):
            message.place, message.retry_after_s = error.place, error.retry_after
            if error.estimated_wait is not None:
                message.estimated_wait_s = error.estimated_wait
    trouble = gate.models.trouble_with(model) if model and gate.models is not None else ""
    if trouble:
        message.why = "; ".join(filter(None, (message.why, f"model {model!r:.80}: {trouble}")))
    return message


def _device(view: scheduler.DeviceView, worker: DeviceWorker, gate: Gate) -> pb.DeviceStatus:
    # A model that has run may have been unloaded or evicted since.
    loaded = worker.warm_models if gate.models is None else gate.models.loaded_on(worker.spec.index)
    return pb.DeviceStatus(
        index=view.device.index,
        name=view.device.name,
        uuid=view.device.uuid,
        epoch=worker.epoch,
        state=worker.state,
        slots=view.device.slots,
        slots_used=view.used_slots,
        memory=view.device.memory,
        memory_reserved=view.used_memory,
        exclusive=view.exclusive,
        memory_held=worker.memory_held,
        calls=worker.calls,
        worker_pid=worker.pid,
        arena_used=worker.arena_used,
        load=None if worker.reading is None else _load(worker.reading),
        failure=worker.failure,
        warm_models=[name for name in worker.warm_models if name in loaded],
        reserved=view.state == "reserved",
    )


def _load(reading: Reading) -> pb.Load:
    return pb.Load(
        utilization=reading.utilization,
        memory_used=reading.memory_used,
        memory_total=reading.memory_total,
        temperature_c=reading.temperature,
        power_w=reading.power,
        power_limit_w=reading.power_limit,
        processes=[pb.DeviceProcess(pid=process.pid, memory=process.memory) for process in reading.processes],
    )


def _lease(lease: scheduler.LeaseView) -> pb.LeaseStatus:
    return pb.LeaseStatus(
        lease=lease.key[:PUBLIC_ID],
        tenant=lease.tenant,
        devices=lease.devices,
        age_s=lease.age,
        ttl_left_s=lease.ttl_left,
        calls_running=lease.calls_running,
        calls=lease.calls_made,
        memory=lease.memory,
        exclusive=lease.exclusive,
        priority=lease.priority,
        state=lease.state,
        one_call=lease.one_call,
    )


def _waiter(waiter: scheduler.WaiterView) -> pb.WaiterStatus:
    return pb.WaiterStatus(
        place=waiter.place,
        tenant=waiter.tenant,
        gpus=waiter.gpus,
        memory=waiter.memory,
        waited_s=waiter.waited,
        priority=waiter.priority,
        exclusive=waiter.exclusive,
    )


def _tenant(usage: scheduler.Usage) -> pb.TenantStatus:
    return pb.TenantStatus(
        tenant=usage.tenant,
        leases=usage.leases,
        gpus=usage.gpus,
        memory=usage.memory,
        leases_limit=usage.quota.leases,
        gpus_limit=usage.quota.gpus,
        memory_limit=usage.quota.memory,
    )


def _counters(counters: scheduler.Counters) -> pb.Counters:
    return pb.Counters(
        granted=counters.granted,
        busy=counters.refused_busy + counters.refused_full,
        impossible=counters.refused_impossible,
        timed_out=counters.refused_timeout,
        expired=counters.expired,
        deallocated=counters.deallocated,
        failed=counters.failed,
    )
