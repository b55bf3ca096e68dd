"""The optimizer of a run: by name with a cosine, or the user's own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from streamkd.errors import OptionError
from streamkd.keras_family import family_name

# The first twentieth of the steps warms up: the usual share (5 epochs of 90 to 300).
WARM_UP_SHARE = 0.05


def build_optimizer(optimizer: Any, family: Any, *, learning_rate: float, num_steps: int) -> Any:
    """Returns an optimizer of the student's family.

    Args:
      optimizer: a Keras name such as 'adamw', or an optimizer, which is returned as it is.
      family: `tf_keras` or `keras`.
      learning_rate: the highest; reached after the warm-up, zero after `num_steps`.
      num_steps: steps of the whole run.

    Raises:
      OptionError: no optimizer of that name, or one of the other Keras family.
    """
    if not isinstance(optimizer, str):
        own = _family_of_optimizer(optimizer)
        if own != family.__name__:
            raise OptionError(
                f"The optimizer {type(optimizer).__name__} belongs to {own or 'no Keras family'}, "
                f"and the student to {family.__name__}.\n"
                f"Give an optimizer of {family.__name__}, or its name."
            )
        return optimizer
    warm_up_steps = min(math.ceil(WARM_UP_SHARE * num_steps), num_steps - 1)
    schedule = family.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warm_up_steps else learning_rate,
        decay_steps=max(1, num_steps - warm_up_steps),
        warmup_target=learning_rate if warm_up_steps else None,
        warmup_steps=warm_up_steps,
    )
    try:
        built = family.optimizers.get(optimizer)
    except (ValueError, TypeError) as error:
        raise OptionError(
            f"There is no optimizer {optimizer!r} in {family.__name__}.\n"
            "Give a Keras name such as adamw, adam, sgd or rmsprop."
        ) from error
    return type(built).from_config({**built.get_config(), "learning_rate": schedule})


def learning_rate_of(optimizer: Any) -> float:
    """Returns the learning rate of the next step."""
    schedule = optimizer._learning_rate
    if callable(schedule):  # tf_keras would answer with the rate of the last step
        return float(schedule(optimizer.iterations))
    return float(np.asarray(optimizer.learning_rate))


def _family_of_optimizer(optimizer: Any) -> str | None:
    for base in type(optimizer).__mro__:
        package = base.__module__.partition(".")[0]
        if package in ("tf_keras", "keras") and base.__name__ == "Optimizer":
            return package
    return family_name(optimizer)
