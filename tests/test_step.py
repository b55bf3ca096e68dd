"""One training step against a batch computed in NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf
from run_helpers import (
    cross_entropy,
    dense_student,
    distillation,
    make_steps,
    same_weights,
    softmax,
    weights_of,
)

from streamkd.training.epoch_sums import SUMS, EpochTimes, metrics_of

TEMPERATURE, LABEL_WEIGHT = 3.0, 0.25
BATCH_SIZE, NUM_CLASSES = 6, 3


def steps_of(model, optimizer=None, **options):
    """The compiled steps with the loss of this module, unless `options` says otherwise."""
    options = {"temperature": TEMPERATURE, "label_weight": LABEL_WEIGHT, **options}
    return make_steps(model, optimizer, **options)


def gradients_of(steps, batch, scale=1.0):
    """The gradients of one batch, as the step takes them."""
    total = tf.reduce_sum(batch[2])
    return steps.compiled_gradients(*batch, total, tf.constant(scale)).gradients


def one_by_one(*batches):
    """An iterator over batches."""
    stacked = tf.nest.map_structure(lambda *parts: tf.stack(parts), *batches)
    return iter(tf.data.Dataset.from_tensor_slices(stacked))


def make_batch(seed=0, *, labels=(0, 1, 2, 0, 1, 2), rows=range(6), weights=(1,) * 6):
    rng = np.random.default_rng(seed)
    images = rng.uniform(0, 255, (BATCH_SIZE, 8, 8, 3)).astype(np.float32)
    targets = {
        "labels": tf.constant([[label, label] for label in labels], tf.int32),
        "label_shares": tf.constant([[1.0, 0.0]] * BATCH_SIZE),
        "teacher_logits": tf.constant(rng.normal(size=(BATCH_SIZE, NUM_CLASSES)), tf.float32),
        "rows": tf.constant(list(rows), tf.int64),
    }
    return tf.constant(images), targets, tf.constant(weights, tf.float32)


def terms_of(model, batch):
    """Cross-entropy and T²·KL of each example in float64; the label's is of class 0 if unknown."""
    images, targets, _ = batch
    logits = model(images).numpy()
    labels = np.maximum(targets["labels"][:, 0].numpy(), 0)
    return (
        cross_entropy(labels, logits),
        distillation(targets["teacher_logits"], logits, TEMPERATURE),
    )


@pytest.fixture
def model():
    return dense_student(activation=None, num_classes=NUM_CLASSES)


def test_the_loss_is_the_weighted_sum_of_both_terms(model):
    batch = make_batch()
    on_labels, on_teacher = terms_of(model, batch)
    losses, sums = steps_of(model).loss(model(batch[0]), batch[1], batch[2])
    np.testing.assert_allclose(losses, 0.25 * on_labels + 0.75 * on_teacher, rtol=1e-4)
    totals = dict(zip(SUMS, sums.numpy(), strict=True))
    assert totals["weight"] == totals["labelled"] == totals["taught"] == BATCH_SIZE
    assert totals["label_loss"] == pytest.approx(on_labels.sum(), rel=1e-5)
    assert totals["distillation_loss"] == pytest.approx(on_teacher.sum(), rel=1e-5)
    answers = model(batch[0]).numpy().argmax(axis=1)
    assert totals["correct"] == np.sum(answers == [0, 1, 2, 0, 1, 2])
    choices = batch[1]["teacher_logits"].numpy().argmax(axis=1)
    assert totals["agreeing"] == np.sum(answers == choices)


def test_an_image_without_logits_or_label_loses_that_term_and_the_other_is_not_scaled(model):
    batch = make_batch(labels=(0, -1, 2, 0, 1, -1), rows=(0, 1, -1, 3, -1, -1))
    on_labels, on_teacher = terms_of(model, batch)
    on_labels[[1, 5]] = 0
    on_teacher[[2, 4, 5]] = 0
    losses, sums = steps_of(model).loss(model(batch[0]), batch[1], batch[2])
    np.testing.assert_allclose(losses, 0.25 * on_labels + 0.75 * on_teacher, rtol=1e-4)
    assert losses[5] == 0
    metrics = metrics_of(sums.numpy())
    assert metrics["label_loss"] == pytest.approx(on_labels.sum() / 4, rel=1e-5)
    assert metrics["distillation_loss"] == pytest.approx(on_teacher.sum() / 3, rel=1e-5)
    assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_sample_weights_weigh_loss_and_metrics(model):
    weights = np.array([1, 0, 2, 0.5, 1, 0])
    batch = make_batch(weights=weights)
    on_labels, on_teacher = terms_of(model, batch)
    losses, sums = steps_of(model).loss(model(batch[0]), batch[1], batch[2])
    expected = weights * (0.25 * on_labels + 0.75 * on_teacher)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    metrics = metrics_of(sums.numpy())
    assert metrics["loss"] == pytest.approx(expected.sum() / weights.sum(), rel=1e-5)
    correct = model(batch[0]).numpy().argmax(axis=1) == [0, 1, 2, 0, 1, 2]
    assert metrics["accuracy"] == pytest.approx((weights * correct).sum() / weights.sum())


