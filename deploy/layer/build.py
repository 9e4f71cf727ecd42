# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Builds the client as a layer of AWS Lambda: `make layer`, or `python -m deploy.layer.build cp313-x86_64`.

A layer is a zip with a folder `python/`, which Lambda unpacks into /opt and puts on sys.path. Everything in it is a
wheel made for the function's machine (the C extensions of grpcio and NumPy are), so nothing is compiled here, and any
machine with pip can build every layer. The same inputs give the same bytes.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "build" / "layer"
# Of the managed runtimes, which all stand on glibc 2.34.
VERSIONS = ("3.12", "3.13", "3.14")
# Lambda's name of a machine, and pip's.
MACHINES = {"x86_64": "x86_64", "arm64": "aarch64"}
# Bytes, unpacked. Lambda allows 250 MB for a function with all its layers; this leaves the function the larger part.
LIMIT = 75_000_000
# What no program reads at run time. NumPy's f2py and the static libraries beside its headers are for building only.
_UNUSED_FOLDERS = frozenset({"tests", "f2py", "include", "_pyinstaller", "__pycache__", "bin"})
_UNUSED_SUFFIXES = frozenset({".pyi", ".pxd", ".pyx", ".h", ".c", ".a", ".lib"})
_UNUSED_FILES = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"})  # of pip: no longer true, or never
_TEST_EXTENSION = re.compile(r"_(simd|\w+_tests)\.cpython-.*\.so")  # NumPy's own tests import them, and nothing else
# The wheel holds both sides; a function has no use for the server.
_SERVER = "remotegpu_server"
# zip has no earlier time.
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Target:
    """One layer: a minor version of Python such as "3.13", and a machine as Lambda names it."""

    python: str
    machine: str

    @property
    def name(self) -> str:
        """As `parse` takes it."""
        return f"cp{self.python.replace('.', '')}-{self.machine}"

    @property
    def archive(self) -> str:
        """The file's name."""
        return f"remotegpu-{self.name}.zip"


@dataclass(frozen=True, slots=True)
class Built:
    """A layer that was made. Sizes in bytes; `compiled` says whether it holds the byte code of its modules."""

    path: Path
    unpacked: int
    packed: int
    compiled: bool


class LayerError(Exception):
    """A layer cannot be built as asked, or is too large."""


def parse(name: str) -> Target:
    """The target of a name such as "cp313-x86_64". Raises LayerError."""
    match = re.fullmatch(r"cp3(\d+)-(\w+)", name)
    if match is None or match[2] not in MACHINES:
        raise LayerError(f"{name!r} is not a layer: write cp313-x86_64 or cp313-arm64")
    return Target(f"3.{match[1]}", match[2])


def build_wheel(folder: Path) -> Path:
    """The wheel of this tree."""
    _pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    (wheel,) = folder.glob("remotegpu-*.whl")
    return wheel


def build(target: Target, wheel: Path, output: Path, *, limit: int = LIMIT) -> Built:
    """Makes one layer of the client's wheel and what it needs, in the folder `output`. Raises LayerError, also if it
    has more than `limit` bytes unpacked."""
    with tempfile.TemporaryDirectory(prefix="remotegpu-layer-") as scratch:
        root = Path(scratch) / "python"
        _install(target, wheel, root)
        _strip(root)
        compiled = _compile(target, root)
        unpacked = sum(path.stat().st_size for path in _files(root))
        if unpacked > limit:
            raise LayerError(f"{target.name} has {unpacked:,} bytes unpacked, over the limit of {limit:,}: strip more")
        output.mkdir(parents=True, exist_ok=True)
        path = output / target.archive
        _pack(root, path)
    return Built(path, unpacked, path.stat().st_size, compiled)


def _pip(*arguments: str) -> None:
    # What the building interpreter has installed has no part in a layer, so pip's opinions of it go to a pipe.
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise LayerError(f"pip {arguments[0]} failed:\n{done.stdout}")


