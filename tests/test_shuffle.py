"""The order: a bijection in every epoch, uncorrelated between epochs, entered at any step."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from streamkd.stream.order.shuffle import end_of_epoch, indices_of_batch


def indices(steps, num_images, batch_size, seed=0, shuffle=True):
    """Returns the indices of some steps, int64 `[steps, batch]`, in one graph."""

    @tf.function
    def all_steps(steps):
        return tf.map_fn(
            lambda step: indices_of_batch(
                step, num_images=num_images, batch_size=batch_size, seed=seed, shuffle=shuffle
            ),
            steps,
        )

    return all_steps(tf.constant(list(steps), tf.int64)).numpy()


def epochs(num_epochs, num_images, batch_size=1, seed=0):
    """Returns the order of some epochs, `[epochs, num_images]`, cut out of the stream."""
    num_steps = end_of_epoch(num_epochs, num_images=num_images, batch_size=batch_size)
    order = indices(range(num_steps), num_images, batch_size, seed).reshape(-1)
    return order[: num_epochs * num_images].reshape(num_epochs, num_images)


def whole_epochs(first, count, num_images, seed=0):
    """Returns the orders of epochs from `first` on, with a batch for each."""
    return indices(range(first, first + count), num_images, num_images, seed)


def test_every_epoch_is_a_bijection_of_every_small_number_of_images():
    # Eager, since a graph for each of fifty numbers takes seconds.
    for num_images in range(1, 51):
        for step in tf.range(2, dtype=tf.int64):
            order = indices_of_batch(
                step, num_images=num_images, batch_size=num_images, seed=0, shuffle=True
            )
            assert sorted(order.numpy().tolist()) == list(range(num_images))


@pytest.mark.parametrize(("num_images", "batch_size"), [(1000, 128), (50, 7), (13, 13), (5, 3)])
def test_every_epoch_is_a_bijection_where_batches_straddle_epochs(num_images, batch_size):
    for order in epochs(4, num_images, batch_size):
        assert sorted(order.tolist()) == list(range(num_images))


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_the_batch_size_does_not_change_the_order(seed):
    expected = epochs(3, 20, 1, seed)
    for batch_size in (3, 7, 20):
        np.testing.assert_array_equal(epochs(3, 20, batch_size, seed), expected)


def test_a_step_entered_directly_is_the_step_reached_by_walking():
    walked = indices(range(40), 23, 5, seed=3)
    for step in (0, 4, 17, 39):
        np.testing.assert_array_equal(indices([step], 23, 5, seed=3)[0], walked[step])


def test_a_step_far_away_can_be_entered():
    step = 2**40
    batch = indices([step], 60_000, 128)[0]
    assert len(set(batch.tolist())) == 128 and batch.min() >= 0 and batch.max() < 60_000


def test_without_shuffling_the_order_is_that_of_the_manifest():
    order = indices(range(5), 7, 3, shuffle=False).reshape(-1)
    assert order.tolist() == [n % 7 for n in range(15)]


def test_seeds_and_epochs_have_orders_of_their_own():
    orders = [order.tolist() for seed in (0, 1, 2) for order in whole_epochs(0, 3, 50, seed)]
    assert len({tuple(order) for order in orders}) == 9


# Statistics on 60,000 images. `index_shuffle` as TensorFlow offers it fails the first of them
# where seeds differ by one: see the comment in order.py.
NUM_IMAGES = 60_000


@pytest.fixture(scope="module")
def large_orders():
    """Orders of four epochs of each of three seeds, which follow each other."""
    return np.concatenate([whole_epochs(0, 4, NUM_IMAGES, seed) for seed in (7, 8, 9)])


def test_the_orders_of_two_epochs_or_seeds_are_uncorrelated(large_orders):
    # The correlation of two independent permutations has standard deviation 1 / sqrt(n - 1).
    correlations = np.corrcoef(large_orders)[np.triu_indices(len(large_orders), 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(NUM_IMAGES - 1)


def test_an_order_is_uncorrelated_with_the_manifest(large_orders):
    for order in large_orders:
        correlation = np.corrcoef(order, np.arange(NUM_IMAGES))[0, 1]
        assert abs(correlation) < 5 / np.sqrt(NUM_IMAGES - 1)


def test_neighbours_in_an_order_are_uncorrelated(large_orders):
    for order in large_orders:
        correlation = np.corrcoef(order[:-1], order[1:])[0, 1]
        assert abs(correlation) < 5 / np.sqrt(NUM_IMAGES - 2)


def test_few_images_keep_their_place_from_one_epoch_to_the_next(large_orders):
    # Two independent permutations agree in one place on average, as Poisson's law has it.
    for first, second in itertools.pairwise(large_orders):
        assert np.sum(first == second) <= 10


def test_the_first_batch_draws_from_everywhere(large_orders):
    # 1,000 of 60,000: how many come from each tenth, within 5 standard deviations.
    for order in large_orders:
        counts = np.bincount(order[:1000] * 10 // NUM_IMAGES, minlength=10)
        assert np.abs(counts - 100).max() < 5 * np.sqrt(1000 * 0.1 * 0.9)


@pytest.mark.parametrize(
    ("epoch", "num_images", "batch_size", "expected"),
    [(0, 10, 3, 0), (1, 10, 3, 4), (2, 10, 3, 7), (3, 10, 3, 10), (1, 10, 10, 1)],
)
def test_an_epoch_ends_when_every_image_was_seen(epoch, num_images, batch_size, expected):
    assert end_of_epoch(epoch, num_images=num_images, batch_size=batch_size) == expected
