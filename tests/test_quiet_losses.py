"""What makes a distillation quietly worse is told at the start of `teach` and `train`."""

from __future__ import annotations

import types
import warnings

import keras
import numpy as np
import pytest
import tf_keras
from helpers import EncodingTeacher, teach_small
from run_helpers import command, dense_student
from stream_helpers import joined

import streamkd as kd
from streamkd.errors import StoreError
from streamkd.teachers.first_answers import warn_of_first_answers
from streamkd.teachers.teacher import Teacher
from streamkd.training.history import History
from streamkd.training.loop import Loop
from streamkd.training.student_warnings import warn_of_student
from streamkd.training.teacher_strength import TeacherStrength, warn_of_weaker

FAMILIES = pytest.mark.parametrize("keras_family", [tf_keras, keras], ids=lambda k: k.__name__)
PIXELS = np.random.default_rng(0).uniform(0, 255, (16, 8, 8, 3)).astype(np.float32)


def told(function, *arguments):
    """Returns the codes and the messages of the warnings of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function(*arguments)
    return [w.message.code for w in caught], "\n".join(str(w.message) for w in caught)


def stream_of(store):
    """All of a stream that is looked at."""
    return types.SimpleNamespace(options=kd.ImageOptions(image_size=(8, 8)), store=store)


def student_of(family, *first, kind=None):
    layers = family.layers
    inputs = outputs = family.Input((8, 8, 3))
    for layer in (*first, layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(3)):
        outputs = layer(outputs)
    return (kind or family.Model)(inputs, outputs)


# Random layers of the student.


@FAMILIES
@pytest.mark.parametrize("number", [1, 2])
def test_random_layers_at_the_head_of_a_student_are_named(keras_family, number):
    layers = keras_family.layers
    first = [layers.RandomFlip(name="flip"), layers.RandomContrast(0.1, name="bright")][:number]
    student = student_of(keras_family, *first)
    codes, message = told(warn_of_student, student, "none", stream_of("store"), 0.1)
    assert codes == ["random_layers"]
    named = ["this layer: RandomFlip 'flip'.", "these layers: RandomFlip 'flip', RandomContrast"]
    assert named[number - 1] in message and "`streamkd teach … --views 8" in message
    # They do no harm where labels alone are learned.
    assert told(warn_of_student, student, "none", stream_of("store"), 1.0) == ([], "")
    assert told(warn_of_student, student, "none", stream_of(None), 1.0) == ([], "")


@FAMILIES
def test_a_random_layer_behind_the_first_weights_is_none_of_pixels(keras_family):
    layers = keras_family.layers
    first = [layers.Rescaling(1 / 255), layers.Conv2D(2, 3), layers.Dropout(0.5)]
    student = keras_family.Sequential(
        [keras_family.Input((8, 8, 3)), *first, layers.Flatten(), layers.Dense(3)]
    )
    assert told(warn_of_student, student, "none", stream_of("store"), 0.1) == ([], "")


@FAMILIES
def test_augmentation_within_a_students_own_call_is_named(keras_family):
    class Own(keras_family.Model):
        def __init__(self):
            super().__init__()
            self.flip = keras_family.layers.RandomFlip(name="flip")
            self.drop = keras_family.layers.Dropout(0.5)
            self.last = keras_family.layers.Dense(3)

        def call(self, pixels, training=None):
            return self.last(self.drop(self.flip(pixels)[:, 0, 0] / 255))

    codes, message = told(warn_of_student, Own(), "none", stream_of("store"), 0.1)
    assert codes == ["random_layers"] and "this layer: RandomFlip 'flip'. The" in message


# Methods that are never called.


@FAMILIES
@pytest.mark.parametrize("name", ["train_step", "compute_loss", "test_step", "fit"])
def test_a_method_that_a_run_never_calls_is_named(keras_family, name):
    base = type("Base", (keras_family.Model,), {name: lambda self, *args, **options: None})
    own = type("Own", (base,), {})
    student = student_of(keras_family, kind=own)
    codes, message = told(warn_of_student, student, "none", stream_of("store"), 0.1)
    assert codes == ["unused_methods"]
    assert f"that a run never calls: Base.{name}. It learns" in message
    plain = student_of(keras_family, kind=type("Plain", (keras_family.Model,), {}))
    assert told(warn_of_student, plain, "none", stream_of("store"), 0.1) == ([], "")


# A teacher's first answers.


def dropping_teacher(family):
    """A model that draws random numbers whenever it is asked."""
    layers = family.layers

    class Dropping(layers.Dropout):
        def call(self, inputs, training=None):
            return super().call(inputs, training=True)

    inputs = family.Input((8, 8, 3))
    outputs = Dropping(0.5)(layers.Flatten()(layers.Rescaling(1 / 255)(inputs)))
    return family.Model(inputs, layers.Dense(3)(outputs))


@FAMILIES
def test_a_model_that_answers_an_image_differently_each_time(keras_family):
    teacher = Teacher.from_model(dropping_teacher(keras_family), name="t.keras")
    codes, message = told(warn_of_first_answers, teacher, PIXELS, teacher(PIXELS))
    assert codes == ["teacher_inconsistent"]
    assert message.startswith(
        "The teacher 't.keras' answers the same image differently each time: asked twice, its "
    )
    assert "Its random layers are: Dropping 'dropping" in message
    calm = Teacher.from_model(dense_student(keras_family), name="calm")
    assert told(warn_of_first_answers, calm, PIXELS, calm(PIXELS)) == ([], "")


def test_a_function_that_answers_an_image_differently_each_time():
    rng = np.random.default_rng(0)

    def noisy(images, size=1.0):
        return images.mean((1, 2)) / 100 + size * rng.normal(size=(len(images), 3))

    teacher = Teacher.from_callable(noisy, name="noisy")
    assert told(warn_of_first_answers, teacher, PIXELS, teacher(PIXELS))[0] == [
        "teacher_inconsistent"
    ]
    # The last digits of another batch size are no other answer.
    teacher = Teacher.from_callable(lambda images: noisy(images, 1e-5), name="rounded")
    assert told(warn_of_first_answers, teacher, PIXELS, teacher(PIXELS)) == ([], "")


@pytest.mark.filterwarnings("ignore:The teacher .* answers the same image differently")
@pytest.mark.filterwarnings("ignore:The teacher .* is right on")
def test_a_pass_that_cannot_be_resumed_says_why(images, tmp_path):
    rng = np.random.default_rng(0)

    def noisy(pixels):
        return pixels.mean((1, 2)) / 100 + rng.normal(size=(len(pixels), 3))

    teach_small(images, noisy, tmp_path / "s.h5")
    with pytest.raises(StoreError) as info:
        teach_small(images, noisy, tmp_path / "s.h5")
    assert str(info.value).endswith(
        "The teacher answers the same image differently each time, so no pass of it can be resumed."
        "\nGive a teacher whose random layers are called with `training=False`, and another path "
        "with `--out`."
    )


def test_a_counting_teacher_is_asked_about_few_images_again():
    asked = []

    def answer(images):
        asked.append(len(images))
        return images.mean((1, 2)) / 100

    teacher = Teacher.from_callable(answer, name="t")
    told(warn_of_first_answers, teacher, PIXELS, teacher(PIXELS))
    assert asked == [16, 8]


@FAMILIES
def test_raw_pixels_and_enormous_logits_are_those_of_a_teacher_of_scaled_pixels(keras_family):
    layers = keras_family.layers
    model = keras_family.Sequential(
        [keras_family.Input((8, 8, 3)), layers.Flatten(), layers.Dense(3, name="only")]
    )
    kernel = np.zeros((192, 3), np.float32)
    kernel[:, 0] = 3 / 192 * 8  # logits of a few units for pixels from 0 to 1
    model.set_weights([kernel, np.zeros(3, np.float32)])
    teacher = Teacher.from_model(model, name="t")
    codes, message = told(warn_of_first_answers, teacher, PIXELS, teacher(PIXELS))
    assert codes == ["pixels_not_preprocessed"]
    assert message.startswith("Numbers from 0 to 255 reach its layer 'only' of the teacher 't'")
    scaled = Teacher.from_model(model, name="t", preprocess="scale")
    assert told(warn_of_first_answers, scaled, PIXELS, scaled(PIXELS)) == ([], "")


# Who is right more often.


@pytest.mark.parametrize(
    ("teacher", "student", "num_images", "is_told"),
    [
        (0.55, 0.98, 64, True),
        (0.90, 0.92, 50_000, True),
        (0.90, 0.92, 100, False),  # within chance
        (0.999, 1.0, 50_000, False),  # nothing that a reader should act on
        (0.98, 0.55, 64, False),
        (None, 0.9, 64, False),
        (0.9, None, 64, False),
        (0.0, 0.5, 0, False),
    ],
)
def test_a_teacher_that_is_right_less_often_than_its_student(teacher, student, num_images, is_told):
    codes, message = told(warn_of_weaker, teacher, student, num_images, 0.1)
    assert codes == ["teacher_weaker"] * is_told
    if is_told:
        assert message == (
            f"The teacher is the weaker one on the labelled images: it is right on {teacher:.1%} "
            f"of them, and the student on {student:.1%}. A student learns its teacher's mistakes, "
            "too. Give a larger `--label-weight` (it is 0.1), label_weight in Python, or a better "
            "teacher."
        )


def constant(images):
    """A teacher that always names the first class."""
    return np.tile(np.float32([5, 0, 0]), (len(images), 1))


@pytest.mark.filterwarnings("ignore:The teacher 'constant' is right on")
def test_the_strength_of_a_teacher_is_that_on_the_labelled_images_of_the_stream(images, tmp_path):
    store = teach_small(images, EncodingTeacher(), tmp_path / "s.h5")
    stream = joined(images, store)
    labelled = np.count_nonzero(images.labels >= 0)
    strength = TeacherStrength.of(stream, 0.1)
    assert (strength.num_images, strength.chance) == (labelled, 1 / 3)
    right = store.gather(stream.rows).argmax(axis=1) == images.labels
    assert strength.accuracy == right.mean()
    assert TeacherStrength.of(stream, 1.0) is None

    weak = teach_small(images, constant, tmp_path / "weak.h5")
    codes, message = told(TeacherStrength.of, joined(images, weak), 0.1)
    assert codes == ["teacher_at_chance"]
    assert f"of {labelled:,} labelled images, and chance is 33.3%" in message


# The whole commands.


def test_teach_and_train_list_the_warnings(directory, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def turns(loop, resume):
        yield
        return History([], "run")

    monkeypatch.setattr(Loop, "turns", turns)
    teacher = dense_student("keras", activation=None)
    teacher.save("t.keras")
    student_of(tf_keras, tf_keras.layers.RandomFlip("horizontal", name="flip")).save("s.keras")
    words = ["teach", directory, "--teacher", "t.keras", "--out", "s.h5", "--preprocess", "scale"]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *args, **options: None
        code, answer, _ = command(capsys, *words, "--labels", "none", "--class-names", names())
        assert code == 0, answer
        assert [w["code"] for w in answer["warnings"]] == ["pixels_preprocessed_twice"]
        code, answer, _ = command(
            capsys,
            *["train", directory, "--store", "s.h5", "--student", "s.keras", "--out", "run"],
            *["--epochs", "1", "--jit", "off", "--batch-size", "4", "--labels", "none"],
        )
    assert code == 0, answer
    assert [w["code"] for w in answer["warnings"]] == ["random_layers"]
    assert "RandomFlip 'flip'" in answer["warnings"][0]["message"]


def names():
    with open("names.txt", "w") as file:
        file.write("ant\nbee\ncat\n")
    return "names.txt"
