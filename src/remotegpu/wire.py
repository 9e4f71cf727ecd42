# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Messages as bytes: framing, bodies, errors. No network, no threads; both client and server use it.

`RunRequest` and `RunReply` have three top-level fields: header, middle (program or result) and body; as a frame of a
long-lived stream they have a fourth, the envelope. They are valid
protobuf, but assembled and split here by hand, because a codec would copy the tensors once more. A message is made
with one join; a received one is split into views. A body is a sequence of tensors, each at an offset that is a
multiple of `ALIGNMENT`, so that devices and NumPy can use it where it lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from remotegpu import errors
from remotegpu.v1 import error_pb2, stream_pb2

Buffer = bytes | memoryview
M = TypeVar("M", bound=Message)

ALIGNMENT = 64
# Bodies up to this size travel in one message; larger ones, and results of unknown size, as a stream.
INLINE_LIMIT = 256 * 1024
# A piece of a streamed body. 16 MiB there and back on loopback took 25 ms in pieces of 256 KiB, and 20 to 23 ms in
# pieces of 512 KiB, 1 MiB and 2 MiB alike; a message may have 4 MiB.
CHUNK = 1024 * 1024
ERROR_KEY = "remotegpu-error-bin"

# Bytes of a message up to which copies of its fields cost less than views.
_SMALL = 16 * 1024
# The fields of a frame by their tags: envelope, header, middle, body.
_PLACES = {0x22: 0, 0x0A: 1, 0x12: 2, 0x1A: 3}
_PADDING = bytes(ALIGNMENT)
# What almost all lengths in a message are.
_ONE_BYTE = tuple(bytes((value,)) for value in range(0x80))


