# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""How long calls take, against floors of the same topology measured in the same run: `make bench`.

Each comparison runs in paired rounds (floor, ours, floor, ours, ...), and the ratio of the medians of each pair is
taken; the median of these ratios is what counts, since machines drift. Results go to `benchmarks/results/calls.json`.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import google.protobuf
import grpc
import numpy as np

from benchmarks import models
from benchmarks.floors import Raw, served
from remotegpu import Client, wire
from remotegpu._version import __version__
from remotegpu.local import LocalServer
from remotegpu.v1 import compute_pb2

RESULTS = Path(__file__).resolve().parent / "results"
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def median_seconds(work: Callable[[], object], calls: int) -> float:
    """The median of so many calls."""
    times = []
    for _ in range(calls):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def paired(floor: Callable[[], object], ours: Callable[[], object], calls: int, rounds: int) -> dict[str, float]:
    """Medians of both in milliseconds, and the median ratio ours / floor over the rounds."""
    median_seconds(floor, calls), median_seconds(ours, calls)
    pairs = [(median_seconds(floor, calls), median_seconds(ours, calls)) for _ in range(rounds)]
    return {
        "floor_ms": statistics.median(pair[0] for pair in pairs) * 1000,
        "ours_ms": statistics.median(pair[1] for pair in pairs) * 1000,
        "ratio": statistics.median(pair[1] / pair[0] for pair in pairs),
    }


def tiny_model(client: Client, floor: grpc.Channel) -> dict[str, float]:
    """One call of a 64x8 linear model, against an echo of as many bytes through an empty worker."""
    x = np.ones((1, 64), np.float32)
    model = client.model("linear")
    sent = client.statistics().bytes_sent
    model(x), model(x)
    message = bytes((client.statistics().bytes_sent - sent) // 2)
    echo: Any = floor.unary_unary("/floor.Floor/Hop")  # type: ignore[call-arg]
    return paired(lambda: echo(message), lambda: model(x), 500, 9)


def large_tensor(client: Client, floor: grpc.Channel) -> dict[str, float]:
    """16 MiB out and back, against a unary protobuf echo of the same array."""
    x = np.random.default_rng(0).integers(0, 255, 16 * 1024**2, dtype=np.uint8)
    echo: Any = floor.unary_unary(
        "/floor.Floor/Naive",
        request_serializer=compute_pb2.RunRequest.SerializeToString,
        response_deserializer=compute_pb2.RunReply.FromString,
    )

    def naive() -> None:
        reply = echo(compute_pb2.RunRequest(body=x.tobytes()))
        assert np.frombuffer(reply.body, np.uint8).shape == x.shape

    def ours() -> None:
        with client.lease() as lease:
            assert lease.finish(lease.xp.asarray(x, copy=False)).shape == x.shape

    return paired(naive, ours, 7, 7)


def yolo(client: Client, raw: Raw, repository: Path, threads: int) -> dict[str, dict[str, float]]:
    """A YOLOv3-tiny-shaped network on one 416x416 picture, against ONNX Runtime in this process: alone, with the same
    bytes there and back over plain gRPC beside it, and with a picture of bytes that is made real numbers by the side
    that runs the network."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(repository / "yolov3_tiny" / "1" / "model.onnx", options)
    images = np.random.default_rng(0).random((1, 3, 416, 416), dtype=np.float32)
    picture = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    model = client.model("yolov3_tiny")
    answer = sum(output.nbytes for output in session.run(None, {"images": images}))

    def local(images: Any) -> Any:
        return session.run(None, {"images": images})

    def local_and_wire() -> None:
        local(images)
        raw.exchange(wire.bytes_of(images), answer)

    def program() -> Any:
        with client.lease() as lease:
            image = lease.xp.asarray(picture, copy=False)
            outputs = lease.model("yolov3_tiny")(lease.xp.astype(image, lease.xp.float32) / 255)
            return lease.finish(outputs["large"], outputs["small"])

    for found, wanted in zip(program(), local(picture.astype(np.float32) / 255), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)
    return {
        "yolov3_tiny": paired(lambda: local(images), lambda: model(images), 5, 7),
        "yolov3_tiny_wire": paired(local_and_wire, lambda: model(images), 5, 7),
        "yolov3_tiny_uint8": paired(lambda: local(picture.astype(np.float32) / 255), program, 5, 7),
    }


def import_time() -> dict[str, float]:
    """CPU milliseconds of `import remotegpu` above a bare interpreter, the least of 15."""

    def cpu(code: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    bare = min(cpu("pass") for _ in range(15))
    ours = min(cpu("import remotegpu") for _ in range(15))
    return {"floor_ms": bare * 1000, "ours_ms": ours * 1000, "ratio": ours / bare}


def write_models(root: Path) -> None:
    """A repository with the two models."""
    for name, content in (("linear", models.linear()), ("yolov3_tiny", models.yolov3_tiny())):
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / "model.onnx").write_bytes(content)


def environment(gpus: str) -> dict[str, str]:
    """What the figures depend on."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "",
    )
    return {
        "remotegpu": __version__,
        "devices": gpus,
        "cpu": f"{len(os.sched_getaffinity(0))} x {cpu}",
        "python": platform.python_version(),
        "grpcio": grpc.__version__,
        "protobuf": google.protobuf.__version__,
        "numpy": np.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


ROWS = {
    "tiny_model": ("64x8 linear model, one call / echo through an empty worker", "<= 1.3"),
    "large_tensor": ("16 MiB out and back / naive protobuf echo", "<= 0.5"),
    "yolov3_tiny": ("YOLOv3-tiny-shaped model / ONNX Runtime in this process", ""),
    "yolov3_tiny_wire": ("the same / that and its bytes there and back over raw gRPC", ""),
    "yolov3_tiny_uint8": ("from a picture of uint8, in one program / NumPy and ONNX Runtime", ""),
    "import": ("import remotegpu, CPU time / bare interpreter", "+ 25 ms"),
}


def main() -> None:
    """Runs all and writes the results."""
    gpus = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder))
        server = LocalServer(["--gpus", gpus, "--models", folder])
        with (
            Client(server.url) as client,
            served() as port,
            grpc.insecure_channel(f"127.0.0.1:{port}", _UNLIMITED) as floor,
            closing(Raw(port)) as raw,
        ):
            client.models()
            results = {
                "import": import_time(),
                "tiny_model": tiny_model(client, floor),
                "large_tensor": large_tensor(client, floor),
                **yolo(client, raw, Path(folder), len(os.sched_getaffinity(0))),
            }
        server.stop()
    print(f"{'what / floor':64} {'floor ms':>9} {'ours ms':>9} {'ratio':>6}  aim")
    for name, (title, aim) in ROWS.items():
        row = results[name]
        print(f"{title:64} {row['floor_ms']:9.3f} {row['ours_ms']:9.3f} {row['ratio']:6.2f}  {aim}")
    RESULTS.mkdir(exist_ok=True)
    suffix = "" if gpus.startswith("cpu") else "-gpu"
    written = {"environment": environment(gpus), "results": results}
    (RESULTS / f"calls{suffix}.json").write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
