"""The settings of a run: every number of the loss, the optimizer and the loop, checked once.

recipe = Recipe(temperature=4.0, label_weight=0.1, accumulate=2)
recipe.described()        # the settings that a resumed run must repeat
"""

from __future__ import annotations

import dataclasses
from typing import Any

from streamkd.checks import check_choice, check_count, check_fraction, check_positive
from streamkd.errors import OptionError

SCHEDULES = ("cosine", "constant")
LOSSES = ("auto", "kl", "bce")
JITS = ("auto", "on", "off")
ON_NONFINITE = ("raise", "skip")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of a `Distiller`, which documents them.

    Raises:
      OptionError: a number out of range, or two settings that exclude each other.
    """

    optimizer: Any = "adamw"
    learning_rate: float = 1e-3
    schedule: str | None = None
    warm_up: float = 0.05
    weight_decay: float | None = None
    clip_norm: float | None = None
    accumulate: int = 1
    ema: float | None = None
    temperature: float = 4.0
    label_weight: float = 0.1
    label_smoothing: float = 0.0
    loss: str = "auto"
    jit: str = "auto"
    steps_per_call: int = 32
    on_nonfinite: str = "raise"

    def __post_init__(self) -> None:
        if isinstance(self.jit, bool):
            object.__setattr__(self, "jit", "on" if self.jit else "off")
        check_positive("temperature", self.temperature)
        check_fraction("label_weight", self.label_weight)
        check_positive("learning_rate", self.learning_rate)
        check_count("steps_per_call", self.steps_per_call)
        check_count("accumulate", self.accumulate)
        check_fraction("warm_up", self.warm_up)
        _check_below_one("label_smoothing", self.label_smoothing)
        if self.schedule is not None:
            check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("loss", self.loss, LOSSES)
        check_choice("jit", self.jit, JITS)
        check_choice("on_nonfinite", self.on_nonfinite, ON_NONFINITE)
        if self.clip_norm is not None:
            check_positive("clip_norm", self.clip_norm)
        if self.ema is not None:
            _check_below_one("ema", self.ema)
        if self.weight_decay is not None and not 0 <= self.weight_decay < float("inf"):
            raise OptionError(
                f"weight_decay is {self.weight_decay!r}; it must be zero or a positive number."
            )
        self._check_own_optimizer()

    def _check_own_optimizer(self) -> None:
        """Refuses settings of an optimizer by name together with the user's own optimizer."""
        if isinstance(self.optimizer, str):
            return
        for name in ("schedule", "weight_decay", "clip_norm", "ema"):
            if getattr(self, name) is not None:
                raise OptionError(
                    f"{name} is {getattr(self, name)!r}, and the optimizer is your own "
                    f"{type(self.optimizer).__name__}, which is used as it is.\n"
                    f"Give the optimizer by name, or leave {name} out and set it in the optimizer."
                )

    def num_steps(self, num_batches: int) -> int:
        """Returns the steps for `num_batches` batches; the last step may take more of them."""
        return -(-num_batches // self.accumulate)

    def described(self) -> dict[str, Any]:
        """Returns the settings that a resumed run must repeat, except the user's own optimizer.

        Those that keep their defaults are left out, unless the first release recorded them.
        """
        described: dict[str, Any] = {
            "temperature": float(self.temperature),
            "label_weight": float(self.label_weight),
        }
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in ("label_smoothing", "accumulate", "on_nonfinite"):
            if getattr(self, name) != defaults[name]:
                described[name] = getattr(self, name)
        if isinstance(self.optimizer, str):
            described["optimizer"] = self.optimizer
            described["learning_rate"] = self.learning_rate
            for name in ("warm_up", "weight_decay", "clip_norm", "ema"):
                if getattr(self, name) != defaults[name]:
                    described[name] = getattr(self, name)
        return described


def _check_below_one(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise OptionError(f"{name} is {value!r}; it must be at least 0 and below 1.")
