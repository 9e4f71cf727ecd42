# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Web identity tokens: those that hold, and all the ways to forge one."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from remotegpu import errors
from remotegpu_server.identity import jwt as identity_jwt
from remotegpu_server.identity import key_sets
from remotegpu_server.identity.jwt import MOST_WAITING, WebIdentity, keys_of
from remotegpu_server.identity.provider import Identity
from remotegpu_server.identity.verified import Verified
from tests.fixtures.aws_identity import AUDIENCE, ROLE, Issuer, by_hand, claims
from tests.fixtures.credentials import (
    BEARER,
    ISSUER,
    TENANTS,
    TOKEN,
    Wire,
    callers_of,
    identified,
    refused,
)


@pytest.fixture(scope="module")
def wire() -> Wire:
    return Wire()


@pytest.fixture
def callers(wire: Wire) -> Verified:
    return callers_of(wire)


FORGED: dict[str, tuple[Callable[[Issuer], str], str]] = {
    "alg none": (lambda i: by_hand({"alg": "none", "kid": "es"}, claims(iss=i.url)), "algorithm"),
    "HS256 with the public key": (
        lambda i: by_hand({"alg": "HS256", "kid": "rs"}, claims(iss=i.url), public(i)),
        "alg",
    ),
    "HMAC under the name RS256": (
        lambda i: by_hand({"alg": "RS256", "kid": "rs"}, claims(iss=i.url), public(i)),
        "sign",
    ),
    "a list of algorithms": (lambda i: by_hand({"alg": ["ES384"], "kid": "es"}, claims(iss=i.url)), "algorithm"),
    "a key with a path": (lambda i: by_hand({"alg": "ES384", "kid": "../es"}, claims(iss=i.url)), "does not publish"),
    "algorithms twice": (lambda i: twice(i), "signature"),
    "another algorithm": (lambda i: i.token("rs", "RS512"), "algorithm"),
    "the key of another algorithm": (lambda i: i.token("rs", "RS256", i.keys["rs"]).replace(*swapped()), "can be|key"),
    "somebody's own key": (lambda i: i.token("es", key=ec.generate_private_key(ec.SECP384R1())), "signature"),
    "its key comes along": (lambda i: with_jwk(i), "signature"),
    "another issuer": (lambda i: i.token(iss="https://evil.example"), "issuer"),
    "an issuer below": (lambda i: i.token(iss=f"{i.url}/x"), "issuer"),
    "no issuer": (lambda i: i.token(iss=None), "issuer"),
    "for another server": (lambda i: i.token(aud="other.example"), "this server alone"),
    "for this and another": (lambda i: i.token(aud=[AUDIENCE, "other.example"]), "this server alone"),
    "for nobody": (lambda i: i.token(aud=None), "this server alone"),
    "expired": (lambda i: i.token(exp=int(time.time()) - 61), "expired 6[12] s ago"),
    "without an end": (lambda i: i.token(exp=None), "exp"),
    "an end that is no number": (lambda i: by_key(i, exp=True), "exp"),
    "an end beyond all": (lambda i: by_key(i, exp=1e308), "exp"),
    "an end beyond all numbers": (lambda i: by_key(i, exp=10**400), "exp"),
    "an end that is not a number": (lambda i: by_key(i, exp=float("nan")), "exp"),
    "not yet": (lambda i: i.token(nbf=int(time.time()) + 70), "future"),
    "of tomorrow": (lambda i: i.token(iat=int(time.time()) + 86400), "future"),
    "of no time": (lambda i: i.token(iat=None), "iat"),
    "another role": (lambda i: i.token(sub="arn:aws:iam::123456789012:role/visionary"), "not on this server's list"),
    "another account": (lambda i: i.token(sub="arn:aws:iam::999999999999:role/vision"), "not on this server's list"),
    "another partition": (lambda i: i.token(sub="arn:aws-cn:iam::123456789012:role/vision"), "not on this"),
    "a user": (lambda i: i.token(sub="arn:aws:iam::123456789012:user/vision"), "not a role"),
    "a role with a tail": (lambda i: i.token(sub=f"{ROLE}\n"), "not a role"),
    "nobody": (lambda i: i.token(sub=None), "not a role"),
    "a header that asks for more": (
        lambda i: by_hand({"alg": "ES384", "kid": "es", "crit": ["x"]}, claims(iss=i.url)),
        "asks",
    ),
    "no key named": (lambda i: by_hand({"alg": "ES384"}, claims(iss=i.url)), "name its key"),
    "a list as header": (lambda i: by_hand([], claims(iss=i.url)), "can be read"),  # type: ignore[arg-type]
}


