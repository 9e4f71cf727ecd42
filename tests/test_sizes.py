# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Bytes and seconds as the command line reads and writes them."""

from __future__ import annotations

import math

import pytest

from remotegpu import errors
from remotegpu.cli.sizes import duration_text, parse_size, size_text

GIB = 1024**3


def test_size_text() -> None:
    assert [size_text(size) for size in (0, 1023, 1536, 3 * 1024**3, 2 * 1024**4)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "3.0 GiB",
        "2.0 TiB",
    ]


def test_parse_size() -> None:
    texts = ["0", "1048576", "512B", "4GiB", " 1.5 GiB ", "2TiB"]
    assert [parse_size(text, "--memory") for text in texts] == [0, 1024**2, 512, 4 * GIB, 3 * GIB // 2, 2 * 1024**4]
    assert all(type(parse_size(text, "--memory")) is int for text in texts)


@pytest.mark.parametrize("text", ["", "GiB", "4 gb", "-1", "1e9", "4GiB4", "٤GiB", "9999999999TiB", "1.", "nan"])
def test_parse_size_names_the_setting(text: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="--memory: "):
        parse_size(text, "--memory")


def test_duration_text() -> None:
    seconds = [0, 4.25, 9.94, 9.96, 59.4, 59.6, 192, 3599.6, 7500, 86400 * 3 + 3600 * 4.2, math.inf, math.nan]
    assert [duration_text(given) for given in seconds] == [
        *["0.0s", "4.2s", "9.9s", "10s", "59s", "1m00s", "3m12s", "1h00m", "2h05m", "3d04h", "-", "-"]
    ]
