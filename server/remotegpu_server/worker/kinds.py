# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Kinds of models, told apart by the ends of their files' names. Uploaded files get the name that their bytes call
for, which is never that of a function."""

from __future__ import annotations

from pathlib import Path

from remotegpu import errors
from remotegpu.v1 import worker_pb2
from remotegpu_server import repository
from remotegpu_server.backends import functions, models
from remotegpu_server.backends.device import Device
from remotegpu_server.backends.models import Model
from remotegpu_server.backends.sessions import SessionOptions

from . import programs


def calls_models(file: worker_pb2.ModelFile) -> bool:
    """Whether models of that kind call others."""
    return Path(file.path).suffix == Path(repository.PROGRAM).suffix


def load(file: worker_pb2.ModelFile, device: Device, options: SessionOptions, callees: programs.Callees) -> Model:
    """A file as a warm model. Raises ModelUnusable with the reason, or OutOfMemory; all else ends the device."""
    if calls_models(file):
        return programs.load(file, device, options.max_batch, callees)
    if Path(file.path).suffix == Path(repository.FUNCTION).suffix:
        if file.uploaded:
            why = "functions are the operator's, and never uploaded"
            raise errors.ModelUnusable(model=f"{file.name}:{file.version}", why=why)
        return models.load(file, device, options, functions.Function)
    return models.load(file, device, options)
