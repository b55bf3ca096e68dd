"""Every argument of every public function refuses values of another type, by its name."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing

import numpy as np
import pytest
import tf_keras
from helpers import draw_image

import streamkd as kd
from streamkd.checks import check_types
from streamkd.errors import OptionError, StreamkdError, TeacherError

# Public functions, and classes that users make, with arguments that fit.
FUNCTIONS = {
    "scan": (kd.scan, {"directory": "photos"}),
    "teach": (kd.teach, {"images": "photos", "teacher": lambda images: images, "out": "s.h5"}),
    "join": (kd.join, {"images": "photos", "store": "s.h5"}),
    "distill": (
        kd.distill,
        {"images": "photos", "teacher": "t.keras", "student": "s.keras", "out": "run"},
    ),
    "sweep": (
        kd.sweep,
        {"images": "photos", "store": "s.h5", "student": "s.keras", "out": "sweep"},
    ),
    "evaluate": (kd.evaluate, {"model": object(), "images": "photos"}),
    "export": (kd.export, {"model": "run", "out": "m.keras"}),
    "plan": (kd.plan, {"images": "photos", "store": "s.h5"}),
    "verify": (kd.verify, {"path": "s.h5"}),
    "merge": (kd.merge, {"paths": ["s.h5"], "out": "all.h5"}),
    "cluster_classes": (kd.cluster_classes, {"store": "s.h5", "num_specialists": 2}),
    "specialist_images": (kd.specialist_images, {"images": "photos", "classes": ["cat"]}),
    "import_logits": (
        kd.import_logits,
        {"logits": "l.npy", "keys": "k.txt", "images": "photos", "out": "s.h5"},
    ),
    "write_store": (
        kd.write_store,
        {"images": "photos", "out": "s.h5", "answer": lambda batch: None, "teacher": "t"},
    ),
    "load_teacher": (kd.load_teacher, {"source": lambda images: images}),
    "Teacher": (kd.Teacher, {"answer": lambda images: images, "name": "t"}),
    "open_store": (kd.open_store, {"path": "s.h5"}),
    "ImageOptions": (kd.ImageOptions, {"image_size": (8, 8)}),
    "Views": (kd.Views, {"count": 2}),
    "ViewOperation": (kd.ViewOperation, {"name": "n", "version": 1}),
    "WorkerSlice": (kd.WorkerSlice, {}),
    "packed_loss": (kd.packed_loss, {"temperature": 1.0, "label_weight": 0.5}),
}
ODD = ("hot", "8", True, None, 1.5, 3, [1], {}, object(), float("nan"), b"x", (8, "8"))
# Arguments that take anything here: other modules judge them, or Python does.
ANYTHING = {
    ("scan", "progress"),
    ("scan", "labels"),
    ("plan", "pixels"),
    ("import_logits", "options"),
    ("ViewOperation", "function"),
    ("join", "operation"),
    # A list of numbers, too, which is among the odd values.
    ("load_teacher", "drop_output"),
    ("Teacher", "drop_output"),
}


def annotated_for(hint, value):
    """Returns whether the annotation names the type of a value, by a rule of its own."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is typing.Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(annotated_for(kind, value) for kind in inner)
    if hint is float:
        return type(value) in (int, float)
    if origin is typing.Literal:
        return value in inner
    if isinstance(hint, type) and origin is None:
        return type(value) is hint
    return False  # no odd value is a tuple of numbers, a path object, a list of names or a function


def wrong_values():
    for name, (function, fitting) in FUNCTIONS.items():
        is_class = isinstance(function, type) and not dataclasses.is_dataclass(function)
        hints = typing.get_type_hints(function.__init__ if is_class else function)
        for argument in inspect.signature(function).parameters:
            hint = hints[argument]
            if hint is typing.Any or (name, argument) in ANYTHING:
                continue
            wrong = [value for value in ODD if not annotated_for(hint, value)]
            # A list and a dict of which the values do not matter here.
            takes_dict = "dict" in str(hint) or "Mapping" in str(hint)
            wrong = [value for value in wrong if not (takes_dict and isinstance(value, dict))]
            yield pytest.param(function, fitting, argument, wrong, id=f"{name}-{argument}")


@pytest.mark.parametrize(("function", "fitting", "argument", "wrong"), list(wrong_values()))
def test_a_value_of_another_type_is_refused_by_name(
    function, fitting, argument, wrong, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "ant").mkdir(parents=True)
    draw_image(tmp_path / "photos" / "ant" / "0.png", 0)
    names = {"count": "views", "path": "path|store"}
    shown = names.get(argument, argument).replace("_", "[-_ ]")
    assert wrong
    for value in wrong:
        with pytest.raises(StreamkdError, match=rf"(?i)\b({shown})\b"):
            function(**{**fitting, argument: value})


def student():
    return tf_keras.Sequential([tf_keras.Input((8, 8, 3)), tf_keras.layers.Flatten()])


