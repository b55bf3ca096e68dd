"""The two losses for independent labels, one sigmoid each: one number per example, float32.

    label_distillation_loss(teacher_logits, student_logits, temperature=4.0)     # [batch]
    truths, shares = truths_of(targets, num_outputs=5)
    binary_label_loss(truths, shares, student_logits)                            # [batch]

A single output stands for two classes: its sigmoid is the probability of the second. It is the
softmax of two logits, 0 and its own, so that `in_form_of` turns one form into the other exactly.
"""

from __future__ import annotations

import tensorflow as tf

from streamkd.losses.distillation import check_temperature
from streamkd.public import public


@public
def label_distillation_loss(
    teacher_logits: tf.Tensor, student_logits: tf.Tensor, *, temperature: float
) -> tf.Tensor:
    """Returns how far the student is from a teacher of independent labels, one number per example.

    temperature² times the binary cross-entropy between sigmoid(teacher / temperature) and
    sigmoid(student / temperature), averaged over the labels. It is smallest, though not zero, where
    both are equal.

    Args:
      teacher_logits: `[batch, num_labels]`, before sigmoid, as read from the store.
      student_logits: `[batch, num_labels]`, before sigmoid.
      temperature: positive number; 1 leaves the logits as they are.

    Returns:
      float32 `[batch]`, in nats times temperature².

    Raises:
      ValueError: the two shapes differ.
      OptionError: `temperature` is not positive.

    Source:
      Hinton, Vinyals and Dean, arXiv:1503.02531, section 2, for each label as two classes with the
      logits 0 and z; one label at a time as in Yang et al., arXiv:2308.06453. The average over
      labels is that of Keras' BinaryCrossentropy.

    Example:
      >>> t, s = tf.constant([[4., -1.]]), tf.constant([[2., 1.]])
      >>> print(round(float(label_distillation_loss(t, s, temperature=2.0)[0]), 3))
      2.578
    """
    check_temperature(temperature)
    teacher_logits = tf.cast(teacher_logits, tf.float32)
    student_logits = tf.cast(student_logits, tf.float32)
    teacher_logits.shape.assert_is_compatible_with(student_logits.shape)
    losses = tf.nn.sigmoid_cross_entropy_with_logits(
        tf.sigmoid(teacher_logits / temperature), student_logits / temperature
    )
    return tf.reduce_mean(losses, axis=1) * temperature**2


def binary_label_loss(
    truths: tf.Tensor, shares: tf.Tensor, student_logits: tf.Tensor, *, smoothing: float = 0.0
) -> tf.Tensor:
    """Returns the binary cross-entropy with the labels at temperature 1, one number per example.

    Args:
      truths, shares: as `truths_of` returns them.
      student_logits: `[batch, num_labels]`, before sigmoid.
      smoothing: moves each truth to (1 − smoothing) · truth + smoothing / 2, as `label_smoothing`
        of Keras' BinaryCrossentropy.

    Returns:
      float32 `[batch]`, in nats, the average over the labels; an image without labels adds nothing.
    """
    known = tf.cast(truths[:, :, 0] >= 0, tf.float32)
    wanted = (1 - smoothing) * tf.maximum(truths, 0.0) + smoothing / 2
    logits = tf.cast(student_logits, tf.float32)[:, None]
    # log(1 + e^z) − y·z, stable for logits of any size.
    losses = tf.reduce_mean(tf.nn.softplus(logits) - wanted * logits, axis=2)
    return tf.reduce_sum(known * shares * losses, axis=1)


def truths_of(targets: dict[str, tf.Tensor], num_outputs: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns which labels an image has, and the share of each answer.

    Args:
      targets: of a batch: `multi_hot` where images have several labels, else `labels`.
      num_outputs: outputs of the student; one output stands for two classes.

    Returns:
      float32 `[batch, 2, num_outputs]`, 1 for a label that the image has, or its mixing partner,
      0 for one that it has not, and -1 throughout for an image without labels; float32
      `[batch, 2]`, the shares of the image and its partner.
    """
    shares = targets["label_shares"]
    if "multi_hot" in targets:
        return tf.cast(targets["multi_hot"], tf.float32), shares
    labels = targets["labels"]
    if num_outputs == 1:
        return tf.cast(labels, tf.float32)[:, :, None], shares
    truths = tf.one_hot(labels, num_outputs)
    return tf.where(labels[:, :, None] >= 0, truths, -1.0), shares


def label_accuracy(
    truths: tf.Tensor, targets: dict[str, tf.Tensor], student_logits: tf.Tensor
) -> tf.Tensor:
    """Returns how right the student is on each image, float32 `[batch]`.

    The fraction of the labels that it decides as they are; or 1 and 0, where images have one class
    each, for whether it is the student's first choice.
    """
    if "multi_hot" not in targets and student_logits.shape[1] > 1:
        answers = tf.argmax(student_logits, axis=1, output_type=tf.int32)
        return tf.cast(answers == targets["labels"][:, 0], tf.float32)
    return same_decisions(truths[:, 0] - 0.5, student_logits)


def same_decisions(logits: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Returns the fraction of the labels that both decide alike, float32 `[batch]`."""
    return tf.reduce_mean(tf.cast((logits > 0) == (others > 0), tf.float32), axis=1)


def in_form_of(teacher_logits: tf.Tensor, num_outputs: int) -> tf.Tensor:
    """Returns the teacher's logits in the form of a student's outputs, which is exact.

    One logit of a sigmoid and two of a softmax are the same two classes; any other logits are
    returned as they are.
    """
    width = teacher_logits.shape[1]
    if (width, num_outputs) == (1, 2):
        return tf.concat([tf.zeros_like(teacher_logits), teacher_logits], axis=1)
    if (width, num_outputs) == (2, 1):
        return teacher_logits[:, 1:] - teacher_logits[:, :1]
    return teacher_logits
