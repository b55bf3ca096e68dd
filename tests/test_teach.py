"""The teacher pass: the rows of its store, refusals, and resuming after a stop."""

import os
from unittest import mock

import helpers
import numpy as np
import PIL.Image
import pytest
from helpers import teach_small

from streamkd.errors import (
    BadImageError,
    ClassNamesError,
    NonFiniteError,
    OptionError,
    OtherImagesError,
    StoreError,
    TeacherError,
)
from streamkd.manifest.manifest import Manifest, scan
from streamkd.pixels.content_digest import digest_files
from streamkd.store.collection import open_store
from streamkd.stream.join import join
from streamkd.teachers.load_teacher import load_teacher
from streamkd.teachers.teach import teacher_setup
from streamkd.teachers.teacher_pass import TeacherPass
from streamkd.views.operation import ViewOperation
from streamkd.views.views import Views

# 30 images of `directory` in blocks of 7.
NUM_BLOCKS = 5
# A small model with random weights is no better than chance, which the pass says.
AT_CHANCE = pytest.mark.filterwarnings("ignore:The teacher 'small' is right on")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "teacher.h5"


def all_rows(store):
    return store.gather(np.arange(store.rows_total))


class NoisyTeacher(helpers.EncodingTeacher):
    """Adds numbers that float16 cannot hold exactly, different for each image."""

    def __call__(self, images):
        numbers = helpers.pixel_numbers(images)[:, :1]
        noise = np.float32(np.pi) * (1 + numbers / 1000)
        return (super().__call__(images) + noise).astype(np.float32)


def test_every_row_is_the_teachers_answer_for_its_own_image(images, teacher, path):
    store = teach_small(images, teacher, path)
    numbers = helpers.encoded_numbers(all_rows(store))
    names = [int(key.rpartition(b"/")[2].partition(b".")[0]) for key in store.keys]
    assert numbers[:, 0].tolist() == names
    assert numbers[:, 1].tolist() == store.labels.tolist() == images.labels.tolist()
    assert store.finished and teacher.num_calls == NUM_BLOCKS


@pytest.mark.parametrize("codec", ["float16", "float32"])
def test_rows_are_exact_to_the_codec(images, path, codec):
    store = teach_small(images, NoisyTeacher(), path, codec=codec)
    numbers = np.arange(len(images))
    classes = images.labels
    expected = helpers.encoded_logits(numbers, classes, 3) + np.float32(np.pi) * (
        1 + numbers[:, None] / 1000
    ).astype(np.float32)
    if codec == "float32":
        np.testing.assert_allclose(all_rows(store), expected, rtol=1e-6)
    else:
        np.testing.assert_array_equal(all_rows(store), all_rows(store).astype(np.float16))
        np.testing.assert_allclose(all_rows(store), expected, rtol=2**-11)


def test_float32_rows_are_the_answers_to_the_bit(images, path):
    answers = []

    def remember(pixels):
        answers.append(NoisyTeacher()(pixels))
        return answers[-1]

    store = teach_small(images, remember, path, codec="float32")
    del answers[1]  # the first images are asked about twice
    np.testing.assert_array_equal(all_rows(store), np.concatenate(answers))


def test_the_store_says_what_it_was_made_of(images, teacher, path):
    header = teach_small(images, teacher, path, interpolation="nearest").header
    assert header.fingerprint == images.fingerprint
    assert (header.num_images, header.num_views, header.num_classes) == (30, 1, 3)
    assert (header.block_rows, header.codec) == (7, "float16")
    assert header.images["image_size"] == [8, 8] and header.images["interpolation"] == "nearest"
    assert header.decoder == "tf.io.decode_image"
    assert header.teacher["name"] == "EncodingTeacher" and header.teacher["output"] == "logits"
    assert {"streamkd", "tensorflow", "numpy", "h5py"} == set(header.versions)
    assert open_store(path).class_names == ["ant", "bee", "cat"]


