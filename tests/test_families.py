"""Which Keras a model or a file belongs to, and files that cannot be loaded."""

import ast
import importlib
import json
import zipfile
from pathlib import Path

import helpers
import numpy as np
import pytest
import tensorflow as tf
from process_helpers import finished

import streamkd
from streamkd.errors import OptionError, StudentError, TeacherError
from streamkd.models.families import FAMILIES, family_name, family_of, load_model

PIXELS = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype(np.float32)


def test_models_and_layers_belong_to_their_family(family):
    class Own(family.Model):
        pass

    for thing in (helpers.small_model(family), family.layers.Dense(2), Own()):
        assert family_name(thing) == family.__name__ == family_of(thing).name
        assert family_of(thing).keras is family


@pytest.mark.parametrize("thing", [print, "model", 3, None, np.zeros(2)], ids=repr)
def test_an_object_that_is_no_model_belongs_to_no_family(thing):
    assert family_name(thing) is None
    with pytest.raises(OptionError, match="is not a Keras model; give a tf_keras or a Keras 3"):
        family_of(thing)


def test_a_saved_model_is_loaded_by_the_family_that_wrote_it(family, tmp_path):
    model = helpers.small_model(family)
    model.save(tmp_path / "model.keras")
    again = load_model(tmp_path / "model.keras")
    assert family_of(again).keras is family
    np.testing.assert_allclose(np.asarray(again(PIXELS)), np.asarray(model(PIXELS)), atol=1e-6)


def test_a_compiled_model_is_loaded_without_its_optimizer(family, tmp_path):
    model = helpers.small_model(family)
    model.compile("adam", "mse")
    model.save(tmp_path / "model.keras")
    assert getattr(load_model(tmp_path / "model.keras"), "optimizer", None) is None


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(TeacherError, match=r"There is no model at .*/model\.keras"):
        load_model(tmp_path / "model.keras")


def test_the_refusal_is_of_the_class_asked_for(tmp_path):
    with pytest.raises(StudentError, match="There is no model"):
        load_model(tmp_path / "model.keras", refusal=StudentError)


def test_a_folder_text_or_weights_file_is_refused(tmp_path):
    (tmp_path / "folder.keras").mkdir()
    (tmp_path / "text.keras").write_text("not a model")
    helpers.small_model("tf_keras").save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(TeacherError, match="holds the weights of a Keras model, without the"):
        load_model(tmp_path / "model.weights.h5")
    for name in ("folder.keras", "text.keras"):
        with pytest.raises(TeacherError, match=r"is not a `\.keras` file \(a zip"):
            load_model(tmp_path / name)


@pytest.mark.parametrize(
    "metadata",
    [None, b"{", b"[]", b"{}", b'{"keras_version": "new"}', b'{"keras_version": 3}'],
    ids=["absent", "cut", "list", "empty", "words", "number"],
)
def test_a_zip_that_does_not_say_which_keras_wrote_it_is_refused(tmp_path, metadata):
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as parts:
        parts.writestr("config.json", "{}")
        if metadata is not None:
            parts.writestr("metadata.json", metadata)
    with pytest.raises(TeacherError, match="does not say which Keras wrote it"):
        load_model(tmp_path / "model.keras")


def test_a_damaged_model_is_refused(family, tmp_path):
    helpers.small_model(family).save(tmp_path / "good.keras")
    with (
        zipfile.ZipFile(tmp_path / "good.keras") as good,
        zipfile.ZipFile(tmp_path / "bad.keras", "w") as bad,
    ):
        for name in good.namelist():
            data = good.read(name)
            if name == "config.json":
                data = json.dumps({**json.loads(data), "class_name": "NoSuchModel"}).encode()
            bad.writestr(name, data)
    with pytest.raises(TeacherError, match="'NoSuchModel' is not on the list"):
        load_model(tmp_path / "bad.keras")


@pytest.mark.filterwarnings("ignore:.*would be refused without --trust")
def test_a_model_that_runs_code_on_loading_needs_trust(family, tmp_path):
    model = family.Sequential([family.Input((3,)), family.layers.Lambda(lambda x: 2 * x)])
    model.save(tmp_path / "model.keras")
    with pytest.raises(TeacherError, match="add `--trust` if the file is your own"):
        load_model(tmp_path / "model.keras")
    trusted = load_model(tmp_path / "model.keras", trust=True)
    assert np.asarray(trusted(np.ones((1, 3), np.float32))).tolist() == [[2, 2, 2]]