def public(issuer: Issuer) -> bytes:
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    data: bytes = issuer.keys["rs"].public_key().public_bytes(*form)
    return data


def swapped() -> tuple[str, str]:
    """The header of an RS256 token, and one that says ES384 with the same key."""

    def head(algorithm: str) -> str:
        data = f'{{"alg":"{algorithm}","kid":"rs","typ":"JWT"}}'.encode()
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    return head("RS256"), head("ES384")


def twice(issuer: Issuer) -> str:
    """A header that says none to whoever reads the first value, and ES384 to whoever reads the last."""
    header = b'{"alg":"none","alg":"ES384","kid":"es"}'
    body = issuer.token().split(".")[1]
    return f"{base64.urlsafe_b64encode(header).decode().rstrip('=')}.{body}."


def with_jwk(issuer: Issuer) -> str:
    other = Issuer(issuer.url)
    header = {
        "jwk": other.document()["keys"][0],
        "jku": "https://evil.example/jwks.json",
        "x5u": "https://evil.example",
    }
    return jwt.encode(claims(iss=issuer.url), other.keys["es"], "ES384", headers={"kid": "es", **header})


def by_key(issuer: Issuer, **changes: Any) -> str:
    made = jwt.PyJWS().encode(
        json.dumps({**claims(iss=issuer.url), **changes}).encode(),
        issuer.keys["es"],
        "ES384",
        headers={"kid": "es"},
    )
    return made


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_web_identity_token_is_refused(callers: Verified, wire: Wire, name: str) -> None:
    make, why = FORGED[name]
    refused(callers, f"Bearer {make(wire.issuer)}", why)


def test_a_changed_token_is_refused(callers: Verified, wire: Wire) -> None:
    head, body, signature = wire.issuer.token().split(".")
    other = wire.issuer.token(sub="arn:aws:iam::123456789012:role/x").split(".")[1]
    for token in (f"{head}.{other}.{signature}", f"{head}.{body}.", f"{head}.{body}.{signature[:-8]}"):
        refused(callers, f"Bearer {token}", "signature")


def test_a_token_is_good_for_a_minute_beyond_its_end_since_clocks_differ(callers: Verified, wire: Wire) -> None:
    found = identified(callers, f"Bearer {wire.issuer.token(exp=int(time.time()) - 55, iat=int(time.time()) + 55)}")
    assert 0 < found.expires - time.time() <= 5


def test_a_storm_of_unknown_keys_asks_the_issuer_once(callers: Verified, wire: Wire) -> None:
    stranger = ec.generate_private_key(ec.SECP384R1())

    async def storm() -> None:
        tokens = [wire.issuer.token(f"es-{number}", key=stranger) for number in range(30)]
        calls = [callers.identify([(BEARER, f"Bearer {token}")]) for token in tokens]
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, errors.AuthError)

    asyncio.run(storm())
    assert len(wire.asked) == 1
    assert identified(callers, f"Bearer {wire.issuer.token()}").tenant == "vision"


def test_an_issuer_that_is_slow_holds_up_few_calls_and_only_those_that_need_it(callers: Verified, wire: Wire) -> None:
    """Whoever invents key ids would otherwise have a place of every call that the server takes."""
    stranger, answered = ec.generate_private_key(ec.SECP384R1()), asyncio.Event()
    known, invented = wire.issuer.token(), [wire.issuer.token(f"es-{number}", key=stranger) for number in range(70)]

    async def slow(*_: object) -> object:
        await answered.wait()
        return wire.issuer.document()

    async def flood() -> None:
        await callers.identify([(BEARER, f"Bearer {known}")])
        wire.json = slow  # type: ignore[method-assign, assignment]
        callers._clock = lambda: time.time() + key_sets.PAUSE
        calls = [asyncio.create_task(callers.identify([(BEARER, f"Bearer {token}")])) for token in invented]
        done, waiting = await asyncio.wait(calls, timeout=0.2)
        assert len(waiting) == MOST_WAITING
        assert {type(call.exception()) for call in done} == {errors.Unavailable}
        await callers.identify([(BEARER, f"Bearer {wire.issuer.token(jti='another')}")])
        answered.set()
        await asyncio.wait(waiting)
        assert {type(call.exception()) for call in waiting} == {errors.AuthError}

    try:
        asyncio.run(flood())
    finally:
        del wire.json


