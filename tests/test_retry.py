# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Retries: only connections that could not be made, and only for so long. Waits start at 0.05 seconds."""

import functools
import gc
import subprocess
import sys
import time
import weakref
from collections.abc import Callable

import pytest

from remotegpu import errors
from remotegpu.retry import until_connected


class Attempts:
    """Fails with a numbered error until it has been called so often."""

    def __init__(self, failures: float, make: Callable[[int], Exception] | None = None) -> None:
        self.failures = failures
        self.calls = 0
        self._make = make or refused

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise self._make(self.calls)
        return f"answer {self.calls}"


def refused(number: int) -> Exception:
    return errors.ConnectError(address="127.0.0.1:1", why=f"refused {number}")


def test_success_is_not_repeated_and_does_not_load_tenacity() -> None:
    script = (
        "import sys\n"
        "from remotegpu.retry import until_connected\n"
        "assert until_connected(lambda: 'done', 10.0) == 'done'\n"
        "assert 'tenacity' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)
    attempts = Attempts(0)
    assert (until_connected(attempts, 10.0), attempts.calls) == ("answer 1", 1)


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_it_is_tried_again_until_it_works(failures: int) -> None:
    attempts = Attempts(failures)
    assert until_connected(attempts, 10.0) == f"answer {failures + 1}"
    assert attempts.calls == failures + 1


def test_it_gives_up_after_its_patience_with_the_last_error() -> None:
    attempts, start = Attempts(float("inf")), time.monotonic()
    with pytest.raises(errors.ConnectError) as caught:
        until_connected(attempts, 0.3)
    assert time.monotonic() - start < 5.0
    assert attempts.calls >= 2
    assert caught.value.why == f"refused {attempts.calls}"


@pytest.mark.parametrize("patience", [0.0, -1.0])
def test_without_patience_it_is_tried_once(patience: float) -> None:
    attempts = Attempts(1)
    with pytest.raises(errors.ConnectError, match="refused 1"):
        until_connected(attempts, patience)
    assert attempts.calls == 1


@pytest.mark.parametrize(
    "error",
    [
        errors.ConnectionLost(address="127.0.0.1:1", why="reset"),
        errors.Unavailable(why="draining"),
        errors.Busy(retry_after=0.1, queue_length=1),
        KeyError("ours"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_another_error_is_not_tried_again(error: Exception) -> None:
    first = Attempts(1, lambda _: error)
    with pytest.raises(type(error)) as caught:
        until_connected(first, 10.0)
    assert (caught.value, first.calls) == (error, 1)
    later = Attempts(2, lambda number: refused(1) if number == 1 else error)
    with pytest.raises(type(error)):
        until_connected(later, 10.0)
    assert later.calls == 2


def lost(number: int) -> Exception:
    return errors.ConnectionLost(address="127.0.0.1:1", why=f"reset {number}")


def test_idempotent_call_is_sent_again_when_its_connection_broke() -> None:
    attempts = Attempts(3, lambda number: refused(number) if number == 2 else lost(number))
    assert until_connected(attempts, 10.0, idempotent=True) == "answer 4"
    assert attempts.calls == 4


def test_idempotent_call_with_another_error_is_not_sent_again() -> None:
    attempts = Attempts(1, lambda _: errors.Unavailable(why="draining"))
    with pytest.raises(errors.Unavailable):
        until_connected(attempts, 10.0, idempotent=True)
    assert attempts.calls == 1


def test_patience_is_for_times_without_a_connection() -> None:
    """A call that waited long before its connection broke is tried again all the same; one that breaks at once, over
    and over, is not tried for longer than without a connection."""

    def slowly(number: int) -> Exception:
        time.sleep(0.3)  # the call's own time
        return lost(number)

    attempts = Attempts(2, slowly)
    assert until_connected(attempts, 0.25, idempotent=True) == "answer 3"
    endless, start = Attempts(float("inf"), lost), time.monotonic()
    with pytest.raises(errors.ConnectionLost):
        until_connected(endless, 0.25, idempotent=True)
    assert 2 <= endless.calls < 20
    assert time.monotonic() - start < 5.0


def test_timeout_is_for_everything_together() -> None:
    def slowly(number: int) -> Exception:
        time.sleep(0.2)  # the call's own time
        return lost(number)

    attempts = Attempts(float("inf"), slowly)
    with pytest.raises(errors.ConnectionLost):
        until_connected(attempts, 10.0, idempotent=True, timeout=0.5)
    assert 2 <= attempts.calls <= 3


def test_attempt_that_was_sent_is_not_forgotten() -> None:
    """The last attempts could not connect; the first may have run all the same."""
    attempts = Attempts(float("inf"), lambda number: lost(1) if number == 1 else refused(number))
    with pytest.raises(errors.ConnectionLost) as caught:
        until_connected(attempts, 0.3, idempotent=True)
    assert attempts.calls >= 2
    assert "reset 1" in caught.value.why
    assert f"refused {attempts.calls}" in caught.value.why
    assert caught.value.address == "127.0.0.1:1"
    other = Attempts(2, lambda number: lost(1) if number == 1 else errors.Unavailable(why="draining"))
    with pytest.raises(errors.Unavailable):
        until_connected(other, 10.0, idempotent=True)


def test_error_after_retries_holds_nothing_of_them() -> None:
    """Only the garbage collector, which may come late, would free what an error in a circle holds."""

    class Held:
        pass

    held = Held()
    gone = weakref.ref(held)

    def attempt(holding: Held) -> str:
        raise refused(1)

    gc.disable()
    try:
        with pytest.raises(errors.ConnectError):
            until_connected(functools.partial(attempt, held), 0.2)
        del held
        assert gone() is None
    finally:
        gc.enable()
