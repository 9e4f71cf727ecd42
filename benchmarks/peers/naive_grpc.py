# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""gRPC with protobuf messages, as an ordinary Python service does it: a threaded server and unary calls. A floor."""

from __future__ import annotations

from concurrent import futures
from pathlib import Path
from typing import Any

from benchmarks.peers import caller

_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def serve(port: int, _models: Path) -> None:
    """Echoes the bytes of each message."""
    import grpc
    from google.protobuf import wrappers_pb2

    def echo(request: Any, _context: Any) -> Any:
        return wrappers_pb2.BytesValue(value=request.value)

    handler = grpc.unary_unary_rpc_method_handler(
        echo,
        request_deserializer=wrappers_pb2.BytesValue.FromString,
        response_serializer=wrappers_pb2.BytesValue.SerializeToString,
    )
    server = grpc.server(futures.ThreadPoolExecutor(8), options=_UNLIMITED)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("naive.Naive", {"Echo": handler}),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


class _Calls:
    def __init__(self, port: int) -> None:
        import grpc
        from google.protobuf import wrappers_pb2

        self._message = wrappers_pb2.BytesValue
        channel = grpc.insecure_channel(f"127.0.0.1:{port}", _UNLIMITED)
        self._call: Any = channel.unary_unary(
            "/naive.Naive/Echo",
            request_serializer=self._message.SerializeToString,
            response_deserializer=self._message.FromString,
        )

    def tiny(self, x: Any) -> Any:
        return self._echo(x)

    def large(self, x: Any) -> Any:
        return self._echo(x)

    def _echo(self, x: Any) -> Any:
        import numpy as np

        return np.frombuffer(self._call(self._message(value=x.tobytes())).value, np.float32)


if __name__ == "__main__":
    caller.run(serve, _Calls, has_models=False)
