"""The losses of independent labels against float64 NumPy and Keras, and the choice of a loss."""

import doctest
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from run_helpers import binary_cross_entropy, distillation, sigmoid
from store_helpers import header_of

from streamkd.errors import OptionError, StudentError
from streamkd.losses import independent_labels
from streamkd.losses.distillation import distillation_loss
from streamkd.losses.independent_labels import (
    binary_label_loss,
    in_form_of,
    label_distillation_loss,
    truths_of,
)
from streamkd.losses.keras_fit import pack_targets, packed_loss
from streamkd.models.logits_head import LogitsModel
from streamkd.training.batch_loss import BatchLoss
from streamkd.training.class_weights import class_weights
from streamkd.training.epoch_sums import SUMS, metrics_of
from streamkd.training.loss_choice import choose_loss, fits_outputs, needs_sigmoid

TEMPERATURES = [0.5, 1.0, 4.0, 20.0]


def random_logits(seed, shape=(16, 5), scale=3.0):
    return np.random.default_rng(seed).normal(scale=scale, size=shape).astype(np.float32)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_loss_is_binary_cross_entropy_times_the_squared_temperature(temperature):
    teacher, student = random_logits(1), random_logits(2)
    loss = label_distillation_loss(teacher, student, temperature=temperature)
    soft = sigmoid(teacher.astype(np.float64) / temperature)
    expected = temperature**2 * binary_cross_entropy(soft, student.astype(float) / temperature)
    assert loss.dtype == tf.float32 and loss.shape == (16,)
    np.testing.assert_allclose(loss, expected, rtol=2e-5)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_gradient_is_that_of_float64_and_vanishes_at_the_teacher(temperature):
    teacher, student = random_logits(3), tf.constant(random_logits(4))
    with tf.GradientTape() as tape:
        tape.watch(student)
        total = tf.reduce_sum(label_distillation_loss(teacher, student, temperature=temperature))
    gradient = tape.gradient(total, student).numpy()
    apart = sigmoid(student.numpy() / temperature) - sigmoid(teacher / temperature)
    np.testing.assert_allclose(gradient, temperature * apart / 5, rtol=1e-4, atol=1e-5)


def test_huge_logits_have_finite_losses_and_gradients():
    teacher = np.array([[300.0, -300.0]], np.float32)
    student = tf.constant([[-300.0, 300.0]])
    with tf.GradientTape() as tape:
        tape.watch(student)
        loss = label_distillation_loss(teacher, student, temperature=1.0)
    np.testing.assert_allclose(loss, [300.0])
    np.testing.assert_allclose(tape.gradient(loss, student), [[-0.5, 0.5]])


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_one_logit_and_the_softmax_of_zero_and_it_have_one_gradient(temperature):
    teacher, student = random_logits(5, (16, 1)), tf.constant(random_logits(6, (16, 1)))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(student)
        one = tf.reduce_sum(label_distillation_loss(teacher, student, temperature=temperature))
        both = [in_form_of(tf.constant(part), 2) for part in (teacher, student)]
        two = tf.reduce_sum(distillation_loss(*both, temperature=temperature))
    np.testing.assert_allclose(tape.gradient(one, student), tape.gradient(two, student), atol=1e-5)
    np.testing.assert_allclose(two, distillation(*both, temperature).sum(), rtol=1e-5)


def test_two_logits_of_a_softmax_become_one():
    two = tf.constant(random_logits(7, (16, 2)))
    one = in_form_of(two, 1)
    np.testing.assert_allclose(sigmoid(one)[:, 0], tf.nn.softmax(two)[:, 1], rtol=1e-5)
    assert in_form_of(two, 2) is two


def test_shapes_must_agree_and_the_temperature_be_positive():
    with pytest.raises(ValueError, match="incompatible"):
        label_distillation_loss(random_logits(1), random_logits(1, (16, 4)), temperature=1.0)
    with pytest.raises(OptionError, match="temperature"):
        label_distillation_loss(random_logits(1), random_logits(1), temperature=0)


def test_the_example_in_the_docstring_is_true():
    assert doctest.testmod(independent_labels, extraglobs={"tf": tf}).failed == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_label_loss_is_that_of_keras(smoothing):
    truths = np.random.default_rng(8).integers(0, 2, (16, 5)).astype(np.float32)
    logits = random_logits(9)
    pairs, shares = tf.constant(truths)[:, None], tf.ones([16, 1])
    loss = binary_label_loss(pairs, shares, logits, smoothing=smoothing)
    keras = tf_keras.losses.BinaryCrossentropy(
        from_logits=True, label_smoothing=smoothing, reduction="none"
    )
    np.testing.assert_allclose(loss, keras(truths, logits), rtol=1e-5)


