# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Exits 0 if the server of this machine or container answers SERVING, by grpc.health.v1, and 1 otherwise.

It reads what the server reads: REMOTEGPU_SERVER_LISTEN (its port) and, with TLS, REMOTEGPU_SERVER_TLS_CERT, which is
taken as it is; REMOTEGPU_SERVER_NAME is a name that the certificate bears. No credentials are asked for health.
"""

import os
import sys
from pathlib import Path

import grpc

port = os.environ.get("REMOTEGPU_SERVER_LISTEN", "127.0.0.1:50051").rpartition(":")[2]
target = f"127.0.0.1:{port}"
if certificate := os.environ.get("REMOTEGPU_SERVER_TLS_CERT"):
    name = os.environ.get("REMOTEGPU_SERVER_NAME", "localhost")
    credentials = grpc.ssl_channel_credentials(Path(certificate).read_bytes())
    channel = grpc.secure_channel(target, credentials, [("grpc.ssl_target_name_override", name)])
else:
    channel = grpc.insecure_channel(target)
try:
    answer = channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=3)  # type: ignore[call-arg]
except grpc.RpcError as error:
    sys.exit(f"no health: {error.code().name} {error.details()}")
sys.exit(0 if answer == b"\x08\x01" else f"not serving: {answer!r}")  # HealthCheckResponse(status=SERVING)
