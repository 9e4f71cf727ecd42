# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Who calls, told by credentials of all kinds; the file that says which hold. Forged ones: `test_web_identity.py` and
`test_caller_identity.py`."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from remotegpu import errors
from remotegpu_server.identity import assembly, caller_identity, file, roles
from remotegpu_server.identity.asking import MOST, Asker, Refusal
from remotegpu_server.identity.provider import Identity
from remotegpu_server.identity.verified import Verified
from tests.fixtures.authority import web_server
from tests.fixtures.aws_identity import AUDIENCE, REGION, ROLE
from tests.fixtures.credentials import (
    BEARER,
    ISSUER,
    TENANTS,
    TOKEN,
    Wire,
    callers_of,
    identified,
    presigned_request,
    refused,
)


@pytest.fixture(scope="module")
def wire() -> Wire:
    return Wire()


@pytest.fixture
def callers(wire: Wire) -> Verified:
    return callers_of(wire)


def test_each_kind_of_credential_proves_its_tenant(callers: Verified, wire: Wire) -> None:
    assert identified(callers, f"Bearer {TOKEN}") == Identity("operations")
    for kid in ("es", "rs"):
        found = identified(callers, f"bearer {wire.issuer.token(kid)}")
        assert (found.tenant, 355 < found.expires - time.time() <= 360) == ("vision", True)
    assert identified(callers, f"Bearer {wire.issuer.token(aud=[AUDIENCE])}").tenant == "vision"
    with_path = wire.issuer.token(sub="arn:aws:iam::123456789012:role/team/a/vision")
    assert identified(callers, f"Bearer {with_path}").tenant == "vision"
    found = identified(callers, presigned_request())
    assert (found.tenant, 110 < found.expires - time.time() <= 120) == ("vision", True)


def test_a_call_may_say_the_tenant_that_it_proves_and_no_other(callers: Verified) -> None:
    assert identified(callers, f"Bearer {TOKEN}", ("remotegpu-tenant", "operations")).tenant == "operations"
    with pytest.raises(errors.AuthError, match="'vision'"):
        identified(callers, f"Bearer {TOKEN}", ("remotegpu-tenant", "vision"))
    with pytest.raises(errors.AuthError, match="more than one"):
        identified(callers, f"Bearer {TOKEN}", (BEARER, f"Bearer {TOKEN}"))
    with pytest.raises(errors.AuthError, match="brings none"):
        asyncio.run(callers.identify([("remotegpu-tenant", "vision")]))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "form SCHEME TOKEN"),
        ("Bearer", "form SCHEME TOKEN"),
        ("Bearer  ", "form SCHEME TOKEN"),
        (f"Bearer {TOKEN} x", "form SCHEME TOKEN"),
        ("Bearer t\u00f6ken", "form SCHEME TOKEN"),
        ("Bearer " + "x" * 9000, "longer than 8192"),
        ("Basic dXNlcjpwYXNz", "of its kind"),
        (f"Bearer {TOKEN[:-1]}", "can be read|does not know"),
        ("Bearer nonsense", "does not know"),
        ("Bearer " + "W" * 6000 + ".W10.x", "cannot|can be read"),
    ],
)
def test_what_is_no_credential(callers: Verified, value: str, why: str) -> None:
    refused(callers, value, why)


def test_roles_are_compared_without_their_paths() -> None:
    assert roles.canonical("arn:aws:iam::123456789012:role/a/b/name") == "arn:aws:iam::123456789012:role/name"
    assert roles.of_session("arn:aws-us-gov:sts::123456789012:assumed-role/name/s@x") == (
        "arn:aws-us-gov:iam::123456789012:role/name"
    )
    for wrong in (
        "arn:aws:iam::12345:role/x",
        f"{ROLE}/",
        "arn:aws:iam::123456789012:role/",
        ROLE.upper(),
        None,
        7,
        [ROLE],
    ):
        assert roles.canonical(wrong) is None
    for wrong in (ROLE, "arn:aws:sts::123456789012:assumed-role/name", "arn:aws:sts::123456789012:federated-user/name"):
        assert roles.of_session(wrong) is None


@pytest.mark.parametrize(
    "answer", [{}, [], None, {"GetCallerIdentityResponse": {"GetCallerIdentityResult": {"Arn": 7}}}]
)
def test_an_answer_of_sts_without_a_role(answer: object) -> None:
    assert caller_identity.role_in(answer) is None


