"""Which Keras callbacks a run can have, and which direction is better of what they watch.

callbacks = check_callbacks([EarlyStopping("val_accuracy")], tf_keras)
check_learning_rate(callbacks, optimizer)
settle_direction(callbacks[0], {"accuracy": "max"})
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from streamkd.errors import OptionError
from streamkd.training.optimizers import has_schedule, inner_optimizer

# Set the learning rate, which a schedule forbids.
LEARNING_RATE = ("ReduceLROnPlateau", "LearningRateScheduler")
# What a run does by itself, and what to say instead.
UNSUPPORTED_CALLBACKS = {
    "BackupAndRestore": (
        "sets the student back to the beginning of an epoch, and a run goes on by itself from the "
        "step it was stopped at.\nLeave it out, and give run='DIRECTORY'."
    ),
    "SwapEMAWeights": (
        "exchanges the weights with their averages, and a run does so by itself for validation, "
        "callbacks and the student that comes out.\nLeave it out; ema=0.999 is enough."
    ),
}
# Of what streamkd counts by itself.
DIRECTIONS = {
    "loss": "min",
    "label_loss": "min",
    "distillation_loss": "min",
    "accuracy": "max",
    "agreement": "max",
}


def check_callbacks(callbacks: Any, family: Any) -> list[Any]:
    """Returns the callbacks in one list; as for `fit`, there may be one alone, or lists in it.

    Raises:
      OptionError: one is of the other Keras family, or does what a run does; names it.
    """
    found = _flat(callbacks, family)
    for callback in found:
        _check_family(callback, family)
        for name, why in UNSUPPORTED_CALLBACKS.items():
            if is_kind_of(callback, name):
                raise OptionError(f"The callback {type(callback).__name__} {why}")
        _check_agreement(callback)
    return found


def is_kind_of(callback: Any, *names: str) -> bool:
    """Returns whether a callback, or a class that it derives from, has one of these names."""
    return any(base.__name__ in names for base in type(callback).__mro__)


def learning_rate_callback(callbacks: list[Any]) -> str | None:
    """Returns the name of the first callback that sets the learning rate, if there is one."""
    setting = (type(c).__name__ for c in callbacks if is_kind_of(c, *LEARNING_RATE))
    return next(setting, None)


def check_learning_rate(callbacks: list[Any], optimizer: Any) -> None:
    """Refuses a callback that sets the learning rate of an optimizer that has a schedule."""
    name = learning_rate_callback(callbacks)
    if name is not None and has_schedule(optimizer):
        schedule = type(inner_optimizer(optimizer)._learning_rate).__name__
        raise OptionError(
            f"The learning rate follows a schedule, {schedule}, and the callback {name} would set "
            "it.\nGive schedule='constant' or an optimizer with a number as its learning rate, or "
            f"leave {name} out."
        )


def settle_direction(callback: Any, directions: Mapping[str, str]) -> None:
    """Tells a callback of Keras 3 whether the largest or the smallest of what it watches is best.

    Under `fit` it looks for that in the metrics of the compiled model. It is settled before the
    first epoch, so that a run that goes on does not settle it twice.

    Args:
      callback: of any kind; those without a `mode` are left alone.
      directions: 'min' or 'max' by metric, without `val_`.

    Raises:
      OptionError: nothing says which.
    """
    if not hasattr(callback, "_set_monitor_op") or callback.monitor_op is not None:
        return
    if callback.mode == "auto":
        direction = directions.get(callback.monitor.removeprefix("val_"))
        # A ModelCheckpoint that keeps every epoch compares nothing.
        if direction is None and getattr(callback, "save_best_only", True):
            name = type(callback).__name__
            raise OptionError(
                f"The callback {name} monitors {callback.monitor!r}, and nothing says whether it "
                f"is better large or small.\nGive {name}(…, mode='max') or mode='min'."
            )
        callback.mode = direction or "min"
    callback._set_monitor_op()


def _flat(callbacks: Any, family: Any) -> list[Any]:
    if isinstance(callbacks, family.callbacks.CallbackList):
        callbacks = callbacks.callbacks
    if not isinstance(callbacks, list | tuple):
        return [] if callbacks is None else [callbacks]
    return [callback for some in callbacks for callback in _flat(some, family)]


def _check_family(callback: Any, family: Any) -> None:
    own = f"{family.__name__}.callbacks"
    if isinstance(callback, type):
        raise OptionError(
            f"The callback {callback.__name__} is a class.\n"
            f"Give an object of it: {callback.__name__}(…)."
        )
    if not isinstance(callback, family.callbacks.Callback):
        package = type(callback).__module__.partition(".")[0]
        raise OptionError(
            f"The callback {type(callback).__name__} belongs to {package}, and the student to "
            f"{family.__name__}.\nGive a callback of {own}."
        )


def _check_agreement(callback: Any) -> None:
    """Refuses to look for the smallest agreement: tf_keras does by default, as it does not know
    the name."""
    if getattr(callback, "monitor", None) != "agreement" or hasattr(callback, "_set_monitor_op"):
        return
    compares = getattr(callback, "save_best_only", True)
    if compares and (callback.monitor_op is np.less or getattr(callback, "mode", "") == "auto"):
        name = type(callback).__name__
        raise OptionError(
            f"The callback {name} would look for the smallest agreement.\n"
            f"Give {name}('agreement', …, mode='max')."
        )
