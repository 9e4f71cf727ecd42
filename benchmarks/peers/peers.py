# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The table of peers: what is installed for each, at which version, and which module runs it."""

from __future__ import annotations

from benchmarks.peers.peer import Peer

_NUMPY = "numpy==2.4.6"
_ONNX_RUNTIME = "onnxruntime==1.31.1"
_CLIENT = "tritonclient[grpc]==2.73.0"
# Of newer ones MLServer's workers die when they start: they have no event loop any more unless one is made.
_UVLOOP = "uvloop==0.21.0"
_MULTIPART = "python-multipart==0.0.20"
_GRPC = ("grpcio==1.85.1", "protobuf==6.33.6", _NUMPY)
_TRITON = ("nvidia-pytriton==0.7.0", _ONNX_RUNTIME)

# In the order in which they matter to the comparison.
_ALL = (
    Peer("flight", "flight", ("pyarrow==26.0.1", _NUMPY), "Arrow Flight, one long exchange, echo", floor=True),
    Peer("tcp", "plain_tcp", (_NUMPY,), "plain TCP in Python, echo", floor=True),
    Peer("triton", "triton", _TRITON, "Triton, Python backend, tritonclient"),
    Peer("kserve", "kserve_peer", ("kserve==0.21.0", _CLIENT, _ONNX_RUNTIME), "KServe, tritonclient"),
    Peer(
        "mlserver",
        "mlserver_peer",
        ("mlserver==1.7.1", _UVLOOP, _CLIENT, _ONNX_RUNTIME),
        "MLServer, tritonclient",
        large_calls=3,
    ),
    Peer("litserve", "litserve_peer", ("litserve==0.2.19", _MULTIPART, _ONNX_RUNTIME), "LitServe, multipart form"),
    Peer("bentoml", "bentoml_peer", ("bentoml==1.4.39", _ONNX_RUNTIME), "BentoML, its client (JSON)", large_calls=1),
    Peer("ray", "ray_peer", ("ray[serve]==2.60.0", _ONNX_RUNTIME), "Ray Serve, HTTP"),
    Peer("pytriton", "pytriton_peer", _TRITON, "PyTriton, tritonclient", home="triton"),
    Peer("grpc", "naive_grpc", _GRPC, "gRPC and protobuf, unary, echo", floor=True),
)
PEERS = {peer.name: peer for peer in _ALL}
