# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the scheduler does, shown with its own commands: `python -m examples.scheduling`.

Starts a server with two CPU devices, runs `remotegpu` as a shell would, prints each command with its answer, and ends
with exit code 1 if one of them answers anything else than it should.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import remotegpu
from remotegpu.local import LocalServer

TENANTS = '[tenants.small]\nleases = 1\n[tenants.vision]\nmemory = "1GiB"\nweight = 2.0\n'
GRANTED, BUSY, IMPOSSIBLE = 0, 75, 2


@dataclass
class Shell:
    """Runs commands and remembers which of them did not answer as they should."""

    url: str
    failures: int = 0

    def heading(self, text: str) -> None:
        """What comes next."""
        print(f"\n# {text}")

    def run(self, command: str, expected: int = GRANTED, *, lines: int = 6, **environment: str) -> str:
        """One command line of `remotegpu`; prints the first lines of its answer."""
        names = "".join(f"{name}={value} " for name, value in environment.items())
        print(f"$ {names}remotegpu {command}")
        done = subprocess.run(
            [sys.executable, "-m", "remotegpu.cli", *command.split()],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "REMOTEGPU_URL": self.url, **environment},
        )
        for line in (done.stdout + done.stderr).splitlines()[:lines]:
            print(f"  {line}")
        if done.returncode:
            print(f"  [exit code {done.returncode}]")
        self.check(done.returncode == expected, f"exit code {done.returncode}, where {expected} was expected")
        return done.stdout

    def check(self, holds: bool, what: str) -> None:
        """Notes and prints what does not hold."""
        if not holds:
            print(f"  FAILED: {what}")
            self.failures += 1

    def alloc(self, options: str, tenant: str = "default") -> str:
        """A lease's key."""
        facts: dict[str, Any] = json.loads(self.run(f"alloc {options} --json", REMOTEGPU_TENANT=tenant))
        return str(facts["lease"])


def requests(shell: Shell) -> None:
    """Granted, busy, impossible, explained."""
    shell.heading("alloc answers at once: granted (0), busy (75) with place and estimate, or impossible (2)")
    lease = shell.alloc("-g 2 --exclusive --timeout 0")
    shell.run("alloc --timeout 0", BUSY)
    shell.run("alloc -g 3 --timeout 0", IMPOSSIBLE)
    shell.heading("explain: would it fit, where, why not, without allocating")
    shell.run("explain -g 1 --memory 1MiB", BUSY)
    shell.heading("dealloc is idempotent")
    shell.run(f"dealloc {lease}")
    shell.run(f"dealloc {lease}")


def queue(shell: Shell, client: remotegpu.Client) -> None:
    """Waiting, in order, and giving up."""
    shell.heading("alloc waits in a fair queue and is woken by the server; a higher priority is served first")
    holder = client.alloc(gpus=2, exclusive=True)
    served: list[int] = []

    def take(priority: int) -> None:
        lease = client.alloc(gpus=2, exclusive=True, timeout=30, priority=priority)
        served.append(priority)
        lease.dealloc()

    threads = [threading.Thread(target=take, args=(priority,)) for priority in (0, 5)]
    for number, thread in enumerate(threads, 1):
        thread.start()
        while len(client.top().queue) < number and thread.is_alive():
            pass
    shell.run("top --once", lines=40)
    shell.check([waiter.priority for waiter in client.top().queue] == [5, 0], "priority 5 is first")
    holder.dealloc()
    for thread in threads:
        thread.join()
    shell.check(served == [5, 0] and not client.top().queue, f"served in the order {served}")


def leases(shell: Shell, client: remotegpu.Client) -> None:
    """Time to live, hard cap, handing over, fencing."""
    shell.heading("a lease belongs to no connection: the shell hands it to another process, use renews it")
    shell.run("alloc --env --ttl 60")
    lease = shell.alloc("--ttl 60 --hard-ttl 600")
    adopted = client.attach(lease)
    print(f"  another process: client.attach() computes {adopted.fetch(adopted.xp.sum(adopted.xp.ones(10)))}")
    print(f"  its fencing token: {adopted.fence}")
    shell.run(f"renew {lease}")
    shell.run(f"dealloc {lease[:8]}")
    shell.heading("it ends by its TTL without use, and by its hard cap with use; what is late is told why")
    for options in ("--ttl 0.5", "--ttl 60 --hard-ttl 0.5"):
        lease = shell.alloc(options)
        while any(facts.lease == lease[:8] for facts in client.top().leases):
            pass
        shell.run(f"renew {lease}", IMPOSSIBLE)
    for facts in client.top().leases:
        client.dealloc(facts.lease)


def sharing(shell: Shell, client: remotegpu.Client) -> None:
    """Declared memory is enforced, and wiped."""
    shell.heading("devices are shared by slots and declared memory, which is enforced")
    with client.alloc(memory=8 << 20) as lease:
        try:
            lease.fetch(lease.xp.sum(lease.xp.ones(2 << 20, dtype=lease.xp.float64)))
        except remotegpu.OutOfMemory as error:
            print(f"  {error}")
        else:
            shell.check(False, "16 MiB were made within 8 MiB")
    shell.heading("what a tenant left cannot be read by the next one")
    left, found = set(), set()
    for _ in range(2):  # round-robin: each of the two devices is left and found
        with client.alloc() as lease:
            lease.finish(lease.xp.asarray(np.full(100_000, 7.0)) + 0)
            left.add(lease.devices[0].uuid)
    for _ in range(2):
        with client.alloc() as lease:
            values = lease.finish(lease.xp.empty(100_000))
            found.add(lease.devices[0].uuid)
        print(f"  empty(100000) on {lease.devices[0].uuid}: between {values.min()} and {values.max()}")
        shell.check(not values.any(), "memory is wiped")
    shell.check(left == found, "the same devices were used")


def settings(shell: Shell) -> None:
    """Policies, slots, queue, quotas."""
    shell.heading("policies, slots and the queue's bound are changed while the server runs")
    shell.run("set")
    for policy in ("least-loaded", "best-fit", "sticky", "fair", "round-robin"):
        shell.run(f"set policy={policy}", lines=1)
    shell.run("set slots=2 queue=100")
    shell.run("set policy=fastest", IMPOSSIBLE)
    shell.heading("quotas per tenant: leases, GPUs, memory")
    lease = shell.alloc("--timeout 0", "small")
    shell.run("alloc --timeout 0", BUSY, REMOTEGPU_TENANT="small")
    shell.run("alloc --memory 2GiB", IMPOSSIBLE, REMOTEGPU_TENANT="vision")
    shell.run(f"dealloc {lease}", REMOTEGPU_TENANT="small")


def main() -> int:
    """The exit code."""
    with tempfile.TemporaryDirectory() as folder:
        tenants = Path(folder) / "tenants.toml"
        tenants.write_text(TENANTS)
        server = LocalServer(["--gpus", "cpu:2", "--slots", "4", "--tenants", str(tenants)])
    shell = Shell(server.url)
    try:
        with remotegpu.Client(server.url) as client:
            requests(shell)
            queue(shell, client)
            leases(shell, client)
            sharing(shell, client)
            settings(shell)
            shell.heading("top: devices with load, leases, queue, tenants")
            shell.run("top --once", lines=40)
            left = client.top()
            shell.check(not left.leases and not left.queue, "nothing is left")
    finally:
        server.stop()
    print(
        f"\n{shell.failures} of the commands answered otherwise than they should"
        if shell.failures
        else "\nall as it should be"
    )
    return 1 if shell.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
