"""The stream: every image with its own logits, at any step, in the shapes that are documented."""

import dataclasses
import itertools
import os
import threading

import helpers
import numpy as np
import pytest
import tensorflow as tf
from stream_helpers import assert_paired, assert_same, batches_of, joined

from streamkd.errors import BadImageError, ChangedImageError, StoreError
from streamkd.manifest.manifest import Manifest, scan
from streamkd.store.collection import open_store
from streamkd.stream import columns
from streamkd.stream.join import join
from streamkd.stream.order.worker_slice import WHOLE
from streamkd.stream.stream import Stream
from streamkd.teachers.teach import teach


@pytest.mark.parametrize(("batch_size", "shuffle"), [(1, True), (7, True), (30, True), (7, False)])
def test_every_image_comes_with_its_own_logits_and_label(images, store, batch_size, shuffle):
    stream = joined(images, store, batch_size=batch_size, shuffle=shuffle)
    numbers = assert_paired(stream, (0, stream.end_of_epoch(2)))
    assert sorted(numbers[:30]) == sorted(numbers[30:60]) == list(range(30))
    assert (numbers[:30] == list(range(30))) == (not shuffle)


def test_any_step_can_be_entered(images, store):
    stream = joined(images, store, batch_size=7)
    walked = list(stream.batches(0, 9))
    for start in (1, 4, 8):
        for (pixels, targets, _), (expected, expected_targets, _) in zip(
            stream.batches(start, 9), walked[start:], strict=True
        ):
            np.testing.assert_array_equal(pixels, expected)
            for name, value in targets.items():
                np.testing.assert_array_equal(value, expected_targets[name])


def test_the_indices_of_a_step_are_those_of_its_batch(images, store):
    stream = joined(images, store)
    for step, (pixels, _, _) in enumerate(stream.batches(0, 10)):
        numbers = helpers.pixel_numbers(pixels)[:, 0].tolist()
        assert numbers == [int(images.keys[index][4:9]) for index in stream.indices(step)]


def test_seeds_give_orders_of_their_own_and_the_same_seed_the_same(images, store):
    orders = [
        np.concatenate([joined(images, store, seed=seed).indices(step) for step in range(7)])
        for seed in (1, 1, 2)
    ]
    assert orders[0].tolist() == orders[1].tolist() != orders[2].tolist()


@pytest.mark.parametrize(("num_cores", "on_bad"), [(1, "raise"), (None, "skip")])
def test_a_machine_of_one_core_has_the_same_batches(images, store, monkeypatch, num_cores, on_bad):
    expected = batches_of(joined(images, store))
    monkeypatch.setattr(os, "cpu_count", lambda: num_cores)
    assert_same(batches_of(joined(images, store, on_bad=on_bad)), expected)


def test_shapes_are_static_and_types_as_documented(images, store):
    stream = joined(images, store, image_size=(6, 5))
    pixels, targets, weights = stream.dataset().element_spec
    assert pixels == tf.TensorSpec((4, 6, 5, 3), tf.float32)
    assert weights == tf.TensorSpec((4,), tf.float32)
    assert targets == {
        "labels": tf.TensorSpec((4, 2), tf.int32),
        "label_shares": tf.TensorSpec((4, 2), tf.float32),
        "teacher_logits": tf.TensorSpec((4, 3), tf.float32),
        "rows": tf.TensorSpec((4,), tf.int64),
    }
    pixels, targets, weights = next(iter(stream.dataset()))
    assert targets["label_shares"].numpy().tolist() == [[1, 0]] * 4
    assert targets["labels"][:, 0].numpy().tolist() == targets["labels"][:, 1].numpy().tolist()
    assert weights.numpy().tolist() == [1] * 4


def test_the_dataset_has_no_end(images, store):
    stream = joined(images, store, batch_size=30)
    assert len(list(stream.dataset().take(5))) == 5
    assert len(list(stream.dataset(3, 5))) == 2
    assert stream.end_of_epoch(3) == 3


def test_a_student_of_another_size_gets_the_same_images(images, store):
    assert_paired(joined(images, store, image_size=(5, 12)), (0, 8))


def test_a_stream_without_a_store_has_labels_alone(images):
    stream = joined(images, None, image_size=(8, 8))
    assert stream.class_names == ["ant", "bee", "cat"] and stream.num_classes == 3
    seen = []
    for pixels, targets, _ in stream.batches(0, 8):
        assert set(targets) == {"labels", "label_shares", "rows"}
        numbers = helpers.pixel_numbers(pixels)
        np.testing.assert_array_equal(targets["labels"][:, 0], numbers[:, 1])
        assert set(targets["rows"].numpy()) == {-1}
        seen += numbers[:, 0].tolist()
    assert sorted(seen[:30]) == list(range(30))


# Files that change under the stream.


def change(path, number=500):
    """Puts another image in the place of a file."""
    helpers.draw_image(path, number, 1)


def test_a_changed_file_is_refused_by_name_with_both_digests(images, store, directory):
    from streamkd.pixels.content_digest import digest_files

    path = directory / "bee" / "00015.png"
    stream = joined(images, store)
    change(path)
    now = digest_files([bytes(path)])[0][0]
    taught = store.content_of(store.images_of_keys(images.keys)[15:16])[0]
    with pytest.raises(ChangedImageError) as refusal:
        list(stream.batches(0, stream.end_of_epoch(1)))
    assert str(refusal.value) == (
        "The image 'bee/00015.png' is not the file that the teacher answered.\n"
        f"  content digest now:    {now}\n"
        f"  content digest taught: {taught}\n"
        "Put the old file back, or give the `teach` command of the store again: it answers only "
        "images that are new or changed. Imported logits are imported again: "
        "`streamkd import … --out NEW.h5`.\n"
        "If the store is that of another directory with the same names, give that directory."
    )
    assert refusal.value.key == b"bee/00015.png"
    assert isinstance(refusal.value.__cause__, tf.errors.InvalidArgumentError)


