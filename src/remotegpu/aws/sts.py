# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What is asked of STS: web identity tokens, and presigned GetCallerIdentity requests, which others send.

https://docs.aws.amazon.com/STS/latest/APIReference/API_GetWebIdentityToken.html
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlencode, urlsplit

from remotegpu import errors

from .sigv4 import Keys, Scope, presigned, signed_headers

SERVER_HEADER = "x-remotegpu-server-id"
ENDPOINT_VARIABLE = "AWS_ENDPOINT_URL_STS"
_VERSION = "2011-06-15"
_FORM = "application/x-www-form-urlencoded; charset=utf-8"
# STS holds to 15 minutes whatever this says, and a server to less. Seconds.
_PRESIGNED_LIFE = 60
_PATIENCE = 5.0
_ATTEMPTS = 2
_ANSWER_LIMIT = 64 * 1024
_TOKEN = re.compile(r'WebIdentityToken(?:>|"\s*:\s*")([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)[<"]')
_CODE = re.compile(r'Code(?:>|"\s*:\s*")(\w{1,100})[<"]')
_OK = 200


def host_of(region: str) -> str:
    """STS in that region. Raises AuthError for what is no region."""
    if not re.fullmatch(r"[a-z]{2}(-[a-z]+)+-[0-9]{1,2}", region):
        raise errors.AuthError(why=f"{region!r} is not a region")
    return f"sts.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")


def caller_identity_url(keys: Keys, region: str, server: str, now: float) -> str:
    """A request that whoever gets it can send to STS, to hear whose keys signed it, and only the server of that name.
    `now` in seconds since the epoch. Pure. Raises AuthError."""
    scope = Scope(region, "sts", datetime.fromtimestamp(now, UTC))
    query = {"Action": "GetCallerIdentity", "Version": _VERSION}
    return presigned(keys, scope, host_of(region), query, {SERVER_HEADER: server}, _PRESIGNED_LIFE)


def web_identity_token(keys: Keys, region: str, audience: str, life: int, environment: Mapping[str, str]) -> str:
    """A token of `life` seconds (60 to 3600) for that audience. One round trip to STS. Raises AuthError."""
    query = {
        "Action": "GetWebIdentityToken",
        "Version": _VERSION,
        "Audience.member.1": audience,
        "SigningAlgorithm": "ES384",
        "DurationSeconds": str(life),
    }
    host, endpoint = host_of(region), environment.get(ENDPOINT_VARIABLE, "")
    body = urlencode(query).encode()
    for attempt in range(_ATTEMPTS):
        scope = Scope(region, "sts", datetime.fromtimestamp(time.time(), UTC))
        headers = signed_headers(keys, scope, _authority(endpoint) or host, {"content-type": _FORM}, body)
        try:
            status, answer = _posted(endpoint or f"https://{host}", headers, body)
        except OSError as error:
            if attempt + 1 < _ATTEMPTS:
                continue
            raise errors.AuthError(why=f"STS does not answer at {host} ({type(error).__name__})") from None
        return _token_in(status, answer)
    raise AssertionError("the last attempt returns or raises")


def _authority(endpoint: str) -> str:
    return urlsplit(endpoint).netloc


def _posted(url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, str]:
    import http.client

    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None:
        raise errors.AuthError(why=f"{ENDPOINT_VARIABLE} is not an http or https URL")
    made = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = made(parts.hostname, parts.port, timeout=_PATIENCE)
    try:
        connection.request("POST", "/", body, {**headers, "accept": "application/json"})
        response = connection.getresponse()
        return response.status, response.read(_ANSWER_LIMIT).decode(errors="replace")
    except http.client.HTTPException as error:
        raise ConnectionError(type(error).__name__) from error
    finally:
        connection.close()


def _token_in(status: int, answer: str) -> str:
    """Of an answer in XML or in JSON, whichever it is."""
    match = _TOKEN.search(answer)
    if status == _OK and match is not None:
        return match[1]
    code = _CODE.search(answer)
    said = f"{status} {code[1]}" if code else str(status)
    hint = "does the role have sts:GetWebIdentityToken, and the account outbound identity federation?"
    raise errors.AuthError(why=f"STS makes no web identity token ({said}): {hint}")
