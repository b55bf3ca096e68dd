"""Answers of a teacher that are no row of classes, or not in the order of the classes."""

import helpers
import numpy as np
import pytest
import tensorflow as tf

import streamkd as kd
from streamkd.errors import TeacherError
from streamkd.models.odd_answers import check_rows, judged_kind
from streamkd.models.output_kind import output_kind
from streamkd.teachers.dropped_outputs import classes_to_give
from streamkd.teachers.import_logits import import_logits
from streamkd.teachers.load_teacher import load_teacher

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3)).astype(np.float32)


def probabilities(num_classes, num_rows=9, seed=1):
    rows = np.exp(np.random.default_rng(seed).normal(size=(num_rows, num_classes)))
    return (rows / rows.sum(axis=1, keepdims=True)).astype(np.float32)


def descending(rows):
    return -np.sort(-rows, axis=1)


class TestKinds:
    def test_probabilities_times_a_number_are_asked_about_whoever_answers(self):
        teacher = load_teacher(lambda images: 100 * probabilities(3), name="mystery")
        words = "those to every image sum to 100: .*\n.*`--teacher-output probabilities`"
        with pytest.raises(TeacherError, match=words):
            teacher(PIXELS)

    @pytest.mark.parametrize(
        "logits",
        [9 * np.eye(3)[[0, 1, 2]], 100 * np.eye(3)[[0, 1, 2]], 1 + 4 * np.eye(3)[[0, 1, 2]]],
        ids=["labels times 9", "labels times 100", "a sum of 7"],
    )
    def test_labels_times_a_number_are_logits_of_a_function(self, logits):
        assert judged_kind(logits, "mystery") == "logits"

    def test_they_are_taken_as_what_the_user_says(self):
        answers = probabilities(3)
        teacher = load_teacher(lambda images: 100 * answers, name="m", output="probabilities")
        shifted = teacher(PIXELS) - np.log(answers)
        np.testing.assert_allclose(shifted - shifted[:, :1], 0, atol=1e-5)

    def test_imported_ones_are_asked_about_too(self, directory, tmp_path):
        images = kd.scan(directory)
        per_cent = 100 * probabilities(3, len(images))
        with pytest.raises(TeacherError, match="sum to 100: probabilities times a number"):
            import_logits(per_cent, list(images.keys), images, tmp_path / "t.h5")

    @pytest.mark.parametrize("scale", [1, 30], ids=["probabilities", "logits"])
    def test_sorted_answers_are_refused(self, scale):
        rows = probabilities(6) if scale == 1 else scale * np.log(probabilities(6))
        assert judged_kind(rows, "mystery") == output_kind(rows)
        with pytest.raises(TeacherError, match=r"'mystery' are sorted: .* are no classes"):
            judged_kind(descending(rows), "mystery")

    @pytest.mark.parametrize(
        "rows",
        [
            descending(probabilities(6, num_rows=7)),
            descending(probabilities(4)),
            np.tile(descending(probabilities(6))[:1], (9, 1)),
        ],
        ids=["few rows", "few classes", "one answer to all"],
    )
    def test_chance_is_not_taken_for_sorting(self, rows):
        assert judged_kind(rows, "mystery") == "probabilities"

    def test_a_single_number_between_0_and_1_is_asked_about(self):
        words = "one number between 0 and 1: .*\n.*`--teacher-output sigmoid` .*`--teacher-output s"
        with pytest.raises(TeacherError, match=words):
            output_kind(np.float32([[0.25], [0.5]]))


class TestShapes:
    @pytest.mark.parametrize(
        ("shape", "words"),
        [
            ((9,), "number is that of a class, add `--teacher-output class`; .* sigmoid`"),
            ((9, 1, 1, 5), r"Flatten it: end the model with `keras.layers.Flatten\(\)`"),
            ((9, 5, 1, 1), r"return `answers.reshape\(len\(answers\), -1\)`"),
            ((1, 45), "only one image at a time, add `--batch-size 1`"),
            ((9, 8, 8, 5), r"of one number for two classes\.$"),
        ],
    )
    def test_the_refusal_says_how_to_get_there(self, shape, words):
        with pytest.raises(TeacherError, match=words):
            check_rows(np.zeros(shape, np.float32), 9, "mystery")

    def test_a_row_without_its_axis_is_one_unit_where_the_user_says_so(self):
        numbers = np.linspace(0.1, 0.9, 9).astype(np.float32)
        teacher = load_teacher(lambda images: numbers, name="mystery", output="sigmoid")
        expected = np.log(numbers / (1 - numbers))[:, None]
        np.testing.assert_allclose(teacher(PIXELS), expected, rtol=1e-5)


def test_a_function_may_preprocess_in_place():
    def answer(pixels):
        pixels /= 32
        return pixels[:, 0, 0]

    pixels = tf.constant(PIXELS)
    np.testing.assert_array_equal(load_teacher(answer)(pixels), PIXELS[:, 0, 0] / 32)
    np.testing.assert_array_equal(pixels, PIXELS)


def number_of_the_class(pixels):
    return pixels[:, 0, 0, 2]  # as `helpers.draw_image` writes it


def test_numbers_of_classes_are_taken_with_the_flag_that_the_refusal_names(directory, tmp_path):
    images, path = kd.scan(directory), tmp_path / "t.h5"
    with pytest.raises(TeacherError, match="`--teacher-output class`"):
        helpers.teach_small(images, number_of_the_class, path)
    teacher = kd.load_teacher(number_of_the_class, output="class")
    with pytest.warns(kd.StreamkdWarning, match="gives the class alone"):
        store = helpers.teach_small(images, teacher, path)
    logits = store.gather(np.arange(len(images)))
    np.testing.assert_array_equal(logits.argmax(axis=1), images.labels)


@pytest.mark.parametrize(
    ("classes", "num_outputs", "dropped", "words"),
    [
        (["background", "ant", "bee"], 2, 0, "--drop-output leaves out 'background', so leave the"),
        (["ant", "bee", "x", "y"], 2, [2, 3], "--drop-output leaves out 'x', 'y', so leave the"),
        (
            ["ant", "bee"],
            3,
            0,
            "Give the teacher's classes in the order of its outputs, one a line",
        ),
        (["ant", "bee", "cat"], 1, None, "One output answers for two classes. Give the two: `--cl"),
    ],
)
def test_a_number_of_classes_that_differs_says_what_to_type(classes, num_outputs, dropped, words):
    assert classes_to_give(classes, num_outputs, dropped).startswith(words)


@pytest.mark.parametrize("kind", [tuple, list])
def test_class_names_in_any_sequence_are_one_list(directory, tmp_path, kind):
    images, path = kd.scan(directory), tmp_path / "t.h5"
    names = kind(["ant", "bee", "cat"])
    for _ in range(2):
        store = helpers.teach_small(images, helpers.EncodingTeacher(), path, class_names=names)
    assert store.class_names == ["ant", "bee", "cat"]
