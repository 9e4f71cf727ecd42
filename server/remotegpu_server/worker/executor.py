# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Runs prepared programs on a device: values in order, temporaries freed after their last use."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from remotegpu import errors, program, wire
from remotegpu.dtypes import number_of
from remotegpu.v1 import program_pb2 as pb
from remotegpu_server.backends import images
from remotegpu_server.backends.device import Device, HostArray
from remotegpu_server.backends.models import Model

from .prepared import Infer, LoadImage, LoadTensor, Operate, Pick, Prepared, Preparer, Recall, Step, Wanted


class LeaseMemory:
    """What leases keep on the device: arrays by lease and handle id. Both threads of a worker use it: the one that runs
    programs, and the one that drops leases which have no call here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrays: dict[int, dict[int, Any]] = {}
        self._held: dict[int, int] = {}

    def get(self, lease: int, handle: int) -> Any:
        """The array of a handle, or None."""
        mine = self._arrays.get(lease)
        return None if mine is None else mine.get(handle)

    def keep(self, lease: int, handle: int, array: Any) -> None:
        """Stores an array; one that the handle had before is freed."""
        self.free(lease, (handle,))
        with self._lock:
            self._arrays.setdefault(lease, {})[handle] = array
            self._held[lease] = self._held.get(lease, 0) + array.nbytes

    def free(self, lease: int, handles: Iterable[int]) -> None:
        """Frees handles; those that are not there are passed over, so a repeated free is harmless."""
        with self._lock:
            mine = self._arrays.get(lease, {})
            for handle in handles:
                array = mine.pop(handle, None)
                if array is not None:
                    self._held[lease] -= array.nbytes

    def drop(self, lease: int) -> None:
        """Frees all that a lease holds."""
        with self._lock:
            dropped = self._arrays.pop(lease, None)
            self._held.pop(lease, None)
        del dropped  # outside of the lock: to give large arrays back takes the system a while

    def held(self, lease: int | None = None, *, without: int | None = None) -> int:
        """Bytes held by one lease, or by all, `without` one of them."""
        with self._lock:
            if lease is not None:
                return self._held.get(lease, 0)
            return sum(self._held.values()) - (self._held.get(without, 0) if without is not None else 0)


@dataclass(slots=True)
class Request:
    """One program to run. `program` and `body` are read-only views of the request slab. `memory_limit` is what the
    lease declared, `result_limit` how much one reply may hold; bytes, 0: no limit."""

    program: memoryview
    body: memoryview
    lease: int
    memory_limit: int
    result_limit: int = 0


@dataclass(slots=True)
class Outcome:
    """What came of it: the result message, the arrays to copy out with their places in it, times; or an error.

    `last_node` is the program's; `discard` frees what the call kept, for a result that cannot be delivered."""

    error: bytes | None = None
    result: pb.Result = field(default_factory=pb.Result)
    fetched: list[tuple[pb.Value, Any]] = field(default_factory=list)
    h2d_ns: int = 0
    compute_ns: int = 0
    last_node: int = 0
    discard: Callable[[], None] = field(default=lambda: None)

    def lay_out(self, limit: int = 0) -> None:
        """Gives each fetched value its place in the body.

        Raises InvalidInput if the reply would be larger than `limit` bytes (0: no limit)."""
        offset = 0
        for value, array in self.fetched:
            # A view may be of any size, more than the fields of the message can tell.
            if limit and offset + array.nbytes > limit:
                raise _too_large(limit, offset + array.nbytes)
            value.offset = offset
            value.size = array.nbytes
            offset += wire.aligned(array.nbytes)
        size = offset + wire.aligned(self.result.ByteSize())
        if limit and size > limit:
            raise _too_large(limit, size)


def _too_large(limit: int, size: int) -> errors.InvalidInput:
    return errors.InvalidInput(field="result size", limit=f"at most {limit} bytes in one call", given=f"{size} bytes")


def failure(device: Device, error: Exception, node: int, operation: str, limit: int = 0) -> errors.RemoteError:
    """What to tell the caller of an error that the device survives: OutOfMemory (`limit`: the declared bytes, 0: none
    were) or RemoteError. Raises the error again if the device does not survive it."""
    if device.is_broken(error):
        raise error
    why = f"{type(error).__name__}: {error}"
    asked = device.memory_error(error)
    if asked is not None:
        limit = limit or device.free_memory()
        return errors.OutOfMemory(node=node, operation=operation, why=why, asked=asked, limit=limit)
    text = "".join(traceback.format_exception(error, limit=-6))
    return errors.RemoteError(node=node, operation=operation, why=why, traceback=text)


