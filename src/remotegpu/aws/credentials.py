# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The IAM keys of this process. boto3 is not loaded for them: where it is loaded already, its session has them, and
knows where else keys may be; else they are in the environment, as in AWS Lambda."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from remotegpu import errors

from .sigv4 import Keys

_HINT = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or import boto3 first, so that its session is asked"


def keys_of(environment: Mapping[str, str]) -> Keys:
    """Read anew each time, since they change. Raises AuthError."""
    found = _session_keys() or Keys(
        environment.get("AWS_ACCESS_KEY_ID", ""),
        environment.get("AWS_SECRET_ACCESS_KEY", ""),
        environment.get("AWS_SESSION_TOKEN", ""),
    )
    if not found.access or not found.secret:
        raise errors.AuthError(why=f"this process has no IAM keys: {_HINT}")
    return found


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
