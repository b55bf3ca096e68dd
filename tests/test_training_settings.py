"""The settings of a run do what their names say: each against NumPy in float64 or plain Keras.

The students learn from labels alone. `descend` trains a copy of a student without streamkd: Keras
answers and differentiates, NumPy updates the weights.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from helpers import draw_noise
from run_helpers import (
    SAME_LINES_FOR_BOTH,
    averages_of,
    cross_entropy,
    dense_student,
    in_pairs,
    weights_of,
)

from streamkd.errors import StudentError
from streamkd.manifest.manifest import scan
from streamkd.models.precision import check_precision, precision
from streamkd.stream.join import join
from streamkd.training.distiller import Distiller

NUM_CLASSES = 3
NUM_IMAGES = 24
BATCH_SIZE = 6
STEPS = NUM_IMAGES // BATCH_SIZE  # an epoch


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Images of noise: their gradients differ in every pixel."""
    root = tmp_path_factory.mktemp("noise")
    for number in range(NUM_IMAGES):
        folder = root / "abc"[number % NUM_CLASSES]
        folder.mkdir(exist_ok=True)
        draw_noise(folder / f"{number:02d}.png", (8, 8), seed=number)
    return scan(root)


def stream_of(images, batch_size=BATCH_SIZE):
    return join(images, None, image_size=(8, 8), batch_size=batch_size, seed=3)


@pytest.fixture(scope="module")
def stream(images):
    return stream_of(images)


def batches_of(stream, num_batches):
    """Pixels and labels of the first batches."""
    batches = stream.batches(0, num_batches)
    return [(pixels, targets["labels"][:, 0]) for pixels, targets, _ in batches]


def distilled(stream, student, *, epochs=1, callbacks=(), validation=None, **options):
    """Trains a student with streamkd; returns the history."""
    options = {"optimizer": "sgd", "schedule": "constant", "jit": "off", **options}
    distiller = Distiller(student, label_weight=1, **options)
    fitted = {"epochs": epochs, "callbacks": callbacks, "validation": validation}
    return distiller.fit(stream, progress=False, **fitted)


