# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Runs prepared programs on a device: values in order, temporaries freed after their last use.

A program is a run that can be left and taken up again. At a model call it hands over the model and what to feed it, and
goes on when it is given the outputs: so models can be run for several programs at once, and other programs meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from remotegpu import errors, program
from remotegpu.dtypes import BYTES, number_of
from remotegpu.strings import encode, is_strings
from remotegpu.v1 import program_pb2 as pb
from remotegpu_server.backends.device import Device
from remotegpu_server.backends.models import Model

from .inputs import NOTHING, Attached, Inputs
from .memory import LeaseMemory, Live
from .order import Order, Touched
from .outcome import Outcome, failure
from .prepared import (
    Infer,
    LoadImage,
    Loading,
    LoadTensor,
    Models,
    Operate,
    Pick,
    Prepared,
    Preparer,
    Recall,
    Step,
    Wanted,
    check_models,
    port_named,
)

T = TypeVar("T")


@dataclass(slots=True)
class Request:
    """One program to run. `program` and `body` are read-only views of the request slab. `lease`: 0 for a program that
    runs without one, and can keep nothing. `memory_limit` is what the lease declared, `result_limit` how much one reply
    may hold; bytes, 0: no limit. `call` tells programs of one lease apart. `attached`: inputs beside the body."""

    program: memoryview
    body: memoryview
    lease: int
    memory_limit: int
    result_limit: int = 0
    call: int = 0
    attached: Attached = NOTHING


