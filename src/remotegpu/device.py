# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""A device of a lease, as the client names it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LeasedDevice:
    """A device of a lease, `index` counting from 0 within the lease. `name` and `uuid` are known once it is granted, so
    equality does not depend on them."""

    index: int
    name: str = field(default="", compare=False)
    uuid: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"device {self.index}" + (f" ({self.name})" if self.name else "")
