"""All that training changes: weights, optimizer, random states, and the position in the epoch.

state = TrainingState(student, logits_model, optimizer, metrics=[])
state.trackables()        # what a checkpoint holds
with averaged_weights(student, optimizer):
    evaluate(student)     # with the moving averages, if the optimizer keeps them
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.models.families import family_of
from streamkd.models.precision import precision_of
from streamkd.training.epoch_sums import SUMS
from streamkd.training.keras_metrics import UserMetrics
from streamkd.training.optimizers import build_optimizer, inner_optimizer
from streamkd.training.recipe import Recipe
from streamkd.training.student_model import StudentModel


class TrainingState:
    """The variables of one run.

    Attributes:
      student: the user's model.
      model: the student without its last activation; its random layers draw the numbers.
      optimizer: built.
      metrics: the user's Keras metrics.
      step: int64, number of steps done.
      sums: float64 `[len(SUMS)]`, sums over the steps of this epoch. Float64, and in a variable, so
        that they do not depend on the step at which a run was stopped.
      random_states: of Dropout and other random layers.
      counters: variables of the metrics.
    """

    def __init__(
        self, student: Any, model: Any, optimizer: Any, metrics: Sequence[Any] = ()
    ) -> None:
        self.family = family_of(student)
        self.student = student
        self.model = model
        self.optimizer = optimizer
        self.metrics = list(metrics)
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        self.sums = tf.Variable(tf.zeros([len(SUMS)], tf.float64), trainable=False, name="sums")
        self.random_states = self.family.random_states(model)
        self.counters = [variable for metric in self.metrics for variable in metric.variables]

    @property
    def num_steps(self) -> int:
        return int(self.step.numpy())

    def side_variables(self) -> list[Any]:
        """Returns the variables that a forward pass changes: batch statistics, random states."""
        variables = self._as_tf(self.model.non_trainable_variables)
        unique = {id(variable): variable for variable in (*variables, *self.random_states)}
        return list(unique.values())

    def changed_by_a_step(self) -> list[Any]:
        """Returns all variables that a step changes, except the counting ones."""
        optimizer = self.family.variables_of(self.optimizer)
        weights = self._as_tf([*self.model.trainable_variables, *optimizer])
        return [*weights, *self.side_variables()]

    def counted_by_a_step(self) -> list[Any]:
        """Returns the variables in which a step counts: step, sums, the user's metrics."""
        return [self.step, self.sums, *self._as_tf(self.counters)]

    def spread_variables(self) -> list[Any]:
        """Returns the variables whose values may be spread over the replicas, such as counts."""
        return self._as_tf([*self.student.non_trainable_variables, *self.counters])

    def trackables(self) -> dict[str, Any]:
        """Returns all that a checkpoint holds, by name."""
        return {
            # Not the student itself: a compiled one would bring an optimizer and metrics along.
            "weights": self._as_tf(self.student.weights),
            "optimizer": self.optimizer,
            "step": self.step,
            "sums": self.sums,
            "random_states": self.random_states,
            "counters": self._as_tf(self.counters),
        }

    def end_epoch(self) -> None:
        """Resets the sums and the metrics."""
        self.sums.assign(tf.zeros_like(self.sums))
        for metric in self.metrics:
            metric.reset_state()

    def are_weights_finite(self) -> bool:
        weights = self.student.trainable_variables
        return all(bool(np.all(np.isfinite(np.asarray(weight)))) for weight in weights)

    def _as_tf(self, variables: Sequence[Any]) -> list[Any]:
        return [self.family.as_tf_variable(variable) for variable in variables]


def new_state(
    recipe: Recipe, parts: StudentModel, metrics: Any, num_outputs: int, several: bool, **plan: Any
) -> tuple[TrainingState, UserMetrics]:
    """Returns the variables of a run, with an optimizer for its steps, and the user's metrics.

    Args:
      recipe: of the run.
      parts: the student.
      metrics: as in `Distiller`.
      num_outputs: classes of the student.
      several: whether an image has several labels.
      plan: `num_steps` and `schedule`, as in `build_optimizer`.
    """
    family = family_of(parts.student)
    model, removed = parts.logits.model, parts.logits.removed
    counted = UserMetrics(
        metrics,
        family,
        probabilities=removed is not None,
        num_classes=num_outputs,
        sigmoid=removed == "sigmoid",
        several=several,
    )
    optimizer = build_optimizer(
        recipe,
        family,
        variables=model.trainable_variables,
        scales_loss="mixed_float16" in precision_of(parts.student),
        **plan,
    )
    return TrainingState(parts.student, model, optimizer, counted.metrics), counted


def restorable_random_layers(model: Any, strategy: Any) -> contextlib.AbstractContextManager[None]:
    """Lets a model's random layers draw from variables, which a checkpoint can hold."""
    return family_of(model).restorable_random_layers(model, strategy)


@contextlib.contextmanager
def averaged_weights(student: Any, optimizer: Any) -> Iterator[None]:
    """Exchanges the student's weights with their moving averages, and exchanges them back.

    Weights that a callback sets within the context, such as the best ones, become the averages.
    """
    exchange_averages(student, optimizer)
    try:
        yield
    finally:
        exchange_averages(student, optimizer)


def exchange_averages(student: Any, optimizer: Any) -> None:
    """Exchanges the student's weights with their moving averages; does nothing without them."""
    optimizer = inner_optimizer(optimizer)
    if not getattr(optimizer, "use_ema", False):
        return
    family = family_of(student)
    for variable in student.trainable_variables:
        average = family.average_of(optimizer, variable)
        value = tf.identity(family.as_tf_variable(variable))
        variable.assign(family.as_tf_variable(average))
        average.assign(value)
