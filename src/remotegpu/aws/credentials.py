# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The IAM keys of this process. boto3 is not loaded for them: where it is loaded already, its session has them, and
knows where else keys may be; else they are in the environment, as in AWS Lambda; or, where Lambda has restored a
snapshot, whose keys might be too old, at an address of this machine that the environment names:
https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from remotegpu import errors

from .sigv4 import Keys

_HINT = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or import boto3 first, so that its session is asked"


ADDRESS_VARIABLE, TOKEN_VARIABLE = "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN"
# To no others are keys asked for in clear.
_HOSTS = {"localhost", "127.0.0.1", "::1", "169.254.170.2", "169.254.170.23", "fd00:ec2::23"}
_PATIENCE = 2.0
_ANSWER_LIMIT = 64 * 1024
_OK = 200


def keys_of(environment: Mapping[str, str]) -> Keys:
    """Read anew each time, since they change. Raises AuthError."""
    found = _session_keys() or Keys(
        environment.get("AWS_ACCESS_KEY_ID", ""),
        environment.get("AWS_SECRET_ACCESS_KEY", ""),
        environment.get("AWS_SESSION_TOKEN", ""),
    )
    if not found.access and environment.get(ADDRESS_VARIABLE):
        found = _asked_keys(environment[ADDRESS_VARIABLE], environment.get(TOKEN_VARIABLE, ""))
    if not found.access or not found.secret:
        raise errors.AuthError(why=f"this process has no IAM keys: {_HINT}")
    return found


def _asked_keys(address: str, token: str) -> Keys:
    # Only here: keys in the environment need none of it.
    import http.client
    import json
    from urllib.parse import urlsplit

    parts = urlsplit(address)
    if parts.scheme != "http" or parts.hostname not in _HOSTS:
        raise errors.AuthError(why=f"{ADDRESS_VARIABLE} is not an http URL of this machine")
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=_PATIENCE)
    try:
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path or "/", headers={"authorization": token} if token else {})
        response = connection.getresponse()
        status, answer = response.status, response.read(_ANSWER_LIMIT)
    except (OSError, http.client.HTTPException) as error:
        raise errors.AuthError(why=f"nobody gives keys at {ADDRESS_VARIABLE} ({type(error).__name__})") from None
    finally:
        connection.close()
    try:
        told = json.loads(answer)
        return Keys(str(told["AccessKeyId"]), str(told["SecretAccessKey"]), str(told.get("Token") or ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        said = "an answer without keys" if status == _OK else f"status {status}"
        raise errors.AuthError(why=f"{ADDRESS_VARIABLE} gives no keys: {said}") from None


def region_of(environment: Mapping[str, str]) -> str:
    """Whose STS is asked. Raises AuthError."""
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    if not region:
        session = _session()
        region = session.region_name if session is not None else None
    if not region:
        raise errors.AuthError(why="no region is set: AWS_REGION")
    return region


def _session() -> Any:
    boto3: Any = sys.modules.get("boto3")
    return None if boto3 is None else boto3.DEFAULT_SESSION or boto3.Session()


def _session_keys() -> Keys | None:
    session = _session()
    held = None if session is None else session.get_credentials()
    if held is None:
        return None
    frozen = held.get_frozen_credentials()
    return Keys(frozen.access_key, frozen.secret_key, frozen.token or "")
