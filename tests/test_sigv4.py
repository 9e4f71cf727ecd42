# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Signatures of IAM keys: to the byte those of botocore, and keys that are found where they should be."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.auth
import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from remotegpu import errors
from remotegpu.aws import credentials, identity, sts
from remotegpu.aws.sigv4 import Keys, Scope, presigned, signed_headers
from tests.conftest import wait_until
from tests.fixtures.authority import web_server
from tests.fixtures.aws_identity import AUDIENCE, KEYS, REGION, STRANGER, Issuer, Sts

MOMENT = datetime.datetime(2026, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
HOST = "sts.eu-west-1.amazonaws.com"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": KEYS.access,
    "AWS_SECRET_ACCESS_KEY": KEYS.secret,
    "AWS_SESSION_TOKEN": KEYS.token,
    "AWS_REGION": REGION,
}


@pytest.fixture
def botocore_at_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *_: MOMENT.replace(tzinfo=None))


@pytest.fixture(autouse=True)
def no_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests have loaded it."""
    monkeypatch.delitem(sys.modules, "boto3")


@pytest.mark.usefixtures("botocore_at_the_moment")
@pytest.mark.parametrize("keys", [KEYS, Keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")])
def test_a_presigned_url_is_botocores(keys: Keys) -> None:
    query = {"Action": "GetCallerIdentity", "Version": "2011-06-15", "Odd": "a b/ü~=&+"}
    headers = {"x-remotegpu-server-id": "gpu  example "}
    request = AWSRequest("GET", f"https://{HOST}/", params=query, headers={"Host": HOST, **headers})
    signer = SigV4QueryAuth(Credentials(keys.access, keys.secret, keys.token or None), "sts", REGION, expires=60)
    signer.add_auth(request)
    assert presigned(keys, Scope(REGION, "sts", MOMENT), HOST, query, headers, 60) == request.url


@pytest.mark.usefixtures("botocore_at_the_moment")
@pytest.mark.parametrize("keys", [KEYS, Keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")])
def test_signed_headers_are_botocores(keys: Keys) -> None:
    body, headers = b"Action=GetWebIdentityToken", {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
    request = AWSRequest("POST", f"https://{HOST}/", data=body, headers={"Host": HOST, **headers})
    SigV4Auth(Credentials(keys.access, keys.secret, keys.token or None), "sts", REGION).add_auth(request)
    made = signed_headers(keys, Scope(REGION, "sts", MOMENT), HOST, headers, body)
    assert made == {name.lower(): value for name, value in request.headers.items()}


def test_a_web_identity_token_is_made_once_and_anew_before_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Sts(Issuer())
    with web_server(service.answer) as url:
        made = identity.WebIdentity(AUDIENCE, {**ENVIRONMENT, "AWS_ENDPOINT_URL_STS": url})
        ((name, value),) = first = made.metadata()
        assert (name, value[:9]) == ("authorization", "Bearer ey")
        assert made.metadata() == first
        assert service.seen == ["GetWebIdentityToken"]
        real = time.time
        for later, asked in ((239, 1), (241, 2), (-100, 3)):  # the last: a clock that was set back
            monkeypatch.setattr(time, "time", lambda later=later: real() + later)
            made.metadata()
            assert len(service.seen) == asked


def test_those_who_wait_for_a_try_that_fails_do_not_try_themselves_one_after_another() -> None:
    asked, answered = [0], threading.Event()

    def refusing(*_: object) -> tuple[int, dict[str, str], bytes]:
        asked[0] += 1
        answered.wait(20)
        return 403, {}, b"<html>"

    with web_server(refusing) as url, ThreadPoolExecutor(8) as threads:
        made = identity.WebIdentity(AUDIENCE, {**ENVIRONMENT, "AWS_ENDPOINT_URL_STS": url})
        tries = [threads.submit(made.metadata) for _ in range(8)]
        wait_until(lambda: asked[0] == 1 and threads._work_queue.empty(), "one asks, the others come")
        answered.set()
        for each in tries:
            with pytest.raises(errors.AuthError, match=r"no web identity token .403"):
                each.result(20)
        assert (before := asked[0]) < 4, "but for a thread that the system lets come late"
        with pytest.raises(errors.AuthError):
            made.metadata()
        assert asked[0] == before + 1, "who comes later tries again"


def test_why_no_token_is_made_is_told_without_the_keys() -> None:
    service = Sts(Issuer())
    with web_server(service.answer) as url:
        for keys, why in ((STRANGER, "403 AccessDenied"), (Keys(KEYS.access, "wrong"), "403 SignatureDoesNotMatch")):
            with pytest.raises(errors.AuthError, match=why) as refused:
                sts.web_identity_token(keys, REGION, AUDIENCE, 300, {"AWS_ENDPOINT_URL_STS": url})
            assert keys.secret not in str(refused.value)
    with pytest.raises(errors.AuthError, match="does not answer"):
        sts.web_identity_token(KEYS, REGION, AUDIENCE, 300, {"AWS_ENDPOINT_URL_STS": url})
    for wrong in ("ftp://x", "https://user@x", "nonsense"):
        with pytest.raises(errors.AuthError, match="AWS_ENDPOINT_URL_STS"):
            sts.web_identity_token(KEYS, REGION, AUDIENCE, 300, {"AWS_ENDPOINT_URL_STS": wrong})
    with pytest.raises(errors.AuthError, match="not a region"):
        sts.web_identity_token(KEYS, "evil.example/", AUDIENCE, 300, {})


def test_a_presigned_request_is_kept_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    made, now = identity.CallerIdentity(AUDIENCE, ENVIRONMENT), 1_800_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    ((_, first),) = made.metadata()
    now += 59
    assert made.metadata()[0][1] == first
    now += 2
    assert made.metadata()[0][1] != first


def test_keys_are_those_of_the_environment_when_they_are_asked_for() -> None:
    environment = dict(ENVIRONMENT)
    assert credentials.keys_of(environment) == KEYS
    environment["AWS_ACCESS_KEY_ID"] = "ASIAOTHER"
    assert credentials.keys_of(environment).access == "ASIAOTHER"
    assert KEYS.secret not in repr(KEYS)
    with pytest.raises(errors.AuthError, match="AWS_ACCESS_KEY_ID"):
        credentials.keys_of({})
    with pytest.raises(errors.AuthError, match="AWS_REGION"):
        credentials.region_of({})


def test_keys_of_a_restored_snapshot_are_asked_for_on_this_machine() -> None:
    asked: list[tuple[str, str, str]] = []

    def answer(method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        asked.append((method, path, headers.get("authorization", "")))
        if path != "/v2/keys?a=b":
            return 500, {}, b"out of order"
        told = {"AccessKeyId": KEYS.access, "SecretAccessKey": KEYS.secret, "Token": KEYS.token, "Expiration": "later"}
        return 200, {}, json.dumps(told).encode()

    with web_server(answer) as url:
        environment = {credentials.ADDRESS_VARIABLE: f"{url}/v2/keys?a=b", credentials.TOKEN_VARIABLE: "let me in"}
        assert credentials.keys_of(environment) == KEYS
        assert asked == [("GET", "/v2/keys?a=b", "let me in")]
        assert credentials.keys_of({**ENVIRONMENT, **environment}) == KEYS
        assert len(asked) == 1, "keys in the environment come first"
        with pytest.raises(errors.AuthError, match="gives no keys: status 500"):
            credentials.keys_of({credentials.ADDRESS_VARIABLE: url})
    for address, why in ((url, "nobody gives keys"), ("http://keys.example/", "not an http URL of this machine")):
        with pytest.raises(errors.AuthError, match=why):
            credentials.keys_of({credentials.ADDRESS_VARIABLE: address})


def test_keys_of_a_loaded_boto3_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    session = boto3.Session("AKIAOFBOTO", "secret", "token", region_name="us-east-2")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", session)
    monkeypatch.setitem(sys.modules, "boto3", boto3)
    assert credentials.keys_of(ENVIRONMENT) == Keys("AKIAOFBOTO", "secret", "token")
    assert credentials.region_of({}) == "us-east-2"
    assert credentials.region_of(ENVIRONMENT) == REGION


def test_a_credential_of_iam_loads_no_library_for_it() -> None:
    script: Any = (
        "import sys; from remotegpu.aws import identity; import remotegpu.identity as i;"
        "made = i.from_env({'REMOTEGPU_IDENTITY': 'aws-sts', 'AWS_ACCESS_KEY_ID': 'A', 'AWS_SECRET_ACCESS_KEY': 'b',"
        "'AWS_REGION': 'eu-west-1'}, 'gpu.example').metadata();"
        "assert made[0][1].startswith('RemotegpuSts '), made;"
        "assert not {'boto3', 'botocore', 'grpc', 'numpy', 'http', 'urllib.request'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=50)
    assert urlsplit(sts.caller_identity_url(KEYS, REGION, AUDIENCE, 1.8e9)).netloc == HOST