def _install(target: Target, wheel: Path, root: Path) -> None:
    machine = MACHINES[target.machine]
    # Newest first. pip reads each as itself only, not as "this or older".
    platforms = [f"--platform=manylinux_2_28_{machine}", f"--platform=manylinux2014_{machine}"]
    made_for = [*platforms, "--only-binary=:all:", "--implementation=cp", f"--python-version={target.python}"]
    with tempfile.TemporaryDirectory(prefix="remotegpu-wheels-") as folder:
        # In two steps: `install` alone would take only releases that the building interpreter could run too, old ones.
        _pip("download", f"--dest={folder}", *made_for, str(wheel))
        wheels = sorted(str(path) for path in Path(folder).glob("*.whl"))
        options = ["--no-compile", "--no-deps", "--ignore-requires-python", f"--target={root}"]
        _pip("install", *options, *made_for, *wheels)


def _strip(root: Path) -> None:
    for path in sorted(root.rglob("*")):
        if path.is_dir() and (path.name in _UNUSED_FOLDERS or path.name == _SERVER):
            shutil.rmtree(path)
        elif path.is_file() and _is_unused(path):
            path.unlink()


def _is_unused(path: Path) -> bool:
    if path.parent.suffix == ".dist-info":
        return path.name in _UNUSED_FILES  # METADATA, entry points and licences stay
    return path.suffix in _UNUSED_SUFFIXES or _TEST_EXTENSION.fullmatch(path.name) is not None


def _compile(target: Target, root: Path) -> bool:
    """Adds byte code, if this machine has the interpreter for it: byte code belongs to a minor version, not a machine.

    Lambda cannot write beside the layer, so without it each cold start compiles what it imports (160 ms of CPU time).
    The hash in these files is never compared with the source, which cannot change either.
    """
    interpreter = _interpreter(target.python)
    if interpreter is None:
        return False
    # The paths that tracebacks show are those in Lambda, whatever this folder is called. A fixed hash seed, since the
    # order of a set is written into the byte code.
    options = ["-q", "--invalidation-mode=unchecked-hash", "-s", str(root.parent), "-p", "/opt"]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    subprocess.run([interpreter, "-m", "compileall", *options, str(root)], check=True, env=environment)
    return True


def _interpreter(version: str) -> str | None:
    """The path of an interpreter of this minor version, or None."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    found = shutil.which(f"python{version}")
    if found is None:
        return None
    # Asked, and not believed: a version manager has commands for versions that it does not run.
    question = [found, "-c", "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"]
    answer = subprocess.run(question, capture_output=True, text=True, check=False).stdout.split(maxsplit=1)
    return answer[1].strip() if answer[:1] == [version] else None


def _files(root: Path) -> Iterator[Path]:
    yield from (path for path in sorted(root.rglob("*")) if path.is_file())


def _pack(root: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for path in _files(root):
            entry = zipfile.ZipInfo(path.relative_to(root.parent).as_posix(), _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, so that the next line is read as permissions
            # The function runs as another user than the builder, so all may read.
            entry.external_attr = 0o755 << 16 if path.suffix == ".so" or ".so." in path.name else 0o644 << 16
            packed.writestr(entry, path.read_bytes())


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds the layers named, or all. Exit codes: 0 built, 1 one could not be built."""
    every = [Target(python, machine).name for python in VERSIONS for machine in MACHINES]
    parser = argparse.ArgumentParser(prog="python -m deploy.layer.build", description="builds layers of AWS Lambda")
    parser.add_argument("layers", nargs="*", metavar="LAYER", help=f"such as {every[0]} (default: {' '.join(every)})")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="default: build/layer")
    options = parser.parse_args(arguments)
    try:
        targets = [parse(name) for name in options.layers or every]
        with tempfile.TemporaryDirectory(prefix="remotegpu-wheel-") as folder:
            wheel = build_wheel(Path(folder))
            for target in targets:
                _report(build(target, wheel, options.output))
    except LayerError as error:
        print(f"layer: {error}", file=sys.stderr)
        return 1
    return 0


def _report(built: Built) -> None:
    remark = "" if built.compiled else "  WITHOUT byte code: no such Python here, so cold starts compile"
    sizes = f"{built.unpacked / 1e6:5.1f} MB, {built.packed / 1e6:4.1f} MB packed"
    print(f"{built.path.name:32} {sizes}{remark}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
