# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Generates `src/remotegpu/v1` from `protos/`, with the extra `[generate]` installed.

    python protos/generate.py           write
    python protos/generate.py --check   write nothing; exit 1 if the checked-in code is not what would be written

The generator is pinned to the oldest supported one: code of a newer protoc refuses to load on an older protobuf
runtime, while code of this one loads on protobuf 5.29 and every later release so far.
"""

from __future__ import annotations

import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "src" / "remotegpu" / "v1"
INIT = '"""Generated from protos/ by protos/generate.py. Do not edit."""\n'


def generate(into: Path) -> list[Path]:
    """Writes `remotegpu/v1/*` below `into` and returns the files."""
    sources = sorted(str(path.relative_to(ROOT / "protos")) for path in (ROOT / "protos").rglob("*.proto"))
    plugin = Path(sys.executable).with_name("protoc-gen-mypy")
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--plugin=protoc-gen-mypy={plugin}"]
    command += ["-I", str(ROOT / "protos"), f"--python_out={into}", f"--mypy_out=quiet:{into}"]
    subprocess.run([*command, *sources], check=True)
    package = into / "remotegpu" / "v1"
    (package / "__init__.py").write_text(INIT)
    return sorted(package.iterdir())


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    check = arguments == ["--check"]
    with tempfile.TemporaryDirectory() as folder:
        fresh = generate(Path(folder))
        names = {path.name for path in fresh}
        present = {path.name for path in TARGET.iterdir() if path.suffix in {".py", ".pyi"}}
        stale = sorted(
            path.name
            for path in fresh
            if path.name not in present or not filecmp.cmp(path, TARGET / path.name, shallow=False)
        )
        if check:
            wrong = stale + sorted(present - names)
            print(f"generated code differs from protos/: {', '.join(wrong)}" if wrong else "generated code is current")
            return 1 if wrong else 0
        for path in fresh:
            (TARGET / path.name).write_bytes(path.read_bytes())
        for name in present - names:
            (TARGET / name).unlink()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
