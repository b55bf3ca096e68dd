"""Five situations that make a distillation fail are told in a sentence, and nothing else is."""

from __future__ import annotations

import types
import warnings

import numpy as np
import pytest
from helpers import EncodingTeacher, pixel_numbers, teach_small
from run_helpers import command, dense_student, fit

import streamkd as kd
from streamkd.training import diagnosis
from streamkd.training.diagnosis import Diagnosis, Plan, is_too_small
from streamkd.training.history import History
from streamkd.training.recipe import Recipe
from streamkd.training.teacher_strength import TeacherStrength


def codes_of(caught):
    return [w.message.code for w in caught if isinstance(w.message, kd.StreamkdWarning)]


def plan(**changed):
    """Returns the plan of a run of eight views that is long enough."""
    usual = {"num_images": 2062, "num_views": 8, "views_per_epoch": 1, "epochs": 120}
    usual |= {"num_steps": 65 * changed.get("epochs", 120)}
    return Plan(**{**usual, **changed})


# Too few steps for the views.


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"epochs": 60},
        {"num_views": 0, "epochs": 1, "num_steps": 3},  # no views
        {"num_images": 30, "epochs": 1, "num_steps": 4},  # a trial
        {"num_images": 50_000, "epochs": 8, "num_steps": 6_256},  # each view once, and many steps
        {"num_images": 400, "epochs": 180, "num_steps": 2_340},  # few images
        {"views_per_epoch": 4, "epochs": 30, "num_steps": 7_800},
    ],
    ids=str,
)
def test_a_run_that_is_long_enough_is_passed_over(changed):
    assert plan(**changed).too_few() is None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"epochs": 40},
            "There are too few steps for the views: 40 epochs take 2,600, and views show their "
            "worth after 6,000 or so; before, a student may be worse with them than without. "
            "Train with `--epochs 93`, or teach fewer views (`--views`).",
        ),
        (
            {"epochs": 1, "num_views": 16},
            "There are too few epochs for the views: an epoch shows one view of each image, so 1 "
            "epoch shows 1 of the 16 that the teacher answered. Train with `--epochs 93`, or teach "
            "fewer views (`--views`).",
        ),
        (
            {"num_images": 1_000_000, "epochs": 10, "num_steps": 80_000, "num_views": 100},
            "There are too few epochs for the views: an epoch shows one view of each image, so 10 "
            "epochs show 10 of the 100 that the teacher answered. Train with `--epochs 100`, or "
            "teach fewer views (`--views`).",
        ),
        (
            {"views_per_epoch": 2, "epochs": 3, "num_steps": 390},
            "There are too few epochs for the views: an epoch shows 2 views of each image, so 3 "
            "epochs show 6 of the 8 that the teacher answered. Train with `--epochs 47`, or teach "
            "fewer views (`--views`).",
        ),
    ],
    ids=["steps", "epochs", "many images", "views a decode"],
)
def test_a_run_that_is_too_short_for_its_views_is_told_what_to_type(changed, words):
    assert plan(**changed).too_few() == words


def test_a_run_warns_of_too_few_epochs_for_the_views(teach_once, images, tmp_path, monkeypatch):
    monkeypatch.setattr(diagnosis, "FEWEST_IMAGES", 30)
    teacher = EncodingTeacher()
    views = kd.Views(3, flip=True)
    store = teach_once(images, tmp_path / "s.h5", teacher, image_size=(8, 8), views=views)
    stream = kd.join(images, store, batch_size=8, seed=1)
    with pytest.warns(kd.StreamkdWarning, match="2 epochs show 2 of the 3 that") as caught:
        Diagnosis(stream, Recipe(), epochs=2, num_steps=8)
    assert codes_of(caught) == ["few_steps_for_views"]
    # From labels alone, or with other views, the store's views are not shown.
    for recipe in (Recipe(label_weight=1.0), Recipe()):
        alone = stream
        if recipe.label_weight != 1:
            with pytest.warns(kd.StreamkdWarning, match="views that the teacher has not"):
                alone = kd.join(images, store, batch_size=8, augment="independent", views=views)
        Diagnosis(alone, recipe, epochs=1, num_steps=4)


# The student.


def history_of(loss, accuracy, validated):
    """Returns the epochs of a run whose loss is given; the accuracies are those of its end."""
    common = {"accuracy": accuracy, "val_accuracy": validated}
    return [
        {"epoch": number, "step": 100 * number, "loss": value, **common}
        for number, value in enumerate(loss, 1)
    ]


FLAT = [2.0, 1.5, 1.3, 1.25, 1.22, 1.2]
FALLING = [2.0, 1.7, 1.5, 1.3, 1.1, 0.9]


@pytest.mark.parametrize(
    ("loss", "accuracy", "validated", "teacher", "is_told"),
    [
        (FLAT, 0.45, 0.45, 0.95, True),
        (FLAT, 0.45, 0.55, 0.95, True),  # crops are harder than whole images
        (FLAT, 0.45, 0.80, 0.95, False),
        (FLAT, 0.90, 0.89, 0.95, False),
        (FLAT, 0.74, 0.60, 0.95, False),  # it learns the images by heart
        (FALLING, 0.45, 0.45, 0.95, False),  # it is still learning
        (FLAT, 0.45, 0.45, 0.50, False),
        (FLAT, None, 0.45, 0.95, False),
        (FLAT, 0.45, None, 0.95, False),
        ([2.0], 0.45, 0.45, 0.95, False),
    ],
)
def test_a_student_that_stays_far_behind_is_too_small(loss, accuracy, validated, teacher, is_told):
    assert is_too_small(history_of(loss, accuracy, validated), teacher) == is_told


