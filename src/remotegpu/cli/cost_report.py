# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The comparison of costs as JSON and as lines of text. Pure; the lines need rich."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from remotegpu.cost import alternatives
from remotegpu.cost.alternatives import ALTERNATIVES, Bill
from remotegpu.cost.crossings import Crossing, Reign, crossings, grid, reigns
from remotegpu.cost.formulas import SECONDS_PER_MONTH
from remotegpu.cost.prices import UNITS, Machine, Origin, Prices
from remotegpu.cost.workload import Workload

if TYPE_CHECKING:
    from remotegpu.cli.tables import Line

# Of the JSON. A new number for a change that a reader of the old one would misread; new keys do not count.
SCHEMA = "remotegpu.cost/1"
# The alternative that the crossings of the table are with: what somebody has who has only a function.
BASE = "lambda-cpu"
TITLES: Mapping[str, str] = {alternative.name: alternative.title for alternative in ALTERNATIVES}
_NEVER = "never"
# How many changes of the least cost a person is shown; steps can make many.
_REIGNS = 8


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that was found out. `totals` are USD a month by images a month."""

    workload: Workload
    prices: Prices
    bills: Mapping[str, Bill]
    totals: Mapping[str, Callable[[float], float]]
    crossings: Sequence[Crossing]
    reigns: Sequence[Reign]
    doubtful: Sequence[str]


@dataclass(frozen=True, slots=True)
class Spans:
    """Where one costs less than another, in images a month: for the first time from `first`, without a break from
    `steady` up to `until` (None: without end)."""

    first: float
    steady: float
    until: float | None


def compared(workload: Workload, prices: Prices) -> Comparison:
    """Computes all of it. Raises InvalidInput as `alternatives.check` does."""
    totals, places = alternatives.totals(workload, prices), grid()
    return Comparison(
        workload,
        prices,
        alternatives.bills(workload, prices),
        totals,
        crossings(totals, places),
        reigns(totals, places),
        alternatives.doubtful(workload, prices),
    )


def spans(found: Comparison, name: str, base: str = BASE) -> Spans | None:
    """Where `name` costs less than `base`; None if nowhere. Of two that cost the same at first, `base` is less."""
    between = [crossing for crossing in found.crossings if {crossing.cheaper, crossing.dearer} == {name, base}]
    starts = [crossing.images for crossing in between if crossing.cheaper == name]
    ends = [crossing.images for crossing in between if crossing.cheaper == base]
    if ends and (not starts or ends[0] < starts[0]):
        starts.insert(0, 1.0)
    elif not between and found.bills[name].total < found.bills[base].total:
        starts = [1.0]
    if not starts:
        return None
    return Spans(starts[0], starts[-1], ends[-1] if ends and ends[-1] > starts[-1] else None)


def fields(found: Comparison) -> dict[str, Any]:
    """As JSON has it. Costs are USD a month."""
    return {
        "schema": SCHEMA,
        "workload": asdict(found.workload),
        "alternatives": [
            {"name": name, "title": TITLES[name], "total": bill.total, **asdict(bill)}
            for name, bill in found.bills.items()
        ],
        "crossings": [asdict(crossing) for crossing in found.crossings],
        "least": [asdict(reign) for reign in found.reigns],
        "prices": {
            "file": found.prices.file,
            "region": found.prices.region,
            "not_read_from_aws": list(found.doubtful),
            "entries": {
                name: {"value": price.value, "unit": UNITS[name], **_origin_fields(price.origin)}
                for name, price in found.prices.entries.items()
            },
            "machines": {name: _machine_fields(machine) for name, machine in found.prices.machines.items()},
        },
    }


def lines(found: Comparison, width: int | None) -> list[Line]:
    """The comparison for a person."""
    from remotegpu.cli.tables import flow, line

    images = found.workload.images_per_month
    rate = f"{images / SECONDS_PER_MONTH:.3g} per second"
    head = f"{images:,.0f} pictures a month ({rate}) at the prices of {found.prices.region}, USD"
    least = [f"from {_count(reign.images)}: {TITLES[reign.name]}" for reign in found.reigns[:_REIGNS]]
    least += ["… (--json has all)"] if len(found.reigns) > _REIGNS else []
    made = [line((head, "bold")), line(), *_bill_lines(found, width), line(), *_crossing_lines(found, width)]
    made += [line(), *flow([("Least", "bold"), *least], width)]
    if found.doubtful:
        made += [line(), *flow([("Prices not read from AWS itself:", "bold"), *found.doubtful], width)]
    return made


def _bill_lines(found: Comparison, width: int | None) -> list[Line]:
    from remotegpu.cli.tables import Column, table

    columns = (
        Column("", least=16),
        Column("A MONTH", right=True),
        Column("A MILLION", right=True),
        Column("RUNS", rank=3, right=True),
        Column("COLD", rank=5, right=True),
        Column("BUSY", rank=2, right=True),
        Column("IDLE", rank=1, right=True),
        Column("CONTROL", rank=6, right=True),
        Column("NETWORK", rank=7, right=True),
        Column("SQS, S3", rank=8, right=True),
        Column("ALWAYS ON", rank=4),
    )
    cheapest = min(bill.total for bill in found.bills.values())
    rows = []
    for name, bill in found.bills.items():
        parts = (bill.run, bill.init, bill.busy, bill.idle, bill.control_plane, bill.network, bill.queue)
        total = f"{bill.total:,.2f}"
        million = f"{bill.total / found.workload.images_per_month * 1e6:,.2f}"
        shown = (total, "bold green") if bill.total == cheapest else total
        rows.append((TITLES[name], shown, million, *map(_usd, parts), _always_on(found, name, bill)))
    return table(columns, rows, width)


def _crossing_lines(found: Comparison, width: int | None) -> list[Line]:
    from remotegpu.cli.tables import Column, table

    columns = (
        Column(f"Cheaper than {TITLES[BASE]}", least=16),
        Column("FROM", right=True),
        Column("ALWAYS FROM", rank=1, right=True),
        Column("UP TO", rank=2, right=True),
    )
    rows = []
    for name in found.bills:
        if name != BASE:
            span = spans(found, name)
            cells = (_NEVER, "", "") if span is None else (_count(span.first), _count(span.steady), _count(span.until))
            rows.append((TITLES[name], *cells))
    return table(columns, rows, width)


def _always_on(found: Comparison, name: str, bill: Bill) -> str:
    if not bill.count:
        return ""
    sharers = found.workload.functions if name == "lambda-shared-gpu" else 1
    return f"{bill.count:,} × {bill.unit}" + (f" for {sharers} functions" if sharers > 1 else "")


def _usd(amount: float) -> str:
    return f"{amount:,.2f}" if amount >= 0.005 else ""


def _count(images: float | None) -> str:
    return "" if images is None else f"{images:,.0f}"


def _origin_fields(origin: Origin) -> dict[str, str]:
    return {"as_of": origin.as_of.isoformat(), "source": origin.source, "origin": origin.kind}


def _machine_fields(machine: Machine) -> dict[str, Any]:
    spot = machine.spot
    return {
        "usd_per_hour": machine.usd_per_hour,
        "vcpus": machine.vcpus,
        "gpu": machine.gpu or None,
        "baseline": machine.baseline,
        **_origin_fields(machine.origin),
        "spot": None if spot is None else {"usd_per_hour": spot.value, **_origin_fields(spot.origin)},
    }
