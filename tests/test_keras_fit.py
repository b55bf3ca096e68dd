"""The stream feeds `model.fit` of both families, with the loss of the loop."""

import numpy as np
import pytest
import tensorflow as tf
from run_helpers import make_steps

import streamkd as kd
from streamkd.errors import OptionError
from streamkd.manifest.manifest import scan
from streamkd.stream.join import join
from streamkd.teachers.teach import teach
from streamkd.training.batch_loss import BatchLoss
from streamkd.views.views import Views


@pytest.fixture(scope="module")
def stream(shared):
    return join(scan(shared[0]), shared[1], batch_size=5, seed=3, progress=False)


def linear(family):
    family.utils.set_random_seed(1)
    return family.Sequential(
        [
            family.layers.Input((8, 8, 3)),
            family.layers.Rescaling(1 / 255),
            family.layers.Flatten(),
            family.layers.Dense(3),
        ]
    )


@pytest.mark.filterwarnings("ignore:.shuffle=True. was passed:UserWarning")
def test_fit_takes_the_same_steps_as_the_loop(family, stream):
    fitted, looped = linear(family), linear(family)
    looped.set_weights(fitted.get_weights())
    fitted.compile(
        family.optimizers.SGD(0.01),
        loss=kd.packed_loss(temperature=2.0, label_weight=0.3),
        metrics=[kd.packed_accuracy],
    )
    history = fitted.fit(stream.dataset(0, 6).map(kd.pack_targets), verbose=0).history
    loss = {"temperature": 2.0, "label_weight": 0.3}
    steps = make_steps(looped, family.optimizers.SGD(0.01), **loss)
    steps.run(iter(stream.dataset(0, 6)), tf.constant(6))
    sums = steps.state.sums.numpy()
    for one, other in zip(fitted.get_weights(), looped.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert history["loss"][0] == pytest.approx(sums[0] / sums[1], rel=1e-5)
    assert history["packed_accuracy"][0] == pytest.approx(sums[6] / sums[3], rel=1e-5)


@pytest.mark.filterwarnings("ignore:.shuffle=True. was passed:UserWarning")
def test_a_train_step_of_ones_own_gets_batches_as_they_are(family, stream):
    seen = {}

    class Watching(family.Model):
        def train_step(self, data):
            images, targets, weights = data
            seen.update({"images": images.shape, "weights": weights.shape, **targets})
            return {"rows": tf.reduce_sum(targets["rows"])}

    inputs = family.layers.Input((8, 8, 3))
    model = Watching(inputs, family.layers.Flatten()(inputs))
    model.compile("sgd")
    model.fit(stream.dataset(0, 2), verbose=0)
    assert set(seen) == {
        *("images", "weights", "labels", "label_shares", "rows", "teacher_logits"),
    }
    assert seen["images"] == (5, 8, 8, 3) and seen["teacher_logits"].shape == (5, 3)


def test_labels_alone_are_packed_without_logits(images):
    stream = join(images, None, image_size=(8, 8), batch_size=5)
    _, packed, weights = next(iter(stream.dataset(0, 1).map(kd.pack_targets)))
    assert packed.shape == (5, 5) and weights.shape == (5,)
    logits = tf.constant(np.random.default_rng(0).normal(size=(5, 3)), tf.float32)
    loss = kd.packed_loss(temperature=2.0, label_weight=1.0)(packed, logits)
    expected = tf.nn.sparse_softmax_cross_entropy_with_logits(
        images.labels[stream.indices(0)], logits
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def assert_packed_as_the_loop_has_it(stream, num_steps):
    """Compares loss and accuracy of packed batches with the loop's, image by image."""
    loop = BatchLoss(temperature=2.0, label_weight=0.3)
    loss = kd.packed_loss(temperature=2.0, label_weight=0.3)
    rng = np.random.default_rng(0)
    for batch in stream.dataset(0, num_steps):
        _, packed, weights = kd.pack_targets(*batch)
        logits = tf.constant(rng.normal(size=(len(weights), 3)), tf.float32)
        losses, _ = loop(logits, batch[1], weights)
        np.testing.assert_allclose(weights * loss(packed, logits), losses, rtol=1e-6)
        correct = tf.argmax(logits, axis=1) == tf.cast(batch[1]["labels"][:, 0], tf.int64)
        np.testing.assert_array_equal(kd.packed_accuracy(packed, logits), np.float32(correct))
        yield batch[1]


def test_mixed_images_are_packed_with_both_labels_and_their_shares(images, teacher, tmp_path):
    views = Views(2, flip=True, mixup=0.4)
    options = {"image_size": (8, 8), "progress": False, "views": views}
    store = teach(images, teacher, tmp_path / "mixed.h5", **options)
    stream = join(images, store, batch_size=10, seed=3, progress=False)
    batches = list(assert_packed_as_the_loop_has_it(stream, num_steps=6))
    shares = np.concatenate([batch["label_shares"] for batch in batches])
    labels = np.concatenate([batch["labels"] for batch in batches])
    assert ((shares > 0) & (shares < 1)).any() and (labels[:, 0] != labels[:, 1]).any()


@pytest.mark.filterwarnings("ignore:.*without logits")
def test_images_without_logits_or_without_a_label_are_packed_without_that_term(
    images, teacher, tmp_path
):
    options = {"image_size": (8, 8), "progress": False}
    store = teach(images.select(np.arange(0, 30, 2)), teacher, tmp_path / "half.h5", **options)
    images.labels[::6] = -1
    with pytest.warns(UserWarning, match="learn from their labels alone"):
        stream = join(images, store, batch_size=10, seed=3, missing="label", progress=False)
    batches = list(assert_packed_as_the_loop_has_it(stream, num_steps=3))
    rows = np.concatenate([batch["rows"] for batch in batches])
    labels = np.concatenate([batch["labels"][:, 0] for batch in batches])
    kinds = set(zip((rows >= 0).tolist(), (labels >= 0).tolist(), strict=True))
    assert kinds >= {(True, True), (True, False), (False, True)}


def test_losses_that_cannot_be_are_refused():
    with pytest.raises(OptionError, match="temperature is 0"):
        kd.packed_loss(temperature=0, label_weight=0.1)
    with pytest.raises(OptionError, match="label_weight is 2"):
        kd.packed_loss(temperature=1, label_weight=2)
