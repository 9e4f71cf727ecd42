# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The devices: what is used, what fits, what can never fit, what is kept for the head of the queue."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from .events import Impossible
from .leases import Lease
from .model import Device, DeviceView, Free, Request


@dataclass(slots=True, eq=False)
class PooledDevice:
    """One device and what is free on it."""

    device: Device
    index: int
    free_slots: int
    free_memory: int
    ready: bool = True
    exclusive: bool = False
    leases: int = 0
    releasing: dict[str, Lease] = field(default_factory=dict)  # ended, but not yet confirmed here

    def take(self, request: Request) -> None:
        """A lease begins here."""
        self.leases += 1
        if request.exclusive:
            self.exclusive, self.free_slots, self.free_memory = True, 0, 0
        else:
            self.free_slots -= 1
            self.free_memory -= request.memory

    def give(self, request: Request) -> None:
        """A lease's memory here is free."""
        self.leases -= 1
        if request.exclusive:
            self.exclusive = False
            self.free_slots, self.free_memory = self.device.slots, self.device.memory
        else:
            self.free_slots += 1
            self.free_memory += request.memory

    def view(self, reserved: Collection[int]) -> DeviceView:
        """The facts."""
        return DeviceView(
            device=self.device,
            state="lost" if not self.ready else "reserved" if self.index in reserved else "ready",
            leases=self.leases,
            used_slots=self.device.slots - self.free_slots,
            used_memory=self.device.memory - self.free_memory,
            exclusive=self.exclusive,
        )


class Pool:
    """All devices in ascending order of their index.

    Raises `ValueError` for no device, an index that appears twice, less than one slot or negative memory.
    """

    def __init__(self, devices: Sequence[Device]) -> None:
        for device in devices:
            if device.slots < 1 or device.memory < 0:
                raise ValueError(f"device {device.index} needs slots >= 1 and memory >= 0, not {device}")
        ordered = sorted(devices, key=lambda device: device.index)
        self._devices = [PooledDevice(device, device.index, device.slots, device.memory) for device in ordered]
        self._by_index = {member.index: member for member in self._devices}
        if not devices or len(self._by_index) < len(devices):
            raise ValueError(f"need at least one device and all indices different, not {list(devices)}")
        self._memories = sorted((device.memory for device in devices), reverse=True)
        self._most_slots = max(device.slots for device in devices)

    def __len__(self) -> int:
        return len(self._devices)

    def __iter__(self) -> Iterator[PooledDevice]:
        return iter(self._devices)

    def __getitem__(self, index: int) -> PooledDevice:
        """Raises `KeyError` for a device that was never declared."""
        return self._by_index[index]

    @property
    def ready_slots(self) -> int:
        """Slots, used or not, of the devices that are not lost."""
        return sum(member.device.slots for member in self._devices if member.ready)

    def impossible(self, request: Request) -> Impossible | None:
        """What of the request can never be had here. Lost devices count: they come back."""
        if not 1 <= request.gpus <= len(self._devices):
            return Impossible("gpus", request.gpus, len(self._devices) if request.gpus > 0 else 1)
        most = self._memories[request.gpus - 1]
        if not 0 <= request.memory <= most:
            return Impossible("memory", request.memory, most if request.memory > 0 else 0)
        if not request.idle_ttl > 0:  # this way around it is also true of NaN
            return Impossible("idle_ttl", request.idle_ttl, 0)
        if request.hard_ttl is not None and not request.hard_ttl > 0:
            return Impossible("hard_ttl", request.hard_ttl, 0)
        return None

    def fitting(self, request: Request) -> list[PooledDevice]:
        """The devices on which the request could be placed, reserved ones included.

        The only search over devices on the hot path: an index over them would go here.
        """
        memory = request.memory
        if request.exclusive:
            return [m for m in self._devices if not m.leases and m.ready and m.free_memory >= memory]
        return [m for m in self._devices if m.free_slots and m.ready and m.free_memory >= memory]

    def reserved(self, request: Request, overdue: float) -> frozenset[int]:
        """The devices kept for a request that does not fit and whose patience ended `overdue` seconds ago.

        That is every device on which it could be placed (they are too few), and as many more as it lacks, so
        that these empty: leases that come and go in turns would otherwise never leave a shared device wholly
        free, or with much memory in one piece. Those in least use are taken, which is a guess: one that is
        held for hours may be among them. So one more is added after 1 s, 3 s, 7 s, ...: in the end
        the request has them all, but one that is soon served does not stop the others.
        """
        fitting = {member.index for member in self.fitting(request)}
        count = request.gpus - len(fitting) + (int(overdue) + 1).bit_length() - 1
        filled = sorted(
            (member.leases, -member.free_memory, member.index)
            for member in self._devices
            if member.ready and member.index not in fitting and member.device.memory >= request.memory
        )
        return frozenset(fitting.union(index for _, _, index in filled[:count]))

    def offers(self, reserved: Collection[int]) -> bool:
        """Whether there is a slot left for anybody."""
        return any(m.free_slots and m.ready and m.index not in reserved for m in self._devices)

    def free(self, reserved: Collection[int]) -> Free:
        """What a newcomer could get."""
        offered = [m for m in self._devices if m.free_slots and m.ready and m.index not in reserved]
        return Free(
            gpus=sum(not member.leases for member in offered),
            slots=sum(member.free_slots for member in offered),
            largest_memory=max((member.free_memory for member in offered), default=0),
        )

    def slots_asked(self, request: Request) -> int:
        """The request counted in shared places."""
        return request.gpus * (self._most_slots if request.exclusive else 1)
