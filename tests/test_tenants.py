# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Several tenants on one server: quotas, whose lease is whose, who is served first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import remotegpu
from remotegpu import Client
from remotegpu.v1 import lease_pb2
from tests.conftest import StartServer, wait_until

TENANTS = """
[default]
gpus = 3
[tenants.vision]
leases = 2
memory = "64MiB"
priority = 4
[tenants.banned]
leases = 0
"""


def waiting(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Runs something that waits, in a thread; its result or error goes into the list."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except remotegpu.Error as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def test_quotas_of_a_file(start_server: StartServer, tmp_path: Path) -> None:
    (tmp_path / "tenants.toml").write_text(TENANTS)
    server = start_server("--tenants", str(tmp_path / "tenants.toml"), gpus="cpu:2")
    with Client(server.url, tenant="vision") as vision, Client(server.url) as other:
        leases = [vision.alloc_nowait(memory=20 << 20), vision.alloc_nowait()]
        with pytest.raises(remotegpu.QuotaExceeded) as full:
            vision.alloc_nowait()
        assert (full.value.what, full.value.asked, full.value.used, full.value.limit) == ("leases", 1, 2, 2)
        assert full.value.retryable
        assert full.value.place == 1
        leases.pop().dealloc()
        with pytest.raises(remotegpu.QuotaExceeded) as memory:
            vision.alloc_nowait(gpus=2, memory=30 << 20)
        assert (memory.value.what, memory.value.used) == ("memory", 20 << 20)
        with pytest.raises(remotegpu.Impossible, match="memory of this tenant"):
            vision.alloc_nowait(memory=65 << 20)
        with pytest.raises(remotegpu.Impossible, match="priority"):
            vision.alloc_nowait(priority=5)
        # Those with other quotas do not notice.
        gangs = [other.alloc_nowait(gpus=2), other.alloc_nowait()]
        with pytest.raises(remotegpu.QuotaExceeded, match="3 of its 3 gpus"):
            other.alloc_nowait()
        usage = {tenant.tenant: tenant for tenant in other.top().tenants}
        assert (usage["vision"].leases, usage["vision"].leases_limit, usage["default"].gpus) == (1, 2, 3)
        for lease in (*leases, *gangs):
            lease.dealloc()
    with Client(server.url, tenant="banned") as banned, pytest.raises(remotegpu.Impossible):
        banned.alloc_nowait()


def test_who_waits_for_the_own_quota_is_passed_and_served_when_it_allows(
    start_server: StartServer, tmp_path: Path
) -> None:
    (tmp_path / "tenants.toml").write_text("[tenants.small]\nleases = 1\n")
    server = start_server("--tenants", str(tmp_path / "tenants.toml"))
    with Client(server.url, tenant="small") as small, Client(server.url) as other:
        first = small.alloc()
        thread, found = waiting(lambda: small.alloc(timeout=20))
        wait_until(lambda: other.top().queue, "it waits")
        other.alloc_nowait().dealloc()
        assert not found
        first.dealloc()
        thread.join(10)
        (second,) = found
        second.dealloc()


def test_a_call_without_a_lease_counts_too(start_server: StartServer, tmp_path: Path, models: Path) -> None:
    (tmp_path / "tenants.toml").write_text("[tenants.small]\nleases = 1\n")
    server = start_server("--tenants", str(tmp_path / "tenants.toml"), "--models", str(models))
    x = np.ones((1, 64), np.float32)
    with Client(server.url, tenant="small") as small:
        assert small.model("linear")(x)["y"].shape == (1, 8)
        with small.alloc():
            with pytest.raises(remotegpu.QuotaExceeded) as caught:
                small.model("linear")(x, timeout=1.0)
            assert 0.8 < caught.value.waited < 1.0
        assert small.model("linear")(x)["y"].shape == (1, 8)


def test_a_lease_belongs_to_its_tenant(start_server: StartServer) -> None:
    server = start_server()
    with Client(server.url, tenant="a") as mine, Client(server.url, tenant="b") as theirs:
        lease = mine.alloc()
        for use in (theirs.attach, theirs.renew, theirs.dealloc):
            with pytest.raises(remotegpu.LeaseUnknown):
                use(lease.id)
        assert lease.fetch(lease.xp.sum(lease.xp.ones(3))) == 3
        # The public id is the operator's, who may end anybody's.
        assert theirs.dealloc(lease.id[:8])
        with pytest.raises(remotegpu.LeaseExpired):
            lease.fetch(lease.xp.ones(3))


def test_a_higher_priority_is_served_first(start_server: StartServer) -> None:
    server = start_server()
    with Client(server.url) as client:
        held = client.alloc(exclusive=True)
        order: list[str] = []

        def take(name: str, priority: int) -> Callable[[], None]:
            def work() -> None:
                lease = client.alloc(exclusive=True, timeout=20, priority=priority)
                order.append(name)
                lease.dealloc()

            return work

        threads = []
        for name, priority in (("low", 0), ("low too", 0), ("high", 3)):
            threads.append(waiting(take(name, priority))[0])
            wait_until(lambda: len(client.top().queue) == len(threads), "it waits")
        assert [waiter.priority for waiter in client.top().queue] == [3, 0, 0]
        held.dealloc()
        for thread in threads:
            thread.join(10)
        assert order == ["high", "low", "low too"]


def test_the_same_request_id_waits_once_and_gets_one_lease(start_server: StartServer) -> None:
    """As when a client repeats a request before the server knows that its first connection is dead."""
    server = start_server()
    request = lease_pb2.AllocRequest(gpus=1, exclusive=True, timeout_ms=20_000, request_id="abc", idle_ttl_ms=30_000)
    with Client(server.url) as client, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        method: Any = channel.unary_unary(
            "/remotegpu.v1.Scheduler/Alloc",
            request_serializer=lease_pb2.AllocRequest.SerializeToString,
            response_deserializer=lease_pb2.LeaseGrant.FromString,
        )
        held = client.alloc(exclusive=True)
        first, second = method.future(request), method.future(request)
        wait_until(lambda: client.top().queue, "it waits")
        third = method.future(request)
        first.cancel()
        assert len(client.top().queue) == 1, "one request, however often it was sent"
        held.dealloc()
        assert second.result(10).lease == third.result(10).lease != ""
        assert method(request).lease == second.result().lease
        other = method.future(request, metadata=(("remotegpu-tenant", "other"),))
        wait_until(lambda: client.top().queue, "another tenant's id is another request")
        other.cancel()
        wait_until(lambda: not client.top().queue, "it has left")
        assert client.dealloc(second.result().lease)
        with pytest.raises(grpc.RpcError) as over:
            method(request)
        assert over.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_a_tenant_with_an_unusable_name_is_refused(start_server: StartServer) -> None:
    server = start_server()
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        method: Any = channel.unary_unary("/remotegpu.v1.Scheduler/Top")  # type: ignore[call-arg]
        for name in ("", "a b", "x" * 65):
            with pytest.raises(grpc.RpcError) as caught:
                method(b"", metadata=(("remotegpu-tenant", name),))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_sticky_goes_where_the_model_has_run(start_server: StartServer, models: Path) -> None:
    server = start_server("--models", str(models), "--policy", "sticky", gpus="cpu:2")
    x = np.ones((1, 64), np.float32)
    with Client(server.url) as client:
        with client.lease() as lease:
            lease.finish(lease.model("linear")(x)["y"])
        (warm,) = [device.index for device in client.top().devices if "linear" in device.warm_models]
        uuid = client.top().devices[warm].uuid
        for _ in range(4):
            with client.alloc(model="linear") as lease:
                assert lease.devices[0].uuid == uuid
        client.set(policy="round-robin")
        found = set()
        for _ in range(4):
            with client.alloc(model="linear") as lease:
                found.add(lease.devices[0].uuid)
        assert len(found) == 2
