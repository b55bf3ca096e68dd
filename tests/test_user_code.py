"""Modules and functions of the user's own: on the command line, in model files, in runs."""

from __future__ import annotations

import json
import re
import sys

import keras
import numpy as np
import pytest
import tf_keras
from helpers import draw_directory

import streamkd as kd
from streamkd.cli.main import main
from streamkd.errors import OptionError, StudentError, TeacherError
from streamkd.models import allowed_objects, preprocessing, run_code, user_code
from streamkd.models.families import load_model
from streamkd.models.keras3_family import Keras3
from streamkd.models.load_student import load_student

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
def leaves(num_classes, image_shape): raise SystemExit(3)
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
        "leaving_module": "raise SystemExit(3)\n",
        "talking_module": "print('hello')\n",
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
        ("own_layers:STUDENT", "has no function 'STUDENT'; that is an int"),
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


def test_a_function_of_other_arguments_is_shown_how_it_is_called():
    words = r"\nWrite it as `def doubled\(num_classes, image_shape\)`, or give other arguments\.$"
    with pytest.raises(StudentError, match=words):
        load_student("own_teachers:doubled", **SHAPE)


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
    with pytest.raises(TeacherError, match=rf"'{name}' .*\n.*`--import own_layers`"):
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
    draw_directory(tmp_path / "images", {"a": 4, "b": 4, "c": 4})
    sys.path.insert(0, str(tmp_path))
    saved_model("m.keras", "Known")
    forget()
    command = ["evaluate", "m.keras", "images", "--quiet"]
    assert main(command) == 2
    assert "`--import own_layers`" in capsys.readouterr().err
    assert main([*command, "--import", "own_layers", "--import", "own_teachers"]) == 0
    assert main([*command, "--import", "broken_module"]) == 2
    assert "The module 'broken_module' of --import broken_module" in capsys.readouterr().err


@pytest.fixture
def run(tmp_path):
    """A run directory whose student has a layer of the module, as its user wrote it."""
    sys.path.insert(0, str(tmp_path))
    path = tmp_path / "run"
    path.mkdir()
    saved_model(path / "student.keras", "Known")
    forget()
    write_config(path, run_code.describe_code(["own_layers"]))
    return path


def write_config(run, entry):
    (run / "config.json").write_text(json.dumps(entry))


def test_a_run_imports_what_its_own_user_named(run, tmp_path):
    assert run_code.open_student(run, trust=False).layers[0].__class__.__name__ == "Known"
    assert "own_layers" in sys.modules
    assert (tmp_path / "state" / "streamkd" / "secret").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "forged",
    [
        {"modules": ["own_layers", "raising_module"], "mark": "right"},
        {"modules": ["own_layers"], "mark": None},
        {"modules": ["own_layers"]},
        {"modules": ["own_layers"], "mark": "\ud800"},
    ],
)
def test_a_planted_run_imports_nothing_unless_it_is_trusted(run, forged):
    mark = json.loads((run / "config.json").read_text())["code"]["mark"]
    write_config(run, {"code": {k: mark if v == "right" else v for k, v in forged.items()}})
    with pytest.raises(StudentError, match=r"Add `--import own_layers.*` if you know them"):
        run_code.open_student(run, trust=False)
    assert "own_layers" not in sys.modules
    if forged["modules"] == ["own_layers"]:
        with pytest.warns(UserWarning, match="without --trust"):
            run_code.open_student(run, trust=True)


def test_a_run_as_teacher_imports_under_the_same_rules(run, tmp_path, monkeypatch):
    (run / "checkpoints").mkdir()
    teacher = kd.load_teacher(run)
    assert teacher.model.layers[0].__class__.__name__ == "Known" and teacher.name == "run"
    forget()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    with pytest.raises(TeacherError, match=r"was not trained by you .*\n?.*`--import own_layers`"):
        kd.load_teacher(run)
    assert "own_layers" not in sys.modules
    with pytest.warns(UserWarning, match="without --trust"):
        kd.load_teacher(run, trust=True)
    assert "own_layers" in sys.modules


def test_a_run_whose_configuration_is_damaged_names_no_modules(run):
    (run / "config.json").write_text("{")
    with pytest.raises(StudentError, match=r"config\.json is damaged, so the modules of the run"):
        run_code.open_student(run, trust=False)


