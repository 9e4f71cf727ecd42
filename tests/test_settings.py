# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What a person may ask for: the client's URL, the daemon's settings, its devices; and the daemon's command line as
real processes that refuse to start, each with one sentence and exit code 2."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from remotegpu import errors
from remotegpu.config import URL_VARIABLE, Endpoint, parse_url, url_from
from remotegpu_server import settings
from remotegpu_server.devices import nvml, selection
from remotegpu_server.supervisor.worker import DeviceSpec

# ---- the client's URL -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "host", "port", "target"),
    [
        ("grpc://127.0.0.1:1234", "127.0.0.1", 1234, "127.0.0.1:1234"),
        ("grpc://gpu.example", "gpu.example", 50051, "gpu.example:50051"),
        ("grpc://gpu.example/", "gpu.example", 50051, "gpu.example:50051"),
        ("grpc://[::1]:7", "::1", 7, "[::1]:7"),
        ("grpc://[fe80::2]", "fe80::2", 50051, "[fe80::2]:50051"),
        ("GRPC://Host:65535", "host", 65535, "host:65535"),
    ],
)
def test_a_url_is_host_and_port(url: str, host: str, port: int, target: str) -> None:
    endpoint = parse_url(url)
    assert endpoint == Endpoint(url, host, port)
    assert endpoint.target == target
    assert not endpoint.local


def test_local_stands_for_a_server_of_ones_own() -> None:
    assert parse_url("local:") == Endpoint("local:", "", 0)
    assert parse_url("local:").local


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "is not a server's address"),
        ("gpu.example:50051", "is not a server's address"),
        ("http://gpu.example:50051", "is not a server's address"),
        ("grpc://", "is not a server's address"),
        ("grpc://:50051", "is not a server's address"),
        ("grpc:gpu.example", "is not a server's address"),
        ("grpc://gpu.example/path", "is not a server's address"),
        ("grpc://gpu.example:0", "is not a server's address"),
        ("local:other", "is not a server's address"),
        ("grpcs://gpu.example/path", "is not a server's address"),
        ("grpc://gpu.example:70000", "Port out of range"),
        ("grpc://gpu.example:fifty", "Port could not be cast"),
        ("grpc://[::1", "Invalid IPv6 URL"),
    ],
)
def test_another_url_is_refused_with_the_forms_that_are_allowed(url: str, why: str) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        parse_url(url, "REMOTEGPU_URL")
    assert caught.value.setting == "REMOTEGPU_URL"
    assert why in caught.value.why
    assert repr(url) in caught.value.why
    assert "grpc://HOST:PORT, grpcs://HOST:PORT for one with TLS, or local:" in caught.value.why


def test_the_setting_is_called_url_if_nothing_else_is_said() -> None:
    with pytest.raises(errors.ConfigurationError, match="url: 'x' is not"):
        parse_url("x")


@given(st.text() | st.text(alphabet="grpcs:/[]0129.@#?%").map("grpc://".__add__))
def test_any_text_is_an_endpoint_or_refused(text: str) -> None:
    try:
        endpoint = parse_url(text)
    except errors.ConfigurationError:
        return
    assert endpoint.local or (endpoint.host and 0 < endpoint.port < 65536)


def test_the_url_comes_from_the_environment() -> None:
    assert url_from({URL_VARIABLE: "grpc://gpu.example"}) == "grpc://gpu.example"
    for environment in ({}, {URL_VARIABLE: ""}):
        with pytest.raises(errors.ConfigurationError, match="REMOTEGPU_URL: this environment variable is not set"):
            url_from(environment)


# ---- the daemon's settings --------------------------------------------------------------------------------


def test_defaults_serve_this_machine_only() -> None:
    assert settings.resolve({}, {}) == settings.Settings(
        host="127.0.0.1", port=50051, gpus=None, models=None, slots=8, arena_size=256 * 1024**2
    )


