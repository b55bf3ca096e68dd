"""Losses between a student and its teacher that look at one example at a time.

    logit_mse_loss(teacher_logits, student_logits)                           # float32 [batch]
    dkd_loss(teacher_logits, student_logits, labels, temperature=4.0)

All are computed from log-probabilities in float32. Each docstring has the formula and its source:
s and t are the student's and the teacher's logits, p_s and p_t their softmax, y is the label.
"""

from __future__ import annotations

import tensorflow as tf

from streamkd.checks import check_not_negative
from streamkd.losses.distillation import check_temperature
from streamkd.public import public

# Where softmax is to leave a class out. Far below every logit, and finite: the difference of two
# infinities would be no number.
_LEFT_OUT = -1e30


@public
def logit_mse_loss(teacher_logits: tf.Tensor, student_logits: tf.Tensor) -> tf.Tensor:
    """Returns half the mean squared difference of the logits, one number per example.

    ½ · mean over classes of (s − mean(s) − t + mean(t))², which is the limit of
    `distillation_loss` for high temperatures. A constant added to all logits changes nothing.

    Args:
      teacher_logits, student_logits: `[batch, num_classes]`, before softmax.

    Returns:
      float32 `[batch]`.

    Raises:
      ValueError: the two shapes differ.

    Source:
      Hinton, Vinyals and Dean, arXiv:1503.02531, section 2.1; Ba and Caruana, arXiv:1312.6184.

    Example:
      >>> t, s = tf.constant([[4., 1., 1.]]), tf.constant([[2., 2., 2.]])
      >>> print(float(logit_mse_loss(t, s)[0]))
      1.0
    """
    teacher, student = as_float32(teacher_logits, student_logits)
    difference = student - teacher
    difference -= tf.reduce_mean(difference, axis=1, keepdims=True)
    return 0.5 * tf.reduce_mean(difference**2, axis=1)


@public
def hard_loss(teacher_logits: tf.Tensor, student_logits: tf.Tensor) -> tf.Tensor:
    """Returns the cross-entropy with the teacher's own choice, one number per example.

    −log p_s[argmax t], at temperature 1.

    Args:
      teacher_logits, student_logits: `[batch, num_classes]`, before softmax.

    Returns:
      float32 `[batch]`, in nats.

    Raises:
      ValueError: the two shapes differ.

    Source:
      Touvron et al., "Training data-efficient image transformers", arXiv:2012.12877, equation 3,
      which gives it the weight ½ beside the labels.

    Example:
      >>> t, s = tf.constant([[4., 1., 0.]]), tf.constant([[2., 1., 0.]])
      >>> print(round(float(hard_loss(t, s)[0]), 3))
      0.408
    """
    teacher, student = as_float32(teacher_logits, student_logits)
    choices = tf.argmax(teacher, axis=1, output_type=tf.int32)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(choices, student)


@public
def dkd_loss(
    teacher_logits: tf.Tensor,
    student_logits: tf.Tensor,
    labels: tf.Tensor,
    *,
    temperature: float = 4.0,
    target_weight: float = 1.0,
    other_weight: float = 8.0,
) -> tf.Tensor:
    """Returns the decoupled loss: the label's class and the other classes each have a weight.

    temperature² · (target_weight · KL([p_t[y], 1 − p_t[y]] ‖ [p_s[y], 1 − p_s[y]])
    + other_weight · KL(p_t without y ‖ p_s without y)), both at the temperature; a distribution
    without y is divided by its sum.

    Args:
      teacher_logits, student_logits: `[batch, num_classes]`, before softmax.
      labels: int `[batch]`, 0 to num_classes − 1.
      temperature: positive number.
      target_weight, other_weight: the two factors of the paper's equation.

    Returns:
      float32 `[batch]`, in nats times temperature².

    Raises:
      ValueError: the two shapes differ.
      OptionError: `temperature` is not positive, or a weight is negative.

    Source:
      Zhao et al., "Decoupled Knowledge Distillation", arXiv:2203.08679, equation 7. The authors add
      it to the cross-entropy with weight 1, and let it rise over the first 20 epochs.

    Example:
      >>> t, s = tf.constant([[4., 1., 0.]]), tf.constant([[2., 1., 0.]])
      >>> print(round(float(dkd_loss(t, s, tf.constant([0]), temperature=2.0)[0]), 3))
      0.44
    """
    check_temperature(temperature)
    check_not_negative("target_weight", target_weight)
    check_not_negative("other_weight", other_weight)
    teacher, student = as_float32(teacher_logits, student_logits)
    is_label = _one_hot(labels, student)
    teacher_log, student_log = (tf.nn.log_softmax(z / temperature) for z in (teacher, student))
    target = tf.zeros_like(teacher_log[:, 0])
    for classes in (is_label, tf.logical_not(is_label)):
        teacher_part, student_part = (_log_sum(log, classes) for log in (teacher_log, student_log))
        target += tf.exp(teacher_part) * (teacher_part - student_part)
    teacher_rest, student_rest = (_without(log, is_label) for log in (teacher_log, student_log))
    differences = tf.exp(teacher_rest) * (teacher_rest - student_rest)
    other = tf.reduce_sum(tf.where(is_label, 0.0, differences), axis=1)
    return temperature**2 * (target_weight * target + other_weight * other)