def test_another_users_run_imports_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    with pytest.raises(StudentError, match="was not trained by you"):
        run_code.open_student(run, trust=False)
    assert "own_layers" not in sys.modules


def test_a_run_that_comes_back_beside_another_module_vouches_for_nothing(
    run, tmp_path, monkeypatch
):
    assert str(tmp_path) not in (run / "config.json").read_text()
    (run / "own_layers.py").write_text("1 / 0\n")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
    monkeypatch.chdir(run)
    with pytest.raises(StudentError, match="was not trained by you with the modules that are"):
        run_code.open_student(run, trust=False)


def test_a_student_that_needs_no_module_imports_none(run):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    model.save(run / "student.keras")
    run_code.open_student(run, trust=False)
    assert "own_layers" not in sys.modules


@pytest.mark.parametrize(
    "code",
    [
        3,
        {"modules": "os"},
        {"modules": [3, "os; import evil", "a" * 100, "", "a..b", "\x1b[2J"]},
    ],
)
def test_a_planted_name_is_neither_imported_nor_shown(run, code):
    write_config(run, {"code": code})
    assert run_code.modules_of(run) == []


def test_import_names_the_module():
    with pytest.raises(OptionError, match="The module 'absent' of --import cannot be imported"):
        user_code.import_module("absent")


def test_importing_keras_allows_none_of_the_layers_that_it_refuses(family):
    user_code.import_module(family.__name__)
    kind = family.layers.Lambda
    assert not user_code.is_own_layer(kind.__module__, kind.__name__)
    assert "Lambda" not in user_code.own_layers()


def test_a_name_that_two_imported_modules_define_stands_for_neither_layer(tmp_path):
    (tmp_path / "other_layers.py").write_text(LAYERS.replace("mine", "other"))
    for module in ("own_layers", "other_layers"):
        user_code.import_module(module)
    assert user_code.own_layers() == {}
    forget(("own_layers", "other_layers"))


def test_a_layer_with_another_registered_name_stays_refused():
    user_code.import_module("own_layers")
    entry = {"class_name": "Scaled", "module": "own_layers", "registered_name": "Lambda"}
    assert "second name 'Lambda'" in allowed_objects.why_refused(entry, lambda name: False)
    entry["registered_name"] = "Scaled"
    assert allowed_objects.why_refused(entry, lambda name: False) is None


@pytest.mark.parametrize("source", ["leaving_module:small", "own_layers:leaves"])
def test_code_that_ends_the_program_is_refused(source):
    with pytest.raises(StudentError, match=r"SystemExit: 3 \(line 17? of "):
        load_student(source, **SHAPE)


def test_what_a_module_prints_is_no_part_of_the_answer(tmp_path, capsys):
    draw_directory(tmp_path / "images", {"a": 4, "b": 4, "c": 4})
    assert main(["scan", "images", "--json", "--import", "talking_module"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["num_images"] == 12
    assert "hello" in printed.err


@pytest.mark.parametrize("value", ['"talking_module"', '["talking_module", "own_teachers"]'])
def test_a_configuration_file_names_modules(tmp_path, capsys, value):
    draw_directory(tmp_path / "images", {"a": 4, "b": 4, "c": 4})
    (tmp_path / "c.toml").write_text(f"import = {value}\n")
    assert main(["scan", "images", "--config", "c.toml"]) == 0
    assert "hello" in capsys.readouterr().err
    forget(("talking_module",))
    assert main(["scan", "images", "--config", "c.toml", "--import", "own_teachers"]) == 0
    assert "hello" not in capsys.readouterr().err
    (tmp_path / "c.toml").write_text("import = 3\n")
    assert main(["scan", "images", "--config", "c.toml"]) == 2
    assert "--import takes a string in quotes, or a list of several" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "backend"),
    [
        ('{"backend": "jax"}', "jax"),
        ('{"backend": "torch", "floatx": "float32"}', "torch"),
        ('{"backend": "tensorflow"}', None),
        ("{}", None),
        ("[]", None),
        ("{", None),
        (None, None),
    ],
)
def test_the_backend_in_keras_own_file_is_refused(tmp_path, monkeypatch, text, backend):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    if text is not None:
        (tmp_path / "kept.json").write_text(text)
        (tmp_path / "keras.json").symlink_to(tmp_path / "kept.json")
    if backend is None:
        Keras3().check_backend()
        return
    with pytest.raises(OptionError, match=f"backend '{backend}'.*\n.*KERAS_BACKEND=tensorflow"):
        Keras3().check_backend()
    (tmp_path / "needs_backend.py").write_text(
        f"raise ModuleNotFoundError('No module', name={backend!r})\n"
    )
    with pytest.raises(OptionError, match="KERAS_BACKEND=tensorflow"):
        user_code.import_module("needs_backend")


