"""Loops over a stream hear which file it was: one's own, TensorFlow's, and Keras' `fit`."""

import errno
import gc
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import streamkd as kd
from streamkd.errors import BadImageError, ChangedImageError, UnreadableImageError
from streamkd.pixels import file_batch, files
from streamkd.pixels.check_images import check_images


@pytest.fixture
def folder(tmp_path):
    """Twelve images in two classes."""
    rng = np.random.default_rng(0)
    for name, darkest in (("cat", 0), ("dog", 156)):
        (tmp_path / "i" / name).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(darkest, darkest + 100, (12, 12, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "i" / name / f"{number}.png")
    return tmp_path / "i"


def stream_of(folder, store=None, **options):
    options = {"image_size": (8, 8), "batch_size": 4, **options}
    return kd.join(kd.scan(folder), store, progress=False, **options)


def means(pixels):
    brightness = pixels.mean((1, 2, 3)) / 255 - 0.5
    return np.stack([-brightness, brightness], 1).astype(np.float32)


def cut(path):
    path.write_bytes(path.read_bytes()[:60])


def break_the_middle(path):
    data = path.read_bytes()
    path.write_bytes(data[:60] + bytes(20) + data[80:])


DAMAGES = {
    "cut": (cut, "cannot be decoded: .+"),
    "broken in the middle": (break_the_middle, "cannot be decoded: .+"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be decoded: the file is empty"),
    "text": (lambda path: path.write_text("no image"), "cannot be decoded: .+"),
    "gone": (lambda path: path.unlink(), "is not there: No such file or directory"),
}


def eager(dataset):
    list(dataset)


def as_numpy(dataset):
    list(dataset.as_numpy_iterator())


def mapped(dataset):
    list(dataset.map(lambda *batch: batch[0]).prefetch(1))


@tf.function
def graph(dataset):
    for pixels, _, _ in dataset:
        tf.debugging.assert_all_finite(pixels, "finite")


def fitted(family):
    def fit(dataset):
        keras = pytest.importorskip(family)
        layers = [keras.layers.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
        model = keras.Sequential(layers)
        model.compile("sgd", keras.losses.MeanSquaredError())
        model.fit(dataset.map(lambda x, y, w: (x, y["label_shares"], w)), shuffle=False, verbose=0)

    return fit


IN_PYTHON = {"a loop": eager, "as NumPy": as_numpy}
IN_TENSORFLOW = {
    "mapped": mapped,
    "tf.function": graph,
    "tf_keras": fitted("tf_keras"),
    "keras": fitted("keras"),
}


@pytest.mark.parametrize("loop", list(IN_PYTHON))
@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_loop_in_python_gets_the_refusal_of_the_file(folder, damage, loop):
    stream = stream_of(folder)
    spoil, words = DAMAGES[damage]
    spoil(folder / "dog" / "3.png")
    with pytest.raises(BadImageError, match=rf"^The image 'dog/3\.png' {words}\.\n") as refusal:
        IN_PYTHON[loop](stream.dataset(0, 3))
    assert refusal.value.key == b"dog/3.png"
    assert isinstance(refusal.value, UnreadableImageError) == (damage == "gone")


@pytest.mark.parametrize(
    ("loop", "damage"),
    [(loop, "broken in the middle") for loop in IN_TENSORFLOW]
    + [("mapped", "cut"), ("tf.function", "gone"), ("keras", "empty")],
)
def test_tensorflows_own_error_has_the_words_of_the_refusal(folder, loop, damage):
    stream = stream_of(folder)
    spoil, words = DAMAGES[damage]
    spoil(folder / "dog" / "3.png")
    with pytest.raises(tf.errors.OpError, match=rf"The image 'dog/3\.png' {words}\.\n  file: "):
        IN_TENSORFLOW[loop](stream.dataset(0, 3))


@pytest.mark.parametrize("cache", [None, "memory"])
def test_a_changed_file_is_named_in_python_and_in_tensorflow(folder, tmp_path, cache):
    store = kd.teach(kd.scan(folder), means, tmp_path / "s.h5", image_size=(8, 8), progress=False)
    stream = stream_of(folder, store, cache=cache)
    Image.new("RGB", (9, 9)).save(folder / "dog" / "3.png")
    words = r"dog/3\.png\\?' is not the file that the teacher answered"
    with pytest.raises(ChangedImageError, match=words):
        eager(stream.dataset(0, 3))
    with pytest.raises(tf.errors.OpError, match=words):
        mapped(stream.dataset(0, 3))


def test_the_batches_after_a_bad_file_follow(folder):
    stream = stream_of(folder, shuffle=False)
    cut(folder / "cat" / "5.png")
    batches = iter(stream.dataset(0, 3))
    assert next(batches)[0].shape == (4, 8, 8, 3)
    with pytest.raises(BadImageError, match=r"'cat/5\.png'"):
        next(batches)
    assert next(batches)[0].shape == (4, 8, 8, 3)
    assert next(batches, None) is None


# What the system says of a file that is good, and what its user does.
MACHINES_FAULTS = {
    errno.EIO: "cannot be read: Input/output error.*Look at the disk or the mount",
    errno.EACCES: r"cannot be read: Permission denied.*`chmod u\+r .*/dog/3\.png`",
    errno.ESTALE: "cannot be read: Stale file handle.*Look at the disk or the mount",
    errno.EMFILE: "cannot be read: Too many open files.*`ulimit -n 65536`",
    errno.ENOMEM: "cannot be read: Cannot allocate memory.*Free memory",
    errno.ENOTCONN: "cannot be read: Transport endpoint .*Look at the disk or the mount",
    errno.ENOENT: "is not there: No such file or directory.*`streamkd scan .*`",
}


@pytest.fixture
def failing(monkeypatch):
    """Makes the system fail to read dog/3.png: `failing(errno, times)`."""

    def fail(number, times=10**9):
        left = [times]
        real = os.open

        def opened(path, *arguments, **options):
            if os.fsencode(path).endswith(b"dog/3.png") and left[0]:
                left[0] -= 1
                raise OSError(number, os.strerror(number), path)
            return real(path, *arguments, **options)

        monkeypatch.setattr(files.os, "open", opened)

    return fail


@pytest.mark.parametrize("number", list(MACHINES_FAULTS), ids=errno.errorcode.get)
@pytest.mark.parametrize("on_bad", ["raise", "skip"])
def test_a_fault_of_the_machine_marks_no_image_as_bad(folder, tmp_path, failing, number, on_bad):
    images = kd.scan(folder)
    stream = stream_of(folder, on_bad=on_bad)
    failing(number)
    words = rf"(?s)^The image 'dog/3\.png' {MACHINES_FAULTS[number]}"
    with pytest.raises(UnreadableImageError, match=words) as refusal:
        eager(stream.dataset(0, 3))
    assert refusal.value.code == "unreadable_image" and not stream.skipped
    with pytest.raises(UnreadableImageError, match=words):
        kd.teach(images, means, tmp_path / "s.h5", image_size=(8, 8), on_bad=on_bad, progress=False)


def test_a_fault_that_passes_is_named_and_the_next_pass_is_whole(folder, tmp_path, failing):
    images, options = kd.scan(folder), {"image_size": (8, 8), "on_bad": "skip", "progress": False}
    failing(errno.EIO, times=1)
    with pytest.raises(UnreadableImageError, match=r"'dog/3\.png' cannot be read: Input/output"):
        kd.teach(images, means, tmp_path / "s.h5", **options)
    store = kd.teach(images, means, tmp_path / "s.h5", **options)
    assert stream_of(folder, store).num_images == 12


def test_a_lost_mount_is_told_from_a_lost_file(folder):
    stream = stream_of(folder, on_bad="skip")
    folder.rename(folder.parent / "elsewhere")
    with pytest.raises(UnreadableImageError, match="nor is the directory of the images") as refusal:
        eager(stream.dataset(0, 3))
    assert f"Mount or move {folder} back" in str(refusal.value) and not stream.skipped


@pytest.mark.parametrize("kind", ["a folder", "a loop", "a device", "empty", "cut"])
def test_what_is_never_an_image_is_skipped(folder, kind):
    stream = stream_of(folder, on_bad="skip")
    path = folder / "dog" / "3.png"
    cut(path) if kind == "cut" else path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind != "cut":
        path.symlink_to("3.png" if kind == "a loop" else "/dev/zero")
    eager(stream.dataset(0, 3))
    assert list(stream.skipped_keys()) == [b"dog/3.png"]


def test_want_of_memory_while_a_file_is_converted_is_no_fault_of_the_file(folder, monkeypatch):
    def converted(*_):
        raise MemoryError

    (folder / "dog" / "3.png").write_bytes(b"")
    monkeypatch.setattr(file_batch, "decodable", converted)
    stream = stream_of(folder, on_bad="skip")
    with pytest.raises(UnreadableImageError, match=r"'dog/3\.png' .*: Cannot allocate memory"):
        eager(stream.dataset(0, 3))


def test_a_check_says_that_a_file_cannot_be_read(folder, failing):
    images = kd.scan(folder)
    failing(errno.EIO)
    (bad,) = check_images(images, progress=False).bad
    assert bad["reason"] == "the file cannot be read: Input/output error"


# Streams that are dropped.


def descriptors():
    links = Path("/proc/self/fd").iterdir()
    return [os.readlink(link) for link in list(links) if os.path.lexists(link)]


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="reads /proc")
@pytest.mark.parametrize("use", ["made", "iterated", "left in the middle", "mapped", "failed"])
def test_a_dropped_stream_gives_everything_back(folder, tmp_path, use):
    store_path = tmp_path / "s.h5"
    kd.teach(kd.scan(folder), means, store_path, image_size=(8, 8), progress=False)
    if use == "failed":
        Image.new("RGB", (9, 9)).save(folder / "dog" / "3.png")

    def once():
        stream = stream_of(folder, store_path, cache="disk", cache_directory=tmp_path / "cache")
        dataset = stream.dataset(0, 3)
        if use == "iterated":
            eager(dataset)
        elif use == "left in the middle":
            next(iter(dataset))
        elif use == "mapped":
            mapped(dataset)
        elif use == "failed":
            with pytest.raises(ChangedImageError):
                eager(dataset)

    once()
    gc.collect()
    assert not [name for name in descriptors() if str(tmp_path) in name]


def test_a_dataset_and_its_iterators_live_without_their_stream(folder):
    dataset = stream_of(folder).dataset(0, 3)
    gc.collect()
    batches = iter(dataset.map(lambda *batch: batch[0]))
    del dataset
    gc.collect()
    assert len(list(batches)) == 3


# Graphs that are kept.


@pytest.mark.parametrize("cache", [None, "memory"])
def test_graphs_are_made_once(folder, cache, monkeypatch):
    stream = stream_of(folder, cache=cache)
    first = [list(stream.dataset(0, 6)), list(stream.dataset(4, 6))]
    monkeypatch.setattr(tf, "numpy_function", None)
    for start, stop in ((0, 6), (1, 5), (5, 6)):
        for one, other in zip(first[0][start:stop], stream.dataset(start, stop), strict=True):
            assert np.array_equal(one[0], other[0]) and np.array_equal(one[2], other[2])
    endless = iter(stream.dataset(2))
    assert np.array_equal(next(endless)[0], first[0][2][0])
    assert stream.dataset(2).cardinality() == tf.data.INFINITE_CARDINALITY