def test_an_argument_goes_before_the_environment_and_that_before_the_default(tmp_path: Path) -> None:
    environment = {
        "REMOTEGPU_SERVER_LISTEN": "[::1]:7",
        "REMOTEGPU_SERVER_GPUS": "cpu:2",
        "REMOTEGPU_SERVER_MODELS": str(tmp_path),
        "REMOTEGPU_SERVER_SLOTS": "3",
        "REMOTEGPU_SERVER_ARENA": "4MiB",
    }
    from_environment = settings.Settings("::1", 7, "cpu:2", tmp_path.resolve(), 3, 4 * 1024**2)
    assert settings.resolve({"listen": None, "insecure": False}, environment) == from_environment
    other = tmp_path / "other"
    other.mkdir()
    given = {"listen": "localhost:0", "gpus": "all", "models": f"{other}/.", "slots": "1", "arena": "1MiB"}
    assert settings.resolve(given, environment) == settings.Settings("localhost", 0, "all", other, 1, 1024**2)


def test_models_run_together_as_was_asked_for() -> None:
    made = settings.resolve({"max_batch": "4096", "max_delay": "2.5", "sessions": "64"}, {})
    assert (made.max_batch, made.max_delay, made.sessions) == (4096, 0.0025, 64)
    assert (settings.resolve({}, {}).max_batch, settings.resolve({}, {}).max_delay) == (32, 0.0)


def test_the_largest_values_are_allowed() -> None:
    made = settings.resolve({"listen": "127.0.0.1:65535", "slots": "1024"}, {})
    assert (made.port, made.slots) == (65535, 1024)


@pytest.mark.parametrize("text", ["127.0.0.1:0", "127.8.9.10:1", "localhost:1", "[::1]:1", "::1:1"])
def test_loopback_is_always_allowed(text: str) -> None:
    assert settings.resolve({"listen": text}, {}).port <= 1


@pytest.mark.parametrize("text", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "gpu.example:1"])
def test_other_addresses_need_to_be_called_insecure(text: str) -> None:
    for environment in ({}, {"REMOTEGPU_SERVER_INSECURE": "0"}):
        with pytest.raises(errors.ConfigurationError, match=r"can be reached from outside.*--insecure"):
            settings.resolve({"listen": text, "insecure": False}, environment)
    allowed = settings.resolve({"listen": text, "insecure": True}, {})
    assert allowed == settings.resolve({"listen": text}, {"REMOTEGPU_SERVER_INSECURE": "1"})
    assert allowed.port == 1


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("listen", "127.0.0.1", "is not HOST:PORT"),
        ("listen", ":1", "is not HOST:PORT"),
        ("listen", "[]:1", "is not HOST:PORT"),
        ("listen", "127.0.0.1:", "is not HOST:PORT"),
        ("listen", "127.0.0.1:65536", "is not HOST:PORT"),
        ("listen", "127.0.0.1:-1", "is not HOST:PORT"),
        ("listen", "127.0.0.1:²", "is not HOST:PORT"),
        ("models", "/nowhere/at/all", "/nowhere/at/all is not a folder"),
        ("slots", "0", "1 to 1024"),
        ("slots", "1025", "1 to 1024"),
        ("slots", "-1", "1 to 1024"),
        ("slots", "many", "not many"),
        ("slots", "³", "not ³"),
        ("arena", "1", "at least 1MiB"),
        ("arena", "1023KiB", "at least 1MiB"),
        ("arena", "1MB", "is not a size such as"),
        ("arena", "-1MiB", "is not a size such as"),
        ("arena", "1.5GiB", "is not a size such as"),
        ("max_batch", "0", "1 to 4096"),
        ("max_batch", "4097", "1 to 4096"),
        ("max_delay", "soon", "0 to 10000 milliseconds, not soon"),
        ("max_delay", "-1", "0 to 10000"),
        ("max_delay", "10001", "0 to 10000"),
        ("sessions", "0", "1 to 64"),
    ],
)
def test_what_cannot_be_is_refused_by_the_name_of_its_option(name: str, text: str, why: str) -> None:
    for arguments, environment in (({name: text}, {}), ({}, {f"REMOTEGPU_SERVER_{name.upper()}": text})):
        with pytest.raises(errors.ConfigurationError) as caught:
            settings.resolve(arguments, environment)
        assert caught.value.setting == f"--{name.replace('_', '-')}"
        assert why in caught.value.why


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1048576", 2**20), ("3KiB", 3 * 2**10), ("512MiB", 2**29), (" 4 GiB ", 2**32), ("2TiB", 2**41)],
)
def test_sizes_have_binary_units(text: str, size: int) -> None:
    assert settings.parse_size(text, "--arena") == size


