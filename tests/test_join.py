"""The join: by key and else by content, never by order; what does not fit is refused at once."""

import os
import types
import warnings

import helpers
import numpy as np
import pytest
from PIL import Image
from stream_helpers import assert_paired, joined

import streamkd as kd
from streamkd.errors import (
    ClassNamesError,
    MissingLogitsError,
    OptionError,
    StoreError,
    UnfinishedStoreError,
)
from streamkd.manifest.manifest import scan
from streamkd.store.collection import open_store
from streamkd.store.verify import verify
from streamkd.stream.join_checks import check_accuracy
from streamkd.views.views import Views


@pytest.fixture
def path(tmp_path):
    return tmp_path / "other.h5"


# Images that moved.


def test_renamed_files_keep_their_logits(store, directory):
    for folder in ("ant", "cat"):
        for number, file in enumerate(sorted((directory / folder).iterdir(), reverse=True)):
            file.rename(directory / folder / f"new-{number}.png")
    numbers = assert_paired(joined(scan(directory), store), (0, 15))
    assert sorted(numbers[:30]) == list(range(30))


def test_files_moved_to_another_folder_of_their_class_keep_their_logits(store, directory):
    (directory / "bee" / "deep" / "er").mkdir(parents=True)
    for file in list((directory / "bee").glob("*.png"))[:5]:
        file.rename(directory / "bee" / "deep" / "er" / file.name)
    assert_paired(joined(scan(directory), store), (0, 15))


def test_a_file_moved_to_another_class_keeps_its_logits_and_gets_the_new_label(store, directory):
    (directory / "ant" / "00003.png").rename(directory / "cat" / "00003.png")
    stream = joined(scan(directory), store, batch_size=30)
    pixels, targets, _ = next(iter(stream.batches(0, 1)))
    of_pixels = helpers.pixel_numbers(pixels)
    assert (
        of_pixels[:, 0].tolist()
        == helpers.encoded_numbers(targets["teacher_logits"])[:, 0].tolist()
    )
    moved = of_pixels[:, 0].tolist().index(3)
    labels = targets["labels"][:, 0].numpy()
    assert labels[moved] == 2 and np.sum(labels != of_pixels[:, 1]) == 1


def test_copies_of_one_file_share_its_logits(store, directory):
    (directory / "ant" / "copy.png").write_bytes((directory / "ant" / "00003.png").read_bytes())
    numbers = assert_paired(joined(scan(directory), store, batch_size=31), (0, 1))
    assert numbers.count(3) == 2


def test_the_whole_directory_can_move(store, directory, tmp_path):
    directory.rename(tmp_path / "elsewhere")
    assert_paired(joined(scan(tmp_path / "elsewhere"), store.path), (0, 8))


def test_a_path_is_as_good_as_a_store(images, store):
    for given in (store.path, os.fspath(store.path)):
        assert_paired(joined(images, given), (0, 2))


def test_the_order_of_the_manifest_does_not_matter(images, store):
    shuffled = images.select(np.random.default_rng(0).permutation(30))
    numbers = assert_paired(joined(shuffled, store), (0, 8))
    assert sorted(numbers[:30]) == list(range(30))


# Images that came or went.


def test_added_images_are_refused_by_name_before_the_first_batch(store, directory):
    for number in (100, 101):
        helpers.draw_image(directory / "bee" / f"{number}.png", number, 1)
    images = scan(directory)
    with pytest.raises(MissingLogitsError, match="2 of 32 images have no logits") as refusal:
        joined(images, store)
    text = str(refusal.value)
    assert f"({images.num_images} images, fingerprint {images.fingerprint[:8]})" in text
    assert f"(30 images, fingerprint {store.header.fingerprint[:8]})" in text
    assert "first without logits: 'bee/100.png', image 20" in text
    assert "--missing drop" in text and f"streamkd teach {directory}" in text
    assert refusal.value.key == b"bee/100.png"


