# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The devices: what is used, what fits, what can never fit, what is kept for the head of the queue.

Every change of a device is followed by `_refresh`, which keeps the indexes right; every question is answered from
the indexes. A device that is kept for the head of the queue stands in an offer of its own, which nobody else sees.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from .events import Impossible
from .leases import Lease
from .model import Device, DeviceView, Free, Request, Verdict
from .offer import MOST_DEVICES, Offer, Ranking
from .positions import NOTHING

_LOOKED_AT = 64
"""Devices among which those in least use are found when some are to be kept: looking at all would cost too much."""


@dataclass(slots=True, eq=False)
class PooledDevice:
    """One device and what is used of it. What follows `shared` is how it stands in the indexes."""

    device: Device
    position: int
    slots: int
    free_memory: int
    offer: Offer
    ready: bool = True
    exclusive: bool = False
    leases: int = 0
    utilization: float = 0.0
    releasing: dict[str, Lease] = field(default_factory=dict)  # ended, but not yet confirmed here
    shared: int = NOTHING
    idle: int = NOTHING
    rank: int = NOTHING
    free_slots: int = 0

    def fits(self, request: Request) -> bool:
        """Whether the request could be placed here, reserved or not."""
        return (self.idle if request.exclusive else self.shared) >= request.memory

    def view(self, reserved: bool) -> DeviceView:
        """The facts."""
        return DeviceView(
            device=self.device,
            state="lost" if not self.ready else "reserved" if reserved else "ready",
            leases=self.leases,
            used_slots=self.slots if self.exclusive else self.leases,
            used_memory=self.device.memory if self.exclusive else self.device.memory - self.free_memory,
            exclusive=self.exclusive,
        )


