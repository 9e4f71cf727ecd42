# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Where the commands print: the answer to standard output, what is wrong to standard error, however these are."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from remotegpu import errors

SETTING = "standard output"


def write(text: str) -> bool:
    """Prints lines of an answer; False if nobody reads them any more, as in `remotegpu top | head -1`, which is no
    error. Raises ConfigurationError if they cannot be printed."""
    stream = sys.stdout
    if stream is None:  # `>&-`
        raise errors.ConfigurationError(setting=SETTING, why="it is closed")
    try:
        encoding = stream.encoding or "utf-8"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
    except BrokenPipeError:
        _abandon(stream)
        return False
    except OSError as error:
        _abandon(stream)
        raise errors.ConfigurationError(setting=SETTING, why=error.strerror or str(error)) from None
    return True


def complain(text: str) -> None:
    """Prints one line to standard error, if there is one: who has closed it wants to hear nothing."""
    if sys.stderr is None:
        return
    try:
        print(f"remotegpu: {text}", file=sys.stderr, flush=True)
    except OSError:
        _abandon(sys.stderr)


def _abandon(stream: TextIO) -> None:
    """What is left in the stream's buffer is written when the interpreter ends, and must not fail again then."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