def normed_student(family):
    """Kernels of two kinds, a bias, and a norm; its weights are the same every time."""
    layers = family.layers
    family.utils.set_random_seed(1)
    return family.Sequential(
        [
            family.Input((8, 8, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, use_bias=False),
            layers.LayerNormalization(),
            layers.Flatten(),
            layers.Dense(NUM_CLASSES),
        ]
    )


def gradients_of(student, pixels, labels):
    """Gradients of the mean cross-entropy, float64; None for a weight without one."""
    with tf.GradientTape() as tape:
        logits = student(pixels, training=True)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        loss = tf.reduce_mean(losses)
    gradients = tape.gradient(loss, student.trainable_variables)
    return [None if g is None else np.asarray(g, np.float64) for g in gradients]


def descend(student, batches, update):
    """Trains a student with `update(step, weights, gradients)`, all in float64.

    Returns:
      The trainable weights before the first step and after each step.
    """
    weights = [np.asarray(v, np.float64) for v in student.trainable_variables]
    trajectory = [weights]
    for step, (pixels, labels) in enumerate(batches):
        weights = update(step, weights, gradients_of(student, pixels, labels))
        for variable, value in zip(student.trainable_variables, weights, strict=True):
            variable.assign(value.astype(np.float32))
        trajectory.append(weights)
    return trajectory


def plain_sgd(rate):
    return lambda step, weights, gradients: [
        w if g is None else w - rate * g for w, g in zip(weights, gradients, strict=True)
    ]


def assert_close(weights, expected, atol=2e-6):
    for number, (one, other) in enumerate(zip(weights, expected, strict=True)):
        np.testing.assert_allclose(
            np.asarray(one), other, rtol=0, atol=atol, err_msg=f"weight {number}"
        )


def trained(student):
    return [np.asarray(variable) for variable in student.trainable_variables]


def weight_recorder(family, student):
    """A callback that writes down the trainable weights after every step."""
    trajectory = [trained(student)]
    callback = family.callbacks.LambdaCallback(
        on_train_batch_end=lambda *_, **__: trajectory.append(trained(student))
    )
    return callback, trajectory


@in_pairs("asked", ("keras", None), ("tf_keras", 2.0))  # None: Keras' own 0.004
def test_adamw_decays_kernels_and_neither_biases_nor_norms(stream, family, asked):
    """Loshchilov and Hutter, arXiv:1711.05101, algorithm 2, with epsilon as Keras has it."""
    rate, decay = 0.02, 0.004 if asked is None else asked
    student = normed_student(family)
    moments = [(0.0, 0.0)] * len(student.trainable_variables)

    def adamw(step, weights, gradients):
        new = []
        for number, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
            mean, square = moments[number]
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient**2
            moments[number] = mean, square
            corrected = rate * math.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
            decayed = weight * (1 - rate * decay) if weight.ndim > 1 else weight
            new.append(decayed - corrected * mean / (np.sqrt(square) + 1e-7))
        return new

    expected = descend(normed_student(family), batches_of(stream, STEPS), adamw)[-1]
    distilled(stream, student, optimizer="adamw", learning_rate=rate, weight_decay=asked)
    assert sorted(w.ndim for w in expected) == [1, 1, 1, 2, 4]
    # Adam divides by the gradient's size, and so magnifies what float32 rounds.
    assert_close(trained(student), expected, atol=3e-5)


@in_pairs("clip_norm", ("tf_keras", 0.5), ("keras", 1e6))  # 1e6 is far above every norm
def test_gradients_are_clipped_by_the_norm_of_all_of_them_together(stream, family, clip_norm):
    norms = []

    def clipped(step, weights, gradients):
        norms.append([np.sqrt(np.sum(g**2)) for g in gradients])
        norm = np.sqrt(np.sum(np.square(norms[-1])))
        factor = min(1.0, clip_norm / norm)
        return [w - 0.1 * factor * g for w, g in zip(weights, gradients, strict=True)]

    expected = descend(normed_student(family), batches_of(stream, STEPS), clipped)[-1]
    student = normed_student(family)
    distilled(stream, student, learning_rate=0.1, clip_norm=clip_norm)
    assert_close(trained(student), expected)
    assert np.min(norms) < 0.5 < np.max(norms), "by itself some weights would not be clipped"


@SAME_LINES_FOR_BOTH
def test_accumulated_batches_are_one_batch_as_large_as_all_of_them(images, family):
    small, large = stream_of(images, 2), batches_of(stream_of(images, 6), STEPS)
    assert len({*np.concatenate([labels for _, labels in large[:1]])}) > 1
    student = normed_student(family)
    history = distilled(small, student, epochs=1, learning_rate=0.1, accumulate=3)
    assert history.step == STEPS
    expected = descend(normed_student(family), large, plain_sgd(0.1))[-1]
    assert_close(trained(student), expected)


def test_the_averages_are_averages_for_validation_callbacks_and_the_finished_student(
    stream, images, family, tmp_path
):
    epochs, momentum = 2, 0.8
    batches = batches_of(stream, epochs * STEPS)
    trajectory = descend(dense_student(family, activation=None), batches, plain_sgd(0.5))
    averages = averages_of(family, trajectory, momentum)
    ends = [averages[STEPS], averages[2 * STEPS]]

    student = dense_student(family, activation=None)
    record, recorded = weight_recorder(family, student)
    heard = []
    at_ends = family.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: heard.append(trained(student))
    )
    options = {"learning_rate": 0.5, "ema": momentum, "callbacks": [record, at_ends]}
    history = distilled(stream, student, epochs=epochs, validation=images, **options)
    for one, other in zip(recorded, trajectory, strict=True):
        assert_close(one, other)  # gradients are taken at the weights, not at the averages
    for one, other in zip(heard, ends, strict=True):
        assert_close(one, other)
    assert_close(trained(student), ends[-1])
    assert np.abs(trajectory[-1][0] - ends[-1][0]).max() > 1e-2
    every = next(
        iter(join(images, None, image_size=(8, 8), batch_size=24, shuffle=False).batches())
    )
    for epoch, (kernel, bias) in zip(history.epochs, ends, strict=True):
        logits = every[0].numpy().reshape(NUM_IMAGES, -1).astype(np.float64) / 255 @ kernel + bias
        expected = cross_entropy(images.labels, logits).mean()
        assert epoch["val_loss"] == pytest.approx(expected, rel=1e-5)


