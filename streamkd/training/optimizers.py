"""The optimizer of a run: by name with a cosine, or the user's own.

    optimizer = build_optimizer(recipe, tf_keras, num_steps=10_000, variables=model.weights)
    optimizer.learning_rate              # the user's own optimizer is returned as it is

Clipping, weight decay, moving averages and loss scaling are Keras' own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.errors import OptionError
from streamkd.models.families import KERAS_3, family_name
from streamkd.training.recipe import Recipe


def build_optimizer(
    recipe: Recipe,
    family: Any,
    *,
    num_steps: int,
    variables: Sequence[Any],
    schedule: str = "cosine",
    scales_loss: bool = False,
) -> Any:
    """Returns an optimizer of the student's family, built for its variables.

    Args:
      recipe: with a Keras name such as 'adamw', or an optimizer, which is used as it is.
      family: `tf_keras` or `keras`.
      num_steps: steps of the whole run.
      variables: what is trained. Those of one dimension, biases and the scales and offsets of
        norms, have no weight decay.
      schedule: 'cosine' rises from zero to the learning rate over a share `recipe.warm_up` of the
        steps and falls to zero along a cosine; 'constant' stays at the learning rate.
      scales_loss: multiply the loss, so that small gradients do not vanish in float16.

    Raises:
      OptionError: no optimizer of that name, one of the other Keras family, or one that cannot do
        what is asked of it.
    """
    optimizer = recipe.optimizer
    if isinstance(optimizer, str):
        optimizer = _by_name(recipe, family, num_steps, schedule)
        if optimizer.weight_decay:
            flat = [variable for variable in variables if len(variable.shape) < 2]
            optimizer.exclude_from_weight_decay(var_list=flat)
    else:
        check_family(optimizer, family)
    scaling = scaling_class(family)
    if scales_loss and not isinstance(optimizer, scaling):
        optimizer = scaling(optimizer)
    if family.__name__ == KERAS_3 and tf.distribute.get_strategy().num_replicas_in_sync > 1:
        # It would sum up once more what was summed over the replicas, to be looked at, before.
        inner_optimizer(optimizer)._all_reduce_sum_gradients = list
    optimizer.build(variables)
    return optimizer


def scaling_class(family: Any) -> type:
    """Returns the optimizer of a family that scales the loss."""
    return family.mixed_precision.LossScaleOptimizer


def inner_optimizer(optimizer: Any) -> Any:
    """Returns the optimizer that a loss scale is around, or the optimizer itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def loss_scale_of(optimizer: Any) -> tf.Tensor:
    """Returns what the loss is multiplied by before the gradient is taken, float32."""
    scale = getattr(optimizer, "get_scaled_loss", None) or getattr(optimizer, "scale_loss", None)
    one = tf.constant(1.0)
    return one if scale is None else tf.cast(scale(one), tf.float32)


def apply_gradients(optimizer: Any, gradients: Any, variables: Sequence[Any]) -> None:
    """Updates variables by gradients of the scaled loss that are summed over all replicas."""
    if hasattr(optimizer, "get_unscaled_gradients"):  # tf_keras leaves this to its caller
        gradients = optimizer.get_unscaled_gradients(gradients)
    pairs = zip(gradients, variables, strict=True)
    if _family_of_optimizer(optimizer) == KERAS_3:
        optimizer.apply_gradients(pairs)
    else:
        optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)


def has_schedule(optimizer: Any) -> bool:
    """Returns whether the learning rate is a function of the step, and cannot be set."""
    return callable(inner_optimizer(optimizer)._learning_rate)


def learning_rate_of(optimizer: Any) -> float:
    """Returns the learning rate of the next step."""
    optimizer = inner_optimizer(optimizer)
    schedule = optimizer._learning_rate
    if callable(schedule):  # tf_keras would answer with the rate of the last step
        return float(schedule(optimizer.iterations))
    return float(np.asarray(optimizer.learning_rate))


def _by_name(recipe: Recipe, family: Any, num_steps: int, schedule: str) -> Any:
    try:
        built = family.optimizers.get(recipe.optimizer)
    except (ValueError, TypeError) as error:
        raise OptionError(
            f"There is no optimizer {recipe.optimizer!r} in {family.__name__}.\n"
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


def _cosine(recipe: Recipe, family: Any, num_steps: int) -> Any:
    warm_up_steps = min(math.ceil(recipe.warm_up * num_steps), num_steps - 1)
    return family.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warm_up_steps else recipe.learning_rate,
        decay_steps=max(1, num_steps - warm_up_steps),
        warmup_target=recipe.learning_rate if warm_up_steps else None,
        warmup_steps=warm_up_steps,
    )


def check_family(optimizer: Any, family: Any) -> None:
    """Refuses an optimizer that is not of a Keras family.

    Raises:
      OptionError: shows both sides.
    """
    own = _family_of_optimizer(optimizer)
    if own == family.__name__:
        return
    if "legacy" in type(optimizer).__module__:
        raise OptionError(
            f"The optimizer {type(optimizer).__name__} is one of tf_keras' legacy optimizers.\n"
            f"Give {family.__name__}.optimizers.{type(optimizer).__name__}, or its name."
        )
    raise OptionError(
        f"The optimizer {type(optimizer).__name__} belongs to {own or 'no Keras family'}, "
        f"and the student to {family.__name__}.\n"
        f"Give an optimizer of {family.__name__}, or its name."
    )


def _family_of_optimizer(optimizer: Any) -> str | None:
    for base in type(optimizer).__mro__:
        package = base.__module__.partition(".")[0]
        if package in ("tf_keras", "keras") and base.__name__ in ("Optimizer", "BaseOptimizer"):
            return package
    return family_name(optimizer)