class Executor:
    """Holds a device, its models and what leases keep there."""

    def __init__(
        self,
        device: Device,
        models: dict[str, Model],
        index: int,
        epoch: int,
        warm: Callable[[int], None] = lambda model: None,
    ) -> None:
        """`warm` hears once of each model that a program has run, by its place in `models`."""
        self.device = device
        self.memory = LeaseMemory()
        self.epoch = epoch
        self._preparer = Preparer(models, index, epoch)
        self._cold = {name: place for place, name in enumerate(models)}
        self._warm = warm

    def run(self, request: Request) -> Outcome:
        """Checks and runs a program. A failed one keeps nothing.

        Raises ProtocolError, InvalidInput, ModelNotFound or LeaseLost before it takes device memory; RemoteError,
        OutOfMemory or InvalidInput for what only running shows."""
        last = 0
        try:
            prepared = self._preparer.prepare(request.program, len(request.body))
            last = max(len(prepared.steps) - 1, 0)
            self.memory.free(request.lease, prepared.free)
            for index, handle in prepared.handles:
                if self.memory.get(request.lease, handle) is None:
                    raise errors.InvalidInput(
                        field=f"node {index}", limit="a handle that this lease keeps", given=f"handle {handle}"
                    )
            with self.device.memory_scope(request.lease, request.memory_limit):
                return _Run(self, request, prepared).run()
        except errors.Error:
            raise
        except Exception as error:  # one caller's program must not end the worker for all
            raise failure(self.device, error, last, "program", request.memory_limit) from error

    def has_run(self, models: Iterable[str]) -> None:
        """Programs have run these models."""
        for name in models:
            place = self._cold.pop(name, None)
            if place is not None:
                self._warm(place)

    def drop(self, lease: int) -> None:
        """Frees all that a lease holds on the device. Any thread may call it, while no program of that lease runs."""
        self.memory.drop(lease)
        self.device.drop(lease)


class _Live:
    """Bytes that are alive for a lease: what it keeps, and what the running program made and still needs.

    Views count as the array whose memory they share: it lives as long as any of them."""

    def __init__(self, held: int) -> None:
        self.bytes = held
        self._owners: dict[int, tuple[int, int]] = {}

    def add(self, array: Any, *, held: bool = False) -> None:
        """Counts an array; `held` ones are among those that the lease keeps already."""
        owner = _owner(array)
        uses, size = self._owners.get(id(owner), (0, 0))
        if not uses and not held:
            size = owner.nbytes
            self.bytes += size
        self._owners[id(owner)] = (uses + 1, size)

    def remove(self, array: Any) -> None:
        """Takes back one `add` of that array."""
        owner = id(_owner(array))
        uses, size = self._owners.pop(owner)
        if uses > 1:
            self._owners[owner] = (uses - 1, size)
        else:
            self.bytes -= size


def _owner(array: Any) -> Any:
    """The array that owns the memory; for memory that no array owns, the one that borrowed it."""
    while isinstance(array.base, type(array)):
        array = array.base
    return array


