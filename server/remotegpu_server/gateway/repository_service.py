# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The service `remotegpu.v1.Repository`: messages in and out; `models` does the work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from remotegpu import errors, wire
from remotegpu.v1 import repository_pb2 as pb
from remotegpu_server.contents import ContentStore

from .models import ModelRegistry, Upload

UnaryMethod = Callable[[bytes, str], Awaitable[bytes]]
_MOST_ALIASES = 64


class RepositoryService:
    """Answers calls of `remotegpu.v1.Repository`."""

    def __init__(self, models: ModelRegistry, store: ContentStore | None, *, allow_changes: bool) -> None:
        """`store` has the uploaded contents; None: this server takes none."""
        self._models = models
        self._store = store
        self._allow_changes = allow_changes

    def methods(self) -> Mapping[str, UnaryMethod]:
        """Unary methods by name, such as "Repository/Index"."""
        return {
            "Repository/Index": self._index,
            "Repository/Load": self._load,
            "Repository/Unload": self._unload,
            "Repository/SetAlias": self._set_alias,
        }

    async def _index(self, request: bytes, tenant: str) -> bytes:
        return self._reply(wire.parse(pb.IndexRequest, request).name)

    async def _load(self, request: bytes, tenant: str) -> bytes:
        self._check_allowed("Repository/Load")
        message = wire.parse(pb.LoadRequest, request)
        if len(message.aliases) > _MOST_ALIASES:
            given = str(len(message.aliases))
            raise errors.InvalidInput(field="aliases", limit=f"at most {_MOST_ALIASES}", given=given)
        if message.content:
            await self._load_upload(message, tenant)
        else:
            await self._models.load(message.name, message.version, message.aliases)
        return self._reply(message.name)

    async def _load_upload(self, message: pb.LoadRequest, tenant: str) -> None:
        """Raises ContentMissing for a content that this tenant has not uploaded."""
        if self._store is None:
            raise errors.NotAllowed(what="an upload", why="it keeps no contents")
        pins = self._store.pin(tenant, [message.content])
        try:
            upload = Upload(pins.paths[0], message.content)
            await self._models.load(message.name, message.version, message.aliases, upload)
        finally:
            pins.release()

    async def _unload(self, request: bytes, tenant: str) -> bytes:
        self._check_allowed("Repository/Unload")
        message = wire.parse(pb.UnloadRequest, request)
        await self._models.unload(message.name, message.version)
        return self._reply()

    async def _set_alias(self, request: bytes, tenant: str) -> bytes:
        self._check_allowed("Repository/SetAlias")
        message = wire.parse(pb.SetAliasRequest, request)
        await self._models.set_alias(message.name, message.alias, message.version)
        return self._reply(message.name)

    def _check_allowed(self, method: str) -> None:
        if not self._allow_changes:
            raise errors.NotAllowed(what=method, why="its operator starts it with --allow-uploads to allow it")

    def _reply(self, name: str = "") -> bytes:
        reply = pb.IndexReply(entries=self._models.index(name), catalog=self._models.catalog)
        return reply.SerializeToString()