@given(st.dictionaries(st.sampled_from(["listen", "slots", "arena"]), st.text(max_size=20)))
@example({"listen": "localhost:٣"})  # a decimal number, if not in our digits
def test_any_text_is_a_setting_or_refused(arguments: dict[str, str]) -> None:
    try:
        made = settings.resolve(arguments, {})
    except errors.ConfigurationError:
        return
    assert 0 <= made.port < 65536
    assert 1 <= made.slots <= 1024


# ---- devices ----------------------------------------------------------------------------------------------

GPUS = [nvml.Gpu(index, f"GPU {index}", f"GPU-uuid-{index}", 80 * 1024**3) for index in (0, 1, 3)]
Finder = Callable[[], Sequence[nvml.Gpu]]


def found(*indices: int) -> Finder:
    return lambda: [gpu for gpu in GPUS if gpu.index in indices]


def no_driver() -> Sequence[nvml.Gpu]:
    raise nvml.NoDriver("NVML Shared Library Not Found")


def not_asked() -> Sequence[nvml.Gpu]:
    raise AssertionError("the GPUs must not be asked for")


def cpus(count: int, memory: int) -> tuple[DeviceSpec, ...]:
    return tuple(DeviceSpec(index, "cpu", "CPU", f"CPU-{index}", memory) for index in range(count))


def gpus(*indices: int) -> tuple[DeviceSpec, ...]:
    """Devices count from 0 whatever the driver calls them."""
    chosen = {gpu.index: gpu for gpu in GPUS}
    return tuple(
        DeviceSpec(place, "cuda", chosen[index].name, chosen[index].uuid, chosen[index].memory)
        for place, index in enumerate(indices)
    )


@pytest.mark.parametrize(
    ("text", "find", "devices"),
    [
        (None, found(0, 1, 3), gpus(0, 1, 3)),
        ("all", found(0, 3), gpus(0, 3)),
        ("0", found(0, 1, 3), gpus(0)),
        ("3", found(0, 1, 3), gpus(3)),
        ("0,1", found(0, 1, 3), gpus(0, 1)),
        ("3,0", found(0, 1, 3), gpus(3, 0)),
        ("1,0,1,1,0", found(0, 1, 3), gpus(1, 0)),
        ("cpu", not_asked, cpus(1, 1200)),
        ("cpu:1", not_asked, cpus(1, 1200)),
        ("cpu:4", not_asked, cpus(4, 300)),
        ("cpu:64", not_asked, cpus(64, 18)),
    ],
)
def test_devices_are_what_was_asked_for(text: str | None, find: Finder, devices: tuple[DeviceSpec, ...]) -> None:
    assert selection.select(text, find, cpu_memory=1200) == selection.Selection(devices, remark="")


def test_without_gpus_the_cpu_serves_if_nothing_was_asked_for_and_that_is_said() -> None:
    chosen = selection.select(None, no_driver, 1200)
    assert chosen.devices == cpus(1, 1200)
    assert "NVML Shared Library Not Found" in chosen.remark
    assert "--gpus cpu" in chosen.remark
    assert selection.select(None, found(), 1200) == selection.Selection(cpus(1, 1200), "no GPU found: serving the CPU")


