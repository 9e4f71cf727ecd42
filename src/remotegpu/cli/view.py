# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""What the person at the screen of `remotegpu top` has chosen, and what the keys do. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from remotegpu.v1 import scheduler_pb2 as pb

PAGE = 10


@dataclass(frozen=True, slots=True)
class View:
    """How the snapshot is looked at. The selection is a lease's id, so that it stays where it is when others move."""

    sort: str = "age"
    reverse: bool = False
    # Public ids of leases; empty: none.
    selected: str = ""
    confirm: str = ""
    message: str = ""
    # A sentence, if no snapshots come; empty while they do.
    lost: str = ""
    help: bool = False


@dataclass(frozen=True, slots=True)
class Quit:
    """Leave the screen."""


@dataclass(frozen=True, slots=True)
class Dealloc:
    """End the lease of that public id."""

    lease: str


Action = Quit | Dealloc
_Key = tuple[float, str]


def _memory(lease: pb.LeaseStatus) -> _Key:
    return (-math.inf if lease.exclusive else -lease.memory, lease.lease)


def _ttl(lease: pb.LeaseStatus) -> _Key:
    return (lease.ttl_left_s if lease.HasField("ttl_left_s") else math.inf, lease.lease)


# In the order in which `s` goes through them: the oldest, the next to end, the busiest, the largest, by name.
_SORTS: Final[dict[str, Callable[[pb.LeaseStatus], tuple[float, str] | tuple[str, str]]]] = {
    "age": lambda lease: (-lease.age_s, lease.lease),
    "ttl": _ttl,
    "calls": lambda lease: (-lease.calls, lease.lease),
    "memory": _memory,
    "tenant": lambda lease: (lease.tenant, lease.lease),
}
SORTS: Final = tuple(_SORTS)


def ordered(view: View, snapshot: pb.Snapshot) -> list[pb.LeaseStatus]:
    """The leases as the view sorts them."""
    return sorted(snapshot.leases, key=_SORTS[view.sort], reverse=view.reverse)


def press(view: View, key: str, snapshot: pb.Snapshot) -> tuple[View, Action | None]:
    """What a key does: the view after it, and what is to be done. Keys are named as by `Keyboard`."""
    if view.confirm:
        return _answer(view, key)
    was_helped = view.help
    view = replace(view, message="", help=False)
    leases = [lease.lease for lease in ordered(view, snapshot)]
    if key in _STEPS:
        return replace(view, selected=_moved(leases, view.selected, _STEPS[key])), None
    if key == "q":
        return view, Quit()
    if key == "s":
        return replace(view, sort=SORTS[(SORTS.index(view.sort) + 1) % len(SORTS)]), None
    if key == "r":
        return replace(view, reverse=not view.reverse), None
    if key == "?":
        return replace(view, help=not was_helped), None
    if key == "d":
        if view.selected not in leases:
            return replace(view, message="choose a lease first: ↑ ↓" if leases else "there is no lease"), None
        return replace(view, confirm=view.selected), None
    if key == "escape":
        return replace(view, selected=""), None
    return view, None


# How far each key moves the selection.
_STEPS: Final = {
    "up": -1,
    "k": -1,
    "down": 1,
    "j": 1,
    "page_up": -PAGE,
    "page_down": PAGE,
    "home": -math.inf,
    "end": math.inf,
}


def _answer(view: View, key: str) -> tuple[View, Action | None]:
    if key == "y":
        return replace(view, confirm="", message=f"deallocating {view.confirm}"), Dealloc(view.confirm)
    if key in {"n", "escape"}:
        return replace(view, confirm="", message="not deallocated"), None
    return view, None


def _moved(leases: Sequence[str], selected: str, step: float) -> str:
    if not leases:
        return ""
    # The first step comes from outside of the list.
    place = leases.index(selected) if selected in leases else -1 if step > 0 else len(leases)
    return leases[int(min(max(place + step, 0), len(leases) - 1))]


def follow(view: View, before: pb.Snapshot, after: pb.Snapshot) -> View:
    """The view for the next snapshot: where the selected lease has ended, the selection goes to the one that stands in
    its place, and a question about it is taken back."""
    leases = [lease.lease for lease in ordered(view, after)]
    view = replace(view, lost="")
    if view.confirm and view.confirm not in leases:
        view = replace(view, confirm="", message=f"{view.confirm} has ended by itself")
    if not view.selected or view.selected in leases:
        return view
    earlier = [lease.lease for lease in ordered(view, before)]
    place = earlier.index(view.selected) if view.selected in earlier else 0
    return replace(view, selected=leases[min(place, len(leases) - 1)] if leases else "")


_SEQUENCES: Final = {
    b"\x1b": "escape",
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b"\x1b[B": "down",
    b"\x1bOB": "down",
    b"\x1b[5~": "page_up",
    b"\x1b[6~": "page_down",
    b"\x1b[H": "home",
    b"\x1bOH": "home",
    b"\x1b[1~": "home",
    b"\x1b[F": "end",
    b"\x1bOF": "end",
    b"\x1b[4~": "end",
}


class Keyboard:
    """Bytes of a terminal in, names of keys out: "up", "page_down", "escape", else the character itself."""

    def __init__(self) -> None:
        self._held = b""

    @property
    def waiting(self) -> bool:
        """Whether what came last may be the Escape key, or the beginning of a longer sequence: time tells."""
        return bool(self._held)

    def feed(self, data: bytes) -> list[str]:
        """The keys that are complete now."""
        data, self._held = self._held + data, b""
        keys = []
        while data:
            size = _length(data)
            if size > len(data):
                self._held = data
                break
            sequence, data = data[:size], data[size:]
            if sequence in _SEQUENCES:
                keys.append(_SEQUENCES[sequence])
            elif sequence[:1] != b"\x1b":  # other function keys do nothing
                keys.append(sequence.decode(errors="replace"))
        return keys

    def flush(self) -> list[str]:
        """The keys that the held bytes are, since no more have come."""
        held, self._held = self._held, b""
        return ["escape"] if held == b"\x1b" else []


def _length(data: bytes) -> int:
    """How many bytes the key at the beginning has, more than there are if it is not complete."""
    if data[0] != 0x1B:
        return 1 if data[0] < 0xC0 else 2 if data[0] < 0xE0 else 3 if data[0] < 0xF0 else 4
    if len(data) == 1:
        return 2
    if data[1:2] == b"O":
        return 3
    if data[1:2] != b"[":
        return 1  # the Escape key, and the next one already
    for place in range(2, len(data)):
        if 0x40 <= data[place] <= 0x7E:
            return place + 1
    return len(data) + 1
