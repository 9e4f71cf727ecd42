# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""A server with TLS that asks who calls: every door, every kind of credential, and streams that end with theirs."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import os
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

import remotegpu
from remotegpu import AsyncClient, Client, identity
from remotegpu.local import LocalServer
from remotegpu.v1 import inference_pb2
from remotegpu_server import settings
from remotegpu_server.tls import Tls
from tests.conftest import wait_until
from tests.fixtures.authority import Authority, web_server
from tests.fixtures.aws_identity import AUDIENCE, KEYS, REGION, ROLE, STRANGER, Issuer, Sts

TOKEN = "operator-0123456789abcdef"


@dataclass
class Site:
    """A server with all that it asks. `url` is for clients."""

    server: LocalServer
    authority: Authority
    issuer: Issuer
    sts: Sts
    sts_url: str

    @property
    def url(self) -> str:
        return f"grpcs://localhost:{self.server.port}"

    @property
    def target(self) -> str:
        return f"localhost:{self.server.port}"

    def client(self, identity: identity.IdentityProvider | None = None, **more: Any) -> Client:
        return Client(self.url, ca=self.authority.ca, identity=identity, timeout=20, **more)

    def environment(self, **more: str) -> dict[str, str]:
        return {
            "REMOTEGPU_URL": self.url,
            "REMOTEGPU_CA": str(self.authority.ca),
            "REMOTEGPU_AUDIENCE": AUDIENCE,
            "AWS_ENDPOINT_URL_STS": self.sts_url,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": KEYS.access,
            "AWS_SECRET_ACCESS_KEY": KEYS.secret,
            "AWS_SESSION_TOKEN": KEYS.token,
            **more,
        }


