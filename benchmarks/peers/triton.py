# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Triton Inference Server from the nvidia-pytriton wheel, whose only backend is Python's, with ONNX Runtime in it."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

from benchmarks.peers import caller
from benchmarks.peers.oip_client import TritonCalls

_CONFIG = """backend: "python"
input [{{ name: "x", data_type: TYPE_FP32, dims: [-1, {inputs}] }}]
output [{{ name: "y", data_type: TYPE_FP32, dims: [-1, {outputs}] }}]
instance_group [{{ kind: KIND_CPU, count: 1 }}]
parameters {{ key: "FILE", value: {{ string_value: "{file}" }} }}
"""
_MODEL = """
import json
import numpy as np
import onnxruntime
import triton_python_backend_utils as backend

class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.session = onnxruntime.InferenceSession(parameters["FILE"]["string_value"])

    def execute(self, requests):
        responses = []
        for request in requests:
            x = backend.get_input_tensor_by_name(request, "x").as_numpy()
            y = self.session.run(None, {"x": x})[0]
            responses.append(backend.InferenceResponse([backend.Tensor("y", y)]))
        return responses
"""


def write_repository(models: Path, repository: Path) -> None:
    """Both models as Triton wants them."""
    sizes = {"linear": (caller.TINY[1], caller.OUTPUTS), "identity": (caller.LARGE[1], caller.LARGE[1])}
    for name, (inputs, outputs) in sizes.items():
        file = models / name / "1" / "model.onnx"
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text(_CONFIG.format(inputs=inputs, outputs=outputs, file=file))
        (repository / name / "1" / "model.py").write_text(_MODEL)


def serve(port: int, models: Path) -> None:
    """Becomes tritonserver."""
    import pytriton

    wheel = Path(pytriton.__file__).parent / "tritonserver"
    folder = Path(tempfile.mkdtemp(prefix="triton-"))
    write_repository(models, folder / "models")
    # The wheel keeps the stub of each Python elsewhere; the backend looks for it beside itself.
    shutil.copytree(wheel / "backends", folder / "backends")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(wheel / "python_backend_stubs" / version / "triton_python_backend_stub", folder / "backends" / "python")
    libraries = [str(wheel.parents[1] / "nvidia_pytriton.libs"), str(sysconfig.get_config_var("LIBDIR"))]
    packages = [path for path in sys.path if path.endswith("site-packages")]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "PYTHONPATH": os.pathsep.join(packages),
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
    }
    server = str(wheel / "bin" / "tritonserver")
    arguments = [
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={folder / 'backends'}",
        f"--grpc-port={port}",
        "--allow-http=false",
        "--allow-metrics=false",
    ]
    os.execve(server, [server, *arguments], environment)


if __name__ == "__main__":
    caller.run(serve, TritonCalls)
