# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Contents, over a real server: what is sent, what is kept, and what a bad uploader gets."""

import asyncio
import hashlib
import resource
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remotegpu import Client, errors, wire
from remotegpu.local import LocalServer
from remotegpu.v1 import compute_pb2 as pb
from remotegpu_server.backends.host import HostDevice
from remotegpu_server.contents import ContentStore, Upload
from remotegpu_server.gateway.content_service import ContentService
from remotegpu_server.worker.inputs import Attached, ContentFile, Inputs, Kept
from remotegpu_server.worker.prepared import LoadTensor
from tests.conftest import StartServer, wait_until
from tests.fixtures.contents import MiB, has, run_with, sent_by, some
from tests.fixtures.proxy import FaultProxy


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    store = tmp_path_factory.mktemp("store")
    options = ["--gpus", "cpu", "--arena", "16MiB", "--store", str(store), "--store-size", "48MiB"]
    running = LocalServer(options)
    yield running
    assert running.stop() == 0


# ---- contents ---------------------------------------------------------------------------------------------


def test_a_constant_travels_once_for_each_server_and_not_in_later_processes(server: LocalServer) -> None:
    array = some(3 * MiB)

    def use(client: Client) -> None:
        with client.lease() as lease:
            assert lease.finish(lease.xp.max(lease.constant(array))) == array.max()

    with Client(server.url, timeout=20) as first, Client(server.url, timeout=20) as second:
        assert array.nbytes < sent_by(first, lambda: use(first)) < array.nbytes + 2000
        assert sent_by(first, lambda: use(first)) < 500
        before = second.statistics().round_trips
        assert sent_by(second, lambda: use(second)) < 500
        assert second.statistics().round_trips - before == 1


def test_a_constant_is_an_array_like_any_other(client: Client) -> None:
    rows = np.asarray(some(4000), np.float64).reshape(10, 100)
    with client.lease() as lease:
        held = lease.constant(rows)
        again = lease.constant(rows.copy())
        assert "a constant" in repr(held)
        total = held + again.T.T
        np.testing.assert_array_equal(lease.fetch(total), rows * 2)
        np.testing.assert_array_equal(lease.fetch(held), rows)  # still there, and still the same
        np.testing.assert_array_equal(lease.fetch(lease.constant(np.empty((0, 3)))), np.empty((0, 3)))


def test_a_constant_is_on_the_device_for_everybody_and_charged_to_nobody(client: Client) -> None:
    array = some(1 * MiB)
    for _ in range(2):
        with client.lease(memory=64 * 1024) as lease:
            assert lease.fetch(lease.xp.max(lease.constant(array))) == array.max()
            with pytest.raises(errors.OutOfMemory):
                lease.fetch(lease.xp.max(lease.xp.asarray(array)))


def test_arrays_of_contents_stay_within_their_share_the_least_recently_used_go_first() -> None:
    kept = Kept(100)
    arrays = [np.zeros(40, np.uint8) for _ in range(3)]
    kept.add("a", arrays[0])
    kept.add("b", arrays[1])
    assert kept.get("a") is arrays[0]
    kept.add("c", arrays[2])
    assert kept.get("b") is None
    assert kept.size == 80
    assert arrays[0] in kept
    assert arrays[1] not in kept
    kept.add("large", np.zeros(101, np.uint8))
    assert (kept.get("large"), kept.size) == (None, 80)
    kept.clear()
    assert (kept.get("a"), kept.size, arrays[0] in kept) == (None, 0, False)


class Unlimited(HostDevice):
    """Without the limit of the process, which would be that of the tests."""

    def __init__(self) -> None:
        self._memory = 1 << 40
        self._arenas = []

    def when_short(self, give_back: Callable[[], None]) -> None:
        self.give_back = give_back


def test_a_content_is_read_once_for_all_calls_and_is_refused_when_its_file_is_gone(tmp_path: Path) -> None:
    device = Unlimited()
    inputs = Inputs(device)
    data = np.arange(8, dtype=np.float32)
    (tmp_path / "x").write_bytes(data.tobytes())
    file = ContentFile(hashlib.sha256(data.tobytes()).digest(), str(tmp_path / "x"), 32)
    attached = Attached((file, file))
    step = LoadTensor(0, 32, data.dtype, (8,), "content")
    array = inputs.load(step, memoryview(b""), attached)
    (tmp_path / "x").unlink()
    assert inputs.load(replace(step, number=1), memoryview(b""), attached) is array
    assert inputs.is_shared(array)
    assert not array.flags.writeable
    with pytest.raises(errors.ContentMissing):
        inputs.load(replace(step, shape=(2, 4)), memoryview(b""), attached)
    device.give_back()  # its memory is short
    with pytest.raises(errors.ContentMissing):
        inputs.load(step, memoryview(b""), attached)


