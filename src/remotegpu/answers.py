# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the scheduler answers when it is asked and not asked for a lease: frozen facts."""

from __future__ import annotations

from dataclasses import dataclass

from remotegpu.v1 import scheduler_pb2


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds on the server: the policy's name, leases that may share a device, requests that may wait."""

    policy: str
    slots: int
    queue: int

    @classmethod
    def of(cls, message: scheduler_pb2.SchedulerSettings) -> Settings:
        """From the wire."""
        return cls(message.policy, message.slots, message.queue)


@dataclass(frozen=True, slots=True)
class DeviceVerdict:
    """Whether a request fits on one device of the server, by itself; `why` not, empty if it does."""

    index: int
    name: str
    fits: bool
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What `Client.alloc_nowait` would have answered.

    `verdict`: "granted", "busy" or "impossible"; granted would be `devices` (their indices on the server). `why` in a
    sentence: why not, or why no device serves the model that was named; empty otherwise. `verdicts`: each device by
    itself. `place`: the place in the queue that it would have, from 1, or 0 if it would not wait. `estimated_wait`
    (None while nothing is known) and `retry_after`: seconds."""

    verdict: str
    why: str
    devices: tuple[int, ...]
    verdicts: tuple[DeviceVerdict, ...]
    place: int
    estimated_wait: float | None
    retry_after: float

    @classmethod
    def of(cls, message: scheduler_pb2.Explanation) -> Explanation:
        """From the wire."""
        return cls(
            message.verdict,
            message.why,
            tuple(message.devices),
            tuple(DeviceVerdict(v.index, v.name, v.fits, v.why) for v in message.verdicts),
            message.place,
            message.estimated_wait_s if message.HasField("estimated_wait_s") else None,
            message.retry_after_s,
        )