@pytest.mark.parametrize(
    ("color_mode", "ending"), [("rgb", "bmp"), ("rgba", "png"), ("grayscale", "png")]
)
def test_the_store_says_which_pillow_may_have_decoded_images(tmp_path, path, color_mode, ending):
    for number, name in enumerate(("cat/1.png", f"dog/2.{ending}")):
        (tmp_path / "d" / name).parent.mkdir(parents=True)
        PIL.Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "d" / name)
    teach_small(
        scan(tmp_path / "d"),
        lambda x: np.eye(2)[: len(x)],
        path,
        color_mode=color_mode,
        progress=False,
    )
    assert open_store(path).header.versions["pillow"] == PIL.__version__


def test_the_store_keeps_the_digest_of_every_file(images, store):
    digests, _ = digest_files([os.path.join(images.root, key) for key in store.keys])
    np.testing.assert_array_equal(store.content_of(np.arange(30)), digests)


def test_images_in_any_order_make_the_same_store(images, teacher, path, tmp_path):
    teach_small(images, teacher, path)
    shuffled = images.select(np.random.default_rng(0).permutation(len(images)))
    teach_small(shuffled, teacher, tmp_path / "other.h5")
    assert path.read_bytes() == (tmp_path / "other.h5").read_bytes()


class Projection:
    """A teacher whose three logits depend on every pixel, whatever the number of channels."""

    def __call__(self, pixels):
        flat = np.reshape(pixels, (len(pixels), -1))
        weights = np.random.default_rng(0).normal(size=(flat.shape[1], 3))
        return (flat @ weights / 2000).astype(np.float32)


VIEWS = {"crop": (0.35, 1.0), "flip": True, "color": 0.5, "erase": 0.4, "mixup": 0.8}


@pytest.mark.filterwarnings("ignore:The teacher 'Projection' is right on")
def test_transparent_views_are_answered_and_replayed(tmp_path):
    """Grey ones, through the pixel cache: `test_images_with_one_or_four_channels_are_replayed`."""
    for number in range(9):
        (tmp_path / "i" / "abc"[number % 3]).mkdir(parents=True, exist_ok=True)
        file = tmp_path / "i" / "abc"[number % 3] / f"{number}.png"
        helpers.draw_noise(file, (12 + number, 15), number, "RGBA")
    operation = ViewOperation("fade", 1, helpers.fade_to_noise)
    views = Views(2, **VIEWS, operation=operation)
    images = scan(tmp_path / "i")
    options = {"color_mode": "rgba", "codec": "float32", "views": views}
    store = teach_small(images, Projection(), tmp_path / "s.h5", **options)
    stream = join(images, store, batch_size=4, operation=operation)
    for pixels, targets, _ in stream.batches(0, stream.end_of_epoch(2)):
        assert pixels.shape[1:] == (8, 8, 4)
        answers = Projection()(pixels.numpy())
        np.testing.assert_allclose(answers, targets["teacher_logits"], rtol=0, atol=2e-5)
    plain, drawn = (store.gather(3 * np.arange(9) + view) for view in (0, 1))
    assert np.abs(plain - drawn).max() > 0.01


# Classes and labels.


def test_the_teachers_accuracy_is_that_on_the_labelled_images(images, path):
    def half_wrong(pixels):
        numbers, classes = helpers.pixel_numbers(pixels).T
        answers = np.where(numbers < 12, (classes + 1) % 3, classes)
        return helpers.encoded_logits(numbers, answers, 3)

    store = teach_small(images, half_wrong, path)
    assert store.summary["teacher_accuracy"] == 18 / 30
    assert store.summary["num_labelled"] == 30


@pytest.mark.parametrize(("num_wrong", "warns"), [(20, True), (17, False)])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_teacher_at_chance_is_warned_of(tmp_path, path, num_wrong, warns, num_classes, recwarn):
    counts = {"a": 20, "b": 20} if num_classes == 2 else {"a": 10, "b": 10, "c": 10}

    def answer(pixels):
        numbers, classes = helpers.pixel_numbers(pixels).T
        answers = np.where(numbers < num_wrong, (classes + 1) % num_classes, classes)
        return helpers.encoded_logits(numbers, answers, num_classes)

    teach_small(scan(helpers.draw_directory(tmp_path / "images", counts)), answer, path)
    messages = [str(warning.message) for warning in recwarn]
    assert any("and chance is" in message for message in messages) == warns


