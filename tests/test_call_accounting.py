# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Calls that end in every way at once, at a real server: each is answered, and all that they took is given back."""

from __future__ import annotations

import collections
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from remotegpu import Client, graph, program, wire
from remotegpu.local import LocalServer
from remotegpu.v1 import compute_pb2, lease_pb2, stream_pb2
from remotegpu.v1 import program_pb2 as pb
from tests.conftest import pids, wait_until
from tests.fixtures.probe_model import probe
from tests.test_streams import RawStream

ARENA = 1024 * 1024
FLOAT32: Any = 11
SECONDS = 2.5
# Milliseconds.
MOMENTS = (1, 2, 3, 5, 10, 30, 100)


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    folder = tmp_path_factory.mktemp("probes")
    (folder / "probe" / "1").mkdir(parents=True)
    (folder / "probe" / "1" / "model.onnx").write_bytes(probe())
    running = LocalServer(["--gpus", "cpu:2", "--models", str(folder), "--arena", "1MiB", "--slots", "3"])
    yield running
    assert running.stop() == 0


def call_of_probe(call: int, rows: int, turns: float = 0, place: float = 0, **fields: Any) -> bytes:
    """The frame of a call that runs for so many turns, fails for places beyond 9, and gives twice its number."""
    body = np.tile(np.array([turns, place, call], np.float32), (rows, 1)).tobytes()
    nodes = [
        pb.Node(tensor=pb.Tensor(dtype=FLOAT32, shape=(rows, 3), size=len(body))),
        pb.Node(model=pb.ModelCall(model="probe", inputs=[pb.ModelInput(ref=pb.Ref(node=0))])),
    ]
    outputs = [pb.Output(ref=pb.Ref(node=1), every_port=True, fetch=True)]
    of_header: dict[str, Any] = {"body_size": len(body), "model": "probe"} | fields
    header = compute_pb2.RunHeader(**of_header)
    middle = pb.Program(nodes=nodes, outputs=outputs).SerializeToString()
    return wire.join(header.SerializeToString(), middle, (body,), envelope=wire.call_envelope(call))


def call_for_zeros(call: int, size: int) -> bytes:
    """The frame of a call whose result has so many float64."""
    value = graph.Value(graph.Operation("zeros", ((size,),)))
    encoded, _ = program.encode(graph.plan([value], keep=None))
    header = compute_pb2.RunHeader(deadline_ms=20_000)
    return wire.join(header.SerializeToString(), encoded.SerializeToString(), envelope=wire.call_envelope(call))


class Peer(threading.Thread):
    """A client that calls, gives up, breaks its stream and comes back, until the time is over; then it waits for the
    answers that are left."""

    def __init__(self, port: int, seed: int) -> None:
        super().__init__()
        self._random = random.Random(seed)
        self._port = port
        self._identity = self._random.randbytes(16)
        self._number = 0
        # Sent and neither answered nor cancelled.
        self.waiting: dict[int, bytes] = {}
        self.ended: collections.Counter[str] = collections.Counter()
        self.wrong: list[tuple[int, float]] = []
        self.finished = False

    def run(self) -> None:
        until = time.monotonic() + SECONDS
        self._open()
        while time.monotonic() < until:
            for _ in range(self._random.choice([1, 1, 4, 20])):
                if len(self.waiting) < 100:  # of the 128 that a client may have
                    self._call()
            time.sleep(self._random.choice([0, 0, 0.001, 0.005, 0.03]))  # part of the campaign
            if self._random.random() < 0.03:
                self._raw.close()
                self._reader.join()
                self._open()
                for _, frame in sorted(self.waiting.items()):
                    self._raw.send_bytes(frame)
        wait_until(lambda: not self.waiting, "all are answered", 20)
        self._raw.close_sending()
        self._reader.join(20)
        self.finished = not self._reader.is_alive()
        self._raw.close()

    def _open(self) -> None:
        self._raw = RawStream(self._port, self._identity)
        self._reader = threading.Thread(target=self._read, args=(self._raw,))
        self._reader.start()

    def _read(self, raw: RawStream) -> None:
        try:
            for frame in raw.call:
                head, _, _, body = wire.split_frame(frame)
                envelope = wire.parse(stream_pb2.Envelope, head)
                if not envelope.call or envelope.go_away:
                    continue
                self.waiting.pop(envelope.call, None)
                self.ended[envelope.error.kind or "result"] += 1
                if not envelope.error.kind and len(body):
                    found = float(np.frombuffer(body[:4], np.float32)[0])
                    if found not in (0, 2 * envelope.call):
                        self.wrong.append((envelope.call, found))
        except grpc.RpcError:
            self.ended["broken"] += 1

    def _call(self) -> None:
        self._number = number = self._number + 1
        frame = self._frame(number)
        self.waiting[number] = frame
        self._raw.send_bytes(frame)
        if self._random.random() < 0.05:
            self._raw.send_bytes(frame)
        if self._random.random() < 0.15:
            call = max(number - self._random.choice([0, 0, 1, 5]), 1)
            self.waiting.pop(call, None)
            self._raw.send(stream_pb2.Envelope(call=call, cancel=True))

    def _frame(self, number: int) -> bytes:
        chance, kind = self._random, self._random.random()
        fields: dict[str, Any] = {}
        if chance.random() < 0.3:
            fields["deadline_ms"] = chance.choice(MOMENTS)
        if chance.random() < 0.2:
            fields["queue_timeout_ms"] = chance.choice(MOMENTS)
        if kind < 0.1:
            return call_for_zeros(number, chance.choice([10, 1000, 25_000]))
        if kind < 0.15:
            fields |= {"alloc": lease_pb2.AllocRequest(gpus=1, timeout_ms=100), "finish": True}
            return call_of_probe(number, 1, **fields)
        if kind < 0.2:
            return call_of_probe(number, 1, body_size=13)
        rows, turns = chance.choice([1, 1, 1, 2, 16_000]), chance.choice([0, 0, 0, 20, 300])
        return call_of_probe(number, rows, turns, chance.choice([0, 0, 0, 0, 50]), **fields)


