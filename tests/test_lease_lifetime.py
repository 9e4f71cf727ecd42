# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""How long a lease lives that nobody gives back: as long as anybody holds something of it, and no longer. The cyclic
garbage collector is off in these tests: it may come late, or never."""

from __future__ import annotations

import functools
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import remotegpu
from remotegpu import Client, Lease
from remotegpu.local import LocalServer
from remotegpu.v1 import lease_pb2
from tests.conftest import wait_until
from tests.fixtures.proxy import FaultProxy
from tests.test_lease_verbs import entry, outlives


@pytest.fixture
def passive(server: LocalServer) -> Iterator[Client]:
    """A client that renews nothing by itself."""
    with Client(server.url, timeout=20, renewal=False) as connected:
        yield connected


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def use(lease: Lease) -> None:
    """In all the ways there are."""
    xp = lease.xp
    x = xp.asarray(np.ones((4,))) + 1
    assert lease.fetch(xp.sum(x)) == 8
    assert x.__array_namespace__() is xp
    assert float(x[x > 1][0]) == 2
    assert lease.on(0).xp is xp
    assert lease.fetch(lease.model("linear")(np.ones((1, 64), np.float32))["y"]).shape == (1, 8)
    large = np.ones(2**17)
    assert lease.fetch(xp.asarray(large) + large).shape == large.shape  # as a stream
    repr(lease), repr(x), repr(xp), lease.renew()


def refuse(lease: Lease) -> None:
    """Errors of this process, of the server in one message and in a stream, of the network."""
    with pytest.raises(TypeError):
        lease.xp.sum("x")
    for size in (1, 2**17):
        bad = lease.model("none")(lease.xp.asarray(np.ones(size)))["y"]
        with pytest.raises(remotegpu.ModelNotFound):
            lease.fetch(bad)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("work", [use, refuse])
def test_lease_ends_when_nobody_holds_it(server: LocalServer, passive: Client, work: Callable[[Lease], None]) -> None:
    with Client(server.url, timeout=20) as client:
        lease = client.alloc(idle_ttl=1.0)
        work(lease)
        key, state = lease.id, weakref.ref(lease._state)
        assert outlives(passive, key, 2.5)
        del lease
        assert state() is None, "at once"
        wait_until(lambda: entry(passive, key) is None, "it ends by its TTL")
        wait_until(lambda: not renewing(), "the thread ends too")


def is_gone(reference: weakref.ref[Any]) -> bool:
    return reference() is None


def renewing() -> bool:
    return any(thread.name == "remotegpu-renewal" for thread in threading.enumerate())


def array_of(lease: Lease) -> Any:
    array = lease.xp.ones((3,))
    lease.fetch(array)
    return array


PARTS: dict[str, tuple[Callable[[Lease], Any], Callable[[Any], Any]]] = {
    "array": (array_of, lambda array: array.__array_namespace__().sqrt(array)),
    "namespace": (lambda lease: lease.xp, lambda xp: xp.ones((3,))),
    "function": (lambda lease: lease.xp.ones, lambda ones: ones((3,))),
    "device": (lambda lease: lease.on(0), lambda device: device.xp.ones((3,))),
}


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(("part", "ones"), PARTS.values(), ids=PARTS)
def test_lease_lives_and_works_as_long_as_a_part_of_it_is_held(
    server: LocalServer, passive: Client, part: Callable[[Lease], Any], ones: Callable[[Any], Any]
) -> None:
    with Client(server.url, timeout=20) as client:
        lease = client.alloc(idle_ttl=1.0)
        key, held = lease.id, part(lease)
        del lease
        assert outlives(passive, key, 2.5)
        np.testing.assert_array_equal(np.asarray(ones(held) + 1), [2, 2, 2])
        del held
        wait_until(lambda: entry(passive, key) is None, "nobody holds it any more")


@pytest.mark.usefixtures("no_collector")
def test_error_of_the_network_does_not_hold_a_lease(server: LocalServer) -> None:
    with (
        FaultProxy(("127.0.0.1", server.port)) as proxy,
        Client(f"grpc://127.0.0.1:{proxy.address[1]}", timeout=1, connect_timeout=0.3) as client,
    ):
        for size in (1, 2**17):
            lease = client.alloc()
            key, state = lease.id, weakref.ref(lease._state)
            proxy.blackhole(True)
            data = np.ones(size)
            sent = weakref.ref(data)
            with pytest.raises(remotegpu.TransportError):
                lease.fetch(lease.xp.asarray(data, copy=False), timeout=0.3)
            del data
            wait_until(functools.partial(is_gone, sent), "nor what was to be sent")  # gRPC's threads let go of it
            with pytest.raises(remotegpu.TransportError):
                lease.renew()  # which is tried again
            proxy.blackhole(False)
            del lease
            assert state() is None
            assert client.dealloc(key)


@pytest.mark.usefixtures("no_collector")
def test_dropped_client_is_gone_at_once_and_its_leases_end(server: LocalServer, passive: Client) -> None:
    client = Client(server.url, timeout=20)
    lease = client.alloc(idle_ttl=60)
    use(lease)
    key, gone = lease.id, weakref.ref(client)
    del client
    assert gone() is not None, "the lease needs it"
    del lease
    assert gone() is None
    wait_until(lambda: not renewing(), "the thread ends long before it would have renewed")
    passive.dealloc(key)


class Recorded(Client):
    """Lifts the fault when two renewals have failed."""

    failures = 0
    lift: Callable[[], None]

    def renewed(self, lease: str, timeout: float | None = None) -> lease_pb2.LeaseGrant:
        try:
            return super().renewed(lease, timeout)
        except remotegpu.TransportError:
            self.failures += 1
            if self.failures == 2:
                self.lift()
            raise


@pytest.mark.slow
def test_two_renewals_may_fail_by_silence(server: LocalServer, passive: Client) -> None:
    with (
        FaultProxy(("127.0.0.1", server.port)) as proxy,
        Recorded(f"grpc://127.0.0.1:{proxy.address[1]}", timeout=20) as client,
    ):
        client.lift = lambda: proxy.blackhole(False)
        lease = client.alloc(idle_ttl=2.0)
        proxy.blackhole(True)  # what is open then stays silent for good
        assert outlives(passive, lease.id, 4.5)
        assert client.failures == 2
        assert client.statistics().connections > 1
        lease.dealloc()