def test_the_accuracy_over_images_without_labels_is_unknown(directory, teacher, path):
    store = teach_small(scan(directory, labels=None), teacher, path)
    assert store.summary["teacher_accuracy"] is None
    assert store.class_names == [] and set(store.labels) == {-1}


@pytest.mark.parametrize(
    "classes",
    [["cat", "ant", "bee"], ["dog", "cat", "emu", "bee", "ant"]],
    ids=["permuted", "more"],
)
def test_class_names_say_in_which_order_the_teacher_answers(images, path, classes):
    def answer(pixels):
        numbers, labels = helpers.pixel_numbers(pixels).T
        outputs = np.array([classes.index(name) for name in images.class_names])
        return helpers.encoded_logits(numbers, outputs[labels], len(classes))

    store = teach_small(images, answer, path, class_names=classes)
    assert store.class_names == classes
    assert [classes[label] for label in store.labels] == [
        images.class_names[label] for label in images.labels
    ]
    assert store.summary["teacher_accuracy"] == 1.0


def test_a_class_that_the_teacher_does_not_know_is_refused(images, teacher, path):
    with pytest.raises(ClassNamesError, match="first of 1 unknown to the teacher: 'bee'"):
        teach_small(images, teacher, path, class_names=["ant", "cat", "dog"])
    assert teacher.num_calls == 0 and not path.exists()


def test_another_number_of_outputs_is_refused_and_leaves_nothing(images, path, tmp_path):
    with pytest.raises(TeacherError, match="has 4 outputs, and there are 3 classes") as refusal:
        teach_small(images, helpers.EncodingTeacher(num_classes=4), path)
    assert "--drop-output" in str(refusal.value) and "'ant', 'bee', 'cat'" in str(refusal.value)
    assert os.listdir(tmp_path) == ["images"]


def test_an_output_that_is_no_class_is_dropped_from_the_store(images, path):
    def with_background(pixels):
        answers = helpers.EncodingTeacher()(pixels)
        return np.concatenate([np.full((len(answers), 1), 99, np.float32), answers], axis=1)

    store = teach_small(images, load_teacher(with_background, drop_output=0), path)
    assert helpers.encoded_numbers(all_rows(store))[:, 0].tolist() == list(range(30))


def test_probabilities_are_kept_as_their_logarithms(images, path):
    def softmax(pixels):
        logits = np.exp(helpers.EncodingTeacher()(pixels) / 4)
        return logits / logits.sum(axis=1, keepdims=True)

    store = teach_small(images, softmax, path, codec="float32")
    probabilities = np.exp(all_rows(store))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert store.header.teacher["output"] == "probabilities"
    assert probabilities.argmax(axis=1).tolist() == images.labels.tolist()


# Arguments.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"image_size": None}, r"takes images of any size\.\nGive the size .*--image-size"),
        ({"batch_size": 0}, "--batch-size is 0; it must be a positive whole number"),
        ({"codec": "float8"}, "codec '?float8"),
        ({"color_mode": "cmyk"}, "color_mode is 'cmyk'"),
    ],
    ids=["size", "batch", "codec", "colour"],
)
def test_arguments_that_do_not_fit_are_refused(images, teacher, path, arguments, words):
    with pytest.raises(OptionError, match=words):
        teach_small(images, teacher, path, **arguments)
    assert teacher.num_calls == 0 and not path.exists()


@AT_CHANCE
def test_a_model_is_shown_the_size_it_needs(images, path):
    model = helpers.small_model("tf_keras", image_size=(8, 8))
    store = teach_small(images, model, path, image_size=None)
    assert store.header.images["image_size"] == [8, 8]
    with pytest.raises(OptionError, match="is 9x8, and the teacher 'small' takes 8x8 only"):
        teach_small(images, model, path, image_size=(9, 8))
    with pytest.raises(OptionError, match=r"of 3 channel.*--color-mode grayscale gives 1"):
        teach_small(images, model, path, image_size=None, color_mode="grayscale")


