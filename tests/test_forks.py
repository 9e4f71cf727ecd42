# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Clients in forked processes. Each test is a script of its own: a fork of the test process would take along all that
other tests have left there."""

from __future__ import annotations

import subprocess
import sys

import pytest

from remotegpu.local import LocalServer

PRELUDE = """
import multiprocessing, os, sys, threading, time, traceback
import numpy as np
import remotegpu
from remotegpu import Client

URL = sys.argv[1]
x = np.ones((1, 64), np.float32)

def child(work, seconds=20):
    "Runs it in a forked child, and fails if that fails or does not end."
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code) if code else sys.exit(0)
    until = time.monotonic() + seconds
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > until:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            raise SystemExit("the child hangs")
        time.sleep(0.005)
    assert ended[1] == 0, f"the child ended with {ended[1]}"
"""


def run(script: str, url: str) -> str:
    command = [sys.executable, "-W", "error", "-c", PRELUDE + script, url]
    if sys.version_info >= (3, 12):
        # Python warns of any fork with threads; that it is well with ours is what is tested.
        command[3:3] = ["-W", "ignore:This process:DeprecationWarning"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=55)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.stdout


def test_forked_children_call_while_the_parents_threads_do(server: LocalServer) -> None:
    """Often, since what goes wrong with a fork goes wrong now and then."""
    script = """
client = Client(URL, timeout=10)
client.top()  # a client that has not heard of the server yet could not have anything sent again
stop, done = threading.Event(), [0, 0]

large = np.ones((2, 200_000), np.float32)  # in calls that have streams of their own

def calling(index):
    while not stop.is_set():
        if index:
            client.model("linear")(x)
        else:
            with client.lease(timeout=10) as lease:
                lease.finish(lease.xp.asarray(large) + 1)
        done[index] += 1

failed = []
threading.excepthook = failed.append
threads = [threading.Thread(target=calling, args=(index,)) for index in range(2)]
for thread in threads:
    thread.start()
identity = client._transport._conversation._calls._identity

def work():
    assert client.model("linear")(x)["y"].shape == (1, 8)
    assert client._transport._conversation._calls._identity != identity
    assert client.submissions.submit(client.top).result(5).devices
    assert client.statistics().connections == 1
    assert Client(URL, timeout=10).top().devices

try:
    for _ in range(20):
        before = list(done)
        child(work)
        until = time.monotonic() + 10
        while not all(now > then for now, then in zip(done, before)):
            assert time.monotonic() < until and not failed, "the parent's calls go on"
            time.sleep(0.005)
finally:
    stop.set()
for thread in threads:
    thread.join(10)
assert not failed
client.close()
"""
    run(script, server.url)


def test_pool_of_forked_processes(server: LocalServer) -> None:
    script = """
client = Client(URL, timeout=10)
wanted = client.model("linear")(x)["y"]

def work(number):
    return os.getpid(), float(client.model("linear")(x * number)["y"].sum())

with multiprocessing.get_context("fork").Pool(3) as pool:
    outcomes = pool.map(work, range(12), chunksize=1)
    assert client.top().devices
    pool.close()
    pool.join()
assert len({pid for pid, _ in outcomes} - {os.getpid()}) > 1
assert sum(value for _, value in outcomes) != 0
assert client.top().devices
"""
    run(script, server.url)


def test_lease_of_the_parent_is_not_the_childs(server: LocalServer) -> None:
    script = """
client = Client(URL, timeout=10)
lease = client.alloc(idle_ttl=60)
kept = lease.xp.ones(3) + 1
lease.fetch(kept)
deferred = client.lease()

def work():
    with lease:
        for use in (lambda: lease.fetch(kept), lease.renew, lease.dealloc):
            try:
                use()
            except remotegpu.InvalidInput as error:
                assert "attach" in str(error), error
            else:
                raise AssertionError("it was used")
    with client.attach(lease.id) as mine:
        assert mine.fetch(mine.xp.ones(())) == 1
    with deferred:
        assert deferred.fetch(deferred.xp.ones(())) == 1

child(work)
assert lease.fetch(kept).tolist() == [2, 2, 2]
with deferred:
    assert deferred.fetch(deferred.xp.ones(())) == 1
lease.dealloc()
assert not client.top().leases
"""
    run(script, server.url)


def test_local_server_stays_the_parents(server: LocalServer) -> None:
    script = """
client = Client("local:", timeout=30)
pid = client.top().devices[0].worker_pid
staying, leaving = os.pipe()
lasting = os.fork()
if not lasting:
    os.read(staying, 1)  # lives longer than the server
    os._exit(0)

def work():
    assert client.top().devices[0].worker_pid == pid
    client.close()

child(work)
assert client.top().devices[0].worker_pid == pid
started = time.monotonic()
client.close()
assert time.monotonic() - started < 10  # the other child does not keep it
os.write(leaving, b"x")
os.waitpid(lasting, 0)
"""
    run(script, server.url)


def test_closed_client_stays_closed(server: LocalServer) -> None:
    script = """
client = Client(URL, timeout=10)
client.top()
client.close()

def work():
    try:
        client.top()
    except remotegpu.ConfigurationError as error:
        assert "closed" in str(error)
    else:
        raise AssertionError("it was used")

child(work)
"""
    run(script, server.url)


@pytest.mark.parametrize("used", [True, False])
def test_event_loop_of_the_parent_is_not_the_childs(server: LocalServer, used: bool) -> None:
    script = """
import asyncio
from remotegpu import AsyncClient

client = AsyncClient(URL, timeout=10)

async def call():
    try:
        return (await client.top()).devices
    finally:
        await client.close()

def work():
    if USED:
        try:
            asyncio.run(call())
        except remotegpu.ConfigurationError as error:
            assert "forked" in str(error), error
        else:
            raise AssertionError("it was used")
        assert Client(URL, timeout=10).top().devices
    else:
        assert asyncio.run(call())

async def parent():
    if USED:
        async with AsyncClient(URL, timeout=10) as other:
            await other.top()

asyncio.run(parent())
child(work)
"""
    run(script.replace("USED", str(used)), server.url)
