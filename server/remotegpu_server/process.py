# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What Linux says and does for a process: parent-death signal, dumpable flag, memory limit."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4


def _prctl(option: int, argument: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}, {argument}): {os.strerror(number)}")


def die_with_parent(parent: int) -> None:
    """Asks the kernel to kill this process when `parent` dies (prctl(2), PR_SET_PDEATHSIG), and exits at once if it
    has died already. The signal is tied to the parent's thread that started this process, so that must be its main
    thread."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def forbid_dumps() -> None:
    """No core dumps and no tracing by other processes of the same user: this process holds the data of its tenants."""
    _prctl(_PR_SET_DUMPABLE, 0)


def allow_many_connections() -> None:
    """Raises the limit of open descriptors as far as this user may: each connection takes one, and shells start
    programs with 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def usable_memory() -> int:
    """Bytes of memory that this machine or container has, from the cgroup's limit (v2 or v1) and the machine's."""
    return min(_memory_limits())


def _memory_limits() -> Iterator[int]:
    yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(FileNotFoundError):
            text = Path(path).read_text().strip()
            if text != "max":
                yield int(text)
