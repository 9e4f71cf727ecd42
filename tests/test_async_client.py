# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The client for asyncio, over a real server: the same as the one for threads, and many calls of one event loop."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import remotegpu
from benchmarks.models import linear
from remotegpu import AsyncClient, Client, errors
from remotegpu._async.lease import AsyncLease
from remotegpu._async.one_call import AsyncOneCallModel
from remotegpu._async.session import AsyncDeviceSession
from remotegpu.lease import Lease
from remotegpu.local import LocalServer
from remotegpu.one_call import OneCallModel
from remotegpu.session import DeviceSession
from tests.conftest import StartServer
from tests.fixtures.event_loop import in_loop, until, waiting

PAIRS = [
    (AsyncClient, Client),
    (AsyncLease, Lease),
    (AsyncOneCallModel, OneCallModel),
    (AsyncDeviceSession, DeviceSession),
]


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[LocalServer]:
    running = LocalServer(["--gpus", "cpu:2", "--models", str(models), "--arena", "16MiB", "--allow-uploads"])
    yield running
    assert running.stop() == 0


# ---- the same as for threads ------------------------------------------------------------------------------


def surface(cls: type) -> dict[str, Any]:
    """The public names, with parameters; those of a context manager by their names for threads."""
    found = {}
    for name, member in inspect.getmembers(cls):
        plain = name.replace("__aenter__", "__enter__").replace("__aexit__", "__exit__")
        if name.startswith("_") and plain not in {"__enter__", "__exit__", "__call__", "__init__"}:
            continue
        called = inspect.isfunction(member) or inspect.ismethod(member)
        parameters = inspect.signature(member).parameters.values() if called else ()
        found[plain] = [(one.name, one.kind, one.default) for one in parameters]
    return found


@pytest.mark.parametrize(("asynchronous", "plain"), PAIRS, ids=lambda cls: cls.__name__)
def test_both_have_the_same_names_and_parameters(asynchronous: type, plain: type) -> None:
    assert surface(asynchronous) == surface(plain)
    assert asynchronous.__name__ == f"Async{plain.__name__}"


def test_what_is_awaited_and_what_is_not() -> None:
    awaited = {name for name, member in inspect.getmembers(AsyncClient) if inspect.iscoroutinefunction(member)}
    plain = {"lease", "model", "statistics", "from_env", "watch", "url", "tenant"}
    assert {name for name in surface(AsyncClient) if not name.startswith("__")} == plain | {
        name for name in awaited if not name.startswith("_")
    }
    leased = {name for name, member in inspect.getmembers(AsyncLease) if inspect.iscoroutinefunction(member)}
    assert {name for name in leased if not name.startswith("_")} == {"fetch", "finish", "dealloc", "renew"}


@in_loop
async def test_lease_and_what_is_run_under_it(server: LocalServer) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    async with AsyncClient.from_env({"REMOTEGPU_URL": server.url, "REMOTEGPU_TENANT": "async"}) as client:
        assert (client.url, client.tenant) == (server.url, "async")
        before = client.statistics().round_trips
        async with client.lease() as lease:
            assert lease.id == ""
            held = lease.constant(x) * 2
            total, again = await lease.fetch(lease.xp.sum(held), held)
            np.testing.assert_array_equal(again, x * 2)
            assert (total, held.shape) == (30.0, (2, 3))
            assert lease.timing is not None
            assert lease.devices[0].name
            assert "AsyncLease" in repr(lease)
            packed = lease.upload(x, compression="lz4")
            np.testing.assert_array_equal(await lease.finish(packed + held), x * 3)
        assert client.statistics().round_trips - before <= 5  # with the constant's two
        with pytest.raises(errors.LeaseExpired):
            await lease.fetch(held)
        with pytest.raises(errors.InvalidInput):
            await lease.fetch()


