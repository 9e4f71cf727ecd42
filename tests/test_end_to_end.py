# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The client against a real server on CPU devices."""

from __future__ import annotations

import io
import threading
import time

import numpy as np
import pytest
from PIL import Image

import remotegpu
from remotegpu import Client
from remotegpu.local import LocalServer
from tests.conftest import StartServer, alive, wait_until


def test_program_of_several_operations_is_one_round_trip(client: Client) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    with client.lease() as lease:
        xp = lease.xp
        a = xp.asarray(x)
        result = lease.finish(xp.sum(a * 2 + 1, axis=0))
    np.testing.assert_array_equal(result, (x * 2 + 1).sum(axis=0))
    assert client.statistics().round_trips == 1


def test_alloc_and_finish_are_two_round_trips_and_a_plain_exit_adds_one(client: Client) -> None:
    with client.alloc() as lease:
        lease.finish(lease.xp.zeros((2,)))
    assert client.statistics().round_trips == 2
    with client.alloc() as lease:
        lease.fetch(lease.xp.zeros((2,)))
    assert client.statistics().round_trips == 5


def test_several_wanted_values_come_in_order_and_model_outputs_by_name(client: Client) -> None:
    x = np.ones((2, 64), np.float32)
    with client.lease() as lease:
        a = lease.xp.asarray(x)
        outputs = lease.model("linear")(a)
        found = lease.finish(a + 1, outputs, a)
    np.testing.assert_array_equal(found[0], x + 1)
    assert set(found[1]) == {"y"}
    assert found[1]["y"].shape == (2, 8)
    np.testing.assert_array_equal(found[2], x)


def test_results_belong_to_the_caller_and_can_be_written(client: Client) -> None:
    for size in (4, 200_000):
        with client.lease() as lease:
            result = lease.finish(lease.xp.ones((size,), dtype=lease.xp.float64))
        result[0] = 7
        assert result[0] == 7


def test_what_is_held_stays_on_the_device_and_is_not_sent_again(client: Client) -> None:
    x = np.random.default_rng(0).random((500, 500))
    with client.lease() as lease:
        a = lease.xp.asarray(x)
        b = a @ a
        lease.fetch(lease.xp.sum(a))
        sent = client.statistics().bytes_sent
        assert sent > x.nbytes
        np.testing.assert_allclose(lease.fetch(b), x @ x)
        np.testing.assert_allclose(lease.fetch(b + a), x @ x + x)
        assert client.statistics().bytes_sent - sent < 2000


def test_frees_ride_along_and_memory_comes_back(client: Client) -> None:
    def held() -> int:
        return sum(device.memory_held for device in client.top().devices)

    before = held()
    lease = client.alloc()
    a = lease.xp.asarray(np.zeros(1_000_000))
    lease.fetch(lease.xp.sum(a))  # while it is fetched, somebody holds the sum too
    assert held() - before == 8_000_000 + 8
    del a
    lease.fetch(lease.xp.asarray(1.0))
    assert held() - before == 8
    b = lease.xp.ones((1000,))
    lease.fetch(lease.xp.sum(b))
    assert held() - before == 8_000 + 8
    lease.dealloc()
    wait_until(lambda: held() == before, "the lease's memory is free")


def test_sizes_that_depend_on_data(client: Client) -> None:
    x = np.array([0.1, 0.9, 0.5, 0.7])
    with client.lease() as lease:
        a = lease.xp.asarray(x)
        chosen = a[a > 0.4]
        assert client.statistics().round_trips == 0
        assert chosen.shape == (3,)
        assert client.statistics().round_trips == 1
        np.testing.assert_array_equal(lease.finish(chosen * 2), x[x > 0.4] * 2)


def test_image_is_decoded_by_the_server(client: Client) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    with client.lease() as lease:
        image = lease.image(png.getvalue())
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(lease.finish(image), pixels)


def test_image_is_turned_upright_by_its_orientation(client: Client) -> None:
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 8:] = 255
    turned = Image.fromarray(pixels)
    exif = turned.getexif()
    exif[0x0112] = 6  # shown rotated by 90 degrees clockwise
    jpeg = io.BytesIO()
    turned.save(jpeg, "JPEG", exif=exif, quality=95)
    with client.lease() as lease:
        upright = lease.finish(lease.image(jpeg.getvalue()))
    assert upright.shape == (16, 8, 3)
    assert upright[:8].mean() < 50 < 200 < upright[8:].mean()


