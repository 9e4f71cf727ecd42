# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Clients and servers that die, freeze and crowd: nothing is leaked, nobody is forgotten. Real processes throughout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import remotegpu
from remotegpu import Client
from remotegpu.local import LocalServer
from tests.conftest import StartServer, halt, wait_until

ROOT = Path(__file__).resolve().parent.parent

# A process that does something with a lease and says so; it ends only by being killed.
ACTOR = """
import sys, time, threading
import numpy as np
import remotegpu
client = remotegpu.Client(sys.argv[1])
what = sys.argv[2]
if what == "waits":
    threading.Timer(0.2, lambda: print("waits", flush=True)).start()
    client.alloc(exclusive=True, timeout=60)
elif what == "holds":
    lease = client.alloc(exclusive=True, idle_ttl=1.0)
    kept = lease.xp.asarray(np.ones(1000000)) + 1
    lease.fetch(lease.xp.sum(kept))
    print("holds", flush=True)
    time.sleep(1000)
else:
    print("allocates", flush=True)
    while True:
        client.alloc_nowait(idle_ttl=1.0)
"""


@pytest.fixture
def actor() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that the test starts, killed at its end."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def start(started: list[subprocess.Popen[str]], server: LocalServer, what: str) -> subprocess.Popen[str]:
    """Runs the actor until it says that it does what it is to do."""
    command = [sys.executable, "-c", ACTOR, server.url, what]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    started.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == what + "\n"
    return process


def test_a_client_killed_while_it_waits_frees_its_place_at_once(
    start_server: StartServer, actor: list[subprocess.Popen[str]]
) -> None:
    server = start_server()
    with Client(server.url) as client, client.alloc(exclusive=True):
        process = start(actor, server, "waits")
        wait_until(lambda: client.top().queue, "it waits")
        process.kill()
        wait_until(lambda: not client.top().queue, "its place is free", 1)


def test_a_client_killed_while_it_holds_a_lease_is_reclaimed_by_the_ttl_and_not_before(
    start_server: StartServer, actor: list[subprocess.Popen[str]]
) -> None:
    server = start_server()
    with Client(server.url) as client:
        process = start(actor, server, "holds")
        killed = time.monotonic()
        process.kill()
        process.wait()
        assert [lease.state for lease in client.top().leases] == ["active"], "a dead connection ends no lease"
        lease = client.alloc(exclusive=True, timeout=20)
        waited = time.monotonic() - killed
        assert waited <= 1.0 + 1.0 + 0.5, f"TTL 1 s, reclaimed after {waited:.2f} s"
        (device,) = client.top().devices
        assert device.memory_held == 0
        lease.dealloc()
        assert client.top().counters.expired == 1


def test_clients_killed_while_they_allocate_leave_nothing(
    start_server: StartServer, actor: list[subprocess.Popen[str]]
) -> None:
    server = start_server("--slots", "64")
    with Client(server.url) as client:
        for _ in range(5):
            process = start(actor, server, "allocates")
            enough = client.top().counters.granted + 3

            def allocating(least: int = enough) -> bool:
                return client.top().counters.granted > least

            wait_until(allocating, "it allocates")
            process.kill()
        wait_until(lambda: not client.top().leases and not client.top().queue, "all are reclaimed", 6)
        assert client.top().devices[0].slots_used == 0


def test_a_restarted_server_knows_no_lease_of_the_old_one_and_fences_higher(models: Path) -> None:
    server = LocalServer(["--gpus", "cpu", "--arena", "16MiB"])
    port = server.port
    with Client(server.url, timeout=20) as client:
        lease = client.alloc()
        waiting: list[object] = []

        def wait() -> None:
            try:
                waiting.append(client.alloc(exclusive=True, timeout=60))
            except remotegpu.Error as error:
                waiting.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        wait_until(lambda: client.top().queue, "one waits")
        server.process.kill()
        server.stop()
        again = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "remotegpu_server",
                "--gpus",
                "cpu",
                "--arena",
                "16MiB",
                "--listen",
                f"127.0.0.1:{port}",
            ],
            stdout=subprocess.PIPE,
        )
        try:
            assert again.stdout is not None
            assert b"ready" in again.stdout.readline()
            thread.join(20)
            # Its alloc was safe to repeat, so it was: on the new server, where the device is free.
            (found,) = waiting
            assert isinstance(found, remotegpu.Lease), found
            found.dealloc()
            with pytest.raises(remotegpu.LeaseUnknown):
                lease.fetch(lease.xp.ones(3))
            with client.alloc() as new:
                assert new.fence > lease.fence
                np.testing.assert_array_equal(new.fetch(new.xp.ones(3)), np.ones(3))
        finally:
            again.terminate()
            again.communicate()