def test_keras_3_with_another_backend_is_refused(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    words = r"backend 'torch', and streamkd trains with TensorFlow\.\nSet KERAS_BACKEND=tensorflow"
    model = helpers.small_model("keras")
    with pytest.raises(OptionError, match=words):
        FAMILIES["keras"].keras  # noqa: B018
    with pytest.raises(OptionError, match=words):
        family_of(model)
    assert FAMILIES["tf_keras"].keras is importlib.import_module("tf_keras")


class TestInterface:
    """Methods of the same name in which the two families differ."""

    def test_variables_are_those_of_tensorflow(self, family):
        model, own = helpers.small_model(family), FAMILIES[family.__name__]
        for variable in model.weights:
            converted = own.as_tf_variable(variable)
            assert isinstance(converted, tf.Variable)
            np.testing.assert_array_equal(converted.numpy(), np.asarray(variable))
        plain = tf.Variable(1.0)
        assert own.as_tf_variable(plain) is plain

    def test_a_loss_scale_is_among_the_variables_and_scales_the_loss(self, family):
        own = FAMILIES[family.__name__]
        plain = family.optimizers.SGD(0.1)
        scaling = family.mixed_precision.LossScaleOptimizer(
            family.optimizers.SGD(0.1), initial_scale=64.0
        )
        for optimizer in (plain, scaling):
            optimizer.build(helpers.small_model(family).trainable_variables)
        assert float(own.scaled_loss(plain, tf.constant(3.0))) == 3.0
        assert float(own.scaled_loss(scaling, tf.constant(3.0))) == 192.0
        values = [np.asarray(variable) for variable in own.variables_of(scaling)]
        assert any(value.shape == () and value == 64.0 for value in values)
        assert len(values) >= len(own.variables_of(plain)) + 2  # scale, and steps since it grew

    def test_scaled_gradients_are_those_of_the_loss_once_they_are_applied(self, family):
        own, model = FAMILIES[family.__name__], helpers.small_model(family)
        optimizer = family.mixed_precision.LossScaleOptimizer(
            family.optimizers.SGD(0.5), initial_scale=64.0
        )
        optimizer.build(model.trainable_variables)
        before = [np.array(variable) for variable in model.trainable_variables]
        gradients = [tf.fill(variable.shape, 64.0 * 0.25) for variable in model.trainable_variables]
        own.apply_gradients(optimizer, gradients, model.trainable_variables)
        for old, new in zip(before, model.trainable_variables, strict=True):
            np.testing.assert_allclose(np.asarray(new), old - 0.125, rtol=0, atol=1e-6)

    def test_keras_3_metrics_say_which_direction_is_better(self, family):
        own, keras = FAMILIES[family.__name__], family.metrics
        directions = [
            own.direction_of(metric)
            for metric in (keras.AUC(name="area"), keras.MeanSquaredError())
        ]
        assert directions == ([None, None] if family.__name__ == "tf_keras" else ["max", "min"])


def private_names(path):
    """The names with one underscore that a module reads from anything but itself."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and not (
            isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        ):
            names.add(node.attr)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)  # getattr(model, "_name")
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def test_private_attributes_of_keras_are_read_by_the_families_alone():
    package = Path(streamkd.__file__).parent
    families = sorted((package / "models").glob("*family*.py"))
    assert len(families) == 3
    of_keras = set.union(*map(private_names, families))
    assert {"_keras_history", "_learning_rate", "_train_counter"} <= of_keras
    others = {*package.rglob("*.py")} - {*families}
    assert not {str(path): names for path in others if (names := private_names(path) & of_keras)}


def test_choosing_a_family_imports_neither():
    code = "import sys, streamkd.models.families as f; print(f.family_name(3), len(f.FAMILIES))"
    code += "\nprint(*{'tensorflow', 'tf_keras', 'keras'} & {*sys.modules})"
    assert finished("-c", code)[0].split() == ["None", "2"]
