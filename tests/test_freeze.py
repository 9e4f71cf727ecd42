# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Functions that are frozen while their connections die, under the real Lambda runtime client; SnapStart; and calls
that must end before their invocation does."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import remotegpu
from examples.lambda_handler.runtime_api import LambdaFunction
from remotegpu import Client, config
from remotegpu.local import LocalServer
from tests.conftest import StartServer, wait_until
from tests.fixtures.proxy import FaultProxy

# What the first call after a thaw may take longer than a warm one, on this machine's own network. Seconds.
EXTRA = 0.25
# How long a dead connection is not noticed if nobody says so, in AWS Lambda: the pause before a ping, and the patience
# with its answer. Seconds.
UNNOTICED = 15.0
GAP = 0.2

APP = """
import asyncio, time
import numpy as np
import remotegpu

x = np.ones((1, 64), np.float32)
loop = asyncio.new_event_loop()
gpu = remotegpu.{client}.from_env()

async def detect():
    return (await gpu.model("linear")(x))["y"]

@remotegpu.lambda_handler
def handler(event, context):
    started = time.perf_counter()
    y = loop.run_until_complete(detect()) if {is_async} else gpu.model("linear")(x)["y"]
    return [time.perf_counter() - started, gpu.statistics().connections, float(y.sum())]
"""

Fault = Literal["none", "fin", "rst", "silent"]


@pytest.fixture
def proxy(server: LocalServer) -> Iterator[FaultProxy]:
    with FaultProxy(("127.0.0.1", server.port)) as between:
        yield between


@contextlib.contextmanager
def running(
    folder: Path, proxy: FaultProxy, client: str = "Client", *, gap: float | None = None, **options: Any
) -> Iterator[LambdaFunction]:
    """A function that calls the model `linear` through the proxy, and has done so twice."""
    (folder / "app.py").write_text(APP.format(client=client, is_async=client == "AsyncClient"))
    environment = {"REMOTEGPU_URL": "grpc://{}:{}".format(*proxy.address)}
    if gap is not None:
        environment["REMOTEGPU_IDLE_GAP"] = str(gap)
    with LambdaFunction("app.handler", task_root=folder, environment=environment, **options) as function:
        for _ in range(2):
            function.invoke({})
        yield function


def freeze(function: LambdaFunction, fault: Callable[[], object], seconds: float) -> None:
    """Freezes it for so long, during which the fault comes."""
    function.freeze()
    fault()
    time.sleep(seconds)  # what passes is what is tested


def invoke(function: LambdaFunction) -> tuple[float, int, float]:
    outcome: Any = function.invoke({})
    return outcome[0], outcome[1], outcome[2]


def losing(proxy: FaultProxy, fault: Fault) -> Callable[[], object]:
    return (lambda: None) if fault == "none" else (lambda: proxy.lose(fault))


@pytest.mark.parametrize("fault", ["none", "fin", "rst", "silent"])
def test_first_call_after_a_long_freeze_is_quick(tmp_path: Path, proxy: FaultProxy, fault: Fault) -> None:
    with running(tmp_path, proxy, gap=GAP) as function:
        warm, _, wanted = invoke(function)
        taken = []
        for connections in (2, 3, 4):
            freeze(function, losing(proxy, fault), GAP + 0.05)
            seconds, found, result = invoke(function)
            taken.append(seconds)
            assert (found, result) == (connections, wanted)
        assert min(taken) - warm < EXTRA


@pytest.mark.parametrize("fault", ["rst", "silent"])
def test_first_call_of_an_event_loop_after_a_long_freeze(tmp_path: Path, proxy: FaultProxy, fault: Fault) -> None:
    with running(tmp_path, proxy, "AsyncClient", gap=GAP) as function:
        warm, _, wanted = invoke(function)
        freeze(function, losing(proxy, fault), GAP + 0.05)
        seconds, found, result = invoke(function)
        assert (found, result) == (2, wanted)
        assert seconds - warm < 1.0


@pytest.mark.parametrize("fault", ["fin", "rst"])
def test_first_call_after_a_short_freeze_is_sent_again(tmp_path: Path, proxy: FaultProxy, fault: Fault) -> None:
    with running(tmp_path, proxy) as function:
        for _ in range(3):
            freeze(function, losing(proxy, fault), 0.0)
            assert invoke(function)[0] < 1.0


