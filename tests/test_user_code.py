"""Modules and functions of the user's own: on the command line, in model files, in runs."""

from __future__ import annotations

import json
import sys

import keras
import numpy as np
import pytest
from helpers import draw_directory

import streamkd as kd
from streamkd.cli.main import main
from streamkd.errors import OptionError, StudentError, TeacherError
from streamkd.models import user_code
from streamkd.models.families import load_model
from streamkd.models.load_student import load_student
from streamkd.runs import run_code

LAYERS = """
import keras
class Scaled(keras.layers.Layer):
    def call(self, x): return x / 255.0
@keras.saving.register_keras_serializable("mine")
class Known(keras.layers.Layer):
    def call(self, x): return x / 255.0
def small(num_classes, image_shape, width=4):
    layers = [keras.Input(image_shape), Known(), keras.layers.Conv2D(width, 3)]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(num_classes)]
    return keras.Sequential(layers)
def nothing(num_classes, image_shape): pass
def pair(num_classes, image_shape): return small(num_classes, image_shape), 7
def fails(num_classes, image_shape): return {}["no such key"]
def asserts(num_classes, image_shape): assert image_shape == (1, 1, 1)
def exits(num_classes, image_shape): raise RuntimeError("first\\nsecond")
STUDENT = 7
"""
TEACHERS = """
import numpy as np
def doubled(factor=2): return lambda images: factor * images[:, :3, 0, 0]
def path(): return "teacher.keras"
"""
SHAPE = {"num_classes": 3, "image_size": (8, 8), "num_channels": 3}


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
    """Writes the user's modules into the working directory; forgets them afterwards."""
    names = {
        "own_layers": LAYERS,
        "own_teachers": TEACHERS,
        "broken_module": "def small(:\n",
        "raising_module": "1 / 0\n",
    }
    for name, text in names.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(user_code, "_imported", set())
    yield
    forget(names)


def forget(names=("own_layers",)):
    """Makes this process one that has not imported the modules."""
    keras.saving.get_custom_objects().clear()
    user_code._imported.clear()
    for name in names:
        sys.modules.pop(name, None)
    sys.path[:] = [entry for entry in sys.path if not entry.endswith("0") or "pytest" not in entry]


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ("own_layers:nothing", "returned NoneType, not a Keras model"),
        ("own_layers:pair", "returned tuple, not a Keras model"),
        ("own_layers:fails", r"KeyError: 'no such key' \(line 14 of .*own_layers.py, in fails\)"),
        ("own_layers:asserts", r"AssertionError \(line 15 of .*own_layers.py, in asserts\)"),
        ("own_layers:exits", "RuntimeError: first second"),
        ("own_layers:STUDENT", "has a int, no function, 'STUDENT'"),
        ("own_layers:absent", "has no function 'absent'"),
        ("own_layers:small:depth=3", "unexpected keyword argument 'depth'.*\n  called with num_cl"),
        ("own_layers:small:width", "argument 'width' of --student own_layers:small:width cannot"),
        ("broken_module:small", r"cannot be imported: SyntaxError: .*\(line 1 of .*broken_module"),
        ("raising_module:small", r"ZeroDivisionError: .*\(line 1 of .*raising_module.py"),
        ("absent_module:small", "ModuleNotFoundError: No module named 'absent_module'"),
    ],
)
def test_a_function_that_fails_is_named_with_its_last_line(student, words):
    with pytest.raises(StudentError, match=words):
        load_student(student, **SHAPE)


def test_a_function_takes_arguments():
    student = load_student("own_layers:small:width=7", **SHAPE)
    assert student.layers[1].filters == 7


def test_a_teacher_is_what_a_function_returns():
    images = np.arange(192, dtype=np.float32).reshape(1, 8, 8, 3)
    teacher = kd.load_teacher("own_teachers:doubled:factor=3")
    np.testing.assert_array_equal(teacher(images), 3 * images[:, :3, 0, 0])
    assert teacher.name == "own_teachers:doubled:factor=3"
    with pytest.raises(TeacherError, match=r"returned str\.\nThe function must return a Keras"):
        kd.load_teacher("own_teachers:path")


def saved_model(path, name):
    """Saves a model with a layer of the module."""
    module = __import__("own_layers")
    layers = [keras.Input((8, 8, 3)), getattr(module, name)(), keras.layers.Flatten()]
    keras.Sequential([*layers, keras.layers.Dense(3)]).save(path)


@pytest.mark.parametrize("name", ["Scaled", "Known"])
def test_an_imported_modules_layer_needs_no_trust(tmp_path, name):
    sys.path.insert(0, str(tmp_path))
    saved_model("m.keras", name)
    forget()
    with pytest.raises(TeacherError, match=rf"'{name}' .*\n.*`--import MODULE`"):
        load_model("m.keras")
    user_code.import_module("own_layers")
    assert load_model("m.keras").layers[0].__class__.__name__ == name


def test_functions_and_other_classes_of_an_imported_module_stay_refused():
    user_code.import_module("own_layers")
    assert user_code.is_own_layer("own_layers", "Scaled")
    for module, name in (("own_layers", "small"), ("own_layers", "keras"), ("os", "system")):
        assert not user_code.is_own_layer(module, name)
    assert not user_code.is_own_layer("keras.layers", "Dense")


def test_the_command_line_imports(tmp_path, capsys):
    draw_directory(tmp_path / "images", [4, 4, 4])
    sys.path.insert(0, str(tmp_path))
    saved_model("m.keras", "Known")
    forget()
    command = ["evaluate", "m.keras", "images", "--quiet"]
    assert main(command) == 2
    assert "`--import MODULE`" in capsys.readouterr().err
    assert main([*command, "--import", "own_layers", "--import", "own_teachers"]) == 0
    assert main([*command, "--import", "broken_module"]) == 2
    assert "The module 'broken_module' of --import broken_module" in capsys.readouterr().err


def test_a_run_imports_what_its_own_user_named_and_nobody_elses(tmp_path, monkeypatch):
    entry = run_code.describe_code(["own_layers"])
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps(entry))
    assert run_code.import_code_of(run, trust=False) == []
    assert "own_layers" in sys.modules
    forget()
    assert (tmp_path / "state" / "streamkd" / "secret").stat().st_mode & 0o777 == 0o600
    for forged in (
        {"code": {"modules": ["own_layers", "raising_module"], "mark": entry["code"]["mark"]}},
        {"code": {"modules": ["own_layers"], "mark": None}},
        {"code": {"modules": ["own_layers"]}},
        {"code": {"modules": ["own_layers"], "mark": "0" * 64}},
    ):
        (run / "config.json").write_text(json.dumps(forged))
        assert run_code.import_code_of(run, trust=False) == forged["code"]["modules"]
        assert "own_layers" not in sys.modules
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    (run / "config.json").write_text(json.dumps(entry))
    assert run_code.import_code_of(run, trust=False) == ["own_layers"]
    assert run_code.import_code_of(run, trust=True) == []
    for odd in ({}, {"code": 3}, {"code": {"modules": "os"}}, {"code": {"modules": [3]}}):
        (run / "config.json").write_text(json.dumps(odd))
        assert run_code.import_code_of(run, trust=True) == []


def test_import_names_the_module():
    with pytest.raises(OptionError, match="The module 'absent' of --import cannot be imported"):
        user_code.import_module("absent")