# Resuming.


@pytest.mark.parametrize("num_done", [0, 1, NUM_BLOCKS - 1])
def test_a_pass_that_was_cut_resumes_to_the_same_bytes(images, path, tmp_path, num_done):
    teach_small(images, helpers.EncodingTeacher(), tmp_path / "uncut.h5")
    if num_done:
        with pytest.raises(helpers.TeacherFailedError):
            teach_small(images, helpers.EncodingTeacher(fail_at=num_done + 1), path)
    else:
        with helpers.stopped_once_created():
            teach_small(images, helpers.EncodingTeacher(), path)
    store = open_store(path)
    assert not store.finished and store.rows_done == min(7 * num_done, 30)
    teacher = helpers.EncodingTeacher()
    assert teach_small(images, teacher, path).finished
    # One block that is done is asked for again, to see that the teacher is the same.
    assert teacher.num_calls == NUM_BLOCKS - num_done + (num_done > 0)
    assert path.read_bytes() == (tmp_path / "uncut.h5").read_bytes()


def test_a_block_that_another_process_has_written_is_not_asked_for(images, path):
    answered = []

    def of_the_second_block(_, answers, **__):
        answered.extend(answers([np.arange(7, 14)]))

    with mock.patch("streamkd.teachers.teacher_pass.fill_store", side_effect=of_the_second_block):
        TeacherPass(
            teacher_setup(
                images, helpers.EncodingTeacher(), image_size=(8, 8), batch_size=7, codec="float32"
            ),
            images,
            path,
        ).run(progress=False)
    numbers = helpers.encoded_numbers(answered[0].logits)[:, 0]
    assert len(answered) == 1 and numbers.tolist() == list(range(7, 14))


def test_a_teacher_that_fails_at_once_leaves_nothing(images, path, tmp_path):
    with pytest.raises(helpers.TeacherFailedError):
        teach_small(images, helpers.EncodingTeacher(fail_at=1), path)
    assert os.listdir(tmp_path) == ["images"]


def test_a_finished_store_is_returned_after_one_block_and_without_writing(images, store, path):
    before = path.read_bytes(), path.stat().st_mtime_ns
    again = teach_small(images, helpers.EncodingTeacher(fail_at=2), path)
    assert again.finished and again.path == store.path
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


@pytest.mark.parametrize("finished", [True, False])
def test_a_teacher_of_the_same_name_with_other_answers_is_refused(images, path, finished):
    def answer(pixels):
        return helpers.EncodingTeacher()(pixels)

    if finished:
        teach_small(images, answer, path)
    else:
        failing = helpers.EncodingTeacher(fail_at=3)
        teacher = load_teacher(failing, name=answer.__qualname__)
        with pytest.raises(helpers.TeacherFailedError):
            teach_small(images, teacher, path)
    before = path.read_bytes()
    other = load_teacher(lambda pixels: 2 * answer(pixels), name=answer.__qualname__)
    with pytest.raises(StoreError, match=r"answers differ from .*\n.*'ant/00000\.png'\n  now: "):
        teach_small(images, other, path)
    assert path.read_bytes() == before


def test_an_image_that_changed_since_is_left_to_the_join(directory, images, store, path):
    helpers.draw_image(directory / "ant" / "00000.png", 12345, 0)
    assert teach_small(images, helpers.EncodingTeacher(), path).finished


