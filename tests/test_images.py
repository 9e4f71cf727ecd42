# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What is deployed beside the templates: health check, images, OSCAR, SCAR, and the function to replace by one's own.
There is no Docker here, so Dockerfiles are read, and what they start is run by itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import boto3
import pytest
import yaml
from moto import mock_aws

from examples.detections import compare
from remotegpu import Client
from remotegpu._version import __version__
from remotegpu.local import LocalServer
from tests.conftest import DIGITS, StartServer
from tests.fixtures.authority import Authority

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
DOCKERFILES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))
PICTURE = DIGITS / "pictures" / "note.jpg"
TRUTH = json.loads((DIGITS / "pictures" / "truth.json").read_text())[PICTURE.name]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("variables", [{}, {"REMOTEGPU_SERVER_LISTEN": "0.0.0.0:1"}], ids=["default", "nobody"])
def test_health_check_says_no_where_nobody_answers(variables: dict[str, str]) -> None:
    assert health({"REMOTEGPU_SERVER_LISTEN": "127.0.0.1:1", **variables}).returncode == 1


def test_health_check_says_yes_to_a_server(server: LocalServer) -> None:
    port = server.url.rpartition(":")[2]
    done = health({"REMOTEGPU_SERVER_LISTEN": f"0.0.0.0:{port}"})
    assert done.returncode == 0, done.stderr


def test_health_check_takes_the_servers_own_certificate(start_server: StartServer, tmp_path: Path) -> None:
    """A leaf, whose issuer the check does not know, for a name that it is told."""
    certificate, key = Authority(tmp_path).issue("gpu.example")
    server = start_server("--tls-cert", str(certificate), "--tls-key", str(key))
    variables = {
        "REMOTEGPU_SERVER_LISTEN": "0.0.0.0:" + server.url.rpartition(":")[2],
        "REMOTEGPU_SERVER_TLS_CERT": str(certificate),
    }
    done = health({**variables, "REMOTEGPU_SERVER_NAME": "localhost"})
    assert done.returncode == 0, done.stderr
    assert health({**variables, "REMOTEGPU_SERVER_NAME": "elsewhere.example"}).returncode == 1


def health(variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DEPLOY / "docker/health.py")]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


# --- Images ---


def instructions(path: Path) -> list[tuple[str, str]]:
    """Of a Dockerfile, with continued lines joined: name and arguments."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]  # type: ignore[misc]


def copied(path: Path) -> list[str]:
    """What a Dockerfile copies from the repository."""
    found = [arguments for name, arguments in instructions(path) if name == "COPY"]
    return [source for arguments in found if "--from" not in arguments for source in arguments.split()[:-1]]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_are_pinned_unprivileged_and_copy_what_is_there(path: Path) -> None:
    steps = instructions(path)
    named = [arguments.split()[0] for name, arguments in steps if name == "FROM"]
    assert all(re.fullmatch(r"[a-z/]+:[0-9][\w.-]+", image) for image in named), named
    last = len(steps) - 1 - [name for name, _ in steps[::-1]].index("FROM")
    final = dict(steps[last:])
    assert final["USER"].isdecimal()
    assert int(final["USER"]) > 0
    for name in ("HEALTHCHECK", "CMD"):
        command = final[name].partition("CMD ")[2] or final[name]
        assert isinstance(json.loads(command), list)
    context = (ROOT / ".dockerignore").read_text()
    for source in copied(path):
        assert (ROOT / source).exists(), source
        assert any(line[1:] and source.startswith(line[1:]) for line in context.split() if line[0] == "!"), source
    extras = re.findall(r"'\.\[([\w,]+)\]'", path.read_text())
    assert extras
    assert set(",".join(extras).split(",")) <= set(PROJECT["optional-dependencies"])


@pytest.mark.slow
def test_what_the_server_images_copy_is_enough_for_a_wheel(tmp_path: Path) -> None:
    for source in copied(DEPLOY / "docker/server-cpu.Dockerfile"):
        if not source.startswith("deploy/"):
            (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, tmp_path / source)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(tmp_path),
        str(tmp_path),
    ]
    subprocess.run(command, check=True)
    assert list(tmp_path.glob("remotegpu-*.whl"))


# --- OSCAR and SCAR ---


def test_functions_of_oscar_and_scar_have_what_these_read() -> None:
    (oscar,) = yaml.safe_load((DEPLOY / "oscar/detect.yaml").read_text())["functions"]["oscar"]
    (service,) = oscar.values()
    (scar,) = yaml.safe_load((DEPLOY / "scar/detect.yaml").read_text())["functions"]["aws"]
    function = scar["lambda"]
    assert service["image"] == function["container"]["image"]
    assert service["image"].endswith(f":{__version__}")
    assert (DEPLOY / "oscar" / service["script"]).samefile(DEPLOY / "scar" / function["init_script"])
    assert "REMOTEGPU_URL" in service["environment"]["variables"]
    assert "REMOTEGPU_TOKEN" in service["environment"]["secrets"]
    assert "REMOTEGPU_URL" in function["environment"]["Variables"]
    for made in (service, function):
        (source,), (target,) = made["input"], made["output"]
        assert source["path"] != target["path"]
        assert source["storage_provider"].partition(".")[0] in {"minio", "s3"}


def test_script_of_oscar_and_scar_finds_the_digits(server: LocalServer, tmp_path: Path) -> None:
    variables = {
        "PATH": f"{Path(sys.executable).parent}:{os.defpath}",
        "LAMBDA_TASK_ROOT": str(ROOT / "examples/lambda_handler"),
        "INPUT_FILE_PATH": str(PICTURE),
        "TMP_OUTPUT_DIR": str(tmp_path),
        "REMOTEGPU_URL": server.url,
    }
    done = subprocess.run([DEPLOY / "oscar/detect.sh"], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (written,) = tmp_path.iterdir()
    assert written.name == PICTURE.stem + ".json"
    outcome = compare(json.loads(written.read_text())["detections"], TRUTH)
    assert (outcome.missed, outcome.false) == (0, 0)


# --- The function of the SAM template ---


def test_function_of_the_template_works_under_a_lease_that_it_was_handed(
    server: LocalServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REMOTEGPU_URL", server.url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with mock_aws():
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="pictures-in")
        s3.put_object(Bucket="pictures-in", Key="a b.jpg", Body=PICTURE.read_bytes())
        from deploy.sam.functions import detect

        with detect.gpu, client.alloc() as lease:
            event = {
                "bucket": "pictures-in",
                "key": "a b.jpg",
                "version": None,
                "lease": lease.id,
                "deadline_ms": (time.time() + 20) * 1000,
            }
            found = detect.handler(event, None)
            lease.fetch(lease.xp.asarray([1.0]))  # still there: it is not the function's to end
    outcome = compare(found["detections"], TRUTH)
    assert (outcome.missed, outcome.false) == (0, 0)
