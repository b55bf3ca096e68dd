"""The zoo of bad and odd files under both policies, and images that go bad after teaching."""

import json
import os
import re
import shutil
import sys
import warnings
from pathlib import Path

import helpers
import numpy as np
import pytest
import tensorflow as tf
import zoo
from process_helpers import finished
from replay_helpers import answers, assert_replayed, draw_noisy, failing_teacher
from run_helpers import command, dense_student, exact_teacher

import streamkd as kd
from streamkd.errors import (
    BadImageError,
    ChangedImageError,
    MissingLogitsError,
    OptionError,
    readable_key,
)
from streamkd.image_options import ImageOptions
from streamkd.keys import Keys, hash_keys, key_fields
from streamkd.pixels.bad_images import refuse_bad_image
from streamkd.pixels.check_images import check_images
from streamkd.pixels.content_digest import digest_files
from streamkd.store.layout import REFUSED
from streamkd.stream.join import join
from streamkd.teachers.drawn_views import DrawnViews
from streamkd.teachers.rendered_blocks import Blocks, rendered_blocks
from streamkd.teachers.teach import refused_images, teach
from streamkd.training.distiller import Distiller
from streamkd.views.views import Views

# Pillow warns of a TIFF that is cut short before it refuses it.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Corrupt EXIF data"),
    pytest.mark.filterwarnings("ignore:turned_by_exif"),
]
SIZE = zoo.PICTURE.shape[:2]
SKIPPED = pytest.mark.filterwarnings("ignore:.*images cannot be decoded and have no logits")


def corners(pixels):
    """A teacher whose logits are the colours of all four corners."""
    pixels = np.asarray(pixels, np.float32)
    return pixels[:, [2, 2, -3, -3], [2, -3, 2, -3]].reshape(len(pixels), 12)


