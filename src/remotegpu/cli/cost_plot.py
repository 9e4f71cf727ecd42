# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The picture of `remotegpu cost`: cost against pictures per month, with the crossings."""

from __future__ import annotations

from pathlib import Path

from remotegpu.cli import pictures
from remotegpu.cli.cost_report import BASE, TITLES, Comparison, spans
from remotegpu.cost.crossings import GREATEST, LEAST, grid

_SIZE = (11, 7)
# How far beyond the load and the crossings with the base the axis goes: a factor.
_MARGIN = 10.0


def draw(found: Comparison, file: Path) -> None:
    """Writes it. Small dots are crossings of any two, large ones those with a function alone, whose first one is in
    the legend. Raises ConfigurationError if it cannot be written."""
    images = found.workload.images_per_month
    known = [crossing for crossing in found.crossings if BASE in (crossing.cheaper, crossing.dearer)]
    marked = [images, *(crossing.images for crossing in known)]
    least, greatest = max(LEAST, min(marked) / _MARGIN), min(GREATEST, max(marked) * _MARGIN)
    figure = pictures.figure(*_SIZE)
    axes = figure.subplots()
    places = grid(least, greatest)
    for name, cost in found.totals.items():
        wide = 2.5 if name == BASE else 1.5
        axes.plot(places, [cost(place) for place in places], label=_label(found, name), linewidth=wide)
    axes.axvline(images, color="grey", linestyle=":", label=f"{images:,.0f} pictures")
    inside = [crossing for crossing in found.crossings if least <= crossing.images <= greatest]
    axes.plot([each.images for each in inside], [each.usd for each in inside], "o", color="grey", markersize=3)
    axes.plot([each.images for each in known], [each.usd for each in known], "o", color="black", markersize=6)
    axes.set(xscale="log", yscale="log", xlim=(least, greatest), xlabel="pictures a month", ylabel="USD a month")
    axes.set_title(f"Cost of a month, {found.prices.region}")
    axes.grid(alpha=0.3)
    axes.legend()
    pictures.write(figure, file)


def _label(found: Comparison, name: str) -> str:
    span = spans(found, name) if name != BASE else None
    return TITLES[name] + (f": less than {TITLES[BASE]} from {span.first:,.0f}" if span is not None else "")