def targets_of(**columns):
    """Targets of a batch of two images, without partners unless given."""
    return {
        "labels": tf.constant([[1, 1], [-1, -1]]),
        "label_shares": tf.constant([[1.0, 0.0], [1.0, 0.0]]),
        "rows": tf.constant([0, -1], tf.int64),
        **columns,
    }


def test_a_class_is_one_label_among_several_and_the_truth_of_one_output():
    truths, shares = truths_of(targets_of(), 3)
    assert truths.numpy()[:, 0].tolist() == [[0, 1, 0], [-1, -1, -1]]
    assert truths_of(targets_of(), 1)[0].numpy()[:, 0].tolist() == [[1], [-1]]
    losses = binary_label_loss(truths, shares, np.zeros((2, 3), np.float32))
    np.testing.assert_allclose(losses, [np.log(2), 0], rtol=1e-6)


def test_a_mixed_image_has_the_labels_of_both_by_their_shares():
    hot = tf.constant([[[1.0, 0, 1], [0, 1, 0]], [[1.0, 1, 1], [-1, -1, -1]]])
    shares = tf.constant([[0.75, 0.25], [0.75, 0.25]])
    logits = random_logits(10, (2, 3))
    losses = binary_label_loss(
        *truths_of(targets_of(multi_hot=hot, label_shares=shares), 3), logits
    )
    own = binary_cross_entropy(hot[:, 0], logits)
    partner = binary_cross_entropy(hot[:, 1], logits)
    np.testing.assert_allclose(
        losses, [0.75 * own[0] + 0.25 * partner[0], 0.75 * own[1]], rtol=1e-5
    )


