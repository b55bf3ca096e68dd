"""The student: from a file, from a function, or a Keras application."""

from __future__ import annotations

import sys

import pytest
import tf_keras
from run_helpers import dense_student, same_weights

from streamkd.errors import StudentError
from streamkd.models.load_student import load_student

SHAPE = {"num_classes": 3, "image_size": (8, 8), "num_channels": 3}

MODULE = """
import tf_keras

def build(num_classes, image_shape):
    return tf_keras.Sequential(
        [tf_keras.Input(image_shape), tf_keras.layers.Flatten(), tf_keras.layers.Dense(num_classes)]
    )

def build_text(num_classes, image_shape):
    return "a model"

def build_picky(num_classes):
    return None

def build_nothing(num_classes, image_shape):
    raise ValueError("eight pixels are too few")

constant = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module `my_student` in the working directory."""
    (tmp_path / "my_student.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "my_student"
    sys.modules.pop("my_student", None)


def test_a_file_of_either_family_is_loaded(family, tmp_path):
    model = dense_student(family)
    model.save(tmp_path / "s.keras")
    assert same_weights(load_student(tmp_path / "s.keras", **SHAPE), model)


def test_a_run_directory_gives_its_student(tmp_path):
    model = dense_student()
    model.save(tmp_path / "student.keras")
    assert same_weights(load_student(tmp_path, **SHAPE), model)


def test_a_function_of_the_working_directory_is_called_with_classes_and_shape(module):
    student = load_student(f"{module}:build", num_classes=5, image_size=(4, 6), num_channels=1)
    assert student.input_shape == (None, 4, 6, 1) and student.output_shape == (None, 5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_module:build", r"module 'no_such_module' of --student .* cannot be imported"),
        ("my_student:nothing", r"module 'my_student' has no function 'nothing'"),
        ("my_student:constant", r"has no function 'constant'"),
        ("my_student:build_text", r"returned str, not a Keras model.*\n.*must return a tf_keras"),
        (
            "my_student:build_picky",
            r"cannot be built: .*image_shape.*\n  called with num_classes=3",
        ),
        ("my_student:build_nothing", r"cannot be built: ValueError: eight pixels are too few"),
        ("nothing.keras", r"There is no model at nothing\.keras.\nGive the path of a saved"),
        ("NoSuchNet", r"no student 'NoSuchNet': no such file, and no Keras application"),
        ("resnet", r"no student 'resnet': no such file, and no Keras application"),
        ("MobileNetV2:alpha", r"module 'MobileNetV2' of --student MobileNetV2:alpha cannot be imp"),
        ("MobileNetV2:alpha=big", r"argument 'alpha=big' of --student .* cannot be read.\nWrite"),
        ("MobileNetV2:alfa=1", r"'MobileNetV2:alfa=1' cannot be built: .*alfa"),
        ("VGG16", r"'VGG16' cannot be built: .*at least 32x32.*\n.*input_shape=\(8, 8, 3\)\n"),
    ],
    ids=lambda text: None if " " in text else text,
)
def test_a_student_that_cannot_be_had_is_refused(module, name, words):
    with pytest.raises(StudentError, match=f"(?s){words}"):
        load_student(name, **SHAPE)


def test_an_application_is_built_untrained_with_its_arguments():
    student = load_student(
        "MobileNetV3Small:alpha=0.75,minimalistic=True,include_preprocessing=True",
        num_classes=7,
        image_size=(32, 32),
        num_channels=3,
    )
    assert isinstance(student, tf_keras.Model)
    assert student.output_shape == (None, 7) and student.input_shape == (None, 32, 32, 3)


@pytest.mark.filterwarnings("ignore:.*would be refused without --trust")
def test_a_file_that_runs_code_needs_trust(tmp_path):
    model = tf_keras.Sequential(
        [tf_keras.Input((8, 8, 3)), tf_keras.layers.Lambda(lambda x: x[:, 0, 0])]
    )
    model.save(tmp_path / "s.keras")
    with pytest.raises(
        StudentError, match=r"(?s)the layer Lambda runs code.*add `--trust` if the file"
    ):
        load_student(tmp_path / "s.keras", **SHAPE)
    assert load_student(tmp_path / "s.keras", trust=True, **SHAPE).output_shape == (None, 3)
