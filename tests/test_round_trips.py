# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""How many round trips the network sees: counted by a proxy in the middle, and measured by adding delay."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from remotegpu import Client
from remotegpu.local import LocalServer
from tests.conftest import DIGITS
from tests.fixtures.proxy import FaultProxy

PICTURE = sorted(path for path in (DIGITS / "pictures").iterdir() if path.suffix in {".jpg", ".png"})[0]


@pytest.fixture
def proxy(server: LocalServer) -> Iterator[FaultProxy]:
    with FaultProxy(("127.0.0.1", server.port)) as running:
        yield running


@pytest.fixture
def far_client(proxy: FaultProxy) -> Iterator[Client]:
    with Client(f"grpc://127.0.0.1:{proxy.address[1]}", timeout=20) as connected:
        yield connected


def detect(client: Client, picture: bytes) -> None:
    """The program of the Lambda handler."""
    with client.lease(timeout=5) as lease:
        xp = lease.xp
        image = xp.astype(lease.image(picture), xp.float32) / 255
        found = lease.model("digits")(image=xp.permute_dims(image, (2, 0, 1))[None])
        sure = found["scores"] > 0.5
        boxes, scores = lease.finish(found["boxes"][sure], found["scores"][sure])
    assert len(boxes) == len(scores) > 0


def round_trips(proxy: FaultProxy, work: Callable[[], object]) -> int:
    """Turns of direction that the proxy saw."""
    proxy.reset_counters()
    work()
    return proxy.counters.turns


def test_demo_program_is_one_request_and_one_turn_even_in_a_new_process(proxy: FaultProxy, far_client: Client) -> None:
    picture = PICTURE.read_bytes()
    assert round_trips(proxy, lambda: detect(far_client, picture)) == 1  # nothing known of the model yet
    assert round_trips(proxy, lambda: detect(far_client, picture)) == 1


def test_a_large_picture_is_still_one_turn(proxy: FaultProxy, far_client: Client) -> None:
    x = np.zeros(5_000_000, np.uint8)

    def send() -> None:
        with far_client.lease() as lease:
            lease.finish(lease.xp.sum(lease.xp.asarray(x)))

    assert round_trips(proxy, send) == 1


def test_alloc_finish_is_two_and_a_plain_exit_three(proxy: FaultProxy, far_client: Client) -> None:
    def finish() -> None:
        with far_client.alloc() as lease:
            lease.finish(lease.xp.zeros((1,)))

    def leave() -> None:
        with far_client.alloc() as lease:
            lease.fetch(lease.xp.zeros((1,)))

    assert round_trips(proxy, finish) == 2
    assert round_trips(proxy, leave) == 3


@pytest.mark.parametrize("pixels", [None, 1500])
def test_delay_is_paid_once(proxy: FaultProxy, far_client: Client, pixels: int | None, tmp_path: Path) -> None:
    """(time at +100 ms RTT − time at 0) / 100 ms, rounded, on a warm channel."""
    picture = PICTURE.read_bytes()
    if pixels is not None:
        picture = _noise(pixels)

    def seconds() -> float:
        times = []
        for _ in range(4):
            started = time.perf_counter()
            with far_client.lease(timeout=5) as lease:
                lease.finish(lease.xp.sum(lease.image(picture)))
            times.append(time.perf_counter() - started)
        return min(times)  # a busy machine only adds

    seconds()
    near = seconds()
    proxy.delay = 0.05
    far = seconds()
    assert round((far - near) / 0.1) == 1, f"{far:.3f} s against {near:.3f} s"


def _noise(pixels: int) -> bytes:
    import io

    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (pixels, pixels, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "JPEG", quality=60)
    assert len(out.getvalue()) > 500_000
    return out.getvalue()
