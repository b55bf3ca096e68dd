"""The pixels that a teacher's pass leaves for training: to the bit those that training decodes."""

from __future__ import annotations

import os
import shutil
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers import TeacherFailedError, break_image, draw_noise
from replay_helpers import (
    CROPS,
    FADE,
    KINDS,
    SIZE,
    answers,
    draw_noisy,
    failing_teacher,
    project,
    quick_and_slow,
)
from stream_helpers import assert_same, batches_of

import streamkd as kd
from streamkd import disk
from streamkd.errors import DiskFullError, OptionError
from streamkd.pixels import decode, exact_decode
from streamkd.pixels.cache import pixel_cache
from streamkd.pixels.cache.pixel_cache import PixelCache
from streamkd.teachers.kept_pixels import pixels_kept
from streamkd.views.views import Views

VIEWS = {
    "plain": Views(0),
    "plain of one size": Views(0, canonical_size=(14, 12)),
    "crop": CROPS,
    "mixed": KINDS["everything canonical"],
    "operation": KINDS["operation canonical"],
}


@pytest.fixture
def decoded(monkeypatch):
    """How many images were decoded: a list of one number. Kept graphs are made anew, to count."""
    count = [0]
    real = exact_decode.decode_as_stored

    def add():
        count[0] += 1

    def counting(data, options, ratio=1):
        with tf.control_dependencies([tf.numpy_function(add, [], [])]):
            return real(tf.identity(data), options, ratio)

    monkeypatch.setattr(exact_decode, "decode_as_stored", counting)
    # Graphs of before do not count, and none that counts stays.
    decode._graph_of.cache_clear()
    yield count
    decode._graph_of.cache_clear()


@pytest.fixture(scope="module")
def cropped(tmp_path_factory):
    """Images of many sizes, and the folder of a pass that left the pixels of their crops."""
    root = tmp_path_factory.mktemp("cropped")
    images = draw_noisy(root / "noisy", one_size=False)
    answers(images, root / "s.h5", CROPS, cache="disk", cache_directory=root / "pixels")
    return images, root


@pytest.fixture
def own(cropped, tmp_path):
    """The images of `cropped`, and a copy of its store and pixels."""
    images, root = cropped
    for name in ("s.h5", "pixels"):
        copy = shutil.copytree if name == "pixels" else shutil.copyfile
        copy(root / name, tmp_path / name)
    return images, tmp_path


def joined(images, folder, **options):
    return kd.join(
        images,
        folder / "s.h5",
        batch_size=4,
        seed=1,
        progress=False,
        cache="disk",
        cache_directory=folder / "pixels",
        **options,
    )


def files_of(folder):
    """Returns the bytes of pixels, and the records without the times of change."""
    (pixels,) = folder.glob("*.pixels")
    records = np.fromfile(pixels.with_suffix(".records"), np.uint64).reshape(-1, 4)
    return pixels.name, pixels.read_bytes(), records


@pytest.mark.parametrize("kind", quick_and_slow(VIEWS, ("plain", "crop")))
def test_a_pass_leaves_what_training_alone_decodes(noisy, tmp_path, opened, kind):
    operation = FADE if kind == "operation" else None
    alone, with_cache = tmp_path / "alone", tmp_path / "with"
    alone.mkdir()
    with_cache.mkdir()
    answers(noisy, alone / "s.h5", VIEWS[kind])
    place = {"cache": "disk", "cache_directory": with_cache / "pixels"}
    answers(noisy, with_cache / "s.h5", VIEWS[kind], **place)
    assert (alone / "s.h5").read_bytes() == (with_cache / "s.h5").read_bytes()
    trained_alone = batches_of(joined(noisy, alone, operation=operation))
    one, other = files_of(alone / "pixels"), files_of(with_cache / "pixels")
    assert one[:2] == other[:2]
    np.testing.assert_array_equal(one[2], other[2])
    opened.clear()
    stream = joined(noisy, with_cache, operation=operation)
    assert stream.cache.is_filled
    assert_same(batches_of(stream), trained_alone)
    assert not opened


def test_a_whole_job_decodes_each_file_once(noisy, tmp_path, opened, decoded):
    place = {"cache": "disk", "cache_directory": tmp_path / "pixels"}
    answers(noisy, tmp_path / "s.h5", CROPS, **place)
    batches_of(joined(noisy, tmp_path))
    drawn = Views(1, crop=(0.3, 1.0), canonical_size=(14, 12))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batches_of(joined(noisy, tmp_path, augment="independent", views=drawn))
    assert decoded == [len(noisy)] and len(opened) == len(noisy)


