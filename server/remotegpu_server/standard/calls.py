# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""ModelInfer from bytes to bytes. The way of a request that was seen before is short: its head names what to run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from remotegpu import errors
from remotegpu.v1 import inference_pb2 as pb
from remotegpu.wire import clipped, parse

from . import checks, requests, wire
from .infer import Caller, Inference, Prepared, Response
from .refusals import Refused, refused
from .tensors import Buffer
from .threads import in_thread

# Heads remembered, and the size up to which one is. Bytes.
_REMEMBERED = 1024
_HEAD_LIMIT = 4096
# Heads with typed contents that take more than about a millisecond to read. Bytes.
_LONG_HEAD = 64 * 1024
# gRPC has no larger messages; some room is left for names and shapes.
_REPLY_LIMIT = 2**31 - 2**20
# Of texts of refusals, which travel as metadata. Bytes.
TEXT_LIMIT = 1000


class InferCalls:
    """Answers ModelInferRequests."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._seen: OrderedDict[bytes, Prepared] = OrderedDict()

    async def answer(self, message: bytes, caller: Caller) -> bytes:
        """A ModelInferResponse. Raises Refused or ProtocolError."""
        split = wire.split(message)
        checks.check_id(split.id)
        response = await self._run(split, caller)
        try:
            return wire.response(_head(response), split.id, [output.data for output in response.outputs])
        finally:
            response.close()

    async def stream_answer(self, message: bytes, caller: Caller) -> bytes:
        """A ModelStreamInferResponse, which tells a refusal too."""
        request_id = ""
        try:
            split = wire.split(message)
            checks.check_id(split.id)
            request_id = split.id
            response = await self._run(split, caller)
            try:
                return wire.streamed(_head(response), request_id, [output.data for output in response.outputs])
            finally:
                response.close()
        except Refused as refusal:
            return wire.streamed_error(clipped(refusal.message, TEXT_LIMIT), request_id)
        except errors.Error as error:
            return wire.streamed_error(clipped(refused(error, request_id).message, TEXT_LIMIT), request_id)

    async def _run(self, split: wire.Split, caller: Caller) -> Response:
        prepared, data = await self._understood(split)
        response = await self._inference.run(prepared, data, replace(caller, id=split.id))
        size = sum(len(output.data) for output in response.outputs)
        if size > _REPLY_LIMIT:
            response.close()
            raise Refused("OUT_OF_RANGE", f"the outputs have {size} bytes, gRPC carries {_REPLY_LIMIT} at most")
        return response

    async def _understood(self, split: wire.Split) -> tuple[Prepared, Sequence[Buffer]]:
        found = self._seen.get(split.head)
        if found is not None and self._inference.is_current(found):
            self._seen.move_to_end(split.head)
            if len(split.raw) != len(found.inputs):
                requests.check_count(found.served.name, [each.name for each in found.inputs], split.raw)
            return found, split.raw
        message = parse(pb.ModelInferRequest, split.head)
        await self._inference.located(message.model_name, message.model_version)
        request = requests.request_of(message, split.id)
        if len(split.head) > _LONG_HEAD:
            data = await in_thread(partial(requests.data_of, message, split.raw))
        else:
            data = requests.data_of(message, split.raw)
        prepared = self._inference.prepare(request)
        # Typed contents are part of the head: such requests are never the same again.
        if len(split.head) <= _HEAD_LIMIT and not requests.has_typed(message):
            self._seen[split.head] = prepared
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        return prepared, data


def _head(response: Response) -> bytes:
    layout = response.layout
    if layout is not None and layout.encoded:
        return layout.encoded
    outputs = [(output.name, output.datatype, output.shape) for output in response.outputs]
    head = wire.response_head(response.served.name, response.served.version, outputs)
    if layout is not None:
        layout.encoded = head
    return head
