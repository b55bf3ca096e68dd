"""One training step, readable on one screen, and several of them in one compiled call.

    steps = TrainingSteps(logits_model, state, temperature=4.0, label_weight=0.1)
    done, finite, waited = steps.run(iterator, num_steps)
    metrics_of(state.sums)

A step whose loss or gradient is not finite changes nothing, and ends the call.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from streamkd.losses.distillation import distillation_loss, label_loss
from streamkd.tf_support.autograph import converted
from streamkd.training.optimizers import apply_gradients, loss_scale_of
from streamkd.training.state import TrainingState

SUM = tf.distribute.ReduceOp.SUM


@dataclasses.dataclass
class TrainingSteps:
    """The compiled step of one student.

    Attributes:
      model: answers images with logits; shares the weights of the student.
      state: of the run, with the student's optimizer.
      temperature, label_weight: of the loss
        label_weight · CE(labels, student at temperature 1)
        + (1 − label_weight) · temperature² · KL(teacher ‖ student, both at the temperature).
      label_smoothing: share of the labels' weight that all classes get alike.
      class_weights: float32 `[num_classes]`, what an image counts by its class; None for 1.
      accumulate: batches in one step; their gradients are averaged.
      jit: compile forward and gradient with XLA.
      jit_update: compile the optimizer's update with XLA, by itself: a student whose forward pass
        XLA makes slower may still gain. Neither holds a sum over replicas, which XLA does not
        compile under MultiWorkerMirroredStrategy.
      update_metrics: called with the logits, targets and weights of every batch, to count in
        metrics of the user's; None where there are none.
      strategy: over whose replicas a batch is spread.
    """

    model: Any
    state: TrainingState
    temperature: float
    label_weight: float
    label_smoothing: float = 0.0
    class_weights: Any = None
    accumulate: int = 1
    jit: bool = False
    jit_update: bool = False
    update_metrics: Callable[[tf.Tensor, dict, tf.Tensor], None] | None = None
    strategy: Any = dataclasses.field(default_factory=tf.distribute.get_strategy)

    def __post_init__(self) -> None:
        self._trained = self.model.trainable_variables
        self._side = self.state.side_variables()
        several = self.strategy.num_replicas_in_sync > 1
        self._statistics = [v for v in self._side if v.dtype.is_floating] if several else []
        self._answer = converted(self.model)
        self._apply = self.apply
        if self.jit_update:
            self._apply = tf.function(self.apply, jit_compile=True, autograph=False)
        self._gradients = tf.function(self.gradients, jit_compile=self.jit, autograph=False)
        self.run = tf.function(self._run, autograph=False)

    def _run(self, iterator: Any, num_steps: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Takes `num_steps` steps, int32, or fewer where one of them is not finite.

        Returns:
          int32, the steps done; bool, whether all were finite; float64, the seconds that were
          spent waiting for batches.
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

    def train_step(self, iterator: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Updates the student once, unless something is not finite.

        Returns:
          bool, whether it did; float64, the seconds that were spent waiting for batches.
        """
        batches, waited = zip(*(_next(iterator) for _ in range(self.accumulate)), strict=True)
        gradients, results, before, seen = self.strategy.run(
            self._replica_gradients, args=(batches,)
        )
        finite, sums = (_same_on_all(self.strategy, result) for result in results)

        def update() -> tf.Tensor:
            self.strategy.run(self._update, args=(gradients, seen))
            self.state.step.assign_add(1)
            self.state.sums.assign_add(sums)
            return tf.constant(True)

        def restore() -> tf.Tensor:
            self.strategy.run(self._restore, args=(before,))
            return tf.constant(False)

        return tf.cond(finite, update, restore), tf.add_n(waited)

    def _replica_gradients(self, batches: Any) -> tuple[Any, Any, Any, Any]:
        """Returns, on a replica, what `_update` and `_restore` need.

        Returns:
          The mean gradients; whether all is finite, and the sums; the side variables as they were;
          logits, targets and weights of each batch, where metrics are to count them.
        """
        before = [tf.identity(variable) for variable in self._side]
        gradients: list[Any] = [None] * len(self._trained)
        bad, sums, seen = tf.constant(0.0), [], []
        scale = loss_scale_of(self.state.optimizer)
        for images, targets, weights in batches:
            weights = self._weighed(targets, weights)
            total = self._reduced([tf.reduce_sum(weights)])[0]
            new, new_bad, new_sums, logits = self._gradients(images, targets, weights, total, scale)
            gradients = [_added(a, b) for a, b in zip(gradients, new, strict=True)]
            bad += new_bad
            sums.append(new_sums)
            if self.update_metrics is not None:
                seen.append((logits, targets, weights))
        if self.accumulate > 1:
            gradients = [g if g is None else g / self.accumulate for g in gradients]
        there = [gradient for gradient in gradients if gradient is not None]
        statistics = [tf.identity(variable) for variable in self._statistics]
        bad, sums, *there = self._reduced([bad, tf.stack(sums), *there, *statistics])
        rest = iter(there)
        gradients = [None if gradient is None else next(rest) for gradient in gradients]
        # Each replica has found out something about its own pieces of the batches. All take over
        # the mean: else they would drift apart, those of Keras 3 for good, and a run that was
        # restored, in which all are alike, would not be the one that was never stopped.
        for variable, total in zip(self._statistics, rest, strict=True):
            variable.assign(total / self.strategy.num_replicas_in_sync)
        sums = tf.reduce_sum(tf.cast(sums, tf.float64), axis=0)
        return gradients, (bad == 0, sums), before, seen

    def gradients(
        self,
        images: tf.Tensor,
        targets: dict,
        weights: tf.Tensor,
        total: tf.Tensor,
        scale: tf.Tensor,
    ) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns what one batch, or a replica's part of it, gives.

        Args:
          images, targets, weights: of the batch.
          total: float32, sum of the weights of all replicas.
          scale: float32, of the loss; the gradients are multiplied by it.

        Returns:
          The gradients of the batch's mean loss; float32, 0 where all is finite; the sums for the
          metrics, float32 `[len(SUMS)]`; the logits, float32 `[batch, num_classes]`.
        """
        with tf.GradientTape() as tape:
            student_logits = tf.cast(self._answer(images, training=True), tf.float32)
            losses, sums = self.losses(student_logits, targets, weights)
            # A batch may be without any weight, when all of its files are skipped.
            loss = tf.math.divide_no_nan(tf.reduce_sum(losses), total)
            penalties = [tf.cast(penalty, tf.float32) for penalty in self.model.losses]
            if penalties:
                loss += tf.add_n(penalties) / self.strategy.num_replicas_in_sync
            scaled = loss * scale
        gradients = tape.gradient(scaled, self._trained)
        # A sum of squares is one operation a variable. It overflows from a norm of 1e19 on, which
        # no run comes back from either.
        squares = tf.add_n([tf.nn.l2_loss(g) for g in gradients if g is not None])
        # The optimizer leaves out a step that a loss scale made too large, and lowers the scale.
        overflows = tf.logical_and(tf.logical_not(tf.math.is_finite(squares)), scale <= 1)
        spoilt = tf.logical_not(tf.math.is_finite(loss))
        return (
            gradients,
            tf.cast(tf.logical_or(overflows, spoilt), tf.float32),
            sums,
            student_logits,
        )

    def losses(
        self, student_logits: tf.Tensor, targets: dict, weights: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the weighted loss of each example, float32 `[batch]`, and the sums.

        An image without label or without logits loses that term; the other is not scaled up.
        """
        labels, rows = targets["labels"], targets["rows"]
        labelled = weights * tf.cast(labels[:, 0] >= 0, tf.float32)
        taught = weights * tf.cast(rows >= 0, tf.float32)
        on_labels = weights * label_loss(
            labels, targets["label_shares"], student_logits, smoothing=self.label_smoothing
        )
        answers = tf.argmax(student_logits, axis=1, output_type=tf.int32)
        correct = tf.cast(answers == labels[:, 0], tf.float32)
        losses = self.label_weight * on_labels
        on_teacher = agreeing = tf.zeros_like(weights)
        if "teacher_logits" in targets:
            teacher_logits = targets["teacher_logits"]
            on_teacher = taught * distillation_loss(
                teacher_logits, student_logits, temperature=self.temperature
            )
            choices = tf.argmax(teacher_logits, axis=1, output_type=tf.int32)
            agreeing = tf.cast(answers == choices, tf.float32)
            losses += (1 - self.label_weight) * on_teacher
        counts = (labelled * correct, taught * agreeing)
        parts = (losses, weights, on_labels, labelled, on_teacher, taught, *counts)
        return losses, tf.reduce_sum(tf.stack(parts), axis=1)

    def _weighed(self, targets: dict, weights: tf.Tensor) -> tf.Tensor:
        """Returns the weights of a batch times those of the images' classes."""
        if self.class_weights is None:
            return weights
        labels, shares = targets["labels"], targets["label_shares"]
        known = labels >= 0
        of_labels = tf.gather(tf.constant(self.class_weights), tf.where(known, labels, 0))
        return weights * tf.reduce_sum(shares * tf.where(known, of_labels, 1.0), axis=1)

    def _update(self, gradients: Any, seen: Any) -> None:
        self._apply(gradients)
        for batch in seen:
            self.update_metrics(*batch)  # type: ignore[misc]

    def apply(self, gradients: Any) -> None:
        """Updates the weights by gradients of the scaled loss."""
        apply_gradients(self.state.optimizer, gradients, self._trained)

    def _restore(self, before: Any) -> None:
        for variable, value in zip(self._side, before, strict=True):
            variable.assign(value)

    def _reduced(self, values: list[Any]) -> list[Any]:
        """Returns the sums of some values over all replicas."""
        if self.strategy.num_replicas_in_sync == 1:
            return values
        context, sums = tf.distribute.get_replica_context(), list(values)
        for dtype in dict.fromkeys(value.dtype for value in values):  # they travel in one piece
            places = [place for place, value in enumerate(values) if value.dtype == dtype]
            some = context.all_reduce(SUM, [values[place] for place in places])
            for place, total in zip(places, some, strict=True):
                sums[place] = total
        return sums


def _next(iterator: Any) -> tuple[Any, tf.Tensor]:
    """Returns the next batch, and how long it had to be waited for, in seconds."""
    began = tf.timestamp()
    with tf.control_dependencies([began]):
        batch = next(iterator)
    with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
        return batch, tf.timestamp() - began


def _same_on_all(strategy: Any, value: Any) -> tf.Tensor:
    """Returns what every replica has alike."""
    return strategy.experimental_local_results(value)[0]


def _added(first: Any, second: Any) -> Any:
    """Returns the sum of two gradients, one of which may be None."""
    if first is None or second is None:
        return second if first is None else first
    return first + second
