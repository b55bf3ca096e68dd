"""Mixed precision: the loss is float32, and that of a float32 student but for its rounding."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from run_helpers import dense_student, distillation, make_steps

from streamkd.models.precision import precision


@pytest.mark.parametrize("confidence", [1.0, 300.0, 30_000.0], ids="teacher x{:g}".format)
@pytest.mark.parametrize(
    ("policy", "tolerance"), [("mixed_float16", 2e-3), ("mixed_bfloat16", 2e-2)]
)
def test_the_loss_is_that_of_float32(family, policy, tolerance, confidence):
    with precision(policy):
        student = dense_student(family, activation=None)
    exact = dense_student(family, activation=None)
    rng = np.random.default_rng(0)
    pixels = rng.uniform(0, 255, (6, 8, 8, 3)).astype(np.float32)
    teacher_logits = (confidence * rng.normal(size=(6, 3))).astype(np.float32)
    targets = {
        "labels": tf.constant([[k, k] for k in (0, 1, 2, 0, 1, 2)]),
        "label_shares": tf.constant([[1.0, 0.0]] * 6),
        "teacher_logits": tf.constant(teacher_logits),
        "rows": tf.range(6, dtype=tf.int64),
    }
    steps = make_steps(student, family.optimizers.SGD(0.1), temperature=4.0, label_weight=0.0)
    answers = student(pixels)
    assert answers.dtype in (tf.float16, tf.bfloat16)
    losses, _ = steps.loss(tf.cast(answers, tf.float32), targets, tf.ones([6]))
    assert losses.dtype == tf.float32
    expected = distillation(teacher_logits, np.asarray(exact(pixels)), 4.0)
    np.testing.assert_allclose(losses, expected, rtol=tolerance, atol=10 * tolerance)
    gradients = steps.batch_gradients(
        tf.constant(pixels), targets, tf.ones([6]), tf.constant(6.0), tf.constant(1.0)
    ).gradients
    assert all(np.isfinite(gradient).all() for gradient in gradients)
