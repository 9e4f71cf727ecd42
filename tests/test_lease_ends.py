# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Leases and slabs that end at awkward moments. A stopped worker (SIGSTOP) stands for a long program: a test can put
things in order before the program "runs"."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

import remotegpu
from remotegpu import Client, errors, wire
from remotegpu.v1 import compute_pb2, program_pb2
from remotegpu_server.supervisor.overrun import OVERRUN
from tests.conftest import StartServer, halt, pids, wait_until

MIB = 1024**2


class Background:
    """Runs something in a thread; `result` joins and raises what it raised."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._work()
        except BaseException as error:
            self._error = error

    def runs(self) -> bool:
        return self._thread.is_alive()

    def result(self) -> Any:
        self._thread.join(40)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error
        return self._value


@contextlib.contextmanager
def stopped(client: Client, device: int) -> Iterator[None]:
    pid = pids(client)[device]
    halt(pid)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def device_of(client: Client, lease: remotegpu.Lease) -> int:
    uuids = [device.uuid for device in client.top().devices]
    return uuids.index(lease.devices[0].uuid)


def in_arenas(client: Client) -> int:
    return sum(device.arena_used for device in client.top().devices)


def nothing_used(client: Client) -> bool:
    top = client.top()
    return not top.leases and not any(d.slots_used + d.memory_held + d.arena_used for d in top.devices)


def test_short_call_behind_a_long_one_does_not_get_the_worker_killed(start_server: StartServer) -> None:
    with Client(start_server().url, timeout=30) as client:
        first, second = client.alloc(), client.alloc()
        with stopped(client, 0):
            long = Background(lambda: first.finish(first.xp.sum(first.xp.ones((3,)))))
            wait_until(lambda: in_arenas(client), "the long call is with the worker")
            with pytest.raises(remotegpu.DeadlineExceeded):
                second.fetch(second.xp.zeros((1,)), timeout=0.2)
            time.sleep(OVERRUN + 0.5)  # the time after which the wrong one would be blamed
        assert long.result() == 3
        assert client.top().devices[0].epoch == 1
        second.dealloc()
        wait_until(lambda: nothing_used(client), "all is free")


def test_lease_that_ends_during_its_own_finish_gives_its_place_back(start_server: StartServer) -> None:
    with Client(start_server("--slots", "1").url, timeout=30) as client:
        lease = client.alloc(hard_ttl=0.5)
        with stopped(client, 0):
            call = Background(lambda: lease.finish(lease.xp.ones((3,))))
            wait_until(lambda: in_arenas(client), "the call is with the worker")
            wait_until(lambda: client.top().counters.expired, "the hard cap has come")
        call.result()
        wait_until(lambda: nothing_used(client), "the slot is free")
        client.alloc_nowait().dealloc()


def test_death_of_another_worker_does_not_lose_a_place_that_is_being_given_back(start_server: StartServer) -> None:
    with Client(start_server("--slots", "1", gpus="cpu:2").url, timeout=30) as client:
        lease = client.alloc()
        device = device_of(client, lease)
        with stopped(client, device):
            call = Background(lambda: lease.fetch(lease.xp.ones((3,))))
            wait_until(lambda: in_arenas(client), "the call is with the worker")
            client.dealloc(lease.id)
            os.kill(pids(client)[1 - device], signal.SIGKILL)
            wait_until(lambda: client.top().devices[1 - device].epoch == 2, "the other worker's death was noticed")
        call.result()
        wait_until(lambda: nothing_used(client), "both slots are free")
        client.alloc(gpus=2, timeout=20).dealloc()


def test_lease_that_ends_while_its_body_arrives_runs_nothing(start_server: StartServer) -> None:
    server = start_server()
    with Client(server.url, timeout=30) as client, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        lease = client.alloc()
        tensor = program_pb2.Tensor(dtype=11, shape=(2,), size=8)  # type: ignore[arg-type]  # float32
        output = program_pb2.Output(ref=program_pb2.Ref(node=0), fetch=True, keep=1)
        program = program_pb2.Program(nodes=[program_pb2.Node(tensor=tensor)], outputs=[output])
        head = compute_pb2.RunHeader(lease=lease.id, body_size=8).SerializeToString()
        go_on = threading.Event()

        def messages() -> Iterator[bytes]:
            yield wire.join(head, program.SerializeToString())
            go_on.wait(20)
            yield wire.join(b"", b"", (bytes(8),))

        stream: Any = channel.stream_stream("/remotegpu.v1.Compute/RunStream")  # type: ignore[call-arg]
        call = Background(lambda: list(stream(messages(), timeout=20)))
        wait_until(lambda: in_arenas(client), "the upload has begun")
        client.dealloc(lease.id)
        go_on.set()
        with pytest.raises(grpc.RpcError) as caught:
            call.result()
        failure: Any = caught.value
        details = [value for key, value in failure.trailing_metadata() if key == wire.ERROR_KEY]
        assert isinstance(wire.error_from(details[0]), errors.LeaseExpired)
        wait_until(lambda: nothing_used(client), "nothing was kept")


def test_two_calls_of_one_lease_the_first_with_finish(start_server: StartServer) -> None:
    with Client(start_server("--slots", "1").url, timeout=30) as client:
        lease = client.alloc()
        kept = lease.xp.ones((1000,))
        with stopped(client, 0):
            first = Background(lambda: lease.finish(lease.xp.zeros((1,))))
            wait_until(lambda: in_arenas(client), "the first call is with the worker")
            before = in_arenas(client)
            second = Background(lambda: lease.fetch(kept))
            wait_until(lambda: in_arenas(client) > before, "the second call is with the worker")
        first.result()
        second.result()
        wait_until(lambda: nothing_used(client), "what the second call kept is gone")
        client.alloc_nowait().dealloc()


def test_finish_leaves_nothing_in_the_figures(start_server: StartServer) -> None:
    with Client(start_server().url, timeout=30) as client:
        lease = client.alloc()
        kept = lease.xp.ones((1000,))
        lease.fetch(lease.xp.sum(kept))
        assert client.top().devices[0].memory_held > 8000
        lease.finish(kept)
        assert nothing_used(client)


def test_failed_finish_leaves_the_lease_as_it_was(start_server: StartServer) -> None:
    with Client(start_server().url, timeout=30) as client, client.alloc() as lease:
        xp = lease.xp
        kept = xp.asarray([1.0, 2.0, 3.0])
        lease.fetch(xp.sum(kept))
        chosen = kept[kept > 1.5]
        with pytest.raises(remotegpu.RemoteError):
            lease.finish(chosen + kept)
        np.testing.assert_array_equal(lease.finish(kept), [1, 2, 3])


def test_who_gives_up_waiting_for_a_slab_holds_up_nobody(start_server: StartServer) -> None:
    with Client(start_server().url, timeout=30) as client:
        leases = [client.alloc() for _ in range(3)]
        arrays = [
            lease.xp.asarray(np.zeros(size, np.uint8))
            for lease, size in zip(leases, (10 * MIB, 12 * MIB, 10), strict=True)
        ]
        with stopped(client, 0):
            large = Background(lambda: leases[0].finish(leases[0].xp.sum(arrays[0])))
            wait_until(lambda: in_arenas(client) > 10 * MIB, "the large one has its slab")
            used = in_arenas(client)
            with pytest.raises(remotegpu.DeadlineExceeded):
                leases[1].fetch(leases[1].xp.sum(arrays[1]), timeout=0.3)
            small = Background(lambda: leases[2].finish(leases[2].xp.sum(arrays[2])))
            wait_until(lambda: in_arenas(client) > used, "the small one has its slab")
        assert large.result() == small.result() == 0
        leases[1].dealloc()
        wait_until(lambda: nothing_used(client), "all is free")


def test_cancelled_calls_that_had_not_begun_give_their_slabs_back(start_server: StartServer) -> None:
    with Client(start_server().url, timeout=30) as client:
        leases = [client.alloc() for _ in range(5)]
        with stopped(client, 0):
            calls = [Background(lambda lease=lease: lease.fetch(lease.xp.zeros((1,)), timeout=0.5)) for lease in leases]  # type: ignore[misc]
            for call in calls:
                with pytest.raises(remotegpu.DeadlineExceeded):
                    call.result()
        wait_until(lambda: in_arenas(client) == 0, "no slab is left, in the same arena as before")
        assert client.top().devices[0].epoch == 1


def test_streamed_replies_give_their_slabs_back(start_server: StartServer) -> None:
    with Client(start_server().url, timeout=30) as client, client.alloc() as lease:
        for _ in range(4):  # 40 MiB in all, through an arena of 16
            assert lease.fetch(lease.xp.zeros((10 * MIB,), dtype=lease.xp.uint8)).size == 10 * MIB


@pytest.mark.slow
def test_caller_that_does_not_read_is_cut_off_and_others_go_on(start_server: StartServer) -> None:
    server = start_server()
    # Without read-ahead: gRPC would otherwise grow its window until the whole reply fits into it.
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536)]
    address = f"127.0.0.1:{server.port}"
    with Client(server.url, timeout=40) as client, grpc.insecure_channel(address, options) as channel:
        zeros = program_pb2.Operation(name="zeros", args=[program_pb2.Argument(integer=14 * MIB // 8)])
        node, output = program_pb2.Node(operation=zeros), program_pb2.Output(ref=program_pb2.Ref(node=0), fetch=True)
        program = program_pb2.Program(nodes=[node], outputs=[output]).SerializeToString()
        head = compute_pb2.RunHeader(deadline_ms=600_000).SerializeToString()
        stream: Any = channel.unary_stream("/remotegpu.v1.Compute/RunStream")  # type: ignore[call-arg]
        reader = stream(wire.join(head, program))
        next(reader)  # and no more
        with client.lease() as lease:
            assert lease.finish(lease.xp.zeros((4 * MIB,), dtype=lease.xp.uint8)).size == 4 * MIB
        assert client.top().devices[0].epoch == 1
        with pytest.raises(grpc.RpcError):
            list(reader)
