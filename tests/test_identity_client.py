# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Clients with credentials, and servers that get none of them."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

import remotegpu
from remotegpu import AsyncClient, Client, config, identity, security
from tests.fixtures.authority import Authority

TOKEN = "operator-0123456789abcdef"


class Anew:
    """Makes a credential for each call."""

    def metadata(self) -> identity.Pairs:
        return (("authorization", f"Bearer {TOKEN}"),)


def test_a_credential_never_travels_in_clear(tmp_path: Path) -> None:
    for url, who in (
        ("grpc://gpu.example:1", identity.StaticToken(TOKEN)),
        ("grpc://127.0.0.1:1", Anew()),
    ):
        with pytest.raises(remotegpu.ConfigurationError, match="grpcs://"):
            Client(url, identity=who)
    with pytest.raises(remotegpu.ConfigurationError, match="not encrypted"):
        Client("grpc://127.0.0.1:1", ca=Authority(tmp_path).ca)
    assert TOKEN not in repr(identity.StaticToken(TOKEN))


def test_a_token_for_this_machine_does_not_go_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        for name in ("no_proxy", "no_grpc_proxy", "grpc_proxy", "https_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        client = Client("grpc://127.0.0.1:1", identity=identity.StaticToken(TOKEN), connect_timeout=0.2)
        with client, pytest.raises(remotegpu.ConnectError, match=r"127\.0\.0\.1:1:"):
            client.top()

        async def main() -> None:
            token = identity.StaticToken(TOKEN)
            async with AsyncClient("grpc://127.0.0.1:1", identity=token, connect_timeout=0.2) as other:
                await other.top()

        with pytest.raises(remotegpu.ConnectError, match=r"127\.0\.0\.1:1:"):
            asyncio.run(main())
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()


def test_a_server_of_another_name_gets_no_credential_and_the_error_says_why(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("other", "other.example")
    server = grpc.server(ThreadPoolExecutor(1))
    pair = key.read_bytes(), certificate.read_bytes()
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    client = Client(f"grpcs://localhost:{port}", ca=authority.ca, identity=Anew(), connect_timeout=0.2)
    with client, pytest.raises(remotegpu.ConnectError, match=r"not trusted .*Hostname.* one of its names"):
        client.top()
    server.stop(0).wait()


@pytest.mark.parametrize("url", ["grpcs://user:hunter2@h:1", "grpc://hunter2@h", "grpcs://h:1?hunter2", "grpcs://h#x"])
def test_a_url_is_a_server_and_nothing_else(url: str) -> None:
    with pytest.raises(remotegpu.ConfigurationError, match=r"url: .*grpcs://HOST:PORT") as refused:
        config.parse_url(url)
    assert "@" not in url or "hunter2" not in str(refused.value)


def test_what_the_environment_asks_for() -> None:
    assert security.from_env({}, "grpcs://h:1") == {"ca": None, "identity": None}
    found = security.from_env({"REMOTEGPU_TOKEN": "x", "REMOTEGPU_CA": "f"}, "local:")
    assert found == {"ca": None, "identity": None}
    assert config.parse_url("grpcs://h").secure
    made = security.from_env({"REMOTEGPU_TOKEN": "x"}, "grpcs://h")["identity"]
    assert made is not None
    assert made.metadata() == (("authorization", "Bearer x"),)
    for environment in ({"REMOTEGPU_TOKEN": "two words"}, {"REMOTEGPU_IDENTITY": "azure"}):
        with pytest.raises(remotegpu.ConfigurationError, match=next(iter(environment))):
            security.from_env(environment, "grpcs://h")
    with pytest.raises(remotegpu.ConfigurationError, match="REMOTEGPU_AUDIENCE"):
        security.from_env({"REMOTEGPU_IDENTITY": "aws-jwt", "REMOTEGPU_AUDIENCE": "two words"}, "grpcs://h")
    for ca in ("/nonexistent", __file__):
        with pytest.raises(remotegpu.ConfigurationError, match="ca: "):
            Client("grpcs://h", ca=ca)