@pytest.mark.parametrize(
    ("text", "find", "setting", "why"),
    [
        ("0", no_driver, "--gpus 0", "no NVIDIA driver answers on this machine (NVML Shared Library Not Found)"),
        ("all", no_driver, "--gpus all", "serve the CPU with --gpus cpu"),
        ("all", found(), "--gpus all", "this machine has these GPUs: none; serve the CPU with --gpus cpu"),
        ("2", found(0, 1, 3), "--gpus 2", "has these GPUs: 0 (GPU 0), 1 (GPU 1), 3 (GPU 3); serve the CPU"),
        ("0,2", found(0), "--gpus 0,2", "has these GPUs: 0 (GPU 0); serve the CPU with --gpus cpu"),
        ("cpu:0", not_asked, "--gpus", "cpu:1 to cpu:64 are allowed, not cpu:0"),
        ("cpu:65", not_asked, "--gpus", "cpu:1 to cpu:64 are allowed, not cpu:65"),
    ]
    + [
        (text, not_asked, "--gpus", f'{text!r} is not one of "0", "0,1", "all", "cpu" or "cpu:4"')
        for text in (
            "",
            "gpu",
            "-1",
            "0,",
            ",0",
            "0 1",
            "0;1",
            "cpu:",
            "cpu:x",
            "cpu:-1",
            "cpu:1,2",
            "ALL",
            "0x1",
            "0\n",
        )
    ],
)
def test_devices_that_are_not_there_are_refused(text: str, find: Finder, setting: str, why: str) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        selection.select(text, find, 1200)
    assert caught.value.setting == setting
    assert why in caught.value.why


@pytest.mark.parametrize(
    ("devices", "missing", "why"),
    [
        (cpus(2, 1), {"onnxruntime"}, "ONNX Runtime is missing: pip install 'remotegpu[cpu]'"),
        (gpus(0), {"onnxruntime"}, "ONNX Runtime is missing: pip install 'remotegpu[cuda]'"),
        (gpus(0), {"cupy", "onnxruntime"}, "ONNX Runtime and CuPy is missing: pip install 'remotegpu[cuda]'"),
        (gpus(0), {"cupy"}, "CuPy is missing: pip install 'remotegpu[cuda]'"),
        (gpus(0), set(), None),
        (cpus(1, 1), {"cupy"}, None),
    ],
)
def test_a_start_without_the_packages_is_refused(
    devices: tuple[DeviceSpec, ...], missing: set[str], why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else object())
    if why is None:
        selection.check_packages(devices)
        return
    with pytest.raises(errors.ConfigurationError) as caught:
        selection.check_packages(devices)
    assert (caught.value.setting, caught.value.why) == ("installation", why)


# ---- the command line -------------------------------------------------------------------------------------

without_driver = pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a driver")


def refuse(*arguments: str) -> str:
    """Starts a server that must not come up; what it says about that."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REMOTEGPU_")}
    ended = subprocess.run(
        [sys.executable, "-m", "remotegpu_server", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, ""), ended.stderr
    return ended.stderr


def one_sentence(said: str) -> str:
    assert said.count("\n") == 1
    assert said.startswith("remotegpu-server: ")
    return said


@without_driver
def test_no_driver_is_found_without_one() -> None:
    with pytest.raises(nvml.NoDriver):
        nvml.gpus()


@without_driver
@pytest.mark.parametrize("devices", ["0", "all"])
def test_a_server_without_a_driver_says_what_to_do(devices: str) -> None:
    said = one_sentence(refuse("--gpus", devices))
    assert f"--gpus {devices}: no NVIDIA driver answers" in said
    assert "--gpus cpu" in said


def test_a_server_refuses_to_listen_to_the_world() -> None:
    assert "--listen: 0.0.0.0 can be reached from outside" in one_sentence(refuse("--listen", "0.0.0.0:0"))


def test_a_server_needs_its_models(tmp_path: Path) -> None:
    said = one_sentence(refuse("--gpus", "cpu", "--models", str(tmp_path / "none")))
    assert f"--models: {tmp_path / 'none'} is not a folder" in said


@pytest.mark.parametrize("option", ["--listen", "--inference", "--rest"])
def test_a_server_needs_its_ports(option: str) -> None:
    others: tuple[str, ...] = () if option == "--listen" else ("--listen", "127.0.0.1:0")
    others += ("--inference", "127.0.0.1:0") if option == "--rest" else ()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refuse("--gpus", "cpu", "--arena", "1MiB", *others, option, f"127.0.0.1:{port}")
    assert "Traceback" not in said
    assert f"remotegpu-server: {option}: 127.0.0.1:{port} cannot be had" in said.splitlines()[-1]  # after gRPC's own


def test_nonsense_on_the_command_line_is_refused_too() -> None:
    assert "--gpus: 'nonsense' is not one of" in one_sentence(refuse("--gpus", "nonsense"))
    assert "unrecognized arguments: --moon" in refuse("--moon")
