"""The Keras callbacks that a run can have, and the direction of the metrics that they monitor.

callbacks = check_callbacks([EarlyStopping("val_accuracy")], family)
check_learning_rate(callbacks, optimizer)
settle_direction(callbacks[0], family, {"accuracy": "max"})
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamkd.errors import OptionError
from streamkd.models.family_base import Family, package_of
from streamkd.training.optimizers import schedule_of

# Callbacks that set the learning rate, which a schedule forbids.
LEARNING_RATE = ("ReduceLROnPlateau", "LearningRateScheduler")
# Callbacks that do what a run does by itself, each with the rest of its refusal.
UNSUPPORTED_CALLBACKS = {
    "BackupAndRestore": (
        "sets the student back to the beginning of an epoch; a run resumes by itself, from the "
        "step it was stopped at.\nLeave the callback out, and give run='DIRECTORY'."
    ),
    "SwapEMAWeights": (
        "exchanges the weights with their averages; a run does so by itself for validation, "
        "callbacks and the finished student.\nLeave the callback out; ema=0.999 is enough."
    ),
}
# Better direction of each metric of streamkd's own.
DIRECTIONS = {
    "loss": "min",
    "label_loss": "min",
    "distillation_loss": "min",
    "accuracy": "max",
    "agreement": "max",
}


def check_callbacks(callbacks: Any, family: Family) -> list[Any]:
    """Returns the callbacks in one list, from a callback or nested lists, as `fit` takes them.

    Raises:
      OptionError: names a callback of the other Keras family, or one that does what a run does.
    """
    flat = _flat(callbacks, family)
    for callback in flat:
        _check_family(callback, family)
        for name, reason in UNSUPPORTED_CALLBACKS.items():
            if is_kind_of(callback, name):
                raise OptionError(f"The callback {type(callback).__name__} {reason}")
        _check_agreement(callback, family)
    return flat


def is_kind_of(callback: Any, *names: str) -> bool:
    """Returns whether a callback's class, or a class that it derives from, has one of the names."""
    return any(base.__name__ in names for base in type(callback).__mro__)


def learning_rate_callback(callbacks: list[Any]) -> str | None:
    """Returns the name of the first callback that sets the learning rate, if any does."""
    names = (type(c).__name__ for c in callbacks if is_kind_of(c, *LEARNING_RATE))
    return next(names, None)


def default_schedule(callbacks: list[Any]) -> str:
    """Returns the schedule of an optimizer given by name: none beside a callback with its own."""
    return "cosine" if learning_rate_callback(callbacks) is None else "constant"


def check_learning_rate(callbacks: list[Any], optimizer: Any) -> None:
    """Refuses, as an OptionError, a callback that would set the learning rate of a schedule."""
    name = learning_rate_callback(callbacks)
    if name is None:
        return
    schedule = schedule_of(optimizer)
    if schedule is not None:
        raise OptionError(
            f"The learning rate follows a schedule, {type(schedule).__name__}, and the callback "
            f"{name} would set it.\nGive schedule='constant' or an optimizer with a number as its "
            f"learning rate, or leave {name} out."
        )


def settle_direction(callback: Any, family: Family, directions: Mapping[str, str]) -> None:
    """Tells a callback of Keras 3 whether large or small values of its metric are better.

    Under `fit` the callback asks the metrics of the compiled model. The direction is settled before
    the first epoch, so that a resumed run does not settle it twice.

    Args:
      callback: of any kind; a callback that knows its direction is left alone.
      family: of the callback.
      directions: 'min' or 'max' by metric, without `val_`.

    Raises:
      OptionError: no direction is known.
    """
    if not family.lacks_direction(callback):
        return
    mode = callback.mode
    if mode == "auto":
        direction = directions.get(callback.monitor.removeprefix("val_"))
        # A ModelCheckpoint that keeps every epoch compares nothing.
        if direction is None and getattr(callback, "save_best_only", True):
            name = type(callback).__name__
            raise OptionError(
                f"The callback {name} monitors {callback.monitor!r}, and nothing says whether "
                f"large or small values are better.\nGive {name}(…, mode='max') or mode='min'."
            )
        mode = direction or "min"
    family.settle_direction(callback, mode)


def _flat(callbacks: Any, family: Family) -> list[Any]:
    if isinstance(callbacks, family.keras.callbacks.CallbackList):
        callbacks = callbacks.callbacks
    if not isinstance(callbacks, list | tuple):
        return [] if callbacks is None else [callbacks]
    return [callback for nested in callbacks for callback in _flat(nested, family)]


def _check_family(callback: Any, family: Family) -> None:
    if isinstance(callback, type):
        raise OptionError(
            f"The callback {callback.__name__} is a class.\nGive an object: {callback.__name__}(…)."
        )
    if not isinstance(callback, family.keras.callbacks.Callback):
        raise OptionError(
            f"The callback {type(callback).__name__} belongs to {package_of(type(callback))}, and "
            f"the student to {family.name}.\nGive a callback of {family.name}.callbacks."
        )


def _check_agreement(callback: Any, family: Family) -> None:
    """Refuses a callback that would take the smallest agreement as the best.

    By default tf_keras does so for metrics whose names it does not know.
    """
    if getattr(callback, "monitor", None) != "agreement":
        return
    if family.takes_smallest_as_best(callback):
        name = type(callback).__name__
        raise OptionError(
            f"The callback {name} would look for the smallest agreement.\n"
            f"Give {name}('agreement', …, mode='max')."
        )