# The smallest number above zero of float16 is 2**-24.
TINY = 2.0**-23


def half_student(family):
    """Logits of nearly nothing: the gradient at the kernel is below the numbers of float16."""
    layers = family.layers
    with precision("mixed_float16"):
        student = family.Sequential(
            [
                family.Input((8, 8, 3)),
                layers.Rescaling(1 / 255),
                layers.Flatten(),
                layers.Dense(NUM_CLASSES),
                layers.Rescaling(TINY),
            ]
        )
    rng = np.random.default_rng(0)
    student.set_weights([rng.normal(scale=0.1, size=w.shape) for w in student.get_weights()])
    return student


def test_a_gradient_that_float16_cannot_hold_survives(stream, family):
    """The loss is scaled for an optimizer that is given by name."""
    student = half_student(family)
    weights = [weight.astype(np.float64) for weight in student.get_weights()]
    rate, expected = 2.0**22, [weights]
    for pixels, labels in batches_of(stream, STEPS):
        inputs = pixels.numpy().reshape(BATCH_SIZE, -1).astype(np.float64) / 255
        # Softmax of logits of nearly nothing is 1/3.
        errors = (1 / NUM_CLASSES - np.eye(NUM_CLASSES)[labels]) * TINY / BATCH_SIZE
        assert not np.float16(errors).any()
        kernel, bias = weights
        weights = [kernel - rate * inputs.T @ errors, bias - rate * errors.sum(axis=0)]
        expected.append(weights)
    record, recorded = weight_recorder(family, student)
    distilled(stream, student, learning_rate=rate, callbacks=[record])
    for one, other in zip(recorded, expected, strict=True):
        assert_close(one, other, atol=2e-3)
    for first, second in zip(*expected[:2], strict=True):
        assert np.abs(second - first).max() > 0.02


def cosine_with_warm_up(step, num_steps, warm_up, highest):
    num_rising = min(math.ceil(warm_up * num_steps), num_steps - 1)
    if step < num_rising:
        return highest * step / num_rising
    progress = (step - num_rising) / (num_steps - num_rising)
    return highest * (1 + math.cos(math.pi * progress)) / 2


@pytest.mark.parametrize(
    ("family", "warm_up"),
    [
        *(("tf_keras", 0.3), ("keras", 0)),
        # What the schedule says for these is in test_optimizers.py.
        *(pytest.param("tf_keras", value, marks=pytest.mark.slow) for value in (0, 0.5, 1)),
        *(pytest.param("keras", value, marks=pytest.mark.slow) for value in (0.3, 0.5, 1)),
    ],
    indirect=["family"],
)
def test_each_step_has_the_learning_rate_of_a_rise_and_a_cosine(stream, family, warm_up):
    epochs, highest = 2, 0.5
    num_steps = epochs * STEPS
    rates = [cosine_with_warm_up(t, num_steps, warm_up, highest) for t in range(num_steps + 1)]

    def update(step, weights, gradients):
        return plain_sgd(rates[step])(step, weights, gradients)

    batches = batches_of(stream, num_steps)
    expected = descend(dense_student(family, activation=None), batches, update)
    student = dense_student(family, activation=None)
    record, recorded = weight_recorder(family, student)
    options = {"learning_rate": highest, "schedule": "cosine", "warm_up": warm_up}
    history = distilled(stream, student, epochs=epochs, callbacks=[record], **options)
    assert len(recorded) == num_steps + 1
    for one, other in zip(recorded, expected, strict=True):
        assert_close(one, other)
    # That of the next step; at the end of the run it has come down to zero.
    ends = [rates[STEPS], 0]
    assert history.history["learning_rate"] == pytest.approx(ends, abs=1e-7)
    assert max(rates) == highest and (rates[0] == 0) == (warm_up > 0)


