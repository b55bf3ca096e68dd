"""Losses between a student and its teacher that compare the examples of a batch with each other.

    dist_loss(teacher_logits, student_logits, temperature=4.0)     # float32 [batch]
    mlkd_loss(teacher_logits, student_logits)

The mean over the batch is the loss of the papers. What belongs to the batch as a whole is in every
example's number. A batch here is what one replica sees at once: other batch sizes are other losses.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from streamkd.checks import check_not_negative, check_positive
from streamkd.losses.distillation import check_temperature, distillation_loss
from streamkd.losses.logit_losses import as_float32
from streamkd.public import public

# Below this, the authors of DIST take two distributions for unrelated.
_SMALLEST_NORM = 1e-8


@public
def dist_loss(
    teacher_logits: tf.Tensor,
    student_logits: tf.Tensor,
    *,
    temperature: float = 1.0,
    row_weight: float = 1.0,
    column_weight: float = 1.0,
    counted: tf.Tensor | None = None,
) -> tf.Tensor:
    """Returns how far the student's relations are from the teacher's, by Pearson correlation.

    temperature² · (row_weight · (1 − correlation of p_s and p_t over the classes of an example)
    + column_weight · (1 − mean over classes of their correlation over the examples of the batch)),
    both at the temperature.

    Args:
      teacher_logits, student_logits: `[batch, num_classes]`, before softmax.
      temperature: positive number.
      row_weight, column_weight: beta and gamma of the paper.
      counted: bool `[batch]`, the examples that count; None for all.

    Returns:
      float32 `[batch]`; 0 for an example that does not count.

    Raises:
      ValueError: the two shapes differ.
      OptionError: `temperature` is not positive, or a weight is negative.

    Source:
      Huang et al., "Knowledge Distillation from A Stronger Teacher", arXiv:2205.10536, equation 10,
      with the 1e-8 of the authors' code beside the product of the norms. They use temperature 1 on
      ImageNet and, on CIFAR-100, 4 with both weights 2, and add it to the cross-entropy.

    Example:
      >>> t = tf.constant([[4., 1., 0.], [0., 2., 1.]])
      >>> print(abs(dist_loss(t, t + 5.)).numpy().round(3).tolist())
      [0.0, 0.0]
    """
    check_temperature(temperature)
    check_not_negative("row_weight", row_weight)
    check_not_negative("column_weight", column_weight)
    rows, teacher, student = _probabilities(teacher_logits, student_logits, temperature, counted)
    by_row = 1 - _cosine(
        *(p - tf.reduce_mean(p, axis=1, keepdims=True) for p in (teacher, student))
    )
    num_rows = tf.maximum(tf.reduce_sum(rows), 1)
    means = (tf.reduce_sum(rows * p, axis=0, keepdims=True) / num_rows for p in (teacher, student))
    centred = (rows * (p - mean) for p, mean in zip((teacher, student), means, strict=True))
    by_column = 1 - _cosine(*(tf.transpose(p) for p in centred))
    both = row_weight * by_row + column_weight * tf.reduce_mean(by_column)
    return temperature**2 * rows[:, 0] * both


@public
def mlkd_loss(
    teacher_logits: tf.Tensor,
    student_logits: tf.Tensor,
    *,
    temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
    counted: tf.Tensor | None = None,
) -> tf.Tensor:
    """Returns the multi-level loss: examples, pairs of examples and pairs of classes.

    The sum over the temperatures of `distillation_loss`, of |S Sᵀ − T Tᵀ|² / batch and of
    |Sᵀ S − Tᵀ T|² / num_classes, where S and T are the `[batch, num_classes]` probabilities of
    student and teacher, and |·|² is the sum of squares. The paper takes a second, strongly
    augmented view of each image as well, and leaves uncertain examples of the first out; here every
    view that is stored counts.

    Args:
      teacher_logits, student_logits: `[batch, num_classes]`, before softmax.
      temperatures: positive numbers.
      counted: bool `[batch]`, the examples that count; None for all.

    Returns:
      float32 `[batch]`; 0 for an example that does not count.

    Raises:
      ValueError: the two shapes differ.
      OptionError: a temperature is not positive.

    Source:
      Jin, Wang and Lin, "Multi-Level Logit Distillation", CVPR 2023, equations 4 to 9.

    Example:
      >>> t = tf.constant([[4., 1., 0.], [0., 2., 1.]])
      >>> print(abs(mlkd_loss(t, t + 5.)).numpy().round(3).tolist())
      [0.0, 0.0]
    """
    total = 0.0
    for temperature in temperatures:
        check_positive("temperatures", temperature)
        rows, teacher, student = _probabilities(
            teacher_logits, student_logits, temperature, counted
        )
        teacher, student = rows * teacher, rows * student
        divergence = distillation_loss(teacher_logits, student_logits, temperature=temperature)
        total += divergence + _of_pairs(teacher, student, rows)
    return rows[:, 0] * total


def _of_pairs(teacher: tf.Tensor, student: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Returns the terms of pairs of examples and of classes, `[batch]`.

    S Sᵀ − T Tᵀ = D Sᵀ + T Dᵀ with D = S − T, and likewise for classes. Written so, what is summed
    is as small as the difference, and nothing of the size of classes times classes is made.
    """
    difference = student - teacher
    with_student = tf.matmul(difference, student, transpose_b=True)
    with_teacher = tf.matmul(difference, teacher, transpose_b=True)
    of_examples = with_student + tf.transpose(with_teacher)
    by_example = tf.reduce_sum(of_examples**2, axis=1)
    differences = tf.matmul(difference, difference, transpose_b=True)
    # |Dᵀ S + Tᵀ D|² in products of examples.
    of_classes = tf.reduce_sum(
        differences * tf.matmul(student, student, transpose_b=True)
        + differences * tf.matmul(teacher, teacher, transpose_b=True)
        + 2 * with_student * tf.transpose(with_teacher)
    )
    num_classes = tf.cast(tf.shape(student)[1], tf.float32)
    return by_example + rows[:, 0] * of_classes / num_classes


def _probabilities(
    teacher_logits: tf.Tensor,
    student_logits: tf.Tensor,
    temperature: float,
    counted: tf.Tensor | None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns 1 or 0 for each row, float32 `[batch, 1]`, and probabilities of teacher and student.

    Rows that do not count are even distributions.
    """
    teacher, student = as_float32(teacher_logits, student_logits)
    rows = tf.ones_like(student[:, :1])
    if counted is not None:
        rows = tf.cast(counted, tf.float32)[:, None]
        teacher, student = (tf.where(rows > 0, z, 0.0) for z in (teacher, student))
    return rows, tf.nn.softmax(teacher / temperature), tf.nn.softmax(student / temperature)


def _cosine(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Returns the cosine of each row of two matrices."""
    # The root of zero has no gradient.
    norms = (tf.sqrt(tf.maximum(tf.reduce_sum(x**2, axis=1), 1e-30)) for x in (a, b))
    first, second = norms
    return tf.reduce_sum(a * b, axis=1) / (first * second + _SMALLEST_NORM)