def test_a_constant_of_one_tenant_is_not_there_for_another(server: LocalServer) -> None:
    data = some(2 * MiB).tobytes()
    digest = hashlib.sha256(data).digest()
    with Client(server.url, tenant="ann") as ann, Client(server.url, tenant="bob") as bob:
        assert ann.put(data) == digest
        assert not has(bob, digest).complete
        assert has(bob, digest).size == 0
        with pytest.raises(errors.ContentMissing, match=digest.hex()):
            run_with(bob, digest)
        assert sent_by(bob, lambda: bob.put(data)) > len(data)
        assert has(bob, digest).complete
        assert sent_by(ann, lambda: ann.put(data)) < 200


def test_a_call_whose_constant_was_evicted_puts_it_again_and_runs(server: LocalServer) -> None:
    with Client(server.url, timeout=20) as client, client.lease() as lease:
        array = some(8 * MiB)
        constant = lease.constant(array)
        assert lease.fetch(lease.xp.max(constant)) == array.max()
        for _ in range(6):
            client.put(some(8 * MiB))
        assert not has(client, hashlib.sha256(array).digest()).complete
        again = sent_by(client, lambda: lease.fetch(lease.xp.min(constant)))
        assert again > array.nbytes


def test_arrays_bytes_and_files_are_put_by_their_bytes(client: Client, tmp_path: Path) -> None:
    array = some(3 * MiB)
    path = tmp_path / "weights.bin"
    path.write_bytes(array.tobytes())
    assert client.put(path) == hashlib.sha256(array).digest()
    assert sent_by(client, lambda: client.put(array)) < 200
    assert sent_by(client, lambda: client.put(bytearray(array.tobytes()))) < 200
    with pytest.raises(errors.InvalidInput, match="content"):
        client.put(7)  # type: ignore[arg-type]  # the point
    with pytest.raises(errors.InvalidInput, match="content size"):
        client.put(bytes(49 * MiB))


def test_an_upload_whose_connection_breaks_is_resumed(server: LocalServer, client: Client) -> None:
    first, second = some(6 * MiB), some(12 * MiB)
    data, there, may_end = first.tobytes(), hashlib.sha256(first).digest(), threading.Event()

    def pieces() -> Iterator[bytes]:
        yield wire.join(header(data), b"", (data[:MiB],))
        yield wire.join(b"", b"", (data[MiB : 2 * MiB],))
        may_end.wait(20)

    with FaultProxy(("127.0.0.1", server.port)) as proxy:
        host, port = proxy.address
        with Client(f"grpc://{host}:{port}", timeout=20) as far:
            outcomes: list[Any] = []
            upload: Any = ("Compute/Put", pieces, False, 20)
            broken = threading.Thread(target=lambda: outcomes.append(error_of(far._connected().stream(*upload))))
            broken.start()
            wait_until(lambda: has(client, there).size == 2 * MiB, "two pieces have come")
            proxy.cut()
            broken.join(10)
            may_end.set()
            assert [type(error) for error in outcomes] == [errors.ConnectionLost]
            assert 4 * MiB < sent_by(far, lambda: far.put(first)) < 4 * MiB + 1000
            proxy.truncate_after(8 * MiB)
            assert has(client, far.put(second)).complete


def error_of(stream: Iterator[bytes]) -> errors.Error | None:
    try:
        list(stream)
    except errors.Error as error:
        return error
    return None


def test_contents_survive_a_restart(start_server: StartServer, tmp_path: Path) -> None:
    array = some(2 * MiB)
    for expected in (array.nbytes, 0):
        server = start_server("--store", str(tmp_path / "store"))
        with Client(server.url, timeout=20) as client:
            assert sent_by(client, lambda: client.put(array)) // array.nbytes == expected // array.nbytes
        server.stop()
    path = tmp_path / "store" / "contents" / hashlib.sha256(array).hexdigest()
    assert path.read_bytes() == array.tobytes()


