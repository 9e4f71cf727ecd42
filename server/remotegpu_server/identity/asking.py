# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The HTTP client of the identity package: it asks issuers for their keys and STS about callers, and nobody else."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import aiohttp
from yarl import URL

from remotegpu import errors

_PATIENCE = 5.0
_BODY_LIMIT = 256 * 1024
_OK = 200
# Requests to one host at once, and how many there may be with those that wait for their turn. More are refused: each
# keeps a call of somebody who is not known yet, of which the server has only so many.
_AT_ONCE = 16
MOST = 80
_SERVER_ERRORS = 500


class Refusal(Exception):
    """It has answered, but not with 200. `status`: of HTTP, below 500."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status


class Asker:
    """GET requests over HTTPS for JSON, with limits; redirects are not followed."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._under_way: Counter[str] = Counter()

    async def json(self, url: str, whom: str, headers: Mapping[str, str] | None = None) -> object:
        """What is answered. The URL is sent as it is; only `whom` is said in errors, since a URL may be a secret.

        Raises Refusal for what the other side refuses, Unavailable if it does not answer, or not with JSON, or if it is
        being asked too much."""
        sent = {"Accept": "application/json", "Accept-Encoding": "identity", **(headers or {})}
        target = URL(url, encoded=True)
        with self._turn(target.authority, whom):
            try:
                async with self._connected().get(target, headers=sent, allow_redirects=False) as response:
                    status, body = response.status, await _body(response)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise errors.Unavailable(why=f"{whom} does not answer ({type(error).__name__})") from None
        if status >= _SERVER_ERRORS:
            raise errors.Unavailable(why=f"{whom} answers with HTTP status {status}")
        if status != _OK:
            raise Refusal(status)
        try:
            answer: object = json.loads(body)
        except (ValueError, RecursionError):
            raise errors.Unavailable(why=f"{whom} does not answer with JSON") from None
        return answer

    async def close(self) -> None:
        """Ends the connections."""
        if self._session is not None:
            await self._session.close()

    @contextmanager
    def _turn(self, host: str, whom: str) -> Iterator[None]:
        if self._under_way[host] >= MOST:
            raise errors.Unavailable(why=f"{MOST} calls wait for {whom} to answer")
        self._under_way[host] += 1
        try:
            yield
        finally:
            self._under_way[host] -= 1

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # By host: one that is slow takes no turns from another.
                connector=aiohttp.TCPConnector(limit=0, limit_per_host=_AT_ONCE),
                auto_decompress=False,  # it knows no limit
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=_PATIENCE),
            )
        return self._session


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > _BODY_LIMIT:
            raise aiohttp.ClientPayloadError("too long")
    return bytes(body)