@pytest.fixture(scope="module")
def site(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("identity")
    authority, issuer = Authority(folder), Issuer()
    certificate, key = authority.issue("server")
    sts = Sts(issuer)
    with ExitStack() as stack:
        issuer.url = stack.enter_context(web_server(issuer.answer, authority.issue("issuer")))
        sts_url = stack.enter_context(web_server(sts.answer, authority.issue("sts")))
        # For this process, whose STS is in clear: http.client would need the test's CA.
        clear = stack.enter_context(web_server(sts.answer))
        file = folder / "identity.toml"
        file.write_text(
            f'audience = "{AUDIENCE}"\nissuers = ["{issuer.url}"]\nsts_regions = ["{REGION}"]\n'
            f'[roles]\n"{ROLE}" = "vision"\n[tokens]\n{hashlib.sha256(TOKEN.encode()).hexdigest()} = "operations"\n'
        )
        options = ["--gpus", "cpu", "--models", str(models), "--arena", "16MiB", "--identity", str(file)]
        doors = ["--inference", "127.0.0.1:0", "--rest", "127.0.0.1:0"]
        environment = {**os.environ, "SSL_CERT_FILE": str(authority.ca), "AWS_ENDPOINT_URL_STS": sts_url}
        server = LocalServer([*options, *doors, "--tls-cert", str(certificate), "--tls-key", str(key)], environment)
        yield Site(server, authority, issuer, sts, clear)
        said = server.last_words()
        assert server.stop() == 0
        assert "Traceback" not in said
        assert TOKEN not in said


class Tokens:
    """Makes web identity tokens that are good for so many seconds."""

    def __init__(self, issuer: Issuer, seconds: float) -> None:
        self.issuer, self.seconds, self.made = issuer, seconds, 0

    def metadata(self) -> identity.Pairs:
        self.made += 1
        # A server takes them for a minute longer.
        token = self.issuer.token(exp=time.time() + self.seconds - 60, jti=str(self.made))
        return (("authorization", f"Bearer {token}"),)


def test_a_token_over_tls(site: Site) -> None:
    with site.client(identity.StaticToken(TOKEN)) as client:
        assert client.model("linear")(np.ones((1, 64), np.float32))["y"].shape == (1, 8)
        with client.alloc() as lease:
            # A stream of its own, and the list of leases by tenant.
            assert lease.fetch(lease.xp.ones(200_000)).sum() == 200_000
            assert [held.tenant for held in client.top().leases] == ["operations"]


@pytest.mark.parametrize("kind", ["aws-jwt", "aws-sts"])
def test_the_role_of_a_process(site: Site, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "boto3", raising=False)
    with Client.from_env(site.environment(REMOTEGPU_IDENTITY=kind)) as client, client.alloc() as lease:
        assert lease.fetch(lease.xp.sum(lease.xp.ones(3))) == 3
        assert [held.tenant for held in client.top().leases] == ["vision"]


@pytest.mark.parametrize("kind", ["aws-jwt", "aws-sts"])
def test_the_role_of_a_process_for_asyncio(site: Site, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "boto3", raising=False)

    async def main() -> float:
        client = AsyncClient.from_env(site.environment(REMOTEGPU_IDENTITY=kind))
        async with client, await client.alloc() as lease:
            assert [held.tenant for held in (await client.top()).leases] == ["vision"]
            return float(await lease.fetch(lease.xp.sum(lease.xp.ones(3))))

    assert asyncio.run(main()) == 3


@pytest.mark.parametrize(
    ("kind", "why"),
    [("aws-jwt", "STS makes no web identity"), ("aws-sts", "role/stranger is not on this")],
)
def test_a_role_that_is_not_let_in(site: Site, kind: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "boto3", raising=False)
    keys = {"AWS_ACCESS_KEY_ID": STRANGER.access, "AWS_SECRET_ACCESS_KEY": STRANGER.secret}
    environment = site.environment(REMOTEGPU_IDENTITY=kind, **keys, AWS_SESSION_TOKEN=STRANGER.token)
    with Client.from_env(environment) as client, pytest.raises(remotegpu.AuthError, match=why):
        client.top()


def test_nobody_comes_in_without_a_credential(site: Site) -> None:
    started = time.monotonic()
    for who in (None, identity.StaticToken("somebody-else"), Tokens(site.issuer, -1)):
        with site.client(who) as client:
            with pytest.raises(remotegpu.AuthError):
                client.top()
            with pytest.raises(remotegpu.AuthError):
                client.alloc()
            with pytest.raises(remotegpu.AuthError):
                next(client.watch())
            with pytest.raises(remotegpu.AuthError):
                client.put(b"content")
    assert time.monotonic() - started < 10, "nothing was tried again"
    pretender = site.client(identity.StaticToken(TOKEN), tenant="vision")
    with pretender, pytest.raises(remotegpu.AuthError, match="'vision'"):
        pretender.top()


def test_a_server_that_another_authority_vouches_for_gets_no_credential(site: Site, tmp_path: Path) -> None:
    other, tokens = Authority(tmp_path), Tokens(site.issuer, 60)
    for ca in (other.ca, None):
        client = Client(site.url, ca=ca, identity=tokens, connect_timeout=0.3)
        with client, pytest.raises(remotegpu.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            client.top()
    assert not tokens.made


def test_a_stream_ends_with_its_credential_and_the_next_call_has_another(site: Site) -> None:
    tokens, x = Tokens(site.issuer, 1.0), np.ones((1, 64), np.float32)
    with site.client(tokens) as client, site.client(identity.StaticToken(TOKEN)) as other:
        lease = client.alloc()
        client.model("linear")(x)  # in a call of its own, since the size of the result is not known yet
        begun, made = time.monotonic(), tokens.made
        while time.monotonic() - begun < 2.5:
            assert client.model("linear")(x)["y"].shape == (1, 8)
            lease.fetch(lease.xp.ones(2))
        assert made + 1 <= tokens.made <= made + 4, "streams have ended with their credentials, and calls had the next"
        assert other.top().devices
        lease.dealloc()


def test_a_client_that_goes_on_with_an_old_credential_is_cut_off(site: Site) -> None:
    """It pays no heed to the go-away, since there is always a call under way."""
    tokens = Tokens(site.issuer, 1.0)
    first = tokens.metadata()

    class Kept:
        def metadata(self) -> identity.Pairs:
            return first

    with site.client(Kept()) as client:
        holder = client.alloc(exclusive=True)
        with pytest.raises(remotegpu.AuthError, match="expired"):
            client.alloc(timeout=15)
        with pytest.raises(remotegpu.AuthError, match="expired"):
            holder.fetch(holder.xp.ones(2))
    with site.client(Tokens(site.issuer, 60)) as client:
        assert client.dealloc(holder.id)


@pytest.mark.parametrize("pair", [("authorization", "Bearer a\nb"), ("Authorization", "Bearer a")])
def test_a_credential_that_cannot_travel_is_not_tried_again_and_again(site: Site, pair: tuple[str, str]) -> None:
    class Odd:
        def metadata(self) -> identity.Pairs:
            return (pair,)

    begun = time.monotonic()
    with site.client(Odd()) as client, pytest.raises(remotegpu.AuthError, match="cannot travel"):
        client.top()
    assert time.monotonic() - begun < 3


def test_watching_goes_on_with_a_new_credential(site: Site) -> None:
    tokens = Tokens(site.issuer, 0.7)
    with site.client(tokens) as client:
        watching = client.watch(0.1)
        wait_until(lambda: next(watching) and tokens.made >= 3, "streams have ended with their credentials")
        watching.close()


def channel(site: Site, port: int) -> grpc.Channel:
    return grpc.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials(site.authority.ca.read_bytes()))


def test_the_standard_door_over_grpc(site: Site) -> None:
    with channel(site, site.server.inference_port) as opened:

        def call(service: str, name: str, request: Any = b"", token: str = "") -> Any:
            method: Any = opened.unary_unary(f"/{service}/{name}")  # type: ignore[call-arg]
            return method(request, metadata=(("authorization", f"Bearer {token}"),) if token else (), timeout=10)

        oip = "inference.GRPCInferenceService"
        assert health_pb2.HealthCheckResponse.FromString(call("grpc.health.v1.Health", "Check")).status == 1
        for name in ("ServerLive", "ServerReady"):
            assert call(oip, name)
        named = inference_pb2.ModelReadyRequest(name="linear").SerializeToString()
        for name in ("ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig", "ModelInfer", "RepositoryIndex"):
            for token in ("", "wrong"):
                with pytest.raises(grpc.RpcError) as refused:
                    call(oip, name, named, token)
                assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert inference_pb2.ModelReadyResponse.FromString(call(oip, "ModelReady", named, TOKEN)).ready


def test_nothing_is_read_of_who_proves_nothing(site: Site) -> None:
    """A message may be as large as an arena: here none comes, and none is waited for."""
    closed = threading.Event()

    def requests() -> Iterator[bytes]:
        closed.wait(20)
        yield from ()

    with channel(site, site.server.inference_port) as opened:
        oip, reflection = "inference.GRPCInferenceService", "grpc.reflection.v1alpha.ServerReflection"
        for name in (f"{oip}/ModelInfer", f"{oip}/RepositoryModelLoad", f"{reflection}/ServerReflectionInfo"):
            method: Any = opened.stream_unary(f"/{name}")  # type: ignore[call-arg]
            with pytest.raises(grpc.RpcError) as refused:
                method(requests(), timeout=10)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "brings none" in (refused.value.details() or "")
        method = opened.stream_unary(f"/{oip}/ServerLive")  # type: ignore[call-arg]
        assert inference_pb2.ServerLiveResponse.FromString(method(requests(), timeout=10)).live
        closed.set()


def test_a_stream_of_the_standard_door_ends_with_its_credential(site: Site) -> None:
    with channel(site, site.server.inference_port) as opened:
        stream: Any = opened.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")  # type: ignore[call-arg]
        closed = threading.Event()

        def requests() -> Iterator[bytes]:
            closed.wait(20)
            yield from ()

        for metadata, why in (((), "brings none"), (Tokens(site.issuer, 0.5).metadata(), "expired")):
            with pytest.raises(grpc.RpcError) as refused:
                next(stream(requests(), metadata=metadata, timeout=10))
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert why in (refused.value.details() or "")
        closed.set()


def test_the_standard_door_over_http(site: Site) -> None:
    context = ssl.create_default_context(cafile=str(site.authority.ca))

    def get(path: str, **headers: str) -> tuple[int, bytes, str]:
        connection = http.client.HTTPSConnection("localhost", site.server.rest_port, context=context, timeout=10)
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        found = response.status, response.read(), response.headers.get("WWW-Authenticate", "")
        connection.close()
        return found

    for path in ("/v2/health/live", "/v2/health/ready"):
        assert get(path)[0] == 200
    for path in ("/v2", "/v2/models/linear", "/v2/models/linear/ready", "/v2/models/stats", "/v2/repository/index"):
        status, body, asked = get(path)
        assert (status, asked) == (401, "Bearer")
        assert b"brings none" in body
        assert get(path, Authorization="Bearer wrong")[0] == 401
        assert get(path, AUTHORIZATION=f"Bearer {TOKEN}")[0] == 200
    assert get("/v2", Authorization=f"Bearer {TOKEN}", **{"Remotegpu-Tenant": "vision"})[0] == 401
    assert get("/v2", Authorization=f"Bearer {site.issuer.token()}", **{"Remotegpu-Tenant": "vision"})[0] == 200


@pytest.mark.parametrize("who", [{"REMOTEGPU_TOKEN": TOKEN}, {"REMOTEGPU_IDENTITY": "aws-sts"}])
def test_a_process_with_a_credential_can_fork(site: Site, who: dict[str, str]) -> None:
    script = (
        "import os; from remotegpu import Client; client = Client.from_env(); client.top(); child = os.fork(); "
        "client.top(); child or os._exit(0); assert os.waitpid(child, 0)[1] == 0"
    )
    given = {**os.environ, **site.environment(), **who}
    subprocess.run([sys.executable, "-c", script], env=given, check=True, timeout=20)


def test_the_command_line_uses_the_environment(site: Site) -> None:
    command = [sys.executable, "-m", "remotegpu.cli", "explain", "--json"]
    for token, code in ((TOKEN, 0), ("wrong", 1)):
        environment = {**os.environ, "REMOTEGPU_URL": site.url, "REMOTEGPU_CA": str(site.authority.ca)}
        ended = subprocess.run(
            command, env={**environment, "REMOTEGPU_TOKEN": token}, capture_output=True, text=True, timeout=50
        )
        assert ended.returncode == code, ended.stderr
        assert token not in ended.stderr or token == "wrong"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"tls_cert": "CERT"}, "--tls-key: --tls-cert and --tls-key are of use only together"),
        ({"tls_key": "KEY"}, "--tls-cert: --tls-cert and --tls-key are of use only together"),
        ({"tls_cert": "missing.pem", "tls_key": "KEY"}, "--tls-cert: .*missing.pem: No such file"),
        ({"tls_cert": "CERT", "tls_key": "CERT"}, "are not a certificate and its key"),
        ({"tls_cert": "CERT", "tls_key": "OTHER"}, "are not a certificate and its key"),
        ({"identity": "FILE", "listen": "0.0.0.0:0"}, "--listen: 0.0.0.0 .*would travel in clear"),
        ({"identity": "FILE", "listen": "0.0.0.0:0", "insecure": True}, "would travel in clear"),
        ({"identity": "FILE", "rest": "0.0.0.0:0"}, "--rest: 0.0.0.0 .*would travel in clear"),
        ({"identity": "FILE", "inference": "0.0.0.0:0"}, "--inference: 0.0.0.0 .*would travel in clear"),
        ({"tls_cert": "CERT", "tls_key": "KEY", "listen": "0.0.0.0:0"}, "everybody may use"),
    ],
)
def test_what_does_not_protect_is_refused(site: Site, options: dict[str, str | bool | None], why: str) -> None:
    certificate, key = site.authority.issue("start")
    _, other = site.authority.issue("other")
    names = {"CERT": str(certificate), "KEY": str(key), "OTHER": str(other)}
    given = {name: names.get(str(value), value) for name, value in options.items()}

    def start() -> None:
        asked = settings.resolve(given, {})
        Tls.of(asked.tls_cert, asked.tls_key)

    with pytest.raises(remotegpu.ConfigurationError, match=why):
        start()


def test_what_protects_may_be_reached_from_outside(site: Site) -> None:
    protected: dict[str, str | bool | None] = {"tls_cert": "c", "tls_key": "k", "listen": "0.0.0.0:0"}
    assert settings.resolve({**protected, "identity": "f"}, {}).host == "0.0.0.0"
    assert settings.resolve({**protected, "insecure": True}, {}).host == "0.0.0.0"
    assert settings.resolve({"identity": "f", "listen": "127.0.0.1:0"}, {}).identity == Path("f").resolve()


def test_a_server_that_cannot_protect_says_why_in_one_sentence() -> None:
    command = [
        sys.executable,
        "-m",
        "remotegpu_server",
        "--gpus",
        "cpu",
        "--arena",
        "1MiB",
        "--identity",
        "missing.toml",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert ended.returncode == 2
    assert re.fullmatch("remotegpu-server: --identity: .*missing.toml.*No such file.*\n", ended.stderr), ended.stderr
