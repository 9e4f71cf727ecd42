# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Files that the server fetches by URL: from a real HTTP server, by a real server."""

import asyncio
import http.server
import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from remotegpu import Client, errors
from remotegpu.local import LocalServer
from remotegpu_server.gateway import fetching
from remotegpu_server.settings import resolve
from tests.conftest import StartServer


class Files(http.server.BaseHTTPRequestHandler):
    """Serves what `files` has, and some mischief."""

    files: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        path = self.path.partition("?")[0]
        if path.startswith("/to/"):
            self.send_response(302)
            port = self.headers["Host"].rpartition(":")[2]
            self.send_header("Location", path.removeprefix("/to/").replace("PORT", port))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = self.files.get(path.removeprefix("/chunked").removeprefix("/short"))
        self.send_response(404 if data is None else 200)
        data = data or b""
        if not path.startswith("/chunked"):
            self.send_header("Content-Length", str(len(data) + (10 if path.startswith("/short") else 0)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as served:
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    running = LocalServer(["--gpus", "cpu", "--arena", "16MiB", "--fetch-hosts", "127.0.0.1,.internal"])
    yield running
    assert running.stop() == 0


def test_tensors_and_pictures_are_fetched_by_the_server(client: Client, site: str) -> None:
    table = np.arange(300_000, dtype=np.float32).reshape(300, -1)
    picture = io.BytesIO()
    Image.new("RGB", (20, 10), (200, 0, 0)).save(picture, "PNG")
    Files.files = {"/table": table.tobytes(), "/picture.png": picture.getvalue()}
    with client.lease() as lease:
        array = lease.from_url(f"{site}/table?sign=1%2F2", dtype=np.float32, shape=table.shape)
        chunked = lease.from_url(f"{site}/chunked/table", dtype=np.float32, shape=table.shape)
        image = lease.from_url(f"{site}/picture.png")
        assert "to be fetched" in repr(array)
        before = client.statistics()
        found, shape = lease.fetch(lease.xp.sum(array - chunked + 1), image)
        assert (client.statistics().bytes_sent - before.bytes_sent) < 1000
        assert found == table.size
        assert (shape == [200, 0, 0]).all()
        assert shape.shape == (10, 20, 3)
        assert "/table?sign=1%2F2" in Files.asked  # as it was: the signature is of these characters
        Files.files = {}
        assert lease.fetch(lease.xp.max(array)) == table.max()  # it is on the device now
        np.testing.assert_array_equal(lease.fetch(lease.constant(table) - array), np.zeros_like(table))


@pytest.mark.parametrize(
    ("path", "kind", "said"),
    [
        ("SITE/missing?X-Signature=secret", errors.FetchFailed, "answered 404"),
        ("SITE/short/cut?X-Signature=secret", errors.FetchFailed, "broke"),
        ("SITE/large?X-Signature=secret", errors.InvalidInput, "at most 400 bytes"),
        ("SITE/chunked/large?X-Signature=secret", errors.InvalidInput, "at most 400 bytes"),
        ("SITE/little?X-Signature=secret", errors.InvalidInput, "at least 400 bytes"),
        ("SITE/to/http://localhost:PORT/data?X-Signature=secret", errors.FetchFailed, "another host"),
        ("SITE/to/http://127.0.0.1:1/data?X-Signature=secret", errors.FetchFailed, "another host or port"),
        ("SITE/to//to//to//to//to//to//to//data?X-Signature=secret", errors.FetchFailed, "redirects"),
        ("http://example.org/data?X-Signature=secret", errors.InvalidInput, "--fetch-hosts"),
        ("http://127.0.0.2/data?X-Signature=secret", errors.InvalidInput, "--fetch-hosts"),
        ("http://secret:secret@127.0.0.1/data", errors.InvalidInput, "without a user"),
        ("http://127.0.0.1:1/data?X-Signature=secret", errors.FetchFailed, "no connection"),
        ("http://127.0.0.1:99999/?X-Signature=secret", errors.InvalidInput, "URL"),
        ("http://127.0.0.1/sec ret", errors.InvalidInput, "printable"),
    ],
)
def test_files_that_may_not_or_cannot_be_had(
    client: Client, site: str, path: str, kind: type[errors.Error], said: str
) -> None:
    Files.files = {"/data": bytes(400), "/large": bytes(401), "/little": bytes(399), "/cut": bytes(390)}
    with client.lease() as lease, pytest.raises(kind) as caught:
        lease.fetch(lease.from_url(path.replace("SITE", site), dtype=np.int32, shape=(100,)))
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "sec ret" not in str(caught.value)


def test_a_redirect_within_its_host_is_followed(client: Client, site: str) -> None:
    Files.files = {"/data": bytes(400)}
    with client.lease() as lease:
        array = lease.from_url(f"{site}/to//data", dtype=np.int32, shape=(100,))
        assert not lease.fetch(array).any()


def test_a_server_that_allows_no_host_fetches_nothing(start_server: StartServer, site: str) -> None:
    with Client(start_server().url, timeout=20) as client, client.lease() as lease:
        with pytest.raises(errors.InvalidInput, match="--fetch-hosts"):
            lease.fetch(lease.from_url(f"{site}/data"))
        with pytest.raises(errors.InvalidInput, match="both or neither"):
            lease.from_url(f"{site}/data", dtype=np.int8)
        with pytest.raises(errors.InvalidInput, match="http or https"):
            lease.from_url("ftp://127.0.0.1/data")


def fetched(hosts: list[str], url: str) -> int:
    """The bytes that a fetcher of these hosts reads there."""

    async def fetch() -> int:
        fetcher = fetching.Fetcher(fetching.AllowedHosts.of(hosts))
        try:
            file = await fetcher.open(url, 400)
            return await file.read_into(memoryview(bytearray(file.room)))
        finally:
            await fetcher.close()

    return asyncio.run(fetch())


def test_a_name_of_an_allowed_domain_must_have_a_public_address(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name below a domain may be anybody's, and point to what only the server can reach."""
    Files.files = {"/data": bytes(400)}
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **named: real("127.0.0.1", *rest, **named))
    url = site.replace("127.0.0.1", "files.example.org") + "/data"
    for hosts in ([".example.org"], [".org"]):
        with pytest.raises(errors.FetchFailed, match="not a public one"):
            fetched(hosts, url)
    assert fetched([".example.org", "Files.Example.ORG."], url) == 400


def test_hosts_are_whole_names_or_all_below_a_domain() -> None:
    allowed = fetching.AllowedHosts.of(["one.example.org", ".s3.example.com"])
    assert allowed.allows("one.example.org")
    assert allowed.allows("bucket.s3.example.com")
    for host in ("example.org", "two.example.org", "xone.example.org", "s3.example.com", "evils3.example.com", ""):
        assert not allowed.allows(host), host
    assert not fetching.AllowedHosts.of([]).allows("example.org")


NOT_PUBLIC = """
    127.0.0.1 10.1.2.3 169.254.169.254 192.168.0.1 100.64.0.1 0.0.0.0 224.0.0.1 255.255.255.255 ::1 fe80::1%eth0
    fd00::1 ::ffff:10.0.0.1 2002:a00:1:: 64:ff9b::a00:1 ff02::1 :: x
    fec0::1 ::7f00:1 ::ffff:0:7f00:1 64:ff9b:1::a00:1"""


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_addresses_that_are_not_public(address: str) -> None:
    assert not fetching.is_public(address)
    assert fetching.is_public("8.8.8.8")
    assert fetching.is_public("2606:4700::1111")


def test_settings_of_contents() -> None:
    given = resolve({"store": "x", "store_size": "3MiB", "fetch_hosts": "a.example, .example.org,10.0.0.7,::1"}, {})
    assert (given.store, given.store_size) == (Path("x").resolve(), 3 * 1024**2)
    assert given.fetch_hosts == ("a.example", ".example.org", "10.0.0.7", "::1")
    assert resolve({}, {"REMOTEGPU_SERVER_STORE": "/x"}).store == Path("/x")
    default = resolve({}, {})
    assert (default.store, default.store_size, default.fetch_hosts) == (None, 10 * 1024**3, ())
    for hosts in ("http://a", "a/b", "*.example.org", "a..b", "a:80"):
        with pytest.raises(errors.ConfigurationError, match="--fetch-hosts"):
            resolve({"fetch_hosts": hosts}, {})