@pytest.mark.parametrize("label_weight", [0.0, 0.3, 1.0])
def test_a_batch_has_both_terms_and_the_sums_of_its_metrics(label_weight):
    teacher, student = random_logits(11, (2, 3)), random_logits(12, (2, 3))
    hot = tf.constant([[[1.0, 0, 1]] * 2, [[-1.0, -1, -1]] * 2])
    targets = targets_of(multi_hot=hot, teacher_logits=tf.constant(teacher))
    loss = BatchLoss(temperature=2.0, label_weight=label_weight, kind="bce")
    losses, sums = loss(tf.constant(student), targets, tf.constant([2.0, 1.0]))
    on_labels = binary_cross_entropy([1, 0, 1], student[0])
    on_teacher = 4 * binary_cross_entropy(sigmoid(teacher[0] / 2), student[0].astype(float) / 2)
    expected = 2 * (label_weight * on_labels + (1 - label_weight) * on_teacher)
    np.testing.assert_allclose(losses, [expected, 0], rtol=1e-5)
    metrics = metrics_of(sums.numpy())
    assert len(sums) == len(SUMS)
    assert metrics["label_loss"] == pytest.approx(on_labels, rel=1e-5)
    assert metrics["distillation_loss"] == pytest.approx(on_teacher, rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(np.mean((student[0] > 0) == [1, 0, 1]))
    assert metrics["agreement"] == pytest.approx(np.mean((student[0] > 0) == (teacher[0] > 0)))


def test_one_output_is_right_by_its_sign():
    loss = BatchLoss(temperature=1.0, label_weight=1.0, kind="bce")
    targets = targets_of(labels=tf.constant([[1, 1], [0, 0]]))
    _, sums = loss(tf.constant([[0.5], [0.5]]), targets, tf.ones(2))
    assert metrics_of(sums.numpy())["accuracy"] == 0.5


class TestChoice:
    """What teacher, labels, student and `--loss` show must agree."""

    def stream(self, removed=None, output="logits", num_classes=3, **more):
        header = header_of(teacher={"removed": removed, "output": output}, num_classes=num_classes)
        store = SimpleNamespace(header=header, path="t.h5")
        return SimpleNamespace(
            **{"store": store, "num_classes": num_classes, "multi_hot": None, **more}
        )

    def choose(self, stream, asked="auto", removed=None, num_outputs=3, label_weight=0.1):
        student = LogitsModel(None, removed=removed, inspected=True)
        return choose_loss(
            asked, stream, label_weight=label_weight, student=student, num_outputs=num_outputs
        )

    @pytest.mark.parametrize(
        ("stream", "student", "kind"),
        [
            ({"removed": "sigmoid"}, {}, "bce"),
            ({"output": "sigmoid"}, {"removed": "sigmoid"}, "bce"),
            ({"output": "sigmoid-logits"}, {}, "bce"),
            ({"removed": "softmax"}, {"removed": "softmax"}, "kl"),
            ({}, {}, "kl"),
            ({}, {"removed": "sigmoid"}, "bce"),
            ({}, {"asked": "bce"}, "bce"),
            ({"store": None}, {"removed": "sigmoid"}, "bce"),
            ({"store": None, "multi_hot": np.ones((1, 3))}, {"label_weight": 1}, "bce"),
            ({"num_classes": 1}, {"num_outputs": 1}, "bce"),
            ({"num_classes": 1}, {"num_outputs": 2}, "kl"),
            ({"num_classes": 1}, {"num_outputs": 2, "removed": "softmax"}, "kl"),
            ({"num_classes": 2, "removed": "softmax"}, {"num_outputs": 1}, "bce"),
            ({"removed": "softmax", "multi_hot": np.ones((1, 3))}, {"label_weight": 0}, "kl"),
            ({"removed": "sigmoid"}, {"removed": "softmax", "label_weight": 1}, "kl"),
        ],
    )
    def test_it_follows_from_what_shows_it(self, stream, student, kind):
        assert self.choose(self.stream(**stream), **student) == kind

    @pytest.mark.parametrize(
        ("stream", "student", "error", "words"),
        [
            ({"removed": "sigmoid"}, {"removed": "softmax"}, StudentError, "ends in sigmoid, or"),
            ({"removed": "softmax"}, {"removed": "sigmoid"}, StudentError, "ends in softmax, or"),
            ({"removed": "sigmoid"}, {"asked": "kl"}, OptionError, "Leave `--loss` out"),
            ({"removed": "softmax"}, {"asked": "bce"}, OptionError, "Leave `--loss` out"),
            ({"num_classes": 1}, {"asked": "kl", "num_outputs": 1}, OptionError, "one output"),
            (
                {"removed": "softmax", "multi_hot": np.ones((1, 3))},
                {},
                OptionError,
                "sigmoid: the images have several labels.*\n.*softmax: the teacher of t.h5 ends in "
                "softmax.*\n.*`--label-weight 0`",
            ),
            (
                {"num_classes": 1},
                {"num_outputs": 1, "removed": "softmax"},
                StudentError,
                "softmax of one output, which is 1",
            ),
        ],
    )
    def test_what_does_not_agree_is_refused(self, stream, student, error, words):
        with pytest.raises(error, match=words):
            self.choose(self.stream(**stream), **student)

    def test_two_classes_have_two_forms_and_two_labels_have_one(self):
        assert fits_outputs(2, self.stream(num_classes=1))
        assert fits_outputs(1, self.stream(num_classes=2, removed="softmax"))
        assert not fits_outputs(1, self.stream(num_classes=2, removed="sigmoid"))
        assert not fits_outputs(3, self.stream(num_classes=1))
        one_label = self.stream(num_classes=1, multi_hot=np.ones((1, 1)))
        assert not fits_outputs(2, one_label) and fits_outputs(1, one_label)

    def test_a_student_that_is_built_for_a_stream_ends_as_it_needs(self):
        assert needs_sigmoid("auto", self.stream(removed="sigmoid"), 0.1)
        assert needs_sigmoid("auto", self.stream(num_classes=1), 0.1)
        assert not needs_sigmoid("auto", self.stream(removed="softmax"), 0.1)
        assert needs_sigmoid("bce", self.stream(), 0.1)


def test_class_weights_need_one_class_an_image():
    with pytest.raises(OptionError, match=r"several labels.\nLeave `--class-weight` out"):
        class_weights("balanced", class_names=None, labels=np.zeros(2), num_classes=3, several=True)


class TestPackedTargets:
    def test_the_loss_is_that_of_the_distiller(self):
        teacher, student = random_logits(13, (2, 3)), random_logits(14, (2, 3))
        targets = targets_of(teacher_logits=tf.constant(teacher))
        _, packed, _ = pack_targets(tf.zeros(2), targets, tf.ones(2))
        losses = packed_loss(temperature=2.0, label_weight=0.3, loss="bce")(packed, student)
        loss = BatchLoss(temperature=2.0, label_weight=0.3, kind="bce")
        expected, _ = loss(tf.constant(student), targets, tf.ones(2))
        np.testing.assert_allclose(losses, expected, rtol=1e-6)

    def test_the_softmax_of_one_output_is_refused(self):
        _, packed, _ = pack_targets(tf.zeros(2), targets_of(), tf.ones(2))
        with pytest.raises(OptionError, match=r"always 1.\nGive packed_loss\(…, loss='bce'\)"):
            packed_loss(temperature=1.0, label_weight=1.0)(packed, tf.zeros([2, 1]))

    def test_lists_of_labels_are_refused(self):
        with pytest.raises(OptionError, match="Train with the Distiller"):
            pack_targets(tf.zeros(2), targets_of(multi_hot=tf.zeros([2, 2, 3])), tf.ones(2))