def test_two_clients_that_put_the_same_at_once_send_it_no_more_than_twice(server: LocalServer) -> None:
    array = some(8 * MiB)
    clients = [Client(server.url, timeout=20) for _ in range(3)]
    threads = [threading.Thread(target=client.put, args=(array,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(has(client, hashlib.sha256(array).digest()).complete for client in clients)
    for client in clients:
        client.close()


# ---- what a bad uploader gets -----------------------------------------------------------------------------


def put_messages(client: Client, *messages: bytes) -> bool:
    stream = client._connected().stream("Compute/Put", lambda: iter(messages), False, 10)
    return pb.PutReply.FromString(next(stream)).stored_now


def header(data: bytes, **other: Any) -> bytes:
    fields: dict[str, Any] = {"digest": hashlib.sha256(data).digest(), "size": len(data)} | other
    return pb.PutHeader(**fields).SerializeToString()


def test_uploads_that_are_not_what_they_say_are_refused(client: Client) -> None:
    data = some(3000).tobytes()
    refused = [
        ("digest is", [wire.join(header(data), b"", (data[1000:], data[:1000]))]),  # out of order
        ("more", [wire.join(header(data), b"", (data, b"x"))]),
        ("content digest", [wire.join(header(data, digest=b"short"), b"", (data,))]),
        ("content offset", [wire.join(header(data, offset=1), b"", (data[1:],))]),
        ("content size", [wire.join(header(data, size=2**63), b"")]),
    ]
    for what, messages in refused:
        with pytest.raises(errors.InvalidInput, match=what):
            put_messages(client, *messages)
        assert has(client, hashlib.sha256(data).digest()).size == 0, what
    unreadable = [
        ("between", [wire.join(header(data), b"x", (data,))]),
        ("PutHeader", [wire.join(b"\xff", b"")]),
        ("more than its bytes", [wire.join(header(data), b"", (data[:9],)), wire.join(header(data), b"")]),
        ("cut short", [wire.join(header(data), b"", (data[:2000],))]),
    ]
    for what, messages in unreadable:
        with pytest.raises(errors.ProtocolError, match=what):
            put_messages(client, *messages)
    assert has(client, hashlib.sha256(data).digest()).size == 2000  # what was cut short goes on from there
    assert put_messages(client, wire.join(header(data, offset=2000), b"", (data[2000:],)))
    assert not put_messages(client, wire.join(header(data), b"", (data,)))


def test_an_upload_that_is_silent_gives_way_to_its_successor(server: LocalServer) -> None:
    data = some(5000).tobytes()
    may_end = threading.Event()

    def silent() -> Iterator[bytes]:
        yield wire.join(header(data), b"", (data[:1000],))
        may_end.wait(30)

    with Client(server.url, timeout=20) as first, Client(server.url, timeout=20) as second:
        seen: list[errors.Error | None] = []
        upload: Any = ("Compute/Put", silent, False, 20)
        stuck = threading.Thread(target=lambda: seen.append(error_of(first._connected().stream(*upload))))
        stuck.start()
        wait_until(lambda: has(second, hashlib.sha256(data).digest()).size == 1000, "the upload has begun")
        second.put(data)
        assert has(second, hashlib.sha256(data).digest()).complete
        stuck.join(10)
        assert [type(error) for error in seen] == [errors.Unavailable]
        may_end.set()


def test_a_full_disk_is_told_and_leaves_nothing(server: LocalServer, client: Client) -> None:
    array, pid = some(3 * MiB), server.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (2 * MiB, before[1]))  # as if its disk had so much room
    try:
        with pytest.raises(errors.StoreFull, match="the disk") as caught:
            client.put(array)
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    assert caught.value.asked == array.nbytes
    assert has(client, hashlib.sha256(array).digest()).size == 0
    client.put(array)


def test_what_is_kept_of_a_broken_upload_is_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = some(1000).tobytes()
    begun = threading.Event()
    write = Upload.write

    def late(upload: Upload, piece: memoryview) -> None:
        begun.set()
        time.sleep(0.1)  # its thread has the piece, and is not at the file yet
        write(upload, piece)

    monkeypatch.setattr(Upload, "write", late)

    async def main() -> None:
        store = ContentStore(tmp_path, MiB)

        async def pieces() -> AsyncIterator[bytes]:
            yield wire.join(header(data), b"", (data[:600],))
            await asyncio.Event().wait()

        task = asyncio.ensure_future(ContentService(store).put(pieces(), "ann"))
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        kept = store.stored("ann", hashlib.sha256(data).digest()).size
        assert [path.stat().st_size for path in (tmp_path / "parts").iterdir()] == [kept] == [600]
        await asyncio.to_thread(store.close)

    asyncio.run(main())