@public
def nkd_loss(
    teacher_logits: tf.Tensor,
    student_logits: tf.Tensor,
    labels: tf.Tensor,
    *,
    temperature: float = 1.0,
    other_weight: float = 1.5,
) -> tf.Tensor:
    """Returns the normalised loss: the label's class at temperature 1, the others normalised.

    −p_t[y] · log p_s[y] − other_weight · temperature² · Σ (p_t without y) · log (p_s without y);
    a distribution without y is at the temperature, and divided by its sum. These are
    cross-entropies: where both models are equal the loss is smallest, and not zero.

    Args:
      teacher_logits, student_logits: `[batch, num_classes]`, before softmax.
      labels: int `[batch]`, 0 to num_classes − 1.
      temperature: positive number, of the other classes.
      other_weight: gamma of the paper.

    Returns:
      float32 `[batch]`, in nats.

    Raises:
      ValueError: the two shapes differ.
      OptionError: `temperature` is not positive, or the weight is negative.

    Source:
      Yang et al., "From Knowledge Distillation to Self-Knowledge Distillation",
      arXiv:2303.13005, equation 9. The authors add it to the cross-entropy with weight 1.

    Example:
      >>> t, s = tf.constant([[4., 1., 0.]]), tf.constant([[2., 1., 0.]])
      >>> print(round(float(nkd_loss(t, s, tf.constant([0]))[0]), 3))
      1.255
    """
    check_temperature(temperature)
    check_not_negative("other_weight", other_weight)
    teacher, student = as_float32(teacher_logits, student_logits)
    is_label = _one_hot(labels, student)
    student_log = _log_sum(tf.nn.log_softmax(student), is_label)
    target = -tf.exp(_log_sum(tf.nn.log_softmax(teacher), is_label)) * student_log
    teacher_rest, student_rest = (_without(z / temperature, is_label) for z in (teacher, student))
    products = tf.exp(teacher_rest) * student_rest
    other = -tf.reduce_sum(tf.where(is_label, 0.0, products), axis=1)
    return target + other_weight * temperature**2 * other


@public
def ttm_loss(
    teacher_logits: tf.Tensor, student_logits: tf.Tensor, *, temperature: float = 10.0
) -> tf.Tensor:
    """Returns the divergence from a teacher at the temperature to the student at temperature 1.

    KL(softmax(t / temperature) ‖ softmax(s)): the student's own logits are not softened.

    Args:
      teacher_logits, student_logits: `[batch, num_classes]`, before softmax.
      temperature: positive number, 1/gamma of the paper.

    Returns:
      float32 `[batch]`, in nats.

    Raises:
      ValueError: the two shapes differ.
      OptionError: `temperature` is not positive.

    Source:
      Zheng and Yang, "Knowledge Distillation Based on Transformed Teacher Matching",
      arXiv:2402.11148, equation 11. The authors' example has temperature 10 and the weight 45
      beside the cross-entropy, which is `label_weight` 1/46.

    Example:
      >>> t, s = tf.constant([[4., 1., 0.]]), tf.constant([[2., 1., 0.]])
      >>> print(round(float(ttm_loss(t, s, temperature=2.0)[0]), 3))
      0.019
    """
    check_temperature(temperature)
    teacher, student = as_float32(teacher_logits, student_logits)
    teacher_log = tf.nn.log_softmax(teacher / temperature)
    student_log = tf.nn.log_softmax(student)
    return tf.reduce_sum(tf.exp(teacher_log) * (teacher_log - student_log), axis=1)


