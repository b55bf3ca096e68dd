"""One training step, readable on one screen, and several of them in one compiled call.

steps = TrainingSteps(logits_model, optimizer, temperature=4.0, label_weight=0.1)
sums = steps.run(iterator, num_steps)        # what the metrics of the epoch are made of
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.losses.distillation import distillation_loss, label_loss

# What a step adds up, in this order.
SUMS = (
    "loss",
    "weight",
    "label_loss",
    "labelled",
    "distillation_loss",
    "taught",
    "correct",
    "agreeing",
)


@dataclasses.dataclass
class TrainingSteps:
    """The compiled step of one student.

    Attributes:
      model: answers images with logits; shares the weights of the student.
      optimizer: of the student's own Keras family, already built.
      temperature, label_weight: of the loss
        label_weight · CE(labels, student at temperature 1)
        + (1 − label_weight) · temperature² · KL(teacher ‖ student, both at the temperature).
      jit: compile forward and gradient with XLA. The update stays outside: compiling all of it
        fails under MultiWorkerMirroredStrategy.
    """

    model: Any
    optimizer: Any
    temperature: float
    label_weight: float
    jit: bool = False

    def __post_init__(self) -> None:
        self._gradients = tf.function(self.gradients, jit_compile=self.jit)
        self.run = tf.function(self._run)

    def _run(self, iterator: Any, num_steps: tf.Tensor) -> tf.Tensor:
        """Takes `num_steps` steps and returns the sums of all of them, float32 `[len(SUMS)]`."""
        sums = tf.zeros([len(SUMS)], tf.float32)
        for _ in tf.range(num_steps):
            images, targets, weights = next(iterator)
            sums += self.train_step(images, targets, weights)
        return sums

    def train_step(self, images: tf.Tensor, targets: dict, weights: tf.Tensor) -> tf.Tensor:
        """Updates the student once."""
        gradients, sums = self._gradients(images, targets, weights)
        self.optimizer.apply_gradients(zip(gradients, self.model.trainable_variables, strict=True))
        return sums

    def gradients(
        self, images: tf.Tensor, targets: dict, weights: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Returns the gradients of the batch's loss, and the sums for the metrics."""
        with tf.GradientTape() as tape:
            student_logits = tf.cast(self.model(images, training=True), tf.float32)
            losses, sums = self.losses(student_logits, targets, weights)
            # A batch may be without any weight, when all of its files are skipped.
            loss = tf.math.divide_no_nan(tf.reduce_sum(losses), tf.reduce_sum(weights))
            penalties = [tf.cast(penalty, tf.float32) for penalty in self.model.losses]
            loss = tf.add_n([loss, *penalties])
        return tape.gradient(loss, self.model.trainable_variables), sums

    def losses(
        self, student_logits: tf.Tensor, targets: dict, weights: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the weighted loss of each example, float32 `[batch]`, and the sums.

        An image without label or without logits loses that term; the other is not scaled up.
        """
        labels, rows = targets["labels"], targets["rows"]
        labelled = weights * tf.cast(labels[:, 0] >= 0, tf.float32)
        taught = weights * tf.cast(rows >= 0, tf.float32)
        on_labels = weights * label_loss(labels, targets["label_shares"], student_logits)
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
        return losses, tf.stack([tf.reduce_sum(part) for part in parts])


def metrics_of(sums: np.ndarray) -> dict[str, float | None]:
    """Returns the metrics that some steps' sums stand for; None where nothing was counted."""
    total = dict(zip(SUMS, np.asarray(sums, np.float64).tolist(), strict=True))

    def mean(part: str, count: str) -> float | None:
        return total[part] / total[count] if total[count] else None

    return {
        "loss": mean("loss", "weight"),
        "label_loss": mean("label_loss", "labelled"),
        "distillation_loss": mean("distillation_loss", "taught"),
        "accuracy": mean("correct", "labelled"),
        "agreement": mean("agreeing", "taught"),
    }
