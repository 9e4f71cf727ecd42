# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Web identity tokens: JWTs that an issuer has signed for this server's audience. The only file that imports PyJWT.

AWS signs one for a role by `sts:GetWebIdentityToken`; each account has an issuer of its own, whose keys are at
`/.well-known/jwks.json`:
https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_providers_outbound_token_claims.html
The library checks signatures; which keys, algorithms and claims are taken is decided here (RFC 8725).
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from remotegpu import errors

from . import roles
from .asking import Asker, Refusal
from .key_sets import KeyName, KeySet
from .provider import Identity

logger = logging.getLogger("remotegpu.identity")

ALGORITHMS = frozenset({"RS256", "ES384"})
# How far clocks may differ. Seconds.
SKEW = 60.0
_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_KEY_PATH = "/.well-known/jwks.json"
_RSA_LEAST = 2048
_KEY_ID_LIMIT = 256
_TIME_LIMIT = 2**40
# Calls that may wait until an issuer has said which keys it has: whoever invents key ids has all of them wait.
MOST_WAITING = 64
# Threads that check signatures, and calls that may wait for them.
_THREADS = 2
MOST_CHECKED = 256


class WebIdentity:
    """Knows tokens of the issuers given, for roles on the list. Implements `provider.Checker`."""

    def __init__(self, issuers: Sequence[str], audience: str, tenants: Mapping[str, str], asker: Asker) -> None:
        """`tenants` by canonical ARN of a role."""
        self._audience = audience
        self._tenants = tenants
        self._asker = asker
        self._keys: Mapping[str, KeySet[Any]] = {issuer: KeySet() for issuer in issuers}
        self._asking = {issuer: asyncio.Lock() for issuer in issuers}
        self._waiting: Counter[str] = Counter()
        self._threads = ThreadPoolExecutor(_THREADS, "identity")
        self._checked = 0

    async def check(self, token: str, now: float) -> Identity | None:
        """Implements `Checker.check`."""
        if not _TOKEN.fullmatch(token):
            return None
        head, body = token.split(".")[:2]
        header, issuer = _object(head), _object(body).get("iss")
        if not isinstance(issuer, str) or issuer not in self._keys:
            raise errors.AuthError(why="its issuer is not one that this server trusts")
        name = _key_name(header)
        key = await self._key(issuer, name, now)
        # The claims are those of the bytes whose signature was checked.
        signed = await self._signed(token, key, name[1])
        return identity_of(_parsed(signed), issuer, self._audience, self._tenants, now)

    async def _signed(self, token: str, key: Any, algorithm: str) -> bytes:
        """What was signed. On a thread, which takes a millisecond (ES384), and so does a forged one: others would wait
        for each. Raises AuthError, and Unavailable where too many wait for a thread."""
        if self._checked >= MOST_CHECKED:
            raise errors.Unavailable(why=f"{MOST_CHECKED} signatures of tokens are being checked")
        self._checked += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, signed_by, token, key, algorithm)
        finally:
            self._checked -= 1

    async def _key(self, issuer: str, name: KeyName, now: float) -> Any:
        keys = self._keys[issuer]
        if keys.due(name, now) or (keys.find(name, now) is None and self._asking[issuer].locked()):
            await self._fresh(issuer, name, now)
        key = keys.find(name, now)
        if key is None and not keys.holds(now):
            raise errors.Unavailable(why=f"the keys of the issuer {issuer} cannot be had")
        if key is None:
            raise errors.AuthError(why="it is signed by a key that its issuer does not publish")
        return key

    async def _fresh(self, issuer: str, name: KeyName, now: float) -> None:
        """Asks for keys, or waits for another call that does. Raises Unavailable where too many wait."""
        if self._waiting[issuer] >= MOST_WAITING:
            raise errors.Unavailable(why=f"{MOST_WAITING} calls wait for the keys of the issuer {issuer}")
        self._waiting[issuer] += 1
        try:
            async with self._asking[issuer]:
                if self._keys[issuer].due(name, now):  # no other call has asked meanwhile
                    await self._ask(issuer, self._keys[issuer], now)
        finally:
            self._waiting[issuer] -= 1

    async def _ask(self, issuer: str, keys: KeySet[Any], now: float) -> None:
        """Keys that are there stay if nobody answers."""
        keys.asked(now)
        try:
            answer = await self._asker.json(issuer + _KEY_PATH, f"the issuer {issuer}")
            keys.replace(keys_of(answer), now)
        except (errors.Unavailable, Refusal) as error:
            logger.warning("the keys of %s could not be had: %s", issuer, error)