@in_loop
async def test_leases_by_their_key(server: LocalServer) -> None:
    async with AsyncClient(server.url, timeout=20) as client:
        lease = await client.alloc(gpus=2, idle_ttl=20)
        assert lease.fence > 0
        assert 0 < (await lease.renew() or 0) <= 20
        attached = await client.attach(lease.id)
        async with attached:
            assert await attached.fetch(attached.on(1).xp.ones(())) == 1
        assert await client.renew(lease.id)  # the block did not end it
        assert await client.dealloc(lease.short_id)
        assert not await client.dealloc(lease.id)
        await lease.dealloc()
        async with await client.alloc_nowait(exclusive=True, gpus=2):
            with pytest.raises(errors.Busy):
                await client.alloc_nowait()
            assert (await client.explain()).verdict == "busy"
            with pytest.raises(errors.Busy):
                await client.alloc(timeout=0.05)
        assert not (await client.top()).leases
        with pytest.raises(errors.LeaseUnknown):
            await client.renew("0" * 32)


@in_loop
async def test_models_and_contents(server: LocalServer, tmp_path: Path) -> None:
    x = np.ones((1, 64), np.float32)
    async with AsyncClient(server.url, timeout=20) as client:
        assert {signature.name for signature in await client.models()} == {"linear", "digits"}
        direct = await client.model("linear")(x)
        async with client.lease() as lease:
            outputs = lease.model("linear")(x)
            np.testing.assert_array_equal((await lease.fetch(outputs))["y"], direct["y"])
            (only,) = outputs
            np.testing.assert_array_equal(await lease.finish(only), direct["y"])
        assert await client.put(b"some bytes") == await client.put(np.frombuffer(b"some bytes", np.uint8))
        (tmp_path / "model.onnx").write_bytes(linear())
        entries = await client.load_model("another", path=tmp_path / "model.onnx", aliases=["new"])
        assert [entry.state for entry in entries] == ["loaded"]
        await client.set_alias("another", "newest", "1")
        np.testing.assert_array_equal((await client.model("another:newest")(x))["y"], direct["y"])
        assert [entry.aliases for entry in await client.index("another")] == [("new", "newest")]
        left = await client.unload_model("another")
        assert "loaded" not in {entry.state for entry in left if entry.name == "another"}
        with pytest.raises(errors.ModelNotFound):
            await client.model("nothing")(x)


@in_loop
async def test_settings_and_snapshots(server: LocalServer) -> None:
    async with AsyncClient(server.url, timeout=20) as client:
        settings = await client.set()
        assert (await client.set(slots=settings.slots)) == settings
        with pytest.raises(errors.InvalidInput):
            client.watch(0.01)
        seen = []
        async with aclosing(client.watch(0.1)) as snapshots:
            async for snapshot in snapshots:
                seen.append(len(snapshot.devices))
                if len(seen) == 3:
                    break
        assert seen == [2, 2, 2]
        assert client.statistics().connections == 1


@in_loop
async def test_large_tensors_travel_in_pieces_both_ways(server: LocalServer) -> None:
    x = np.random.default_rng(1).random((3, 1 << 18))
    async with AsyncClient(server.url, timeout=30) as client, client.lease() as lease:
        found = await lease.fetch(lease.xp.asarray(x) + 1)
        np.testing.assert_array_equal(found, x + 1)
        counts = client.statistics()
        assert min(counts.bytes_sent, counts.bytes_received) > x.nbytes


@in_loop
async def test_early_refusal_of_a_long_upload_is_told(server: LocalServer) -> None:
    """The server answers while the client is still sending; what it said must not be lost."""
    large = np.zeros(1 << 23, np.uint8)
    async with AsyncClient(server.url, timeout=20) as client:
        for _ in range(5):
            lease = await client.alloc()
            await client.dealloc(lease.id)
            with pytest.raises(errors.LeaseExpired):
                await lease.fetch(lease.xp.sum(lease.xp.asarray(large)))