def test_a_list_in_another_order_has_its_own_order_in_the_cache(cropped, tmp_path, opened):
    images, _ = cropped
    turned = images.select(np.arange(len(images))[::-1])
    answers(turned, tmp_path / "s.h5", CROPS, cache="disk", cache_directory=tmp_path / "pixels")
    opened.clear()
    kept = batches_of(joined(turned, tmp_path))
    assert not opened
    assert_same(kept, batches_of(kd.join(turned, tmp_path / "s.h5", batch_size=4, seed=1)))


def test_parts_of_a_pass_fill_one_cache(cropped, tmp_path):
    images, root = cropped
    place = {"cache": "disk", "cache_directory": tmp_path / "pixels"}
    shards = [tmp_path / f"{number}.h5" for number in (1, 2)]
    for number, path in enumerate(shards, 1):
        answers(images, path, CROPS, shard=(number, 2), **place)
        kept = pixels_kept(images, kd.open_store(path), tmp_path / "pixels")
        assert (kept["num_images"] == len(images)) == (number == 2) and kept["num_images"]
    assert files_of(tmp_path / "pixels")[:2] == files_of(root / "pixels")[:2]


@pytest.mark.parametrize("fails_at", [2, 4])
def test_a_pass_that_was_killed_goes_on_with_its_cache(cropped, tmp_path, fails_at):
    images, root = cropped
    place = {"cache": "disk", "cache_directory": tmp_path / "pixels"}
    with pytest.raises(TeacherFailedError):
        answers(images, tmp_path / "s.h5", CROPS, teacher=failing_teacher(fails_at), **place)
    if (tmp_path / "s.h5").exists():
        present = PixelCache.on_disk(images, _canonical(root), tmp_path / "pixels")
        store = kd.LogitStore(tmp_path / "s.h5")
        done = np.flatnonzero(store.done_of(np.arange(store.num_images) * store.num_views))
        assert present.has(images.keys.sort_order()[done]).all()
    answers(images, tmp_path / "s.h5", CROPS, **place)
    assert (tmp_path / "s.h5").read_bytes() == (root / "s.h5").read_bytes()
    assert files_of(tmp_path / "pixels")[:2] == files_of(root / "pixels")[:2]


def _canonical(root):
    options = kd.ImageOptions.from_dict(kd.open_store(root / "s.h5").header.images)
    return kd.ImageOptions(image_size=CROPS.canonical_size, color_mode=options.color_mode)