def answer(images, path, on_bad="skip", **arguments):
    values = {"image_size": SIZE, "batch_size": 16, "codec": "float32", "progress": False}
    teacher = kd.load_teacher(corners, name="corners", output="logits")
    return teach(images, teacher, path, on_bad=on_bad, **{**values, **arguments})


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The zoo without classes, the outcome of each key, and its store."""
    root = tmp_path_factory.mktemp("zoo")
    images, expected = zoo.draw(root / "images")
    images = type(images)(images.root, images.keys, np.full(len(images), -1, np.int32), None)
    with pytest.warns(UserWarning, match=rf"{num_bad(expected)} of {len(images)} images cannot be"):
        store = answer(images, root / "s.h5")
    return images, expected, store


def num_bad(expected):
    return sum(isinstance(outcome, str) for outcome in expected.values())


def test_the_zoo_is_large(drawn):
    _, expected, _ = drawn
    assert num_bad(expected) >= 50 and len(expected) - num_bad(expected) >= 45


def test_checking_finds_every_bad_file_and_its_reason_and_no_other(drawn):
    images, expected, _ = drawn
    report = check_images(images, progress=False)
    reasons = {(e["key"], e.get("key_base64")): e["reason"] for e in report.bad}
    for key, outcome in expected.items():
        fields = key_fields(key)
        reason = reasons.pop((fields["key"], fields.get("key_base64")), None)
        if isinstance(outcome, str):
            assert reason is not None and re.search(outcome, reason), (key, reason)
        else:
            assert reason is None, (key, reason)
    assert not reasons
    assert report.formats["tiff"] >= 8 and report.formats["avif"] >= 1


def test_the_teacher_is_shown_what_is_good_and_the_rest_is_refused(drawn):
    images, expected, store = drawn
    refused = {images.keys[index] for index in refused_images(images, store).tolist()}
    assert refused == {key for key, outcome in expected.items() if isinstance(outcome, str)}
    good = [key for key in images.keys if key not in refused]
    rows = store.images_of_keys(Keys.from_list(good))
    for key, logits in zip(good, store.gather(rows), strict=True):
        shown = corners(expected[key][None])[0]
        np.testing.assert_allclose(logits, shown, atol=6, err_msg=str(key))
    assert (store.done_of(np.arange(len(images))) == REFUSED).sum() == len(refused)
    # The store keeps the digest of the file itself, also of a file that Pillow decoded.
    digests, _ = digest_files([os.path.join(images.root, key) for key in good])
    assert np.array_equal(store.content_of(rows), digests)
    assert kd.verify(store.path, progress=False).sound


def test_every_bad_file_alone_ends_its_block_by_its_name(drawn):
    images, expected, _ = drawn
    options = ImageOptions(image_size=SIZE)
    views = DrawnViews(Views(0), images.keys)
    blocks = iter(rendered_blocks(images, Blocks(len(images), 1), views, options))
    for index, key in enumerate(images.keys):
        outcome = expected[key]
        if not isinstance(outcome, str):
            shown = corners(next(blocks).pixels)
            np.testing.assert_allclose(shown, corners(outcome[None]), atol=6, err_msg=str(key))
            continue
        with pytest.raises((tf.errors.OpError, BadImageError)) as error:
            next(blocks)
        with pytest.raises(BadImageError, match=outcome) as refusal:
            refuse_bad_image(error.value, images, [index], options)
        assert refusal.value.key == key
        assert f"The image '{readable_key(key)}' cannot be decoded" in str(refusal.value)


# One file for each step that finds it bad: reading, header, TensorFlow, Pillow.
ONE_OF_EACH = (b"folder.jpg", b"huge.png", b"half.jpg", b"half.tif")


@pytest.mark.parametrize("which", ["one of each", pytest.param("all", marks=pytest.mark.slow)])
def test_a_bad_file_alone_ends_the_teacher_pass_by_its_name(drawn, tmp_path, which):
    images, expected, _ = drawn
    for index, key in enumerate(images.keys):
        name = key.removeprefix(b"zoo/")
        if isinstance(expected[key], str) and (which == "all" or name in ONE_OF_EACH):
            with pytest.raises(BadImageError, match=expected[key]) as refusal:
                answer(images.select(np.array([index])), tmp_path / "s.h5", "raise")
            assert refusal.value.key == key
            assert f"The image '{readable_key(key)}' cannot be decoded" in str(refusal.value)
    assert os.listdir(tmp_path) == []


def labelled(images):
    return type(images)(images.root, images.keys, np.zeros(len(images), np.int32), ["a"])


def test_every_bad_file_ends_a_stream_by_its_name(drawn):
    images, expected, _ = drawn
    stream = join(labelled(images), None, image_size=SIZE, batch_size=1, shuffle=False)
    batches = iter(stream.batches(0, len(images)))
    for key in images.keys:
        outcome = expected[key]
        if isinstance(outcome, str):
            with pytest.raises(BadImageError, match=outcome) as refusal:
                next(batches)
            assert refusal.value.key == key
            continue
        pixels, _, _ = next(batches)
        np.testing.assert_allclose(
            corners(pixels), corners(outcome[None]), atol=6, err_msg=str(key)
        )


def test_a_stream_that_skips_gives_bad_images_no_weight(drawn):
    images, expected, _ = drawn
    arguments = {"image_size": SIZE, "batch_size": 15, "seed": 3, "on_bad": "skip"}
    stream = join(labelled(images), None, **arguments)
    batches = list(stream.batches(0, 14))  # two epochs: found bad, and known to be
    for step, (pixels, _, weights) in enumerate(batches):
        for index, image, weight in zip(
            stream.indices(step).tolist(), pixels.numpy(), weights.numpy(), strict=True
        ):
            outcome = expected[images.keys[index]]
            assert weight == (not isinstance(outcome, str))
            if weight:
                np.testing.assert_allclose(corners(image[None]), corners(outcome[None]), atol=6)
            else:
                assert (image == 0).all() and re.search(outcome, stream.skipped[index])
    assert len(stream.skipped) == num_bad(expected)
    # Entered in the middle, where nothing is known yet: the same to the bit.
    again = join(labelled(images), None, **arguments)
    for one, other in zip(batches[9:], again.batches(9, 14), strict=True):
        assert all(np.array_equal(*parts) for parts in zip(one[::2], other[::2], strict=True))


def test_the_join_leaves_refused_images_out_or_names_the_first(drawn):
    images, expected, store = drawn
    first = next(key for key in images.keys if isinstance(expected[key], str))
    with pytest.raises(MissingLogitsError, match="could not be decoded when the teacher") as error:
        join(images, store, batch_size=4)
    assert error.value.key == first and readable_key(first) in str(error.value)
    with pytest.warns(UserWarning, match=f"{num_bad(expected)} of {len(images)} images have no"):
        stream = join(images, store, batch_size=4, missing="drop")
    assert stream.num_images == len(images) - num_bad(expected)
    for pixels, targets, weights in stream.batches(0, stream.end_of_epoch(1)):
        assert np.array_equal(corners(pixels), targets["teacher_logits"]) and weights[0] == 1


@SKIPPED
def test_a_second_pass_does_not_ask_again_until_a_file_changes(drawn, tmp_path):
    images, _, _ = drawn
    shutil.copytree(os.fsdecode(images.root), tmp_path / "i", symlinks=True, ignore=no_pipes)
    os.mkfifo(tmp_path / "i" / "zoo" / "pipe.jpg")
    images = type(images)(bytes(tmp_path / "i"), images.keys, images.labels, None)
    store = answer(images, tmp_path / "s.h5")
    before = (tmp_path / "s.h5").read_bytes()
    answer(images, tmp_path / "s.h5")
    assert sorted(os.listdir(tmp_path)) == ["i", "s.h5"]
    (tmp_path / "i" / "zoo" / "empty.jpg").write_bytes(zoo.saved("JPEG"))
    changed = answer(images, tmp_path / "s.h5")
    assert (tmp_path / "s.h5").read_bytes() == before
    assert len(refused_images(images, changed)) == len(refused_images(images, store)) - 1


def no_pipes(folder, names):
    return [name for name in names if name == "pipe.jpg"]


# Meets the bomb, whose pixels take 1.2 GB, with 600 MB of memory left. A stream is read before, so
# that all threads of TensorFlow have their stacks.
_MEETS_A_BOMB = """
import resource, sys
import numpy as np
import streamkd as kd
from streamkd.pixels.check_images import check_images

