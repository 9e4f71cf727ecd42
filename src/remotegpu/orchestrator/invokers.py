# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What is run for an object, behind one method: a Lambda function, a function of this process, or a model."""

from __future__ import annotations

import importlib
import io
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from remotegpu import errors
from remotegpu.orchestrator.events import Source
from remotegpu.orchestrator.results import JSON, NPZ, Result, metadata

if TYPE_CHECKING:
    from remotegpu.aws.services import Services
    from remotegpu.client import Client
    from remotegpu.lease import Lease
    from remotegpu.model import TensorSignature
    from remotegpu.orchestrator.settings import Settings

# How many colours a picture has.
_COLOURS = 3
_NPY = b"\x93NUMPY"


class Vanished(Exception):
    """The object is no longer there."""


@dataclass(frozen=True, slots=True)
class Work:
    """One job for an invoker: its object, the key of its lease, where its result goes (bucket, key), and its deadline,
    a reading of `time.monotonic`."""

    source: Source
    lease: str
    output: tuple[str, str]
    deadline: float

    @property
    def remaining(self) -> float:
        """Seconds until the deadline, at least a millisecond."""
        return max(self.deadline - time.monotonic(), 0.001)

    def event(self) -> dict[str, Any]:
        """What a function is given. Whoever stores the result itself gives it `output.metadata`: by that the
        orchestrator knows a result when the same object is announced again."""
        bucket, key = self.output
        return {
            "bucket": self.source.bucket,
            "key": self.source.key,
            "version": self.source.version,
            "etag": self.source.etag,
            "lease": self.lease,
            "job": self.source.job,
            "output": {"bucket": bucket, "key": key, "metadata": metadata(self.source)},
            "deadline_ms": int((time.time() + self.remaining) * 1000),
        }


class Invoker(Protocol):
    """Runs one job at a time per thread, for many threads."""

    def invoke(self, work: Work) -> Any:
        """The answer: see `results.result_of`. Raises Vanished, or whatever goes wrong."""


class LambdaInvoker:
    """A Lambda function, invoked and waited for. It uses the lease by `client.attach(event["lease"])`."""

    def __init__(self, services: Services, function: str) -> None:
        self._services, self._function = services, function

    def invoke(self, work: Work) -> Any:
        """Raises FunctionFailed, ServiceError, or InvalidInput for what is no JSON."""
        answer = self._services.invoke(self._function, json.dumps(work.event()).encode())
        try:
            return json.loads(answer)
        except ValueError as error:
            raise errors.InvalidInput(field=self._function, limit="JSON", given=repr(answer[:100])) from error


class Context:
    """What a handler is given beside the event: the part of Lambda's context that has a meaning here."""

    memory_limit_in_mb = "0"
    function_version = "$LATEST"

    def __init__(self, work: Work, function: str) -> None:
        self._work = work
        self.aws_request_id = work.source.job
        self.function_name = function
        self.invoked_function_arn = f"arn:aws:lambda:local:000000000000:function:{function}"

    def get_remaining_time_in_millis(self) -> int:
        """Until the job's deadline."""
        return int(self._work.remaining * 1000)


class HandlerInvoker:
    """A function of a module, called in this process with (event, context), by several threads at once."""

    def __init__(self, name: str) -> None:
        """`name`: "module:function"; the current folder is searched too. Raises ConfigurationError."""
        module, _, function = name.rpartition(":")
        if "" not in sys.path:
            sys.path.insert(0, "")
        try:
            found: Callable[[Any, Any], Any] = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise errors.ConfigurationError(setting=f"handler:{name}", why=str(error)) from error
        self._function, self._name = found, function

    def invoke(self, work: Work) -> Any:
        """Raises whatever the function raises."""
        return self._function(work.event(), Context(work, self._name))


