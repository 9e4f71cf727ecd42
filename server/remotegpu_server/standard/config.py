# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Metadata, configuration and statistics of models as messages of the protocol. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from remotegpu._version import __version__
from remotegpu.v1 import inference_pb2 as pb

from .served import DEFAULT_PLATFORM, Served, Tensor
from .statistics import Figures

# Only what works here, in Triton's names. The REST door adds its own.
EXTENSIONS = ("classification", "model_configuration", "model_repository", "parameters", "statistics")
SERVER_NAME = "remotegpu"
_TYPES = {"BYTES": "TYPE_STRING", "<invalid>": "TYPE_INVALID"}


def server_metadata() -> pb.ServerMetadataResponse:
    """Who answers."""
    return pb.ServerMetadataResponse(name=SERVER_NAME, version=__version__, extensions=EXTENSIONS)


def metadata(served: Served, versions: Sequence[Served]) -> pb.ModelMetadataResponse:
    """What a model takes and gives. `versions`: all of that name."""
    message = pb.ModelMetadataResponse(
        name=served.name, versions=[each.version for each in versions], platform=served.platform
    )
    for field, tensors in ((message.inputs, served.inputs), (message.outputs, served.outputs)):
        for tensor in tensors:
            field.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    return message


def configuration(served: Served) -> pb.ModelConfig:
    """The model as Triton would be configured for it."""
    message = pb.ModelConfig(name=served.name, platform=served.platform, max_batch_size=0)
    if served.platform == DEFAULT_PLATFORM:
        message.backend, message.default_model_filename = "onnxruntime", "model.onnx"
    message.version_policy.latest.num_versions = 1
    message.model_transaction_policy.decoupled = False
    message.response_cache.enable = False
    for tensor in served.inputs:
        message.input.add(name=tensor.name, data_type=_data_type(tensor), dims=tensor.shape)
    for tensor in served.outputs:
        message.output.add(name=tensor.name, data_type=_data_type(tensor), dims=tensor.shape)
    return message


def statistics(served: Served, figures: Figures) -> pb.ModelStatistics:
    """How many requests, and where their time went."""
    count = figures.successes
    total, queue, taken, run, given = (pb.StatisticDuration(count=count, ns=ns) for ns in figures.spent)
    message = pb.ModelStatistics(
        name=served.name,
        version=served.version,
        last_inference=figures.last_inference,
        inference_count=count,
        execution_count=figures.executions,
        inference_stats=pb.InferStatistics(
            success=total,
            fail=pb.StatisticDuration(count=figures.failures, ns=figures.failure_ns),
            queue=queue,
            compute_input=taken,
            compute_infer=run,
            compute_output=given,
            cache_hit=pb.StatisticDuration(),
            cache_miss=pb.StatisticDuration(),
        ),
    )
    for size, (runs, *spent) in sorted(figures.batches.items()):
        taken, run, given = (pb.StatisticDuration(count=runs, ns=ns) for ns in spent)
        message.batch_stats.add(batch_size=size, compute_input=taken, compute_infer=run, compute_output=given)
    return message


def _data_type(tensor: Tensor) -> pb.DataType.ValueType:
    return pb.DataType.Value(_TYPES.get(tensor.datatype, f"TYPE_{tensor.datatype}"))
