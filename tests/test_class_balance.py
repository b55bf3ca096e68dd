"""Balance: every class is drawn equally often, and none of its images is left out."""

import collections

import helpers
import numpy as np
import pytest
import tensorflow as tf

from streamkd.errors import OptionError
from streamkd.manifest.manifest import scan
from streamkd.stream.join import join
from streamkd.stream.order.class_balance import Balance
from streamkd.teachers.teach import teach
from streamkd.views.views import Views

COUNTS = {"ant": 3, "bee": 40, "cat": 17}
LABELS = np.repeat([0, 1, 2], [3, 40, 17]).astype(np.int32)


def drawn(balance, num_epochs):
    """Returns the images of some epochs in the order of the draws, `[epochs, draws]`."""
    draws = np.tile(np.arange(balance.num_draws), num_epochs)
    epochs = np.repeat(np.arange(num_epochs), balance.num_draws)
    indices, turns = balance.draw(tf.constant(draws), tf.constant(epochs))
    images = balance.images[indices.numpy()].reshape(num_epochs, -1)
    return images, turns.numpy().reshape(num_epochs, -1)


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_epoch_draws_every_class_equally_often(shuffle):
    images, _ = drawn(Balance(LABELS, seed=3, shuffle=shuffle), 5)
    assert images.shape == (5, 60)
    for epoch in images:
        assert np.bincount(LABELS[epoch]).tolist() == [20, 20, 20]


def test_each_class_goes_through_its_images_in_rounds_and_leaves_none_out():
    images, turns = drawn(Balance(LABELS, seed=3, shuffle=True), 10)
    of_all = images.reshape(-1)
    for label, count in enumerate(COUNTS.values()):
        own = np.flatnonzero(label == LABELS)
        mine = of_all[LABELS[of_all] == label]
        for start in range(0, len(mine) // count * count, count):
            assert sorted(mine[start : start + count]) == own.tolist()
        rounds = turns.reshape(-1)[LABELS[of_all] == label]
        assert rounds.tolist() == [index // count for index in range(200)]


def test_rounds_and_classes_have_orders_of_their_own():
    labels = np.repeat(np.arange(4), 500).astype(np.int32)
    images, _ = drawn(Balance(labels, seed=0, shuffle=True), 8)
    orders = np.stack(
        [epoch[labels[epoch] == label] - 500 * label for epoch in images for label in range(4)]
    )
    correlations = np.corrcoef(orders)[np.triu_indices(len(orders), 1)]
    # Of independent orders they have a standard deviation of 1 / sqrt(500).
    assert np.abs(correlations).max() < 5 / np.sqrt(500)
    assert correlations.std() * np.sqrt(500) == pytest.approx(1, abs=0.15)


@pytest.fixture
def uneven(tmp_path):
    return scan(helpers.draw_directory(tmp_path / "uneven", COUNTS))


def test_a_stream_is_balanced_and_pairs_its_logits(tmp_path, uneven):
    teacher = helpers.EncodingTeacher(num_classes=3)
    store = teach(uneven, teacher, tmp_path / "s.h5", image_size=(8, 8), progress=False)
    stream = join(uneven, store, batch_size=15, seed=1, balance=True, progress=False)
    assert stream.end_of_epoch(1) == 4
    walked = list(stream.batches(0, 8))
    for pixels, targets, _ in walked:
        of_logits = helpers.encoded_numbers(targets["teacher_logits"])
        np.testing.assert_array_equal(helpers.pixel_numbers(pixels)[:, 0], of_logits[:, 0])
    for epoch in (walked[:4], walked[4:]):
        labels = np.concatenate([targets["labels"][:, 0] for _, targets, _ in epoch])
        assert collections.Counter(labels.tolist()) == {0: 20, 1: 20, 2: 20}
    entered = next(iter(stream.batches(5, 6)))
    np.testing.assert_array_equal(entered[0], walked[5][0])
    keys = [int(uneven.keys[index][4:9]) for index in stream.indices(5)]
    assert keys == helpers.pixel_numbers(entered[0])[:, 0].tolist()


def test_views_of_a_small_class_take_turns_within_an_epoch(tmp_path, uneven):
    store = teach(
        uneven,
        helpers.EncodingTeacher(num_classes=3),
        tmp_path / "s.h5",
        image_size=(8, 8),
        views=Views(4),
        progress=False,
    )
    stream = join(uneven, store, batch_size=60, seed=1, balance=True, progress=False)
    targets = next(iter(stream.batches(0, 1)))[1]
    ants = targets["labels"][:, 0].numpy() == 0
    views = targets["rows"].numpy()[ants] % 5
    assert sorted(np.unique(views).tolist()) == [1, 2, 3, 4]


class TestRefusals:
    def test_an_image_without_a_label(self, uneven, tmp_path):
        store = teach(
            scan(uneven.root, labels=None),
            helpers.EncodingTeacher(num_classes=3),
            tmp_path / "s.h5",
            image_size=(8, 8),
            progress=False,
        )
        with pytest.raises(OptionError, match=r"60 of 60 images have no label.*'ant/00000.png'"):
            join(scan(uneven.root, labels=None), store, balance=True, progress=False)

    def test_mixed_views(self, uneven, tmp_path):
        store = teach(
            uneven,
            helpers.EncodingTeacher(num_classes=3),
            tmp_path / "s.h5",
            image_size=(8, 8),
            views=Views(1, mixup=1.0),
            progress=False,
        )
        with pytest.raises(OptionError, match=r"mixed in pairs.*\nLeave `--balance` out"):
            join(uneven, store, balance=True, progress=False)

    def test_a_batch_larger_than_a_balanced_epoch(self, tmp_path):
        images = scan(helpers.draw_directory(tmp_path / "few", {"ant": 6, "bee": 5}))
        with pytest.raises(OptionError, match=r"batch_size is 11.*2 balanced classes has 10"):
            join(images, None, image_size=(8, 8), batch_size=11, balance=True)
