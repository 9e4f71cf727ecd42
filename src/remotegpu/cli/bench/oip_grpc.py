# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""A load on any server of the Open Inference Protocol over gRPC."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from remotegpu import errors, wire
from remotegpu.channel import RawCalls
from remotegpu.cli.bench import oip_tensors
from remotegpu.cli.bench.inputs import Array, Tensor
from remotegpu.cli.bench.targets import Address
from remotegpu.v1 import inference_pb2 as pb

_SERVICE = "inference.GRPCInferenceService"


class GrpcTarget:
    """A channel. Requests are assembled once; replies are received, and not decoded but for the first."""

    def __init__(self, address: Address, target: str) -> None:
        self._address = address
        self._calls = RawCalls(target, patience=address.patience)

    def tensors(self) -> list[Tensor]:
        """Raises UnknownRemoteError for an unknown model, ProtocolError, or a TransportError."""
        request = pb.ModelMetadataRequest(name=self._address.model, version=self._address.version)
        found = wire.parse(pb.ModelMetadataResponse, self._ask("ModelMetadata", request.SerializeToString()))
        return [oip_tensors.tensor(given.name, given.datatype, given.shape) for given in found.inputs]

    def call(self, inputs: Mapping[str, Array]) -> Callable[[], object]:
        """Raises what `datatype_of` raises."""
        request = infer_request(self._address.model, self._address.version, inputs)
        checked = False

        def infer() -> bytes:
            nonlocal checked
            reply = self._ask("ModelInfer", request)
            if not checked and not wire.parse(pb.ModelInferResponse, reply).outputs:
                raise errors.ProtocolError(what="a reply without outputs")
            checked = True
            return reply

        return infer

    def server(self) -> dict[str, Any]:
        """Its name, version and extensions."""
        reply = self._ask("ServerMetadata", pb.ServerMetadataRequest().SerializeToString())
        found = wire.parse(pb.ServerMetadataResponse, reply)
        return {"name": found.name, "version": found.version, "extensions": list(found.extensions)}

    def close(self) -> None:
        """Calls under way fail."""
        self._calls.close()

    def _ask(self, method: str, request: bytes) -> bytes:
        return self._calls.unary(f"/{_SERVICE}/{method}", request, self._address.timeout)


def infer_request(model: str, version: str, inputs: Mapping[str, Array]) -> bytes:
    """A ModelInferRequest with raw contents, which are copied once: parts of a message may be put one after another."""
    head = pb.ModelInferRequest(model_name=model, model_version=version)
    parts = []
    for name, array in inputs.items():
        head.inputs.add(name=name, datatype=oip_tensors.datatype_of(array), shape=array.shape)
        contents = pb.ModelInferRequest()
        contents.raw_input_contents.append(oip_tensors.raw(array))
        parts.append(contents.SerializeToString())
    return b"".join((head.SerializeToString(), *parts))
