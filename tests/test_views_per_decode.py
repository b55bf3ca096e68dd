"""Several views of a decoded image in a batch: each with its own logits, fewer files read."""

import numpy as np
import pytest
from helpers import break_image
from replay_helpers import ASKED, SIZE, assert_replayed

from streamkd.errors import OptionError
from streamkd.stream.join import join
from streamkd.views.views import Views

KINDS = {
    "repeated": Views(4),
    "flip": Views(4, flip=True),
    "crop": Views(4, crop=(0.35, 1.0), flip=True, color=0.3),
    "canonical": Views(6, crop=(0.35, 1.0), flip=True, erase=0.5, canonical_size=(14, 12)),
}


@pytest.mark.parametrize(
    # The pixel cache wants images of one size.
    ("kind", "cache"),
    [*((kind, None) for kind in KINDS), ("canonical", "memory")],
)
def test_the_teacher_answers_every_view_as_the_store_says(teach_once, tmp_path, noisy, kind, cache):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=KINDS[kind])
    stream = join(noisy, store, batch_size=6, seed=7, views_per_decode=2, cache=cache)
    assert_replayed(stream, 0, stream.end_of_epoch(4))


def test_an_epoch_shows_every_image_in_neighbouring_views_and_views_take_turns(
    teach_once, tmp_path, noisy
):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=Views(4, flip=True))
    stream = join(noisy, store, batch_size=6, seed=7, views_per_decode=2)
    assert stream.end_of_epoch(1) == 7  # 21 images, 3 of them a batch
    for epoch in range(3):
        rows = [t["rows"].numpy() for _, t, _ in stream.batches(7 * epoch, 7 * epoch + 7)]
        images, views = np.divmod(np.concatenate(rows).reshape(21, 2), 5)
        assert sorted(images[:, 0].tolist()) == list(range(21))
        np.testing.assert_array_equal(images[:, 0], images[:, 1])
        first = 1 + 2 * (epoch % 2)
        np.testing.assert_array_equal(views, [[first, first + 1]] * 21)
    indices = stream.indices(2)
    np.testing.assert_array_equal(indices[0::2], indices[1::2])


def test_a_file_is_read_once_for_all_its_views(teach_once, tmp_path, noisy, opened):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=Views(4, crop=(0.3, 1.0)))
    stream = join(noisy, store, batch_size=6, seed=7, views_per_decode=3)
    opened.clear()
    list(stream.batches(0, 1))
    assert len(opened) == len(set(opened)) == 2


def test_labels_weights_and_skipped_files_go_to_every_view(teach_once, tmp_path, noisy):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=Views(4, flip=True))
    break_image(noisy.path(3))
    stream = join(noisy, store, batch_size=6, seed=7, views_per_decode=2, on_bad="skip")
    batches = stream.batches(0, stream.end_of_epoch(1))
    for step, (pixels, targets, weights) in enumerate(batches):
        indices = stream.indices(step)
        np.testing.assert_array_equal(targets["labels"][:, 0], noisy.labels[indices])
        np.testing.assert_array_equal(weights, np.where(indices == 3, 0.0, 1.0))
        assert not pixels.numpy()[indices == 3].any()
    assert list(stream.skipped) == [3]


def test_independent_views_may_share_a_decode(teach_once, tmp_path, noisy):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=Views(0))
    with pytest.warns(UserWarning, match="views that the teacher has not answered"):
        stream = join(
            noisy,
            store,
            batch_size=6,
            seed=7,
            views_per_decode=3,
            augment="independent",
            views=Views(1, crop=(0.3, 0.5)),
        )
    pixels, targets, _ = next(iter(stream.batches(0, 1)))
    assert pixels.shape == (6, *SIZE, 3)
    assert len({row.tobytes() for row in pixels.numpy()}) == 6
    np.testing.assert_array_equal(targets["rows"][0::3], targets["rows"][1::3])


@pytest.mark.parametrize(
    ("views", "count", "batch_size", "message"),
    [
        (Views(2, mixup=1.0), 2, 6, "are mixed.*\nLeave `--views-per-decode` out"),
        (Views(2, flip=True), 3, 6, "views_per_decode is 3, and there are 2 views.*at most 2"),
        (Views(0), 2, 6, "there are 0 views besides the plain"),
        (Views(4, flip=True), 4, 6, "batch_size is 6, .*, 4, does not divide.*--batch-size 8"),
        (Views(2, flip=True), 0, 6, "views_per_decode is 0; it must be a positive whole"),
    ],
    ids=["mixed", "too few views", "plain", "uneven batch", "none"],
)
def test_numbers_of_views_that_do_not_fit_are_refused(
    teach_once, tmp_path, noisy, views, count, batch_size, message
):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=views)
    with pytest.raises(OptionError, match=f"(?s){message}"):
        join(noisy, store, batch_size=batch_size, views_per_decode=count)
