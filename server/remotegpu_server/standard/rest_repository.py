# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Requests to load and unload models, from JSON to the messages of the protocol. Pure."""

from __future__ import annotations

import base64
import binascii
import reprlib
from collections.abc import Mapping
from typing import Any

from remotegpu.v1 import inference_pb2 as pb

from .refusals import invalid
from .rest_tensors import json_object

_FILE = "file:"


def load_request(model: str, body: bytes) -> pb.RepositoryModelLoadRequest:
    """Files come in base64. Raises Refused."""
    message = pb.RepositoryModelLoadRequest(model_name=model)
    for name, value in _parameters(body).items():
        parameter = message.parameters[name]
        if name.startswith(_FILE) and isinstance(value, str):
            try:
                parameter.bytes_param = base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError) as error:
                raise invalid(f"load parameter {reprlib.repr(name)} is not base64: {error}") from error
        else:
            _set(parameter, name, value)
    return message


def unload_request(model: str, body: bytes) -> pb.RepositoryModelUnloadRequest:
    """Raises Refused."""
    message = pb.RepositoryModelUnloadRequest(model_name=model)
    for name, value in _parameters(body).items():
        _set(message.parameters[name], name, value)
    return message


def _parameters(body: bytes) -> Mapping[str, Any]:
    """Those of a body; an empty body has none."""
    found = json_object(memoryview(body or b"{}")).get("parameters", {})
    if not isinstance(found, dict):
        raise invalid("'parameters' is not an object")
    return found


def _set(parameter: pb.ModelRepositoryParameter, name: str, value: object) -> None:
    try:
        if isinstance(value, bool):
            parameter.bool_param = value
        elif isinstance(value, int):
            parameter.int64_param = value
        elif isinstance(value, str):
            parameter.string_param = value
        else:
            raise invalid(f"parameter {reprlib.repr(name)} is neither text, whole number nor true or false")
    except ValueError as error:  # a number above 64 bits, or text that UTF-8 does not have
        raise invalid(f"parameter {reprlib.repr(name)}: {error}") from error