OTHER = {
    "teacher": ({"teacher": "other"}, r'another teacher\.\n  now:   {"name": "other"}\n  st'),
    "output": ({"output": "log-probabilities"}, 'another teacher.*"output": "log-probabilities"'),
    "preprocess": ({"preprocess": "scale"}, 'another teacher.*{"preprocess": "scale"}'),
    "batch size": ({"batch_size": 8}, r"another --batch-size\.\n  now:   8\n  store: 7"),
    "codec": ({"codec": "float32"}, r'another --codec\.\n  now:   "float32"\n  store: "float16"'),
    "image size": ({"image_size": (9, 8)}, r'another image spec.*{"image_size": \[9, 8\]}\n'),
    "interpolation": ({"interpolation": "area"}, 'another image spec.*{"interpolation": "area"}'),
    "class order": (
        {"class_names": ["cat", "bee", "ant"]},
        r'other --class-names\.\n  now:   \["cat", "bee", "ant"\]\n  store: \["ant", "bee", "c',
    ),
}


@pytest.mark.parametrize("setting", list(OTHER))
def test_a_store_begun_with_another_setting_is_refused(images, store, path, setting):
    changes, words = OTHER[setting]
    changes = dict(changes)
    before = path.read_bytes()
    options = {
        "name": changes.pop("teacher", "EncodingTeacher"),
        "output": changes.pop("output", "auto"),
        "preprocess": changes.pop("preprocess", "none"),
    }
    teacher = load_teacher(helpers.EncodingTeacher(fail_at=1), **options)
    with pytest.raises(StoreError, match=rf"(?s)was begun with {words}") as refusal:
        teach_small(images, teacher, path, **changes)
    assert "another path with `--out`" in str(refusal.value)
    assert path.read_bytes() == before
    assert teacher.output_kind == options["output"], "a refusal changes no teacher"


def test_an_unfinished_store_of_another_teacher_is_refused(images, path):
    with pytest.raises(helpers.TeacherFailedError):
        teach_small(images, helpers.EncodingTeacher(fail_at=2), path)
    with pytest.raises(StoreError, match=r'begun with another teacher\.\n  now:   {"name": "oth'):
        teach_small(images, load_teacher(helpers.EncodingTeacher(fail_at=1), name="other"), path)
    assert open_store(path).rows_done == 7


@AT_CHANCE
def test_a_model_with_other_weights_is_another_teacher(images, path):
    teach_small(images, helpers.small_model("tf_keras"), path)
    with pytest.raises(StoreError, match=r'begun with another teacher\.\n  now:   {"weights": "'):
        teach_small(images, helpers.small_model("tf_keras", seed=1), path)


@pytest.mark.parametrize("kind", ["added", "removed", "renamed"])
def test_an_unfinished_store_of_other_images_is_refused_with_both_sides(
    images, directory, path, kind
):
    words = {
        "added": "first of 1 images without logits: 'ant/x.png'",
        "removed": "1 images of the store are gone",
        "renamed": "first of 1 images without logits: 'ant/x.png'",
    }
    with pytest.raises(helpers.TeacherFailedError):
        teach_small(images, helpers.EncodingTeacher(fail_at=3), path)
    if kind == "added":
        helpers.draw_image(directory / "ant" / "x.png", 99)
    elif kind == "removed":
        (directory / "ant" / "00000.png").unlink()
    elif kind == "renamed":
        (directory / "ant" / "00000.png").rename(directory / "ant" / "x.png")
    changed = scan(directory)
    with pytest.raises(OtherImagesError, match="was written for other images") as refusal:
        teach_small(changed, helpers.EncodingTeacher(fail_at=1), path)
    text = str(refusal.value)
    assert words[kind] in text
    assert f"({len(changed)} images, fingerprint {changed.fingerprint[:8]})" in text
    assert f"(30 images, fingerprint {images.fingerprint[:8]})" in text


def test_an_unfinished_store_of_the_same_images_with_other_labels_is_refused(
    images, directory, path
):
    with pytest.raises(helpers.TeacherFailedError):
        teach_small(images, helpers.EncodingTeacher(fail_at=3), path)
    relabelled = Manifest(images.root, images.keys, images.labels[::-1], images.class_names)
    with pytest.raises(OtherImagesError, match="the same keys with other labels or class names"):
        teach_small(relabelled, helpers.EncodingTeacher(), path)