def test_signatures_are_checked_beside_the_event_loop(
    callers: Verified, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever forges them would otherwise have everybody wait for a millisecond each."""
    go_on, real = threading.Event(), identity_jwt.signed_by

    def slow(token: str, key: Any, algorithm: str) -> bytes:
        assert go_on.wait(20)
        return real(token, key, algorithm)

    async def flood() -> None:
        calls = [
            asyncio.create_task(callers.identify([(BEARER, f"Bearer {wire.issuer.token(jti=str(number))}")]))
            for number in range(5)
        ]
        done, waiting = await asyncio.wait(calls, timeout=0.2)
        assert [type(call.exception()) for call in done] == [errors.Unavailable] * 2
        assert (await callers.identify([(BEARER, f"Bearer {TOKEN}")])).tenant == "operations"
        go_on.set()
        assert {found.tenant for found in await asyncio.gather(*waiting)} == {"vision"}

    monkeypatch.setattr(identity_jwt, "signed_by", slow)
    monkeypatch.setattr(identity_jwt, "MOST_CHECKED", 3)
    asyncio.run(flood())


def test_keys_are_asked_for_when_one_is_new_and_hold_while_the_issuer_is_away(wire: Wire) -> None:
    now = [time.time()]
    callers = Verified({"bearer": [WebIdentity([ISSUER], AUDIENCE, TENANTS, wire)]}, wire, lambda: now[0])

    def ask(**changes: Any) -> Identity:
        return identified(callers, f"Bearer {wire.issuer.token(iat=int(now[0]), exp=int(now[0]) + 300, **changes)}")

    wire.down = True
    for _ in range(2):
        with pytest.raises(errors.Unavailable, match="keys of the issuer"):
            ask()
    wire.down = False
    now[0] += key_sets.PAUSE
    ask()
    wire.issuer.keys["es-new"] = ec.generate_private_key(ec.SECP384R1())
    try:
        with pytest.raises(errors.AuthError, match="does not publish"):
            ask(kid="es-new")
        now[0] += key_sets.PAUSE
        ask(kid="es-new")
        wire.down, asked = True, len(wire.asked)
        now[0] += key_sets.FRESH
        ask(kid="es-new")
        ask(jti="another")
        assert len(wire.asked) == asked + 1
        now[0] += key_sets.HOLD
        with pytest.raises(errors.Unavailable):
            ask()
    finally:
        wire.down = False
        del wire.issuer.keys["es-new"]
    # A key that is not published any more does not hold any more.
    old = wire.issuer.keys.pop("rs")
    try:
        now[0] += key_sets.FRESH
        ask()
        with pytest.raises(errors.AuthError, match="does not publish"):
            ask(kid="rs", key=old)
    finally:
        wire.issuer.keys["rs"] = old


def test_only_keys_of_the_two_algorithms_are_taken_from_a_key_set() -> None:
    issuer = Issuer()
    good = issuer.document()["keys"]
    weak = Issuer()
    weak.keys = {"rs-weak": rsa.generate_private_key(65537, 1024), "es-small": ec.generate_private_key(ec.SECP256R1())}
    odd: list[Any] = [
        *weak.document()["keys"],
        {"kty": "oct", "kid": "shared", "k": "c2VjcmV0"},
        {**good[0], "kid": "enc", "use": "enc"},
        {**good[0], "kid": "lies", "alg": "RS256"},
        {**good[1], "kid": "unsigned", "alg": "none"},
        {**good[1], "kid": "odd", "alg": []},
        {**good[0], "kid": 7},
        {"kty": "EC", "kid": "broken", "crv": "P-384"},
        "text",
        None,
    ]
    assert set(keys_of({"keys": [*odd, *good]})) == {("es", "ES384"), ("rs", "RS256")}
    answers: list[object] = [{}, [], None, {"keys": {}}, {"keys": None}]
    for answer in answers:
        assert keys_of(answer) == {}