class _Run:
    def __init__(self, executor: Executor, request: Request, prepared: Prepared) -> None:
        self._executor = executor
        self._request = request
        self._prepared = prepared
        self._device = executor.device
        self._values: list[list[Any]] = []
        self._models: list[str] = []
        self._live = _Live(executor.memory.held(request.lease))

    def run(self) -> Outcome:
        steps, last_uses = self._prepared.steps, self._prepared.last_uses
        start = self._device.mark()
        # All transfers first: they overlap, and their time is told apart from computing.
        loads = [i for i, step in enumerate(steps) if isinstance(step, (LoadTensor, LoadImage))]
        loaded = {i: self._try(i, self._made, i, steps[i]) for i in loads}
        uploaded = self._device.mark()
        for index, step in enumerate(steps):
            self._values.append(loaded.pop(index) if index in loaded else self._try(index, self._made, index, step))
            for used in last_uses.get(index, ()):
                for value in self._values[used]:
                    self._live.remove(value)
                self._values[used] = []
        outcome = self._outputs()
        kept = [(w.keep, self._try(w.node, self._owned, w)) for w in self._prepared.outputs if w.keep]
        computed = self._device.mark()
        outcome.h2d_ns = self._device.elapsed_ns(start, uploaded)
        outcome.compute_ns = self._device.elapsed_ns(uploaded, computed)
        self._executor.has_run(self._models)  # the device has finished: a model that fails there is not warm
        # Last, for a failed program keeps nothing.
        memory, lease = self._executor.memory, self._request.lease
        for handle, array in kept:
            memory.keep(lease, handle, array)
        outcome.discard = partial(memory.free, lease, [handle for handle, _ in kept])
        return outcome

    def _try(self, index: int, work: Callable[..., Any], *args: Any) -> Any:
        try:
            return work(*args)
        except errors.Error:
            raise
        except Exception as error:
            limit = self._request.memory_limit
            raise failure(self._device, error, index, self._prepared.names[index], limit) from error

    def _made(self, index: int, step: Step) -> list[Any]:
        values = self._step(index, step)
        for value in values:
            self._live.add(value, held=isinstance(step, Recall))
            self._check_memory(index, value.nbytes)
        return values

    def _check_memory(self, index: int, asked: int, more: int = 0) -> None:
        """Raises OutOfMemory if what is alive, and `more` bytes, are beyond what the lease declared."""
        limit = self._request.memory_limit
        if limit and self._live.bytes + more > limit:
            name, why = self._prepared.names[index], "the lease declared no more"
            raise errors.OutOfMemory(node=index, operation=name, why=why, asked=asked, limit=limit)

    def _step(self, index: int, step: Step) -> list[Any]:
        match step:
            case LoadTensor(start=start, end=end, dtype=dtype, shape=shape):
                host: HostArray = np.frombuffer(self._request.body[start:end], dtype).reshape(shape)
                return [self._device.upload(host)]
            case LoadImage(start=start, end=end):
                return [self._device.upload(images.decode(self._request.body[start:end]))]
            case Recall(handle=handle):
                return [self._executor.memory.get(self._request.lease, handle)]
            case Infer(model=model, inputs=inputs):
                outputs = model.run(model.arrange([(name, self._value(node, port)) for name, node, port in inputs]))
                self._models.append(model.name)
                return outputs
            case Pick(node=node, port=port):
                return [self._value(node, port)]
            case Operate():
                return self._operation(step)

    def _operation(self, step: Operate) -> list[Any]:
        message = step.message
        args = [program.decode_argument(argument, self._referred) for argument in message.args]
        kwargs = {item.name: program.decode_argument(item.value, self._referred) for item in message.kwargs}
        made = step.run(self._device.xp, *args, **kwargs)
        return list(made) if isinstance(made, tuple) else [made]

    def _referred(self, ref: pb.Ref) -> Any:
        return self._value(ref.node, ref.port)

    def _value(self, node: int, port: int) -> Any:
        values = self._values[node]
        if port >= len(values):
            raise errors.InvalidInput(field=f"node {node}", limit=f"{len(values)} ports", given=f"port {port}")
        return values[port]

    def _owned(self, wanted: Wanted) -> Any:
        """An output to keep: the array, or a copy if it is a view, which must fit beside all else."""
        array = self._value(wanted.node, wanted.port)
        if array.base is not None:
            self._check_memory(wanted.node, array.nbytes, array.nbytes)
        owned = self._device.own(array)
        self._live.add(owned)
        self._check_memory(wanted.node, array.nbytes)
        return owned

    def _outputs(self) -> Outcome:
        outcome = Outcome(last_node=max(len(self._values) - 1, 0))
        for index, wanted in enumerate(self._prepared.outputs):
            names = wanted.names or ("",)
            arrays = self._values[wanted.node] if wanted.names else [self._value(wanted.node, wanted.port)]
            for name, array in zip(names, arrays, strict=True):
                number = number_of(np.dtype(array.dtype))
                if number is None:
                    limit = "a dtype that travels"
                    raise errors.InvalidInput(field=f"output {index}", limit=limit, given=str(array.dtype))
                value = outcome.result.values.add(
                    output=index,
                    name=name,
                    dtype=number,
                    shape=array.shape,
                    epoch=self._executor.epoch,
                )
                if wanted.fetch:
                    outcome.fetched.append((value, array))
        outcome.lay_out(self._request.result_limit)
        return outcome