def looked_back(accuracy, validated, teacher, *, num_steps=4_000, num_images=2_000, **history):
    """Returns the codes and the words of the warnings after a run with these numbers."""
    one = object.__new__(Diagnosis)
    one.strength = TeacherStrength(teacher, num_images, 0.1)
    one._label_weight = 0.1
    one._plan = plan(num_views=0, num_images=num_images, num_steps=num_steps, epochs=6)
    validation = types.SimpleNamespace(labels=np.zeros(num_images, np.int32))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        one.look_back(History(history_of(FLAT, accuracy, validated), **history), validation)
    return codes_of(caught), "".join(str(w.message) for w in caught)


def test_a_small_student_is_told_with_both_accuracies():
    codes, words = looked_back(0.45, 0.44, 0.95)
    assert codes == ["student_too_small"]
    assert words == (
        "The student is too small for this teacher, or its learning rate is: after 6 epochs it is "
        "right on 45.0% of the images that it learns from and on 44.0% of the validation images, "
        "the teacher on 95.0%, and its loss hardly falls any more. Give a larger student, or try a "
        "larger `--learning-rate`."
    )


@pytest.mark.parametrize(
    "otherwise",
    [{"num_steps": 500}, {"num_images": 150}, {"stopped": True}, {"teacher": 0.5}],
    ids=str,
)
def test_a_student_at_its_beginning_is_passed_over(otherwise):
    assert looked_back(**{"accuracy": 0.45, "validated": 0.44, "teacher": 0.95, **otherwise}) == (
        [],
        "",
    )


def test_a_teacher_below_the_student_on_validation_images_is_told():
    codes, words = looked_back(0.5, 0.71, 0.6)
    assert codes == ["teacher_weaker"]
    assert words == (
        "The teacher is the weaker one: it is right on 60.0% of the images that the student learns "
        "from, and the student on 71.0% of the validation images. A student learns its teacher's "
        "mistakes, too. Give a larger `--label-weight` (it is 0.1), label_weight in Python, or a "
        "better teacher."
    )


@pytest.mark.parametrize(
    ("accuracy", "validated", "teacher", "num_images"),
    [
        (0.90, 0.92, 0.90, 2_000),
        (0.9, 0.95, 0.9, 60),
        (0.5, None, 0.6, 2_000),
        (None, 0.9, 0.95, 9),
    ],
)
def test_a_teacher_that_may_be_better_is_passed_over(accuracy, validated, teacher, num_images):
    assert looked_back(accuracy, validated, teacher, num_images=num_images) == ([], "")


def test_a_teacher_that_guesses_was_told_of_before():
    assert looked_back(0.5, 0.5, 0.1) == ([], "")


def test_on_its_own_images_a_weaker_teacher_is_told_as_before():
    codes, words = looked_back(0.8, 0.71, 0.6)
    assert codes == ["teacher_weaker"]
    assert words.startswith("The teacher is the weaker one on the labelled images: it is right on")


# The whole commands.


def knowing_student():
    """Returns the dense student with weights that read the class from the blue channel."""
    student = dense_student()
    kernel, bias = np.zeros((8 * 8 * 3, 3), np.float32), -np.square(np.arange(3)) / 2
    kernel[2] = 255 * np.arange(3)
    student.set_weights([kernel * 8, bias * 8])
    return student


@pytest.mark.parametrize(
    ("make", "codes"),
    [
        (dense_student, ["student_too_small"]),
        pytest.param(knowing_student, [], marks=pytest.mark.slow),
    ],
)
def test_train_tells_of_a_small_student_and_not_of_one_that_knows(
    images, tmp_path, monkeypatch, make, codes
):
    monkeypatch.setattr(diagnosis, "FEWEST_IMAGES", 30)
    monkeypatch.setattr(diagnosis, "STEPS_OF_PLAIN_IMAGES", 1)
    store = teach_small(images, EncodingTeacher(), tmp_path / "s.h5")
    stream = kd.join(images, store, batch_size=6, seed=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(stream, make(), None, learning_rate=1e-9, epochs=2, validation=images)
    assert codes_of(caught) == codes


def test_teach_tells_of_a_nearly_certain_teacher_and_not_of_a_fair_one(
    directory, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    dense_student("keras").save("t.keras")
    for name, scale, verdict in (("sure", 30.0, "nearly_certain"), ("fair", 2.0, None)):

        def answer(self, pixels, scale=scale):
            _, classes = pixel_numbers(pixels).T
            return np.eye(3, dtype=np.float32)[classes.astype(int)] * np.float32(scale)

        monkeypatch.setattr(kd.Teacher, "__call__", answer)
        words = ["teach", directory, "--teacher", "t.keras", "--out", f"{name}.h5"]
        code, told, _ = command(capsys, *words)
        assert (code, told["teacher_verdict"]) == (0, verdict)
        assert told["warnings"] == [] and told["outcome"] == "new"
        assert told["teacher_accuracy"] == 1.0