@public
def wttm_loss(
    teacher_logits: tf.Tensor, student_logits: tf.Tensor, *, temperature: float = 5.0
) -> tf.Tensor:
    """Returns `ttm_loss` times a weight that is large where the teacher is uncertain.

    (Σ p_t^(1/temperature)) · KL(softmax(t / temperature) ‖ softmax(s)). The weight lies between 1,
    for a teacher that is certain, and num_classes^(1 − 1/temperature).

    Arguments, result and errors as in `ttm_loss`.

    Source:
      As `ttm_loss`, equation 15. The authors' example has temperature 5 and the weight 4 beside the
      cross-entropy, which is `label_weight` 0.2.

    Example:
      >>> t, s = tf.constant([[4., 1., 0.]]), tf.constant([[2., 1., 0.]])
      >>> print(round(float(wttm_loss(t, s, temperature=2.0)[0]), 3))
      0.025
    """
    divergence = ttm_loss(teacher_logits, student_logits, temperature=temperature)
    teacher_log = tf.nn.log_softmax(tf.cast(teacher_logits, tf.float32))
    return divergence * tf.reduce_sum(tf.exp(teacher_log / temperature), axis=1)


@public
def standardize_logits(logits: tf.Tensor) -> tf.Tensor:
    """Returns logits with mean 0 and standard deviation 1 in each row.

    (z − mean(z)) / (std(z) + 1e-7). With both sides standardised, a student matches the order and
    the relations of the teacher's logits and is free in their size.

    Args:
      logits: `[batch, num_classes]`, before softmax.

    Returns:
      float32 `[batch, num_classes]`; zeros where all logits of a row are equal.

    Source:
      Sun et al., "Logit Standardization in Knowledge Distillation", arXiv:2403.01427, algorithm 1,
      with the standard deviation of a sample, as in the authors' code. They use temperature 2, and
      the weight 9 beside 0.1 for the labels, which is `label_weight` 0.011.

    Example:
      >>> print(standardize_logits(tf.constant([[1., 2., 3.]])).numpy().round(3).tolist())
      [[-1.0, 0.0, 1.0]]
    """
    logits = tf.cast(logits, tf.float32)
    centred = logits - tf.reduce_mean(logits, axis=1, keepdims=True)
    num_classes = tf.cast(tf.shape(logits)[1], tf.float32)
    squares = tf.reduce_sum(centred**2, axis=1, keepdims=True)
    # The root of zero has no gradient.
    deviation = tf.sqrt(tf.maximum(squares / tf.maximum(num_classes - 1, 1), 1e-30))
    return centred / (deviation + 1e-7)


def as_float32(teacher_logits: tf.Tensor, student_logits: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Returns both logits in float32; refuses other shapes."""
    teacher, student = (tf.cast(z, tf.float32) for z in (teacher_logits, student_logits))
    teacher.shape.assert_is_compatible_with(student.shape)
    return tf.stop_gradient(teacher), student


def _one_hot(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Returns bool `[batch, num_classes]`, the label of each example."""
    classes = tf.range(tf.shape(logits)[1])
    return tf.equal(tf.cast(labels, tf.int32)[:, None], classes)


def _log_sum(log_probabilities: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Returns float32 `[batch]`, the logarithm of the sum over some classes."""
    return tf.reduce_logsumexp(tf.where(classes, log_probabilities, _LEFT_OUT), axis=1)


def _without(logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Returns the log-probabilities of the other classes, `[batch, num_classes]`, without some."""
    return tf.nn.log_softmax(tf.where(classes, _LEFT_OUT, logits))
