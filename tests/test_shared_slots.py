# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Calls without a lease: who asks for their slots, and how long they wait, wherever they wait."""

from __future__ import annotations

import asyncio
import queue
import time
from typing import Any

import grpc
import pytest

from remotegpu import Client, errors, wire
from remotegpu.v1 import compute_pb2, program_pb2
from remotegpu_server import scheduler
from remotegpu_server.gateway.leases import Leases
from remotegpu_server.gateway.shared import SharedSlots
from tests.conftest import StartServer, wait_until
from tests.test_lost_leases import REQUEST, leases
from tests.test_streams import RawStream, large_answer


def test_calls_without_a_lease_that_ask_together_have_their_own_patience() -> None:
    async def scenario() -> None:
        found = leases()
        shared, holder = SharedSlots(found, 1, 10), await found.alloc(REQUEST, 0)
        impatient = asyncio.create_task(shared.take("tenant", "model", 0.1))
        await asyncio.sleep(0)
        patient = asyncio.create_task(shared.take("tenant", "model", 10))
        with pytest.raises(errors.Busy) as caught:
            await impatient
        assert 0.1 <= caught.value.waited < 1
        with pytest.raises(errors.Busy):
            await shared.take("tenant", "model", 0.05)  # nor does one that comes later wait as long as the other
        found.dealloc(holder.key, "tenant")
        assert (await patient).device == 0

    asyncio.run(scenario())


def test_call_that_comes_as_the_last_one_gives_up_asks_anew() -> None:
    async def scenario() -> None:
        found = leases()
        shared, holder = SharedSlots(found, 1, 10), await found.alloc(REQUEST, 0)
        first = asyncio.create_task(shared.take("tenant", "model", 10))
        await asyncio.sleep(0.01)
        first.cancel()  # it hears of that before the other one comes, but what it had asked does not
        second = asyncio.create_task(shared.take("tenant", "model", 10))
        await asyncio.sleep(0.01)
        assert not second.done()
        found.dealloc(holder.key, "tenant")
        slot = await second
        shared.give_back(slot)
        shared.end_idle()
        assert not found.snapshot().leases

    asyncio.run(scenario())


def test_first_calls_of_several_models_do_not_end_each_others_slots() -> None:
    async def scenario() -> None:
        found = Leases(scheduler.Scheduler([scheduler.Device(0, "CPU", "CPU-0", 100, 8)]), [])
        shared = SharedSlots(found, 1, 10)
        taken = await asyncio.gather(*(shared.take("tenant", model, 2) for model in "aabbc"))
        assert found.snapshot().counters.granted == 3
        assert [slot.calls for slot in taken] == [2, 2, 2, 2, 1]
        leaver, stayer = (asyncio.create_task(shared.take("tenant", "d", 10)) for _ in range(2))
        await asyncio.sleep(0)
        found.snapshot()
        leaver.cancel()
        assert (await stayer).calls == 1
        for slot in (*taken, stayer.result()):
            shared.give_back(slot)
        shared.end_idle()
        assert not found.snapshot().leases

    asyncio.run(scenario())


def test_queue_timeout_counts_wherever_a_call_without_a_lease_waits(start_server: StartServer) -> None:
    server = start_server()
    raw = RawStream(server.port)
    assert raw.read().HasField("hello")
    with Client(server.url, timeout=20) as client, client.alloc(exclusive=True):
        began = time.monotonic()
        raw.send_bytes(large_answer(1, queue_timeout_ms=200))
        assert raw.read().error.kind == "Busy"
        assert 0.2 <= time.monotonic() - began < 2
    raw.close()


def test_queue_timeout_counts_while_a_call_waits_for_room(start_server: StartServer) -> None:
    server = start_server()
    raw, channel = RawStream(server.port), grpc.insecure_channel(f"127.0.0.1:{server.port}")
    assert raw.read().HasField("hello")
    upload: Any = channel.stream_stream("/remotegpu.v1.Compute/RunStream")  # type: ignore[call-arg]
    unsent: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    unsent.put(tensor_of(15 * 1024 * 1024 + 900 * 1024, sent=0))
    stalled = upload(iter(unsent.get, None))
    with Client(server.url, timeout=20) as client:
        wait_until(lambda: client.top().devices[0].arena_used, "it has its slab")
        began = time.monotonic()
        raw.send_bytes(tensor_of(500 * 1024, envelope=wire.call_envelope(1), queue_timeout_ms=200))
        assert raw.read().error.kind == "QueueTimeout"
        assert 0.2 <= time.monotonic() - began < 2
        stalled.cancel()
        wait_until(lambda: not client.top().devices[0].arena_used, "nothing is left")
    unsent.put(None)
    channel.close()
    raw.close()


def tensor_of(size: int, sent: int | None = None, envelope: bytes = b"", **fields: Any) -> bytes:
    """The first message of a program with so many bytes of body, `sent` of which it has itself."""
    tensor = program_pb2.Tensor(dtype=11, shape=(size // 4,), size=size)  # type: ignore[arg-type]  # float32
    encoded = program_pb2.Program(
        nodes=[program_pb2.Node(tensor=tensor)], outputs=[program_pb2.Output(ref=program_pb2.Ref(node=0))]
    )
    header = compute_pb2.RunHeader(body_size=size, **fields).SerializeToString()
    body = bytes(size if sent is None else sent)
    return wire.join(header, encoded.SerializeToString(), (body,), envelope=envelope)
