# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of what commands have found. The client's only file that imports matplotlib."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from remotegpu import errors

_SETTING = "--plot"
_DOTS = 120


def check(file: Path, endings: Sequence[str] = (".png",)) -> None:
    """Raises ConfigurationError if the picture could not be drawn or written, before the work is done for nothing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise errors.ConfigurationError(setting=_SETTING, why="matplotlib is missing: pip install 'remotegpu[plot]'")
    if file.suffix not in endings:
        raise errors.ConfigurationError(setting=_SETTING, why=f"{file} does not end in {' or '.join(endings)}")
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise errors.ConfigurationError(setting=_SETTING, why=f"{file} cannot be written")


def figure(width: float, height: float) -> Any:
    """An empty matplotlib Figure; sizes in inches."""
    # Of the class and not of pyplot, which would ask for a screen.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def write(drawn: Any, file: Path) -> None:
    """Writes a Figure in the format of the file's ending. Raises ConfigurationError if it cannot be."""
    try:
        drawn.savefig(file, dpi=_DOTS)
    except OSError as error:
        raise errors.ConfigurationError(setting=_SETTING, why=f"{file}: {error.strerror or error}") from error
