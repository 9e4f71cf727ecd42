# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The short cut of the commonest call: tensors of its body, one model, its outputs. One that comes when nothing else is
there runs from its packet to its reply in one go, by what is remembered of calls before it with the same program: which
arrays the model takes, and how its outputs lie in a reply.

Everything unusual takes the course that all other calls take (`calls`), and is found out before anything has been done.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from remotegpu import errors, wire
from remotegpu_server import records
from remotegpu_server.backends.models import Model

from .executor import Executor
from .layout import Description, Layout
from .outcome import Outcome, failure
from .prepared import Loading, SingleModel
from .replies import Finished, Replies

# Programs that something is remembered of, and layouts for each of them.
_PROGRAMS = 256
_LAYOUTS = 16


@dataclass(slots=True)
class _Course:
    """What is known of a program, as long as its model is that one: which of its tensors the model takes by which name;
    by value of the reply its output, name, and place among the model's outputs; layouts by what the values are."""

    model: weakref.ref[Model]
    feed: tuple[tuple[str, int], ...]
    values: tuple[tuple[int, str, int], ...]
    layouts: dict[tuple[object, ...], Layout] = field(default_factory=dict)


@dataclass(slots=True)
class _Entered:
    """A call that can be run. Marks are the device's."""

    course: _Course
    model: Model
    arrays: list[Any]
    start: Any
    uploaded: Any


class Direct:
    """Runs such calls. For the main thread, which runs models itself."""

    def __init__(
        self,
        executor: Executor,
        replies: Replies,
        end: Callable[[int], None],
        requests: memoryview,
    ) -> None:
        """`end` hears that a call was answered. `requests`: the request arena, read-only."""
        self._executor = executor
        self._device = executor.device
        self._replies = replies
        self._end = end
        self._requests = requests
        self._courses: dict[SingleModel, _Course] = {}

    def run(self, run: records.Run) -> bool:
        """Runs and answers a call for which nothing else waits, and which cannot be taken back now. False if it must
        take the usual course: then nothing has been done."""
        if run.memory_limit or run.finish or run.attachments_size:
            return False
        start = run.offset
        single = self._executor.single(self._requests[start : start + run.program_size], run.body_size)
        if single is None or (run.lease and not self._executor.order.is_quiet(run.lease)):
            return False
        started_ns = time.monotonic_ns()
        if 0 < run.deadline_ns < started_ns:
            return False
        try:
            entered = self._entered(run, single)
        except Exception:  # the usual course comes to the same, and has the words for it
            return False
        if entered is None:
            return False
        try:
            outcome = self._outcome(single, entered)
            self._replies.succeed(Finished(run.call, started_ns, outcome, batch=1))
        except errors.Error as error:
            self._replies.fail(run.call, started_ns, error)
        self._end(run.call)
        return True

    def _entered(self, run: records.Run, single: SingleModel) -> _Entered | None:
        """None for a model that cannot be run at once. Raises whatever goes wrong."""
        model = self._executor.models.get(single.reference, run.lease)
        if isinstance(model, Loading) or model.calls:
            return None
        device, begin = self._device, run.offset + wire.aligned(run.program_size)
        body = self._requests[begin : begin + run.body_size]
        with device.memory_scope(run.lease, 0):
            start = device.mark()
            arrays = [
                device.upload(np.frombuffer(body, dtype, count, at).reshape(shape))
                for at, count, dtype, shape in single.tensors
            ]
            uploaded = device.mark()
        course = self._courses.get(single)
        if course is None or course.model() is not model:
            course = _course(single, model, arrays)
            if len(self._courses) >= _PROGRAMS:
                self._courses.clear()
            self._courses[single] = course
        return _Entered(course, model, arrays, start, uploaded)

    def _outcome(self, single: SingleModel, entered: _Entered) -> Outcome:
        """Raises what the usual course raises (see `executor.Execution.resume`)."""
        device, model, arrays = self._device, entered.model, entered.arrays
        try:
            made = model.run({name: arrays[position] for name, position in entered.course.feed})
        except errors.Error:
            raise
        except Exception as error:
            raise failure(device, error, single.node, single.name) from error
        try:
            outcome = self._laid_out(entered.course, made)
            computed = device.mark()
            outcome.h2d_ns = device.elapsed_ns(entered.start, entered.uploaded)
            outcome.compute_ns = device.elapsed_ns(entered.uploaded, computed)
        except errors.Error:
            raise
        except Exception as error:
            raise failure(device, error, single.last_node, "program") from error
        outcome.last_node = single.last_node
        self._executor.warm(model.name)  # the device has finished: a model that fails there is not warm
        return outcome

    def _laid_out(self, course: _Course, made: Sequence[Any]) -> Outcome:
        arrays = [made[port] for _, _, port in course.values]
        kind = tuple([(array.dtype, array.shape) for array in arrays])
        layout = course.layouts.get(kind)
        if layout is not None:
            return Outcome(layout, arrays)
        described = Description(self._executor.epoch)
        for (output, name, _), array in zip(course.values, arrays, strict=True):
            described.add(output, name, array, fetch=True)
        layout = described.laid_out(len(self._requests))
        if layout.is_fixed:
            if len(course.layouts) >= _LAYOUTS:
                course.layouts.clear()
            course.layouts[kind] = layout
        return Outcome(layout, described.arrays)


def _course(single: SingleModel, model: Model, arrays: Sequence[Any]) -> _Course:
    """Raises InvalidInput for arrays that the model does not take, LookupError for an output that it does not have."""
    feed = model.arrange([(name, arrays[position]) for name, position in single.inputs])
    names = model.output_names
    values: list[tuple[int, str, int]] = []
    for index, wanted in enumerate(single.outputs):
        if wanted is None:
            values += [(index, name, port) for port, name in enumerate(names)]
        else:
            port = names.index(wanted) if isinstance(wanted, str) else range(len(names))[wanted]
            values.append((index, "", port))
    positions = [position for _, position in single.inputs]
    return _Course(weakref.ref(model), tuple(zip(feed, positions, strict=True)), tuple(values))
