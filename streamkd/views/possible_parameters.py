"""Parameters of views that no drawing gives: what a damaged or forged store may hold.

for impossible, fault in impossible_parameters(views, stored, num_images=1000):
    fault(row)          # "its `view_share` is 5; it must be 0 to 1"
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np

from streamkd.views.views import Views

# Drawn numbers are rounded to float32.
_ROUNDING = 1e-5
_BOXES = ("view_crop", "view_paste", "view_erase")


def impossible_parameters(
    views: Views, stored: dict[str, np.ndarray], num_images: int
) -> Iterator[tuple[np.ndarray, Callable[[int], str]]]:
    """Yields, for each parameter, bool `[rows]` of impossible ones, and a row's fault in words.

    Args:
      views: that the parameters belong to.
      stored: of each parameter an array `[rows, …]`, typed as in `Views.datasets`; other names are
        not looked at.
      num_images: of the store; a partner is one of them, none, or one that was left out.
    """
    for name, dataset in views.datasets().items():
        values = stored[name].reshape(-1, *dataset[1])
        limits, meaning = _limits(name, views, num_images)
        if limits is None:
            continue
        # A comparison with NaN is false.
        inside = np.logical_and(values >= limits[0], values <= limits[1])
        possible = np.asarray(inside.reshape(len(values), -1).all(axis=1))
        if name in _BOXES:
            with np.errstate(invalid="ignore"):
                possible &= (values[:, :2] <= values[:, 2:]).all(axis=1)
        yield ~possible, functools.partial(_fault, name, values, meaning)


def _fault(name: str, values: np.ndarray, meaning: str, row: int) -> str:
    return f"its `{name}` is {values[row].tolist()}; it must be {meaning}"


def _limits(name: str, views: Views, num_images: int) -> tuple[tuple[float, float] | None, str]:
    """Returns the smallest and the largest possible number of a parameter, and both in words."""
    if name in _BOXES:
        return (-_ROUNDING, 1 + _ROUNDING), "a box, y1, x1, y2, x2, from 0 to 1"
    if name == "view_share":
        return (-_ROUNDING, 1 + _ROUNDING), "0 to 1"
    if name == "view_color":
        low, high = 1 - views.color, 1 + views.color
        return (low - _ROUNDING, high + _ROUNDING), f"three factors, {low:g} to {high:g}"
    if name == "view_flip":
        return (0, 1), "0 or 1"
    if name == "view_partner":
        # A merge that leaves an image out writes -2 for it.
        return (
            -2,
            num_images - 1,
        ), f"one of {num_images:,} images, -1 for none, or -2 for one gone"
    return None, ""  # every seed is possible
