# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of the protocol as JSON objects, as Triton writes them: names as in the proto, numbers as numbers
(protobuf's own JSON has 64-bit integers as text), what is not set with its default. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message


def fields(message: Message) -> dict[str, Any]:
    """All fields of a message; of those in a `oneof`, and of messages within, those that are set. Maps have text as
    keys."""
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        if isinstance(value, Mapping):
            found[field.name] = {key: _value(field, each) for key, each in value.items()}
        elif hasattr(value, "append") or hasattr(value, "add"):
            found[field.name] = [_value(field, each) for each in value]
        else:
            found[field.name] = _value(field, value)
    return found


def _value(field: Any, value: Any) -> Any:
    if isinstance(value, Message):
        return fields(value)
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return value if named is None else named.name
    return value