class Pool:
    """All devices in ascending order of their index.

    Raises `ValueError` for no device, too many, an index that appears twice, less than one slot or negative memory.
    """

    def __init__(self, devices: Sequence[Device]) -> None:
        for device in devices:
            if device.slots < 1 or device.memory < 0:
                raise ValueError(f"device {device.index} needs slots >= 1 and memory >= 0, not {device}")
        count = len(devices)
        self.open, self.kept = Offer(count), Offer(count)
        ordered = sorted(devices, key=lambda device: device.index)
        self.devices = [PooledDevice(d, at, d.slots, d.memory, self.open) for at, d in enumerate(ordered)]
        self._by_index = {member.device.index: member for member in self.devices}
        if not 0 < count < MOST_DEVICES or len(self._by_index) < count:
            raise ValueError(f"need 1 to {MOST_DEVICES} devices with different indices, not {list(devices)}")
        self._memories = sorted((device.memory for device in devices), reverse=True)
        self.most_slots = max(device.slots for device in devices)
        self.reserved: dict[int, PooledDevice] = {}  # kept for the head of the queue, by position
        self._sought = 0  # how many were to be kept at the last look
        self._looked = 0
        self.warm: dict[str, dict[int, None]] = {}  # positions by model, in the order in which they became warm
        self.ranking: Ranking | None = None  # of what is not reserved; only kept for a policy that wants it
        self.ready_slots = 0  # used or not, of the devices that are not lost
        for member in self.devices:
            self.ready_slots += member.slots
            self._refresh(member)

    def __len__(self) -> int:
        return len(self.devices)

    def __iter__(self) -> Iterator[PooledDevice]:
        return iter(self.devices)

    def __getitem__(self, index: int) -> PooledDevice:
        """Raises `KeyError` for a device that was never declared."""
        return self._by_index[index]

    # ---- changes --------------------------------------------------------------------------------------

    def take(self, member: PooledDevice, request: Request) -> None:
        """A lease begins there."""
        member.leases += 1
        member.free_memory -= request.memory
        member.exclusive = request.exclusive
        self._refresh(member)

    def give(self, member: PooledDevice, request: Request) -> None:
        """A lease's memory there is free."""
        member.leases -= 1
        member.free_memory += request.memory
        member.exclusive = False
        self._refresh(member)

    def lose(self, member: PooledDevice) -> None:
        """It is not there for now, and what was warm is not any more."""
        member.ready = False
        self.ready_slots -= member.slots
        for model in list(self.warm):
            self.set_warm(member, model, False)
        if self.reserved.pop(member.position, None):
            self._sought = 0  # another one is kept in its place
            self._move(member, self.open)
        self._refresh(member)

    def regain(self, member: PooledDevice) -> None:
        """It is back."""
        member.ready = True
        self.ready_slots += member.slots
        self._sought = 0  # it may be kept
        self._refresh(member)

    def set_slots(self, slots: int) -> None:
        """So many leases may share each device from now on; those that are there stay."""
        self.most_slots = slots
        for member in self.devices:
            if member.ready:
                self.ready_slots += slots - member.slots
            member.slots, member.device = slots, replace(member.device, slots=slots)
            self._refresh(member)

    def set_load(self, member: PooledDevice, utilization: float) -> None:
        """What it is doing by measurement, 0 to 1."""
        member.utilization = utilization
        self._refresh(member)

    def set_warm(self, member: PooledDevice, model: str, warm: bool) -> None:
        """Whether the model would run there at once."""
        positions = self.warm.setdefault(model, {})
        if warm:
            positions[member.position] = None
        else:
            positions.pop(member.position, None)
        if not positions:
            del self.warm[model]

    def rank(self, wanted: bool) -> None:
        """Keep a ranking by load from now on, or none."""
        self.ranking = Ranking() if wanted else None
        for member in self.devices:
            member.rank = NOTHING
            self._refresh(member)

    def _refresh(self, member: PooledDevice) -> None:
        offer, position = member.offer, member.position
        leases = member.leases
        free = 0 if member.exclusive or not member.ready or leases >= member.slots else member.slots - leases
        shared = member.free_memory if free else NOTHING
        idle = shared if not leases else NOTHING
        offer.slots += free - member.free_slots
        member.free_slots = free
        if shared != member.shared:
            offer.shared.put(position, member.shared, shared)
            member.shared = shared
        if idle != member.idle:
            offer.idle.put(position, member.idle, idle)
            member.idle = idle
        if self.ranking is not None:
            offered = shared != NOTHING and offer is self.open
            reserved = member.device.memory - member.free_memory
            key = Ranking.key(position, member.utilization, reserved, leases) if offered else NOTHING
            if key != member.rank:
                self.ranking.put(member.rank, key)
                member.rank = key

    # ---- questions ------------------------------------------------------------------------------------

    def impossible(self, request: Request) -> Impossible | None:
        """What of the request can never be had here. Lost devices count: they come back."""
        if not 1 <= request.gpus <= len(self.devices):
            return Impossible("gpus", request.gpus, len(self.devices) if request.gpus > 0 else 1)
        most = self._memories[request.gpus - 1]
        if not 0 <= request.memory <= most:
            return Impossible("memory", request.memory, most if request.memory > 0 else 0)
        if not request.idle_ttl > 0:  # this way around it is also true of NaN
            return Impossible("idle_ttl", request.idle_ttl, 0)
        if request.hard_ttl is not None and not request.hard_ttl > 0:
            return Impossible("hard_ttl", request.hard_ttl, 0)
        return None

    def limit(self, gpus: int, exclusive: bool) -> int:
        """The most memory that a request of that shape could get now of what is not reserved; `NOTHING`: not even 0."""
        return self.open.index(exclusive).most(gpus)

    def offers(self, member: PooledDevice, request: Request) -> bool:
        """Whether that device could be given to anybody who asks so."""
        return member.offer is self.open and member.fits(request)

    def fits_with_reserved(self, request: Request) -> bool:
        """Whether the one for whom devices are reserved could be placed."""
        open_, kept = self.open.index(request.exclusive), self.kept.index(request.exclusive)
        return open_.count(request.memory) + kept.count(request.memory) >= request.gpus

    def free(self) -> Free:
        """What a newcomer could get."""
        return Free(len(self.open.idle), self.open.slots, max(self.open.shared.most(), 0))

    def slots_asked(self, request: Request) -> int:
        """The request counted in shared places."""
        return request.gpus * (self.most_slots if request.exclusive else 1)

    def verdict(self, member: PooledDevice, request: Request) -> Verdict:
        """Why the request does not fit on that device, if so."""
        free = member.free_memory
        tests = (
            (not member.ready, "it is not there now"),
            (member.position in self.reserved, "it is kept for the request at the head of the queue"),
            (member.exclusive, "a lease has it whole"),
            (request.exclusive and member.leases > 0, f"{member.leases} leases are on it"),
            (member.leases >= member.slots, f"all of its {member.slots} slots are taken"),
            (free < request.memory, f"{free} of {member.device.memory} bytes are free, {request.memory} were asked"),
        )
        why = next((why for applies, why in tests if applies), "")
        return Verdict(member.device.index, why)

    # ---- what is kept for the head of the queue -------------------------------------------------------

    def reserve(self, request: Request, overdue: float) -> None:
        """Keep devices for a request that does not fit and whose patience ended `overdue` seconds ago.

        As many as it asks for: those on which it could be placed, and those in least use, so that they empty: leases
        that come and go in turns would otherwise never leave a shared device wholly free, or with much memory in one
        piece. That is a guess: some may be held for hours. So there are twice as many after 1 s, 3 s, 7 s, ...: soon
        the request has them all, but one that is served before does not stop the others.
        """
        wanted = min(request.gpus << (int(overdue) + 1).bit_length() - 1, len(self.devices))
        if wanted <= self._sought:
            return
        self._sought = wanted
        lacking = wanted - sum(member.device.memory >= request.memory for member in self.reserved.values())
        if lacking <= 0:
            return
        fitting = list(islice(self.open.index(request.exclusive).tightest(request.memory), lacking))
        for position in fitting:
            self._keep(self.devices[position])
        emptied = sorted(
            (member.leases, -member.free_memory, member.position) for member in self._candidates(request, lacking)
        )
        for _, _, position in emptied[: lacking - len(fitting)]:
            self._keep(self.devices[position])

    def _candidates(self, request: Request, count: int) -> list[PooledDevice]:
        """Devices that could hold the request if they were empty: all of a small pool; of a large one the next ones,
        and as many more as it takes to find `count`."""
        found: list[PooledDevice] = []
        size, looked_at = len(self.devices), max(_LOOKED_AT, 2 * count)
        for looked in range(size):
            if looked >= looked_at and len(found) >= count:
                break
            member = self.devices[self._looked % size]
            self._looked += 1
            if member.ready and member.position not in self.reserved and member.device.memory >= request.memory:
                found.append(member)
        return found

    def seek_again(self) -> None:
        """Somebody else than before is about to reserve: what is kept may not do."""
        self._sought = 0

    def keep_if_fitting(self, member: PooledDevice, request: Request) -> None:
        """A device came free on which the request could be placed: it is kept too."""
        if member.position not in self.reserved and member.fits(request):
            self._keep(member)

    def _keep(self, member: PooledDevice) -> None:
        self.reserved[member.position] = member
        self._move(member, self.kept)

    def unreserve(self) -> None:
        """The reserved devices are everybody's again."""
        for member in self.reserved.values():
            self._move(member, self.open)
        self.reserved.clear()
        self._sought = 0

    def _move(self, member: PooledDevice, offer: Offer) -> None:
        ready, member.ready = member.ready, False
        self._refresh(member)  # as if lost: out of the indexes of one offer ...
        member.ready, member.offer = ready, offer
        self._refresh(member)  # ... and into those of the other
