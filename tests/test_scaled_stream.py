"""Scaled decoding from teacher to student: the same pixels in stores, streams and commands."""

import zlib

import helpers
import numpy as np
import pytest
import tensorflow as tf
from replay_helpers import KINDS, answers, draw_noisy, failing_teacher, quick_and_slow, slow
from run_helpers import command, dense_student, exact_teacher
from scaled_helpers import draw_photographs

import streamkd as kd
from streamkd.errors import OptionError, StoreError
from streamkd.stream.join import join
from streamkd.teachers.write_store import write_store
from streamkd.views.views import Views

# Kinds in which every step of decoding and rendering is taken once; the others are slow.
QUICK = ("plain", "crop", "everything canonical", "everything and operation")


def fingerprint(pixels):
    """A teacher whose logits, exact in float32, hold a checksum of every bit of the pixels."""
    sums = [zlib.crc32(image.tobytes()) for image in np.asarray(pixels, np.float32)]
    return np.array([[n & 0xFFFF, n >> 16, 70_000] for n in sums], np.float32) / 1024


# Arguments of `teach_once` for a store of this teacher.
ASKED = {
    "teacher": kd.load_teacher(fingerprint, name="f", output="logits"),
    "image_size": (9, 10),
    "batch_size": 13,
    "codec": "float32",
    "decode": "scaled",
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """The manifest of 18 photographs of many sizes."""
    return draw_photographs(tmp_path_factory.mktemp("photographs"), one_size=False)


def assert_same_bits(stream, stop):
    """Compares the checksum of what a stream shows with what the teacher was shown."""
    for pixels, targets, _ in stream.batches(0, stop):
        assert np.array_equal(fingerprint(pixels.numpy()), targets["teacher_logits"])


@pytest.mark.parametrize("kind", quick_and_slow(KINDS, QUICK))
def test_the_student_sees_the_teachers_pixels_to_the_bit(teach_once, photographs, tmp_path, kind):
    views = KINDS[kind]
    store = teach_once(photographs, tmp_path / "s.h5", **ASKED, views=views)
    assert store.header.images["decode"] == "scaled"
    stream = join(photographs, store, batch_size=4, seed=7, operation=views.operation)
    assert stream.options.decode == "scaled"
    assert_same_bits(stream, stream.end_of_epoch(views.count + 1))


# JPEG files of many sizes come above, and their sizes change nothing.
@pytest.mark.parametrize("draw", [slow(draw_photographs), draw_noisy], ids=["JPEG", "PNG"])
def test_images_of_one_size_are_seen_to_the_bit(teach_once, tmp_path, draw):
    (tmp_path / "images").mkdir()
    images = draw(tmp_path / "images", one_size=True)
    store = teach_once(images, tmp_path / "s.h5", **ASKED, views=KINDS["everything"])
    assert_same_bits(join(images, store, batch_size=4), 10)


@pytest.mark.parametrize("kind", ["plain", "everything canonical"])
def test_images_from_the_pixel_cache_are_seen_to_the_bit(teach_once, photographs, tmp_path, kind):
    store = teach_once(photographs, tmp_path / "s.h5", **ASKED, views=KINDS[kind])
    stream = join(photographs, store, batch_size=4, cache="memory")
    without = join(photographs, store, batch_size=4)
    stop = stream.end_of_epoch(3)
    for one, other in zip(stream.batches(0, stop), without.batches(0, stop), strict=True):
        if kind == "plain":  # which the cache rounds to whole numbers
            np.testing.assert_allclose(one[0], other[0], atol=0.5001)
        else:
            assert np.array_equal(one[0], other[0])
    if kind != "plain":
        assert_same_bits(stream, stop)


def test_the_cache_keeps_scaled_and_exact_pixels_apart(photographs, tmp_path):
    arguments = {"image_size": (9, 10), "batch_size": 4, "shuffle": False}
    for decode_as in ("exact", "scaled"):
        cached, plain = (
            join(photographs, None, decode=decode_as, **arguments, **more)
            for more in ({"cache": "disk", "cache_directory": tmp_path}, {})
        )
        for one, other in zip(cached.batches(0, 4), plain.batches(0, 4), strict=True):
            np.testing.assert_allclose(one[0], other[0], atol=0.5001)
    assert len(list(tmp_path.glob("*.pixels"))) == 2


def test_a_student_of_another_resolution_sees_the_same_view_in_its_own(
    teach_once, photographs, tmp_path
):
    views = Views(2, crop=(0.3, 0.8), flip=True)
    store = teach_once(photographs, tmp_path / "s.h5", **ASKED, views=views)
    small = join(photographs, store, batch_size=4)
    large = join(photographs, store, batch_size=4, image_size=(45, 50))
    for one, other in zip(small.batches(0, 8), large.batches(0, 8), strict=True):
        assert np.array_equal(one[1]["rows"], other[1]["rows"])
        back = tf.image.resize(other[0], (9, 10), antialias=True)  # 0.998 when this was written
        assert np.corrcoef(np.ravel(back), np.ravel(one[0]))[0, 1] > 0.98


def test_a_pass_that_was_cut_resumes_to_the_same_bytes_and_knows_its_teacher_again(
    teach_once, photographs, tmp_path
):
    views, path = KINDS["crop"], tmp_path / "s.h5"
    teach_once(photographs, tmp_path / "uncut.h5", **ASKED, views=views)

    def teach(**changes):
        return answers(photographs, path, views, **{**ASKED, **changes})

    with pytest.raises(helpers.TeacherFailedError):
        teach(teacher=failing_teacher(4, fingerprint, name="f"))
    teach()
    assert path.read_bytes() == (tmp_path / "uncut.h5").read_bytes()
    teach()  # finished: the teacher is asked once more
    with pytest.raises(StoreError, match=r"image specification\.\n.*null.*\n.*scaled"):
        teach(decode="exact")


def test_the_way_of_decoding_belongs_to_the_store(teach_once, photographs, images, store, tmp_path):
    assert "decode" not in store.header.images
    assert join(images, store, batch_size=4, decode="exact").options.decode == "exact"
    words = (
        r"decode is '{}', and the teacher saw images made with '{}' \(store .*\)\.\nLeave decode"
    )
    with pytest.raises(OptionError, match=words.format("scaled", "exact")):
        join(images, store, batch_size=4, decode="scaled")
    other = teach_once(photographs, tmp_path / "s.h5", **ASKED, views=Views(0))
    assert join(photographs, other, batch_size=4, decode="scaled").options.decode == "scaled"
    with pytest.raises(OptionError, match=words.format("exact", "scaled")):
        join(photographs, other, batch_size=4, decode="exact")
    with pytest.raises(OptionError, match="decode is 'half'; choose one of exact, scaled"):
        join(photographs, None, image_size=(9, 10), batch_size=4, decode="half")


@pytest.mark.filterwarnings("ignore:The teacher .* is right on")
def test_a_store_of_answers_from_elsewhere_says_how_its_images_are_decoded(images, tmp_path):
    def written(path, **arguments):
        answers = np.zeros((len(images), 3), np.float32)
        store = write_store(
            images,
            path,
            lambda batch: answers[batch.indices],
            teacher="t",
            progress=False,
            **arguments,
        )
        return store.header.images

    assert written(tmp_path / "a.h5", decode="scaled")["decode"] == "scaled"
    assert "decode" not in written(tmp_path / "b.h5", image_size=(8, 8))
    assert written(tmp_path / "a2.h5")["image_size"] is None
    with pytest.raises(OptionError, match="decode is 'half'"):
        written(tmp_path / "c.h5", decode="half")


def test_commands_take_the_flag_and_pass_it_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    helpers.draw_directory(tmp_path / "images", {"ant": 4, "bee": 4, "cat": 4})
    exact_teacher().save(tmp_path / "teacher.keras")
    dense_student().save(tmp_path / "student.keras")
    teach = ("teach", "images", "--teacher", "teacher.keras", "--out", "s.h5")
    assert command(capsys, *teach, "--decode", "scaled")[0] == 0
    assert kd.open_store("s.h5").header.images["decode"] == "scaled"
    train = ("train", "images", "--store", "s.h5", "--student", "student.keras", "--out", "run")
    train += ("--epochs", "1", "--batch-size", "4", "--optimizer", "sgd", "--jit", "off")
    code, answer, _ = command(capsys, *train, "--decode", "exact")
    assert code == 2 and "the teacher saw images made with 'scaled'" in answer["error"]["message"]
    assert command(capsys, *train)[0] == 0
    assert '"decode": "scaled"' in (tmp_path / "run" / "config.json").read_text()
    plan = ("plan", "images", "--teacher", "teacher.keras", "--decode", "scaled")
    for words in (plan, ("evaluate", "run", "images"), ("evaluate", "run", "images", "--decode")):
        assert command(capsys, *words, *(["scaled"] if words[-1] == "--decode" else []))[0] == 0
    code, answer, _ = command(
        capsys, "evaluate", "run", "images", "--store", "s.h5", "--decode", "exact"
    )
    assert code == 2 and "decode is 'exact'" in answer["error"]["message"]
