"""The losses against plain float64 NumPy."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import tensorflow as tf
from run_helpers import cross_entropy, distillation, softmax

from streamkd.errors import OptionError
from streamkd.losses.distillation import distillation_loss, label_loss

TEMPERATURES = [0.5, 1.0, 2.0, 4.0, 20.0]


def random_logits(seed, scale=3.0, shape=(16, 10)):
    return np.random.default_rng(seed).normal(scale=scale, size=shape).astype(np.float32)


def gradient_of(teacher, student, temperature):
    """The gradient of the summed loss with respect to the student's logits."""
    student = tf.constant(student)
    with tf.GradientTape() as tape:
        tape.watch(student)
        loss = tf.reduce_sum(distillation_loss(teacher, student, temperature=temperature))
    return tape.gradient(loss, student).numpy()


def gradient_in_float64(teacher, student, temperature):
    teacher, student = (np.asarray(x, np.float64) / temperature for x in (teacher, student))
    return temperature * (softmax(student) - softmax(teacher))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_distillation_loss_is_that_of_float64(temperature):
    teacher, student = random_logits(1), random_logits(2)
    loss = distillation_loss(teacher, student, temperature=temperature)
    assert loss.dtype == tf.float32 and loss.shape == (16,)
    np.testing.assert_allclose(loss, distillation(teacher, student, temperature), rtol=2e-5)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_gradient_is_that_of_float64(temperature):
    teacher, student = random_logits(3), random_logits(4)
    expected = gradient_in_float64(teacher, student, temperature)
    np.testing.assert_allclose(
        gradient_of(teacher, student, temperature), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_confident_teacher_is_heard_by_a_student_confident_elsewhere(temperature):
    teacher = np.array([[80.0, 0.0, 0.0], [0.0, 60.0, -60.0]], np.float32)
    student = np.array([[-80.0, 80.0, 0.0], [90.0, -90.0, 0.0]], np.float32)
    loss = distillation_loss(teacher, student, temperature=temperature)
    np.testing.assert_allclose(loss, distillation(teacher, student, temperature), rtol=1e-5)
    gradient = gradient_of(teacher, student, temperature)
    np.testing.assert_allclose(
        gradient, gradient_in_float64(teacher, student, temperature), rtol=1e-4, atol=1e-6
    )
    assert np.abs(gradient).max(axis=1).min() > 0.9 * temperature


def test_clipped_probabilities_would_lose_that_gradient():
    teacher, student = np.array([[80.0, 0.0]], np.float32), tf.constant([[-80.0, 80.0]])
    with tf.GradientTape() as tape:
        tape.watch(student)
        clipped = tf.clip_by_value(tf.nn.softmax(student), 1e-7, 1.0)
        loss = -tf.reduce_sum(tf.nn.softmax(teacher) * tf.math.log(clipped))
    assert np.abs(tape.gradient(loss, student)).max() < 1e-6
    assert np.abs(gradient_of(teacher, student.numpy(), 1.0)).max() > 0.9


def test_the_gradient_keeps_its_size_at_every_temperature():
    teacher, student = random_logits(5, scale=0.5), random_logits(6, scale=0.5)
    sizes = [np.linalg.norm(gradient_of(teacher, student, t)) for t in (4.0, 8.0, 16.0, 64.0)]
    np.testing.assert_allclose(sizes, sizes[-1], rtol=0.05)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_loss_is_zero_where_both_distributions_are_equal(temperature):
    teacher = random_logits(7)
    shift = np.linspace(-5, 5, 16, dtype=np.float32)[:, None]
    loss = distillation_loss(teacher, teacher + shift, temperature=temperature)
    np.testing.assert_allclose(loss, 0, atol=1e-5 * max(1, temperature**2))
    assert np.abs(gradient_of(teacher, teacher, temperature)).max() < 1e-5


@pytest.mark.parametrize("kind", [tf.float16, tf.bfloat16])
def test_half_precision_is_computed_in_float32(kind):
    teacher, student = tf.cast(random_logits(8), kind), tf.cast(random_logits(9) + 40, kind)
    loss = distillation_loss(teacher, student, temperature=20.0)
    expected = distillation(tf.cast(teacher, tf.float64), tf.cast(student, tf.float64), 20.0)
    assert loss.dtype == tf.float32
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    labels = tf.constant([[3, 3]] * 16)
    on_labels = label_loss(labels, tf.constant([[1.0, 0.0]] * 16), student)
    assert on_labels.dtype == tf.float32
    expected = cross_entropy([3] * 16, tf.cast(student, tf.float64))
    np.testing.assert_allclose(on_labels, expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [distillation_loss, label_loss], ids=lambda f: f.__name__)
def test_the_example_in_the_docstring_is_true(loss):
    namespace = {loss.__name__: loss, "tf": tf}
    example = doctest.DocTestParser().get_doctest(loss.__doc__, namespace, loss.__name__, None, 0)
    runner = doctest.DocTestRunner()
    runner.run(example)
    assert runner.tries >= 2 and runner.failures == 0


@pytest.mark.parametrize("temperature", [0, -1.0, float("inf"), float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(OptionError, match=r"temperature is .*; it must be a positive number"):
        distillation_loss(random_logits(1), random_logits(2), temperature=temperature)


def test_logits_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"Shapes \(16, 10\) and \(16, 9\) are incompatible"):
        distillation_loss(random_logits(1), random_logits(2, shape=(16, 9)), temperature=1.0)


def test_label_loss_is_the_cross_entropy_of_float64():
    student, labels = random_logits(10, scale=20), np.arange(16) % 10
    shares = np.tile(np.float32([1, 0]), (16, 1))
    loss = label_loss(tf.constant(np.stack([labels, labels], 1), tf.int32), shares, student)
    assert loss.dtype == tf.float32 and loss.shape == (16,)
    np.testing.assert_allclose(loss, cross_entropy(labels, student), rtol=1e-5, atol=1e-6)


def test_label_loss_shares_itself_between_mixed_labels():
    student = random_logits(11)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, (16, 2)).astype(np.int32)
    first = rng.random(16).astype(np.float32)
    shares = np.stack([first, 1 - first], axis=1)
    expected = sum(shares[:, i] * cross_entropy(labels[:, i], student) for i in (0, 1))
    np.testing.assert_allclose(
        label_loss(tf.constant(labels), shares, student), expected, rtol=1e-5
    )


def test_a_label_of_minus_one_adds_nothing():
    student = tf.constant(random_logits(12, shape=(3, 4)))
    labels = tf.constant([[-1, -1], [2, -1], [1, 1]])
    shares = tf.constant([[1.0, 0.0], [0.7, 0.3], [1.0, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(student)
        loss = label_loss(labels, shares, student)
    parts = cross_entropy([0, 2, 1], student)
    np.testing.assert_allclose(loss, [0, np.float32(0.7) * parts[1], parts[2]], rtol=1e-5)
    gradient = tape.gradient(loss, student).numpy()
    assert not gradient[0].any() and gradient[1].any()


def test_a_label_that_no_class_has_is_an_error_and_not_a_class_of_the_next_example():
    logits, shares = tf.zeros([2, 4]), tf.constant([[1.0, 0.0]] * 2)
    with tf.device("CPU"), pytest.raises(tf.errors.InvalidArgumentError):
        label_loss(tf.constant([[5, 5], [0, 0]]), shares, logits)