def test_added_images_are_left_out_with_a_warning_where_asked(store, directory):
    for number in (100, 101):
        helpers.draw_image(directory / "bee" / f"{number}.png", number, 1)
    with pytest.warns(UserWarning, match=r"2 of 32 images have no logits.*first is 'bee/100\.png'"):
        stream = joined(scan(directory), store, missing="drop")
    assert stream.num_images == 30
    numbers = assert_paired(stream, (0, 15))
    assert sorted(numbers[:30]) == sorted(numbers[30:]) == list(range(30))


def test_an_added_file_that_cannot_be_read_is_refused_by_name(store, directory):
    (directory / "bee" / "x.png").symlink_to("nowhere")
    with pytest.raises(MissingLogitsError, match=r"first without logits: 'bee/x\.png'"):
        joined(scan(directory), store)


@pytest.mark.parametrize("missing", ["raise", "drop", "label"])
def test_a_store_of_none_of_the_images_is_refused(store, tmp_path, missing):
    other = scan(helpers.draw_directory(tmp_path / "other", {"ant": 3, "bee": 2}, first=500))
    with pytest.raises(MissingLogitsError, match="5 of 5 images have no logits"):
        joined(other, store, missing=missing)


def test_removed_images_are_not_missed(store, directory):
    for number in (0, 12, 29):
        next(directory.glob(f"*/{number:05d}.png")).unlink()
    numbers = assert_paired(joined(scan(directory), store), (0, 14))
    assert set(range(30)) - set(numbers) == {0, 12, 29}


def test_a_split_is_joined_with_the_store_of_the_whole(directory, store):
    for subset, count in (("training", 24), ("validation", 6)):
        images = scan(directory, validation_split=0.2, subset=subset, seed=3)
        assert len(set(assert_paired(joined(images, store), (0, 12)))) == count


# Classes.


def test_class_folders_in_another_order_are_mapped(directory, store):
    images = scan(directory, class_names=["cat", "ant", "bee"])
    assert images.labels[0] == 0
    stream = joined(images, store)
    assert_paired(stream, (0, 15))
    assert stream.class_names == ["ant", "bee", "cat"]


def test_a_teacher_with_its_classes_in_another_order_is_mapped(images, path):
    classes = ["cat", "dog", "bee", "ant"]
    numbers = [classes.index(name) for name in images.class_names]

    def answer(pixels):
        of_pixels = helpers.pixel_numbers(pixels)
        return helpers.encoded_logits(of_pixels[:, 0], np.array(numbers)[of_pixels[:, 1]], 4)

    stream = joined(images, helpers.teach_small(images, answer, path, class_names=classes))
    assert_paired(stream, (0, 15), labels=numbers)
    assert (stream.class_names, stream.num_classes) == (classes, 4)


def test_some_of_the_teachers_classes_are_enough(directory, store):
    images = scan(directory, class_names=["cat", "bee"])
    stream = joined(images, store)
    numbers = assert_paired(stream, (0, 10))
    assert stream.num_classes == 3 and min(numbers) == 11


def test_a_class_that_the_teacher_does_not_know_is_refused(directory, store):
    (directory / "bee").rename(directory / "wasp")
    with pytest.raises(ClassNamesError, match="first of 1 unknown to the store: 'wasp'") as refusal:
        joined(scan(directory), store)
    assert "images: 'ant', 'cat', 'wasp'" in str(refusal.value)
    assert "the store: 'ant', 'bee', 'cat'" in str(refusal.value)


def test_labels_of_unlabelled_images_are_minus_one(directory, store):
    stream = joined(scan(directory, labels=None), store)
    for pixels, targets, _ in stream.batches(0, 8):
        assert set(targets["labels"].numpy().ravel()) == {-1}
        of_logits = helpers.encoded_numbers(targets["teacher_logits"])
        np.testing.assert_array_equal(helpers.pixel_numbers(pixels), of_logits)


def test_images_and_store_may_both_be_without_labels(directory, teacher, path):
    images = scan(directory, labels=None)
    stream = joined(images, helpers.teach_small(images, teacher, path))
    assert (stream.class_names, stream.num_classes) == (None, 3)
    pixels, targets, _ = next(iter(stream.batches()))
    of_logits = helpers.encoded_numbers(targets["teacher_logits"])
    np.testing.assert_array_equal(helpers.pixel_numbers(pixels), of_logits)


