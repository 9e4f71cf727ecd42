# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""How long an invocation still has: no call of a handler takes longer than its function may.

A function that runs over its timeout is killed with all that it had; a call that has a deadline of its own ends with an
error that the handler can still answer. So `lambda_handler` and `invocation` bind the time that is left, and every call
made meanwhile, also one in the background, ends before that.
"""

from __future__ import annotations

import functools
import inspect
import numbers
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeVar, cast, overload

from remotegpu import errors

P = ParamSpec("P")
T = TypeVar("T")

# What is left of an invocation for the handler's own answer. Seconds.
MARGIN = 0.5
# The server answers the passed deadline of a program itself, with a typed error; such a call waits this much longer.
# Seconds.
GRACE = 0.5
# How much longer than its invocation a lease may live, if nothing else was asked for: a handler that was killed gives
# nothing back. Seconds.
LEASE_GRACE = 5.0


class Context(Protocol):
    """What AWS Lambda gives a handler beside the event."""

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the function is killed."""


@dataclass(frozen=True, slots=True)
class Bound:
    """The present invocation, in seconds of `time.monotonic`: when its calls must be over, and when it is killed."""

    calls_end: float
    ends: float


_bound: ContextVar[Bound | None] = ContextVar("remotegpu_invocation", default=None)


def bound_of(remaining: float, margin: float, now: float, outer: Bound | None) -> Bound:
    """Of an invocation that has so many seconds left; inside of another one, it does not last longer. Pure."""
    made = Bound(now + remaining - margin, now + remaining)
    return made if outer is None else Bound(min(made.calls_end, outer.calls_end), min(made.ends, outer.ends))


def shares(timeout: float, grace: float, left: float) -> tuple[float, float]:
    """What a call gets of the seconds that are left: its timeout, and the grace for the server's own word that this has
    passed. Of too little time a tenth at most is grace. Pure."""
    if timeout + grace <= left:
        return timeout, grace
    grace = min(grace, left / 10)
    return min(timeout, left - grace), grace


def bounded(timeout: float, grace: float = 0.0) -> tuple[float, float]:
    """The timeout and the grace of a call, as long as the present invocation allows them; as given outside of any.
    Seconds. Raises DeadlineExceeded if nothing is left."""
    bound = _bound.get()
    if bound is None:
        return timeout, grace
    left = bound.calls_end - time.monotonic()
    if left <= 0:
        raise errors.DeadlineExceeded(deadline=0.0)
    return shares(timeout, grace, left)


def lease_limit() -> float | None:
    """The hard TTL of a lease for which none was given, in seconds: the rest of the present invocation, and a little
    more. None outside of any."""
    bound = _bound.get()
    return None if bound is None else max(bound.ends - time.monotonic(), 0.0) + LEASE_GRACE


@contextmanager
def invocation(context: Context, margin: float = MARGIN) -> Iterator[None]:
    """Binds the time that a Lambda function has left, read once from its handler's `context`: every call in the block
    ends `margin` seconds before that at the latest, whatever its timeout, and when nothing is left it raises
    DeadlineExceeded and sends nothing. A lease that is not given a `hard_ttl` ends 5 seconds after the invocation.

    Holds for this thread or task, and for what it submits to clients. Raises InvalidInput for a margin that is not a
    number of seconds."""
    is_number = isinstance(margin, numbers.Real) and not isinstance(margin, bool)
    if not is_number or not 0 <= margin < float("inf"):
        raise errors.InvalidInput(field="margin", limit="seconds, 0 or more", given=repr(margin))
    remaining = context.get_remaining_time_in_millis() / 1000
    token = _bound.set(bound_of(remaining, margin, time.monotonic(), _bound.get()))
    try:
        yield
    finally:
        _bound.reset(token)


@overload
def lambda_handler(function: Callable[P, T], /) -> Callable[P, T]: ...


@overload
def lambda_handler(*, margin: float = MARGIN) -> Callable[[Callable[P, T]], Callable[P, T]]: ...


def lambda_handler(function: Any = None, /, *, margin: float = MARGIN) -> Any:
    """Makes a Lambda handler `(event, context)`, an `async` one too, one whose calls end with its invocation: see
    `invocation`. Written `@lambda_handler`, or `@lambda_handler(margin=1.0)`."""
    if function is None:
        return functools.partial(_handler, margin=margin)
    return _handler(function, margin=margin)


def _handler(function: Callable[..., T], *, margin: float) -> Callable[..., T]:
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaited(event: Any, context: Context, *rest: Any) -> Any:
            with invocation(context, margin):
                return await function(event, context, *rest)

        return cast("Callable[..., T]", awaited)

    @functools.wraps(function)
    def handle(event: Any, context: Context, *rest: Any) -> T:
        with invocation(context, margin):
            return function(event, context, *rest)

    return handle
