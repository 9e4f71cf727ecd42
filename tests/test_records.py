# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Records between daemon and worker: each comes back as it was sent, and nothing else is one."""

import socket
import struct
import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remotegpu_server import records

KINDS: tuple[Any, ...] = typing.get_args(records.Record)
# Flags take a byte, everything else is a 64-bit number.
FLAGS = {"finish", "failed", "force"}


def samples() -> st.SearchStrategy[Any]:
    def build(kind: Any) -> st.SearchStrategy[Any]:
        return st.builds(kind, **{name: st.integers(0, 255 if name in FLAGS else 2**64 - 1) for name in kind._fields})

    return st.sampled_from(KINDS).flatmap(build)


def filled(kind: Any, value: int) -> Any:
    return kind(*(min(value, 255) if name in FLAGS else value for name in kind._fields))


@given(samples())
def test_a_record_comes_back(record: Any) -> None:
    (again,) = records.unpack(records.pack(record))
    assert type(again) is type(record)
    assert again == record


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_room_for_the_largest_numbers_and_fits_a_packet(kind: Any) -> None:
    for value in (0, 2**64 - 1):
        packet = records.pack(filled(kind, value))
        assert len(packet) <= records.PACKET_LIMIT
        assert records.unpack(packet) == [filled(kind, value)]


def test_kinds_are_told_apart_by_the_first_byte() -> None:
    assert [records.pack(filled(kind, 0))[0] for kind in KINDS] == list(range(len(KINDS)))


def test_a_record_is_one_packet_of_a_socket() -> None:
    daemon, worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sent: list[records.Record] = [
        records.Warm(5, 6),
        records.Run(1, 64, 100, 200, 7, 2**40, True),
        records.ReleaseReply(128),
    ]
    with daemon, worker:
        for record in sent:
            daemon.send(records.pack(record))
        assert [records.unpack(worker.recv(records.PACKET_LIMIT)) for _ in sent] == [[record] for record in sent]
        daemon.send(b"".join(map(records.pack, sent)))
        assert records.unpack(worker.recv(records.PACKET_LIMIT)) == sent


@pytest.mark.parametrize("kind", KINDS)
def test_a_packet_of_another_size_is_not_a_record(kind: Any) -> None:
    packet = records.pack(filled(kind, 3))
    for wrong in (*(packet[:end] for end in range(1, len(packet))), packet + b"\0", packet + b"\xff"):
        with pytest.raises(ValueError, match="record"):
            records.unpack(wrong)


@given(
    st.binary()
    | st.tuples(st.integers(0, len(KINDS)), st.binary(min_size=8, max_size=80)).map(lambda t: bytes(t[:1]) + t[1])
)
def test_arbitrary_bytes_are_a_record_or_refused(packet: bytes) -> None:
    try:
        found = records.unpack(packet)
    except ValueError:
        return
    assert b"".join(map(records.pack, found)) == packet


@pytest.mark.parametrize("record", [records.Drop(-1), records.Drop(2**64), records.Run(1, 2, 3, 4, 5, 6, 256)], ids=str)
def test_a_number_out_of_range_is_not_packed(record: records.Record) -> None:
    with pytest.raises(struct.error):
        records.pack(record)