def test_labels_beside_a_store_without_class_names_are_left_out_with_a_warning(
    images, directory, teacher, path
):
    store = helpers.teach_small(scan(directory, labels=None), teacher, path)
    words = (
        r"other\.h5 was taught without class names, .* labels, which are left out\. Teach a store"
    )
    with pytest.warns(UserWarning, match=words):
        stream = joined(images, store)
    assert stream.class_names is None and set(stream.labels.tolist()) == {-1}


# The teacher's accuracy, then and now.


def test_permuted_labels_are_warned_of(store, directory):
    (directory / "ant").rename(directory / "x")
    (directory / "bee").rename(directory / "ant")
    (directory / "x").rename(directory / "bee")
    with pytest.warns(
        UserWarning, match=r"right on 33\.3% of 30 joined .* it was right on 100\.0%"
    ):
        joined(scan(directory), store)


def test_a_few_corrected_labels_are_not_warned_of(store, directory):
    (directory / "ant" / "00003.png").rename(directory / "cat" / "00003.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        joined(scan(directory), store)


# Options.


@pytest.mark.parametrize(
    ("name", "value", "own"),
    [
        ("interpolation", "nearest", "'bilinear'"),
        ("crop_to_aspect_ratio", True, "False"),
        ("pad_to_aspect_ratio", True, "False"),
    ],
)
def test_images_made_otherwise_than_the_teachers_are_refused(images, store, name, value, own):
    words = rf"{name} is {value!r}, and the teacher saw images made with {own}"
    with pytest.raises(OptionError, match=words) as refusal:
        joined(images, store, **{name: value})
    assert f"Leave {name} out" in str(refusal.value)


def test_the_student_sees_images_made_as_the_teacher_saw_them(images, teacher, path):
    own = {"interpolation": "area", "crop_to_aspect_ratio": True}
    store = helpers.teach_small(images, teacher, path, **own)
    stream = joined(images, store, image_size=(5, 6))
    assert stream.options.to_dict() == {**store.header.images, "image_size": [5, 6]}
    assert joined(images, store).options.to_dict() == store.header.images
    assert joined(images, store, **own).options == joined(images, store).options
    assert joined(images, store, color_mode="grayscale").options.shape == (8, 8, 1)


def test_a_grey_student_of_a_teacher_that_saw_colours_sees_the_same_images_in_grey(images, store):
    stream = joined(images, store, color_mode="grayscale")
    for step, (pixels, targets, _) in enumerate(stream.batches(0, 8)):
        indices = stream.indices(step)
        numbers = helpers.encoded_numbers(targets["teacher_logits"])[:, 0]
        assert numbers.tolist() == [int(images.keys[index][4:9]) for index in indices]
        for image, path in zip(pixels.numpy(), images.paths(indices), strict=True):
            with Image.open(os.fsdecode(path)) as file:
                np.testing.assert_allclose(image[:, :, 0], np.asarray(file.convert("L")), atol=1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 31}, r"batch_size is 31, and there are 30 images\.\n.*`--batch-size 30`"),
        ({"batch_size": 0}, "batch_size is 0; it must be a positive"),
        ({"seed": -1}, "seed is -1; it must lie between 0 and 4294967295"),
        ({"seed": 2**32}, "seed is 4294967296; it must lie"),
        ({"missing": "skip"}, "missing is 'skip'; choose one of raise, drop, label"),
        ({"image_size": (0, 8)}, r"image_size is \(0, 8\)"),
        ({"color_mode": "bgr"}, "color_mode is 'bgr'"),
    ],
    ids=["batch", "no batch", "seed", "large seed", "missing", "size", "colour"],
)
def test_options_that_do_not_fit_are_refused(images, store, arguments, words):
    with pytest.raises(OptionError, match=words):
        joined(images, store, **arguments)


def test_without_a_store_size_and_labels_are_needed(images, directory):
    with pytest.raises(OptionError, match="--image-size HEIGHTxWIDTH"):
        joined(images, None)
    with pytest.raises(OptionError, match="neither labels nor logits: there is nothing to learn"):
        joined(scan(directory, labels=None), None, image_size=(8, 8))


