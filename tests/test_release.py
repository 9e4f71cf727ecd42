# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What a lease held is free at once: while others' programs run, and when a worker hangs."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

import remotegpu
from remotegpu import Client
from remotegpu_server.supervisor.drops import DROP_PATIENCE
from tests.conftest import StartServer, alive, halt, pids, wait_until
from tests.test_lease_ends import Background

KEPT = 1_000_000


def device(client: Client) -> Any:
    (only,) = client.top().devices
    return only


def keep(lease: remotegpu.Lease) -> Any:
    """Leaves KEPT bytes on the device."""
    array = lease.xp.zeros((KEPT,), dtype=lease.xp.uint8)
    lease.fetch(array[:1])
    return array


def matmuls(lease: remotegpu.Lease, times: int) -> float:
    """Keeps the worker's main thread in matrix products; NumPy lets go of the interpreter in them."""
    x = lease.xp.eye(1200)
    for _ in range(times):
        x = x @ x
    return float(lease.fetch(lease.xp.sum(x), timeout=50))


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that hangs."""
    halt(pid)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def times_for(client: Client, seconds: float) -> int:
    """How many products take this machine about so long."""
    with client.lease() as lease:
        matmuls(lease, 1)
        started = time.monotonic()
        matmuls(lease, 16)
        return max(round(seconds * 16 / (time.monotonic() - started)), 16)


def test_lease_is_free_at_once_while_a_program_of_another_runs(start_server: StartServer) -> None:
    with Client(start_server("--slots", "2").url, timeout=50) as client:
        long = times_for(client, 8)
        first, second = client.alloc(), client.alloc()
        kept = keep(first)
        assert device(client).memory_held == KEPT + 1
        call = Background(lambda: matmuls(second, long))
        wait_until(lambda: device(client).arena_used, "the long program is with the worker")
        began = time.monotonic()
        assert client.dealloc(first.id)
        wait_until(lambda: device(client).slots_used == 1, "the slot is free", 0.5)
        assert device(client).memory_held == 0
        assert [lease.lease for lease in client.top().leases] == [second.id[:8]]
        client.alloc_nowait().dealloc()
        assert time.monotonic() - began < 0.5
        assert call.runs()
        assert call.result() == 1200
        assert time.monotonic() - began > 3
        assert device(client).epoch == 1
        second.dealloc()
        del kept


@pytest.mark.slow
def test_lease_whose_call_waited_behind_a_long_program_is_free_when_it_is_taken_back(start_server: StartServer) -> None:
    with Client(start_server().url, timeout=50) as client:
        long = times_for(client, 3)
        first, second = client.alloc(), client.alloc()
        kept = keep(first)
        calls = [Background(lambda: matmuls(second, long)) for _ in range(2)]  # one runs, one is in the socket
        wait_until(lambda: sum(lease.calls_running for lease in client.top().leases) == 2, "both are with the worker")
        waiting = Background(lambda: first.fetch(kept[:2], timeout=0.7))
        wait_until(lambda: sum(lease.calls_running for lease in client.top().leases) == 3, "the third call waits")
        client.dealloc(first.id)
        assert device(client).slots_used == 2
        with pytest.raises(remotegpu.DeadlineExceeded):
            waiting.result()
        wait_until(lambda: device(client).slots_used == 1, "the slot is free", 0.5)
        assert device(client).memory_held == 0
        assert calls[1].runs()
        os.kill(pids(client)[0], signal.SIGKILL)
        for call in calls:
            with pytest.raises(remotegpu.LeaseLost):
                call.result()
        second.dealloc()


def test_lease_that_ends_during_its_call_leaves_nothing_behind(start_server: StartServer) -> None:
    with Client(start_server().url, timeout=30) as client:
        for _ in range(5):
            lease = client.alloc()
            kept = lease.xp.ones((1000,))
            with stopped(pids(client)[0]):
                call = Background(lambda: lease.fetch(lease.xp.sum(kept)))  # noqa: B023 - it has ended before the next
                wait_until(lambda: device(client).arena_used, "the call is with the worker")
                client.dealloc(lease.id)
            assert call.result() == 1000
            wait_until(lambda: not device(client).slots_used, "the slot is free")
            assert device(client).memory_held == 0
        assert device(client).epoch == 1


def test_hung_worker_does_not_hold_up_a_release(start_server: StartServer) -> None:
    with Client(start_server("--slots", "1").url, timeout=30) as client:
        lease = client.alloc()
        kept = keep(lease)
        pid = pids(client)[0]
        with stopped(pid):
            began = time.monotonic()
            client.dealloc(lease.id)
            assert time.monotonic() - began < 0.5
            assert device(client).slots_used == 1
            wait_until(lambda: not device(client).slots_used, "the slot is free", DROP_PATIENCE + 1)
            assert time.monotonic() - began > DROP_PATIENCE - 0.1
            wait_until(lambda: not alive(pid), "the hung process is gone")
        assert device(client).epoch == 2
        assert device(client).memory_held == 0
        with client.lease(timeout=20) as another:
            assert another.finish(another.xp.sum(another.xp.ones((2,)))) == 2
        del kept


def test_call_that_meets_a_hung_worker_does_not_wait_for_its_own_deadline(start_server: StartServer) -> None:
    with Client(start_server().url, timeout=30) as client:
        first, second = client.alloc(), client.alloc()
        kept = keep(first)
        with stopped(pids(client)[0]):
            client.dealloc(first.id)
            began = time.monotonic()
            with pytest.raises(remotegpu.LeaseLost):
                second.fetch(second.xp.ones((2,)), timeout=20)
            assert time.monotonic() - began < DROP_PATIENCE + 2
        assert second.fetch(second.xp.sum(second.xp.ones((2,)))) == 2
        second.dealloc()
        del kept


def test_worker_that_answers_late_gets_no_call_meanwhile_and_is_not_killed(start_server: StartServer) -> None:
    with Client(start_server().url, timeout=30) as client:
        first, second = client.alloc(), client.alloc()
        kept = keep(first)
        with stopped(pids(client)[0]):
            client.dealloc(first.id)
            with pytest.raises(remotegpu.DeadlineExceeded):
                second.fetch(second.xp.zeros((1,)), timeout=0.2)
            assert device(client).arena_used == 0  # it could be taken back, so it had not been sent
            call = Background(lambda: second.fetch(second.xp.sum(second.xp.ones((2,)))))
            wait_until(lambda: device(client).arena_used, "the call is there")
        assert call.result() == 2
        assert device(client).memory_held == 8
        assert device(client).epoch == 1
        second.dealloc()
        del kept


def test_daemon_that_was_held_up_itself_does_not_blame_the_worker(start_server: StartServer) -> None:
    server = start_server()
    with Client(server.url, timeout=30) as client:
        lease = client.alloc()
        kept = keep(lease)
        with stopped(pids(client)[0]):
            client.dealloc(lease.id)
            with stopped(server.process.pid):
                time.sleep(DROP_PATIENCE + 0.4)  # time that passes for nobody
            assert device(client).slots_used == 1
        wait_until(lambda: not device(client).slots_used, "the slot is free")
        assert device(client).epoch == 1
        del kept
