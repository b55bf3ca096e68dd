"""The two losses of distillation, one number per example, in log space and float32.

    distillation_loss(teacher_logits, student_logits, temperature=4.0)     # [batch]
    label_loss(labels, label_shares, student_logits)                       # [batch]

Log space matters: a probability that was clipped to 1e-7 has no gradient, and a student that is
confidently wrong would not learn from it.
"""

from __future__ import annotations

import tensorflow as tf

from streamkd.checks import check_below_one, check_positive
from streamkd.public import public


@public
def distillation_loss(
    teacher_logits: tf.Tensor, student_logits: tf.Tensor, *, temperature: float
) -> tf.Tensor:
    """Returns how far the student is from the teacher, one number per example.

    temperature² · KL(softmax(teacher / temperature) ‖ softmax(student / temperature)); the factor
    keeps the size of the gradient the same at every temperature.

    Args:
      teacher_logits: `[batch, num_classes]`, before softmax, as read from the store.
      student_logits: `[batch, num_classes]`, before softmax.
      temperature: positive number; 1 leaves the logits as they are.

    Returns:
      float32 `[batch]`, in nats times temperature²; 0 if both distributions are equal.

    Raises:
      ValueError: the two shapes differ.
      OptionError: `temperature` is not positive.

    Source:
      Hinton, Vinyals and Dean, arXiv:1503.02531, section 2.

    Example:
      >>> t, s = tf.constant([[4., 1., 0.]]), tf.constant([[2., 1., 0.]])
      >>> print(round(float(distillation_loss(t, s, temperature=2.0)[0]), 3))
      0.44
    """
    check_temperature(temperature)
    teacher_logits = tf.cast(teacher_logits, tf.float32)
    student_logits = tf.cast(student_logits, tf.float32)
    teacher_logits.shape.assert_is_compatible_with(student_logits.shape)
    teacher_log = tf.nn.log_softmax(teacher_logits / temperature)
    student_log = tf.nn.log_softmax(student_logits / temperature)
    divergence = tf.reduce_sum(tf.exp(teacher_log) * (teacher_log - student_log), axis=-1)
    return divergence * temperature**2


def check_temperature(temperature: float | tf.Tensor) -> None:
    """Refuses a number that is no temperature; a tensor, of a value over a run, was checked."""
    if not isinstance(temperature, tf.Tensor):
        check_positive("temperature", temperature)


@public
def label_loss(
    labels: tf.Tensor, label_shares: tf.Tensor, student_logits: tf.Tensor, *, smoothing: float = 0.0
) -> tf.Tensor:
    """Returns the cross-entropy with the labels at temperature 1, one number per example.

    Args:
      labels: int32 `[batch, 2]`, the image's label and its mixing partner's; -1 is no label.
      label_shares: float32 `[batch, 2]`, the share of each label in the image.
      student_logits: `[batch, num_classes]`, before softmax.
      smoothing: fraction of a label's weight that all classes get alike, at least 0 and below 1:
        the label becomes (1 − smoothing) · one-hot + smoothing / num_classes (Szegedy et al. 2016,
        arXiv:1512.00567, section 7; as `label_smoothing` in Keras).

    Returns:
      float32 `[batch]`, in nats; a label of -1 adds nothing.

    Example:
      >>> labels, shares = tf.constant([[0, 1]]), tf.constant([[0.75, 0.25]])
      >>> print(round(float(label_loss(labels, shares, tf.constant([[2., 1., 0.]]))[0]), 3))
      0.658
    """
    check_below_one("smoothing", smoothing)
    student_log = tf.nn.log_softmax(tf.cast(student_logits, tf.float32))
    known = labels >= 0
    # The gradient of a gather with batch_dims is a dozen operations more.
    num_examples, num_classes = tf.unstack(tf.shape(student_log))
    labels = tf.cast(labels, tf.int32)
    positions = num_classes * tf.range(num_examples)[:, None] + tf.where(known, labels, 0)
    # A label beyond the classes must fail, and not pick a class of the next example.
    positions = tf.where(labels < num_classes, positions, -1)
    picked = tf.gather(tf.reshape(student_log, [-1]), positions)
    if smoothing:
        spread = tf.reduce_mean(student_log, axis=1, keepdims=True)
        picked = (1 - smoothing) * picked + smoothing * spread
    return -tf.reduce_sum(tf.where(known, label_shares * picked, 0.0), axis=1)
