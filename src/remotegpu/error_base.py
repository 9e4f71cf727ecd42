# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What all errors have in common: see `remotegpu.errors`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

FieldValue = str | int | float


@dataclass(kw_only=True, eq=False)
class Error(Exception):
    """Base of every error that remotegpu raises on purpose."""

    status: ClassVar[str] = "UNKNOWN"
    retryable: ClassVar[bool] = False

    def fields(self) -> dict[str, FieldValue]:
        """The fields with values, as they travel."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def __reduce__(self) -> tuple[object, ...]:
        from remotegpu.errors import from_fields  # it knows all classes, which come from here

        return (from_fields, (type(self).__name__, self.fields()))
