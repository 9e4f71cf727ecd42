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

from remotegpu import errors
from remotegpu.strings import is_strings
from remotegpu_server.backends.device import Device
from remotegpu_server.backends.models import Model

from .inputs import NOTHING, Attached, Inputs
from .layout import Description
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
    SingleModel,
    Step,
    Take,
    Wanted,
    check_models,
    not_found,
)
from .programs import NotLoaded
from .values import Values

T = TypeVar("T")

# How often a model is begun again because one that it calls was evicted before it ran.
_ATTEMPTS = 3


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


@dataclass(slots=True)
class ModelStep:
    """A program waits for the outputs of a model. `feed` has an array of the device for each input's name. `alone`: it
    must not be put together with others, whatever the model says of itself."""

    model: Model
    feed: dict[str, Any]
    alone: bool = False


@dataclass(slots=True)
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
            if not prepared.is_plain:
                check_models(prepared, self.models)
            return Execution(self, request, prepared)
        except errors.Error:
            raise
        except Exception as error:  # one caller's program must not end the worker for all
            raise failure(self.device, error, 0, "program", request.memory_limit) from error

    def single(self, program: memoryview, body_size: int) -> SingleModel | None:
        """What a program is, if it was prepared before, and is no more than that."""
        found = self._preparer.seen(program, body_size)
        return None if found is None else found.single

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
        # Whether a model runs or has run for it, which is told by whoever runs it: before that, it can be taken back as
        # if it had never begun.
        self.begun = False
        # Nanoseconds that it waited between two `resume`, which are no part of its computing.
        self.waited_ns = 0
        self._executor = executor
        self._request = request
        self._prepared = prepared
        self._device = executor.device
        self._values = Values(self._device.xp, prepared.steps, prepared.last_uses)
        self._models: list[str] = []
        # Counted only for a lease that declared memory.
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
        self._values.made.clear()

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
            self._values.made.append(made)
            del made  # what is freed after its last use must have no other name
            self._free_after(index)
        outcome = self._finished(start, uploaded)
        outcome.compute_ns = max(outcome.compute_ns - self.waited_ns + waited_ns, 0)
        return outcome

    def _take_handles(self) -> None:
        memory, lease = self._executor.memory, self._request.lease
        if self._prepared.free:
            memory.free(lease, self._prepared.free)
        for index, handle in self._prepared.handles:
            if memory.get(lease, handle) is None:
                raise errors.InvalidInput(
                    field=f"node {index}", limit="a handle that this lease keeps", given=f"handle {handle}"
                )

    def _free_after(self, index: int) -> None:
        freed = self._values.free_after(index)
        if self._request.memory_limit:
            for value in freed:
                self._live.remove(value)

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
        if kept:
            outcome.discard = partial(memory.free, lease, [handle for handle, _ in kept])
        self._values.made.clear()
        return outcome

    def _inferred(self, index: int, step: Infer) -> Generator[ModelStep | Loading, Outputs | None, list[Any]]:
        name, limit = self._prepared.names[index], self._request.memory_limit
        for _ in range(_ATTEMPTS):
            model, alone = yield from self._loaded(index, step.reference)
            feed = self._try(index, model.arrange, self._values.inputs(step))
            try:
                outputs = yield ModelStep(model, feed, alone)
            except NotLoaded:  # a model that it calls was evicted meanwhile
                continue
            except errors.Error:
                raise
            except Exception as error:
                raise failure(self._device, error, index, name, limit) from error
            assert outputs is not None, "given to every model step"
            self._models.append(model.name)
            self._values.ran(index, model)
            return self._try(index, self._adopted, index, outputs)
        why = "the models that it calls take each other's place in the memory for models"
        raise errors.RemoteError(node=index, operation=name, why=why)

    def _loaded(
        self, index: int, reference: str, above: tuple[str, ...] = ()
    ) -> Generator[ModelStep | Loading, Outputs | None, tuple[Model, bool]]:
        """A model, when it and all that it calls are loaded, and whether one of those must not run for several calls at
        once. `above`: what calls it."""
        model = self._try(index, self._got, index, reference)
        while isinstance(model, Loading):
            yield model
            if model.error is not None:
                raise model.error
            model = self._try(index, self._got, index, reference)
        alone = False
        for called in model.calls:
            if called not in above:  # a cycle is told by the run
                callee, callee_alone = yield from self._loaded(index, called, (*above, reference))
                alone = alone or callee_alone or not callee.max_batch
        return model, alone

    def _got(self, index: int, reference: str) -> Model | Loading:
        try:
            return self._executor.models.get(reference, self._request.lease)
        except errors.ModelNotFound as error:
            raise not_found(index, error) from None

    def _adopted(self, index: int, outputs: Outputs) -> list[Any]:
        """The outputs of a model. A lease that declared memory gets copies of its parts of shared ones: it would be
        charged with the whole otherwise."""
        arrays = outputs.arrays
        if outputs.shared and self._request.memory_limit:
            more = sum(array.nbytes for array in arrays)
            self._check_memory(index, more, more)
            arrays = [self._own(array) for array in arrays]
        self._count(index, arrays)
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
        self._count(index, values, held=isinstance(step, Recall))
        return values

    def _count(self, index: int, arrays: list[Any], *, held: bool = False) -> None:
        """New values of a node. `held`: the lease keeps them already."""
        if not self._request.memory_limit:
            return
        for array in arrays:
            self._live.add(array, held=held or self._executor.inputs.is_shared(array))
            self._check_memory(index, array.nbytes)

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
            case Pick():
                return [self._values.pick(index, step)]
            case Operate():
                return self._values.operate(step)
            case Infer() | Take():
                raise AssertionError("a program pauses there, or is a saved one")

    def _owned(self, wanted: Wanted) -> Any:
        """An output to keep: the array, or a copy if it is a view, which must fit beside all else."""
        array = self._values.of(wanted.node, wanted.port)
        if array.base is not None:
            self._check_memory(wanted.node, array.nbytes, array.nbytes)
        owned = self._own(array)
        self._count(wanted.node, [owned])
        return owned

    def _own(self, array: Any) -> Any:
        return array.copy() if is_strings(array) else self._device.own(array)

    def _outputs(self) -> Outcome:
        described = Description(self._executor.epoch)
        for index, wanted in enumerate(self._prepared.outputs):
            if wanted.every_port:
                names, arrays = self._values.every(wanted.node)
            else:
                names, arrays = [""], [self._values.of(wanted.node, wanted.port)]
            for name, array in zip(names, arrays, strict=True):
                described.add(index, name, array, fetch=wanted.fetch)
        layout = described.laid_out(self._request.result_limit)
        return Outcome(layout, described.arrays, last_node=max(len(self._values.made) - 1, 0))