def is_clean(client: Client) -> bool:
    top = client.top()
    used = [device.arena_used + device.slots_used + device.memory_held for device in top.devices]
    return not (top.leases or top.queue or any(used)) and all(device.state == "ready" for device in top.devices)


@pytest.mark.parametrize("workers_die", [False, True])
def test_nothing_is_left_of_calls_that_end_in_every_way(busy: LocalServer, workers_die: bool) -> None:
    chance = random.Random(1)
    peers = [Peer(busy.port, seed) for seed in range(4)]
    with Client(busy.url, timeout=20) as client:
        before = list(pids(client))
        for peer in peers:
            peer.start()
        until = time.monotonic() + SECONDS
        while workers_die and time.monotonic() < until:
            time.sleep(chance.uniform(0.3, 0.9))  # the time between faults, part of the campaign
            os.kill(chance.choice([pid for pid in pids(client) if pid]), signal.SIGKILL)
        for peer in peers:
            peer.join(60)
            assert peer.finished
            assert not peer.waiting, "all are answered"
            assert not peer.wrong
            assert {"result", "DeadlineExceeded", "ProtocolError", "broken"} <= set(peer.ended)
        wait_until(lambda: is_clean(client), "all is given back", 20)
        assert workers_die or list(pids(client)) == before, "no worker was given up"
        with client.lease(gpus=2, timeout=10) as lease:
            for number in range(2):
                session = lease.on(number)
                zeros = lease.fetch(session.xp.zeros(ARENA // 8 - 64), timeout=10)
                assert not zeros.any(), "no slab of a reply is missing"
    assert "Traceback" not in busy.last_words()


def test_a_queue_timeout_at_the_moment_of_the_deadline_is_no_fault_of_the_worker(busy: LocalServer) -> None:
    """The worker is asked twice to take the call back, which it has not seen yet."""
    raw = RawStream(busy.port)
    assert raw.read().HasField("hello")
    with Client(busy.url, timeout=20) as client:
        before = list(pids(client))
        for call in (1, 2):  # one for each device
            raw.send_bytes(call_of_probe(call, 1, turns=15_000))
        wait_until(lambda: all(device.arena_used for device in client.top().devices), "both are busy")
        raw.send_bytes(call_of_probe(3, 1, deadline_ms=200, queue_timeout_ms=200))
        answers = [raw.read() for _ in range(3)]
        assert answers[0].call == 3
        assert answers[0].error.kind in {"DeadlineExceeded", "QueueTimeout"}
        assert not any(answer.error.kind for answer in answers[1:])
        wait_until(lambda: is_clean(client), "all is given back")
        assert list(pids(client)) == before
    raw.close()