def test_model_by_position_by_name_and_unpacked(client: Client) -> None:
    x = np.random.default_rng(0).random((3, 64), dtype=np.float32)
    with client.lease() as lease:
        model = lease.model("linear")
        first = lease.fetch(model(x)["y"])
        second = lease.fetch(model(x=lease.xp.asarray(x))["y"])
        (third,) = model(x)
        assert third.shape == (3, 8)
        assert third.dtype == np.float32
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first, lease.finish(third))
    np.testing.assert_array_equal(first, client.model("linear")(x)["y"])


def test_unpacking_a_model_nobody_has_heard_of_costs_one_models_call_once(client: Client) -> None:
    x = np.zeros((1, 64), np.float32)
    with client.lease() as lease:
        (y,) = lease.model("linear")(x)
        assert client.statistics().round_trips == 1
        (y,) = lease.model("linear")(x)
        lease.finish(y)
    assert client.statistics().round_trips == 2


def test_signatures_come_with_the_first_reply(client: Client) -> None:
    x = np.zeros((5, 64), np.float32)
    with client.lease() as lease:
        lease.fetch(lease.xp.asarray(1))
        outputs = lease.model("linear")(x)
        assert outputs.names == ("y",)
        assert outputs["y"].shape == (5, 8)
        with pytest.raises(KeyError, match="outputs y"):
            outputs["z"]
    assert client.statistics().round_trips == 2


def test_wrong_kinds_of_things_are_refused_with_words(client: Client) -> None:
    with client.lease() as lease:
        a = lease.xp.ones((2,))
        with pytest.raises(remotegpu.InvalidInput, match="fetch: given a list; allowed: arrays"):
            lease.fetch([a, a])  # type: ignore[arg-type]
        with pytest.raises(remotegpu.InvalidInput, match="image: given a str; allowed: the bytes"):
            lease.image("note.jpg")  # type: ignore[arg-type]
    assert client.statistics().round_trips == 0


def test_large_tensors_travel_in_pieces_both_ways(client: Client) -> None:
    x = np.random.default_rng(0).integers(0, 255, 20_000_001, dtype=np.uint8)
    with client.lease() as lease:
        np.testing.assert_array_equal(lease.finish(lease.xp.asarray(x)), x)


def test_zero_sized_and_zero_dimensional(client: Client) -> None:
    with client.lease() as lease:
        empty = lease.xp.asarray(np.zeros((0, 3), np.int16))
        scalar = lease.xp.asarray(2.5)
        found = lease.finish(empty, scalar)
    assert found[0].shape == (0, 3)
    assert found[0].dtype == np.int16
    assert found[1].shape == ()
    assert found[1] == 2.5


def test_gang_has_two_devices_and_each_runs_its_own_program(client: Client) -> None:
    with client.alloc(gpus=2) as lease:
        assert [device.index for device in lease.devices] == [0, 1]
        assert len({device.uuid for device in lease.devices}) == 2
        first, second = lease.on(0).xp.ones((2,)), lease.on(1).xp.zeros((2,))
        np.testing.assert_array_equal(lease.fetch(first), [1, 1])
        np.testing.assert_array_equal(lease.fetch(second), [0, 0])
        with pytest.raises(remotegpu.InvalidInput, match="several devices"):
            lease.fetch(first, second)


def test_device_of_a_deferred_lease_stays_the_same_device_when_it_is_granted(client: Client) -> None:
    with client.lease() as lease:
        before = lease.xp.zeros((1,)).device
        lease.fetch(lease.xp.zeros((1,)))
        array = lease.xp.ones((2,), device=before)
        assert array.device == before
        assert "CPU" in str(array.device)
        lease.finish(array)


def test_exclusive_gang_makes_others_busy_with_an_answer_they_can_use(client: Client) -> None:
    with client.alloc(gpus=2, exclusive=True) as lease:
        with pytest.raises(remotegpu.Busy) as caught:
            client.alloc_nowait()
        assert caught.value.retry_after > 0
        assert caught.value.free_slots == 0
        with pytest.raises(remotegpu.Busy), client.lease() as other:
            other.finish(other.xp.zeros((1,)))
        lease.dealloc()
    client.alloc_nowait().dealloc()


def test_waiter_is_woken_by_the_dealloc(client: Client) -> None:
    holder = client.alloc(gpus=2, exclusive=True)
    granted: list[remotegpu.Lease] = []
    waiter = threading.Thread(target=lambda: granted.append(client.alloc(timeout=10)))
    waiter.start()
    wait_until(lambda: client.top().queue, "somebody waits")
    assert not granted
    holder.dealloc()
    waiter.join(5)
    assert granted
    granted[0].dealloc()