def test_a_file_that_is_no_store_is_left_as_it_is(images, teacher, path):
    path.write_text("my notes")
    with pytest.raises(StoreError, match="not a logit store"):
        teach_small(images, teacher, path)
    assert path.read_text() == "my notes"


# Bad images and bad answers.


def test_a_bad_image_in_the_first_block_is_named_and_nothing_is_written(
    images, teacher, directory, path, tmp_path
):
    helpers.truncate(directory / "ant" / "00003.png")
    with pytest.raises(BadImageError, match=r"'ant/00003\.png' cannot be decoded") as refusal:
        teach_small(images, teacher, path)
    assert refusal.value.key == b"ant/00003.png"
    assert teacher.num_calls == 0 and os.listdir(tmp_path) == ["images"]


@pytest.mark.parametrize(
    ("kind", "words"), [("empty", "the file is empty"), ("gone", "is not there")]
)
def test_a_bad_image_in_a_later_block_is_named_and_earlier_blocks_are_kept(
    images, teacher, directory, path, kind, words
):
    bad = directory / "cat" / "00022.png"
    good = bad.read_bytes()
    bad.write_bytes(b"")
    if kind == "gone":
        bad.unlink()
    with pytest.raises(BadImageError, match=rf"'cat/00022\.png' .*{words}"):
        teach_small(images, teacher, path)
    assert open_store(path).rows_done == 21
    bad.write_bytes(good)
    assert teach_small(images, teacher, path).finished


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e5], ids=["nan", "infinite", "too large"])
@pytest.mark.parametrize("number", [2, 25], ids=["first block", "later block"])
def test_logits_that_cannot_be_kept_are_refused_naming_the_image(images, path, value, number):
    def answer(pixels):
        answers = helpers.EncodingTeacher()(pixels)
        answers[helpers.pixel_numbers(pixels)[:, 0] == number, 1] = value
        return answers

    name = "ant/00002.png" if number == 2 else "cat/00025.png"
    with pytest.raises(NonFiniteError, match=rf"logits of '{name}', view 0, hold") as refusal:
        teach_small(images, answer, path)
    assert refusal.value.key == name.encode()
    if number == 2:
        assert not path.exists()
    else:
        assert open_store(path).rows_done == 21
    assert ("--codec float32" in str(refusal.value)) == (value == 1e5)


def test_a_teacher_that_changes_its_mind_about_classes_is_refused(images, path):
    teacher = helpers.EncodingTeacher()

    def answer(pixels):
        teacher.num_classes = 3 if teacher.num_calls < 3 else 4
        return teacher(pixels)

    with pytest.raises((OptionError, TeacherError), match="logits"):
        teach_small(images, answer, path)


def test_names_that_are_no_utf8_are_taught(directory, teacher, path):
    for number, name in enumerate([b"\xff.png", "\U0001f600.png".encode()]):
        helpers.draw_image(os.path.join(os.fsencode(directory / "bee"), name), 100 + number, 1)
    store = teach_small(scan(directory), teacher, path)
    rows = store.images_of_keys(scan(directory).keys)
    numbers = helpers.encoded_numbers(store.gather(rows))[:, 0].tolist()
    assert sorted(numbers) == [*range(30), 100, 101]
    assert numbers[list(scan(directory).keys).index(b"bee/\xff.png")] == 100


def test_a_batch_larger_than_the_images_is_one_block(images, teacher, path):
    store = teach_small(images, teacher, path, batch_size=1000)
    assert helpers.encoded_numbers(all_rows(store))[:, 0].tolist() == list(range(30))


@AT_CHANCE
def test_keras_models_answer_in_the_pass_as_on_their_own(images, path, family):
    model = helpers.small_model(family)
    store = teach_small(images, model, path, codec="float32")
    pixels = np.zeros((30, 8, 8, 3), np.float32)
    pixels[..., 0], pixels[..., 2] = np.arange(30)[:, None, None], images.labels[:, None, None]
    logits = all_rows(store)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, np.asarray(model(pixels)), atol=1e-5)