def test_a_file_that_changes_after_it_was_read_once_is_refused_on_the_next_read(
    images, store, directory
):
    stream = joined(images, store)
    batches = stream.batches()
    for _ in range(stream.end_of_epoch(1)):
        next(batches)
    change(directory / "bee" / "00015.png")
    # Of the next epoch a few batches may have been read ahead.
    with pytest.raises(ChangedImageError, match=r"'bee/00015\.png' is not the file"):
        list(itertools.islice(batches, stream.end_of_epoch(3)))


def test_any_other_loop_reads_the_name_in_tensorflows_error(images, store, directory):
    change(directory / "bee" / "00015.png")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"bee/00015\.png") as error:
        list(joined(images, store).dataset(0, 8).map(lambda *batch: batch))
    assert "is not the file that the teacher answered" in str(error.value)


@pytest.mark.parametrize(
    "name", [b"\xff\xfe.png", "\u00e9t\u00e9.png".encode(), b"quo'te\".png", b"line\n\\end.png"]
)
def test_a_changed_file_with_an_odd_name_is_refused_by_name(directory, teacher, tmp_path, name):
    path = os.path.join(bytes(directory), b"ant", name)
    helpers.draw_image(path, 100, 0)
    images = scan(directory)
    store = teach(images, teacher, tmp_path / "s.h5", image_size=(8, 8), progress=False)
    change(path)
    stream = joined(images, store, batch_size=31)
    with pytest.raises(ChangedImageError, match="is not the file") as refusal:
        list(stream.batches(0, 1))
    assert refusal.value.key == b"ant/" + name


def test_swapped_files_are_refused(images, store, directory):
    first, second = directory / "ant" / "00001.png", directory / "ant" / "00002.png"
    first.rename(directory / "x")
    second.rename(first)
    (directory / "x").rename(second)
    with pytest.raises(ChangedImageError, match=r"'ant/0000[12]\.png' is not the file"):
        list(joined(scan(directory), store).batches(0, 8))


def test_the_distiller_refuses_a_changed_file_by_name(images, store, directory):
    from streamkd.training.distiller import Distiller

    stream = joined(images, store)
    change(directory / "bee" / "00015.png")
    distiller = Distiller(helpers.small_model("tf_keras"))
    with pytest.raises(ChangedImageError, match=r"(?s)'bee/00015\.png' .*now:.*taught:") as refusal:
        distiller.fit(stream, epochs=1, progress=False)
    assert refusal.value.key == b"bee/00015.png"


@pytest.mark.parametrize("kind", ["gone", "truncated"])
@pytest.mark.parametrize("with_store", [True, False], ids=["joined", "labels alone"])
def test_a_file_that_cannot_be_read_any_more_is_refused_by_name(
    images, store, directory, kind, with_store
):
    path = directory / "cat" / "00029.png"
    stream = joined(images, store if with_store else None, image_size=(8, 8))
    path.unlink() if kind == "gone" else helpers.truncate(path)
    # A joined file that was truncated is a changed one as well; either is said.
    refusals = (BadImageError, ChangedImageError) if with_store else BadImageError
    words = r"'cat/00029\.png' (cannot be decoded|is not the file|is not there)"
    with pytest.raises(refusals, match=words) as refusal:
        list(stream.batches(0, stream.end_of_epoch(1)))
    assert refusal.value.key == b"cat/00029.png"


def test_the_batches_before_a_bad_file_are_delivered(images, store, directory):
    stream = joined(images, store, shuffle=False)
    change(directory / "bee" / "00015.png")
    batches = stream.batches()
    delivered = [next(batches)[1]["rows"].numpy().tolist() for _ in range(3)]
    assert delivered == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    with pytest.raises(ChangedImageError, match=r"'bee/00015\.png' is not the file"):
        next(batches)


def test_a_row_that_was_damaged_after_the_join_is_refused_as_itself(images, store):
    spec = joined(images, store).spec
    offset = store._file.offset("logits", 17)
    damaged = Stream(dataclasses.replace(spec, store=open_store(store.path)))
    with open(store.path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(StoreError, match=r"row|checksum") as refusal:
        list(damaged.batches(0, damaged.end_of_epoch(1)))
    assert refusal.value.__cause__ is not None


def test_weights_of_images_are_those_of_their_samples(images, store):
    weights = np.linspace(0, 2, len(images)).astype(np.float32)
    weighed = Manifest(images.root, images.keys, images.labels, images.class_names, weights)
    for pixels, _, given in joined(weighed, store).dataset(0, 5):
        assert np.array_equal(given, weights[helpers.pixel_numbers(pixels)[:, 0]])


def test_reading_begins_with_the_iterator(images, store, monkeypatch):
    began = threading.Event()
    real = columns.read_files

    def read_files(*arguments, **options):
        began.set()
        return real(*arguments, **options)

    monkeypatch.setattr(columns, "read_files", read_files)
    iterator = iter(join(images, store, batch_size=8).unnamed_dataset(0, WHOLE))
    assert began.wait(60), "a batch is read before one is asked for"
    next(iterator)