def partly_idle_student(family):
    """A frozen convolution, a weight that no answer depends on, and a head."""
    keras_layer = family.layers.Layer

    class WithIdleWeight(keras_layer):
        def build(self, shape):
            self.idle = self.add_weight(name="idle", shape=(2, 2), initializer="ones")
            super().build(shape)

        def call(self, inputs):
            return inputs

        def compute_output_shape(self, shape):
            return shape

    layers = family.layers
    family.utils.set_random_seed(1)
    return family.Sequential(
        [
            family.Input((8, 8, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, trainable=False),
            WithIdleWeight(),
            layers.Flatten(),
            layers.Dense(NUM_CLASSES),
        ]
    )


# Of Keras 3, as under its own `fit`.
@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables:UserWarning")
@in_pairs("accumulate", ("keras", 1), ("tf_keras", 2))
def test_frozen_and_idle_weights_stay_to_the_bit_and_the_others_learn(images, family, accumulate):
    stream = stream_of(images, BATCH_SIZE // accumulate)
    student = partly_idle_student(family)
    before = weights_of(student)
    batches = batches_of(stream_of(images), STEPS)
    expected = descend(partly_idle_student(family), batches, plain_sgd(0.1))[-1]
    distilled(stream, student, learning_rate=0.1, accumulate=accumulate)
    assert [v.shape for v in trained(student)] == [(2, 2), (144, 3), (3,)]
    assert_close(trained(student), expected)
    changed = [not np.array_equal(a, b) for a, b in zip(before, weights_of(student), strict=True)]
    shapes = [weight.shape for weight in before]
    assert {shape for shape, is_new in zip(shapes, changed, strict=True) if is_new} == {
        (144, 3),
        (3,),
    }


def student_on_a_backbone(family):
    """A frozen backbone with a norm whose statistics fit no data, and a norm that learns."""
    layers = family.layers
    family.utils.set_random_seed(1)
    backbone = family.Sequential(
        [
            family.Input((8, 8, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
        ]
    )
    rng = np.random.default_rng(2)
    backbone.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in backbone.get_weights()])
    backbone.trainable = False
    inputs = family.Input((8, 8, 3))
    features = layers.BatchNormalization(momentum=0.7)(backbone(inputs))
    model = family.Model(inputs, layers.Dense(NUM_CLASSES)(layers.Flatten()(features)))
    return model, backbone


# Of Keras 3, about the stream in its own `fit`.
@pytest.mark.filterwarnings("ignore:.shuffle=True. was passed:UserWarning")
def test_moving_statistics_are_those_of_fit_and_those_of_a_frozen_backbone_stay(stream, family):
    theirs, _ = student_on_a_backbone(family)
    loss = family.losses.SparseCategoricalCrossentropy(from_logits=True)
    theirs.compile(family.optimizers.SGD(0.1), loss=loss)
    batches = stream.dataset(0, 2 * STEPS).map(lambda x, y, w: (x, y["labels"][:, 0]))
    theirs.fit(batches, epochs=2, steps_per_epoch=STEPS, verbose=0)

    ours, backbone = student_on_a_backbone(family)
    before, all_before = weights_of(backbone), weights_of(ours)
    distilled(stream, ours, epochs=2, learning_rate=0.1)
    for one, other in zip(weights_of(backbone), before, strict=True):
        np.testing.assert_array_equal(one, other)
    assert_close(weights_of(ours), weights_of(theirs), atol=1e-5)
    moved = [np.abs(a - b).max() for a, b in zip(weights_of(ours), all_before, strict=True)]
    assert sorted(np.greater(moved, 1e-3)) == [False] * len(before) + [True] * 6


def test_a_student_of_another_precision_than_the_one_asked_for_is_refused(family):
    student = half_student(family)
    check_precision(student, None)
    check_precision(student, "mixed_float16")
    with pytest.raises(
        StudentError,
        match=r"computes in another precision .*\.\n  student:     mixed_float16\n"
        r"  --precision: float32\nA saved student keeps its precision\. Leave `--precision` out",
    ):
        check_precision(student, "float32")


def test_a_student_without_weights_to_train_is_refused(stream, family):
    student = dense_student(family)
    student.trainable = False
    with pytest.raises(
        StudentError,
        match=r"'dense' has no weights to train\.\nSet `trainable = True` on the layers",
    ):
        distilled(stream, student)