def test_a_stream_without_logits_has_the_label_term_alone(model):
    batch = make_batch(rows=[-1] * 6)
    del batch[1]["teacher_logits"]
    losses, sums = steps_of(model, label_weight=1.0).loss(model(batch[0]), *batch[1:])
    logits = model(batch[0])
    np.testing.assert_allclose(losses, cross_entropy((0, 1, 2, 0, 1, 2), logits), rtol=1e-5)
    metrics = metrics_of(sums.numpy())
    assert metrics["distillation_loss"] is None and metrics["agreement"] is None


@pytest.mark.parametrize("jit", [False, True], ids=["jit off", "jit on"])
def test_the_gradient_is_that_of_the_mean_loss(model, jit):
    batch = make_batch(weights=(1, 2, 1, 0, 1, 1))
    gradients = gradients_of(steps_of(model, jit=jit), batch)
    pixels = batch[0].numpy().reshape(BATCH_SIZE, -1).astype(np.float64) / 255
    logits = model(batch[0]).numpy().astype(np.float64)
    teacher_logits = batch[1]["teacher_logits"].numpy()

    on_labels = softmax(logits) - np.eye(3)[[0, 1, 2, 0, 1, 2]]
    on_teacher = TEMPERATURE * (
        softmax(logits / TEMPERATURE) - softmax(teacher_logits / TEMPERATURE)
    )
    weights = batch[2].numpy()[:, None] / batch[2].numpy().sum()
    of_logits = weights * (0.25 * on_labels + 0.75 * on_teacher)
    np.testing.assert_allclose(gradients[0], pixels.T @ of_logits, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(gradients[1], of_logits.sum(0), rtol=1e-3, atol=1e-5)


def test_regularisers_of_the_student_are_counted(family):
    penalty = 0.01
    plain = dense_student(family, activation=None)
    model = dense_student(family, activation=None, regularizer=family.regularizers.L2(penalty))
    model.set_weights(plain.get_weights())
    batch = make_batch()
    optimizer = family.optimizers.SGD(0.1)
    with_penalty = gradients_of(steps_of(model, optimizer), batch)
    without = gradients_of(steps_of(plain, family.optimizers.SGD(0.1)), batch)
    difference = with_penalty[0].numpy() - without[0].numpy()
    np.testing.assert_allclose(difference, 2 * penalty * plain.get_weights()[0], atol=1e-6)
    np.testing.assert_allclose(with_penalty[1], without[1])


def test_several_steps_in_one_call_are_the_steps_one_by_one(monkeypatch):
    ticks = itertools.count(1.0)

    def next_tick():
        return tf.ensure_shape(tf.numpy_function(lambda: next(ticks), [], tf.float64), ())

    monkeypatch.setattr(tf, "timestamp", next_tick)
    batches = [make_batch(seed) for seed in range(5)]
    together, apart = (steps_of(dense_student(activation=None)) for _ in range(2))
    done, finite, waited = together.run(one_by_one(*batches), tf.constant(5))
    assert (int(done), bool(finite)) == (5, True)
    assert float(waited) == 5, "the clock was asked before and after each batch"
    source = one_by_one(*batches)
    for _ in range(5):
        apart.run(source, tf.constant(1))
    assert same_weights(together.model, apart.model)
    assert together.state.num_steps == apart.state.num_steps == 5
    np.testing.assert_array_equal(together.state.sums, apart.state.sums)


def test_a_step_is_the_optimizers_update(model):
    before, batch = weights_of(model), make_batch()
    steps = steps_of(model)
    gradients = gradients_of(steps, batch)
    steps.run(one_by_one(batch), tf.constant(1))
    for old, gradient, new in zip(before, gradients, weights_of(model), strict=True):
        np.testing.assert_allclose(new, old - 0.1 * gradient.numpy(), rtol=1e-5, atol=1e-7)


def test_metrics_are_none_where_nothing_was_counted():
    assert metrics_of(np.zeros(len(SUMS))) == {
        "loss": None,
        "label_loss": None,
        "distillation_loss": None,
        "accuracy": None,
        "agreement": None,
    }


def test_metrics_divide_each_sum_by_its_own_count():
    sums = dict.fromkeys(SUMS, 0.0) | {
        "loss": 12.0,
        "weight": 8.0,
        "label_loss": 3.0,
        "labelled": 4.0,
        "distillation_loss": 10.0,
        "taught": 5.0,
        "correct": 1.0,
        "agreeing": 2.0,
    }
    assert metrics_of(np.array([sums[name] for name in SUMS])) == {
        "loss": 1.5,
        "label_loss": 0.75,
        "distillation_loss": 2.0,
        "accuracy": 0.25,
        "agreement": 0.4,
    }


def test_the_pace_of_an_epoch_is_that_of_all_its_calls():
    times = EpochTimes()
    assert times.metrics(16) == {"images_per_second": None, "input_wait": None}
    times.add(3, 1.5, 0.5)
    times.add(1, 0.5, 0.1)
    assert times.metrics(16) == {"images_per_second": 32.0, "input_wait": 0.3}
