# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What can be done with a lease, and with the scheduler, besides running programs."""

from __future__ import annotations

import collections
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import numpy as np
import pytest

import remotegpu
from remotegpu import Client
from remotegpu import watching as watching_module
from remotegpu.calls import Request
from remotegpu.config import LAMBDA_VARIABLE, LEASE_VARIABLE
from remotegpu.local import LocalServer
from remotegpu.v1 import compute_pb2, scheduler_pb2
from tests.conftest import StartServer, wait_until
from tests.fixtures.proxy import FaultProxy


@pytest.fixture
def passive(server: LocalServer) -> Iterator[Client]:
    """A client that renews nothing by itself."""
    with Client(server.url, timeout=20, renewal=False) as connected:
        yield connected


@pytest.fixture
def proxy(server: LocalServer) -> Iterator[FaultProxy]:
    with FaultProxy(("127.0.0.1", server.port)) as running:
        yield running


def entry(client: Client, lease: str) -> scheduler_pb2.LeaseStatus | None:
    """What the server says of a lease that is active."""
    found = [status for status in client.top().leases if status.lease == lease[:8] and status.state == "active"]
    return found[0] if found else None


def outlives(client: Client, lease: str, seconds: float) -> bool:
    """Whether it is still there at that age; its clock is the server's."""
    while (status := entry(client, lease)) is not None:
        if status.age_s > seconds:
            return True
    return False


# Renewal.


def test_renew_restarts_the_idle_clock(passive: Client) -> None:
    lease = passive.alloc(idle_ttl=1.0)
    assert lease.idle_ttl == 1.0
    wait_until(lambda: (e := entry(passive, lease.id)) and e.ttl_left_s < 0.7, "the clock runs")
    left = lease.renew()
    assert left is not None
    assert 0.7 < left <= 1.0
    wait_until(lambda: entry(passive, lease.id) is None, "it ends without renewal")
    for renew in (lease.renew, lambda: passive.renew(lease.id)):
        with pytest.raises(remotegpu.LeaseExpired, match="idle TTL"):
            renew()


def test_renew_of_what_is_no_lease(passive: Client) -> None:
    with pytest.raises(remotegpu.InvalidInput, match="deferred"):
        passive.lease().renew()
    with pytest.raises(remotegpu.LeaseUnknown):
        passive.renew("0" * 32)
    with pytest.raises(remotegpu.InvalidInput) as caught:
        passive.renew(5)  # type: ignore[arg-type]
    assert caught.value.field == "lease"
    lease = passive.alloc()
    lease.dealloc()
    with pytest.raises(remotegpu.LeaseExpired, match="deallocated"):
        lease.renew()


def test_lease_in_use_needs_no_renewal(server: LocalServer) -> None:
    with Client(server.url, timeout=20) as client, client.alloc(idle_ttl=3.0) as lease:
        calls, until = 0, time.monotonic() + 2.0  # twice the pace of renewals
        while time.monotonic() < until:
            lease.fetch(lease.xp.ones(()))
            calls += 1
            time.sleep(0.2)  # between calls, where a renewal would be due if they did not count
        assert client.statistics().round_trips == 1 + calls


