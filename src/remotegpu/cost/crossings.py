# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Where two costs are equal, and which of several is the least. Pure; knows nothing of what the costs are of.

Costs grow with the number of images, in straight pieces with steps. They are compared on a grid of 64 points for each
factor of ten, and where the order of two changes the place is found by bisection. Two changes between neighbours of the
grid, which the steps of two nearly equal costs can make, are not seen.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

Cost = Callable[[float], float]
LEAST, GREATEST = 1.0, 1e10  # images in a month
_POINTS = 64
# Costs that differ by less are the same. A share of the cost.
_SAME = 1e-9
# How narrow a bisection ends, as a share of the images.
_NARROW = 1e-13


@dataclass(frozen=True, slots=True)
class Crossing:
    """From `images` a month on `cheaper` costs less than `dearer`; below it is the other way round. At `images` both
    cost `usd` a month, or with `step` one of them jumps past the other there, and `usd` is what `cheaper` costs after
    it."""

    cheaper: str
    dearer: str
    images: float
    usd: float
    step: bool


@dataclass(frozen=True, slots=True)
class Reign:
    """From `images` a month on `name` costs least, until the next one begins."""

    name: str
    images: float


def grid(least: float = LEAST, greatest: float = GREATEST) -> list[float]:
    """Numbers of images from one to the other, evenly spaced in their logarithm."""
    pieces = math.ceil(_POINTS * math.log10(greatest / least))
    return [least * (greatest / least) ** (index / pieces) for index in range(pieces)] + [greatest]


def crossings(costs: Mapping[str, Cost], places: Sequence[float] | None = None) -> list[Crossing]:
    """All crossings of each two costs on the grid, those at fewer images first."""
    at = grid() if places is None else places
    values = {name: [cost(images) for images in at] for name, cost in costs.items()}
    found: list[Crossing] = []
    for first, second in itertools.combinations(costs, 2):
        pairs = zip(values[first], values[second], strict=True)
        orders = [_order(one, other) for one, other in pairs]
        for low, high in _changes(orders):
            cheaper, dearer = (second, first) if orders[high] > 0 else (first, second)
            found.append(_crossing(costs, cheaper, dearer, at[low], at[high]))
    return sorted(found, key=lambda crossing: crossing.images)


def reigns(costs: Mapping[str, Cost], places: Sequence[float] | None = None) -> list[Reign]:
    """Which cost is least, from the fewest images to the most. Of equal ones it is the one that was, and at first the
    first named."""
    at = grid() if places is None else places

    def rival(of: str, images: float) -> str:
        """The least cost, or `of` if none is less."""
        least = min(costs, key=lambda name: costs[name](images))
        return of if _order(costs[least](images), costs[of](images)) >= 0 else least

    def reigning(name: str, images: float) -> bool:
        return rival(name, images) == name

    found = [Reign(rival(next(iter(costs)), at[0]), at[0])]
    for low, high in itertools.pairwise(at):
        begin = low
        while not reigning(last := found[-1].name, high):
            _, begin = _bisect(partial(reigning, last), begin, high)
            # Not the one that is least at `high`: a third may be between them.
            found.append(Reign(rival(last, begin), begin))
    return found


def _order(one: float, other: float) -> int:
    """1 if the first costs more, -1 if less, 0 if the same."""
    if abs(one - other) <= _SAME * max(abs(one), abs(other)):
        return 0
    return 1 if one > other else -1


def _changes(orders: Sequence[int]) -> list[tuple[int, int]]:
    """Index pairs between which the order turns round, equal ones left out."""
    unequal = [index for index, order in enumerate(orders) if order]
    return [(low, high) for low, high in itertools.pairwise(unequal) if orders[low] != orders[high]]


def _crossing(costs: Mapping[str, Cost], cheaper: str, dearer: str, low: float, high: float) -> Crossing:
    _, images = _bisect(lambda images: costs[cheaper](images) > costs[dearer](images), low, high)
    usd = costs[cheaper](images)
    return Crossing(cheaper, dearer, images, usd, step=_order(usd, costs[dearer](images)) != 0)


def _bisect(holds: Callable[[float], bool], low: float, high: float) -> tuple[float, float]:
    """Narrows a place where something holds at `low` and not at `high`, in the logarithm."""
    while high / low - 1 > _NARROW:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low, high
