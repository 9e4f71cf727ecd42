# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The file of `--tenants`."""

from __future__ import annotations

from pathlib import Path

import pytest

from remotegpu import errors
from remotegpu_server import quotas
from remotegpu_server.scheduler import Quota


def write(folder: Path, text: str) -> Path:
    path = folder / "tenants.toml"
    path.write_text(text)
    return path


def test_no_file_limits_nobody() -> None:
    assert quotas.read(None) == quotas.Quotas({}, Quota())


def test_a_file_tells_all_fields_and_the_default(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '[default]\nleases = 3\n[tenants.vision]\ngpus = 2\nmemory = "8GiB"\nweight = 2\npriority = 5\n'
        "[tenants.none]\nleases = 0\nmemory = 1048576\npriority = 0\n",
    )
    found = quotas.read(path)
    assert found.default == Quota(leases=3)
    assert found.tenants == {
        "vision": Quota(gpus=2, memory=8 << 30, weight=2.0, priority=5),
        "none": Quota(leases=0, memory=1 << 20, priority=0),
    }


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[default", "tenants.toml"),
        ("[tenant.x]\ngpus = 1", "tenant"),
        ("tenants = 5", "tenants"),
        ("[tenants.x]\ngpu = 1", "gpu"),
        ("[tenants]\nx = 5", "no table"),
        ("[tenants.x]\ngpus = -1", "gpus"),
        ("[tenants.x]\ngpus = 1.5", "gpus"),
        ("[tenants.x]\nleases = true", "leases"),
        ('[tenants.x]\nmemory = "much"', "memory"),
        ("[tenants.x]\nmemory = -5", "memory"),
        ("[tenants.x]\nweight = 0", "weight"),
        ('[tenants.x]\nweight = "2"', "weight"),
        ("[tenants.x]\npriority = 10", "priority"),
    ],
)
def test_mistakes_are_refused_with_file_and_field(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        quotas.read(write(tmp_path, text))
    assert named in str(caught.value)
    assert "tenants" in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigurationError, match=r"nothing\.toml"):
        quotas.read(tmp_path / "nothing.toml")
