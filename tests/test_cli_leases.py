# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""`remotegpu alloc`, `renew`, `dealloc`, `explain` and `set` as commands: what they print and how they exit."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest

import remotegpu
from remotegpu import Client, errors
from remotegpu.cli import exit_code, leases, main
from remotegpu.local import LocalServer
from remotegpu.v1 import lease_pb2
from tests.conftest import StartServer, wait_until

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("REMOTEGPU_")}


@dataclass
class Ended:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str, **environment: str) -> Ended:
    """A command, in this process, since a new one for each takes long."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.dict(os.environ, CLEAN | environment, clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code: Any = main(arguments)
        except SystemExit as end:  # argparse's way
            code = end.code
    return Ended(code, out.getvalue(), err.getvalue())


def done(*arguments: str, code: int = 0, **environment: str) -> str:
    """The output of a command that exits with that code and complains of nothing."""
    ended = run(*arguments, **environment)
    assert (ended.returncode, ended.stderr) == (code, ""), ended
    return ended.stdout


def test_alloc_in_three_forms_and_all_options(server: LocalServer, client: Client) -> None:
    url = ("--url", server.url)
    times = ("--timeout", "0", "--ttl", "77.5", "--hard-ttl", "500")
    wishes = ("-g", "1", "--memory", "4MiB", "--priority", "5", "--model", "linear", "--exclusive")
    told = json.loads(done("alloc", *url, *wishes, *times, "--tenant", "team-a", "--json"))
    assert told["lease"].startswith(told["id"])
    assert (told["idle_ttl"], [device["name"] for device in told["devices"]]) == (77.5, ["CPU"])
    assert told["hard_ttl"] == 500
    assert int(told["fence"]) > 0
    (status,) = client.top().leases
    assert (status.lease, status.tenant, status.memory, status.priority) == (told["id"], "team-a", 4 * 2**20, 5)
    assert status.exclusive
    assert 60 < status.ttl_left_s <= 77.5
    assert done("dealloc", *url, told["id"]) == "deallocated\n"  # by what `top` shows, without the tenant

    text = done("alloc", *url, "--gpus", "2").splitlines()
    key = text[0].removeprefix("lease ")
    assert [line.split()[:3] for line in text[1:3]] == [["device", "0:", "CPU,"], ["device", "1:", "CPU,"]]
    assert "ttl 300 s" in text[3]
    lines = done("alloc", "--env", REMOTEGPU_URL=server.url).splitlines()
    assert lines[0].startswith("export REMOTEGPU_LEASE=")
    assert lines[1:] == [f"export REMOTEGPU_URL={server.url}", "export REMOTEGPU_TENANT=default"]
    for lease in (key, lines[0].partition("=")[2]):
        assert 299 < json.loads(done("renew", *url, lease, "--json"))["ttl_left"] <= 300
        assert done("renew", *url, lease).endswith(" s unless it is used\n")
        assert json.loads(done("dealloc", *url, lease, "--json")) == {"ended_now": True}
        assert done("dealloc", *url, lease) == "it had ended already\n"
        assert "deallocated" in run("renew", *url, lease).stderr
        assert run("renew", *url, lease).returncode == 2


def test_renewal_of_a_lease_with_a_hard_cap_says_what_ends_it(server: LocalServer) -> None:
    url = ("--url", server.url)
    text = done("alloc", *url, "--ttl", "100", "--hard-ttl", "50")
    assert "ttl 100 s from its last use, 50 s in all at most, fence" in text
    key = text.split()[1]
    told = json.loads(done("renew", *url, key, "--json"))
    assert told["ending"] == "hard_cap"
    assert 40 < told["ttl_left"] <= 50
    assert done("renew", *url, key).endswith(" s, used or not\n")
    done("dealloc", *url, key)
    key = done("alloc", *url, "--ttl", "50", "--hard-ttl", "100").split()[1]
    assert json.loads(done("renew", *url, key, "--json"))["ending"] == "idle"
    done("dealloc", *url, key)


@pytest.mark.parametrize(
    ("idle", "hard", "left", "found"),
    [
        (30_000, 0, 29_990, (29.99, "idle")),
        (30_000, 90_000, 30_000, (30.0, "idle")),
        (30_000, 90_000, 7000, (7.0, "hard_cap")),
        (30_000, 90_000, 60_000, (60.0, "hard_cap")),  # a call is under way, and stops the idle clock
        (30_000, 0, 0, (None, "")),
    ],
)
def test_time_left(idle: int, hard: int, left: int, found: tuple[float | None, str]) -> None:
    grant = lease_pb2.LeaseGrant(idle_ttl_ms=idle, hard_ttl_ms=hard, ttl_left_ms=left)
    assert leases.time_left(grant) == found


def test_short_name_cannot_be_renewed_and_the_error_says_so(server: LocalServer, client: Client) -> None:
    with client.alloc() as lease:
        ended = run("renew", "--url", server.url, lease.short_id)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert "the lease's whole key" in ended.stderr


@pytest.mark.parametrize(
    ("command", "kind", "fields"),
    [
        (["alloc", "-g", "3"], "Impossible", {"what": "gpus", "asked": 3, "limit": 2}),
        (["alloc", "--memory", "4 gigs"], "ConfigurationError", {"setting": "--memory"}),
        (["explain", "--priority", "10"], "InvalidInput", {"field": "priority"}),
        (["renew", "f" * 32], "LeaseUnknown", {"lease": "f" * 32}),
        (["dealloc", "ffffffff"], "LeaseUnknown", {}),
        (["set", "policy=guess"], "InvalidInput", {"field": "policy"}),
        (["top", "--tenant", "a b"], "ConfigurationError", {"setting": "--tenant"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_as_json(server: LocalServer, command: list[str], kind: str, fields: dict[str, Any]) -> None:
    ended = run(*command, "--url", server.url, "--json")
    told = json.loads(ended.stdout)
    assert (ended.returncode, told["error"]) == (2, kind)
    assert f"remotegpu: {told['message']}\n" == ended.stderr
    assert fields.items() <= told.items()


def test_busy_is_75_with_a_sentence_and_an_object(server: LocalServer, client: Client) -> None:
    url = ("--url", server.url)
    with client.alloc(gpus=2, exclusive=True):
        ended = run("alloc", *url, "--timeout", "0", "--json")
        assert (ended.returncode, ended.stderr[:16]) == (75, "remotegpu: busy:")
        told = json.loads(ended.stdout)
        assert (told["error"], told["place"], told["queue_length"]) == ("Busy", 1, 0)
        assert told["free"] == {"gpus": 0, "slots": 0, "memory": 0}
        assert told["retry_after"] > 0
        assert told["estimated_wait"] is None or told["estimated_wait"] > 0
        ended = run("alloc", *url, "--timeout", "0.2", "--env")
        assert (ended.returncode, ended.stdout) == (75, "")
        assert "busy after 0.2 s" in ended.stderr

        text = done("explain", *url, code=75).splitlines()
        assert text[0].startswith("busy: 0 waiting, yours would be place 1")
        assert [line.split()[:3] for line in text[1:]] == [["device", "0:", "CPU,"], ["device", "1:", "CPU,"]]
        assert json.loads(done("explain", *url, "--json", code=75))["verdict"] == "busy"
    wait_until(lambda: client.explain(gpus=2).verdict == "granted", "the devices are free")
    assert done("explain", *url, "-g", "2").splitlines()[0].startswith("would be granted now on devices ")
    assert [line[-4:] for line in done("explain", *url).splitlines()[1:]] == ["fits"] * 2
    assert not client.top().leases


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["alloc", "-g", "3"], "gpus 3 asked, at most 2"),
        (["alloc", "-g", "0"], "gpus"),
        (["alloc", "-g", "many"], "many"),
        (["alloc", "--memory", "4 gigs"], "--memory"),
        (["alloc", "--memory", "1TiB"], "impossible"),
        (["alloc", "--ttl", "0"], "idle_ttl"),
        (["alloc", "--priority", "10"], "priority"),
        (["alloc", "--json", "--env"], "not allowed with"),
        (["alloc", "--tenant", "a b"], "--tenant"),
        (["renew", "ffffffffffffffffffffffffffffffff"], "ffffffff"),
        (["dealloc", "ffffffff"], "ffffffff"),
        (["renew"], "lease"),
        (["set", "policy=guess"], "policy"),
        (["set", "slots"], "slots"),
        (["set", "slots=-1"], "slots"),
        (["set", "queue=9", "queue=8"], "twice"),
        (["set", "colour=red"], "colour"),
        (["explain", "--hard-ttl", "-1"], "hard_ttl"),
        (["explain", "--timeout", "3"], "--timeout"),
        (["nonsense"], "nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_impossible_or_wrong_is_2_and_says_what(
    server: LocalServer, arguments: Sequence[str], words: str
) -> None:
    ended = run(*arguments, "--url", server.url)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert words in ended.stderr


def test_explain_of_the_impossible(server: LocalServer) -> None:
    assert done("explain", "--url", server.url, "-g", "3", code=2).startswith("impossible: gpus 3")


def test_set_shows_and_changes(start_server: StartServer) -> None:
    url = ("--url", start_server("--slots", "4").url)
    before = done("set", *url)
    assert "slots=4\n" in before
    after = done("set", *url, "policy=least-loaded", "slots=2", "queue=100")
    assert after == "policy=least-loaded\nslots=2\nqueue=100\n"
    assert json.loads(done("set", *url, "--json")) == {"policy": "least-loaded", "slots": 2, "queue": 100}
    assert done("set", *url, *before.split()) == before


@pytest.mark.parametrize("command", [["alloc"], ["renew", "key"], ["dealloc", "key"], ["set"], ["explain"]])
def test_no_server_is_told_at_once_in_one_line(command: Sequence[str]) -> None:
    started = time.monotonic()
    ended = run(*command, "--url", "grpc://127.0.0.1:9")
    assert time.monotonic() - started < 4.0  # the library alone would try for 5
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    assert ended.stderr.startswith("remotegpu: nothing answered at 127.0.0.1:9")


def test_settings_of_the_environment(server: LocalServer) -> None:
    assert "REMOTEGPU_URL" in run("set").stderr
    ended = run("set", REMOTEGPU_URL="http://127.0.0.1")
    assert (ended.returncode, ended.stderr[:25]) == (2, "remotegpu: REMOTEGPU_URL:")
    ended = run("set", REMOTEGPU_URL=server.url, REMOTEGPU_TENANT="a b")
    assert (ended.returncode, ended.stderr[:28]) == (2, "remotegpu: REMOTEGPU_TENANT:")
    lines = done("alloc", "--env", "--ttl", "5", REMOTEGPU_URL=server.url, REMOTEGPU_TENANT="team-b").splitlines()
    assert lines[2] == "export REMOTEGPU_TENANT=team-b"
    lease = lines[0].partition("=")[2]
    done("dealloc", lease, REMOTEGPU_URL=server.url, REMOTEGPU_TENANT="team-b")
    ended = run("alloc", "--url", "local:")
    assert (ended.returncode, ended.stderr[:18]) == (2, "remotegpu: local::")


def test_interrupt_leaves_the_queue(server: LocalServer, client: Client) -> None:
    with client.alloc(gpus=2, exclusive=True):
        command = [sys.executable, "-m", "remotegpu.cli", "alloc", "--url", server.url]
        waiting = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: client.top().queue, "it waits")
        waiting.send_signal(signal.SIGINT)
        assert waiting.communicate(timeout=20) == ("", "")
        assert waiting.returncode == 130
        wait_until(lambda: not client.top().queue, "its place is free")


def test_interrupt_inside_a_process_leaves_the_queue_too(server: LocalServer, client: Client) -> None:
    script = (
        "import sys, remotegpu\n"
        "client = remotegpu.Client(sys.argv[1])\n"
        "try:\n"
        "    client.alloc(timeout=30)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', flush=True)\n"
        "    sys.stdin.read()\n"  # the process lives on, and so does its connection
    )
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with client.alloc(gpus=2, exclusive=True):
        waiting = subprocess.Popen([sys.executable, "-c", script, server.url], **pipes)
        wait_until(lambda: client.top().queue, "it waits")
        waiting.send_signal(signal.SIGINT)
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "interrupted\n"
        wait_until(lambda: not client.top().queue, "its place is free")
        waiting.communicate(timeout=20)
        assert waiting.returncode == 0


def test_help_and_bad_usage_load_no_library() -> None:
    script = (
        "import sys\n"
        "from remotegpu.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'grpc', 'numpy', 'google', 'rich', 'tenacity'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    for arguments in (["--help"], ["alloc", "-g", "x"], ["top", "--help"], ["alloc"]):
        ended = subprocess.run(
            [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False, env=CLEAN
        )
        assert ended.returncode == 0, ended.stderr


# What is printed.


def test_exports_are_quoted() -> None:
    text = leases.exports("key", "grpc://host:1/?a=b&c", "team-a")
    assert text.splitlines() == [
        "export REMOTEGPU_LEASE=key",
        "export REMOTEGPU_URL='grpc://host:1/?a=b&c'",
        "export REMOTEGPU_TENANT=team-a",
    ]


def test_refusal_by_a_quota_is_busy_too() -> None:
    quota = errors.QuotaExceeded(what="gpus", asked=2, used=3, limit=4, retry_after=1.5, queue_length=2, free_memory=7)
    told = leases.error_fields(quota)
    assert (told["error"], told["retry_after"], told["free"]["memory"]) == ("QuotaExceeded", 1.5, 7)
    assert (told["what"], told["used"], told["estimated_wait"]) == ("gpus", 3, None)
    assert told["message"] == str(quota)
    assert exit_code(quota) == 75


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.Impossible(what="gpus", asked=3, limit=2), 2),
        (errors.LeaseExpired(lease="key", why="idle"), 2),
        (errors.DeviceFailed(lease="key", device=0, why="gone"), 2),
        (errors.InvalidInput(field="gpus", limit="1", given="0"), 2),
        (errors.ConfigurationError(setting="--url", why="it is wrong"), 2),
        (errors.ConnectError(address="a", why="refused"), 1),
        (errors.ConnectionLost(address="a", why="reset"), 1),
        (errors.DeadlineExceeded(deadline=1.0), 1),
        (errors.Unavailable(why="draining"), 1),
        (errors.ProtocolError(what="noise"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_codes(error: errors.Error, code: int) -> None:
    assert exit_code(error) == code


def test_changes() -> None:
    assert leases.changes([]) == {}
    assert leases.changes(["queue=0", "policy=fair"]) == {"queue": 0, "policy": "fair"}
    for words in (["slots=٣"], ["slots=1.5"], ["slots="], ["=1"], ["slots 1"]):
        with pytest.raises(remotegpu.ConfigurationError):
            leases.changes(words)
