# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Run array programs and ONNX models on a shared remote GPU: one program, one round trip.

Importing this package loads neither grpc nor numpy; the first use of a name does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from remotegpu._version import __version__

if TYPE_CHECKING:
    from remotegpu._async.client import AsyncClient
    from remotegpu._async.lease import AsyncLease
    from remotegpu.answers import Explanation, Settings
    from remotegpu.array import Array
    from remotegpu.client import Client
    from remotegpu.deadlines import invocation, lambda_handler
    from remotegpu.errors import (
        AuthError,
        Busy,
        ConfigurationError,
        ConnectError,
        ConnectionLost,
        ContentMissing,
        DeadlineExceeded,
        DeviceFailed,
        Error,
        FetchFailed,
        Impossible,
        InvalidInput,
        LeaseError,
        LeaseExpired,
        LeaseLost,
        LeaseUnknown,
        ModelNotFound,
        ModelUnusable,
        NotAllowed,
        OutcomeUnknown,
        OutOfMemory,
        ProtocolError,
        QueueFull,
        QueueTimeout,
        QuotaExceeded,
        RemoteError,
        StoreFull,
        TransportError,
        Unavailable,
        WouldBlock,
    )
    from remotegpu.lease import Lease
    from remotegpu.result import Timing
    from remotegpu.saving import save_program
    from remotegpu.statistics import Statistics

__all__ = [
    "Array",
    "AsyncClient",
    "AsyncLease",
    "AuthError",
    "Busy",
    "Client",
    "ConfigurationError",
    "ConnectError",
    "ConnectionLost",
    "ContentMissing",
    "DeadlineExceeded",
    "DeviceFailed",
    "Error",
    "Explanation",
    "FetchFailed",
    "Impossible",
    "InvalidInput",
    "Lease",
    "LeaseError",
    "LeaseExpired",
    "LeaseLost",
    "LeaseUnknown",
    "ModelNotFound",
    "ModelUnusable",
    "NotAllowed",
    "OutOfMemory",
    "OutcomeUnknown",
    "ProtocolError",
    "QueueFull",
    "QueueTimeout",
    "QuotaExceeded",
    "RemoteError",
    "Settings",
    "Statistics",
    "StoreFull",
    "Timing",
    "TransportError",
    "Unavailable",
    "WouldBlock",
    "__version__",
    "invocation",
    "lambda_handler",
    "save_program",
]

# Where each name comes from; those not named here are errors.
_MODULES = {
    "Array": "array",
    "AsyncClient": "_async.client",
    "AsyncLease": "_async.lease",
    "Client": "client",
    "Explanation": "answers",
    "Lease": "lease",
    "Settings": "answers",
    "Statistics": "statistics",
    "Timing": "result",
    "invocation": "deadlines",
    "lambda_handler": "deadlines",
    "save_program": "saving",
}
_MODULES |= dict.fromkeys(set(__all__) - {*_MODULES, "__version__"}, "errors")


def __getattr__(name: str) -> object:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'remotegpu' has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"remotegpu.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
