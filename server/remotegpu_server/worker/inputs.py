# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Where the bytes of a tensor or picture come from: the body, a content's file, or a fetched file; and what becomes of
them on their way to the device: unpacked, decoded, widened.

What is made of a content stays on the device, for all leases whose calls name it; the daemon lets a call name only what
its tenant has. No program can change such an array: operations make new ones.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from remotegpu import errors, strings, wire
from remotegpu.v1 import attachments_pb2
from remotegpu_server.backends import compression, images
from remotegpu_server.backends.device import Device, HostArray

from .prepared import LoadImage, LoadTensor

# Of the device's memory, what arrays made of contents may take: they are a saving for calls to come, and must not crowd
# out those that run. On CPU devices a content that is stored as it is used takes none, being a mapped file.
SHARE = 1 / 8


@dataclass(frozen=True, slots=True)
class ContentFile:
    """A content that a call may use."""

    digest: bytes
    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Attached:
    """What came with a call beside its body. `fetched`: read-only views of the request slab."""

    contents: tuple[ContentFile, ...] = ()
    fetched: tuple[memoryview, ...] = ()

    @classmethod
    def of(cls, data: memoryview, body: memoryview) -> Attached:
        """Reads an Attachments message. `body`: the slab from the body on."""
        message = wire.parse(attachments_pb2.Attachments, data)
        return cls(
            tuple(ContentFile(item.digest, item.path, item.size) for item in message.contents),
            tuple(body[span.offset : span.offset + span.size] for span in message.fetched),
        )


NOTHING = Attached()


class Kept:
    """Arrays by what they were made of, within so many bytes; the least recently used go first. For any thread."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._arrays: OrderedDict[Hashable, Any] = OrderedDict()
        self._keys: dict[int, Hashable] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Any:
        """The array, or None."""
        with self._lock:
            found = self._arrays.get(key)
            if found is not None:
                self._arrays.move_to_end(key)
            return found

    def add(self, key: Hashable, array: Any) -> None:
        """Keeps an array, unless it is larger than the whole."""
        if array.nbytes > self.limit:
            return
        with self._lock:
            self._arrays[key] = array
            self._keys[id(array)] = key
            self.size += array.nbytes
            while self.size > self.limit:
                _, oldest = self._arrays.popitem(last=False)
                del self._keys[id(oldest)]
                self.size -= oldest.nbytes

    def __contains__(self, array: object) -> bool:
        return id(array) in self._keys

    def clear(self) -> None:
        """Lets go of all of them."""
        with self._lock:
            self._arrays.clear()
            self._keys.clear()
            self.size = 0


class Inputs:
    """Makes arrays of a device from the bytes of calls. For the thread that runs programs."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._kept = Kept(int(device.free_memory() * SHARE))
        device.when_short(self._kept.clear)

    def load(self, step: LoadTensor | LoadImage, body: memoryview, attached: Attached) -> Any:
        """The array that a step stands for.

        Raises InvalidInput for bytes that do not make one, ContentMissing for a content whose file has gone."""
        if step.source == "content":
            return self._content(step, attached.contents[step.number])
        return self._made(step, _part(step, body if step.source == "body" else attached.fetched[step.number]))

    def is_shared(self, array: Any) -> bool:
        """Whether the array was made of a content and stays for other calls: no lease is charged with it."""
        return array in self._kept

    def _content(self, step: LoadTensor | LoadImage, content: ContentFile) -> Any:
        key = content.digest, replace(step, number=0)
        found = self._kept.get(key)
        if found is not None:
            return found
        data = _part(step, _mapped(content))
        if isinstance(step, LoadTensor) and step.nbytes > self._kept.limit:
            return self._made(step, data)  # the lease's, as anything that comes with a call
        # The memory of nobody's lease.
        with self._device.memory_scope(0, 0):
            array = self._made(step, data)
        self._kept.add(key, array)
        return array

    def _made(self, step: LoadTensor | LoadImage, data: memoryview) -> Any:
        if isinstance(step, LoadImage):
            return self._device.upload(images.decode(data))
        if step.dtype == strings.STRINGS:
            return strings.decode(data, step.shape)  # they stay on the host
        stored = step.travels_as or step.dtype
        raw: memoryview | bytes = data
        if step.compression:
            raw = compression.decompress(data, step.compression, math.prod(step.shape) * stored.itemsize)
        host: HostArray = np.frombuffer(raw, stored).reshape(step.shape)
        array = self._device.upload(host)
        return array if stored == step.dtype else array.astype(step.dtype)


def _part(step: LoadTensor | LoadImage, data: memoryview) -> memoryview:
    """The bytes that a step means. No end stands for all that are there: the sizes of pictures, of what is packed and
    of what is fetched are not known to those who write programs."""
    if step.source != "body" and step.end == step.start and (isinstance(step, LoadImage) or step.compression):
        return data[step.start :]
    if step.end > len(data):
        what = "file" if step.source == "fetched" else "content"
        raise errors.InvalidInput(field=what, limit=f"at least {step.end} bytes", given=f"{len(data)} bytes")
    return data[step.start : step.end]


def _mapped(content: ContentFile) -> memoryview:
    """The bytes of a content, read when they are touched. The file never changes, and may be taken away meanwhile."""
    try:
        descriptor = os.open(content.path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise errors.ContentMissing(digests=content.digest.hex()) from None
    try:
        if os.fstat(descriptor).st_size != content.size:
            raise errors.ContentMissing(digests=content.digest.hex())
        if not content.size:
            return memoryview(b"")
        return memoryview(mmap.mmap(descriptor, content.size, prot=mmap.PROT_READ))
    finally:
        os.close(descriptor)
