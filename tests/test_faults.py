# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Processes that die, hang or stop, with calls under way."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import remotegpu
from remotegpu import Client, wire
from remotegpu.local import LocalServer
from remotegpu.v1 import compute_pb2, program_pb2
from remotegpu_server import daemon
from remotegpu_server import settings as server_settings
from remotegpu_server.supervisor.worker import DeviceSpec, WorkerOptions
from tests.conftest import StartServer, alive, halt, pids, wait_until
from tests.fixtures.proxy import FaultProxy

MIB = 1024**2


def keep_busy(lease: remotegpu.Lease, times: int = 400, timeout: float = 30) -> None:
    """A program of several seconds on one core."""
    x = lease.xp.eye(1500)
    for _ in range(times):
        x = x @ x
    lease.fetch(lease.xp.sum(x), timeout=timeout)


class Background:
    """Runs something in a thread and keeps how it ended."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.error: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.error = error

    def join(self) -> BaseException | None:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.error


def running_calls(client: Client) -> int:
    return sum(lease.calls_running for lease in client.top().leases)


def gone(pid: int) -> bool:
    return not alive(pid)


def arena_used(client: Client) -> int:
    return sum(device.arena_used for device in client.top().devices)


def test_worker_killed_during_a_call_is_a_retryable_error_and_the_next_call_works(start_server: StartServer) -> None:
    server = start_server()
    with Client(server.url, timeout=20) as client:
        lease = client.alloc()
        kept = lease.xp.ones((10,))
        lease.fetch(lease.xp.sum(kept))
        call = Background(lambda: keep_busy(lease))
        wait_until(lambda: running_calls(client) and arena_used(client), "the call runs")
        os.kill(pids(client)[0], signal.SIGKILL)
        error = call.join()
        assert isinstance(error, remotegpu.LeaseLost)
        assert error.retryable
        # The lease keeps its place, its data is gone, and a handle of the old worker never gives a wrong answer.
        with pytest.raises(remotegpu.LeaseLost) as caught:
            lease.fetch(kept)
        assert caught.value.epoch == 2
        np.testing.assert_array_equal(lease.fetch(lease.xp.ones((3,))), [1, 1, 1])
        assert lease.id[:8] in [entry.lease for entry in client.top().leases]
        lease.dealloc()
        wait_until(lambda: not client.top().leases, "the lease has ended")
        assert arena_used(client) == 0


def test_other_devices_do_not_notice_a_dead_worker(start_server: StartServer) -> None:
    server = start_server(gpus="cpu:2")
    with Client(server.url, timeout=20) as client:
        first, second = client.alloc(), client.alloc()
        kept = second.xp.asarray([1.0, 2.0])
        second.fetch(second.xp.sum(kept))
        os.kill(pids(client)[0], signal.SIGKILL)
        np.testing.assert_array_equal(second.fetch(kept), [1.0, 2.0])
        wait_until(lambda: client.top().devices[0].epoch == 2, "the death was noticed")
        np.testing.assert_array_equal(first.fetch(first.xp.zeros((1,))), [0.0])
        epochs = [device.epoch for device in client.top().devices]
        assert epochs == [2, 1]


def test_calls_that_wait_for_a_dead_worker_are_not_run_again(start_server: StartServer) -> None:
    server = start_server()
    with Client(server.url, timeout=20) as client:
        calls = [Background(lambda: keep_busy(client.alloc())) for _ in range(4)]
        wait_until(lambda: running_calls(client) == 4, "all calls are there")
        os.kill(pids(client)[0], signal.SIGKILL)
        assert [type(call.join()) for call in calls] == [remotegpu.LeaseLost] * 4
        wait_until(lambda: client.top().devices[0].state == "ready", "the worker is back")
        assert client.top().devices[0].calls == 0


def test_lease_of_a_dead_worker_can_be_given_back(start_server: StartServer) -> None:
    server = start_server("--slots", "1")
    with Client(server.url, timeout=20) as client:
        lease = client.alloc()
        lease.fetch(lease.xp.sum(lease.xp.ones((4,))))
        os.kill(pids(client)[0], signal.SIGKILL)
        lease.dealloc()
        client.alloc(timeout=20).dealloc()


def test_deadline_is_heard_in_time_and_capacity_comes_back_when_the_worker_is_done(start_server: StartServer) -> None:
    server = start_server("--slots", "1")
    with Client(server.url, timeout=30) as client:
        started = time.monotonic()
        with pytest.raises(remotegpu.DeadlineExceeded), client.lease() as lease:
            keep_busy(lease, times=10, timeout=0.2)  # longer than 0.2 s, shorter than OVERRUN on a crowded machine
        assert time.monotonic() - started < 1.5
        with pytest.raises(remotegpu.Busy):
            client.alloc_nowait()
        client.alloc(timeout=20).dealloc()
        assert client.top().devices[0].epoch == 1
        assert arena_used(client) == 0


def test_worker_that_overruns_its_deadline_is_replaced(start_server: StartServer) -> None:
    server = start_server()
    with Client(server.url, timeout=30) as client:
        halt(pids(client)[0])  # stands for a kernel that hangs
        with pytest.raises(remotegpu.DeadlineExceeded), client.lease() as lease:
            lease.fetch(lease.xp.ones((1,)), timeout=0.3)
        assert client.models() == ()  # the server answers all the time
        wait_until(lambda: client.top().devices[0].epoch == 2, "the hung worker was replaced")
        with client.lease(timeout=20) as lease:
            assert lease.finish(lease.xp.sum(lease.xp.ones((2,)))) == 2
        assert client.top().devices[0].slots_used == 0


def test_caller_that_disappears_leaves_the_queue_and_no_slab(start_server: StartServer) -> None:
    server = start_server("--slots", "1")
    with Client(server.url, timeout=30) as client:
        holder = client.alloc()
        script = f"import remotegpu\nremotegpu.Client({server.url!r}).alloc(timeout=30)\n"
        with subprocess.Popen([sys.executable, "-c", script]) as other:
            wait_until(lambda: client.top().queue, "the other one waits")
            other.kill()
        wait_until(lambda: not client.top().queue, "its place is free")
        assert arena_used(client) == 0
        holder.dealloc()
        client.alloc_nowait().dealloc()


def test_call_is_taken_back_when_its_caller_disappears(start_server: StartServer) -> None:
    server = start_server()
    with Client(server.url, timeout=30) as client:
        busy = Background(lambda: keep_busy(client.alloc(), times=30))
        wait_until(lambda: running_calls(client) == 1, "the device is busy")
        with Client(server.url, timeout=30) as other:
            gone = [Background(lambda: keep_busy(other.alloc(idle_ttl=0.2), times=400)) for _ in range(3)]
            wait_until(lambda: running_calls(client) == 4, "all calls are there")
        ended = (remotegpu.ConnectionLost, remotegpu.ConfigurationError)  # broken off, or about to be sent again
        assert all(isinstance(call.join(), ended) for call in gone)
        # They could be taken up again by another stream of the same client, for some seconds.
        wait_until(lambda: running_calls(client) <= 1, "their calls have ended", 15)
        assert busy.join() is None
        # One of the three may have been in the worker's socket already; it runs, and then nothing is left.
        os.kill(pids(client)[0], signal.SIGKILL)
        wait_until(lambda: arena_used(client) == 0, "no slab is left")


def test_connection_that_goes_silent_is_a_deadline_and_the_next_connection_works(server: LocalServer) -> None:
    with FaultProxy(("127.0.0.1", server.port)) as proxy:
        address = f"grpc://127.0.0.1:{proxy.address[1]}"
        with Client(address) as client:
            client.models()
            proxy.blackhole(True)
            with pytest.raises(remotegpu.DeadlineExceeded), client.lease() as lease:
                lease.fetch(lease.xp.ones((1,)), timeout=0.3)
        proxy.blackhole(False)
        proxy.cut()
        with Client(address) as client:
            assert client.models()


def test_nothing_listens() -> None:
    with (
        Client("grpc://127.0.0.1:9", timeout=0.3) as client,
        pytest.raises(remotegpu.ConnectError, match=r"127\.0\.0\.1:9"),
    ):
        client.models()


def test_host_that_has_no_address() -> None:
    client = Client("grpc://no.such.host.invalid:50051", timeout=0.3)
    with client, pytest.raises(remotegpu.ConnectError, match=r"no\.such\.host"):
        client.models()


def test_server_that_comes_late_is_found(start_server: StartServer) -> None:
    server = start_server()
    port = server.port
    server.stop()
    with Client(f"grpc://127.0.0.1:{port}", timeout=20) as client:
        call = Background(client.models)
        late = LocalServer(["--gpus", "cpu", "--arena", "16MiB", "--listen", f"127.0.0.1:{port}"])
        assert call.join() is None
        late.stop()


def test_sigterm_drains(start_server: StartServer) -> None:
    server = start_server("--slots", "1")
    with Client(server.url, timeout=30) as client:
        call = Background(lambda: keep_busy(client.alloc(), times=15))
        wait_until(lambda: running_calls(client) == 1, "the call runs")
        waiter = Background(lambda: client.alloc(timeout=30))
        wait_until(lambda: client.top().queue, "somebody waits")
        server.process.send_signal(signal.SIGTERM)
        assert isinstance(waiter.join(), remotegpu.Unavailable)
        assert call.join() is None
        assert server.process.wait(15) == 0


def test_killed_daemon_leaves_no_worker_even_a_busy_one(start_server: StartServer) -> None:
    server = start_server(gpus="cpu:2")
    with Client(server.url, timeout=30) as client:
        call = Background(lambda: keep_busy(client.alloc()))
        wait_until(lambda: running_calls(client) == 1, "a worker is busy")
        workers = pids(client)
        assert len(workers) == 2
        server.process.kill()
        server.process.wait()
        for pid in workers:
            wait_until(functools.partial(gone, pid), f"worker {pid} is gone")
        assert isinstance(call.join(), remotegpu.TransportError)


def test_local_server_ends_with_its_process(tmp_path: Path) -> None:

    script = (
        "import os, remotegpu\n"
        "client = remotegpu.Client('local:')\n"
        "print(client.top().devices[0].worker_pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    output = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=False).stdout
    pid = int(output)
    wait_until(lambda: not alive(pid), "the worker of a killed client's local server is gone")


def test_worker_that_cannot_start_is_one_sentence(start_server: StartServer) -> None:
    with pytest.raises(remotegpu.ConfigurationError, match=r"device 0 .*--session-option intra_op_num_threads=many"):
        start_server("--session-option", "intra_op_num_threads=many")


def test_worker_that_hangs_while_the_server_starts_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    # No process of Python's is ready so soon: it stands for one that never is.
    monkeypatch.setattr(daemon, "WorkerOptions", functools.partial(WorkerOptions, start_patience=0.01))
    settings = server_settings.resolve({"listen": "127.0.0.1:0", "arena": "16MiB"}, {})
    device = DeviceSpec(0, "cpu", "CPU", "CPU-0", 2**30)
    started = daemon.Daemon(settings, [device])
    with pytest.raises(remotegpu.ConfigurationError, match=r"device 0 \(CPU\): it was not ready within 0\.01 s"):
        asyncio.run(asyncio.wait_for(started.run(lambda port, workers: None, asyncio.Event()), 20))


SHORT_OF_PATIENCE = """
from remotegpu_server import cli
from remotegpu_server.gateway import service
service._PIECE_PATIENCE = 1.0
cli.main(["--gpus", "cpu", "--arena", "16MiB", "--listen", "127.0.0.1:0", "--stop-at-end-of-input"])
"""


def test_upload_that_stops_is_cut_off_and_those_who_wait_for_its_memory_go_on() -> None:
    over = threading.Event()
    tensor = program_pb2.Tensor(dtype=2, shape=(12 * MIB,), size=12 * MIB)  # type: ignore[arg-type]
    program = program_pb2.Program(
        nodes=[program_pb2.Node(tensor=tensor)], outputs=[program_pb2.Output(ref=program_pb2.Ref(node=0), fetch=True)]
    )
    head = compute_pb2.RunHeader(body_size=12 * MIB, deadline_ms=600_000).SerializeToString()

    def messages() -> Iterator[bytes]:
        yield wire.join(head, program.SerializeToString())
        yield wire.join(b"", b"", (bytes(MIB),))
        over.wait(30)

    with subprocess.Popen(
        [sys.executable, "-c", SHORT_OF_PATIENCE], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        _, _, port = server.stdout.readline().split(b", ")[0].decode().rpartition(":")
        with (
            Client(f"grpc://127.0.0.1:{port}", timeout=20) as client,
            grpc.insecure_channel(f"127.0.0.1:{port}") as raw,
        ):
            stream: Any = raw.stream_stream("/remotegpu.v1.Compute/RunStream")  # type: ignore[call-arg]
            stalled = stream(messages())
            wait_until(lambda: arena_used(client) > 12 * MIB, "the upload has begun")
            with client.lease() as lease:
                small = lease.xp.ones((4,))
                assert lease.fetch(lease.xp.sum(small)) == 4
                large = np.ones(8 * MIB, np.uint8)  # there is no room for it now
                assert lease.finish(lease.xp.sum(lease.xp.asarray(large))) == large.size
            with pytest.raises(grpc.RpcError) as caught:
                list(stalled)
            over.set()
            failure: Any = caught.value
            details = [value for key, value in failure.trailing_metadata() if key == wire.ERROR_KEY]
            error = wire.error_from(details[0])
            assert isinstance(error, remotegpu.DeadlineExceeded)
            assert error.deadline == 1
            assert arena_used(client) == 0
            (device,) = client.top().devices
            assert (device.epoch, device.slots_used) == (1, 0)


def test_process_that_never_closes_its_client_ends(server: LocalServer) -> None:
    script = f"import remotegpu\nclient = remotegpu.Client({server.url!r})\nclient.models()\n"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=20)
