# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The local Lambda bench itself: handlers of a few lines under the real runtime client."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from examples.lambda_handler.runtime_api import (
    LOG_LIMIT,
    PAYLOAD_LIMIT,
    FunctionError,
    FunctionTimeout,
    LambdaFunction,
    PayloadTooLarge,
)

MakeFunction = Callable[..., LambdaFunction]

ECHO = "def handler(event, context):\n    return event\n"


@pytest.fixture
def function_from(tmp_path: Path) -> Iterator[MakeFunction]:
    """Makes a function from its source; checks at the end that no thread of it is left."""
    before = set(threading.enumerate())

    def make(source: str, **options: object) -> LambdaFunction:
        (tmp_path / "app.py").write_text(source)
        return LambdaFunction("app.handler", task_root=tmp_path, **options)  # type: ignore[arg-type]

    yield make
    assert set(threading.enumerate()) <= before


def wait_until(condition: Callable[[], bool], timeout: float = 5.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.002)


def is_running(pid: int) -> bool:
    """Whether the process exists and is not dead. An orphan stays a zombie where no init process reaps it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_result_makes_the_round_trip(function_from: MakeFunction) -> None:
    event = {"key": ["é", 1.5, None, True], "nested": {"empty": {}}}
    with function_from(ECHO) as function:
        assert function.invoke(event) == event
        assert function.invoke(7) == 7


def test_environment_is_kept_between_invocations(function_from: MakeFunction) -> None:
    counting = "calls = []\ndef handler(event, context):\n    calls.append(event)\n    return len(calls)\n"
    with function_from(counting) as function:
        pid = function.pid
        assert [function.invoke({}) for _ in range(3)] == [1, 2, 3]
        assert function.pid == pid


def test_handler_sees_the_context_of_the_service(function_from: MakeFunction) -> None:
    source = """
def handler(event, context):
    return [context.function_name, context.memory_limit_in_mb, context.invoked_function_arn, context.aws_request_id,
            context.get_remaining_time_in_millis()]
"""
    with function_from(source, timeout=4, memory=1024) as function:
        first, second = function.invoke({}), function.invoke({})
    assert isinstance(first, list)
    assert isinstance(second, list)
    assert first[:3] == ["app", "1024", "arn:aws:lambda:us-east-1:123456789012:function:app"]
    assert first[3] != second[3]
    assert 3000 < first[4] <= 4000


def test_large_bodies_are_not_held_up(function_from: MakeFunction) -> None:
    """The traps of a local server: 40 ms for a delayed acknowledgement, 1 s for an unanswered Expect header."""
    with function_from(ECHO) as function:
        function.invoke({})
        large = "x" * (PAYLOAD_LIMIT - 2)  # the quotes make up the rest
        start = time.monotonic()
        assert function.invoke(large) == large
        assert time.monotonic() - start < 0.7

        def shortest() -> float:
            start = time.monotonic()
            function.invoke({})
            return time.monotonic() - start

        assert min(shortest() for _ in range(10)) < 0.03


def test_handler_exception_keeps_the_environment(function_from: MakeFunction) -> None:
    source = "def handler(event, context):\n    return {}[event]\n"
    with function_from(source) as function:
        pid = function.pid
        with pytest.raises(FunctionError) as caught:
            function.invoke("absent")
        assert caught.value.error_type == "KeyError"
        assert caught.value.error_message == "'absent'"
        assert 'app.py", line 2, in handler' in caught.value.stack_trace[0]
        assert caught.value.exit_code is None
        assert function.pid == pid
        assert is_running(pid)


@pytest.mark.parametrize(
    ("source", "error_type", "message"),
    [
        ("import no_such_module\n", "Runtime.ImportModuleError", "No module named 'no_such_module'"),
        ("def other(event, context): ...\n", "Runtime.HandlerNotFound", "Handler 'handler' missing on module 'app'"),
        ("raise OSError('no licence')\n", "OSError", "no licence"),
    ],
)
def test_init_error_is_raised_by_each_invocation(
    function_from: MakeFunction, source: str, error_type: str, message: str
) -> None:
    with function_from(source) as function:
        for _ in range(2):
            with pytest.raises(FunctionError, match=message) as caught:
                function.invoke({})
            assert caught.value.error_type == error_type


@pytest.mark.parametrize(("statement", "code"), [("os._exit(3)", 3), ("os.kill(os.getpid(), 9)", -9)])
@pytest.mark.parametrize("indent", ["", "    "], ids=["init", "invocation"])
def test_exit_of_the_runtime_carries_code_and_log(
    function_from: MakeFunction, statement: str, code: int, indent: str
) -> None:
    source = f"import os\ndef handler(event, context):\n    pass\n{indent}print('last words')\n{indent}{statement}\n"
    with function_from(source) as function:
        with pytest.raises(FunctionError, match="exited with code") as caught:
            function.invoke({})
        assert caught.value.exit_code == code
        assert caught.value.log == "last words\n"
        with pytest.raises(RuntimeError, match="no running environment"):
            _ = function.pid
        with pytest.raises(FunctionError, match="exited with code"):  # of a new process
            function.invoke({})
        assert function.log == "last words\nlast words\n"


def test_timeout_destroys_the_environment_and_the_next_invocation_recovers(function_from: MakeFunction) -> None:
    source = """
