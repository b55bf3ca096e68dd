"""Weights of images, by their class and by a table; and smoothed labels."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from run_helpers import (
    SAME_LINES_FOR_BOTH,
    cross_entropy,
    dense_student,
    distillation,
    fit,
    log_softmax,
    softmax,
)

from streamkd.errors import OptionError
from streamkd.losses.distillation import label_loss
from streamkd.manifest.manifest import scan
from streamkd.stream.join import join
from streamkd.training.batch_loss import BatchLoss
from streamkd.training.class_weights import class_weights

NAMES = ["ant", "bee", "cat"]
LABELS = np.array([0, 0, 0, 1, 2, 2, -1], np.int32)


def weights_of_classes(given, *, class_names=NAMES, labels=LABELS, num_classes=3):
    return class_weights(
        given, class_names=class_names, labels=labels, num_classes=num_classes
    ).tolist()


def test_classes_are_named_by_name_or_number_and_the_others_have_weight_one():
    assert weights_of_classes({"bee": 3, 2: 0.5}) == [1, 3, 0.5]
    assert weights_of_classes({np.int64(1): np.float32(0.25)}, class_names=None) == [1, 0.25, 1]
    assert weights_of_classes({"0": 2, 0: 3}, class_names=["b", "0", "a"]) == [3, 2, 1]
    assert class_weights(None, class_names=NAMES, labels=LABELS, num_classes=3) is None


def test_balanced_is_the_formula_of_scikit_learn():
    """num_images / (num_classes · num_images_of_the_class), of the images that have a label."""
    assert weights_of_classes("balanced") == pytest.approx([6 / (3 * 3), 6 / 3, 6 / (3 * 2)])
    without_bees = weights_of_classes("balanced", labels=LABELS[LABELS != 1])
    assert without_bees == pytest.approx([5 / (2 * 3), 1, 5 / (2 * 2)]), "a class without images"
    assert weights_of_classes("balanced", labels=np.array([-1], np.int32)) == [1, 1, 1]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"owl": 2},
            r"an unknown class 'owl'\.\n  classes: 'ant', 'bee', 'cat'\nGive names or",
        ),
        ({3: 2}, "has an unknown class 3"),
        ({-1: 2}, "has an unknown class -1"),
        ({True: 2}, "has an unknown class True"),
        ({"bee": 2, 1: 3}, r"two weights for one class, as 'bee' and as 1\.\nGive one of the two"),
        ({"bee": -1}, r"weight of the class 'bee' is -1; it must be zero or positive"),
        ({"bee": float("nan")}, "is nan; it must be zero or positive"),
        ({"bee": float("inf")}, "is inf; it must be zero or positive"),
        ({"bee": "2"}, "weight of the class 'bee' is '2'; give a number"),
        ({"bee": True}, "is True; give a number"),
        ("even", r"class_weight is 'even'; give 'balanced', or a weight for each class: \{'cat'"),
        ([1.0, 2.0, 3.0], r"class_weight is \[1\.0, 2\.0, 3\.0\]; give 'balanced'"),
    ],
    ids=str,
)
def test_class_weights_that_cannot_be_are_refused(given, words):
    with pytest.raises(OptionError, match=words):
        weights_of_classes(given)


def test_many_classes_are_not_all_named():
    names = [f"class {number}" for number in range(9)]
    with pytest.raises(OptionError, match=r"'class 4' and 4 more\n"):
        weights_of_classes({"owl": 1}, class_names=names, num_classes=9)
    with pytest.raises(OptionError, match=r"classes: 0 to 8\n"):
        weights_of_classes({"owl": 1}, class_names=None, num_classes=9)


@pytest.fixture(scope="module")
def stream(shared):
    images = scan(shared[0])
    images.labels[::7] = -1
    return join(images, shared[1], batch_size=10, seed=3)


def seen(stream, start=0, stop=None):
    """Pixels, labels, teacher logits and weights of the images of some steps."""
    batches = list(stream.batches(start, stop or stream.end_of_epoch(1)))
    parts = [(x, y["labels"][:, 0], y["teacher_logits"], w) for x, y, w in batches]
    return [
        np.concatenate([np.asarray(part) for part in column]) for column in zip(*parts, strict=True)
    ]


def expected_loss(stream, student, by_class, *, temperature, label_weight):
    pixels, labels, teacher, weights = seen(stream)
    kernel, bias = student.get_weights()
    logits = pixels.reshape(len(pixels), -1).astype(np.float64) / 255 @ kernel + bias
    weights = weights * np.where(labels >= 0, np.asarray(by_class)[labels], 1)
    on_labels = np.where(labels >= 0, cross_entropy(np.maximum(labels, 0), logits), 0)
    losses = label_weight * on_labels
    losses += (1 - label_weight) * distillation(teacher, logits, temperature)
    answers = logits.argmax(axis=1) == labels
    labelled = weights * (labels >= 0)
    return (weights @ losses) / weights.sum(), (labelled @ answers) / labelled.sum()


def test_the_loss_of_the_loop_is_that_of_numpy(stream, family):
    """With a rate of nearly nothing; images without a label have weight 1."""
    given, by_class = {"bee": 3.0, 2: 0.0}, [1, 3, 0]
    if family.__name__ == "keras":
        counts = np.bincount(stream.labels[stream.labels >= 0], minlength=3)
        given, by_class = "balanced", counts.sum() / (3 * counts)
    student = dense_student(family)
    options = {"temperature": 2.0, "label_weight": 0.4}
    loss, accuracy = expected_loss(stream, student, by_class, **options)
    optimizer = family.optimizers.SGD(1e-12)
    _, history = fit(stream, student, optimizer=optimizer, class_weight=given, **options)
    assert history.last["loss"] == pytest.approx(loss, rel=1e-5)
    assert history.last["accuracy"] == pytest.approx(accuracy, rel=1e-5)


def test_mixing_partners_count_by_their_shares():
    """An image of 0.25 ant and 0.75 cat weighs 0.25 · 2 + 0.75 · 10."""
    weights = np.array([2, 5, 10], np.float32)
    loss = BatchLoss(temperature=1.0, label_weight=1.0, class_weights=weights)
    targets = {
        "labels": tf.constant([[0, 2], [1, -1], [-1, -1], [-1, 2]]),
        "label_shares": tf.constant([[0.25, 0.75], [1, 0], [1, 0], [0.5, 0.5]]),
    }
    weighted = loss.class_weighted(targets, tf.constant([1.0, 2.0, 3.0, 1.0]))
    np.testing.assert_allclose(weighted, [0.25 * 2 + 0.75 * 10, 10, 3, 0.5 + 0.5 * 10])


def write_table(directory, images, weights):
    """Lists the images in a table beside them; a weight of 1 is left empty."""
    with open(directory / "metadata.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "label", "weight"])
        for key, label, weight in zip(images.keys, images.labels, weights, strict=True):
            table.writerow([key.decode(), NAMES[label], "" if weight == 1 else weight])
    return scan(directory / "metadata.csv")


@SAME_LINES_FOR_BOTH
def test_weights_of_a_table_reach_the_student(directory, images, store, family):
    """The student ends where a descent in NumPy ends."""
    weights = np.random.default_rng(0).integers(0, 4, len(images)).astype(np.float64)
    listed = write_table(directory, images, weights)
    assert (listed.weights == weights).all()
    stream = join(listed, store, batch_size=10, seed=3)
    student = dense_student(family)
    kernel, bias = (weight.astype(np.float64) for weight in student.get_weights())
    losses = []
    every_pixel, every_label, _, _ = seen(stream, 0, 6)
    for step in range(6):
        batch = slice(10 * step, 10 * step + 10)
        labels = every_label[batch]
        inputs = every_pixel[batch].reshape(10, -1).astype(np.float64) / 255
        own = weights[stream.indices(step)] * np.array([1, 2, 1])[labels]
        logits = inputs @ kernel + bias
        losses.append((own @ -log_softmax(logits)[np.arange(10), labels], own.sum()))
        errors = own[:, None] * (softmax(logits) - np.eye(3)[labels]) / own.sum()
        kernel, bias = kernel - 0.1 * inputs.T @ errors, bias - 0.1 * errors.sum(axis=0)
    options = {"optimizer": family.optimizers.SGD(0.1), "label_weight": 1}
    _, history = fit(stream, student, epochs=2, class_weight={"bee": 2}, **options)
    for weight, expected in zip(student.get_weights(), (kernel, bias), strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-5)
    for epoch, part in zip(history.epochs, (losses[:3], losses[3:]), strict=True):
        total, count = np.sum(part, axis=0)
        assert epoch["loss"] == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_smoothed_labels_are_those_of_keras(smoothing):
    rng = np.random.default_rng(1)
    logits = tf.constant(rng.normal(scale=8, size=(6, 4)), tf.float32)
    labels = rng.integers(0, 4, (6, 1)).astype(np.int32)
    losses = label_loss(labels, np.ones((6, 1), np.float32), logits, smoothing=smoothing)
    keras = tf_keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=smoothing, reduction="none"
    )
    np.testing.assert_allclose(losses, keras(np.eye(4)[labels[:, 0]], logits), rtol=1e-5)


def test_smoothed_labels_of_mixed_images_are_the_mixture_of_both():
    logits = tf.constant([[1.0, -2.0, 0.5]])
    keras = tf_keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2)
    expected = keras(np.array([[0.3, 0, 0.7]]), logits)
    shares = np.array([[0.3, 0.7]], np.float32)
    losses = label_loss(np.array([[0, 2]], np.int32), shares, logits, smoothing=0.2)
    np.testing.assert_allclose(losses, expected[None], rtol=1e-5)
    without = label_loss(np.array([[-1, -1]], np.int32), shares, logits, smoothing=0.2)
    np.testing.assert_array_equal(without, [0.0])


def test_smoothing_reaches_the_student_and_validation_knows_nothing_of_it(images, store):
    family = tf_keras
    stream = join(images, store, batch_size=10, seed=3)
    student, plain = dense_student(family), dense_student(family, activation=None)
    options = {"optimizer": family.optimizers.SGD(1e-12), "label_weight": 1}
    last = fit(stream, student, validation=images, label_smoothing=0.3, **options)[1].last
    pixels, labels, _, _ = seen(stream)
    logits = np.asarray(plain(pixels))
    keras = family.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.3)
    assert last["loss"] == pytest.approx(float(keras(np.eye(3)[labels], logits)), rel=1e-5)
    expected = cross_entropy(labels, logits).mean()
    assert last["val_loss"] == pytest.approx(expected, rel=1e-5)