# ---- what would have to wait ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        float,
        bool,
        np.asarray,
        lambda x: 1 in x,
        lambda x: (x[x > 0]).shape,
        lambda x: len(x[x > 0]),
        lambda x: list(x[x > 0]),
    ],
    ids=["float", "bool", "asarray", "contains", "shape", "len", "iter"],
)
def test_what_cannot_be_awaited_is_refused_with_what_to_write(
    server: LocalServer, ask: Callable[[Any], object]
) -> None:
    async def main() -> None:
        async with AsyncClient(server.url, timeout=20) as client, client.lease() as lease:
            x = lease.xp.ones(()) if ask in {float, bool} else lease.xp.ones((3,))
            with pytest.raises(remotegpu.WouldBlock, match=r"await lease\.fetch\(array\)"):
                ask(x)
            assert client.statistics().round_trips == 0

    asyncio.run(main())


@in_loop
async def test_what_is_known_need_not_be_awaited(server: LocalServer) -> None:
    async with AsyncClient(server.url, timeout=20) as client, client.lease() as lease:
        x = lease.xp.arange(10)
        some = x[x > 3]
        outputs = lease.model("linear")(np.ones((1, 64), np.float32))
        with pytest.raises(remotegpu.WouldBlock, match=r"await client\.models\(\)"):
            len(outputs)
        await lease.fetch(some)
        assert (some.shape, len(some), x.shape) == ((6,), 6, (10,))
        await client.models()
        assert outputs.names == ("y",)
        sum_of_parts = functools.reduce(lambda a, b: a + b, some)
        assert await lease.fetch(sum_of_parts) == 39


# ---- many at once -----------------------------------------------------------------------------------------


@in_loop
async def test_many_calls_in_one_event_loop_share_one_connection(server: LocalServer) -> None:
    async with AsyncClient(server.url, timeout=30) as client:
        model = client.model("linear")
        first = await model(np.ones((1, 64), np.float32))
        found = await asyncio.gather(*(model(np.full((1, 64), n, np.float32)) for n in range(200)))
        base = (await model(np.zeros((1, 64), np.float32)))["y"]
        for n, outputs in enumerate(found):
            np.testing.assert_allclose(outputs["y"] - base, n * (first["y"] - base), rtol=1e-3, atol=1e-3)
        assert client.statistics().connections == 1
        assert client._transport is not None
        assert client._transport._conversation._calls.pending == 0


@in_loop
async def test_more_calls_than_a_stream_takes_have_calls_of_their_own(start_server: StartServer) -> None:
    server = start_server()
    async with AsyncClient(server.url, timeout=30) as client, AsyncClient(server.url, timeout=30) as other:
        holder = await other.alloc(exclusive=True)
        calls = [asyncio.create_task(client.alloc(timeout=30)) for _ in range(150)]

        async def all_wait() -> bool:
            return await waiting(other) == 150

        await until(all_wait, "on the stream and beside it")
        await holder.dealloc()
        for call in asyncio.as_completed(calls, timeout=30):
            await (await call).dealloc()


@in_loop
async def test_cancelled_task_leaves_the_queue(server: LocalServer) -> None:
    async with AsyncClient(server.url, timeout=20) as client, AsyncClient(server.url, timeout=20) as other:
        async with await other.alloc(gpus=2, exclusive=True):
            for beside in (False, True):
                await client.top()
                assert client._transport is not None
                client._transport._streams = not beside
                call = asyncio.create_task(client.alloc(timeout=20))
                await until(functools.partial(waiting, other), "it waits")
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call

                async def nobody() -> bool:
                    return not await waiting(other)

                await until(nobody, "its place is free")
        assert (await client.top()).devices
        assert client.statistics().connections == 1


@in_loop
async def test_cancelled_upload_and_download_leave_nothing_behind(server: LocalServer) -> None:
    x = np.zeros((1 << 22,), np.uint8)
    async with AsyncClient(server.url, timeout=20) as client, await client.alloc() as lease:
        for delay in (0.0, 0.001, 0.01):
            call = asyncio.create_task(lease.fetch(lease.xp.asarray(x) + 1))
            await asyncio.sleep(delay)  # somewhere on its way
            call.cancel()
            await asyncio.wait([call])
        assert await lease.fetch(lease.xp.sum(lease.xp.asarray(x))) == 0
        transport = client._transport
        assert transport is not None
        assert transport._connection is not None
        assert transport._connection.users == 1  # the long-lived stream