class ModelInvoker:
    """A model with one input, on the first device of the lease.

    The object is a .npy file, whose array is the input as it is; or a JPEG or PNG, which the device decodes to RGB:
    then the input is a picture of 3 dimensions or a batch of one (4), its colours first or last as the signature's size
    of 3 says, in 0 to 1 if it is of floats and in 0 to 255 else. All outputs make the result: a .npz file, or JSON
    ({name: nested lists}, null for what is not finite) if the result's key ends in .json."""

    def __init__(self, services: Services, client: Client, model: str) -> None:
        self._services, self._client, self._model = services, client, model

    def invoke(self, work: Work) -> Result:
        """Raises Vanished, InvalidInput for an object that the model cannot take, and any error of the tree."""
        source = work.source
        data = self._services.get(source.bucket, source.key, source.version)
        if data is None:
            raise Vanished
        tensor = self._input()
        lease = self._client.attach(work.lease)
        outputs = lease.model(self._model)(**{tensor.name: model_input(lease, data, tensor)})
        found: dict[str, Any] = lease.fetch(outputs, timeout=work.remaining)
        return encoded(found, as_json=work.output[1].endswith(".json"))

    def _input(self) -> TensorSignature:
        known = self._client.catalog.models.get(self._model)
        if known is None:
            self._client.models()
            known = self._client.catalog.models.get(self._model)
        if known is None:
            served = ", ".join(sorted(self._client.catalog.models)) or "none"
            raise errors.ModelNotFound(field="model", limit=served, given=self._model)
        if len(known.inputs) != 1:
            given = ", ".join(tensor.name for tensor in known.inputs) or "none"
            raise errors.InvalidInput(field=f"model:{self._model}", limit="a model with one input", given=given)
        return known.inputs[0]


def model_input(lease: Lease, data: bytes, tensor: TensorSignature) -> Any:
    """An object's bytes as the input of a model: see `ModelInvoker`. Raises InvalidInput."""
    if data.startswith(_NPY):
        try:
            return np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise errors.InvalidInput(field="object", limit="a .npy file", given=str(error)) from error
    # Of the three sizes of a picture, whichever holds the colours: the first one or the last.
    sizes = (tensor.shape or ())[-3:]
    if len(tensor.shape or ()) not in {3, 4} or _COLOURS not in {sizes[0], sizes[-1]}:
        limit = f"a .npy file: the input {tensor} is no picture"
        raise errors.InvalidInput(field="object", limit=limit, given=f"{len(data)} bytes of another kind")
    picture, xp = lease.image(data), lease.xp
    if np.issubdtype(tensor.dtype, np.floating):
        picture = xp.astype(picture, tensor.dtype) / 255
    if sizes[0] == _COLOURS:
        picture = xp.permute_dims(picture, (2, 0, 1))
    return picture[None] if len(tensor.shape or ()) == len(sizes) + 1 else picture


def encoded(outputs: Mapping[str, Any], *, as_json: bool) -> Result:
    """A model's outputs, arrays by name, as a result. Strings are UTF-8."""
    arrays = {name: _plain(np.asarray(array)) for name, array in outputs.items()}
    if as_json:
        lists = {name: _finite(array).tolist() for name, array in arrays.items()}
        return Result(json.dumps(lists).encode(), JSON)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return Result(file.getvalue(), NPZ)


def _plain(array: Any) -> Any:
    if array.dtype != object:
        return array
    texts = [item.decode(errors="replace") if isinstance(item, bytes) else str(item) for item in array.ravel()]
    return np.array(texts, dtype=str).reshape(array.shape)


def _finite(array: Any) -> Any:
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return array
    return np.where(np.isfinite(array), array.astype(object), None)


def invoker_of(settings: Settings, services: Services, client: Client) -> Invoker:
    """The one that the settings name. Raises ConfigurationError for a handler that cannot be imported."""
    if settings.kind == "lambda":
        return LambdaInvoker(services, settings.what)
    if settings.kind == "handler":
        return HandlerInvoker(settings.what)
    return ModelInvoker(services, client, settings.what)
