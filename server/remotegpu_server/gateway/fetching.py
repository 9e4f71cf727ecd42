# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Files that the server fetches for a call, by HTTP or HTTPS: an HTTP client (the other one is `identity/asking`).

The server stands where its callers do not, so it fetches only from hosts that the operator has named, and nothing but
public addresses from hosts that he has named by their domain alone: a name there may point anywhere. What is told of a
URL never has its query, which holds the signature of a presigned one.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from remotegpu import errors

# Characters of a URL; redirects followed, all within one host; connections at once.
URL_LIMIT = 8192
_MOST_REDIRECTS = 5
_MOST_CONNECTIONS = 64
# Without any byte. Seconds.
_SILENCE = 30.0
_PRINTABLE = re.compile(r"[!-~]+")
_REDIRECTS = {301, 302, 303, 307, 308}
_OK = 200


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """Which hosts the operator has named: whole names, and `.suffixes` for all names below a domain."""

    exact: frozenset[str] = field(default_factory=frozenset)
    suffixes: tuple[str, ...] = ()

    @classmethod
    def of(cls, entries: Sequence[str]) -> AllowedHosts:
        """From names such as "files.example.org", "10.0.0.7" and ".s3.amazonaws.com"."""
        names = [entry.lower().rstrip(".") for entry in entries]
        exact = frozenset(name for name in names if not name.startswith("."))
        return cls(exact, tuple(name for name in names if name.startswith(".")))

    def allows(self, host: str) -> bool:
        """Whether anything may be fetched from there."""
        return host in self.exact or host.endswith(self.suffixes or ("\0",))

    def allows_private(self, host: str) -> bool:
        """Whether that host may have an address which is not public."""
        return host in self.exact


