"""The stream through `model.fit`: targets packed into one tensor, and the loss that unpacks them.

    model.compile("adam", loss=kd.packed_loss(temperature=4.0, label_weight=0.1),
                  metrics=[kd.packed_accuracy])
    model.fit(stream.dataset(0, stream.end_of_epoch(30)).map(kd.pack_targets))

Keras compares a model's one output with one tensor; a custom `train_step` gets the stream's batches
as they are. The model must end in logits. `fit` neither checks the student nor resumes a run; the
`Distiller` does both.

| columns of a packed target | content                                    |
|----------------------------|--------------------------------------------|
| 0, 1                       | labels, the image's and its partner's      |
| 2, 3                       | shares of the two labels                   |
| 4                          | 1 for an image with teacher logits, else 0 |
| 5 and on                   | teacher logits; absent without a store     |
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from streamkd.checks import check_fraction, check_positive
from streamkd.losses.distillation import distillation_loss, label_loss
from streamkd.public import public

# Column of the first teacher logit.
_FIRST_LOGIT = 5


@public
def pack_targets(
    images: tf.Tensor, targets: dict[str, tf.Tensor], weights: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns a batch of a stream with its targets as one float32 tensor `[batch, columns]`.

    For `Dataset.map`. Labels are exact up to 16,777,216 classes.
    """
    taught = tf.cast(targets["rows"] >= 0, tf.float32)[:, None]
    parts = [tf.cast(targets["labels"], tf.float32), targets["label_shares"], taught]
    if "teacher_logits" in targets:
        parts.append(targets["teacher_logits"])
    return images, tf.concat(parts, axis=1), weights


@public
def packed_loss(*, temperature: float, label_weight: float) -> Callable[..., tf.Tensor]:
    """Returns a loss for `compile`: takes packed targets and logits, returns float32 `[batch]`.

    Args:
      temperature: positive, of the distillation loss.
      label_weight: weight of the label loss, 0 to 1.

    It is the loss of the `Distiller`. Source: Hinton, Vinyals and Dean, arXiv:1503.02531.

    Raises:
      OptionError: a number out of range.
    """
    check_positive("temperature", temperature)
    check_fraction("label_weight", label_weight)

    def loss(packed: tf.Tensor, student_logits: tf.Tensor) -> tf.Tensor:
        labels = tf.cast(packed[:, :2], tf.int32)
        total = label_weight * label_loss(labels, packed[:, 2:4], student_logits)
        if packed.shape[1] == _FIRST_LOGIT:
            return total
        on_teacher = distillation_loss(
            packed[:, _FIRST_LOGIT:], student_logits, temperature=temperature
        )
        return total + (1 - label_weight) * packed[:, 4] * on_teacher

    return loss


@public
def packed_accuracy(packed: tf.Tensor, student_logits: tf.Tensor) -> tf.Tensor:
    """Returns 1 if the student chooses an image's own label, else 0, float32 `[batch]`: a metric.

    An image without a label counts as wrong.
    """
    answers = tf.argmax(student_logits, axis=1, output_type=tf.int32)
    return tf.cast(answers == tf.cast(packed[:, 0], tf.int32), tf.float32)
