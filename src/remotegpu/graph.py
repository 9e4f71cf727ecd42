# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The program graph: what was recorded, and the plan of one call. Knows neither wire nor network.

A `Value` is one tensor that exists, will exist, or did exist on a device. Recording an operation makes a frozen node
and the values of its ports; nothing is sent. Asking for values makes a `Plan` of their ancestors only: nodes in an
order in which each refers to earlier ones, and outputs, which come home, stay on the device, or both.

What stays is decided by who still holds it: an array object of the caller counts as a holder of its value, a node that
merely uses the value does not. A value that stays gets a handle and forgets how it was made, so its ancestors
can be collected here as they are on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from remotegpu.dtypes import Dtype


class Dim:
    """A size that only the device knows yet, such as the number of detections. Equal only to itself."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size: int | None = None

    def __repr__(self) -> str:
        return "?" if self.size is None else str(self.size)


Size = int | Dim
Shape = tuple[Size, ...]


@dataclass(frozen=True, slots=True)
class Meta:
    """What is known of a value without asking: None stands for "not known yet" (the output of a model whose
    signature this process has not seen)."""

    dtype: Dtype | None = None
    shape: Shape | None = None


UNKNOWN = Meta()


@dataclass(frozen=True, slots=True)
class Handle:
    """A tensor on the device, in the worker of that epoch."""

    id: int
    epoch: int


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A host array to be sent: C-contiguous, little-endian."""

    array: np.ndarray[Any, Dtype]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An encoded image (JPEG or PNG) to be sent and decoded by the worker to uint8 [height, width, 3]."""

    data: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A host array that the server keeps by the SHA-256 digest of its bytes: C-contiguous, little-endian."""

    array: np.ndarray[Any, Dtype]
    digest: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """An array to be sent as other bytes than its own: compressed (`remotegpu.v1.Compression`), or of another dtype."""

    data: bytes | memoryview
    dtype: Dtype
    shape: tuple[int, ...]
    compression: int
    travels_as: Dtype | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Remote:
    """A file of at most `limit` bytes that the server fetches: a tensor, or without dtype and shape a picture."""

    # Presigned URLs are secrets.
    url: str = field(repr=False)
    limit: int
    dtype: Dtype | None = None
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Placeholder:
    """An input of a program that is saved: its place among all."""

    input: int


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """An array operation. Arguments are values, Python scalars, None, Ellipsis, strings, dtypes, slices with plain
    numbers, and tuples of these."""

    name: str
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ModelCall:
    """A model on values, given by name (or by position: an empty name). One port per output of the model; `metas`: what
    is known of them, if the model's signature is."""

    model: str
    inputs: tuple[tuple[str, Value], ...]
    metas: tuple[Meta, ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class NamedPort:
    """An output of a model call by its name."""

    call: ModelCall
    name: str


Origin = Source | Picture | Constant | Packed | Remote | Placeholder | Operation | ModelCall | NamedPort


class Value:
    """One tensor: where it comes from or where it lies, and what is known of it."""

    __slots__ = ("freed", "handle", "holders", "meta", "origin", "port")

    def __init__(self, origin: Origin | None, meta: Meta = UNKNOWN, port: int = 0) -> None:
        self.origin = origin
        self.port = port
        self.meta = meta
        self.handle: Handle | None = None
        self.freed: list[int] | None = None
        # Array objects of the caller that stand for this value; nodes that use it do not count.
        self.holders = 0

    def settle(self, handle: Handle, freed: list[int]) -> None:
        """The value lies on the device now: it no longer needs what it was made of. When nothing refers to it any
        more, its handle goes to `freed`, from where the next call takes it along."""
        self.handle = handle
        self.freed = freed
        self.origin = None

    def __del__(self) -> None:
        if self.handle is not None and self.freed is not None:
            self.freed.append(self.handle.id)

    def learn(self, dtype: Dtype, shape: tuple[int, ...]) -> None:
        """Takes over what a reply says of dtype and shape, into symbolic sizes too."""
        if self.meta.shape is not None and len(self.meta.shape) == len(shape):
            for known, size in zip(self.meta.shape, shape, strict=True):
                if isinstance(known, Dim):
                    known.size = size
        self.meta = Meta(dtype, shape)


@dataclass(slots=True)
class Output:
    """What becomes of a value: `fetch` brings it home, `keep` (a handle id, 0 for none) leaves it on the device.
    `every_port` asks for all outputs of a model call whose number is not known here."""

    node: int
    port: int
    fetch: bool
    keep: int = 0
    every_port: bool = False
    value: Value | None = None


@dataclass(slots=True)
class Plan:
    """One program: nodes in order, outputs, and handles to free."""

    nodes: list[Origin | Handle] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    free: list[int] = field(default_factory=list)
    # Where each planned origin or handle stands in `nodes`.
    positions: dict[int, int] = field(default_factory=dict)
    # Contents by digest, each with its number in the call, and files that the server fetches.
    contents: dict[bytes, tuple[int, Constant]] = field(default_factory=dict)
    remotes: list[Remote] = field(default_factory=list)

    def ref(self, value: Value) -> tuple[int, int]:
        """The (node, port) of a planned value."""
        return self.positions[id(value.handle or value.origin)], value.port if value.handle is None else 0

    def metas(self, output: Output) -> tuple[Meta, ...]:
        """What is known of the tensors that an output stands for: one, or all of a model call."""
        if output.value is not None:
            return (output.value.meta,)
        call = self.nodes[output.node]
        return call.metas or (UNKNOWN,) if isinstance(call, ModelCall) else (UNKNOWN,)


def _inputs(node: Origin | Handle) -> list[Value | ModelCall]:
    match node:
        case Operation(args=args, kwargs=kwargs):
            return _values_in((*args, *(value for _, value in kwargs)))
        case ModelCall(inputs=inputs):
            return [value for _, value in inputs]
        case NamedPort(call=call):
            return [call]
    return []


def _values_in(arguments: Iterable[Any]) -> list[Value | ModelCall]:
    found: list[Value | ModelCall] = []
    for argument in arguments:
        if isinstance(argument, Value):
            found.append(argument)
        elif isinstance(argument, tuple):
            found.extend(_values_in(argument))
    return found


def _node_of(wanted: Value | ModelCall) -> Origin | Handle:
    if isinstance(wanted, ModelCall):
        return wanted
    node = wanted.handle or wanted.origin
    assert node is not None, "a value has an origin or a handle"
    return node


def _order(wanted: Sequence[Value | ModelCall]) -> tuple[list[Origin | Handle], list[Value]]:
    """Nodes of the ancestors, each after what it needs, and every value met. Iterative: programs can be long chains."""
    nodes: list[Origin | Handle] = []
    seen: set[int] = set()
    done: set[int] = set()
    values: dict[int, Value] = {}
    stack: list[Value | ModelCall] = list(reversed(wanted))
    while stack:
        item = stack[-1]
        if isinstance(item, Value):
            values[id(item)] = item
        node = _node_of(item)
        if id(node) in done:
            stack.pop()
        elif id(node) in seen:
            stack.pop()
            done.add(id(node))
            nodes.append(node)
        else:
            seen.add(id(node))
            stack.extend(reversed(_inputs(node)))
    return nodes, list(values.values())


def _attach(made: Plan) -> None:
    for node in made.nodes:
        if isinstance(node, Constant):
            made.contents.setdefault(node.digest, (len(made.contents), node))
        elif isinstance(node, Remote):
            made.remotes.append(node)


def plan(
    wanted: Sequence[Value | ModelCall],
    *,
    keep: Callable[[], int] | None,
    fetch: bool = True,
    free: Sequence[int] = (),
) -> Plan:
    """The program that computes `wanted`.

    `keep` gives new handle ids; with it, every value met that somebody holds stays on the device. Without it (the last
    call of a lease, or a call without one) nothing stays. `fetch=False` computes and keeps, and brings only dtypes and
    shapes home.
    """
    nodes, values = _order(wanted)
    made = Plan(nodes=nodes, free=list(free), positions={id(node): index for index, node in enumerate(nodes)})
    _attach(made)
    by_value: dict[int, Output] = {}
    for item in wanted:
        if isinstance(item, ModelCall):
            made.outputs.append(Output(made.positions[id(item)], 0, fetch, every_port=True))
        elif id(item) in by_value and not fetch:
            continue
        else:
            node, port = made.ref(item)
            output = Output(node, port, fetch, value=item)
            by_value.setdefault(id(item), output)
            made.outputs.append(output)
    if keep is not None:
        for value in values:
            # A constant needs no handle: the server has it by its digest.
            if value.holders and value.handle is None and not isinstance(value.origin, Constant):
                output = by_value.get(id(value)) or Output(*made.ref(value), fetch=False, value=value)
                if id(value) not in by_value:
                    made.outputs.append(output)
                output.keep = keep()
    return made
