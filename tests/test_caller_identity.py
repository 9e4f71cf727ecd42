# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Presigned GetCallerIdentity requests: those that hold, and all the ways to forge one."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest

from remotegpu import errors
from remotegpu.aws.sigv4 import Scope, presigned
from remotegpu.aws.sts import caller_identity_url
from remotegpu_server.identity import caller_identity
from remotegpu_server.identity.verified import Verified
from tests.fixtures.aws_identity import AUDIENCE, KEYS, REGION, STRANGER, USER
from tests.fixtures.credentials import (
    BEARER,
    TENANTS,
    Wire,
    callers_of,
    encoded,
    identified,
    refused,
)


@pytest.fixture(scope="module")
def wire() -> Wire:
    return Wire()


@pytest.fixture
def callers(wire: Wire) -> Verified:
    return callers_of(wire)


def signed(keys: Any = KEYS, server: str = AUDIENCE, when: float = 0.0, region: str = REGION) -> str:
    return caller_identity_url(keys, region, server, time.time() + when)


def replaced(url: str, old: str, new: str) -> str:
    assert old in url
    return url.replace(old, new, 1)


def unusual(query: Mapping[str, str], headers: Mapping[str, str] | None = None, host: str = "", life: int = 60) -> str:
    """Well signed, but not what is asked for."""
    scope = Scope(REGION, "sts", datetime.now(UTC))
    more = {"x-remotegpu-server-id": AUDIENCE} if headers is None else headers
    return presigned(KEYS, scope, host or f"sts.{REGION}.amazonaws.com", query, more, life)


CALLER = {"Action": "GetCallerIdentity", "Version": "2011-06-15"}
HOST = f"sts.{REGION}.amazonaws.com"
ATTACKS: dict[str, tuple[Callable[[], str], str]] = {
    "http": (lambda: replaced(signed(), "https:", "http:"), "form"),
    "another host": (lambda: replaced(signed(), HOST, "evil.example"), "in a region"),
    "a host below": (lambda: replaced(signed(), HOST, f"{HOST}.evil.example"), "in a region"),
    "a host in capitals": (lambda: replaced(signed(), HOST, HOST.upper()), "form"),
    "a user": (lambda: replaced(signed(), HOST, f"{HOST}@evil.example"), "form"),
    "a port": (lambda: replaced(signed(), HOST, f"{HOST}:8443"), "form"),
    "the global host": (lambda: unusual(CALLER, host="sts.amazonaws.com"), "in a region"),
    "a region that is not taken": (lambda: signed(region="eu-central-1"), "in a region"),
    "the scope of another region": (lambda: replaced(signed(), f"%2F{REGION}%2F", "%2Fus-east-1%2F"), "day or region"),
    "another service": (lambda: replaced(signed(), "%2Fsts%2F", "%2Fs3%2F"), "X-Amz-Credential"),
    "a path": (lambda: replaced(signed(), "/?", "/x?"), "form"),
    "two slashes": (lambda: replaced(signed(), "/?", "//?"), "form"),
    "a fragment": (lambda: signed() + "#x", "X-Amz-Signature"),
    "a line break": (lambda: replaced(signed(), "/?", "/?\r\n"), "form"),
    "a parameter twice": (lambda: signed() + "&Action=GetCallerIdentity", "twice"),
    "a parameter twice, in lower case": (lambda: signed() + "&action=GetSessionToken", "twice"),
    "a parameter in lower case": (lambda: replaced(signed(), "Action=", "action="), "twice"),
    "a parameter in disguise": (lambda: replaced(signed(), "Action=", "%41ction="), "twice"),
    "an odd parameter": (lambda: unusual({**CALLER, "DurationSeconds": "900"}), "belong"),
    "another action": (lambda: unusual({**CALLER, "Action": "GetSessionToken"}), "Action"),
    "another version": (lambda: unusual({**CALLER, "Version": "2011-06-16"}), "Version"),
    "no action": (lambda: unusual({"Version": "2011-06-15"}), "lacks Action"),
    "no server named": (lambda: unusual(CALLER, {}), "SignedHeaders"),
    "more headers signed": (
        lambda: unusual(CALLER, {"x-remotegpu-server-id": AUDIENCE, "x-evil": "1"}),
        "SignedHeaders",
    ),
    "a life that is none": (lambda: replaced(signed(), "X-Amz-Expires=60", "X-Amz-Expires=-1"), "X-Amz-Expires"),
    "a life of days": (lambda: unusual(CALLER, life=604800), "X-Amz-Expires"),
    "written otherwise": (lambda: replaced(signed(), "%3B", "%3b"), "SignedHeaders"),
    "a plus for a space": (lambda: replaced(signed(), "%2B", "+"), "Security-Token"),
    "too old": (lambda: signed(when=-121), "was signed 12[0-9] s ago"),
    "of the future": (lambda: signed(when=70), "future"),
    "of no day": (lambda: unusual_date(), "date is none"),
    "for another server": (lambda: signed(server="other.example"), "STS refuses.*403"),
    "signed by nobody": (lambda: signed()[:-64] + "0" * 64, "STS refuses"),
    "another role": (lambda: signed(STRANGER), "stranger is not on this server's list"),
    "a user of the same name": (lambda: signed(USER), "has not assumed a role"),
    "no session": (lambda: without_token(), "lacks X-Amz-Security-Token"),
    "no URL": (lambda: "", "form"),
}


def unusual_date() -> str:
    url = signed()
    day = url.partition("X-Amz-Date=")[2][:8]
    return url.replace(day, f"{day[:4]}9999")


def without_token() -> str:
    return replaced(signed(), f"&X-Amz-Security-Token={quote(KEYS.token, safe='')}", "")


@pytest.mark.parametrize("name", ATTACKS)
def test_a_forged_presigned_request_is_refused(callers: Verified, name: str) -> None:
    make, why = ATTACKS[name]
    refused(callers, encoded(make()), why)


@pytest.mark.parametrize(
    "token", ["a", "*", "aHR0cHM6Ly8=x", "\u00e4", base64.b64encode("https://\u00e4/?x".encode()).decode()]
)
def test_what_is_no_presigned_request(callers: Verified, token: str) -> None:
    refused(callers, f"RemotegpuSts {token}", "form")


def test_sts_gets_what_was_checked_and_the_servers_own_name_and_is_asked_once(callers: Verified, wire: Wire) -> None:
    value = encoded(signed())

    async def together() -> None:
        await asyncio.gather(*(callers.identify([(BEARER, value)]) for _ in range(10)))

    asyncio.run(together())
    ((url, headers),) = wire.asked
    assert url.startswith(f"https://{HOST}/?Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Algorithm=")
    assert (headers["host"], headers["x-remotegpu-server-id"]) == (HOST, AUDIENCE)


def test_what_was_proved_is_forgotten_when_it_expires(wire: Wire) -> None:
    now = [time.time()]
    checker = caller_identity.CallerIdentity([REGION], AUDIENCE, TENANTS, wire)
    callers, value = Verified({"remotegpusts": [checker]}, wire, lambda: now[0]), encoded(signed())
    identified(callers, value)
    now[0] += caller_identity.LIFE - 2
    identified(callers, value)
    now[0] += 3
    refused(callers, value, "was signed")


def test_sts_that_is_away_is_not_the_callers_mistake(callers: Verified, wire: Wire) -> None:
    wire.down = True
    try:
        with pytest.raises(errors.Unavailable, match="STS"):
            identified(callers, encoded(signed()))
    finally:
        wire.down = False