DISTILLER = {
    "optimizer": [None, 3, {}],
    "learning_rate": ["0.1", True, [1e-3], float("nan"), -1, tf_keras.optimizers.SGD],
    "schedule": [True, 3, ["cosine"]],
    "warm_up": ["0.1", True, 2, [0.1]],
    "weight_decay": ["0.1", True, -1],
    "clip_norm": ["1", True, 0],
    "accumulate": ["2", True, 1.5, None],
    "ema": ["0.9", True, 1],
    "temperature": ["hot", True, None, [4.0], float("nan"), 0, {}],
    "label_weight": ["hot", True, None, [0.0, 0.5], np.array([0.1]), 1.5],
    "label_smoothing": ["0.1", True, None, 1.0],
    "student_preprocess": [None, True, 3, ("scale",)],
    "jit": [None, 3, ["on"]],
    "steps_per_call": ["8", None, 1.5, True],
    "on_nonfinite": [None, True, ["raise"]],
}


@pytest.mark.parametrize("argument", DISTILLER)
def test_a_setting_of_another_type_is_refused_by_name(argument):
    model = student()
    for value in DISTILLER[argument]:
        with pytest.raises(OptionError, match=argument):
            kd.Distiller(model, **{argument: value})


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("stream", "photos", "stream is 'photos'; it must be the stream that `kd.join` returns."),
        ("epochs", 1.5, "epochs is 1.5; it must be a positive whole number."),
        ("epochs", "3", "epochs is '3'; it must be a positive whole number."),
        ("run", 3, "run is 3; it must be a path or None."),
        ("resume", "no", "resume is 'no'; it must be True or False."),
        ("save_every", 2.5, "save_every is 2.5; it must be a positive whole number."),
        ("class_weight", 3, "class_weight is 3; it must be a dict or a text or None."),
        ("stop", True, "stop is True; it must be a function or None."),
    ],
)
def test_an_argument_of_fit_of_another_type_is_refused_by_name(argument, value, message):
    stream = object.__new__(kd.Stream)
    with pytest.raises(OptionError) as info:
        kd.Distiller(student()).fit(**{"stream": stream, "epochs": 1, argument: value})
    assert str(info.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 224}, "image_size is 224; it must be (height, width) in pixels, such as"),
        ({"image_size": "224x224"}, "image_size is '224x224'; it must be (height, width)"),
        ({"batch_size": "8"}, "batch_size is '8'; it must be a positive whole number."),
        ({"seed": None}, "seed is None; it must be a whole number from 0."),
        ({"shuffle": "no"}, "shuffle is 'no'; it must be True or False."),
        ({"color_mode": 3}, "color_mode is 3; it must be a text or None."),
        ({"cache_directory": 3}, "cache_directory is 3; it must be a path or None."),
        ({"views": 8}, "views is 8; it must be a Views or None."),
    ],
    ids=lambda value: str(value).split(" at 0x")[0],
)
def test_the_words_for_a_value_of_another_type(arguments, message):
    with pytest.raises(OptionError) as info:
        kd.join("photos", "s.h5", **arguments)
    assert str(info.value).startswith(message)


def test_a_long_value_is_cut_and_stands_in_one_line():
    with pytest.raises(OptionError) as info:
        kd.teach("photos", "t.keras", "s.h5", batch_size=np.zeros((50, 50)))
    assert len(str(info.value)) < 150 and "\n" not in str(info.value)


def test_values_that_fit_in_another_guise_are_taken():
    fitting = {
        "image_size": [np.int64(8), 8],
        "batch_size": np.int32(8),
        "shuffle": np.bool_(True),
        "balance": 0,
        "cache_directory": None,
    }
    check_types(kd.join, fitting)
    check_types(kd.teach, {"class_names": np.array(["ant", "bee"]), "shard": [1, 8]})
    check_types(kd.teach, {"class_names": ("ant", "bee")})
    assert kd.ImageOptions(image_size=(np.int64(8), 9)).image_size == (8, 9)
    assert kd.Distiller(student(), temperature=np.float32(2), accumulate=np.int64(2)).recipe


def test_a_list_with_one_item_of_another_type_is_refused():
    with pytest.raises(OptionError, match=r"class_names is .*; it must be a list of names"):
        kd.teach("photos", "t.keras", "s.h5", class_names=["ant", 3])
    with pytest.raises(OptionError, match="class_names is 'cat'; it must be a list of names"):
        kd.evaluate("run", "photos", class_names="cat")


@pytest.mark.parametrize(
    ("thing", "words"),
    [
        ("not_a_model", "builtins.str is not a Keras model"),
        (tf_keras.Model, "builtins.type is not a Keras model"),
        (None, "builtins.NoneType is not a Keras model"),
        (tf_keras.layers.Dense(3), "The student is a layer, Dense, and no model"),
    ],
    ids=lambda value: str(value).split(" at 0x")[0],
)
def test_a_student_that_is_no_model_is_refused(thing, words):
    with pytest.raises(StreamkdError, match=words):
        kd.Distiller(thing)


def test_a_teacher_that_is_a_class_is_refused():
    with pytest.raises(TeacherError) as info:
        kd.load_teacher(tf_keras.Model)
    assert str(info.value).splitlines()[0] == (
        "A teacher cannot be made of the class Model: give an object, Model(…)."
    )
