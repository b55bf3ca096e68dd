"""All that training changes: weights, optimizer, random states, and where in the epoch it is.

state = TrainingState(student, logits_model, optimizer, metrics=[])
state.trackables()        # what a checkpoint holds
with averaged_weights(student, optimizer):
    evaluate(student)     # with the moving averages, where the optimizer keeps them
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.models.families import KERAS_3, family_name
from streamkd.training.epoch_sums import SUMS
from streamkd.training.optimizers import inner_optimizer


class TrainingState:
    """The variables of one run.

    Attributes:
      student: the user's model.
      model: the same without its last activation; its random layers are those that draw.
      optimizer: built.
      metrics: Keras metrics of the user's.
      step: int64, steps that were done.
      sums: float64 `[len(SUMS)]`, what the steps of this epoch added up. Float64, and in a
        variable, so that they do not depend on where a run was stopped.
      random_states: of Dropout and the like.
    """

    def __init__(
        self, student: Any, model: Any, optimizer: Any, metrics: Sequence[Any] = ()
    ) -> None:
        self.student = student
        self.model = model
        self.optimizer = optimizer
        self.metrics = list(metrics)
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        self.sums = tf.Variable(tf.zeros([len(SUMS)], tf.float64), trainable=False, name="sums")
        self.random_states = random_states(model)
        self.counters = [variable for metric in self.metrics for variable in metric.variables]

    @property
    def num_steps(self) -> int:
        return int(self.step.numpy())

    def side_variables(self) -> list[Any]:
        """Returns what the forward pass changes: statistics of batches, random states."""
        plain = [as_tf_variable(v) for v in self.model.non_trainable_variables]
        unique = {id(variable): variable for variable in (*plain, *self.random_states)}
        return list(unique.values())

    def changed_by_a_step(self) -> list[Any]:
        """Returns all variables that a step changes, except those that count."""
        kept = [*self.model.trainable_variables, *all_variables_of(self.optimizer)]
        return [*map(as_tf_variable, kept), *self.side_variables()]

    def counted_by_a_step(self) -> list[Any]:
        """Returns all variables in which a step counts: steps, sums, the user's metrics."""
        return [self.step, self.sums, *map(as_tf_variable, self.counters)]

    def spread_variables(self) -> list[Any]:
        """Returns those of which each replica may have a part, such as a count of its own."""
        return [as_tf_variable(v) for v in (*self.student.non_trainable_variables, *self.counters)]

    def trackables(self) -> dict[str, Any]:
        """Returns all that a checkpoint holds, by name."""
        return {
            # Not the student itself: a compiled one would bring an optimizer and metrics along.
            "weights": [as_tf_variable(weight) for weight in self.student.weights],
            "optimizer": self.optimizer,
            "step": self.step,
            "sums": self.sums,
            "random_states": self.random_states,
            "counters": [as_tf_variable(variable) for variable in self.counters],
        }

    def end_epoch(self) -> None:
        """Sets back what is counted by the epoch."""
        self.sums.assign(tf.zeros_like(self.sums))
        for metric in self.metrics:
            metric.reset_state()

    def are_weights_finite(self) -> bool:
        weights = self.student.trainable_variables
        return all(bool(np.all(np.isfinite(np.asarray(weight)))) for weight in weights)


def all_variables_of(optimizer: Any) -> list[Any]:
    """Returns the variables of an optimizer, those of a loss scale included."""
    variables = optimizer.variables
    found = list(variables() if callable(variables) else variables)
    scale: Any = getattr(optimizer, "_loss_scale", None)  # which tf_keras leaves out
    if hasattr(scale, "current_loss_scale"):
        found += [scale.current_loss_scale, scale.counter]
    return found


def as_tf_variable(variable: Any) -> Any:
    """Returns the TensorFlow variable of a variable of either Keras family."""
    return variable.value if family_name_of_variable(variable) == KERAS_3 else variable


def family_name_of_variable(variable: Any) -> str | None:
    """Returns 'keras' for a variable of Keras 3, else None."""
    return KERAS_3 if type(variable).__module__.partition(".")[0] == KERAS_3 else None


def random_states(model: Any) -> list[Any]:
    """Returns the TensorFlow variables that a model's random layers draw from."""
    if family_name(model) == KERAS_3:
        weights = {id(variable) for variable in model.weights}
        rest = [variable for variable in model.variables if id(variable) not in weights]
        return [variable.value for variable in rest if "seed_generator" in variable.path]
    generators = [layer._random_generator._generator for layer in _random_layers(model)]
    return [generator.state for generator in generators if generator is not None]


@contextlib.contextmanager
def restorable_random_layers(model: Any, strategy: Any) -> Iterator[None]:
    """Lets tf_keras' random layers draw from variables, which a checkpoint can hold.

    By default they draw from a counter within TensorFlow that cannot be read. The layers get
    their own generators back at the end, so that the student is saved as it was built. Under a
    strategy each replica draws numbers of its own.
    """
    if family_name(model) == KERAS_3:
        yield
        return
    from tf_keras.src.backend import RandomGenerator

    before = {}
    for layer in _random_layers(model):
        own = layer._random_generator
        if own._rng_type == RandomGenerator.RNG_LEGACY_STATEFUL:
            before[layer] = own
            seed = own._create_seed(own._seed)
            layer._random_generator = RandomGenerator(seed, rng_type=RandomGenerator.RNG_STATEFUL)
        with strategy.scope():
            layer._random_generator._maybe_init()
    try:
        yield
    finally:
        for layer, own in before.items():
            layer._random_generator = own


def _random_layers(model: Any) -> list[Any]:
    """Returns the layers of a tf_keras model that draw random numbers."""
    return [layer for layer in model._flatten_layers() if hasattr(layer, "_random_generator")]


@contextlib.contextmanager
def averaged_weights(student: Any, optimizer: Any) -> Iterator[None]:
    """Gives the student the moving averages of its weights, where the optimizer keeps them.

    The two are exchanged, and exchanged again at the end: what is set meanwhile, such as the best
    weights by a callback, becomes the average.
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
    for variable in student.trainable_variables:
        average = _average_of(optimizer, variable)
        value = tf.identity(as_tf_variable(variable))
        variable.assign(as_tf_variable(average))
        average.assign(value)


def _average_of(optimizer: Any, variable: Any) -> Any:
    averages = optimizer._model_variables_moving_average
    if family_name_of_variable(variable) == KERAS_3:
        return averages[optimizer._get_variable_index(variable)]
    return averages[optimizer._index_dict[optimizer._var_key(variable)]]
