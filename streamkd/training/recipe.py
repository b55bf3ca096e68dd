"""The settings of a run: every number of the loss, the optimizer and the loop, checked once.

recipe = Recipe(temperature=4.0, label_weight=0.1, accumulate=2)
recipe.described()        # the settings that a resumed run must repeat
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar

from streamkd.checks import (
    check_below_one,
    check_choice,
    check_count,
    check_fraction,
    check_not_negative,
    check_positive,
)
from streamkd.errors import OptionError
from streamkd.losses.teacher_loss import PRESETS, name_of
from streamkd.training import schedules
from streamkd.training.schedules import SettingOverRun, as_setting

SCHEDULES = ("cosine", "constant")
LOSSES = ("auto", "bce", *PRESETS)
JITS = ("auto", "on", "off")
ON_NONFINITE = ("raise", "skip")
# Defaults of an optimizer given by name; an optimizer of the user's own has its own.
LEARNING_RATE = 1e-3
WARM_UP = 0.05
# Settings of an optimizer given by name.
OF_OPTIMIZER = ("learning_rate", "warm_up", "schedule", "weight_decay", "clip_norm", "ema")


@dataclasses.dataclass(kw_only=True)
class Recipe:
    """The settings of a `Distiller`, which documents them.

    Raises:
      OptionError: a number out of range, two settings that exclude each other, or a setting that is
        changed later, when the steps are compiled and would not notice.
    """

    _is_settled: ClassVar[bool] = False

    optimizer: Any = "adamw"
    learning_rate: float | None = None
    schedule: str | None = None
    warm_up: float | None = None
    weight_decay: float | None = None
    clip_norm: float | None = None
    accumulate: int = 1
    ema: float | None = None
    # A number or a `SettingOverRun`; 'auto' follows from the loss.
    temperature: Any = "auto"
    label_weight: Any = "auto"
    label_smoothing: float = 0.0
    loss: Any = "auto"
    standardize: bool = False
    jit: str = "auto"
    steps_per_call: int = 32
    on_nonfinite: str = "raise"

    def __post_init__(self) -> None:
        if isinstance(self.jit, bool):
            self.jit = "on" if self.jit else "off"
        self._check_own_optimizer()
        if isinstance(self.optimizer, str):
            self.learning_rate = LEARNING_RATE if self.learning_rate is None else self.learning_rate
            self.warm_up = WARM_UP if self.warm_up is None else self.warm_up
            check_positive("learning_rate", _one_number("learning_rate", self.learning_rate))
            check_fraction("warm_up", self.warm_up)
        self._settle_loss()
        check_count("steps_per_call", self.steps_per_call)
        check_count("accumulate", self.accumulate)
        check_below_one("label_smoothing", self.label_smoothing)
        if self.schedule is not None:
            check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("jit", self.jit, JITS)
        check_choice("on_nonfinite", self.on_nonfinite, ON_NONFINITE)
        if self.clip_norm is not None:
            check_positive("clip_norm", self.clip_norm)
        if self.ema is not None:
            check_below_one("ema", self.ema)
        if self.weight_decay is not None:
            check_not_negative("weight_decay", self.weight_decay)
        self.__dict__["_is_settled"] = True

    def __setattr__(self, name: str, value: Any) -> None:
        if self._is_settled:
            raise OptionError(
                f"{name} is set to {value!r}, and a recipe is not changed: its run has it in "
                f"compiled steps.\n{_train_in_parts(name)}"
            )
        super().__setattr__(name, value)

    def _settle_loss(self) -> None:
        """Gives the loss the temperature and the label weight of its paper where none is given."""
        if not callable(self.loss):
            check_choice("loss", self.loss, LOSSES)
        named = self.loss if isinstance(self.loss, str) else "kd"
        preset = PRESETS.get(named, PRESETS["kd"])
        if _is_auto(self.temperature):
            self.temperature = preset.temperature
        elif not preset.has_temperature or callable(self.loss):
            raise OptionError(
                f"temperature is {self.temperature!r}, and the loss {name_of(self.loss)} has none "
                "to set.\nLeave the temperature out."
            )
        self.temperature = as_setting("temperature", self.temperature, check_positive)
        if _is_auto(self.label_weight):
            self.label_weight = preset.label_weight
        self.label_weight = as_setting("label_weight", self.label_weight, check_fraction)

    def _check_own_optimizer(self) -> None:
        """Refuses settings of an optimizer by name together with the user's own optimizer."""
        if isinstance(self.optimizer, str):
            return
        for name in OF_OPTIMIZER:
            if getattr(self, name) is not None:
                raise OptionError(
                    f"{name} is {getattr(self, name)!r}, and the optimizer is your own "
                    f"{type(self.optimizer).__name__}, which is used as it is.\n"
                    f"Give the optimizer by name, or leave {name} out and set it in the optimizer."
                )

    @classmethod
    def names(cls) -> list[str]:
        """Returns the names of the settings."""
        return [field.name for field in dataclasses.fields(cls)]

    def num_steps(self, num_batches: int) -> int:
        """Returns the steps for `num_batches` batches; the last step may take more of them."""
        return -(-num_batches // self.accumulate)

    @property
    def changes_over_run(self) -> bool:
        """Whether a setting of the loss has other values at other fractions of the run."""
        settings = (self.temperature, self.label_weight)
        return any(isinstance(setting, SettingOverRun) for setting in settings)

    def described(self) -> dict[str, Any]:
        """Returns the settings that a resumed run must repeat, except the user's own optimizer.

        Those that keep their defaults are left out, unless the first release recorded them.
        """
        described: dict[str, Any] = {
            "temperature": schedules.described(self.temperature),
            "label_weight": schedules.described(self.label_weight),
        }
        if self.loss not in ("auto", "kd", "kl", "bce"):
            described["loss"] = name_of(self.loss)
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        defaults["warm_up"] = WARM_UP
        for name in ("label_smoothing", "standardize", "accumulate", "on_nonfinite"):
            if getattr(self, name) != defaults[name]:
                described[name] = getattr(self, name)
        if isinstance(self.optimizer, str):
            described["optimizer"] = self.optimizer
            described["learning_rate"] = self.learning_rate
            for name in ("warm_up", "weight_decay", "clip_norm", "ema"):
                if getattr(self, name) != defaults[name]:
                    described[name] = getattr(self, name)
        return described


def _is_auto(value: Any) -> bool:
    return isinstance(value, str) and value == "auto"


def _one_number(name: str, value: Any) -> Any:
    """Returns the number of a run; a schedule is refused with what can be done instead."""
    if not callable(value) and (isinstance(value, str) or not isinstance(value, Iterable)):
        return value
    kind = "a function" if callable(value) else f"a {type(value).__name__}"
    raise OptionError(
        f"{name} is {kind}, and it must be one number for the whole run.\n"
        "Give an optimizer that has the schedule: `optimizer=keras.optimizers.SGD(…)`."
    )


def _train_in_parts(name: str) -> str:
    return (
        "Train in parts instead, each with its own value: "
        f"`kd.Distiller(student, {name}=…).fit(stream, epochs=…)` goes on from the student's "
        "weights."
    )
