"""The optimizer of a run: by name with a cosine, or the user's own.

    family = family_of(student)
    optimizer = build_optimizer(recipe, family, num_steps=10_000, variables=model.weights)
    learning_rate_of(optimizer)          # of the next step
    loss_scale_of(optimizer)             # 1 unless the optimizer scales the loss
    apply_gradients(optimizer, gradients, model.trainable_variables)

Clipping, weight decay, moving averages and loss scaling are Keras' own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.errors import OptionError
from streamkd.models.families import family_of_optimizer
from streamkd.models.family_base import Family
from streamkd.training.recipe import Recipe


def build_optimizer(
    recipe: Recipe,
    family: Family,
    *,
    num_steps: int,
    variables: Sequence[Any],
    schedule: str = "cosine",
    scales_loss: bool = False,
) -> Any:
    """Returns an optimizer of the student's family, built for its variables.

    Args:
      recipe: with a Keras name such as 'adamw', or an optimizer, which is used as it is.
      family: of the student.
      num_steps: steps of the whole run.
      variables: the trained ones. Those of one dimension, biases and the scales and offsets of
        norms, have no weight decay.
      schedule: 'cosine' or 'constant', as in `Distiller`.
      scales_loss: whether to multiply the loss, so that small gradients do not vanish in float16.

    Raises:
      OptionError: the family has no optimizer of that name, or the optimizer is not of the family.
    """
    optimizer = recipe.optimizer
    if isinstance(optimizer, str):
        optimizer = _by_name(recipe, family, num_steps, schedule)
        if optimizer.weight_decay:
            flat = [variable for variable in variables if len(variable.shape) < 2]
            optimizer.exclude_from_weight_decay(var_list=flat)
    else:
        check_family(optimizer, family)
    scaling = family.keras.mixed_precision.LossScaleOptimizer
    if scales_loss and not isinstance(optimizer, scaling):
        optimizer = scaling(optimizer)
    # The step sums the gradients itself, before it looks whether they are finite. One replica has
    # nothing to sum; and TensorFlow registers the gradient of each sum for ever, and so would keep
    # the graph of the step.
    family.expect_summed_gradients(inner_optimizer(optimizer))
    optimizer.build(variables)
    return optimizer


def inner_optimizer(optimizer: Any) -> Any:
    """Returns the optimizer within a loss scale optimizer; any other optimizer itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def loss_scale_of(optimizer: Any) -> tf.Tensor:
    """Returns the factor of the loss before the gradient is taken, float32."""
    scaled = _family_of(optimizer).scaled_loss(optimizer, tf.constant(1.0))
    return tf.cast(scaled, tf.float32)


def apply_gradients(optimizer: Any, gradients: Any, variables: Sequence[Any]) -> None:
    """Updates variables by gradients of the scaled loss that are summed over all replicas."""
    _family_of(optimizer).apply_gradients(optimizer, gradients, variables)


def schedule_of(optimizer: Any) -> Callable[[Any], Any] | None:
    """Returns the schedule that forbids to set the learning rate; None if it can be set."""
    return _family_of(optimizer).schedule_of(inner_optimizer(optimizer))


def learning_rate_of(optimizer: Any) -> float:
    """Returns the learning rate of the next step."""
    schedule = schedule_of(optimizer)
    optimizer = inner_optimizer(optimizer)
    if schedule is not None:  # tf_keras would answer with the rate of the last step
        return float(schedule(optimizer.iterations))
    return float(np.asarray(optimizer.learning_rate))


def _by_name(recipe: Recipe, family: Family, num_steps: int, schedule: str) -> Any:
    try:
        built = family.keras.optimizers.get(recipe.optimizer)
    except (ValueError, TypeError) as error:
        raise OptionError(
            f"There is no optimizer {recipe.optimizer!r} in {family.name}.\n"
            "Give a Keras name such as adamw, adam, sgd or rmsprop."
        ) from error
    settings: dict[str, Any] = {"learning_rate": recipe.learning_rate}
    if schedule == "cosine":
        settings["learning_rate"] = _cosine(recipe, family, num_steps)
    if recipe.weight_decay is not None:
        settings["weight_decay"] = recipe.weight_decay
    if recipe.clip_norm is not None:
        settings["global_clipnorm"] = recipe.clip_norm
    if recipe.ema is not None:
        settings |= {"use_ema": True, "ema_momentum": recipe.ema}
    return type(built).from_config({**built.get_config(), **settings})


def _cosine(recipe: Recipe, family: Family, num_steps: int) -> Any:
    warm_up_steps = min(math.ceil((recipe.warm_up or 0.0) * num_steps), num_steps - 1)
    return family.keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warm_up_steps else recipe.learning_rate,
        decay_steps=max(1, num_steps - warm_up_steps),
        warmup_target=recipe.learning_rate if warm_up_steps else None,
        warmup_steps=warm_up_steps,
    )


def check_family(optimizer: Any, family: Family) -> None:
    """Refuses, as an OptionError, an optimizer that is not of the student's family."""
    own = family_of_optimizer(optimizer)
    if own is family:
        return
    if isinstance(optimizer, type):
        name = optimizer.__name__
        raise OptionError(
            f"The optimizer is the class {name}, and no optimizer.\n"
            f"Give an object, such as `{name}(0.001)`, or a name."
        )
    kind = type(optimizer).__name__
    if "legacy" in type(optimizer).__module__:
        raise OptionError(
            f"The optimizer {kind} is one of tf_keras' legacy optimizers.\n"
            f"Give {family.name}.optimizers.{kind}, or its name."
        )
    raise OptionError(
        f"The optimizer {kind} belongs to {own.name if own else 'no Keras family'}, "
        f"and the student to {family.name}.\n"
        f"Give an optimizer of {family.name}, or its name."
    )


def _family_of(optimizer: Any) -> Family:
    """Returns the family of an optimizer that `check_family` has let pass."""
    family = family_of_optimizer(optimizer)
    assert family is not None
    return family
