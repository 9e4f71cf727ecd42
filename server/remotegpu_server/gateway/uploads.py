# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What kind of model an uploaded file is: that goes by its first bytes, and the workers go by the name it gets here."""

from __future__ import annotations

import hashlib
from pathlib import Path

from remotegpu import errors, saved
from remotegpu_server import repository

# Of a file, what is looked at, bytes; and what ONNX models begin with (the IR version).
_HEAD = 64 * 1024
_ONNX = b"\x08"


def kind_of(path: Path) -> str:
    """What the file's name is to end with. Raises NotAllowed for what looks like a function: whatever else is there is
    taken for an ONNX model, and refused by the worker if it is none."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if saved.is_saved(head):
        return Path(repository.PROGRAM).suffix
    if b"def call(" in head and not head.startswith(_ONNX):
        why = f"functions are the operator's, who puts {repository.FUNCTION} into the model repository"
        raise errors.NotAllowed(what="an upload of a Python function", why=why)
    return Path(repository.FILE).suffix


def digest_of(path: Path) -> bytes:
    """The SHA-256 of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
