# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Channels and streams of bytes on grpc.aio, for an event loop; errors and options are those of `remotegpu.channel`.

grpc.aio says of a call that this process ended, or whose channel it closed, that the caller's task was cancelled. Here
that becomes an error like any other, unless the task was cancelled indeed. And it forgets what the server said of a
call when something that was to be sent came too late for it; here that is kept.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import grpc
import grpc.aio

from remotegpu import errors
from remotegpu.channel import Ended, Silent, credentials, lasting, options, unproxied
from remotegpu.security import Security

# What grpc.aio puts over the status of a call when a message could not be sent.
_OVERWRITTEN = "Internal error from Core"
# How long the status itself may be waited for then. Seconds.
_STATUS_PATIENCE = 1.0


class Status(grpc.RpcError):
    """How a call has ended."""

    def __init__(self, code: grpc.StatusCode, details: str | None, metadata: Any = ()) -> None:
        super().__init__()
        self._status = code, details, metadata

    def code(self) -> grpc.StatusCode:
        return self._status[0]

    def details(self) -> str | None:
        return self._status[1]

    def trailing_metadata(self) -> Any:
        return self._status[2]


def cancelled() -> Status:
    """This process has ended the call. The code is the one that grpc has for it outside of event loops."""
    return Status(grpc.StatusCode.CANCELLED, "the call was cancelled here")


class _Outcome:
    """What the server said of a call, whatever grpc.aio puts over it."""

    def __init__(self, call: Any) -> None:
        self._said: asyncio.Future[Status] = asyncio.get_running_loop().create_future()
        call.add_done_callback(self._note)

    def _note(self, call: Any) -> None:
        """The status is set, for the first time or again."""
        status = Status(*(_at_once(part()) for part in (call.code, call.details, call.trailing_metadata)))
        if not self._said.done() and status.details() != _OVERWRITTEN:
            self._said.set_result(status)

    async def of(self, failure: Any) -> grpc.RpcError:
        """The failure, or the status that it stands over."""
        if failure.details() != _OVERWRITTEN:
            found: grpc.RpcError = failure
            return found
        await asyncio.wait([self._said], timeout=_STATUS_PATIENCE)
        return self._said.result() if self._said.done() else Ended()


def _at_once(answer: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that has nothing to wait for."""
    try:
        answer.send(None)
    except StopIteration as ended:
        return ended.value
    raise AssertionError("the call has ended, so its status is known")


def _is_cancelled() -> bool:
    """Whether somebody has cancelled the present task."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


# The process that uses grpc.aio. Its event loop and threads are not there in a forked child, in which any call of
# grpc.aio would wait forever.
_user = 0


def _claim(process: int) -> None:
    global _user
    _user = _user or process
    if _user != process:
        why = "this process was forked from one that had used it, and has no event loop of that one's: use Client here"
        raise errors.ConfigurationError(setting="AsyncClient", why=f"{why}, or start processes without fork")


class AsyncConnection:
    """A channel with its callables, which are costly to make again for each call."""

    def __init__(self, target: str, patience: float, security: Security) -> None:
        _claim(os.getpid())
        made = (*options(patience), *lasting(os.environ))
        if security.encrypted:
            self.channel = grpc.aio.secure_channel(target, credentials(security), options=made)
        else:
            self.channel = grpc.aio.insecure_channel(target, options=(*made, *unproxied(security)))
        # Calls under way: see `remotegpu.channel.Connection`.
        self.users = 0
        self._methods: dict[tuple[str, str], Any] = {}

    def method(self, kind: str, name: str) -> Any:
        """The callable of a method, by the kind of call: both sides of which are bytes."""
        found = self._methods.get((kind, name))
        if found is None:
            made = getattr(self.channel, kind)(f"/remotegpu.v1.{name}")
            found = self._methods[kind, name] = _Unary(made) if kind == "unary_unary" else _opening(made)
        return found

    async def close(self) -> None:
        """Ends the connection and the calls under way."""
        await self.channel.close(None)


def _opening(make: Callable[..., Any]) -> Callable[..., Any]:
    def opened(*args: Any, **kwargs: Any) -> Any:
        try:
            return make(*args, **kwargs)
        except grpc.aio.UsageError as error:
            raise ValueError("closed channel") from error

    return opened


class _Unary:
    """A callable whose calls are awaited."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = _opening(make)

    async def __call__(self, *args: Any, **kwargs: Any) -> bytes:
        call = self._make(*args, **kwargs)
        try:
            reply: bytes = await call
            return reply
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            raise cancelled() from None


class AsyncLongStream:
    """One long-lived stream. Implements `remotegpu._async.conversation.Stream`."""

    def __init__(self, call: Any, over: Callable[[Any], Awaitable[errors.Error]]) -> None:
        """`over` makes the error of a stream that has ended, from gRPC's."""
        self._call = call
        self._frames = aiter(call)
        self._outcome = _Outcome(call)
        self._over = over

    async def read(self) -> bytes:
        """The next frame. Raises errors of the tree."""
        try:
            frame: bytes = await anext(self._frames)
            return frame
        except StopAsyncIteration:
            self._call.cancel()
            failure: grpc.RpcError = Ended()
        except asyncio.CancelledError:
            self._call.cancel()
            if _is_cancelled():
                raise
            failure = cancelled()
        except grpc.RpcError as error:
            failure = await self._outcome.of(error)
        raise await self._over(failure)

    def cancel(self) -> None:
        """Ends the stream."""
        self._call.cancel()


class AsyncReplies:
    """The messages of a stream, each of which is waited for at most `silence` seconds."""

    def __init__(self, call: Any, silence: float) -> None:
        self._call = call
        self._messages = aiter(call)
        self._outcome = _Outcome(call)
        self._silence = None if silence == math.inf else silence

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            async with asyncio.timeout(self._silence):
                message: bytes = await anext(self._messages)
                return message
        except TimeoutError:
            self._call.cancel()
            assert self._silence is not None, "there was a limit"
            raise Silent(self._silence) from None
        except asyncio.CancelledError:
            self._call.cancel()
            if _is_cancelled():
                raise
            raise cancelled() from None
        except grpc.RpcError as error:
            raise await self._outcome.of(error) from None

    def cancel(self) -> None:
        """Ends the call."""
        self._call.cancel()
