# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Bytes and seconds as people read and write them."""

from __future__ import annotations

import math
import re

from remotegpu import errors

_UNITS = {"": 1, "B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}
_LARGEST = 2**63 - 1


def size_text(size: int) -> str:
    """Bytes for a human: 1536 is "1.5 KiB"."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def parse_size(text: str, setting: str) -> int:
    """Bytes in a text such as "4GiB", "1.5 GiB" or "1048576". `setting` is what the user wrote it for, such as
    "--memory". Raises ConfigurationError that names it."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(|B|KiB|MiB|GiB|TiB)", text.strip(), re.ASCII)
    if match is None:
        raise errors.ConfigurationError(setting=setting, why=f"{text!r} is not a size such as 512MiB or 4GiB")
    size = float(match[1]) * _UNITS[match[2]] if "." in match[1] else int(match[1]) * _UNITS[match[2]]
    if size > _LARGEST:
        raise errors.ConfigurationError(setting=setting, why=f"{text!r} is more than any device has")
    return int(size)


def duration_text(seconds: float) -> str:
    """Seconds for a human: 4.25 is "4.2s", 192 is "3m12s", 7500 is "2h05m"; "-" for what is no time at all."""
    if not math.isfinite(seconds):
        return "-"
    if round(seconds, 1) < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole // 60 % 60:02}m"
    return f"{whole // 86400}d{whole // 3600 % 24:02}h"
