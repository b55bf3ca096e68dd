"""Replay: the student sees exactly the view that the teacher answered."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from delta_helpers import change
from helpers import TeacherFailedError
from PIL import Image
from replay_helpers import (
    ASKED,
    EVERYTHING,
    FADE,
    KINDS,
    NOISE,
    SIZE,
    answers,
    assert_replayed,
    draw_noisy,
    failing_teacher,
    project,
    slow,
)

import streamkd as kd
from streamkd.keys import hash_keys
from streamkd.store.merge import merge
from streamkd.stream.join import join
from streamkd.views.views import Views

# Kinds that differ in what else they do are combined; the others are slow.
QUICK = ("plain", "crop", "erase", "mixup", "everything canonical", "everything and operation")


@pytest.mark.parametrize(
    ("kind", "one_size"),
    [
        *((kind, False) if kind in QUICK else slow(kind, False) for kind in KINDS),
        ("everything and operation", True),
    ],
)
def test_the_teacher_answers_the_students_images_as_the_store_says(
    teach_once, tmp_path, kind, one_size
):
    views, noisy = KINDS[kind], draw_noisy(tmp_path / "noisy", one_size)
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=views)
    stream = join(noisy, store, batch_size=4, seed=7, operation=views.operation)
    assert_replayed(stream, 0, stream.end_of_epoch(views.count + 1))


# RGBA without a cache: `test_transparent_views_are_answered_and_replayed`.
@pytest.mark.parametrize(
    ("mode", "color_mode"), [("L", "grayscale"), slow("RGBA", "rgba")], ids=["grey", "RGBA"]
)
def test_images_with_one_or_four_channels_are_replayed(teach_once, tmp_path, mode, color_mode):
    images = draw_noisy(tmp_path / "noisy", one_size=False, mode=mode)
    views = dataclasses.replace(EVERYTHING, canonical_size=(14, 12))
    asked = {**ASKED, "color_mode": color_mode, "views": views}
    store = teach_once(images, tmp_path / "s.h5", **asked)
    plain, drawn = (store.gather(4 * np.arange(21) + view) for view in (0, 1))
    assert np.abs(plain - drawn).max() > 0.01
    for cache in (None, "memory"):
        stream = join(images, store, batch_size=4, seed=7, operation=FADE, cache=cache)
        assert stream.options.num_channels == len(mode)
        assert_replayed(stream, 0, stream.end_of_epoch(3))


def test_any_batch_size_and_seed_and_entered_in_the_middle(teach_once, noisy, tmp_path):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=EVERYTHING)
    for batch_size, seed in ((2, 0), (10, 1)):
        stream = join(noisy, store, batch_size=batch_size, seed=seed, operation=FADE)
        assert_replayed(stream, 5, 5 + stream.end_of_epoch(4))


# Epochs end with a batch: 3 divides 21 images, and 2 fills the pair of an odd image.
@pytest.mark.parametrize(("kind", "batch_size"), [("crop", 3), ("mixup", 2)])
def test_an_epoch_shows_every_image_once_and_the_same_view_of_each(
    teach_once, noisy, tmp_path, kind, batch_size
):
    views = KINDS[kind]
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=views)
    stream = join(noisy, store, batch_size=batch_size, seed=3)
    for epoch in range(2 * views.count):
        rows, weights = [], []
        for _, targets, weight in stream.batches(
            stream.end_of_epoch(epoch), stream.end_of_epoch(epoch + 1)
        ):
            rows += targets["rows"].numpy().tolist()
            weights += weight.numpy().tolist()
        rows = np.array(rows)[np.array(weights) > 0]
        assert sorted((rows // views.num_views).tolist()) == list(range(21))
        assert set((rows % views.num_views).tolist()) == {1 + epoch % views.count}


def test_mixed_labels_come_with_their_shares(teach_once, noisy, tmp_path):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=Views(2, mixup=0.8, cutmix=1.0))
    stream = join(noisy, store, batch_size=4, seed=1)
    for _, targets, _ in stream.batches(0, 12):
        rows, labels = targets["rows"].numpy(), targets["labels"].numpy()
        parameters = store.view_parameters(rows)
        images = rows // 3
        partners = np.where(parameters["view_partner"] < 0, images, parameters["view_partner"])
        assert np.array_equal(labels[:, 0], store.labels[images])
        assert np.array_equal(labels[:, 1], store.labels[partners])
        shares = targets["label_shares"].numpy()
        assert np.array_equal(shares[:, 0], parameters["view_share"])
        np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)


def test_stored_views_are_replayed_and_never_drawn_again(teach_once, noisy, tmp_path, monkeypatch):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=EVERYTHING)

    def draw(*_):
        raise AssertionError("a view was drawn")

    for name in ("draw", "match", "draw_mixing"):
        monkeypatch.setattr(Views, name, draw)
    assert_replayed(join(noisy, store, batch_size=4, operation=FADE), 0, 15)


def test_rows_hold_the_parameters_that_the_specification_draws(teach_once, noisy, tmp_path):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=EVERYTHING)
    hashes = hash_keys(store.keys)
    stored = store.view_parameters(np.arange(store.rows_total))
    for name, values in EVERYTHING.draw(hashes).items():
        assert np.array_equal(stored[name], values.reshape(stored[name].shape)), name
    assert np.array_equal(stored["view_partner"], EVERYTHING.match(hashes).reshape(-1))


def test_a_pass_that_was_cut_resumes_to_the_same_bytes(teach_once, noisy, tmp_path):
    teach_once(noisy, tmp_path / "uncut.h5", **ASKED, views=EVERYTHING)
    with pytest.raises(TeacherFailedError):
        answers(noisy, tmp_path / "s.h5", EVERYTHING, teacher=failing_teacher(5))
    answers(noisy, tmp_path / "s.h5", EVERYTHING)
    assert (tmp_path / "s.h5").read_bytes() == (tmp_path / "uncut.h5").read_bytes()


def test_the_student_may_have_another_resolution(teach_once, tmp_path):
    noisy = draw_noisy(tmp_path / "noisy", one_size=True)
    for key in noisy.keys:  # nothing finer than what both resolutions can show
        path = tmp_path / "noisy" / key.decode()
        with Image.open(path) as image:
            image.resize((3, 2)).resize((60, 48), Image.Resampling.BICUBIC).save(path)
    store = teach_once(
        noisy, tmp_path / "s.h5", **ASKED, views=Views(2, crop=(0.5, 1.0), flip=True, cutmix=1.0)
    )
    small, large = (
        join(noisy, store, image_size=size, batch_size=4, seed=2) for size in (SIZE, (36, 40))
    )
    for one, other in zip(small.batches(0, 6), large.batches(0, 6), strict=True):
        assert np.array_equal(one[1]["rows"], other[1]["rows"])
        # The same view in more detail: brought back to the size of the other it is near, 0.975 at
        # least when this was written.
        back = tf.image.resize(other[0], SIZE, antialias=True)
        assert np.corrcoef(np.ravel(back), np.ravel(one[0]))[0, 1] > 0.95


def test_views_in_two_shards_merged_and_with_deltas_are_replayed(images, directory, tmp_path):
    views = Views(2, crop=(0.5, 1.0), flip=True, mixup=1.0, operation=FADE)
    own = {"batch_size": 4, "operation": FADE, "progress": False}
    for number in (1, 2):
        answers(images, tmp_path / f"{number}.h5", views, shard=(number, 2))
    merged = merge([tmp_path / "1.h5", tmp_path / "2.h5"], tmp_path / "m.h5", progress=False).store
    assert_replayed(join(images, merged, **own), 0, 15)
    images = change(directory)
    store = answers(images, tmp_path / "m.h5", views)
    assert_replayed(join(images, store, **own), 0, 20)
    compact = merge([tmp_path / "m.h5"], tmp_path / "c.h5", images=images, progress=False).store
    assert_replayed(join(images, compact, **own), 0, 20)
    assert kd.verify(tmp_path / "c.h5", images=images, progress=False).sound


def test_an_image_whose_partner_is_gone_is_shown_plain(teach_once, noisy, tmp_path):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=Views(1, mixup=1.0))
    partner = int(store.partners_of(1)[store.images_of_keys(noisy.keys)[0]])
    kept = np.flatnonzero(store.images_of_keys(noisy.keys) != partner)
    stream = join(noisy.select(kept), store, batch_size=4)
    rows = np.concatenate([t["rows"].numpy() for _, t, _ in stream.batches(0, 5)])
    first = int(store.images_of_keys(noisy.keys)[0])
    assert set(rows[rows // 2 == first].tolist()) == {2 * first}
    assert_replayed(stream, 0, 10)


def test_independent_views_warn_and_keep_the_logits_of_the_plain_image(teach_once, noisy, tmp_path):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=Views(0))
    with pytest.warns(UserWarning, match="views that the teacher has not answered"):
        stream = join(
            noisy, store, batch_size=7, augment="independent", views=Views(1, crop=(0.3, 0.8))
        )
    batches = list(stream.batches(0, 6))
    for pixels, targets, _ in batches:
        rows = targets["rows"].numpy()
        assert np.array_equal(targets["teacher_logits"], store.gather(rows))
        assert np.abs(project(pixels.numpy()) - store.gather(rows)).min() > NOISE
    again = list(stream.batches(3, 6))
    for one, other in zip(batches[3:], again, strict=True):
        assert np.array_equal(one[0], other[0])
    by_row = {}
    for pixels, targets, _ in batches:
        for row, image in zip(targets["rows"].numpy().tolist(), pixels.numpy(), strict=True):
            by_row.setdefault(row, []).append(image)
    assert all(not np.array_equal(*two) for two in by_row.values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 5}, r"batch_size is 5, .* mixed in pairs.*\n.*`--batch-size 6`"),
        ({"augment": "both"}, "augment is 'both'; choose one of replay, independent"),
        ({"augment": "independent"}, "augment='independent' draws new views, and no"),
        (
            {"augment": "independent", "views": Views(1, mixup=1.0)},
            "cannot be mixed",
        ),
        ({"views": Views(2)}, "The views belong to the store"),
    ],
)
def test_arguments_that_do_not_fit_the_views_are_refused(
    teach_once, noisy, tmp_path, arguments, words
):
    store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=Views(1, mixup=1.0))
    with pytest.raises(kd.StreamkdError, match=words):
        join(noisy, store, **{"batch_size": 4, **arguments})
