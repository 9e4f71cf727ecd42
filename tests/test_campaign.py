# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Many callers, and workers killed at random under them: no wrong answer, no lost call, nothing left."""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import numpy as np
import pytest

import remotegpu
from remotegpu import Client
from tests.conftest import StartServer, pids, wait_until

SECONDS = 60
CALLERS = 6


class Caller(threading.Thread):
    """Makes leases and calls until told to stop, and checks every value that it gets."""

    def __init__(self, url: str, seed: int, stop: threading.Event) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._url = url
        self._halt = stop
        self.results = 0
        self.lost = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with Client(self._url, timeout=30) as client:
                while not self._halt.is_set():
                    try:
                        self._lease(client)
                    except (remotegpu.LeaseLost, remotegpu.Busy):
                        self.lost += 1
        except BaseException as error:
            self.error = error

    def _lease(self, client: Client) -> None:
        size = self._random.choice([1, 1000, 400_000])
        x = np.arange(size, dtype=np.float64) + self._random.random()
        gpus = self._random.choice([1, 1, 2])
        with client.lease(gpus=gpus, timeout=20, memory=64 * 1024**2) as lease:
            session = lease.on(gpus - 1)
            kept = session.xp.asarray(x) * 2
            np.testing.assert_array_equal(lease.fetch(session.xp.sum(kept)), (x * 2).sum())
            np.testing.assert_array_equal(lease.finish(kept + 1), x * 2 + 1)
            self.results += 2


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
def test_nothing_is_wrong_or_left_when_workers_die_at_random(start_server: StartServer) -> None:
    server = start_server("--slots", "4", gpus="cpu:2", arena="64MiB")
    chance, stop = random.Random(0), threading.Event()
    callers = [Caller(server.url, seed, stop) for seed in range(CALLERS)]
    for caller in callers:
        caller.start()
    kills = 0
    with Client(server.url, timeout=30) as client:
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            stop.wait(chance.uniform(0.5, 2.5))  # the time between faults, part of the campaign
            victims = [pid for pid in pids(client) if pid]
            if victims:
                os.kill(chance.choice(victims), signal.SIGKILL)
                kills += 1
        stop.set()
        for caller in callers:
            caller.join(60)
            assert caller.error is None, caller.error

        def clean() -> bool:
            top = client.top()
            used = [d.slots_used + d.memory_held + d.arena_used + d.memory_reserved for d in top.devices]
            return not top.leases and not top.queue and not any(used)

        wait_until(clean, "everything is back", 40)
    results, lost = sum(c.results for c in callers), sum(c.lost for c in callers)
    story = f"{results} results, {lost} calls lost, {kills} workers killed"
    assert kills > 15, story
    assert lost > 0, story
    assert results > 50, story