def first_batch(directory):
    return next(kd.join(kd.scan(directory), None, image_size=(8, 8), batch_size=1).batches())

good, bad = sys.argv[1:]
first_batch(good)
with open("/proc/self/statm") as statm:
    used_bytes = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used_bytes + (600 << 20), resource.RLIM_INFINITY))
print(len(check_images(kd.scan(bad), progress=False).bad))
try:
    first_batch(bad)
except kd.StreamkdError as error:
    print(type(error).__name__, error)
try:
    np.ones(1_200_000_000, np.uint8)
except MemoryError:
    print("no memory for it")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and limits its memory")
def test_a_bomb_takes_no_memory(tmp_path):
    for name, data in (("good", zoo.saved("PNG")), ("bad", zoo.png_of_zeros(20_000, 20_000))):
        (tmp_path / name / "a").mkdir(parents=True)
        (tmp_path / name / "a" / "1.png").write_bytes(data)
    out, _ = finished("-c", _MEETS_A_BOMB, tmp_path / "good", tmp_path / "bad")
    first, refusal, *_, last = out.splitlines()
    assert first == "1" and last == "no memory for it"
    assert refusal.startswith(
        "BadImageError The image 'a/1.png' cannot be decoded: it has 20,000 x"
    )


# Images that go bad after the teacher has seen them.


def spoil(folder, name, how):
    path = next(folder.glob(f"*/{name}.png"))
    data = path.read_bytes()
    if how == "truncated":
        path.write_bytes(data[:-30])
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    else:  # another image
        helpers.draw_noise(path, (9, 9), 77)
    return f"{path.parent.name}/{path.name}".encode()


