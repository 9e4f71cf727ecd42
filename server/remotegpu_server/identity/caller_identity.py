# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Presigned GetCallerIdentity requests: a caller signs one with its IAM keys, and this server asks STS whose it is.

The signature is for this server: it covers a header with the server's own name, which no client chooses, so what is
shown to another server is of no use here. Nothing that a caller sends is passed on as it came: the request to STS is
made anew of checked values. The checks are those that aws-iam-authenticator and Vault have, some after being broken
(CVE-2022-2385, CVE-2020-16250), but with one form of everything:
https://github.com/kubernetes-sigs/aws-iam-authenticator/blob/master/pkg/token/token.go
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote, unquote

from remotegpu import errors

from . import roles
from .asking import Asker, Refusal
from .provider import Identity

SERVER_HEADER = "x-remotegpu-server-id"
# How long a presigned request proves who calls (STS would take it for 15 minutes, whatever it says itself), and how far
# ahead the caller's clock may be. Seconds.
LIFE = 120.0
SKEW = 60.0
REGION = re.compile(r"[a-z]{2}(?:-[a-z]+)+-[0-9]{1,2}")
_TOKEN = re.compile(r"[A-Za-z0-9_-]+={0,2}")
_URL = re.compile(r"https://([a-z0-9.-]+)/\?([!-~]+)")
_DATE = "%Y%m%dT%H%M%SZ"
# Exactly these keys, in this spelling, each once; and what their values may be.
_QUERY = {
    "Action": re.compile("GetCallerIdentity"),
    "Version": re.compile("2011-06-15"),
    "X-Amz-Algorithm": re.compile("AWS4-HMAC-SHA256"),
    "X-Amz-Credential": re.compile(r"[A-Z0-9]{16,128}/([0-9]{8})/([a-z0-9-]+)/sts/aws4_request"),
    "X-Amz-Date": re.compile(r"[0-9]{8}T[0-9]{6}Z"),
    "X-Amz-Expires": re.compile(r"[0-9]{1,3}"),
    "X-Amz-SignedHeaders": re.compile(f"host;{SERVER_HEADER}"),
    # Only roles have one, and only roles are let in.
    "X-Amz-Security-Token": re.compile(r"[A-Za-z0-9+/=_-]+"),
    "X-Amz-Signature": re.compile(r"[0-9a-f]{64}"),
}


@dataclass(frozen=True, slots=True)
class Signed:
    """A checked request. `expires` in seconds since the epoch."""

    host: str
    query: str = field(repr=False)
    expires: float


def sts_host(region: str) -> str:
    """The host of STS in a region."""
    return f"sts.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")


def checked(token: str, regions: Sequence[str], now: float) -> Signed:
    """What is to be asked of STS for a token. `now` in seconds since the epoch. Raises AuthError."""
    host, text = _split(token)
    region = next((each for each in regions if sts_host(each) == host), None)
    if region is None:
        raise errors.AuthError(why=f"it is not for STS in a region that this server takes: {', '.join(regions)}")
    values = _values(text)
    date = values["X-Amz-Date"]
    scope = _QUERY["X-Amz-Credential"].fullmatch(values["X-Amz-Credential"])
    assert scope is not None, "it was matched before"
    if scope.groups() != (date[:8], region):
        raise errors.AuthError(why="it is signed for another day or region than it says")
    try:
        begun = datetime.strptime(date, _DATE).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise errors.AuthError(why="its date is none") from None
    if begun > now + SKEW:
        raise errors.AuthError(why="it is signed in the future: do the clocks agree?")
    if now >= begun + LIFE:
        raise errors.AuthError(why=f"it was signed {now - begun:.0f} s ago, and holds for {LIFE:.0f} s")
    query = "&".join(f"{key}={quote(values[key], safe='')}" for key in sorted(values))
    return Signed(host, query, begun + LIFE)


def _split(token: str) -> tuple[str, str]:
    """The host and the query of the URL in a token."""
    try:
        if not _TOKEN.fullmatch(token):
            raise ValueError
        url = base64.b64decode(token.rstrip("=") + "=" * (-len(token.rstrip("=")) % 4), altchars=b"-_", validate=True)
        match = _URL.fullmatch(url.decode("ascii"))
    except ValueError:
        match = None
    if match is None:
        raise errors.AuthError(why="it does not hold a URL of the form https://sts.REGION.amazonaws.com/?...")
    return match[1], match[2]


def _values(text: str) -> dict[str, str]:
    """The query, each value of which is of its form, and written in the one way in which it is signed."""
    found: dict[str, str] = {}
    for pair in text.split("&"):
        key, _, quoted = pair.partition("=")
        if key not in _QUERY or key in found:
            raise errors.AuthError(why="its query has a parameter twice, or one that does not belong there")
        value = unquote(quoted, errors="replace")
        if not _QUERY[key].fullmatch(value) or quote(value, safe="") != quoted:
            raise errors.AuthError(why=f"its {key} is not what it must be")
        found[key] = value
    missing = _QUERY.keys() - found.keys()
    if missing:
        raise errors.AuthError(why=f"its query lacks {', '.join(sorted(missing))}")
    return found


def role_in(answer: object) -> str | None:
    """The role in an answer of STS, without its path; None if there is none."""
    for name in ("GetCallerIdentityResponse", "GetCallerIdentityResult", "Arn"):
        answer = answer.get(name) if isinstance(answer, dict) else None
    return roles.of_session(answer)


class CallerIdentity:
    """Knows presigned requests of roles on the list. Implements `provider.Checker`."""

    def __init__(
        self, regions: Sequence[str], audience: str, tenants: Mapping[str, str], asker: Asker, endpoint: str = ""
    ) -> None:
        """`tenants` by canonical ARN of a role; `endpoint`: an HTTPS URL to ask instead of the regions' hosts."""
        self._regions = regions
        self._audience = audience
        self._tenants = tenants
        self._asker = asker
        self._endpoint = endpoint.rstrip("/")

    async def check(self, token: str, now: float) -> Identity:
        """Implements `Checker.check`. One request to STS."""
        signed = checked(token, self._regions, now)
        # The signature covers both: the host that was checked, and the name that only this server gives itself.
        headers = {"Host": signed.host, SERVER_HEADER: self._audience}
        url = f"{self._endpoint or f'https://{signed.host}'}/?{signed.query}"
        try:
            answer = await self._asker.json(url, f"STS ({signed.host})", headers)
        except Refusal as refusal:
            why = f"STS refuses it with HTTP status {refusal.status}: is it signed for this server, {self._audience!r}?"
            raise errors.AuthError(why=why) from None
        role = role_in(answer)
        if role is None:
            raise errors.AuthError(why="who signed it has not assumed a role")
        tenant = self._tenants.get(role)
        if tenant is None:
            raise errors.AuthError(why=f"the role {role} is not on this server's list")
        return Identity(tenant, signed.expires)