GOOD = f"""
audience = "{AUDIENCE}"
issuers = ["{ISSUER}"]
sts_regions = ["{REGION}"]
[roles]
"{ROLE}" = "vision"
[tokens]
{hashlib.sha256(TOKEN.encode()).hexdigest()} = "operations"
"""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("audience = ", "Invalid|value"),
        (GOOD + "[more]\n", "more is not known"),
        (GOOD.replace(AUDIENCE, "two words"), "without spaces"),
        (GOOD.replace(f'"{AUDIENCE}"', "7"), "without spaces"),
        (GOOD.replace(f'audience = "{AUDIENCE}"', ""), "need an audience"),
        (GOOD.replace("https:", "http:"), "issuers is a list.*https"),
        (GOOD.replace(ISSUER, f"{ISSUER}/"), "without a slash"),
        (GOOD.replace(ISSUER, "https://user@issuer.example"), "issuers"),
        (GOOD.replace(f'["{REGION}"]', f'"{REGION}"'), "sts_regions is a list"),
        (GOOD.replace(REGION, "evil.example/"), "region such as"),
        (GOOD.replace(ROLE, "vision"), "is not the ARN of a role"),
        (GOOD.replace('= "vision"', '= "two words"'), "not a tenant's name"),
        (GOOD.replace("[roles]", f'[roles]\n"{ROLE.replace("role/", "role/path/")}" = "other"'), "for two tenants"),
        (GOOD.replace(hashlib.sha256(TOKEN.encode()).hexdigest(), "a-token-itself"), "name 1 is not a SHA-256"),
        ('[tokens]\noperations = "a-token-itself+/="', r"tokens.: a value is not a tenant's name"),
        (f'audience = "{AUDIENCE}"\nissuers = ["{ISSUER}"]', "only together"),
        (f'[roles]\n"{ROLE}" = "vision"', "only together"),
        ("", "lets nobody in"),
        ("tokens = 7", "is a table"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path: Path, text: str, why: str) -> None:
    assert text != GOOD
    (tmp_path / "identity.toml").write_text(text)
    with pytest.raises(errors.ConfigurationError, match=why) as caught:
        file.read(tmp_path / "identity.toml")
    assert "a-token-itself" not in str(caught.value)


def test_a_file_of_all_kinds(tmp_path: Path) -> None:
    (tmp_path / "identity.toml").write_text(GOOD)
    found = file.read(tmp_path / "identity.toml")
    assert (found.audience, found.issuers, found.regions, found.roles) == (AUDIENCE, (ISSUER,), (REGION,), TENANTS)
    with pytest.raises(errors.ConfigurationError, match="https"):
        assembly.verified(tmp_path / "identity.toml", {"AWS_ENDPOINT_URL_STS": "http://sts.example"})
    with pytest.raises(errors.ConfigurationError, match="No such file"):
        file.read(tmp_path / "missing.toml")


def test_the_edge_follows_nobody_reads_no_more_than_its_limit_and_waits_for_nobody_long() -> None:
    answers: dict[str, tuple[int, Mapping[str, str], bytes]] = {
        "/good": (200, {}, b'{"a": 1}'),
        "/moved": (302, {"Location": "/good"}, b""),
        "/refused": (403, {}, b"secret"),
        "/broken": (502, {}, b""),
        "/html": (200, {}, b"<html>"),
        "/deep": (200, {}, b"[" * 100_000),
        "/long": (200, {}, b'"' + b"x" * 300_000 + b'"'),
        "/packed": (200, {"Content-Encoding": "gzip"}, gzip.compress(b"7")),  # inflating knows no limit
    }

    async def ask(url: str) -> dict[str, object]:
        asker, found = Asker(), dict[str, object]()
        for path in (*answers, "/gone"):
            try:
                target = f"{url}{path}" if path != "/gone" else "http://127.0.0.1:1/"
                found[path] = await asker.json(target, "it")
            except (Refusal, errors.Unavailable) as error:
                found[path] = error.status if isinstance(error, Refusal) else str(error)
        await asker.close()
        return found

    with web_server(lambda _method, path, _headers, _body: answers[path]) as url:
        found = asyncio.run(ask(url))
    assert (found["/good"], found["/moved"], found["/refused"]) == ({"a": 1}, 302, 403)
    for path, why in {
        "/broken": "502",
        "/html": "with JSON",
        "/deep": "with JSON",
        "/long": "answer",
        "/packed": "with JSON",
        "/gone": "answer",
    }.items():
        assert why in str(found[path])


def test_one_that_is_slow_keeps_few_who_ask_it_and_none_who_ask_another() -> None:
    answered = threading.Event()

    def slow(_method: str, path: str, *_: object) -> tuple[int, Mapping[str, str], bytes]:
        assert path == "/quick" or answered.wait(20)
        return 200, {}, b"7"

    async def ask(url: str) -> None:
        asker = Asker()
        calls = [asyncio.create_task(asker.json(f"{url}/slow", "it")) for _ in range(MOST + 20)]
        done, waiting = await asyncio.wait(calls, timeout=0.3)
        assert len(waiting) == MOST
        assert {type(call.exception()) for call in done} == {errors.Unavailable}
        assert await asker.json(f"{url}/quick".replace("127.0.0.1", "localhost"), "another") == 7
        answered.set()
        assert await asyncio.gather(*waiting) == [7] * MOST
        assert await asker.json(f"{url}/quick", "it") == 7
        await asker.close()

    with web_server(slow) as url:
        asyncio.run(ask(url))
