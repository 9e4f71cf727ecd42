# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The commands in scripts of a shell: what is handed on, and what happens when it cannot be printed."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from remotegpu import Client
from remotegpu.local import LocalServer
from tests.conftest import wait_until
from tests.test_cli_leases import CLEAN, Ended

COMMAND = f"{shlex.quote(sys.executable)} -m remotegpu.cli"


def shell(script: str, *, program: str = "sh", **environment: str) -> Ended:
    """A script in which `remotegpu` is the command."""
    found = subprocess.run(
        [program, "-ec", f'remotegpu() {{ {COMMAND} "$@"; }}\n{script}'],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        env=CLEAN | environment,
    )
    return Ended(found.returncode, found.stdout, found.stderr)


def readme_lines(start: str, end: str) -> str:
    """The lines of the README from one to another."""
    text = (Path(__file__).resolve().parent.parent / "README.md").read_text()
    return text[text.index(start) : text.index(end)]


@pytest.mark.parametrize("program", ["sh", "bash"])
def test_lease_of_a_shell_is_handed_to_another_process(server: LocalServer, client: Client, program: str) -> None:
    """As the README has it, for a tenant that the environment does not name."""
    granted = readme_lines("granted=$(remotegpu alloc", "python job.py").replace(
        "--ttl 300", "--ttl 20 --tenant team-a"
    )
    assert "--ttl 20" in granted
    script = (
        f"{granted}"
        f"{shlex.quote(sys.executable)} -c '\n"
        "import remotegpu\n"
        "with remotegpu.Client.from_env() as gpu, gpu.attach() as lease:\n"
        "    print(len(lease.devices), lease.fetch(lease.xp.sum(lease.xp.ones((3,)))))'\n"
        'remotegpu dealloc "$REMOTEGPU_LEASE"\n'
    )
    ended = shell(script, program=program, REMOTEGPU_URL=server.url)
    assert ended == Ended(0, "2 3.0\ndeallocated\n", "")
    wait_until(lambda: not client.top().leases, "it has ended")


@pytest.mark.parametrize("program", ["sh", "bash"])
def test_script_ends_where_no_lease_is_granted(server: LocalServer, program: str) -> None:
    granted = readme_lines("granted=$(remotegpu alloc", "python job.py").replace("-g 2", "-g 3")
    ended = shell(f"{granted}\necho it goes on", program=program, REMOTEGPU_URL=server.url)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("remotegpu: impossible: gpus 3")
    # Nor without -e.
    assert shell(f"set +e\n{granted}\necho it goes on", program=program, REMOTEGPU_URL=server.url).stdout == ""


def test_lease_of_the_default_tenant_is_used_under_another_one(server: LocalServer) -> None:
    script = (
        "granted=$(remotegpu alloc --env --tenant default)\n"
        'eval "$granted"\n'
        'remotegpu renew "$REMOTEGPU_LEASE"\n'
        'remotegpu dealloc "$REMOTEGPU_LEASE"\n'
    )
    ended = shell(script, REMOTEGPU_URL=server.url, REMOTEGPU_TENANT="team-b")
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("redirected", "words"),
    [("> /dev/full", "No space left on device"), (">&-", "it is closed"), ("| true", "nobody reads it")],
)
@pytest.mark.parametrize("form", ["", "--json", "--env"])
def test_lease_that_cannot_be_printed_is_given_back(
    server: LocalServer, client: Client, redirected: str, words: str, form: str
) -> None:
    given_back = client.top().counters.deallocated
    # The pipe's reader must be gone before the lease is granted.
    script = f"set -o pipefail; {{ sleep 0.3; remotegpu alloc {form}; }} {redirected}"
    ended = shell(script, program="bash", REMOTEGPU_URL=server.url)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"remotegpu: standard output: {words}, so the lease ")
    assert ended.stderr.endswith(" was given back\n")
    assert ended.stderr.count("\n") == 1
    assert client.top().counters.deallocated == given_back + 1
    assert not client.top().leases


@pytest.mark.parametrize(
    "command", ["explain --json", "explain", "set", "dealloc 00000000 --json", "top", "top --json"]
)
def test_output_that_cannot_be_written_is_told_in_one_line(server: LocalServer, command: str) -> None:
    code = 2 if command.startswith("dealloc") else 0
    for redirected in ("> /dev/full", ">&-", "<&- > /dev/full"):
        ended = shell(f"remotegpu {command} {redirected}", REMOTEGPU_URL=server.url)
        assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1), ended
        assert ended.stderr.startswith("remotegpu: ")
    # Who reads no further misses nothing, and who hears no complaints gets none elsewhere.
    ended = shell(
        f"set -o pipefail; {{ sleep 0.3; remotegpu {command}; }} | true", program="bash", REMOTEGPU_URL=server.url
    )
    assert ended.returncode == code
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    ended = shell(f"remotegpu {command} > /dev/null 2>&- <&-", REMOTEGPU_URL=server.url)
    assert ended == Ended(code, "", "")