def test_without_renewal_it_ends(server: LocalServer, passive: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = passive.alloc(idle_ttl=0.5)
    assert not outlives(passive, lease.id, 5)
    monkeypatch.setenv(LAMBDA_VARIABLE, "function")  # a frozen process could not renew: it must not count on it
    with Client(server.url, timeout=20) as client:
        lease = client.alloc(idle_ttl=0.5)
        assert not outlives(passive, lease.id, 5)


def renewing() -> bool:
    return any(thread.name == "remotegpu-renewal" for thread in threading.enumerate())


def test_thread_ends_with_its_last_lease_and_with_its_client(server: LocalServer) -> None:
    with Client(server.url, timeout=20) as client:
        assert not renewing()
        with client.lease() as deferred:
            deferred.fetch(deferred.xp.ones(()))
            assert not renewing()
        with client.alloc(idle_ttl=0.6):
            assert renewing()
        wait_until(lambda: not renewing(), "the lease has ended")
        lease = client.alloc(idle_ttl=30)
        assert renewing()
    wait_until(lambda: not renewing(), "the client is closed, long before the next renewal")
    with Client(server.url) as client:
        client.dealloc(lease.id)


def test_process_ends_while_its_leases_are_renewed(server: LocalServer) -> None:
    script = (
        "import sys, remotegpu\n"
        "client = remotegpu.Client(sys.argv[1])\n"
        "leases = [client.alloc(idle_ttl=0.15) for _ in range(4)]\n"
        "for _ in range(40): client.top()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, server.url], capture_output=True, text=True, timeout=30, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")


# Attaching.


def test_attached_lease_shares_devices_and_not_handles(passive: Client) -> None:
    with passive.alloc(gpus=2, memory=2**20, idle_ttl=20, hard_ttl=60) as owner:
        first = owner.xp.asarray([1.0])
        owner.fetch(first)
        attached = [passive.attach(owner.id) for _ in range(2)]
        arrays = [lease.xp.asarray([float(n)]) for n, lease in enumerate(attached)]
        for lease, array in zip(attached, arrays, strict=True):
            assert (lease.id, lease.fence, lease.devices) == (owner.id, owner.fence, owner.devices)
            assert [device.uuid for device in lease.devices] == [device.uuid for device in owner.devices]
            assert lease.idle_ttl == 20
            lease.fetch(array)
        # Each from the device: a handle that another one had taken would give its array.
        assert [owner.fetch(first)[0], *(lease.fetch(a)[0] for lease, a in zip(attached, arrays, strict=True))] == [
            1.0,
            0.0,
            1.0,
        ]
        second = attached[0].on(1)
        assert attached[0].fetch(second.xp.ones(())) == 1
        with pytest.raises(remotegpu.InvalidInput):
            attached[0].on(2)


def test_block_of_an_attached_lease_does_not_end_it(passive: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = passive.alloc()
    monkeypatch.setenv(LEASE_VARIABLE, owner.id)
    with passive.attach() as lease:
        lease.fetch(lease.xp.ones(()))
    assert lease.fetch(owner_sum(lease)) == 3
    assert entry(passive, owner.id) is not None
    with passive.attach() as lease:
        lease.finish(lease.xp.ones(()))
    wait_until(lambda: entry(passive, owner.id) is None, "finish ends it")
    with pytest.raises(remotegpu.LeaseExpired, match="deallocated"):
        passive.attach()


def owner_sum(lease: remotegpu.Lease) -> remotegpu.Array:
    array: remotegpu.Array = lease.xp.sum(lease.xp.ones((3,)))
    return array


def test_dealloc_of_an_attached_lease_and_by_its_short_id(passive: Client) -> None:
    leases = [passive.alloc() for _ in range(2)]
    passive.attach(leases[0].id).dealloc()
    assert len(leases[1].short_id) == 8
    assert leases[1].id.startswith(leases[1].short_id)
    assert passive.dealloc(leases[1].short_id) is True
    assert [passive.dealloc(lease.id) for lease in leases] == [False, False]


def test_attach_to_what_is_not_there(passive: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LEASE_VARIABLE, raising=False)
    with pytest.raises(remotegpu.ConfigurationError, match=LEASE_VARIABLE):
        passive.attach()
    with pytest.raises(remotegpu.LeaseUnknown):
        passive.attach("f" * 32)
    with passive.alloc() as lease, pytest.raises(remotegpu.LeaseUnknown):
        passive.attach(lease.short_id)  # which is no secret


def test_attached_lease_is_renewed_too(server: LocalServer, passive: Client) -> None:
    owner = passive.alloc(idle_ttl=1.0)
    with Client(server.url, timeout=20) as client:
        attached = client.attach(owner.id)
        assert outlives(passive, owner.id, 2.5)
        attached.dealloc()


def test_fence_grows_and_is_known_of_a_deferred_lease_after_its_first_call(passive: Client) -> None:
    with passive.alloc() as first, passive.alloc() as second, passive.lease() as third:
        assert 0 < first.fence < second.fence
        assert (third.fence, third.short_id) == (0, "")
        third.fetch(third.xp.ones(()))
        assert third.fence > second.fence


# Idempotent alloc.


def test_alloc_whose_answer_is_lost_is_the_same_lease(proxy: FaultProxy, passive: Client) -> None:
    with Client(f"grpc://127.0.0.1:{proxy.address[1]}", timeout=20) as client, futures.ThreadPoolExecutor(1) as pool:
        client.top()
        granted = passive.top().counters.granted
        proxy.delay = 1.0
        waiting = pool.submit(client.alloc)
        wait_until(lambda: passive.top().leases, "it is granted")
        (status,) = passive.top().leases
        proxy.delay = 0.0
        proxy.cut()  # the answer is on its way
        lease = waiting.result(timeout=20)
        assert lease.id[:8] == status.lease
        assert passive.top().counters.granted == granted + 1
        assert client.statistics().connections == 2
        lease.dealloc()


def test_alloc_goes_on_waiting_on_a_new_connection(proxy: FaultProxy, passive: Client) -> None:
    holder = passive.alloc(gpus=2, exclusive=True)
    with Client(f"grpc://127.0.0.1:{proxy.address[1]}", timeout=20) as client, futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.alloc, timeout=20)
        wait_until(lambda: passive.top().queue, "it waits")
        proxy.cut()
        wait_until(lambda: client.statistics().connections == 2 and len(passive.top().queue) == 1, "it waits again")
        assert not waiting.done()
        holder.dealloc()
        waiting.result(timeout=20).dealloc()


# Tenants.


def test_tenant_goes_with_every_call(server: LocalServer, passive: Client) -> None:
    with Client(server.url, timeout=20, tenant="team-a") as client, client.alloc(priority=9, model="linear") as lease:
        status = entry(passive, lease.id)
        assert status is not None
        assert (status.tenant, status.priority) == ("team-a", 9)
        # In one message and as a stream: without the tenant it would be somebody else's lease.
        assert lease.fetch(lease.xp.ones(())) == 1
        x = np.ones(2**17)
        np.testing.assert_array_equal(lease.fetch(lease.xp.asarray(x) + x), x + x)
        with pytest.raises(remotegpu.LeaseUnknown):
            passive.attach(lease.id)
        next(client.watch()).ListFields()


def test_model_without_a_lease_says_which_it_is(passive: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    headers: list[compute_pb2.RunHeader] = []

    def exchange(request: Request, *rest: Any) -> Any:
        headers.append(compute_pb2.RunHeader.FromString(request.head(1.0)))
        return Client.exchange(passive, request, *rest)

    monkeypatch.setattr(passive, "exchange", exchange)
    passive.model("linear")(np.zeros((1, 64), np.float32))
    assert [header.model for header in headers] == ["linear"]


# The scheduler.


def test_explain_says_what_alloc_would(passive: Client) -> None:
    granted = passive.explain()
    assert (granted.verdict, granted.why, len(granted.devices)) == ("granted", "", 1)
    assert [verdict.fits for verdict in granted.verdicts] == [True, True]
    with passive.alloc(gpus=2, exclusive=True):
        busy = passive.explain(priority=1)
        assert (busy.verdict, busy.devices, busy.place) == ("busy", (), 1)
        assert busy.retry_after > 0
        assert [(verdict.index, verdict.name, verdict.fits) for verdict in busy.verdicts] == [
            (0, "CPU", False),
            (1, "CPU", False),
        ]
        assert all(verdict.why for verdict in busy.verdicts)
        with pytest.raises(remotegpu.Busy) as caught:
            passive.alloc_nowait()
        assert busy.why[:20] == str(caught.value)[:20]
    impossible = passive.explain(gpus=3)
    assert (impossible.verdict, impossible.place, impossible.estimated_wait) == ("impossible", 0, None)
    assert "gpus 3" in impossible.why


def test_set_changes_what_is_given(start_server: StartServer) -> None:
    with Client(start_server("--slots", "4").url, timeout=20) as client:
        before = client.set()
        assert before.slots == 4
        assert client.set(slots=1, policy="least-loaded") == remotegpu.Settings("least-loaded", 1, before.queue)
        assert client.set(queue=0) == client.set() == remotegpu.Settings("least-loaded", 1, 0)
        with client.alloc(), pytest.raises(remotegpu.Busy):
            client.alloc(timeout=10)
        for field, given in {"policy": "best-guess", "slots": 0, "queue": -1}.items():
            with pytest.raises(remotegpu.InvalidInput) as caught:
                client.set(**{field: given})  # type: ignore[arg-type]  # the types are those of the names
            assert caught.value.field == field
        assert client.set().slots == 1


def test_watch_is_a_stream_of_snapshots(passive: Client, client: Client) -> None:
    watching = client.watch(0.1)
    assert not next(watching).leases
    trips = client.statistics().round_trips
    with passive.alloc() as lease:
        wait_until(lambda: [status.lease for status in next(watching).leases] == [lease.short_id], "it is seen")
    wait_until(lambda: not next(watching).leases, "its end is seen")
    assert client.statistics().round_trips == trips
    watching.close()
    assert client.statistics().round_trips == trips + 1
    with pytest.raises(StopIteration):
        next(watching)


@pytest.mark.parametrize("interval", [0.05, 0, -1, 60.1, float("inf"), "1"])
def test_watch_refuses_an_interval_at_once(client: Client, interval: Any) -> None:
    with pytest.raises(remotegpu.InvalidInput) as caught:
        client.watch(interval)
    assert caught.value.field == "interval"


def test_watch_is_one_stream_beyond_any_timeout_and_notices_silence(proxy: FaultProxy) -> None:
    with Client(f"grpc://127.0.0.1:{proxy.address[1]}", timeout=0.5) as client:
        watching = client.watch(0.1)
        start = next(watching).uptime_s
        wait_until(lambda: next(watching).uptime_s > start + 2, "it lives longer than any call may")
        assert client.statistics().round_trips == 0, "it has not ended and begun anew"
        time.sleep(1.0)  # the caller's own time is not the server's silence
        next(watching)
        proxy.blackhole(True)
        silent = time.monotonic()
        with pytest.raises(remotegpu.DeadlineExceeded) as caught:
            collections.deque(watching, maxlen=0)
        assert 0.5 < time.monotonic() - silent < 2.5
        assert caught.value.deadline == 0.6
        proxy.blackhole(False)


def test_watch_goes_on_with_a_new_stream_now_and_then(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching_module, "STREAM_LIFE", -4.8)  # 0.3 s with an interval of 0.1 s and the patience of 5 s
    watching = client.watch(0.1)
    wait_until(lambda: next(watching) and client.statistics().round_trips >= 3, "streams have ended")
    watching.close()


def test_watch_tells_that_the_server_is_gone(start_server: StartServer) -> None:
    server = start_server()
    with Client(server.url, timeout=20) as client:
        watching = client.watch(0.1)
        next(watching)
        server.process.kill()
        with pytest.raises(remotegpu.TransportError):
            for _ in watching:
                pass
