"""The loss of a batch, image by image, and the sums that an epoch's metrics follow from.

    loss = BatchLoss(temperature=4.0, label_weight=0.1)
    weights = loss.class_weighted(targets, weights)
    losses, sums = loss(student_logits, targets, weights)    # float32 [batch], float32 [len(SUMS)]

An image's loss is its weight times
label_weight · CE(labels, student at temperature 1)
+ (1 − label_weight) · the loss that compares student and teacher, which by default is
temperature² · KL(teacher ‖ student, both at the temperature).
With independent labels, CE and KL are binary cross-entropies, averaged over the labels.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from streamkd.losses import independent_labels
from streamkd.losses.distillation import label_loss
from streamkd.losses.teacher_loss import teacher_loss
from streamkd.training.recipe import Recipe
from streamkd.training.schedules import SettingOverRun, at_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchLoss:
    """The loss of one run.

    Attributes:
      temperature, label_weight: numbers, or values over the run.
      label_smoothing: as in `Distiller`.
      num_steps: of the whole run, of which a step is a fraction.
      class_weights: float32 `[num_classes]`, the weight of an image by its class; None for 1.
      kind: 'kl' for the softmax of classes, 'bce' for the sigmoid of independent labels.
      teacher: the loss that compares the student with the teacher, of the kind 'kl'; see
        `teacher_loss`.
      standardize: whether it compares standardised logits.
    """

    temperature: Any
    label_weight: Any
    label_smoothing: float = 0.0
    class_weights: Any = None
    kind: str = "kl"
    teacher: Any = "kd"
    standardize: bool = False
    num_steps: int = 1

    @property
    def changes(self) -> bool:
        """Whether the loss is another one at other steps."""
        return any(isinstance(s, SettingOverRun) for s in (self.temperature, self.label_weight))

    def at(self, step: tf.Tensor | None) -> BatchLoss:
        """Returns the loss with its settings at a step, int64, as numbers or tensors."""
        if not self.changes:
            return self
        temperature = at_step(self.temperature, step, self.num_steps)
        label_weight = at_step(self.label_weight, step, self.num_steps)
        return dataclasses.replace(self, temperature=temperature, label_weight=label_weight)

    def __call__(
        self, student_logits: tf.Tensor, targets: dict, weights: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the weighted loss of each image, float32 `[batch]`, and the sums over the batch.

        An image without label or without logits loses that term; the other is not scaled up.

        Args:
          student_logits: float32 `[batch, num_classes]`.
          targets, weights: of a batch of the stream.
        """
        if self.kind == "bce":
            return self._of_independent_labels(student_logits, targets, weights)
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
            teacher_logits = independent_labels.in_form_of(
                targets["teacher_logits"], student_logits.shape[1]
            )
            compare = teacher_loss(
                self.teacher, temperature=self.temperature, standardize=self.standardize
            )
            compared = compare(teacher_logits, student_logits, targets, taught > 0)
            on_teacher = taught * compared
            choices = tf.argmax(teacher_logits, axis=1, output_type=tf.int32)
            agreeing = tf.cast(answers == choices, tf.float32)
            losses += (1 - self.label_weight) * on_teacher
        counts = (labelled * correct, taught * agreeing)
        parts = (losses, weights, on_labels, labelled, on_teacher, taught, *counts)
        return losses, tf.reduce_sum(tf.stack(parts), axis=1)

    def _of_independent_labels(
        self, student_logits: tf.Tensor, targets: dict, weights: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what `__call__` does, for the sigmoid of each label."""
        num_outputs = student_logits.shape[1]
        truths, shares = independent_labels.truths_of(targets, num_outputs)
        labelled = weights * tf.cast(truths[:, 0, 0] >= 0, tf.float32)
        taught = weights * tf.cast(targets["rows"] >= 0, tf.float32)
        on_labels = weights * independent_labels.binary_label_loss(
            truths, shares, student_logits, smoothing=self.label_smoothing
        )
        correct = independent_labels.label_accuracy(truths, targets, student_logits)
        losses = self.label_weight * on_labels
        on_teacher = agreeing = tf.zeros_like(weights)
        if "teacher_logits" in targets:
            teacher_logits = independent_labels.in_form_of(targets["teacher_logits"], num_outputs)
            on_teacher = taught * independent_labels.label_distillation_loss(
                teacher_logits, student_logits, temperature=self.temperature
            )
            agreeing = independent_labels.same_decisions(teacher_logits, student_logits)
            losses += (1 - self.label_weight) * on_teacher
        counts = (labelled * correct, taught * agreeing)
        parts = (losses, weights, on_labels, labelled, on_teacher, taught, *counts)
        return losses, tf.reduce_sum(tf.stack(parts), axis=1)

    @classmethod
    def of_run(cls, recipe: Recipe, class_weights: Any, *, kind: str, num_steps: int) -> BatchLoss:
        """Returns the loss of a run with these settings."""
        return cls(
            temperature=recipe.temperature,
            label_weight=recipe.label_weight,
            num_steps=num_steps,
            label_smoothing=recipe.label_smoothing,
            class_weights=class_weights,
            kind=kind,
            teacher="kd" if recipe.loss in ("auto", "bce") else recipe.loss,
            standardize=recipe.standardize,
        )

    def class_weighted(self, targets: dict, weights: tf.Tensor) -> tf.Tensor:
        """Returns the weights of a batch times the weights of its images' classes."""
        if self.class_weights is None:
            return weights
        labels, shares = targets["labels"], targets["label_shares"]
        known = labels >= 0
        by_label = tf.gather(tf.constant(self.class_weights), tf.where(known, labels, 0))
        return weights * tf.reduce_sum(shares * tf.where(known, by_label, 1.0), axis=1)
