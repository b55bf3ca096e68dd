"""What the students of a sweep came to, and which of them is the best.

outcome = outcome_of(history, images_per_step=128)
rows = ranked(settings, outcomes, "val_accuracy")
rows[0]["run"]                       # of the best
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from streamkd.sweeps.grid import AXES, Setting, flag_of, text_of, varied_axes
from streamkd.training.history import History

FINISHED, DIVERGED, FAILED = "finished", "diverged", "failed"
# What decides, with the words for it: the first number, then the second where that is equal.
CRITERIA = {
    "val_accuracy": "the largest accuracy on {num:,} images that no student learned from, then "
    "the smallest loss",
    "kl_to_teacher": "the smallest KL divergence from the teacher on {num:,} images that no "
    "student learned from",
}
# Columns of the table besides the settings.
MEASURED = ("val_accuracy", "val_loss", "kl_to_teacher", "agreement")
COLUMNS = ("rank", "run", *AXES, "status", *MEASURED, "epochs", "seconds", "message")


def outcome_of(history: History, images_per_step: int) -> dict[str, Any]:
    """Returns the outcome of a student that was trained to its end."""
    last = history.last
    return {
        "status": FINISHED,
        "val_accuracy": last.get("val_accuracy"),
        "val_loss": last.get("val_loss"),
        "kl_to_teacher": None,
        "agreement": None,
        "epochs": len(history.epochs),
        "seconds": _seconds(history.epochs, images_per_step),
        "message": None,
    }


def outcome_of_fault(fault: Exception, *, diverged: bool) -> dict[str, Any]:
    """Returns the outcome of a student that ended early by a fault."""
    message = (str(fault).splitlines() or [type(fault).__name__])[0]
    return {
        "status": DIVERGED if diverged else FAILED,
        **dict.fromkeys((*MEASURED, "epochs", "seconds")),
        "message": message,
    }


def _seconds(epochs: Sequence[Mapping[str, Any]], images_per_step: int) -> float | None:
    """Returns the time of a student's own steps; None if an epoch does not tell."""
    total, before = 0.0, 0
    for epoch in epochs:
        rate = epoch.get("images_per_second")
        if not rate:
            return None
        total += (epoch["step"] - before) * images_per_step / rate
        before = epoch["step"]
    return round(total, 3)


def ranked(
    settings: Sequence[Setting], outcomes: Mapping[str, Mapping[str, Any]], criterion: str, out: str
) -> list[dict[str, Any]]:
    """Returns one row a student, the best first, those that did not finish last.

    Args:
      settings: of the whole grid.
      outcomes: of every student, by the name of its run.
      criterion: one of `CRITERIA`.
      out: the directory of the runs.
    """

    def worth(setting: Setting) -> tuple[Any, ...]:
        outcome = outcomes[setting.name]
        if outcome["status"] != FINISHED:
            return (1, outcome["status"] != DIVERGED)
        if criterion == "val_accuracy":
            return (0, _worst_last(outcome, "val_accuracy", -1), _worst_last(outcome, "val_loss"))
        return (0, _worst_last(outcome, "kl_to_teacher"))

    rows = []
    for rank, setting in enumerate(sorted(settings, key=worth), 1):
        outcome = outcomes[setting.name]
        row = {"rank": rank, "run": f"{out}/{setting.name}", **setting.values, **outcome}
        rows.append({name: row.get(name) for name in COLUMNS})
    return rows


def _worst_last(outcome: Mapping[str, Any], name: str, sign: int = 1) -> float:
    value = outcome.get(name)
    return math.inf if value is None or math.isnan(value) else sign * value


def as_text(rows: Sequence[Mapping[str, Any]], settings: Sequence[Setting]) -> str:
    """Returns the table for a person: settings that differ, what was measured, the run."""
    names = varied_axes(settings)
    measured = [name for name in MEASURED if any(row[name] is not None for row in rows)]
    head = [*(flag_of(name).removeprefix("--") for name in names), *measured, "seconds", "run"]
    lines = [head]
    for row in rows:
        cells = [text_of(row[name]) for name in names]
        if row["status"] == FINISHED:
            cells += [_shown(row[name], 4) for name in measured] + [_shown(row["seconds"], 1)]
        else:
            cells += [row["status"], *[""] * len(measured)]
        lines.append([*cells, row["run"]])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    faults = [f"{row['run']}: {row['message']}" for row in rows if row["status"] != FINISHED]
    return "\n".join([*text, *faults])


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
