# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The model repository as this protocol sees it: index, load and unload.

A `config` is read, and must be a JSON object, but it configures nothing: inputs and outputs are those of the model's
file.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from remotegpu import errors
from remotegpu.v1 import inference_pb2 as pb
from remotegpu.v1 import repository_pb2
from remotegpu_server.gateway.models import ModelRegistry, Upload

from .infer import Inference
from .refusals import Refused, invalid
from .threads import in_thread

READY, LOADING, UNAVAILABLE, NEVER_LOADED = "READY", "LOADING", "UNAVAILABLE", ""
_FILE = "file:"
# Characters of a configuration: others wait while it is parsed.
_CONFIG_LIMIT = 1024 * 1024
_MODEL_FILE = re.compile(r"file:(0|[1-9][0-9]{0,17})/(?:model\.onnx|program\.rgpu)")


class RepositoryCalls:
    """Answers the Repository methods."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def index(self, request: pb.RepositoryIndexRequest, _tenant: str) -> pb.RepositoryIndexResponse:
        """What is there, and in which state."""
        _check_repository(request.repository_name)
        message = pb.RepositoryIndexResponse()
        for name, version, state, reason in self._entries():
            if state == READY or not request.ready:
                message.models.add(name=name, version=version, state=state, reason=reason)
        return message

    def _entries(self) -> list[tuple[str, str, str, str]]:
        registry = self._inference.registry
        return [(entry.name, entry.version, *_state(registry, entry)) for entry in registry.index()]

    async def load(self, request: pb.RepositoryModelLoadRequest, _tenant: str) -> pb.RepositoryModelLoadResponse:
        """Loads a model of the repository, or one whose file comes along, and answers when it is warm."""
        registry = self._registry(request.repository_name)
        file = _parameters(request.model_name, request.parameters)
        try:
            if file is None:
                await registry.load(request.model_name)
            else:
                await _load_file(registry, request.model_name, *file)
        except errors.ModelNotFound as error:
            message = f"failed to load '{request.model_name}', failed to poll from model repository"
            raise Refused("INTERNAL", message) from error
        return pb.RepositoryModelLoadResponse()

    async def unload(self, request: pb.RepositoryModelUnloadRequest, _tenant: str) -> pb.RepositoryModelUnloadResponse:
        """Unloads all versions of a model; no error if there are none."""
        registry = self._registry(request.repository_name)
        try:
            await registry.unload(request.model_name)
        except errors.ModelNotFound:
            pass  # as Triton answers
        return pb.RepositoryModelUnloadResponse()

    def _registry(self, repository: str) -> ModelRegistry:
        _check_repository(repository)
        if not self._inference.gate.allow_uploads:
            raise Refused("UNAVAILABLE", "explicit model load / unload is not allowed if polling is enabled")
        return self._inference.registry


def _check_repository(name: str) -> None:
    if name:
        raise Refused("UNIMPLEMENTED", "'repository_name' specification is not supported")


def _state(registry: ModelRegistry, entry: repository_pb2.IndexEntry) -> tuple[str, str]:
    if entry.state == "loaded":
        return READY, ""
    if entry.state == "evicted":
        return READY, entry.reason
    if entry.state == "loading":
        return LOADING, ""
    if entry.state == "failed":
        return UNAVAILABLE, entry.reason
    return (NEVER_LOADED, "") if registry.version_exists(entry.name, entry.version) else (UNAVAILABLE, "unloaded")


def _parameters(model: str, parameters: Mapping[str, pb.ModelRepositoryParameter]) -> tuple[str, bytes] | None:
    """The version and bytes of the model file that comes along, if one does. Raises Refused."""
    found = None
    for name, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if name == "config":
            if kind != "string_param":
                raise invalid("invalid value type for load parameter 'config', expected string_param.")
            _check_config(model, parameter.string_param)
        elif name.startswith(_FILE):
            if kind != "bytes_param":
                raise invalid(f"invalid value type for load parameter '{name}', expected bytes_param.")
            match = _MODEL_FILE.fullmatch(name)
            if match is None or found is not None:
                raise invalid(f"load parameter '{name}': this server takes one file, 'file:<version>/model.onnx'")
            found = match.group(1), parameter.bytes_param
        else:
            raise invalid(f"unrecognized load parameter '{name}'.")
    return found


def _check_config(model: str, config: str) -> None:
    if len(config) > _CONFIG_LIMIT:
        raise invalid(f"load parameter 'config' of {len(config)} characters, at most {_CONFIG_LIMIT} are read")
    try:
        is_object = isinstance(json.loads(config), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise Refused("INTERNAL", f"failed to load '{model}', failed to poll from model repository")


async def _load_file(registry: ModelRegistry, model: str, version: str, content: bytes) -> None:
    try:
        with tempfile.TemporaryDirectory(prefix="remotegpu-upload-") as folder:
            path = Path(folder) / "model.onnx"
            digest = await in_thread(partial(_written, path, content))
            await registry.load(model, version, upload=Upload(path, digest))
    except OSError as error:
        raise Refused("INTERNAL", f"failed to load '{model}': the server's disk: {error.strerror}") from error


def _written(path: Path, content: bytes) -> bytes:
    path.write_bytes(content)
    return hashlib.sha256(content).digest()