VIEWS = {"plain": Views(0), "mixed": Views(2, crop=(0.4, 1.0), mixup=1.0)}


@pytest.mark.parametrize("kind", list(VIEWS))
def test_an_image_that_goes_bad_loses_its_weight_and_the_rest_is_as_before(tmp_path, kind):
    images = draw_noisy(tmp_path / "i", one_size=True)
    store = answers(images, tmp_path / "s.h5", VIEWS[kind])
    sound = list(join(images, store, batch_size=4, seed=1).batches(0, 24))
    bad = {spoil(tmp_path / "i", *one) for one in (("03", "truncated"), ("09", "a folder"))}
    bad.add(spoil(tmp_path / "i", "17", "changed"))
    stream = join(images, store, batch_size=4, seed=1, on_bad="skip")
    batches = list(stream.batches(0, 24))
    num_without = 0
    for step, (one, other) in enumerate(zip(sound, batches, strict=True)):
        weights, was = other[2].numpy(), one[2].numpy()
        mine = np.array([images.keys[index] in bad for index in stream.indices(step).tolist()])
        expected = mine.copy()
        if kind == "mixed":
            partners = store.view_parameters(other[1]["rows"].numpy())["view_partner"] >= 0
            expected |= mine.reshape(-1, 2)[:, ::-1].reshape(-1) & partners
        assert np.array_equal(weights, np.where(expected, 0, was))
        assert np.array_equal(other[0].numpy()[~expected], one[0].numpy()[~expected])
        assert (other[0].numpy()[mine] == 0).all()
        assert all(np.array_equal(other[1][name], one[1][name]) for name in one[1])
        num_without += expected.sum()
    assert num_without >= 3 * (2 if kind == "mixed" else 1)
    assert {images.keys[index] for index in stream.skipped} == bad
    assert sorted(stream.skipped.values())[1].startswith("it is not the file that the teacher")
    entered = join(images, store, batch_size=4, seed=1, on_bad="skip").batches(15, 24)
    for one, other in zip(batches[15:], entered, strict=True):
        assert np.array_equal(one[0], other[0]) and np.array_equal(one[2], other[2])
    if kind == "plain":
        with pytest.raises((BadImageError, ChangedImageError)) as refusal:
            list(join(images, store, batch_size=4, seed=1).batches(0, 24))
        assert refusal.value.key in bad


@SKIPPED
def test_the_partner_of_a_refused_image_is_answered_unmixed_and_replayed(tmp_path):
    images = draw_noisy(tmp_path / "i", one_size=False)
    views = Views(1, crop=(0.5, 1.0), mixup=1.0)
    key = spoil(tmp_path / "i", "03", "truncated")
    store = answers(images, tmp_path / "s.h5", views, on_bad="skip", batch_size=6)
    number = int(store.images_of_keys(Keys.from_list([key]))[0])
    partner = int(views.match(hash_keys(store.keys))[number, 1])
    assert partner >= 0 and store.partners_of(1)[partner] == -1
    others = np.setdiff1d(np.arange(store.num_images), [number, partner])
    assert (store.partners_of(1)[others] >= 0).sum() >= store.num_images - 3
    with pytest.warns(UserWarning, match="1 of 21 images have no logits"):
        stream = join(images, store, batch_size=4, missing="drop")
    assert_replayed(stream, 0, 11)


@SKIPPED
@pytest.mark.slow
@pytest.mark.parametrize("views", [Views(0), Views(1, mixup=1.0)], ids=["plain", "mixed"])
def test_a_pass_that_skips_and_was_cut_resumes_to_the_same_bytes(tmp_path, views):
    images = draw_noisy(tmp_path / "i", one_size=False)
    spoil(tmp_path / "i", "03", "truncated")
    spoil(tmp_path / "i", "17", "truncated")
    options = {"on_bad": "skip", "batch_size": 6}
    answers(images, tmp_path / "uncut.h5", views, **options)
    with pytest.raises(helpers.TeacherFailedError):
        answers(images, tmp_path / "s.h5", views, teacher=failing_teacher(4), **options)
    answers(images, tmp_path / "s.h5", views, **options)
    assert (tmp_path / "s.h5").read_bytes() == (tmp_path / "uncut.h5").read_bytes()