def aligned(size: int) -> int:
    """`size` rounded up to a multiple of ALIGNMENT."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _varint(value: int) -> bytes:
    if value < 0x80:
        return _ONE_BYTE[value]
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def join(
    header: bytes,
    middle: Buffer,
    body: Sequence[Buffer] = (),
    body_size: int | None = None,
    *,
    envelope: bytes = b"",
) -> bytes:
    """One message, or with an envelope (`remotegpu.v1.Envelope`) one frame of a stream. `body_size` is the sum of the
    sizes in `body`, counted here if not given."""
    size = sum(map(len, body)) if body_size is None else body_size
    parts: list[Buffer] = [b"\x22", _varint(len(envelope)), envelope] if envelope else []
    if header:
        parts += (b"\x0a", _varint(len(header)), header)
    if middle:
        parts += (b"\x12", _varint(len(middle)), middle)
    if size:
        parts += (b"\x1a", _varint(size), *body)
    return b"".join(parts)


def call_envelope(call: int) -> bytes:
    """The bytes of a `remotegpu.v1.Envelope` that only has the number of a call, 1 or more."""
    return b"\x08" + _varint(call)


def request_envelope(call: int, method: str, acknowledged: int) -> bytes:
    """The bytes of a `remotegpu.v1.Envelope` of a call: by hand, since every call has one. `method` has less than 128
    characters."""
    name = method.encode()
    middle = b"\x12" + bytes((len(name),)) + name if name else b""
    return b"\x08" + _varint(call) + middle + (b"\x20" + _varint(acknowledged) if acknowledged else b"")


def frame_of(envelope: bytes, message: bytes) -> bytes:
    """A message with an envelope."""
    return b"".join((b"\x22", _varint(len(envelope)), envelope, message))


def answered_call(frame: bytes) -> int:
    """The number of the call if a frame begins with an envelope that has nothing else, as each answer does; 0
    otherwise. Raises ProtocolError for a number that does not end."""
    if len(frame) < 4 or frame[0] != 0x22 or frame[2] != 0x08:
        return 0
    value, position = _read_varint(frame, 3)
    return value if position == frame[1] + 2 else 0


def split(message: Buffer) -> tuple[memoryview, memoryview, memoryview]:
    """Header, middle and body of a message or frame, as views into it; empty where absent.

    Raises ProtocolError for bytes that are not such a message or end too early."""
    return split_frame(message)[1:]


def fields(message: bytes) -> tuple[Buffer, Buffer, Buffer]:
    """As `split`, but of a small message copies: there the codec is quicker than splitting by hand. A field that it
    does not know is no error then."""
    if len(message) > _SMALL:
        return split(message)
    frame = parse(stream_pb2.Frame, message)
    return frame.header, frame.middle, frame.body


def split_frame(message: Buffer) -> tuple[memoryview, memoryview, memoryview, memoryview]:
    """Envelope, header, middle and body of a frame, as views into it; empty where absent. Raises ProtocolError as
    `split` does."""
    view = memoryview(message)
    found = [view[:0]] * len(_PLACES)
    position, end = 0, len(view)
    while position < end:
        tag = view[position]
        place = _PLACES.get(tag)
        if place is None:
            raise errors.ProtocolError(what=f"unexpected tag {tag:#x} at byte {position} of {end}")
        length, position = _read_varint(view, position + 1)
        after = position + length
        if after > end:
            raise errors.ProtocolError(
                what=f"field {tag >> 3} says {length} bytes, {end - position} are there: cut short"
            )
        found[place] = view[position:after]
        position = after
    return found[0], found[1], found[2], found[3]


def _read_varint(view: Buffer, position: int) -> tuple[int, int]:
    if position < len(view) and view[position] < 0x80:
        return view[position], position + 1
    value = shift = 0
    while position < len(view) and shift < 64:
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise errors.ProtocolError(what=f"a length that does not end, at byte {position} of {len(view)}")


def parse(kind: type[M], data: Buffer) -> M:
    """A protobuf message of that kind. Raises ProtocolError naming the kind."""
    try:
        return kind.FromString(bytes(data))
    except DecodeError as error:
        raise errors.ProtocolError(what=f"{kind.__name__}: {error}") from error


def bytes_of(array: np.ndarray[Any, Any]) -> memoryview:
    """The bytes of a C-contiguous array as a flat view, without a copy."""
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]  # ndarray has the buffer protocol


class Body:
    """Collects the parts of a body and gives each its offset."""

    def __init__(self) -> None:
        self.parts: list[Buffer] = []
        self.size = 0

    def add(self, data: Buffer) -> int:
        """Appends data at the next aligned offset and returns that."""
        offset = aligned(self.size)
        if offset > self.size:
            self.parts.append(_PADDING[: offset - self.size])
        self.parts.append(data)
        self.size = offset + len(data)
        return offset


def pieces(parts: Iterable[Buffer], limit: int = CHUNK) -> Iterator[list[Buffer]]:
    """Cuts a body into groups of views of at most `limit` bytes each."""
    group: list[Buffer] = []
    room = limit
    for part in parts:
        view = memoryview(part)
        while len(view) > room:
            group.append(view[:room])
            yield group
            view, group, room = view[room:], [], limit
        if len(view):
            group.append(view)
            room -= len(view)
    if group:
        yield group


def messages(header: bytes, middle: Buffer, parts: Sequence[Buffer], limit: int = CHUNK) -> Iterator[bytes]:
    """A request or reply as a stream of messages: header and middle in the first, the body in pieces."""
    groups = pieces(parts, limit)
    yield join(header, middle, next(groups, []))
    for group in groups:
        yield join(b"", b"", group)


def clipped(text: str, limit: int = 1200) -> str:
    """A text of at most `limit` bytes, so that it fits beside others into the 8 KiB that peers allow for metadata. Its
    end is kept, where tracebacks say what happened; lone surrogates, which UTF-8 does not have, are replaced."""
    data = text.encode(errors="replace")
    return data.decode() if len(data) <= limit else "... " + data[4 - limit :].decode(errors="ignore")


def error_detail(error: errors.Error) -> bytes:
    """An error as `remotegpu.v1.ErrorDetail` bytes; long texts are clipped."""
    return error_message(error).SerializeToString()


def error_message(error: errors.Error) -> error_pb2.ErrorDetail:
    """An error as a message; long texts are clipped."""
    detail = error_pb2.ErrorDetail(kind=type(error).__name__)
    for name, value in error.fields().items():
        field = detail.fields.add(name=name)
        if isinstance(value, str):
            field.text = clipped(value)
        elif isinstance(value, int) and -(2**63) <= value < 2**63:
            field.integer = value
        else:  # a real number, or a size beyond 64 bits that somebody asked for
            field.real = value
    return detail


def error_from(detail: Buffer) -> errors.Error:
    """The error in `remotegpu.v1.ErrorDetail` bytes. Raises ProtocolError if they are not that."""
    return error_of(parse(error_pb2.ErrorDetail, detail))


def error_of(message: error_pb2.ErrorDetail) -> errors.Error:
    """The error that a message tells."""
    values: dict[str, errors.FieldValue] = {}
    for field in message.fields:
        kind = field.WhichOneof("value")
        if kind is not None:
            values[field.name] = getattr(field, kind)
    return errors.from_fields(message.kind, values)
