"""A run that is to take more epochs than its schedules were planned for.

begun, extended = replanned(run, begun, config, extend=True)

A learning rate along a cosine, and settings that change over the run, are planned for a number of
epochs. Extended, the run goes on along the schedules of the larger number from the step that it
has reached. What it was before is kept in config.json, in the entry `extended`.
"""

from __future__ import annotations

import os
from typing import Any

from streamkd.errors import ResumeError

# The entry of the epochs that schedules were planned for, absent without schedules; and that of
# earlier plans, one object each: the epochs, and the step from which others counted.
PLANNED, EXTENDED = "epochs", "extended"


def replanned(
    run: str | os.PathLike[str], begun: dict[str, Any], config: dict[str, Any], *, extend: bool
) -> tuple[dict[str, Any], int | None]:
    """Returns the configuration `begun` as it would be for the epochs of `config`.

    Args:
      run: path of the run directory.
      begun: of the run.
      config: of this start.
      extend: whether the run may take more epochs than it was planned for.

    Returns:
      The configuration, and the epochs that the run was planned for if these are changed now.

    Raises:
      ResumeError: fewer epochs; or more, without `extend`.
    """
    was, now = begun.get(PLANNED), config.get(PLANNED)
    if was is None and now is not None:  # begun before settings over the run were recorded
        return {**begun, PLANNED: now}, None
    if was == now or not isinstance(was, int) or not isinstance(now, int):
        return begun, None
    if now > was and extend:
        return {**begun, PLANNED: now}, was
    noun, verb = "epoch" if was == 1 else "epochs", "is" if now == 1 else "are"
    counts = f"The run {run} was started with {was} {noun}, and {now} {verb} asked for now.\n"
    if now < was:
        raise ResumeError(
            f"{counts}Its learning rate or its other schedules were planned for {was}, so a run "
            f"cannot be made shorter. Give `--epochs {was}`, or another `--out`; to start again, "
            "add `--no-resume`."
        )
    raise ResumeError(
        f"{counts}Its learning rate or its other schedules were planned for these epochs. To go on "
        f"along the schedules of {now} epochs from the step that the run has reached, add "
        "`--extend` (extend=True in Python); the student is then not that of a run of "
        f"{now} from its beginning. To train the student of this run anew, give `--student {run} "
        f"--out {run}-longer`; to start again, add `--no-resume`."
    )


def earlier_plans(begun: dict[str, Any], was: int | None, step: int) -> dict[str, Any]:
    """Returns the entry of config.json about earlier plans; empty for a run that never had others.

    Args:
      begun: the configuration of the run.
      was: epochs that the run was planned for until now, if these are changed.
      step: the step that it has reached.
    """
    plans = list(begun.get(EXTENDED) or [])
    if was is not None:
        plans.append({"epochs": was, "step": step})
    return {EXTENDED: plans} if plans else {}
