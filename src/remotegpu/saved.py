# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Saved programs as bytes: what both sides know of the file `program.rgpu`. Pure."""

from __future__ import annotations

from collections.abc import Callable

from remotegpu import errors, program, wire
from remotegpu.dtypes import BYTES, from_number
from remotegpu.v1 import saved_pb2 as pb

FORMAT = "remotegpu.program"
# A saved program begins with it; no ONNX model does, whose first field is a number.
PREFIX = bytes((0x0A, len(FORMAT))) + FORMAT.encode()
# What a saved program's one output is called when its function gives an array and no dict.
ONLY_OUTPUT = "output"


def is_saved(head: bytes) -> bool:
    """Whether a file that begins so is a saved program."""
    return head.startswith(PREFIX)


def parse(data: bytes, known: Callable[[str], bool]) -> pb.SavedProgram:
    """A saved program from its bytes, checked as `program.check` does; `known` tells operations.

    Raises ProtocolError for bytes that are none, InvalidInput for one that cannot be served."""
    message = wire.parse(pb.SavedProgram, data)
    if message.format != FORMAT:
        raise errors.ProtocolError(what="bytes that are not a saved program")
    _check_names(message)
    for tensor in message.inputs:
        if tensor.dtype != BYTES and from_number(tensor.dtype) is None:
            given = f"dtype {tensor.dtype}"
            raise errors.InvalidInput(field=f"input {tensor.name!r:.80}", limit="a dtype of the protocol", given=given)
    _check_keeps_nothing(message)
    program.check(
        message.program,
        known=known,
        body_size=len(message.body),
        epoch=0,
        device=0,
        placeholders=[tensor.dtype for tensor in message.inputs],
    )
    return message


def _check_names(message: pb.SavedProgram) -> None:
    for what, names in (("inputs", [tensor.name for tensor in message.inputs]), ("outputs", list(message.outputs))):
        if not all(names) or len(set(names)) != len(names):
            raise errors.InvalidInput(field=what, limit="names that differ", given=", ".join(names)[:200] or "none")
    if not message.outputs or len(message.outputs) != len(message.program.outputs):
        limit = f"a name for each of {len(message.program.outputs)} outputs, and at least one"
        raise errors.InvalidInput(field="outputs", limit=limit, given=f"{len(message.outputs)} names")


def _check_keeps_nothing(message: pb.SavedProgram) -> None:
    limit = "a program that needs no lease"
    if message.program.free or any(output.keep for output in message.program.outputs):
        raise errors.InvalidInput(field="saved program", limit=limit, given="handles to keep or free")
    if any(output.every_port for output in message.program.outputs):
        raise errors.InvalidInput(field="saved program", limit="outputs with a name", given="every output of a model")
    for index, node in enumerate(message.program.nodes):
        if node.WhichOneof("kind") == "handle":
            raise errors.InvalidInput(field=f"node {index}", limit=limit, given=f"handle {node.handle.id}")