def signed_by(token: str, key: Any, algorithm: str) -> bytes:
    """What is signed by that key. Raises AuthError."""
    try:
        signed: bytes = jwt.PyJWS(algorithms=[algorithm]).decode(token, key=key, algorithms=[algorithm])
    except jwt.PyJWTError:
        raise errors.AuthError(why="its signature is not its issuer's") from None
    return signed


def keys_of(answer: object) -> dict[KeyName, RSAPublicKey | EllipticCurvePublicKey]:
    """The usable keys of a JWK set (RFC 7517); others are left out."""
    found: dict[KeyName, RSAPublicKey | EllipticCurvePublicKey] = {}
    listed = answer.get("keys") if isinstance(answer, dict) else None
    for each in listed if isinstance(listed, list) else ():
        if not isinstance(each, dict) or each.get("use", "sig") != "sig":
            continue
        try:
            # Without "alg", which the library would believe, or refuse the whole set for: see `_algorithm`.
            key: object = jwt.PyJWK.from_dict({name: each[name] for name in each if name != "alg"}).key
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue  # of a kind that is not ours
        name, algorithm = each.get("kid"), _algorithm(key)
        if isinstance(name, str) and algorithm and each.get("alg", algorithm) == algorithm:
            assert isinstance(key, (RSAPublicKey, EllipticCurvePublicKey))
            found[name, algorithm] = key
    return found


def _algorithm(key: object) -> str:
    """What a key may sign with; empty for none. Private and symmetric keys are of other classes."""
    if isinstance(key, RSAPublicKey) and key.key_size >= _RSA_LEAST:
        return "RS256"
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name == "secp384r1":
        return "ES384"
    return ""


def _key_name(header: Mapping[str, Any]) -> KeyName:
    algorithm, key_id = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise errors.AuthError(why=f"its algorithm is none of {', '.join(sorted(ALGORITHMS))}")
    if not isinstance(key_id, str) or len(key_id) > _KEY_ID_LIMIT:
        raise errors.AuthError(why="it does not name its key")
    if "crit" in header or "b64" in header:
        raise errors.AuthError(why="its header asks for what this server does not know")
    return key_id, algorithm


def _object(part: str) -> dict[str, Any]:
    """The JSON object of a part of a token. Raises AuthError."""
    try:
        data = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise errors.AuthError(why="it is not a token that can be read") from None
    return _parsed(data)


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise errors.AuthError(why="it is not a token that can be read")
    return found


def identity_of(
    claims: Mapping[str, Any], issuer: str, audience: str, tenants: Mapping[str, str], now: float
) -> Identity:
    """Whose the claims are, the signature of which was checked. Times in seconds since the epoch. Raises AuthError."""
    if claims.get("iss") != issuer:
        raise errors.AuthError(why="its issuer is another one than its key's")
    if claims.get("aud") not in (audience, [audience]):
        raise errors.AuthError(why=f"it is not made for this server alone, whose audience is {audience!r}")
    expires = _time(claims, "exp") + SKEW
    if now >= expires:
        raise errors.AuthError(why=f"it has expired {now - expires + SKEW:.0f} s ago")
    for name in ("iat", "nbf"):
        if (name == "iat" or name in claims) and _time(claims, name) > now + SKEW:
            raise errors.AuthError(why=f"it holds from the future on ({name}): do the clocks agree?")
    role = roles.canonical(claims.get("sub"))
    if role is None:
        raise errors.AuthError(why="its subject is not a role")
    tenant = tenants.get(role)
    if tenant is None:
        raise errors.AuthError(why=f"the role {role} is not on this server's list")
    return Identity(tenant, expires)


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    # Written so that it refuses NaN, and integers that are too large for a float.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _TIME_LIMIT:
        raise errors.AuthError(why=f"it does not say its {name} in seconds")
    return float(value)
