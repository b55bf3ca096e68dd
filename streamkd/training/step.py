"""One training step: forward, loss, gradient, finite?, apply.

    steps = TrainingSteps(logits_model, state, BatchLoss(temperature=4.0, label_weight=0.1))
    done, finite, waited = steps.run(iterator, num_steps)
    metrics_of(state.sums)

The step is `batch_gradients` and `train_step`, the first two methods; replicas, accumulation and
bookkeeping follow them. A step whose loss or gradient is not finite changes nothing and ends the
call.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from streamkd.errors import StreamkdError, StudentError
from streamkd.models.reasons import model_reason
from streamkd.tf_support.autograph import converted
from streamkd.training.batch_loss import BatchLoss
from streamkd.training.optimizers import apply_gradients, loss_scale_of
from streamkd.training.state import TrainingState


class BatchGradients(NamedTuple):
    """The result of forward and gradient for one batch, or for a replica's piece of it.

    Attributes:
      gradients: of the batch's mean loss times the loss scale; None for a weight without any.
      num_bad: float32, 0 if loss and gradients are finite.
      sums: float32 `[len(SUMS)]`, for the metrics.
      logits: float32 `[batch, num_classes]`.
    """

    gradients: list[tf.Tensor]
    num_bad: tf.Tensor
    sums: tf.Tensor
    logits: tf.Tensor


class ReplicaStep(NamedTuple):
    """The result of all batches of one step on one replica; see `_replica_step`.

    Attributes:
      gradients: the mean over the batches, summed over all replicas.
      finite: bool, whether all batches are finite on all replicas.
      sums: float64 `[len(SUMS)]`, over all batches and replicas.
      before: the side variables as they were before the step.
      counted: logits, targets and weights of each batch, for the user's metrics.
    """

    gradients: list[Any]
    finite: tf.Tensor
    sums: tf.Tensor
    before: list[tf.Tensor]
    counted: list[Any]


@dataclasses.dataclass
class TrainingSteps:
    """The compiled step of one student.

    Attributes:
      model: answers images with logits; shares the weights of the student.
      state: of the run, with the student's optimizer.
      loss: of a batch.
      accumulate: batches in one step; their gradients are averaged.
      jit: whether XLA compiles forward and gradient.
      jit_update: whether XLA compiles the optimizer's update, by itself: a student whose forward
        pass XLA makes slower may still gain. Neither part holds a sum over replicas, which XLA does
        not compile under MultiWorkerMirroredStrategy.
      update_metrics: called with the logits, targets and weights of every batch, to count them in
        the user's metrics; None without such metrics.
      strategy: spreads a batch over its replicas.
    """

    model: Any
    state: TrainingState
    loss: BatchLoss
    accumulate: int = 1
    jit: bool = False
    jit_update: bool = False
    update_metrics: Callable[[tf.Tensor, dict, tf.Tensor], None] | None = None
    strategy: Any = dataclasses.field(default_factory=tf.distribute.get_strategy)

    def batch_gradients(
        self,
        images: tf.Tensor,
        targets: dict,
        weights: tf.Tensor,
        total: tf.Tensor,
        scale: tf.Tensor,
        step: tf.Tensor | None = None,
    ) -> BatchGradients:
        """Takes one batch, or a replica's piece of it, forward and back.

        Args:
          images, targets, weights: of the batch.
          total: float32, sum of the weights on all replicas.
          scale: float32, the loss scale.
          step: int64, the number of the step, for a loss that changes over the run.
        """
        with tf.GradientTape() as tape:
            logits = tf.cast(self._asked(images), tf.float32)
            losses, sums = self.loss.at(step)(logits, targets, weights)
            loss = self._mean_loss(losses, total)
            scaled = loss * scale
        gradients = tape.gradient(scaled, self._trained)
        if all(gradient is None for gradient in gradients):
            raise StudentError(
                f"No gradient reaches the weights of the student {self.model.name!r}.\n"
                "Leave out what stops it, such as `stop_gradient`, rounding or `argmax`."
            )
        return BatchGradients(gradients, _num_bad(loss, gradients, scale), sums, logits)

    def train_step(self, iterator: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Updates the student once, unless a number is not finite.

        Returns:
          bool, whether the student was updated; float64, the seconds spent waiting for batches,
          NaN under op determinism.
        """
        batches, waited = zip(*(_next(iterator) for _ in range(self.accumulate)), strict=True)
        step = self.strategy.run(self._replica_step, args=(batches,))
        # All replicas have the same sums.
        finite, sums = map(self._first_replica, (step.finite, step.sums))

        def update() -> tf.Tensor:
            self.strategy.run(self._update, args=(step.gradients, step.counted))
            self.state.step.assign_add(1)
            self.state.sums.assign_add(sums)
            return tf.constant(True)

        def restore() -> tf.Tensor:
            self.strategy.run(self._restore, args=(step.before,))
            return tf.constant(False)

        return tf.cond(finite, update, restore), tf.add_n(waited)

    # Several steps in a call, several batches in a step, several replicas.

    def __post_init__(self) -> None:
        self._trained = self.model.trainable_variables
        self._side = self.state.side_variables()
        several = self.strategy.num_replicas_in_sync > 1
        self._statistics = [v for v in self._side if v.dtype.is_floating] if several else []
        self._answer = converted(self.model)
        self.compiled_update = self.update_weights
        if self.jit_update:
            self.compiled_update = tf.function(
                self.update_weights, jit_compile=True, autograph=False
            )
        self.compiled_gradients = tf.function(
            self.batch_gradients, jit_compile=self.jit, autograph=False
        )
        self.run = tf.function(self._run, autograph=False)

    def _asked(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the student's answers in training; its layers may fail there alone."""
        try:
            return self._answer(images, training=True)
        except StreamkdError:
            raise
        except Exception as error:  # layers raise errors of every kind
            raise StudentError(
                f"The student {self.model.name!r} fails in training: {model_reason(error)}.\n"
                "Call it in Python, `model(images, training=True)`, for the whole error."
            ) from error

    def with_xla(self, jit: bool, jit_update: bool) -> TrainingSteps:
        """Returns these steps with other parts compiled by XLA."""
        if (jit, jit_update) == (self.jit, self.jit_update):
            return self
        return dataclasses.replace(self, jit=jit, jit_update=jit_update)

    def _run(self, iterator: Any, num_steps: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Takes `num_steps` steps, int32, or fewer if one is not finite.

        Returns:
          int32, the steps done; bool, whether all were finite; float64, the seconds spent waiting
          for batches.
        """

        def one_more(done: tf.Tensor, _: tf.Tensor, waited: tf.Tensor) -> tuple[tf.Tensor, ...]:
            finite, seconds = self.train_step(iterator)
            return done + tf.cast(finite, tf.int32), finite, waited + seconds

        return tf.while_loop(
            lambda done, finite, _: tf.logical_and(done < num_steps, finite),
            one_more,
            (tf.constant(0), tf.constant(True), tf.constant(0.0, tf.float64)),
            parallel_iterations=1,
        )

    def _replica_step(self, batches: Any) -> ReplicaStep:
        """Takes the batches of a step forward and back on one replica; sums over all replicas."""
        before = [tf.identity(variable) for variable in self._side]
        gradients: list[Any] = [None] * len(self._trained)
        num_bad, sums, counted = tf.constant(0.0), [], []
        scale = loss_scale_of(self.state.optimizer)
        step = tf.identity(self.state.step) if self.loss.changes else None
        for images, targets, weights in batches:
            weights = self.loss.class_weighted(targets, weights)
            total = self._sum_over_replicas([tf.reduce_sum(weights)])[0]
            batch = self.compiled_gradients(images, targets, weights, total, scale, step)
            gradients = [_added(a, b) for a, b in zip(gradients, batch.gradients, strict=True)]
            num_bad += batch.num_bad
            sums.append(batch.sums)
            if self.update_metrics is not None:
                counted.append((batch.logits, targets, weights))
        if self.accumulate > 1:
            gradients = [g if g is None else g / self.accumulate for g in gradients]
        present = [gradient for gradient in gradients if gradient is not None]
        statistics = [tf.identity(variable) for variable in self._statistics]
        num_bad, stacked, *rest = self._sum_over_replicas(
            [num_bad, tf.stack(sums), *present, *statistics]
        )
        totals = iter(rest)
        gradients = [None if gradient is None else next(totals) for gradient in gradients]
        # Batch statistics are averaged over replicas after each step. Otherwise they drift apart,
        # and a restored run would differ from one that never stopped.
        for variable, total in zip(self._statistics, totals, strict=True):
            variable.assign(total / self.strategy.num_replicas_in_sync)
        summed = tf.reduce_sum(tf.cast(stacked, tf.float64), axis=0)
        return ReplicaStep(gradients, num_bad == 0, summed, before, counted)

    def _mean_loss(self, losses: tf.Tensor, total: tf.Tensor) -> tf.Tensor:
        """Returns this replica's part of the batch's mean loss, the layers' penalties included."""
        # A batch may be without any weight, when all of its files are skipped.
        loss = tf.math.divide_no_nan(tf.reduce_sum(losses), total)
        penalties = [tf.cast(penalty, tf.float32) for penalty in self.model.losses]
        if penalties:
            loss += tf.add_n(penalties) / self.strategy.num_replicas_in_sync
        return loss

    def _update(self, gradients: Any, counted: Any) -> None:
        self.compiled_update(gradients)
        for batch in counted:
            self.update_metrics(*batch)  # type: ignore[misc]

    def update_weights(self, gradients: Any) -> None:
        """Updates the weights by gradients of the scaled loss."""
        apply_gradients(self.state.optimizer, gradients, self._trained)

    def _restore(self, before: Any) -> None:
        for variable, value in zip(self._side, before, strict=True):
            variable.assign(value)

    def _sum_over_replicas(self, values: list[Any]) -> list[Any]:
        """Returns the sum of each value over all replicas; called on every replica."""
        if self.strategy.num_replicas_in_sync == 1:
            return values
        context, sums = tf.distribute.get_replica_context(), list(values)
        for dtype in dict.fromkeys(value.dtype for value in values):  # one message for each dtype
            indices = [index for index, value in enumerate(values) if value.dtype == dtype]
            same = [values[index] for index in indices]
            totals = context.all_reduce(tf.distribute.ReduceOp.SUM, same)
            for index, total in zip(indices, totals, strict=True):
                sums[index] = total
        return sums

    def _first_replica(self, value: Any) -> tf.Tensor:
        return self.strategy.experimental_local_results(value)[0]


def _num_bad(loss: tf.Tensor, gradients: list[Any], scale: tf.Tensor) -> tf.Tensor:
    """Returns 0 if a loss and its gradients are finite, else 1, float32."""
    # A sum of squares is one operation a variable. It overflows at a norm of 1e19, from which no
    # run recovers either.
    squares = tf.add_n([tf.nn.l2_loss(g) for g in gradients if g is not None])
    # The optimizer leaves out a step that a loss scale made too large, and lowers the scale.
    overflows = tf.logical_and(tf.logical_not(tf.math.is_finite(squares)), scale <= 1)
    spoilt = tf.logical_not(tf.math.is_finite(loss))
    return tf.cast(tf.logical_or(overflows, spoilt), tf.float32)


def _next(iterator: Any) -> tuple[Any, tf.Tensor]:
    """Returns the next batch, and the seconds spent waiting for it; NaN if they cannot be known."""
    if not _has_clock():
        return next(iterator), tf.constant(math.nan, tf.float64)
    began = tf.timestamp()
    with tf.control_dependencies([began]):
        batch = next(iterator)
    with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
        return batch, tf.timestamp() - began


def _has_clock() -> bool:
    """Returns whether TensorFlow tells the time; under op determinism that is an error."""
    with tf.init_scope():
        try:
            return bool(tf.timestamp() > 0)
        except tf.errors.FailedPreconditionError:
            return False


def _added(first: Any, second: Any) -> Any:
    """Returns the sum of two gradients, either of which may be None."""
    if first is None or second is None:
        return second if first is None else first
    return first + second
