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

from streamkd.checks import check_choice, check_fraction, check_positive
from streamkd.errors import OptionError
from streamkd.losses.distillation import distillation_loss, label_loss
from streamkd.losses.independent_labels import (
    binary_label_loss,
    in_form_of,
    label_distillation_loss,
    truths_of,
)
from streamkd.public import public

# Column of the first teacher logit.
_FIRST_LOGIT = 5


@public
def pack_targets(
    images: tf.Tensor, targets: dict[str, tf.Tensor], weights: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns a batch of a stream with its targets as one float32 tensor `[batch, columns]`.

    For `Dataset.map`. Labels are exact up to 16,777,216 classes.

    Raises:
      OptionError: images have several labels, for which the tensor has no columns.
    """
    if "multi_hot" in targets:
        raise OptionError(
            "These images have several labels each, and packed targets hold one class an image.\n"
            "Train with the Distiller, or list the images without labels and give label_weight=0."
        )
    taught = tf.cast(targets["rows"] >= 0, tf.float32)[:, None]
    parts = [tf.cast(targets["labels"], tf.float32), targets["label_shares"], taught]
    if "teacher_logits" in targets:
        parts.append(targets["teacher_logits"])
    return images, tf.concat(parts, axis=1), weights


@public
def packed_loss(
    *, temperature: float, label_weight: float, loss: str = "kl"
) -> Callable[..., tf.Tensor]:
    """Returns a loss for `compile`: takes packed targets and logits, returns float32 `[batch]`.

    Args:
      temperature: positive, of the distillation loss.
      label_weight: weight of the label loss, 0 to 1.
      loss: 'kl' for the classes of one softmax, 'bce' for independent labels, one sigmoid each.

    It is the loss of the `Distiller`. Source: Hinton, Vinyals and Dean, arXiv:1503.02531.

    Raises:
      OptionError: a number out of range.
    """
    check_positive("temperature", temperature)
    check_fraction("label_weight", label_weight)
    check_choice("loss", loss, ("kl", "bce"))
    batch_loss = _label_losses if loss == "bce" else _class_losses

    def losses(packed: tf.Tensor, student_logits: tf.Tensor) -> tf.Tensor:
        return batch_loss(packed, student_logits, temperature, label_weight)

    losses.__name__ = "loss"
    return losses


def _class_losses(
    packed: tf.Tensor, student_logits: tf.Tensor, temperature: float, label_weight: float
) -> tf.Tensor:
    """Returns the loss of each image by the classes of one softmax, float32 `[batch]`."""
    if student_logits.shape[1] == 1:
        raise OptionError(
            "The student has one output, and the softmax of one output is always 1.\n"
            "Give packed_loss(…, loss='bce'), or a student of two outputs."
        )
    labels = tf.cast(packed[:, :2], tf.int32)
    total = label_weight * label_loss(labels, packed[:, 2:4], student_logits)
    if packed.shape[1] == _FIRST_LOGIT:
        return total
    on_teacher = distillation_loss(
        packed[:, _FIRST_LOGIT:], student_logits, temperature=temperature
    )
    return total + (1 - label_weight) * packed[:, 4] * on_teacher


def _label_losses(
    packed: tf.Tensor, student_logits: tf.Tensor, temperature: float, label_weight: float
) -> tf.Tensor:
    """Returns the loss of each image by the sigmoid of each label, float32 `[batch]`."""
    targets = {"labels": tf.cast(packed[:, :2], tf.int32), "label_shares": packed[:, 2:4]}
    truths, shares = truths_of(targets, student_logits.shape[1])
    total = label_weight * binary_label_loss(truths, shares, student_logits)
    if packed.shape[1] == _FIRST_LOGIT:
        return total
    on_teacher = label_distillation_loss(
        in_form_of(packed[:, _FIRST_LOGIT:], student_logits.shape[1]),
        student_logits,
        temperature=temperature,
    )
    return total + (1 - label_weight) * packed[:, 4] * on_teacher


@public
def packed_accuracy(packed: tf.Tensor, student_logits: tf.Tensor) -> tf.Tensor:
    """Returns 1 if the student chooses an image's own label, else 0, float32 `[batch]`: a metric.

    An image without a label counts as wrong.
    """
    if student_logits.shape[1] == 1:
        answers = tf.cast(student_logits[:, 0] > 0, tf.int32)
    else:
        answers = tf.argmax(student_logits, axis=1, output_type=tf.int32)
    return tf.cast(answers == tf.cast(packed[:, 0], tf.int32), tf.float32)
