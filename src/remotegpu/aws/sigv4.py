# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Signature Version 4 of AWS, for requests without a path. Pure, and in the standard library alone, since loading
botocore takes a function longer than all else that it loads.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote

_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Keys:
    """Of an IAM identity. `token`: of a session, empty without one."""

    access: str
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Scope:
    """Where and when a signature holds. `moment` in UTC."""

    region: str
    service: str
    moment: datetime

    @property
    def date(self) -> str:
        """As X-Amz-Date has it."""
        return self.moment.strftime("%Y%m%dT%H%M%SZ")

    def __str__(self) -> str:
        return f"{self.date[:8]}/{self.region}/{self.service}/aws4_request"


def presigned(
    keys: Keys, scope: Scope, host: str, query: Mapping[str, str], headers: Mapping[str, str], expires: int
) -> str:
    """The URL of a GET request to `https://host/`, which holds for `expires` seconds, for whoever sends these headers
    along (names in lower case; the host is always one)."""
    signed = {"host": host, **headers}
    parameters = {
        **query,
        "X-Amz-Algorithm": _ALGORITHM,
        "X-Amz-Credential": f"{keys.access}/{scope}",
        "X-Amz-Date": scope.date,
        "X-Amz-Expires": str(expires),
        "X-Amz-SignedHeaders": ";".join(sorted(signed)),
    }
    if keys.token:
        parameters["X-Amz-Security-Token"] = keys.token
    pairs = [f"{_quoted(name)}={_quoted(value)}" for name, value in parameters.items()]
    signature = _signature(keys, scope, _canonical("GET", "&".join(sorted(pairs)), signed, b""))
    return f"https://{host}/?{'&'.join(pairs)}&X-Amz-Signature={signature}"


def signed_headers(keys: Keys, scope: Scope, host: str, headers: Mapping[str, str], body: bytes) -> dict[str, str]:
    """All headers of a POST request to `https://host/`, given those that it has (names in lower case)."""
    signed = {**headers, "host": host, "x-amz-date": scope.date}
    if keys.token:
        signed["x-amz-security-token"] = keys.token
    signature = _signature(keys, scope, _canonical("POST", "", signed, body))
    names = ";".join(sorted(signed))
    authorization = f"{_ALGORITHM} Credential={keys.access}/{scope}, SignedHeaders={names}, Signature={signature}"
    return {**signed, "authorization": authorization}


def _quoted(text: str) -> str:
    return quote(text, safe="-._~")


def _canonical(method: str, query: str, headers: Mapping[str, str], body: bytes) -> str:
    """The request in the one form that is signed."""
    lines = [f"{name}:{' '.join(headers[name].split())}" for name in sorted(headers)]
    return "\n".join([method, "/", query, *lines, "", ";".join(sorted(headers)), hashlib.sha256(body).hexdigest()])


def _signature(keys: Keys, scope: Scope, canonical: str) -> str:
    key = f"AWS4{keys.secret}".encode()
    for part in str(scope).split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = "\n".join([_ALGORITHM, scope.date, str(scope), hashlib.sha256(canonical.encode()).hexdigest()])
    return hmac.new(key, text.encode(), "sha256").hexdigest()