def is_public(address: str) -> bool:
    """Whether an address is one of the Internet's: no loopback, private, link-local, multicast or reserved one, nor an
    IPv6 address that stands for such an IPv4 address."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if inner is not None and not is_public(str(inner)):
            return False
        # 64:ff9b::/96, by which gateways reach IPv4: https://www.rfc-editor.org/rfc/rfc6052#section-2.1
        if found in ipaddress.IPv6Network("64:ff9b::/96"):
            return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
        # All that is given out to the Internet; Python calls others global too, such as the old site-local ones.
        if found not in ipaddress.IPv6Network("2000::/3"):
            return False
    return found.is_global and not found.is_multicast


class _Resolver(AbstractResolver):
    """Names to addresses, without those that the host may not have: asked for each new connection, so that what is
    checked is what is connected to."""

    def __init__(self, allowed: AllowedHosts) -> None:
        self._allowed = allowed
        self._inner = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if self._allowed.allows_private(_normal(host)):
            return found
        public = [item for item in found if is_public(item["host"])]
        if not public:
            raise OSError("its address is not a public one")
        return public

    async def close(self) -> None:
        await self._inner.close()


class OpenFile:
    """A file whose headers have arrived. `room`: bytes that it may need."""

    def __init__(self, response: aiohttp.ClientResponse, limit: int) -> None:
        self._response = response
        self._where = told(response.url)
        announced = response.content_length
        if announced is not None and announced > limit:
            raise self._too_large(limit)
        self.room = limit if announced is None else announced

    async def read_into(self, target: memoryview) -> int:
        """Reads all of it; the bytes that came. Raises InvalidInput for more than there is room for, FetchFailed."""
        position = 0
        try:
            async for piece in self._response.content.iter_any():
                if position + len(piece) > len(target):
                    raise self._too_large(len(target))
                target[position : position + len(piece)] = piece
                position += len(piece)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise errors.FetchFailed(url=self._where, why=_reason(error)) from None
        return position

    def close(self) -> None:
        """Ends the transfer, if it is not over."""
        self._response.close()

    def _too_large(self, limit: int) -> errors.InvalidInput:
        return errors.InvalidInput(field=f"file {self._where}", limit=f"at most {limit} bytes", given="more")


class Fetcher:
    """An HTTP client for the hosts that are allowed."""

    def __init__(self, allowed: AllowedHosts) -> None:
        self._allowed = allowed
        self._session: aiohttp.ClientSession | None = None

    async def open(self, text: str, limit: int) -> OpenFile:
        """Asks for a file of at most `limit` bytes and follows redirects within its host. Cancelling ends it.

        Raises InvalidInput for a URL that may not be fetched or a file that is too large, FetchFailed otherwise."""
        url = self._checked(text)
        try:
            for _ in range(_MOST_REDIRECTS + 1):
                response = await self._connected().get(url, allow_redirects=False)
                try:
                    target = self._redirect(url, response)
                    if target is None:
                        return self._opened(response, limit)
                except BaseException:
                    response.close()
                    raise
                response.close()
                url = target
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise errors.FetchFailed(url=told(url), why=_reason(error)) from None
        raise errors.FetchFailed(url=told(url), why=f"more than {_MOST_REDIRECTS} redirects")

    async def close(self) -> None:
        """Ends all transfers."""
        if self._session is not None:
            await self._session.close()

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=_Resolver(self._allowed), use_dns_cache=False, limit=_MOST_CONNECTIONS
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                # The limit is for the bytes of the file, which must be those that travel.
                headers={"Accept-Encoding": "identity"},
                # The whole has the call's own deadline.
                timeout=aiohttp.ClientTimeout(total=None, sock_read=_SILENCE),
            )
        return self._session

    def _opened(self, response: aiohttp.ClientResponse, limit: int) -> OpenFile:
        where = told(response.url)
        if response.status != _OK:
            raise errors.FetchFailed(url=where, why=f"the host answered {response.status}")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise errors.FetchFailed(url=where, why="the host compressed it although it was not to")
        return OpenFile(response, limit)

    def _redirect(self, url: URL, response: aiohttp.ClientResponse) -> URL | None:
        location = response.headers.get("Location")
        if response.status not in _REDIRECTS or location is None:
            return None
        if not _PRINTABLE.fullmatch(location) or len(location) > URL_LIMIT:
            raise errors.FetchFailed(url=told(url), why="a redirect that is no URL")
        target = url.join(URL(location, encoded=True))
        same = (target.scheme, target.port) == (url.scheme, url.port)
        upgraded = url.scheme == "http" and (target.scheme, target.port) == ("https", 443)
        if target.raw_host != url.raw_host or target.raw_user is not None or not (same or upgraded):
            raise errors.FetchFailed(url=told(url), why="a redirect to another host or port")
        return target.with_fragment(None)

    def _checked(self, text: str) -> URL:
        if len(text) > URL_LIMIT or not _PRINTABLE.fullmatch(text):
            limit = f"at most {URL_LIMIT} printable ASCII characters"
            raise errors.InvalidInput(field="url", limit=limit, given=f"{len(text)} characters")
        try:
            # As it is: a signature is of the very characters.
            url = URL(text, encoded=True)
            host, port = url.raw_host, url.port
        except ValueError:
            raise errors.InvalidInput(field="url", limit="an http or https URL", given="something else") from None
        if url.scheme not in {"http", "https"} or not host or port is None or url.raw_user is not None:
            limit = "an http or https URL with a host and without a user"
            raise errors.InvalidInput(field="url", limit=limit, given=told(url))
        name = _normal(host)
        if not self._allowed.allows(name):
            limit = "hosts that the operator allows (--fetch-hosts)"
            raise errors.InvalidInput(field="url", limit=limit, given=f"host {name:.200}")
        # Addresses are never looked up, so the resolver does not see them.
        if not self._allowed.allows_private(name) and _is_address(name):
            raise errors.InvalidInput(field="url", limit="a host with a name", given=f"host {name:.200}")
        return url.with_fragment(None)


def told(url: URL) -> str:
    """A URL as errors may say it: without user, query and fragment."""
    host = url.raw_host or ""
    port = f":{url.explicit_port}" if url.explicit_port else ""
    return f"{url.scheme}://{host}{port}{url.raw_path}"[:300]


def _normal(host: str) -> str:
    return host.lower().rstrip(".")


def _is_address(host: str) -> bool:
    """Whether a host is an address in any of the spellings that resolvers take, such as 127.1 and 0x7f000001."""
    last = host.rpartition(".")[2]
    return ":" in host or last.isdecimal() or last.startswith("0x")


def _reason(error: BaseException) -> str:
    """Why it failed, without the words of libraries, which may repeat the URL."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection ({error.os_error.strerror or error.os_error})"
    if isinstance(error, TimeoutError):
        return f"nothing came for {_SILENCE:g} s"
    return f"the transfer broke ({type(error).__name__})"