import time
calls = []
def handler(event, context):
    calls.append(event)
    time.sleep(event)
    return len(calls)
"""
    with function_from(source, timeout=0.5) as function:
        assert function.invoke(0) == 1
        pid = function.pid
        with pytest.raises(FunctionTimeout, match=r"invocation timed out after 0\.50 seconds"):
            function.invoke(60)
        assert not is_running(pid)
        with pytest.raises(RuntimeError, match=r"app\.handler has no running environment"):
            _ = function.pid
        assert function.invoke(0) == 1  # a new process: the module's state is gone


def test_init_phase_has_its_own_limit(function_from: MakeFunction, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("examples.lambda_handler.runtime_api.INIT_TIMEOUT", 0.3)
    with (
        function_from("import time\ntime.sleep(60)\n") as function,
        pytest.raises(FunctionTimeout, match=r"init phase timed out after 0\.30 seconds"),
    ):
        function.invoke({})


def test_over_size_response_destroys_the_environment(function_from: MakeFunction) -> None:
    with function_from("def handler(event, context):\n    return 'x' * event\n") as function:
        pid = function.pid
        with pytest.raises(PayloadTooLarge, match=f"the response has {PAYLOAD_LIMIT + 1} bytes"):
            function.invoke(PAYLOAD_LIMIT - 1)
        assert not is_running(pid)
        assert function.invoke(PAYLOAD_LIMIT - 2) == "x" * (PAYLOAD_LIMIT - 2)


def test_over_size_event_is_refused_before_the_function_sees_it(function_from: MakeFunction) -> None:
    with function_from(ECHO) as function:
        pid = function.pid
        with pytest.raises(PayloadTooLarge, match="the event has"):
            function.invoke("x" * PAYLOAD_LIMIT)
        assert function.invoke({}) == {}
        assert function.pid == pid


def test_no_thread_ticks_while_frozen(function_from: MakeFunction, tmp_path: Path) -> None:
    source = """
import threading, time
def tick():
    with open("ticks", "ab", buffering=0) as ticks:
        while True:
            ticks.write(b".")
            time.sleep(0.001)
threading.Thread(target=tick, daemon=True).start()
def handler(event, context):
    return event
