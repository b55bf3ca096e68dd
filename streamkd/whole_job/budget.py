"""The budget of a job: a time, or a number of epochs.

parse_budget("10m")           # Budget(text="10m", seconds=600.0)
parse_budget("30 epochs")     # Budget(text="30 epochs", epochs=30)
"""

from __future__ import annotations

import dataclasses
import re

from streamkd.errors import OptionError

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_TIME = re.compile(r"(\d+(?:\.\d+)?) ?([smhd])")
_EPOCHS = re.compile(r"(\d+) ?epochs?")


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a job may cost: `seconds` or `epochs`, and not both.

    Attributes:
      text: as it was typed.
      seconds: time for the teacher's answers and the distilled student; None for epochs.
      epochs: passes over the images; None for a time.
    """

    text: str
    seconds: float | None = None
    epochs: int | None = None


def parse_budget(text: str) -> Budget:
    """Returns the budget that a text such as '10m', '1.5h' or '30 epochs' stands for.

    Raises:
      OptionError: the text has another form, or the budget is nothing.
    """
    words = text.strip().lower()
    budget = None
    if match := _TIME.fullmatch(words):
        budget = Budget(text, seconds=float(match[1]) * SECONDS[match[2]])
    elif match := _EPOCHS.fullmatch(words):
        budget = Budget(text, epochs=int(match[1]))
    if budget is None or not (budget.seconds or budget.epochs):
        raise OptionError(
            f"The budget is {text!r}; it must be a time or a number of epochs.\n"
            "Give `--budget 10m`, `--budget 1h` or `--budget '30 epochs'`."
        )
    return budget


def as_time(seconds: float) -> str:
    """Returns a time in words: '40 seconds', '3 minutes', '1.5 hours'."""
    for size, noun in ((3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * size:
            return (
                f"{seconds / size:.2g} {noun}"
                if seconds < 10 * size
                else (f"{seconds / size:,.0f} {noun}")
            )
    return f"{seconds:.0f} seconds" if seconds >= 1 else "less than a second"