# The commands and the run.


@SKIPPED
def test_commands_skip_and_list(directory, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exact_teacher().save("t.keras")
    dense_student().save("m.keras")
    helpers.truncate(directory / "bee" / "00014.png")
    teaching = ("teach", "images", "--teacher", "t.keras", "--out", "s.h5")
    code, refusal, _ = command(capsys, *teaching)
    assert code == 2 and refusal["error"]["key"] == "bee/00014.png"
    code, taught, _ = command(capsys, *teaching, "--on-bad", "skip")
    assert code == 0 and taught["num_refused"] == 1 and taught["rows_done"] == 30
    assert taught["refused"][0]["key"] == "bee/00014.png" and taught["refused"][0]["reason"]
    helpers.truncate(directory / "ant" / "00003.png")
    training = ("train", "images", "--store", "s.h5", "--student", "m.keras", "--out", "run")
    training += ("--missing", "drop", "--optimizer", "sgd", "--jit", "off", "--batch-size", 8)
    training += ("--epochs",)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "1 of 30 images have no logits")
        code, trained, _ = command(capsys, *training, 1, "--on-bad", "skip")
    assert code == 0 and trained["num_skipped"] == 1
    lines = [json.loads(line) for line in Path("run/skipped.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines] == ["ant/00003.png"] and lines[0]["reason"]
    code, refusal, _ = command(capsys, "evaluate", "run", "images")
    assert code == 2 and refusal["error"]["key"] == "ant/00003.png"


@pytest.mark.slow
def test_a_run_that_skips_resumes_to_the_same_weights_and_the_same_list(images, store, tmp_path):
    helpers.truncate(tmp_path / "images" / "ant" / "00003.png")
    (tmp_path / "images" / "cat" / "00025.png").write_bytes(b"")

    def fit(run, epochs):
        stream = join(images, store, batch_size=7, on_bad="skip")
        student = dense_student()
        distiller = Distiller(student, optimizer=optimizer(), temperature=2.0)
        history = distiller.fit(stream, epochs=epochs, run=run, progress=False)
        return history, np.concatenate([w.ravel() for w in student.get_weights()])

    def optimizer():
        import tf_keras

        return tf_keras.optimizers.SGD(0.01, momentum=0.9)

    straight, weights = fit(tmp_path / "straight", 2)
    fit(tmp_path / "cut", 1)
    resumed, again = fit(tmp_path / "cut", 2)
    assert np.array_equal(weights, again) and np.isfinite(weights).all()
    assert straight.num_skipped == resumed.num_skipped == 2
    lists = [(tmp_path / run / "skipped.jsonl").read_bytes() for run in ("straight", "cut")]
    assert lists[0] == lists[1] and lists[0].count(b"\n") == 2


def test_a_batch_of_nothing_but_bad_files_changes_no_weight_to_nan(images, store, tmp_path):
    for path in (tmp_path / "images").glob("*/*.png"):
        if int(path.stem) < 10:
            path.write_bytes(b"")
    stream = join(images, store, batch_size=5, shuffle=False, on_bad="skip")
    student = dense_student()
    distiller = Distiller(student, temperature=2.0, optimizer="sgd", jit="off")
    history = distiller.fit(stream, epochs=1, progress=False)
    assert history.num_skipped == 10
    assert all(np.isfinite(weight).all() for weight in student.get_weights())


def test_an_unknown_policy_is_refused(images, store, tmp_path):
    for call in (
        lambda: join(images, store, on_bad="ignore"),
        lambda: answer(images, tmp_path / "s.h5", "ignore"),
    ):
        with pytest.raises(OptionError, match="on_bad is 'ignore'; choose one of raise, skip"):
            call()
