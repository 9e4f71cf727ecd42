# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Importing costs next to nothing, as every cold start of a function pays for it; and the names are all there."""

import ast
import os
import subprocess
import sys

import pytest

import remotegpu

# What `import remotegpu` may take, in seconds of CPU beyond a bare interpreter, and how often it is measured: the
# least of several is what it costs, the rest is what else the machine did.
IMPORT_BUDGET = 0.025
RUNS = 10
HEAVY = (
    "numpy",
    "grpc",
    "google",
    "tenacity",
    "cupy",
    "onnxruntime",
    "boto3",
    "asyncio",
    "PIL",
    "array_api_compat",
    "aiohttp",
    "lz4",
    "zstandard",
)


def modules(script: str) -> set[str]:
    """The modules that are loaded in a fresh interpreter after the script."""
    code = f"{script}\nimport sys\nprint(sorted(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50)
    return set(ast.literal_eval(ended.stdout))


def packages(script: str) -> set[str]:
    return {name.partition(".")[0] for name in modules(script)}


def cpu_seconds(script: str) -> float:
    """The least CPU time of an interpreter that runs the script."""

    def once() -> float:
        process = os.posix_spawn(sys.executable, [sys.executable, "-c", script], os.environ)
        _, status, usage = os.wait4(process, 0)
        assert status == 0
        return usage.ru_utime + usage.ru_stime

    return min(once() for _ in range(RUNS))


def test_importing_the_package_loads_two_modules_of_its_own_and_typing() -> None:
    bare = modules("import __future__, typing")
    assert modules("import remotegpu") - bare == {"remotegpu", "remotegpu._version"}
    assert not bare & set(HEAVY)


def test_importing_the_package_costs_little() -> None:
    cost = cpu_seconds("import remotegpu") - cpu_seconds("pass")
    assert cost <= IMPORT_BUDGET, f"{cost * 1000:.1f} ms"


def test_errors_can_be_caught_without_loading_what_raises_them() -> None:
    assert not packages("import remotegpu; remotegpu.Busy; remotegpu.ConnectError") & set(HEAVY)


def test_every_public_name_can_be_had() -> None:
    for name in remotegpu.__all__:
        assert getattr(remotegpu, name) is not None
    assert remotegpu.Busy.__module__ == "remotegpu.errors"


def test_public_names_are_those_of_the_table_in_order() -> None:
    assert set(remotegpu._MODULES) | {"__version__"} == set(remotegpu.__all__)
    assert len(remotegpu.__all__) == len(set(remotegpu.__all__))
    assert dir(remotegpu) == sorted(remotegpu.__all__)


def test_every_error_class_that_a_caller_may_meet_is_public() -> None:
    from remotegpu import errors

    assert {name for name, module in remotegpu._MODULES.items() if module == "errors"} == set(errors.BY_NAME) - {
        "UnknownRemoteError"  # of another version: caught as Error
    }


def test_a_star_import_brings_the_public_names() -> None:
    script = "import sys\nfrom remotegpu import *\nsys.exit(not (Client.__name__ == 'Client' and __version__))"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=50)


def test_a_name_is_looked_up_once() -> None:
    code = "import remotegpu\nremotegpu.Busy\nprint('Busy' in vars(remotegpu), 'Impossible' in vars(remotegpu))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50)
    assert ended.stdout == "True False\n"


@pytest.mark.parametrize("name", ["nonsense", "_hidden", "Exception", ""])
def test_an_unknown_name_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'remotegpu' has no attribute '{name}'"):
        getattr(remotegpu, name)


def test_a_client_loads_what_proves_an_iam_role_only_when_it_is_to() -> None:
    loaded = modules("import remotegpu.client, remotegpu.security, remotegpu.identity")
    assert not {name for name in loaded if name.startswith(("remotegpu.aws", "http.client", "urllib.request"))}


def test_the_command_line_of_the_server_loads_no_library() -> None:
    """`--help` and a refusal are quick, and a missing extra is told and not tripped over."""
    assert not packages("import remotegpu_server.cli") & set(HEAVY)


def test_the_daemon_never_touches_a_device() -> None:
    loaded = modules("import remotegpu_server.daemon")
    assert "remotegpu_server.gateway.service" in loaded
    assert not {name.partition(".")[0] for name in loaded} & {"cupy", "onnxruntime", "PIL", "array_api_compat"}
    assert not {name.partition(".")[0] for name in loaded} & {"jwt", "cryptography"}, "not without --identity"
    assert not any(name.startswith("remotegpu_server.backends") for name in loaded)
