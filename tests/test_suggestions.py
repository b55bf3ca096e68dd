"""A slip of the keys: the refusal names the command, flag, file or function that was meant."""

import os

import pytest

import streamkd as kd
from streamkd.checks import did_you_mean, did_you_mean_file
from streamkd.cli import files
from streamkd.cli.parser import build_parser
from streamkd.errors import ImagesNotFoundError, OptionError, StoreError, StudentError, TeacherError
from streamkd.models.load_student import load_student


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photos/train", "photos/val", "models"):
        os.makedirs(name)
    for name in ("models/teacher.keras", "models/other.keras", "answers.h5"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("missing", "near"),
    [
        ("models/teacher.kears", "models/teacher.keras"),
        ("models/techer.keras", "models/teacher.keras"),
        ("photo/train", "photos/train"),
        ("photos/trian/", "photos/train"),
        ("anwsers.h5", "answers.h5"),
        ("models/student.keras", None),  # the ending alone is no likeness
        ("photo/test", None),  # nor is half of a path
        ("nowhere/at/all", None),
        ("answers.h5/x", None),
        ("", None),
    ],
)
def test_a_path_with_a_slip_in_one_part(here, missing, near):
    assert did_you_mean_file(missing) == ("" if near is None else f"Did you mean {near}? ")
    absolute = os.path.join(here, missing)
    if near is not None:
        assert did_you_mean_file(absolute) == f"Did you mean {here / near}? "


def test_the_nearest_name_or_none():
    assert did_you_mean("logit", ["logits", "probabilities"]) == "Did you mean logits? "
    assert did_you_mean("logit", ["class", "sigmoid"]) == ""


def test_missing_files_of_each_kind(here):
    with pytest.raises(TeacherError) as refused:
        files.check_model("models/teachr.keras", "teacher")
    assert str(refused.value) == (
        "There is no teacher at models/teachr.keras.\nDid you mean models/teacher.keras? Give a "
        "`.keras`, `.h5`, `.tflite` or `.onnx` file, a SavedModel or a run directory, an address, "
        "or module:function."
    )
    with pytest.raises(StudentError) as refused:
        files.check_model("runs/first", "model")
    assert str(refused.value) == (
        "There is no model at runs/first.\n"
        "Give the path of a saved `.keras` file, or of a run directory."
    )
    with pytest.raises(
        ImagesNotFoundError, match=r"photos/tran'\.\nDid you mean .*/photos/train\?"
    ):
        kd.scan("photos/tran")
    with pytest.raises(
        StoreError, match=r"no such file\.\nDid you mean answers\.h5\? Make it with"
    ):
        kd.open_store("answer.h5")


def test_an_application_and_a_function_of_ones_own(here, monkeypatch):
    monkeypatch.syspath_prepend(here)
    (here / "my_slips.py").write_text(
        "def small_student(num_classes, image_shape): ...\n_hid = 1\n"
    )
    size = {"num_classes": 3, "image_size": (8, 8), "num_channels": 3}
    with pytest.raises(StudentError, match=r"\nDid you mean MobileNetV3Small\? Give a saved `\.k"):
        load_student("MobilNetV3Small", **size)
    with pytest.raises(StudentError, match=r"\nDid you mean small_student\? Give --student pack"):
        load_student("my_slips:small_studnet", **size)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["distil", "photos"], "There is no command 'distil'.\nDid you mean distill? See `st"),
        (
            ["teach", "i", "--techer=t"],
            "no flag --techer.\nDid you mean --teacher? See `streamkd t",
        ),
        (
            ["train", "i", "--views", "8"],
            "`streamkd train` has no flag --views.\nOther commands have it: distill, plan, teach. ",
        ),
        (["teach", "i", "--header", "--x y"], "required: --teacher, --out"),  # a value
        (["scan", "--", "--seed", "--none"], "Unrecognized arguments: --none"),  # file names
    ],
)
def test_commands_and_flags(words, message):
    with pytest.raises(OptionError) as refused:
        build_parser().parse_args(words)
    assert message in str(refused.value)
