# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Names of IAM roles. Pure.

A role has a path (`role/team/name`), but its name alone is unique within its account, and sessions of it are named
without the path; so roles are compared without:
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html
"""

from __future__ import annotations

import re

_ROLE = re.compile(r"(arn:aws[a-z-]*:iam::[0-9]{12}:role/)(?:[!-.0-~]+/)*([A-Za-z0-9_+=,.@-]{1,64})")
_SESSION = re.compile(
    r"arn:(aws[a-z-]*):sts::([0-9]{12}):assumed-role/([A-Za-z0-9_+=,.@-]{1,64})/[A-Za-z0-9_+=,.@-]{2,64}"
)
ARN_LIMIT = 2048


def canonical(arn: object) -> str | None:
    """The ARN of a role without its path; None if it is no role's."""
    match = _ROLE.fullmatch(arn) if isinstance(arn, str) and len(arn) <= ARN_LIMIT else None
    return None if match is None else match[1] + match[2]


def of_session(arn: object) -> str | None:
    """The ARN (without a path) of the role whose session it is; None if it is no such session's."""
    match = _SESSION.fullmatch(arn) if isinstance(arn, str) and len(arn) <= ARN_LIMIT else None
    return None if match is None else f"arn:{match[1]}:iam::{match[2]}:role/{match[3]}"
