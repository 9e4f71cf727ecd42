# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Saved programs as models: the steps of a program, run on what a call gives for its placeholders."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from remotegpu import errors, saved
from remotegpu.dtypes import number_of
from remotegpu.v1 import compute_pb2, worker_pb2
from remotegpu_server.backends import models, trials
from remotegpu_server.backends.device import Device
from remotegpu_server.backends.models import Model
from remotegpu_server.backends.operations import implementation

from . import program_signature
from .inputs import NOTHING, Inputs
from .outcome import failure
from .prepared import Infer, LoadImage, Loading, LoadTensor, Operate, Pick, Prepared, Step, Take, prepared_program
from .values import Values

PLATFORM = "remotegpu_program"
# Models that call models that call models ...
NESTING_LIMIT = 16


class NotLoaded(Exception):
    """A model that a program calls is not loaded: the program is run again from its start when it may be there."""

    def __init__(self, loading: Loading) -> None:
        super().__init__(f"{loading} is not loaded")
        self.loading = loading


class Callees(Protocol):
    """The models that saved programs call."""

    def callee(self, reference: str) -> Model:
        """The model that a reference stands for now. The thread that loads models gets it loaded; others NotLoaded, if
        it is not. Raises ModelNotFound, or why it cannot be loaded."""


class _Nested(threading.local):
    """The programs that a thread is in, the outermost first."""

    def __init__(self) -> None:
        self.programs: list[Program] = []


_nested = _Nested()


class Program(Model):
    """A saved program. The models that it calls are looked up in every run."""

    def __init__(self, file: worker_pb2.ModelFile, device: Device, callees: Callees) -> None:
        """Loads the file, and the models that it calls. Raises whatever goes wrong."""
        content, digest = models.read(file)
        message = saved.parse(content, known=lambda name: implementation(name) is not None)
        prepared = prepared_program(message.program)
        self._prepared: Prepared = prepared
        self._callees = callees
        self.calls = tuple(dict.fromkeys(step.reference for step in prepared.steps if isinstance(step, Infer)))
        if file.name in self.calls:
            raise ValueError(f"it calls {file.name!r}, which is its own name: say which version it means")
        signature = program_signature.signature(message, prepared, lambda name: callees.callee(name).signature)
        signature.platform, signature.digest = PLATFORM, digest
        inputs, body = Inputs(device), memoryview(message.body)
        self._constants = {
            index: inputs.load(step, body, NOTHING)
            for index, step in enumerate(prepared.steps)
            if isinstance(step, (LoadTensor, LoadImage))
        }
        super().__init__(file, device, compute_pb2.ModelSignature(inputs=signature.inputs))
        if not all(output.dtype for output in signature.outputs):
            self._find_dtypes(signature)
        self._describe(signature)
        self.nbytes = max(file.size, sum(array.nbytes for array in self._constants.values()))

    def try_out(self, max_batch: int) -> None:
        """As for all models; rows are put together only if all models that it calls allow it."""
        limits = [self._callees.callee(reference).max_batch for reference in self.calls]
        super().try_out(min([max_batch, *limits]))

    def _find_dtypes(self, signature: compute_pb2.ModelSignature) -> None:
        """Runs once to see what cannot be worked out. Raises ValueError if it runs on none of the sizes tried."""
        found = trials.first_outputs(self.inputs, self._run_from_host)
        if found is None:
            names = ", ".join(tensor.name for tensor in signature.outputs if not tensor.dtype)
            raise ValueError(f"the dtype of {names} cannot be told: it is made of something without a known shape")
        for tensor, array in zip(signature.outputs, found, strict=True):
            if not tensor.dtype:
                number = number_of(array.dtype)
                assert number is not None, "operations give nothing else"
                tensor.dtype = number  # type: ignore[assignment]  # an enum's number

    def _run(self, feed: Mapping[str, Any]) -> list[Any]:
        with self._entered():
            values = Values(self._device.xp, self._prepared.steps, self._prepared.last_uses)
            for index, step in enumerate(self._prepared.steps):
                values.made.append(self._tried(index, step, values, feed))
                values.free_after(index)
            outputs = [values.of(wanted.node, wanted.port) for wanted in self._prepared.outputs]
            if self.outputs:  # not while they are found out
                self.check_outputs(feed, outputs)
            return outputs

    @contextmanager
    def _entered(self) -> Iterator[None]:
        """Raises InvalidInput if the program is under way in this thread already, or too many others are."""
        stack = _nested.programs
        if self in stack or len(stack) >= NESTING_LIMIT:
            names = " → ".join(f"{program.name}:{program.version}" for program in (*stack, self))
            limit = f"models that do not come to call themselves, {NESTING_LIMIT} in one another at most"
            raise errors.InvalidInput(field=f"model {stack[0].name!r}", limit=limit, given=f"a cycle: {names}")
        stack.append(self)
        try:
            yield
        finally:
            stack.pop()

    def _tried(self, index: int, step: Step, values: Values, feed: Mapping[str, Any]) -> list[Any]:
        try:
            return self._made(index, step, values, feed)
        except (errors.Error, NotLoaded):
            raise
        except Exception as error:
            name = f"{self._prepared.names[index]} of model {self.name}:{self.version}"
            raise failure(self._device, error, index, name) from error

    def _made(self, index: int, step: Step, values: Values, feed: Mapping[str, Any]) -> list[Any]:
        match step:
            case Take(number=number):
                return [feed[self.inputs[number].name]]
            case Operate():
                return values.operate(step)
            case Infer():
                model = self._callees.callee(step.reference)
                outputs = model.run(model.arrange(values.inputs(step)))
                values.ran(index, model)
                return outputs
            case Pick():
                return [values.pick(index, step)]
        return [self._constants[index]]


def load(file: worker_pb2.ModelFile, device: Device, max_batch: int, callees: Callees) -> Program:
    """A file as a warm model. Raises ModelUnusable with the reason, or OutOfMemory; all else ends the device."""
    name = f"{file.name}:{file.version}"
    try:
        made = Program(file, device, callees)
        made.try_out(max_batch)
    except (errors.ModelUnusable, errors.OutOfMemory) as error:
        if isinstance(error, errors.OutOfMemory) or error.model == name:
            raise
        raise errors.ModelUnusable(model=name, why=f"it calls {error.model}, and {error.why}") from error
    except (errors.Error, ValueError, OSError) as error:
        raise errors.ModelUnusable(model=name, why=str(error)) from error
    except Exception as error:
        told = failure(device, error, 0, f"load of model {name}")
        unusable = errors.ModelUnusable(model=name, why=told.why)
        raise (told if isinstance(told, errors.OutOfMemory) else unusable) from error
    return made