@dataclass(frozen=True, slots=True)
class ModelStep:
    """A program waits for the outputs of a model. `feed` has an array of the device for each input's name."""

    model: Model
    feed: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a model made of a step's feed, in the model's order. `shared`: parts of arrays that others use too."""

    arrays: list[Any]
    shared: bool = False


# Where a program stopped: at a model call, at a model that is being loaded (it goes on when that may be there), at its
# end.
Reached = ModelStep | Loading | Outcome


class Executor:
    """Holds a device and what leases keep there."""

    def __init__(
        self,
        device: Device,
        models: Models,
        index: int,
        epoch: int,
        warm: Callable[[str], None] = lambda model: None,
    ) -> None:
        """`warm` hears the names of models that a program has run to its end, in every such program."""
        self.device = device
        self.models = models
        self.memory = LeaseMemory()
        # Of programs that pause, so that those of one lease do not disturb each other.
        self.order = Order()
        self.epoch = epoch
        self.warm = warm
        self.inputs = Inputs(device)
        self._preparer = Preparer(index, epoch)

    def prepare(self, request: Request) -> Execution:
        """Checks a program as far as that is possible without running it.

        Raises ProtocolError, InvalidInput, ModelNotFound or LeaseLost."""
        try:
            counts = len(request.attached.contents), len(request.attached.fetched)
            prepared = self._preparer.prepare(request.program, len(request.body), counts)
            if not request.lease:
                _check_keeps_nothing(prepared)
            check_models(prepared, self.models)
            return Execution(self, request, prepared)
        except errors.Error:
            raise
        except Exception as error:  # one caller's program must not end the worker for all
            raise failure(self.device, error, 0, "program", request.memory_limit) from error

    def drop(self, lease: int) -> None:
        """Frees all that a lease holds on the device, and its models. Any thread may call it, while no program of that
        lease runs."""
        self.memory.drop(lease)
        self.device.drop(lease)
        self.models.drop(lease)


def _check_keeps_nothing(prepared: Prepared) -> None:
    for index, wanted in enumerate(prepared.outputs):
        if wanted.keep:
            limit = "none: what is kept belongs to a lease, and this call has none"
            raise errors.InvalidInput(field=f"output {index}", limit=limit, given=f"keep as handle {wanted.keep}")


class Execution:
    """One program under way. `resume` takes it to its next model call, and from there on; between two calls of it, it
    takes no part in the device's state (`Device.memory_scope`), so others may run. A failed one keeps nothing, nor does
    one that is closed."""

    def __init__(self, executor: Executor, request: Request, prepared: Prepared) -> None:
        # Whether a model has run for it: before that, it can be taken back as if it had never begun.
        self.begun = False
        # Nanoseconds that it waited between two `resume`, which are no part of its computing.
        self.waited_ns = 0
        self._executor = executor
        self._request = request
        self._prepared = prepared
        self._device = executor.device
        self._values: list[list[Any]] = []
        # Output names of the models that it has run, by node.
        self._ports: dict[int, list[str]] = {}
        self._models: list[str] = []
        self._live = Live()
        self._course = self._steps()

    def touched(self, *, finishes: bool) -> Touched:
        """What it does with the handles of its lease."""
        touched = self._prepared.touched
        return Touched(touched.reads, touched.writes, finishes) if finishes else touched

    def pauses(self, touched: Touched) -> None:
        """It goes on later: programs of its lease that come meanwhile must know of it."""
        self._executor.order.paused(self._request.call, self._request.lease, touched, self._live)

    def close(self) -> None:
        """Frees what it holds; for one that does not go on. It cannot be resumed."""
        self._course.close()
        self._values.clear()

    def resume(self, outputs: Outputs | Exception | None = None) -> Reached:
        """Goes on with the outputs of the model step that it waits for, or with the error that the model raised; with
        None at the start and after Loading.

        Raises RemoteError, OutOfMemory or InvalidInput for what only running shows, ModelNotFound for a model that has
        gone meanwhile; also its own error again. The execution is over then, as after an Outcome."""
        try:
            with self._device.memory_scope(self._request.lease, self._request.memory_limit):
                try:
                    return self._course.throw(outputs) if isinstance(outputs, Exception) else self._course.send(outputs)
                except StopIteration as end:
                    outcome: Outcome = end.value
                    return outcome
        except errors.Error:
            raise
        except Exception as error:  # one caller's program must not end the worker for all
            last = max(len(self._prepared.steps) - 1, 0)
            raise failure(self._device, error, last, "program", self._request.memory_limit) from error

    def _steps(self) -> Generator[ModelStep | Loading, Outputs | None, Outcome]:
        self._take_handles()
        steps, waited_ns = self._prepared.steps, self.waited_ns
        start = self._device.mark()
        # All transfers first: they overlap, and their time is told apart from computing.
        loads = [i for i, step in enumerate(steps) if isinstance(step, (LoadTensor, LoadImage))]
        loaded = {i: self._try(i, self._made, i, steps[i]) for i in loads}
        uploaded = self._device.mark()
        for index, step in enumerate(steps):
            if index in loaded:
                made = loaded.pop(index)
            elif isinstance(step, Infer):
                made = yield from self._inferred(index, step)
            else:
                made = self._try(index, self._made, index, step)
            self._values.append(made)
            del made  # what is freed after its last use must have no other name
            self._free_after(index)
        outcome = self._finished(start, uploaded)
        outcome.compute_ns = max(outcome.compute_ns - self.waited_ns + waited_ns, 0)
        return outcome

    def _take_handles(self) -> None:
        memory, lease = self._executor.memory, self._request.lease
        memory.free(lease, self._prepared.free)
        for index, handle in self._prepared.handles:
            if memory.get(lease, handle) is None:
                raise errors.InvalidInput(
                    field=f"node {index}", limit="a handle that this lease keeps", given=f"handle {handle}"
                )

    def _free_after(self, index: int) -> None:
        for used in self._prepared.last_uses.get(index, ()):
            for value in self._values[used]:
                self._live.remove(value)
            self._values[used] = []

    def _finished(self, start: Any, uploaded: Any) -> Outcome:
        outcome = self._outputs()
        kept = [(w.keep, self._try(w.node, self._owned, w)) for w in self._prepared.outputs if w.keep]
        computed = self._device.mark()
        outcome.h2d_ns = self._device.elapsed_ns(start, uploaded)
        outcome.compute_ns = self._device.elapsed_ns(uploaded, computed)
        for model in self._models:
            self._executor.warm(model)  # the device has finished: a model that fails there is not warm
        # Last, for a failed program keeps nothing.
        memory, lease = self._executor.memory, self._request.lease
        for handle, array in kept:
            memory.keep(lease, handle, array)
        outcome.discard = partial(memory.free, lease, [handle for handle, _ in kept])
        self._values.clear()
        return outcome

    def _inferred(self, index: int, step: Infer) -> Generator[ModelStep | Loading, Outputs | None, list[Any]]:
        model = self._try(index, self._executor.models.get, step.reference, self._request.lease)
        while isinstance(model, Loading):
            yield model
            model = self._try(index, self._executor.models.get, step.reference, self._request.lease)
        inputs = [(name, self._value(node, port)) for name, node, port in step.inputs]
        feed = self._try(index, model.arrange, inputs)
        try:
            outputs = yield ModelStep(model, feed)
        except errors.Error:
            raise
        except Exception as error:
            limit = self._request.memory_limit
            raise failure(self._device, error, index, self._prepared.names[index], limit) from error
        assert outputs is not None, "given to every model step"
        self.begun = True
        self._models.append(model.name)
        self._ports[index] = list(model.output_names)
        return self._try(index, self._adopted, index, outputs)

    def _adopted(self, index: int, outputs: Outputs) -> list[Any]:
        """The outputs of a model. A lease that declared memory gets copies of its parts of shared ones: it would be
        charged with the whole otherwise."""
        arrays = outputs.arrays
        if outputs.shared and self._request.memory_limit:
            more = sum(array.nbytes for array in arrays)
            self._check_memory(index, more, more)
            arrays = [self._own(array) for array in arrays]
        for array in arrays:
            self._live.add(array)
            self._check_memory(index, array.nbytes)
        return arrays

    def _try(self, index: int, work: Callable[..., T], *args: Any) -> T:
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
            self._live.add(value, held=isinstance(step, Recall) or self._executor.inputs.is_shared(value))
            self._check_memory(index, value.nbytes)
        return values

    def _check_memory(self, index: int, asked: int, more: int = 0) -> None:
        """Raises OutOfMemory if what is alive, and `more` bytes, are beyond what the lease declared."""
        limit = self._request.memory_limit
        if limit and self._alive() + more > limit:
            name, why = self._prepared.names[index], "the lease declared no more"
            raise errors.OutOfMemory(node=index, operation=name, why=why, asked=asked, limit=limit)

    def _alive(self) -> int:
        """What the lease takes: it keeps some, this program needs some, others of it that pause need some."""
        lease, call = self._request.lease, self._request.call
        return self._executor.memory.held(lease) + self._live.bytes + self._executor.order.bytes(lease, without=call)

    def _step(self, index: int, step: Step) -> list[Any]:
        match step:
            case LoadTensor() | LoadImage():
                return [self._executor.inputs.load(step, self._request.body, self._request.attached)]
            case Recall(handle=handle):
                return [self._executor.memory.get(self._request.lease, handle)]
            case Pick(node=node):
                call = self._prepared.steps[node]
                assert isinstance(call, Infer), "checked before"
                return [self._value(node, port_named(index, step, call.reference, self._ports[node]))]
            case Operate():
                return self._operation(step)
            case Infer():
                raise AssertionError("a program pauses there")

    def _operation(self, step: Operate) -> list[Any]:
        message = step.message
        args = [program.decode_argument(argument, self._referred) for argument in message.args]
        kwargs = {item.name: program.decode_argument(item.value, self._referred) for item in message.kwargs}
        made = step.run(self._device.xp, *args, **kwargs)
        return list(made) if isinstance(made, tuple) else [made]

    def _referred(self, ref: pb.Ref) -> Any:
        value = self._value(ref.node, ref.port)
        if is_strings(value):
            limit = "strings as inputs and outputs of models only"
            raise errors.InvalidInput(field="operation", limit=limit, given=f"node {ref.node}, which are strings")
        return value

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
        owned = self._own(array)
        self._live.add(owned)
        self._check_memory(wanted.node, array.nbytes)
        return owned

    def _own(self, array: Any) -> Any:
        return array.copy() if is_strings(array) else self._device.own(array)

    def _outputs(self) -> Outcome:
        outcome = Outcome(last_node=max(len(self._values) - 1, 0))
        for index, wanted in enumerate(self._prepared.outputs):
            names = self._ports[wanted.node] if wanted.every_port else [""]
            arrays = self._values[wanted.node] if wanted.every_port else [self._value(wanted.node, wanted.port)]
            for name, array in zip(names, arrays, strict=True):
                number = BYTES if is_strings(array) else number_of(np.dtype(array.dtype))
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
                    travelling = np.frombuffer(encode(array), np.uint8) if is_strings(array) else array
                    outcome.fetched.append((value, travelling))
        outcome.lay_out(self._request.result_limit)
        return outcome