def test_calls_of_other_threads_move_along(
    server: LocalServer, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(config.IDLE_GAP_VARIABLE, str(GAP))
    with (
        Client(server.url) as holder,
        Client("grpc://{}:{}".format(*proxy.address), timeout=20) as client,
        futures.ThreadPoolExecutor(2) as pool,
    ):
        held = holder.alloc(gpus=2, exclusive=True)
        waiting = [pool.submit(client.alloc, timeout=20) for _ in range(2)]
        wait_until(lambda: len(holder.top().queue) == 2, "they wait")
        proxy.lose("silent")
        time.sleep(GAP + 0.05)
        client.top()  # which leaves the dead connection, and the others with it
        held.dealloc()
        for call in waiting:
            call.result(5).dealloc()
        assert client.statistics().connections == 2
        assert not holder.top().leases


@pytest.mark.slow
@pytest.mark.parametrize("client", ["Client", "AsyncClient"])
def test_silent_connection_is_found_by_pings(tmp_path: Path, proxy: FaultProxy, client: str) -> None:
    with running(tmp_path, proxy, client) as function:
        for seconds in (0.0, 12.0):
            freeze(function, losing(proxy, "silent"), seconds)
            assert 1.0 < invoke(function)[0] < UNNOTICED + 1.0  # so it was the pings indeed


LARGE = """
import numpy as np
import remotegpu

gpu = remotegpu.Client.from_env()
x = np.ones((2, 1_000_000), np.float32)

def handler(event, context):
    with gpu.lease(timeout=10) as lease:
        return float(lease.finish(lease.xp.sum(lease.xp.asarray(x))))
"""


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["fin", "rst", "silent"])
def test_large_program_after_a_long_freeze(tmp_path: Path, proxy: FaultProxy, fault: Fault) -> None:
    """It has a call of gRPC's own, which is not sent again once it may have arrived."""
    (tmp_path / "large.py").write_text(LARGE)
    environment = {"REMOTEGPU_URL": "grpc://{}:{}".format(*proxy.address), "REMOTEGPU_IDLE_GAP": str(GAP)}
    with LambdaFunction("large.handler", task_root=tmp_path, environment=environment) as large:
        for connections in (1, 2, 3):
            assert large.invoke({}) == 2_000_000.0
            assert proxy.counters.connections == connections
            freeze(large, losing(proxy, fault), GAP + 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("gap", [GAP, None])
def test_server_that_restarts_while_the_function_is_frozen(
    tmp_path: Path, start_server: StartServer, models: Path, gap: float | None
) -> None:
    first = start_server("--models", str(models))
    with FaultProxy(("127.0.0.1", first.port)) as proxy, running(tmp_path, proxy, gap=gap) as function:
        wanted = invoke(function)[2]
        function.freeze()
        first.stop()
        proxy.target = ("127.0.0.1", start_server("--models", str(models)).port)
        seconds, _, result = invoke(function)
        assert result == wanted
        assert seconds < 1.0


AGEING = """
import sys
from remotegpu_server import cli, daemon

daemon._OPTIONS = (*daemon._OPTIONS, ("grpc.max_connection_{what}_ms", 500), ("grpc.max_connection_age_grace_ms", 200))
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("gap", [GAP, None])
@pytest.mark.parametrize("what", ["age", "idle"])
def test_server_that_sends_connections_away(tmp_path: Path, models: Path, what: str, gap: float | None) -> None:
    """GOAWAY, as from a server that wants its clients spread anew."""
    script = tmp_path / "ageing.py"
    script.write_text(AGEING.format(what=what))
    command = [sys.executable, str(script), "--listen", "127.0.0.1:0", "--gpus", "cpu", "--models", str(models)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().split(b":")[1].split(b",")[0])
        try:
            with FaultProxy(("127.0.0.1", port)) as proxy, running(tmp_path, proxy, gap=gap) as function:
                for _ in range(3):
                    freeze(function, lambda: None, 1.0)
                    assert invoke(function)[0] < 1.0
        finally:
            process.send_signal(signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_idle_stream_and_waiting_call_are_not_sent_away(
    server: LocalServer, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pings go out every ten seconds, and the server takes them."""
    monkeypatch.setenv(config.IDLE_GAP_VARIABLE, "1000")
    with Client(server.url) as holder, Client("grpc://{}:{}".format(*proxy.address)) as client:
        client.top()
        proxy.reset_counters()
        time.sleep(45)  # long enough for four pings
        assert proxy.counters.bytes_to_server >= 4 * 17
        assert client.top().devices
        assert (client.statistics().connections, proxy.counters.connections) == (1, 0)
        held = holder.alloc(gpus=2, exclusive=True, idle_ttl=200)
        ending = threading.Timer(38, held.dealloc)
        ending.start()
        client.alloc(timeout=50).dealloc()
        ending.join()
        assert (client.statistics().connections, proxy.counters.connections) == (1, 0)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_call_under_way_is_moved_from_a_dead_connection(
    server: LocalServer, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(config.LAMBDA_VARIABLE, "f")
    with Client(server.url) as holder, Client("grpc://{}:{}".format(*proxy.address)) as client:
        client.top()
        held = holder.alloc(gpus=2, exclusive=True, idle_ttl=200)
        leases: list[remotegpu.Lease] = []
        waiting = threading.Thread(target=lambda: leases.append(client.alloc(timeout=55)))
        waiting.start()
        wait_until(lambda: holder.top().queue, "it waits")
        proxy.lose("silent")
        held.dealloc()  # the grant is lost with the connection
        waiting.join(UNNOTICED + 5)
        assert leases
        leases[0].dealloc()
        assert not holder.top().leases


SNAPPED = """
import remotegpu

gpu = remotegpu.Client.from_env()
lease = gpu.alloc(idle_ttl=60)
identities = [gpu._transport._conversation._calls._identity.hex()]

def handler(event, context):
    identities.append(gpu._transport._conversation._calls._identity.hex())
    try:
        lease.fetch(lease.xp.ones(()))
    except remotegpu.InvalidInput as error:
        refused = str(error)
    gpu.dealloc(lease.id)
    return [*identities, len(gpu.top().devices), refused]
"""


def test_snapshot_has_no_connection_and_each_restore_is_another_client(tmp_path: Path, proxy: FaultProxy) -> None:
    (tmp_path / "snapped.py").write_text(SNAPPED)
    environment = {"REMOTEGPU_URL": "grpc://{}:{}".format(*proxy.address)}
    with LambdaFunction("snapped.handler", task_root=tmp_path, environment=environment, snap_start=True) as function:
        function.freeze()
        assert proxy.counters.connections == 1
        wait_until(lambda: not proxy._connections, "the connection was closed before the snapshot")
        outcome: Any = function.invoke({})
        before, after, devices, refused = outcome
        assert before != after
        assert devices == 2
        assert "SnapStart restore" in refused
        assert proxy.counters.connections == 2


PATIENT = """
import remotegpu

gpu = remotegpu.Client.from_env()

@remotegpu.lambda_handler(margin=float(__import__("os").environ["MARGIN"]))
def handler(event, context):
    try:
        gpu.alloc(gpus=2, exclusive=True, timeout=60).dealloc()
    except remotegpu.Error as error:
        return type(error).__name__
    return "granted"
"""


@pytest.mark.parametrize(
    ("margin", "hole", "outcome"),
    [("0.3", False, "Busy"), ("0.3", True, "DeadlineExceeded"), ("9", True, "DeadlineExceeded")],
)
def test_invocation_hears_of_its_time_before_it_is_over(
    tmp_path: Path, server: LocalServer, proxy: FaultProxy, margin: str, hole: bool, outcome: str
) -> None:
    (tmp_path / "patient.py").write_text(PATIENT)
    environment = {"REMOTEGPU_URL": "grpc://{}:{}".format(*proxy.address), "MARGIN": margin}
    with (
        Client(server.url) as holder,
        holder.alloc(),
        LambdaFunction("patient.handler", task_root=tmp_path, environment=environment, timeout=2) as function,
    ):
        proxy.blackhole(hole)
        assert function.invoke({}) == outcome
        assert (proxy.counters.connections == 0) == (margin == "9")  # nothing was sent
        proxy.blackhole(False)
        wait_until(lambda: not holder.top().queue, "nobody waits any more")


class Context:
    """Of an invocation with so many seconds left."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def get_remaining_time_in_millis(self) -> int:
        return round(self.seconds * 1000)


def test_leases_and_their_ends_fit_the_invocation(server: LocalServer, proxy: FaultProxy) -> None:
    with Client("grpc://{}:{}".format(*proxy.address)) as client, Client(server.url) as direct:
        client.top()
        started = time.monotonic()
        with remotegpu.invocation(Context(1.0), margin=0.2):
            with client.alloc() as lease:
                assert lease.hard_ttl == pytest.approx(6.0, abs=0.1)
                proxy.blackhole(True)
                with pytest.raises(remotegpu.DeadlineExceeded):
                    client.submissions.submit(lease.fetch, lease.xp.ones(())).result(10)
            with pytest.raises(remotegpu.DeadlineExceeded, match="nothing was sent"):
                client.put(np.ones(4))
        assert 0.7 < time.monotonic() - started < 1.0
        proxy.blackhole(False)
        assert direct.dealloc(lease.id)


def test_no_thread_of_a_client_runs_in_a_function_that_waits(server: LocalServer, tmp_path: Path) -> None:
    source = APP.format(client="Client", is_async=False).replace(
        "return [", "import threading; return [[thread.name for thread in threading.enumerate()], "
    )
    (tmp_path / "threads.py").write_text(source)
    environment = {"REMOTEGPU_URL": server.url}
    with LambdaFunction("threads.handler", task_root=tmp_path, environment=environment) as function:
        function.invoke({})
        outcome: Any = function.invoke({})
    assert not [name for name in outcome[0] if "renewal" in name]