@pytest.mark.parametrize("damage", ["pixels", "record", "half"])
def test_torn_pixels_are_decoded_again(own, opened, damage):
    images, folder = own
    whole = batches_of(joined(images, folder))
    (path,) = (folder / "pixels").glob("*.pixels")
    if damage == "half":  # a machine that lost its power: the end of the file was never written
        size = path.stat().st_size
        os.truncate(path, size // 2)
        os.truncate(path, size)
    else:
        path = path if damage == "pixels" else path.with_suffix(".records")
        with open(path, "r+b") as file:
            file.seek(100 if damage == "pixels" else 32 + 9)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
    opened.clear()
    assert_same(batches_of(joined(images, folder)), whole)
    assert len(set(opened)) == 1 if damage != "half" else 1 < len(set(opened)) < len(images)


def test_a_disk_that_gets_full_ends_the_cache_and_not_the_pass(cropped, tmp_path, monkeypatch):
    images, root = cropped
    calls = []

    def full_soon(descriptor, data, offset):
        calls.append(offset)
        if len(calls) > 10:
            raise OSError(28, "No space left on device")
        disk.write_at(descriptor, data, offset)

    system = types.SimpleNamespace(**{**vars(disk), "write_at": full_soon})
    monkeypatch.setattr(pixel_cache, "disk", system)
    with pytest.warns(UserWarning, match="takes no more images: No space left on device"):
        answers(images, tmp_path / "s.h5", CROPS, cache="disk", cache_directory=tmp_path / "pixels")
    assert (tmp_path / "s.h5").read_bytes() == (root / "s.h5").read_bytes()
    kept = pixels_kept(images, kd.open_store(tmp_path / "s.h5"), tmp_path / "pixels")
    assert kept["num_images"] == 5


def test_a_disk_without_room_is_refused_before_the_teacher_is_asked(cropped, tmp_path, monkeypatch):
    images, _ = cropped
    usage = shutil.disk_usage("/")._replace(free=9_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskFullError) as info:
        _kept_by(images, tmp_path, teacher=failing_teacher(2))
    message = str(info.value)
    assert f"no room for the decoded pixels of {len(images)} images" in message
    assert "needed: 0.00 GB, at 14x12" in message and "free:   0.00 GB in " in message
    assert "`--cache-bytes`, or leave `--cache disk` out." in message
    assert list(tmp_path.iterdir()) == []
    with pytest.warns(UserWarning, match="keeps 10 of 21 images"):
        _kept_by(images, tmp_path, cache_bytes=10 * (14 * 12 * 3 + 32))
    # What is there already needs no room.
    store = kd.open_store(tmp_path / "s.h5")
    assert pixels_kept(images, store, tmp_path / "pixels")["num_images"] == 10


def _kept_by(images, folder, **options):
    options = {"cache": "disk", "cache_directory": folder / "pixels", **options}
    return answers(images, folder / "s.h5", CROPS, **options)


def test_files_that_changed_are_answered_and_kept_anew(own, tmp_path, opened):
    images, folder = own
    shutil.copytree(os.fsdecode(images.root), tmp_path / "copies")
    moved = kd.scan(tmp_path / "copies")
    shutil.rmtree(folder / "pixels")
    _kept_by(moved, folder)  # every file is the one that the teacher saw: nothing is decoded
    assert not (folder / "pixels").exists()
    draw_noise(Path(os.fsdecode(moved.path(3))), (17, 19), seed=99)
    _kept_by(moved, folder)
    store = kd.open_store(folder / "s.h5")
    assert pixels_kept(moved, store, folder / "pixels")["num_images"] == 1
    opened.clear()
    plain = batches_of(kd.join(moved, store, batch_size=4, seed=1))
    opened.clear()
    assert_same(batches_of(joined(moved, folder)), plain)
    assert len(set(opened)) == len(moved) - 1


def test_a_student_of_another_size_decodes_for_itself(noisy, tmp_path, opened):
    place = {"cache": "disk", "cache_directory": tmp_path / "pixels"}
    store = answers(noisy, tmp_path / "s.h5", Views(0), **place)
    assert pixels_kept(noisy, store, tmp_path / "pixels")["image_size"] == list(SIZE)
    opened.clear()
    stream = joined(noisy, tmp_path, image_size=(7, 7))
    assert not stream.cache.is_filled
    batches_of(stream)
    assert set(opened) == set(noisy.each_path())


def test_images_that_cannot_be_decoded_leave_no_pixels(own, tmp_path, opened):
    images, _ = own
    shutil.copytree(os.fsdecode(images.root), tmp_path / "bad")
    bad = kd.scan(tmp_path / "bad")
    break_image(bad.path(5))
    place = {"cache": "disk", "cache_directory": tmp_path / "bad pixels"}
    with pytest.warns(UserWarning, match="1 of 21 images cannot be decoded"):
        answers(bad, tmp_path / "b.h5", CROPS, on_bad="skip", **place)
    cache = PixelCache.on_disk(bad, _canonical(tmp_path), tmp_path / "bad pixels")
    assert np.flatnonzero(~cache.has(np.arange(len(bad)))).tolist() == [5]
    # The image is left out, and the cache of the longer list serves.
    joining = {"missing": "drop", "batch_size": 4, "seed": 1, "progress": False}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "1 of 21 images have no logits and are left out")
        plain = batches_of(kd.join(bad, tmp_path / "b.h5", **joining))
        opened.clear()
        stream = kd.join(bad, tmp_path / "b.h5", **joining, **place)
    assert stream.cache.is_filled and len(list((tmp_path / "bad pixels").iterdir())) == 2
    assert_same(batches_of(stream), plain)
    assert not opened


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cache": "memory"}, "The cache of a teacher's pass is 'memory', and the pass leaves"),
        ({"cache_directory": "p"}, "--cache-directory is p, and no cache is asked for.\nAdd"),
        ({"cache_bytes": 5}, "--cache-bytes is 5, and no cache is asked for.\nAdd `--cache disk`"),
        ({"cache": "disk", "cache_bytes": 0}, "cache_bytes is 0"),
        ({"cache": "disk", "views": Views(2, flip=True)}, "keeps images of one size, and these"),
    ],
)
def test_a_cache_that_a_pass_cannot_fill_is_refused(cropped, tmp_path, options, words):
    with pytest.raises(OptionError) as info:
        kd.teach(cropped[0], project, tmp_path / "s.h5", image_size=SIZE, **options)
    assert words in str(info.value)
    assert list(tmp_path.iterdir()) == []