"""

    def ticks() -> int:
        return (tmp_path / "ticks").stat().st_size

    with function_from(source) as function:
        function.invoke({})
        running = ticks()
        wait_until(lambda: ticks() > running + 10)
        function.freeze()
        frozen = ticks()
        time.sleep(0.2)  # the time in which a running thread would tick
        assert ticks() == frozen
        function.thaw()
        wait_until(lambda: ticks() > frozen)
        function.freeze()
        assert function.invoke("thawed by the service") == "thawed by the service"


def test_environment_is_that_of_the_service_and_nothing_of_the_parent(
    function_from: MakeFunction, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("A_VARIABLE_OF_THE_PARENT", "leaked")
    source = "import os\ndef handler(event, context):\n    return dict(os.environ)\n"
    with function_from(source, environment={"GIVEN": "yes", "AWS_REGION": "eu-south-2"}, memory=256) as function:
        environment = function.invoke({})
    assert isinstance(environment, dict)
    assert environment["GIVEN"] == "yes"
    assert environment["AWS_REGION"] == "eu-south-2"
    assert environment["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "256"
    assert environment["LAMBDA_TASK_ROOT"] == str(tmp_path)
    assert environment["_HANDLER"] == "app.handler"
    set_by_python = {"LC_CTYPE"}
    assert set(environment) - set_by_python == {
        *("AWS_LAMBDA_RUNTIME_API", "_HANDLER", "LAMBDA_TASK_ROOT", "_X_AMZN_TRACE_ID", "GIVEN"),
        *("AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_VERSION", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE"),
        *("AWS_LAMBDA_INITIALIZATION_TYPE", "AWS_EXECUTION_ENV", "AWS_REGION", "LANG", "TZ", "PATH"),
    }


def test_log_is_complete_when_the_result_is_there_and_bounded(function_from: MakeFunction) -> None:
    source = "import sys\ndef handler(event, context):\n    print(event)\n    print('warned', file=sys.stderr)\n"
    with function_from(source) as function:
        function.invoke("printed")
        assert function.log == "printed\nwarned\n"
        function.invoke("x" * LOG_LIMIT)
        assert len(function.log) == LOG_LIMIT
    assert function.log.endswith("x\nwarned\n")


def test_no_process_is_left_after_exit(function_from: MakeFunction) -> None:
    source = """
import os, subprocess
child = subprocess.Popen(["sleep", "60"])
def handler(event, context):
    return [os.getpid(), child.pid]
"""
    with function_from(source) as function:
        pids = function.invoke({})
        assert isinstance(pids, list)
        assert pids[0] == function.pid
        assert all(is_running(pid) for pid in pids)
        function.freeze()  # a stopped process ignores every signal but SIGKILL
    with pytest.raises(ProcessLookupError):  # reaped, not even a zombie
        os.kill(pids[0], 0)
    wait_until(lambda: not is_running(pids[1]))


def test_missing_task_root_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no_such_folder"):
        LambdaFunction("app.handler", task_root=tmp_path / "no_such_folder").__enter__()


SNAPPED = """
import os, snapshot_restore_py
order = ["init"]
snapshot_restore_py.register_before_snapshot(order.append, "before")
snapshot_restore_py.register_after_restore(order.append, "after")
def handler(event, context):
    return [os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"], *order]
"""


@pytest.mark.parametrize("frozen", [False, True])
def test_snapshot_is_taken_after_the_hooks_and_restored_by_the_first_invocation(
    function_from: MakeFunction, frozen: bool
) -> None:
    with function_from(SNAPPED, snap_start=True) as function:
        if frozen:
            function.freeze()
        assert function.invoke({}) == ["snap-start", "init", "before", "after"]
        function.freeze()
        assert function.invoke({}) == ["snap-start", "init", "before", "after"]


@pytest.mark.parametrize("hook", ["before_snapshot", "after_restore"])
def test_hook_that_fails_is_the_functions_error(function_from: MakeFunction, hook: str) -> None:
    source = f"import snapshot_restore_py\nsnapshot_restore_py.register_{hook}(int, 'x')\nhandler = print\n"
    with function_from(source, snap_start=True) as function, pytest.raises(FunctionError, match="invalid literal"):
        function.invoke({})
