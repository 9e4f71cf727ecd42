# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Lines, bars and tables, cut to a number of terminal cells. The only file that imports rich."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

Line = Text
# A text, or a text with its style in rich's words ("bold red").
Cell = str | tuple[str, str]
Colours = Literal["standard", "256", "truecolor"]

GAP = 2
BAR_CELLS = 8
ELLIPSIS = "…"
# Of the same widths, for a terminal or file that cannot show the others.
_PLAIN = str.maketrans({"█": "#", "░": "-", ELLIPSIS: "~", "▸": ">", "°": " ", "↑": "^", "↓": "v", "\ufffd": "?"})
# Control, format and surrogate characters, line and paragraph separators: they move the cursor or hide what follows.
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. Those of rank 0 always stay; of the others the highest rank leaves first.

    `least`: to how many cells it may be narrowed before columns have to leave; 0: it may not."""

    head: str
    rank: int = 0
    right: bool = False
    least: int = 0


def printable(text: str) -> str:
    """The text without anything that a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(
        " " if letter in "\t\n\r" else "\ufffd" if unicodedata.category(letter) in _UNPRINTABLE else letter
        for letter in text
    )


def line(*cells: Cell) -> Line:
    """One line of text made of these."""
    made = Line()
    for cell in cells:
        text, style = (cell, "") if isinstance(cell, str) else cell
        made.append(printable(text), style)
    return made


def cut(given: Line, width: int | None) -> Line:
    """The line with at most `width` cells; what was cut shows as an ellipsis."""
    if width is not None:
        given.truncate(width, overflow="ellipsis")
    return given


def filled(given: Line, width: int) -> Line:
    """The line with exactly `width` cells."""
    given.truncate(width, overflow="ellipsis", pad=True)
    return given


def bar(fraction: float) -> str:
    """0 to 1 as "████░░░░ 50%"."""
    share = min(1.0, max(0.0, fraction))
    full = round(share * BAR_CELLS)
    return f"{'█' * full}{'░' * (BAR_CELLS - full)} {share:.0%}"


def flow(items: Sequence[Cell], width: int | None) -> list[Line]:
    """Items beside each other, on as many lines as they need."""
    lines: list[Line] = []
    for item in items:
        piece = cut(line(item), width)
        if lines and (width is None or lines[-1].cell_len + GAP + piece.cell_len <= width):
            lines[-1].append(" " * GAP).append_text(piece)
        else:
            lines.append(piece)
    return lines


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int | None) -> list[Line]:
    """The head and one line for each row, with at most `width` cells; columns without any content are left out."""
    cells = [[line(cell) for cell in row] for row in rows]
    natural = []
    for index, column in enumerate(columns):
        widest = max((row[index].cell_len for row in cells), default=0)
        natural.append(max(cell_len(column.head), widest) if widest else 0)
    widths = fit(columns, natural, width)
    head = _row(columns, [line((column.head, "bold")) for column in columns], widths, width)
    return [head, *(_row(columns, row, widths, width) for row in cells)]


def fit(columns: Sequence[Column], natural: Sequence[int], width: int | None) -> dict[int, int]:
    """The widths of the columns that stay, by index, for columns whose contents have the `natural` widths.

    First columns are narrowed as far as they allow, then those of the highest rank leave; what room is left then goes
    to the narrowed ones, from the left."""
    shown = [index for index, cells in enumerate(natural) if cells]
    if width is None:
        return {index: natural[index] for index in shown}
    widths = {index: min(natural[index], columns[index].least or natural[index]) for index in shown}

    def spare() -> int:
        return width - sum(widths.values()) - GAP * (len(widths) - 1)

    while spare() < 0:
        last = max(widths, key=lambda index: columns[index].rank)
        if not columns[last].rank:
            break
        del widths[last]
    for index in widths:
        widths[index] += max(min(natural[index] - widths[index], spare()), 0)
    return widths


def _row(columns: Sequence[Column], cells: Sequence[Line], widths: dict[int, int], width: int | None) -> Line:
    made = Line()
    for index, cells_wide in widths.items():
        cell = cut(cells[index].copy(), cells_wide)
        cell.align("right" if columns[index].right else "left", cells_wide)
        made.append(" " * GAP if made else "").append_text(cell)
    made.rstrip()
    return cut(made, width)


def colours(stream: TextIO) -> Colours | None:
    """What colours the terminal behind a stream has, by TERM, COLORTERM and NO_COLOR; None for no terminal."""
    found: Colours | None = Console(file=stream).color_system  # type: ignore[assignment]
    return found


def painted(lines: Sequence[Line], palette: Colours | None) -> list[str]:
    """The lines with the escape codes of their styles; without a palette as plain text."""
    if palette is None:
        return [given.plain for given in lines]
    texts = []
    for given in lines:
        file = io.StringIO()
        console = Console(file=file, force_terminal=True, color_system=palette, legacy_windows=False)
        console.print(given, end="", soft_wrap=True, highlight=False)
        texts.append(file.getvalue())
    return texts


def frame(lines: Sequence[Line], width: int, height: int, palette: Colours | None) -> str:
    """What a terminal must be sent to show the lines and nothing else: each line over the one that stands there, and
    what sticks out of that one cleared; the screen is never empty in between, so that it does not flicker. `width` in
    cells; only the first `height` lines are shown."""
    shown = [*lines, *[Line()] * (height - len(lines))][:height]
    # Where it is understood, the terminal shows nothing before the end of the update. A full line is not followed by a
    # clearing, which would take its last cell.
    parts = ["\x1b[?2026h"]
    for number, (given, text) in enumerate(zip(shown, painted(shown, palette), strict=True), 1):
        parts.append(f"\x1b[{number};1H{text}" + ("\x1b[K" if given.cell_len < width else ""))
    return "".join(parts) + "\x1b[?2026l"


def encoded(text: str, encoding: str) -> bytes:
    """The text for a terminal or file of that encoding: bars and marks get a stand-in where it has none of them."""
    try:
        return text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_PLAIN).encode(encoding, "replace")