def test_a_server_that_was_frozen_ends_what_is_due_and_goes_on(start_server: StartServer) -> None:
    server = start_server("--slots", "1")
    with Client(server.url, timeout=30) as client:
        deferred = client.lease(idle_ttl=1.0)  # not renewed by itself
        deferred.fetch(deferred.xp.ones(3))
        halt(server.process.pid)
        until = time.monotonic() + 1.5
        threading.Event().wait(until - time.monotonic())  # the length of the freeze, longer than the TTL
        os.kill(server.process.pid, signal.SIGCONT)
        with client.alloc(timeout=5) as lease:
            assert lease.fetch(lease.xp.sum(lease.xp.ones(3))) == 3
        with pytest.raises(remotegpu.LeaseExpired):
            deferred.fetch(deferred.xp.ones(3))


def test_a_wall_clock_that_jumps_ends_no_lease(tmp_path: Path) -> None:
    """Every reading of the wall clock is a day before or after the last one."""
    (tmp_path / "sitecustomize.py").write_text(
        "import time\n"
        "from itertools import count\n"
        "def jumping(read, day, turns=count()):\n"
        "    return lambda: read() + (day if next(turns) % 2 else -day)\n"
        "time.time = jumping(time.time, 86400)\n"
        "time.time_ns = jumping(time.time_ns, 86400 * 10**9)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    server = LocalServer(["--gpus", "cpu", "--slots", "1", "--arena", "16MiB"], environment)
    try:
        with Client(server.url, timeout=20) as client:
            with client.lease(idle_ttl=30) as lease:
                for _ in range(20):
                    assert lease.fetch(lease.xp.sum(lease.xp.ones(3))) == 3
                (facts,) = client.top().leases
                assert 29 < facts.ttl_left_s <= 30
                started = time.monotonic()
                with pytest.raises(remotegpu.Busy):
                    client.alloc(timeout=0.5)
                assert 0.4 < time.monotonic() - started < 5
            short = client.lease(idle_ttl=0.5)
            short.fetch(short.xp.ones(1))
            wait_until(lambda: not client.top().leases, "the TTL ends it", 3)
    finally:
        server.stop()


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_a_thousand_connections_at_once_are_all_served_by_one_device(start_server: StartServer) -> None:
    server = start_server("--slots", "8")
    processes, each = 8, 125
    command = [sys.executable, "-m", "tests.fixtures.crowd", server.url, str(each)]
    crowds = [
        subprocess.Popen([*command, str(i * each)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for i in range(processes)
    ]
    try:
        for crowd in crowds:
            assert crowd.stdout is not None
            assert crowd.stdout.readline() == "ready\n"
        for crowd in crowds:
            assert crowd.stdin is not None
            crowd.stdin.write("go\n")
            crowd.stdin.flush()
        results = [json.loads(crowd.communicate(timeout=120)[0]) for crowd in crowds]
    finally:
        for crowd in crowds:
            crowd.kill()
            crowd.communicate()
    assert [result["wrong"] for result in results] == [[]] * processes
    assert sum(result["right"] for result in results) == processes * each
    with Client(server.url) as client:
        wait_until(lambda: not client.top().leases, "all is given back")
        top = client.top()
        assert (top.devices[0].slots_used, top.devices[0].memory_held, len(top.queue)) == (0, 0, 0)
        assert top.counters.granted == processes * each
