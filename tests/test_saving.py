"""A student that cannot be saved is refused before the first step, in both families."""

from __future__ import annotations

import numpy as np
import pytest
import tf_keras

from streamkd.errors import ResumeError, StudentError
from streamkd.models.families import load_model
from streamkd.models.layer_digests import UNKNOWN
from streamkd.models.reasons import keras_reason
from streamkd.models.saving import check_can_be_saved, save_model
from streamkd.runs.run_directory import RunDirectory
from streamkd.stream.join import join
from streamkd.training.distiller import Distiller

IMAGE = np.full((1, 8, 8, 3), 100, np.float32)


def own_layer(family, kind):
    """Returns a layer of a class that forgets something when it is saved, or nothing."""

    class Scaled(family.layers.Layer):
        def __init__(self, by, function=len, **more):
            super().__init__(**more)
            self.by, self.function = by, function
            if kind == "loses weights":
                self.hidden = (lambda dense: lambda: dense)(family.layers.Dense(3))

        def build(self, shape):
            if kind != "loses weights":
                self.gain = self.add_weight(name="gain", shape=(), initializer="ones")
            super().build(shape)

        def call(self, inputs):
            return inputs / self.by

    if kind != "no get_config":
        forgets = kind == "forgets a setting"
        Scaled.get_config = lambda self: {
            **super(Scaled, self).get_config(),
            "by": 2.0 if forgets else self.by,
            **({"function": self.function} if kind == "cannot be written" else {}),
        }
    return Scaled(255.0, lambda x: x)


def student_with(family, layer):
    return family.Sequential(
        [family.Input((8, 8, 3)), layer, family.layers.Flatten(), family.layers.Dense(3)]
    )


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no get_config", r"cannot be (saved|opened again once it is saved): .*\n.*get_config"),
        ("cannot be written", r"cannot be (saved|opened again once it is saved): .*\n.*get_config"),
        ("forgets a setting", r"answers otherwise .*before, .*after\.\n.*get_config"),
    ],
)
@pytest.mark.filterwarnings("ignore:student.keras can be opened only")
def test_a_student_that_cannot_be_saved_is_refused(family, kind, words):
    student = student_with(family, own_layer(family, kind))
    with pytest.raises(StudentError, match=words):
        check_can_be_saved(student, IMAGE)


def test_the_whole_sentence_of_keras_is_told():
    wrapped = ValueError(
        "Layer Scaled was created by passing\nodd values in `__init__()`.\n\nMore."
    )
    assert keras_reason(wrapped) == "Layer Scaled was created by passing odd values in `__init__()`"
    nested = "Traceback:\n  line 3\nTypeError: no such thing 'x'.\n\nCall arguments: ..."
    assert keras_reason(RuntimeError(nested)) == "TypeError: no such thing 'x'"
    assert keras_reason(RuntimeError("all settings\nException encountered: bad 'y'.")) == "bad 'y'"
    assert keras_reason(KeyError()) == "KeyError"


def test_it_is_refused_before_the_first_step_and_leaves_nothing(family, shared, tmp_path):
    directory, store = shared
    stream = join(directory, store, image_size=(8, 8), batch_size=8)
    student = student_with(family, own_layer(family, "no get_config"))
    steps = []
    counting = family.callbacks.LambdaCallback(on_train_batch_end=lambda *_: steps.append(1))
    with pytest.raises(StudentError, match="cannot be "):
        Distiller(student, jit="off").fit(
            stream, epochs=1, run=tmp_path / "run", progress=False, callbacks=[counting]
        )
    assert not steps
    assert not (tmp_path / "run").exists()


def test_a_class_that_only_this_program_knows_is_told(family):
    student = student_with(family, own_layer(family, "nothing"))
    with pytest.warns(UserWarning, match=r"own classes \(Scaled\).*\n.*register_keras_serial"):
        check_can_be_saved(student, IMAGE)


def test_preprocessing_with_an_ellipsis_is_saved_and_read_without_trust(tmp_path):
    image = tf_keras.Input((8, 8, 3))
    pixels = tf_keras.applications.resnet.preprocess_input(image)
    outputs = tf_keras.layers.Dense(2)(tf_keras.layers.Flatten()(pixels[..., 1:, :]))
    student = tf_keras.Model(image, outputs)
    before = np.asarray(student(IMAGE))
    check_can_be_saved(student, IMAGE)
    save_model(student, tmp_path / "s.keras")
    np.testing.assert_array_equal(np.asarray(load_model(tmp_path / "s.keras")(IMAGE)), before)
    np.testing.assert_array_equal(np.asarray(student(IMAGE)), before)  # it still computes


def test_a_layer_that_tells_its_settings_later_is_the_same_layer(tmp_path):
    run = RunDirectory(tmp_path)
    versions = {"versions": {"keras": "3"}}
    config = {**versions, "student": {"layers": {"0 Scaled": UNKNOWN, "1 Dense": "0c4b92aa"}}}
    told = {**versions, "student": {"layers": {"0 Scaled": "7dcbb0d0", "1 Dense": "0c4b92aa"}}}
    run.check_config(config, told)
    told["student"]["layers"]["1 Dense"] = "11111111"
    with pytest.raises(ResumeError, match="another student"):
        run.check_config(config, told)
