"""The picture of a sweep: a heat map of the grid, as PNG.

draw(rows, settings, "val_accuracy", Path("runs/sweep/sweep.png"))

The last setting that differs runs from left to right, all others from top to bottom. The best cell
has a frame; a student that did not finish has a grey one.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from streamkd import disk
from streamkd.sweeps.choice import CRITERIA, FINISHED
from streamkd.sweeps.grid import Setting, text_of, varied_axes

# Sizes in pixels.
_CELL, _HEIGHT, _MARGIN, _FONT = 110, 40, 12, 15
# Colours of the worst and the best cell, of one without a number, and of the text.
_WORST, _BEST, _NONE, _INK = (68, 52, 110), (250, 224, 90), (205, 205, 205), (20, 20, 20)


def draw(
    rows: Sequence[Mapping[str, Any]], settings: Sequence[Setting], criterion: str, path: Path
) -> None:
    """Draws the heat map of a grid; see `ranked` for the arguments."""
    from PIL import Image, ImageDraw, ImageFont

    names = varied_axes(settings)
    across, down = names[-1:], names[:-1]
    columns = _points(settings, across)
    lines = _points(settings, down)
    font = ImageFont.load_default(_FONT)
    left = _MARGIN + max(int(font.getlength(_label(down, point))) for point in lines) + _MARGIN
    title = f"{criterion}: {CRITERIA[criterion].split(' on ')[0]}"
    width = max(left + len(columns) * _CELL, int(font.getlength(title))) + _MARGIN
    top = 2 * _HEIGHT + _MARGIN
    image = Image.new("RGB", (width, top + len(lines) * _HEIGHT + _MARGIN), "white")
    canvas = ImageDraw.Draw(image)
    canvas.text((_MARGIN, _MARGIN), title, fill=_INK, font=font)
    values = [row[criterion] for row in rows if row[criterion] is not None]
    for number, point in enumerate(columns):
        x = left + number * _CELL + _CELL // 2
        label = _label(across, point)
        canvas.text((x, top - _HEIGHT // 2), label, fill=_INK, font=font, anchor="mm")
    for number, point in enumerate(lines):
        place = (_MARGIN, top + number * _HEIGHT + _HEIGHT // 2)
        canvas.text(place, _label(down, point), fill=_INK, font=font, anchor="lm")
    for row in reversed(rows):  # the best last, so that its frame lies above the others
        x = left + columns.index(_point(row, across)) * _CELL
        y = top + lines.index(_point(row, down)) * _HEIGHT
        box = (x, y, x + _CELL - 2, y + _HEIGHT - 2)
        worth = _worth(row[criterion], values, criterion)
        colour = _NONE if worth is None else _between(worth)
        is_best = row["rank"] == 1 and row["status"] == FINISHED
        canvas.rectangle(box, fill=colour, outline=_INK if is_best else colour, width=3)
        text = row["status"] if row[criterion] is None else f"{row[criterion]:.4f}"
        ink = "white" if worth is not None and worth < 0.5 else _INK
        center = (x + _CELL // 2, y + _HEIGHT // 2)
        canvas.text(center, text, fill=ink, font=font, anchor="mm")
    temporary = path.with_name(f".{path.name}.tmp.png")
    disk.remove(temporary)
    with disk.replacing(path, temporary), disk.open_new(temporary, "wb") as file:
        image.save(file, "PNG")


def _points(settings: Sequence[Setting], names: Sequence[str]) -> list[tuple[str, ...]]:
    """Returns the different values of some settings, in the order of the grid."""
    return list(dict.fromkeys(_point(setting.values, names) for setting in settings))


def _point(values: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(text_of(values[name]) for name in names)


def _label(names: Sequence[str], point: Sequence[str]) -> str:
    """Returns the words beside a row or above a column; a path is its last part."""
    words = (
        f"{name.replace('_', ' ')} {os.path.basename(text) if name == 'student' else text}"
        for name, text in itertools.zip_longest(names, point, fillvalue="")
    )
    return ", ".join(words)


def _worth(value: float | None, values: Sequence[float], criterion: str) -> float | None:
    """Returns where a number lies between the worst, 0, and the best, 1."""
    if value is None:
        return None
    low, high = min(values), max(values)
    if high == low:
        return 1.0
    share = (value - low) / (high - low)
    return share if criterion == "val_accuracy" else 1 - share


def _between(worth: float) -> tuple[int, ...]:
    return tuple(round(a + (b - a) * worth) for a, b in zip(_WORST, _BEST, strict=True))
