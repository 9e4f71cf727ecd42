# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What may be asked for and by whom, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import remotegpu
from remotegpu import Client, errors
from remotegpu.reservation import Reservation
from remotegpu.v1 import lease_pb2

WRONG: list[tuple[str, Any]] = [
    *[("gpus", given) for given in (0, -1, 1.5, "2", None, True, 2**32)],
    *[("memory", given) for given in (-1, 2e9, "4GiB", None, 2**64)],
    *[("exclusive", given) for given in (1, "yes", None)],
    *[("timeout", given) for given in (-1, "10", None, True, False, float("nan"), 1e300)],
    *[("idle_ttl", given) for given in (0, -1, "30", None, float("inf"))],
    *[("hard_ttl", given) for given in (0, "30", True)],
    *[("priority", given) for given in (-1, 10, 1.0, "9", None)],
    *[("model", given) for given in (None, 5, b"digits", "\ud800")],
]


@pytest.mark.parametrize(("field", "given"), WRONG, ids=lambda value: repr(value)[:20])
def test_fields_are_refused_by_name_before_anything_is_sent(field: str, given: Any) -> None:
    with Client("grpc://127.0.0.1:9") as client:
        calls: list[Callable[..., object]] = [client.alloc, client.lease]
        calls += [] if field == "timeout" else [client.alloc_nowait, client.explain]
        for call in calls:
            with pytest.raises(remotegpu.InvalidInput) as caught:
                call(**{field: given})
            assert caught.value.field == field


def test_fields_that_do_not_exist_are_type_errors() -> None:
    with Client("grpc://127.0.0.1:9") as client:
        calls: list[tuple[Callable[..., object], str]] = [
            *((call, "gpu") for call in (client.alloc, client.alloc_nowait, client.lease, client.explain)),
            *((call, "timeout") for call in (client.alloc_nowait, client.explain)),
        ]
        for call, field in calls:
            name = getattr(call, "__name__", "")
            with pytest.raises(TypeError, match=rf"Client\.{name}\(\) has no argument '{field}'; it has .*memory"):
                call(**{field: 1})


def test_limit_of_a_wait_includes_none() -> None:
    with pytest.raises(remotegpu.InvalidInput) as caught:
        Reservation(timeout=-1.0)
    assert caught.value.limit.startswith("0 or seconds above 0")
    with pytest.raises(remotegpu.InvalidInput) as caught:
        Reservation(idle_ttl=-1.0)
    assert caught.value.limit.startswith("seconds above 0")


def test_numbers_of_numpy_are_numbers() -> None:
    asked = Reservation(gpus=np.int64(2), memory=np.uint8(7), idle_ttl=np.float32(2))  # type: ignore[arg-type]
    message = asked.message()
    assert (message.gpus, message.memory, message.idle_ttl_ms) == (2, 7, 2000)


def test_deferred_lease_of_very_many_devices_costs_nothing_here() -> None:
    with Client("grpc://127.0.0.1:9") as client:
        lease = client.lease(gpus=2**32 - 1)
        assert lease.on(2**32 - 2).device.index == 2**32 - 2


@pytest.mark.parametrize(
    "grant",
    [
        lease_pb2.LeaseGrant(),
        lease_pb2.LeaseGrant(lease="a", idle_ttl_ms=1),
        lease_pb2.LeaseGrant(lease="a", devices=[lease_pb2.GrantedDevice()]),
    ],
    ids=["empty", "no devices", "no ttl"],
)
def test_grant_that_is_none(grant: lease_pb2.LeaseGrant) -> None:
    with pytest.raises(errors.ProtocolError):
        Reservation.of(grant)


def test_time_that_passed_is_not_waited_again() -> None:
    asked = Reservation(timeout=10.0)
    first, second = asked.message("id"), asked.message("id", waited=7.5)
    assert (first.timeout_ms, second.timeout_ms, asked.message("id", waited=11).timeout_ms) == (10_000, 2500, 0)
    assert first.request_id == second.request_id == "id"


@pytest.mark.parametrize("tenant", ["", "a" * 65, "a b", "ä", "a/b", "a\n", 5])
def test_names_that_no_tenant_has(tenant: Any) -> None:
    with pytest.raises(remotegpu.ConfigurationError, match="tenant"):
        Client("grpc://127.0.0.1:9", tenant=tenant)


def test_tenant_of_the_environment() -> None:
    url = "grpc://127.0.0.1:9"
    assert Client.from_env({"REMOTEGPU_URL": url, "REMOTEGPU_TENANT": "a.b_c-1"}).tenant == "a.b_c-1"
    assert Client.from_env({"REMOTEGPU_URL": url, "REMOTEGPU_TENANT": ""}).tenant == "default"
    assert Client.from_env({"REMOTEGPU_URL": url}).tenant == "default"
    with pytest.raises(remotegpu.ConfigurationError, match="REMOTEGPU_TENANT"):
        Client.from_env({"REMOTEGPU_URL": url, "REMOTEGPU_TENANT": "a b"})