def test_channels_first_in_keras_own_file_changes_no_preprocessing():
    expected = preprocessing.parse("ResNet50", 3)
    tf_keras.backend.set_image_data_format("channels_first")
    try:
        assert preprocessing.parse("ResNet50", 3) == expected
        student = load_student("MobileNet:alpha=0.25", **{**SHAPE, "image_size": (32, 32)})
        assert student.layers[1].data_format == "channels_last"
    finally:
        tf_keras.backend.set_image_data_format("channels_last")


def test_16_bits_by_keras_own_file_are_refused():
    keras.config.set_floatx("float16")
    keras.config.set_dtype_policy("float16")  # which Keras has kept since its first layer
    try:
        with pytest.raises(StudentError, match=r"weights in float16.*\n.*--precision mixed_float"):
            load_student("own_layers:small", **SHAPE)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


def test_a_class_that_is_nowhere_defined_is_named_with_import(tmp_path):
    sys.path.insert(0, str(tmp_path))
    saved_model("m.keras", "Known")
    forget()
    with (
        pytest.warns(UserWarning, match="would be refused without --trust"),
        pytest.raises(TeacherError, match=r"Could not locate class 'Known'.*\n.*--import MODULE"),
    ):
        load_model("m.keras", trust=True)


@pytest.mark.parametrize(
    "module", ["subprocess", "os.path", "keras.utils", "tensorflow", "__main__", "a b", 3, None]
)
def test_no_refusal_tells_to_import_what_cannot_be_the_users(module):
    assert allowed_objects.foreign_module({"class_name": "X", "module": module}) is None
    assert allowed_objects.foreign_module({"class_name": "X", "module": "my.layers"}) == "my.layers"


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        ("own_teachers.py:doubled", r"here, by its name without \.py: `own_teachers`\."),
        ("./sub/own.py:f", r"by its module, not by its file\.\nWrite `own:f`, from the directory"),
    ],
)
def test_a_module_that_is_given_by_its_file_is_named(tmp_path, capsys, teacher, words):
    images = draw_directory(tmp_path / "images", {"ant": 1, "bee": 1})
    assert main(["teach", str(images), "--teacher", teacher, "--out", str(tmp_path / "t.h5")]) == 2
    assert re.search(words, capsys.readouterr().err)


def test_a_function_from_images_is_a_teacher_itself(tmp_path):
    (tmp_path / "own_predictions.py").write_text(
        "def predict_proba(images, power=1):\n    return images[:, :3, 0, 0] ** power\n"
        "def two(images, labels):\n    return images\n"
        "def small(num_classes, image_shape, width=8):\n    return None\n"
        "def builder(width, *, images=None):\n    return None\n"
        "def at_work(*, images):\n    return lambda pixels: pixels[:, :3, 0, 0]\n"
    )
    images = np.arange(192, dtype=np.float32).reshape(1, 8, 8, 3)
    teacher = kd.load_teacher("own_predictions:predict_proba")
    np.testing.assert_array_equal(teacher(images), images[:, :3, 0, 0])
    teacher = kd.load_teacher("own_predictions:predict_proba:power=2")
    np.testing.assert_array_equal(teacher(images), images[:, :3, 0, 0] ** 2)
    for name, words in (
        ("two", r"missing 2 required positional arguments.*\n  called with nothing"),
        ("small", "builds a student: .*\nGive it as `--student own_predictions:small`, and the"),
        ("at_work", "missing 1 required keyword-only argument"),
        ("predict_proba:powr=2", "unexpected keyword argument 'powr'"),
        (
            "builder:width=8",
            r"returned NoneType\.\n.*; or it takes images itself, `def teacher\(im",
        ),
    ):
        with pytest.raises(TeacherError, match=words):
            kd.load_teacher(f"own_predictions:{name}")
    sys.modules.pop("own_predictions")
