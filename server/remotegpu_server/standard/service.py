# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The gRPC face of the standard door: methods, bytes in and out, refusals to status."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from remotegpu import errors, wire
from remotegpu.v1 import inference_pb2 as pb
from remotegpu_server.gateway.identity import number_of
from remotegpu_server.identity.provider import Identity

from . import config
from .calls import TEXT_LIMIT, InferCalls
from .entrance import Entrance
from .infer import Caller, Inference
from .refusals import Refused, invalid, refused
from .repository import RepositoryCalls
from .stream import Context, Streams

SERVICE = "inference.GRPCInferenceService"

# Bytes of requests without tensors, and of those that load a model whose file does not come along.
_LIMIT = 64 * 1024

M = TypeVar("M", bound=Message)
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


class InferenceService:
    """Answers calls of `inference.GRPCInferenceService`."""

    def __init__(self, entrance: Entrance, room: int) -> None:
        """`room`: requests that all streams together may have under way."""
        self._inference = inference = entrance.inference
        self._callers = entrance.callers
        self._calls = InferCalls(inference)
        self._repository = RepositoryCalls(inference)
        self.streams = Streams(self._calls, room)

    def handler(self) -> grpc.GenericRpcHandler[bytes, bytes]:
        """For `grpc.aio.Server.add_generic_rpc_handlers`. Messages stay bytes: see `standard.wire`."""
        unary = self._unary
        methods: dict[str, Handler] = {
            "ServerLive": _open(self._server_live),
            "ServerReady": _open(self._server_ready),
            "ModelReady": unary(pb.ModelReadyRequest, self._model_ready),
            "ServerMetadata": unary(pb.ServerMetadataRequest, self._server_metadata),
            "ModelMetadata": unary(pb.ModelMetadataRequest, self._model_metadata),
            "ModelConfig": unary(pb.ModelConfigRequest, self._model_config),
            "ModelStatistics": unary(pb.ModelStatisticsRequest, self._model_statistics),
            "RepositoryIndex": unary(pb.RepositoryIndexRequest, self._repository.index),
            "RepositoryModelLoad": unary(pb.RepositoryModelLoadRequest, self._repository.load, self._load_limit()),
            "RepositoryModelUnload": unary(pb.RepositoryModelUnloadRequest, self._repository.unload),
            "ModelInfer": grpc.unary_unary_rpc_method_handler(self._model_infer),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self._model_stream_infer),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _load_limit(self) -> int:
        gate = self._inference.gate
        return sys.maxsize if gate.allow_uploads else _LIMIT

    async def _caller(self, context: Context) -> Identity:
        return await self._callers.identify(context.invocation_metadata() or ())

    def _unary(self, kind: type[M], method: Callable[[M, str], Awaitable[Message]], limit: int = _LIMIT) -> Handler:
        async def answer(request: bytes, context: Context) -> Message:
            tenant = (await self._caller(context)).tenant
            return await method(_parsed(kind, request, limit), tenant)

        return _handler(answer)

    async def _server_live(self) -> Message:
        return pb.ServerLiveResponse(live=True)

    async def _server_ready(self) -> Message:
        return pb.ServerReadyResponse(ready=not self._inference.gate.draining)

    async def _model_ready(self, request: pb.ModelReadyRequest, _tenant: str) -> Message:
        try:
            self._inference.models.find(request.name, request.version)
        except Refused as refusal:
            if refusal.code != "NOT_FOUND":
                raise
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=not self._inference.gate.draining)

    async def _server_metadata(self, _request: pb.ServerMetadataRequest, _tenant: str) -> Message:
        return config.server_metadata()

    async def _model_metadata(self, request: pb.ModelMetadataRequest, _tenant: str) -> Message:
        served = await self._inference.located(request.name, request.version)
        return config.metadata(served, self._inference.models.versions(request.name))

    async def _model_config(self, request: pb.ModelConfigRequest, _tenant: str) -> Message:
        return pb.ModelConfigResponse(
            config=config.configuration(await self._inference.located(request.name, request.version))
        )

    async def _model_statistics(self, request: pb.ModelStatisticsRequest, _tenant: str) -> Message:
        return model_statistics(self._inference, request.name, request.version)

    async def _model_infer(self, request: bytes, context: Context) -> bytes:
        try:
            identity = await self._caller(context)
            caller = Caller(identity.tenant, number_of(context.peer()), context.time_remaining())
            return await self._calls.answer(request, caller)
        except Refused as refusal:
            await _abort(context, refusal)
        except errors.Error as error:
            await _abort(context, refused(error))
        raise AssertionError("abort has raised")

    async def _model_stream_infer(self, _requests: AsyncIterator[bytes], context: Context) -> None:
        try:
            await self.streams.serve(await self._caller(context), context)
        except Refused as refusal:
            await _abort(context, refusal)
        except errors.Error as error:
            await _abort(context, refused(error))


def model_statistics(inference: Inference, name: str, version: str) -> pb.ModelStatisticsResponse:
    """Of one version, of all versions of a model, or of all models. Raises Refused."""
    models, message = inference.models, pb.ModelStatisticsResponse()
    wanted = [
        served
        for served in (models.versions(name) if name else models)
        if not version or version in (served.version, *served.aliases)
    ]
    if name and not models.versions(name):
        raise invalid(f"requested model '{name}' is not available")
    if version and not wanted:
        models.check_version(version)
        raise invalid(f"requested model version is not available for model '{name}'")
    for served in wanted:
        message.model_stats.append(config.statistics(served, inference.statistics.of(served.name, served.version)))
    return message


def _open(method: Callable[[], Awaitable[Message]]) -> Handler:
    """For everybody: what load balancers ask. The question says nothing, and is not read: see `threshold`."""

    async def handle(_requests: AsyncIterator[bytes], _context: Context) -> bytes:
        return (await method()).SerializeToString()

    return grpc.stream_unary_rpc_method_handler(handle)


def _parsed(kind: type[M], request: bytes, limit: int) -> M:
    if len(request) > limit:  # others would wait while it is parsed
        raise invalid(f"a request of {len(request)} bytes, at most {limit} are read")
    return wire.parse(kind, request)


def _handler(answer: Callable[[bytes, Context], Awaitable[Message]]) -> Handler:
    async def handle(request: bytes, context: Context) -> bytes:
        try:
            return (await answer(request, context)).SerializeToString()
        except Refused as refusal:
            await _abort(context, refusal)
        except errors.Error as error:
            await _abort(context, refused(error))
        raise AssertionError("abort has raised")

    return grpc.unary_unary_rpc_method_handler(handle)


async def _abort(context: Context, refusal: Refused) -> None:
    code: Any = getattr(grpc.StatusCode, refusal.code)
    await context.abort(code, wire.clipped(refusal.message, TEXT_LIMIT))