def test_impossible_is_refused_at_once(client: Client) -> None:
    with pytest.raises(remotegpu.Impossible) as caught:
        client.alloc(gpus=3, timeout=30)
    assert (caught.value.what, caught.value.asked, caught.value.limit) == ("gpus", 3, 2)
    with pytest.raises(remotegpu.Impossible, match="memory"):
        client.alloc(memory=2**60, timeout=30)


def test_round_robin_over_devices(client: Client) -> None:
    leases = [client.alloc() for _ in range(4)]
    used = [lease.devices[0].uuid for lease in leases]
    assert used[0] != used[1]
    assert used[:2] == used[2:]
    for lease in leases:
        lease.dealloc()


def test_dealloc_is_idempotent_and_an_ended_lease_says_so(client: Client) -> None:
    lease = client.alloc()
    key = lease.id
    assert client.dealloc(key) is True
    assert client.dealloc(key) is False
    with pytest.raises(remotegpu.LeaseExpired, match="deallocated"):
        lease.fetch(lease.xp.zeros((1,)))


def test_idle_lease_expires_and_its_memory_is_freed(client: Client) -> None:
    lease = client.lease(idle_ttl=0.3)
    array = lease.xp.ones((1000,))
    lease.fetch(lease.xp.sum(array))
    wait_until(lambda: not client.top().leases, "the idle lease has ended", 5)
    assert sum(device.memory_held for device in client.top().devices) == 0
    with pytest.raises(remotegpu.LeaseExpired, match="idle TTL"):
        lease.fetch(array)


def test_use_renews_a_lease(client: Client) -> None:
    lease = client.alloc(idle_ttl=0.5)
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        lease.fetch(lease.xp.zeros((1,)))
    lease.dealloc()


def test_hard_cap_ends_a_lease_in_use(client: Client) -> None:
    lease = client.alloc(hard_ttl=0.3)

    def use_it_up() -> None:
        while True:
            lease.fetch(lease.xp.zeros((1,)))

    with pytest.raises(remotegpu.LeaseExpired, match="hard time limit"):
        use_it_up()


def test_declared_memory_is_enforced(client: Client) -> None:
    with client.lease(memory=1_000_000) as lease:
        with pytest.raises(remotegpu.OutOfMemory) as caught:
            lease.fetch(lease.xp.ones((1000, 1000)))
        assert caught.value.limit == 1_000_000
        assert caught.value.asked == 8_000_000
        assert lease.fetch(lease.xp.ones((10, 10))).sum() == 100


def test_more_memory_than_the_device_has_is_an_error_and_not_a_dead_server(client: Client) -> None:
    with client.lease() as lease, pytest.raises(remotegpu.OutOfMemory):
        lease.fetch(lease.xp.sum(lease.xp.ones((2**36,))))
    assert client.model("linear")(np.zeros((1, 64), np.float32))["y"].shape == (1, 8)


def test_timing_accounts_for_the_call(client: Client) -> None:
    with client.lease() as lease:
        a = lease.xp.asarray(np.ones((800, 800)))
        lease.finish(a @ a)
    timing = lease.timing
    assert timing is not None
    parts = timing.queue + timing.upload + timing.h2d + timing.compute + timing.d2h
    assert 0 < timing.compute < timing.server
    assert parts <= timing.server * 1.01 + 1e-4
    assert timing.server < timing.round_trip


def test_many_threads_share_a_client(client: Client) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            x = np.random.default_rng(seed).random((seed + 1, 64), dtype=np.float32)
            for _ in range(20):
                with client.lease(timeout=30) as lease:
                    result = lease.finish(lease.xp.asarray(x) + seed)
                np.testing.assert_array_equal(result, x + seed)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_local_starts_a_server_and_ends_it() -> None:
    with Client("local:") as client:
        with client.lease() as lease:
            assert lease.finish(lease.xp.sum(lease.xp.ones((3,)))) == 3
        pid = client.top().devices[0].worker_pid
    wait_until(lambda: not alive(pid), "the worker of the local server is gone")


def test_slots_bound_the_leases_of_a_device(start_server: StartServer) -> None:
    server: LocalServer = start_server("--slots", "2")
    with Client(server.url) as client:
        leases = [client.alloc_nowait(), client.alloc_nowait()]
        with pytest.raises(remotegpu.Busy):
            client.alloc_nowait()
        leases[0].dealloc()
        client.alloc(timeout=5)