def test_an_unfinished_store_is_refused(images, path):
    with pytest.raises(helpers.TeacherFailedError):
        helpers.teach_small(images, helpers.EncodingTeacher(fail_at=3), path)
    with pytest.raises(UnfinishedStoreError, match=r"is unfinished: 14 of 30 rows are done"):
        joined(images, path)


def test_a_store_that_is_not_there_is_refused(images, path):
    with pytest.raises(StoreError, match="There is no logit store"):
        joined(images, path)


# Verification with the images.


def test_a_store_and_its_images_are_verified(images, store):
    assert verify(store.path, images=images, progress=False).sound
    assert verify(store.path, progress=False, sample=5).sound


@pytest.mark.parametrize("kind", ["changed", "gone"])
def test_verification_names_a_changed_or_missing_image(images, store, directory, kind):
    path = directory / "bee" / "00015.png"
    helpers.draw_image(path, 500) if kind == "changed" else path.unlink()
    assert verify(store.path, progress=False).sound
    report = verify(store.path, images=images, progress=False)
    assert not report.sound and report.num_problems == 1
    assert report.problems[0]["key"] == b"bee/00015.png"
    assert open_store(store.path).finished


def test_images_without_logits_learn_from_their_labels_alone(store, directory):
    helpers.draw_image(directory / "bee" / "new.png", 600, 1)
    with pytest.warns(UserWarning, match=r"1 of 31 images have no logits and learn from their lab"):
        stream = joined(scan(directory), store, missing="label", batch_size=10)
    new = 0
    for pixels, targets, weights in stream.batches(0, 7):
        numbers, rows = helpers.pixel_numbers(pixels), targets["rows"].numpy()
        logits = targets["teacher_logits"].numpy()
        assert np.array_equal(rows < 0, numbers[:, 0] == 600)
        assert np.array_equal(helpers.encoded_numbers(logits[rows >= 0]), numbers[rows >= 0])
        assert not logits[rows < 0].any() and np.all(weights.numpy() == 1)
        assert np.array_equal(targets["labels"][:, 0], numbers[:, 1])
        new += int(np.sum(rows < 0))
    assert new == 2  # 70 of 31 images: each twice, and eight a third time
    student = helpers.small_model("tf_keras", activation=None)
    history = kd.Distiller(student, optimizer="sgd").fit(stream, epochs=1, progress=False)
    assert np.isfinite(history.last["loss"])


def test_an_image_without_logits_is_refused_where_views_are_mixed(directory, teacher, path):
    store = helpers.teach_small(scan(directory), teacher, path, views=Views(1, mixup=1.0))
    helpers.draw_image(directory / "bee" / "new.png", 600, 1)
    words = (
        r"The views of .*other\.h5 are mixed, and an image without logits has no partner\.\n.*drop"
    )
    with (
        pytest.warns(UserWarning, match="1 of 31 images"),
        pytest.raises(OptionError, match=words),
    ):
        joined(scan(directory), store, missing="label")


def test_an_image_with_neither_label_nor_logits_is_refused(store, directory):
    helpers.draw_image(directory / "bee" / "new.png", 600, 1)
    images = scan(directory, labels=None)
    with (
        pytest.warns(UserWarning, match="1 of 31 images"),
        pytest.raises(MissingLogitsError, match=r"'bee/new\.png'.*\n.*--missing drop"),
    ):
        joined(images, store, missing="label")


def test_the_accuracy_of_joined_rows_is_that_of_images_from_the_whole_manifest():
    # In the order of the classes, as a manifest has them; the teacher knows only the last class.
    labels = np.repeat([0, 1], [4096, 4095]).astype(np.int32)
    store = types.SimpleNamespace(
        summary={"teacher_accuracy": 4095 / 8191},
        gather=lambda rows: np.tile([0.0, 1.0], (len(rows), 1)),
        path="s.h5",
        class_names=["ant", "bee"],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_accuracy(labels, np.arange(8191), store)
    store.summary["teacher_accuracy"] = 0.9
    with pytest.warns(UserWarning, match=r"right on 50\.0% of 4,096 joined images.*--images …"):
        check_accuracy(labels, np.arange(8191), store)
