"""A model of any format that can be a teacher is evaluated like a Keras model."""

import json
import warnings

import numpy as np
import pytest
import tf_keras
from format_helpers import classifier, make
from helpers import draw_noise
from predict_helpers import predict_server
from run_helpers import EVALUATION_KEYS

import streamkd as kd
from streamkd.cli.main import main
from streamkd.errors import OptionError, StudentError

# The classifier was not trained.
pytestmark = pytest.mark.filterwarnings("ignore:Numbers from .* reach its layer")
CLASSES = "abcde"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(40):
        (folder / CLASSES[number % 5]).mkdir(exist_ok=True)
        draw_noise(folder / CLASSES[number % 5] / f"{number}.png", (8, 8), number)
    return folder


@pytest.fixture(scope="module")
def expected(photos):
    """The report about the Keras model itself."""
    return kd.evaluate(classifier(tf_keras), photos, progress=False)


def shares(images):
    return np.asarray(classifier(tf_keras)(np.asarray(images, np.float32)))


def box():
    return shares


def same(report, expected, *, num_parameters=None, tolerance=1e-4):
    assert set(report) - {"warnings"} == EVALUATION_KEYS
    assert report["num_parameters"] == num_parameters
    for name in ("num_images", "accuracy", "num_errors"):
        assert report[name] == expected[name]
    for name in ("nll", "ece"):
        assert report[name] == pytest.approx(expected[name], abs=tolerance)


FORMATS = [
    *("onnx-any-batch", "onnx-channels-first"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("tflite-float", "keras-saved-model")),
]


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_of_another_format_is_evaluated(photos, expected, tmp_path, name):
    made = make(name, tmp_path)
    report = kd.evaluate(made.path, photos, progress=False, **made.options)
    same(report, expected)
    assert report["latency_ms"] > 0


def test_a_teacher_in_memory_and_a_function_are_evaluated(photos, expected, tmp_path, capsys):
    teacher = kd.load_teacher(classifier(tf_keras))
    number = classifier(tf_keras).count_params()
    same(kd.evaluate(teacher, photos, progress=False), expected, num_parameters=number)
    teacher = kd.load_teacher(shares, name="box")
    same(kd.evaluate(teacher, photos, image_size=(8, 8), progress=False), expected)
    with pytest.raises(OptionError, match="The model takes images of any size; add --image-size"):
        kd.evaluate(teacher, photos, progress=False)
    words = ["evaluate", "test_evaluated_teacher:box", str(photos), "--image-size", "8x8"]
    assert main([*words, "--json", "--quiet"]) == 0
    same(json.loads(capsys.readouterr().out), expected)


def test_a_model_behind_an_address_is_asked_once_an_image(photos, expected, capsys):
    pytest.importorskip("urllib3")
    with predict_server(lambda images: shares(images).tolist(), dtype="DT_FLOAT") as server:
        words = ["evaluate", server.address, str(photos), "--json", "--quiet"]
        assert main([*words, "--concurrency", "1"]) == 0
        assert sum(map(len, server.asked)) == 40
        report = json.loads(capsys.readouterr().out)
        same(report, expected)
        assert report["latency_ms"] is None and report["warnings"] == []
        assert main([*words, "--max-queries", "10"]) == 2
        assert json.loads(capsys.readouterr().out)["error"]["code"] == "query_budget"


def test_flags_say_what_a_model_expects_and_answers(photos, tmp_path, capsys):
    """A model that has no preprocessing, and a background before its classes."""
    layers = tf_keras.layers
    plain = tf_keras.Sequential(
        [
            tf_keras.Input((8, 8, 3)),
            layers.Flatten(),
            layers.Dense(6, kernel_initializer=tf_keras.initializers.RandomNormal(seed=1)),
        ]
    )
    plain.save(tmp_path / "plain.keras")
    words = ["evaluate", str(tmp_path / "plain.keras"), str(photos), "--json", "--quiet"]
    assert main([*words, "--preprocess", "scale", "--drop-output", "0"]) == 0
    report = json.loads(capsys.readouterr().out)
    kernel, bias = plain.get_weights()
    inside = tf_keras.Sequential(
        [
            tf_keras.Input((8, 8, 3)),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(5),
        ]
    )
    inside.set_weights([kernel[:, 1:], bias[1:]])
    number = plain.count_params()
    same(report, kd.evaluate(inside, photos, progress=False), num_parameters=number)
    assert main(words) == 2  # six outputs for five classes
    assert "The model has 6 outputs" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_warnings_are_listed(photos, tmp_path, capsys):
    layers = [tf_keras.Input((8, 8, 3)), tf_keras.layers.Lambda(lambda images: images / 255)]
    layers += [tf_keras.layers.Flatten(), tf_keras.layers.Dense(5)]
    tf_keras.Sequential(layers).save(tmp_path / "lambda.keras")
    words = ["evaluate", str(tmp_path / "lambda.keras"), str(photos), "--quiet"]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main([*words, "--trust", "--json"]) == 0
    (warning,) = json.loads(capsys.readouterr().out)["warnings"]
    assert warning["code"] == "model_trusted" and "would be refused" in warning["message"]


def test_images_that_do_not_fit_are_refused_as_for_a_keras_model(photos, tmp_path):
    path = make("onnx-any-batch", tmp_path).path
    with pytest.raises(OptionError, match=r"takes images of 8x8 pixels, and --image-size is 9x9"):
        kd.evaluate(path, photos, image_size=(9, 9), progress=False)
    with pytest.raises(OptionError, match=r"takes images in rgb, and --color-mode is grayscale"):
        kd.evaluate(path, photos, color_mode="grayscale", progress=False)
    with pytest.raises(StudentError, match="The model has 5 outputs, and there are 2 classes"):
        kd.evaluate(path, photos, class_names=["a", "b"], progress=False)


@pytest.mark.filterwarnings("ignore:The teacher .* is right on:streamkd.StreamkdWarning")
def test_agreement_with_the_store_of_its_own_answers_is_whole(photos, tmp_path):
    path = make("onnx-any-batch", tmp_path).path
    store = kd.teach(photos, path, tmp_path / "s.h5", codec="float32", progress=False)
    report = kd.evaluate(path, photos, store=store, progress=False)
    assert report.agreement == 1.0 and report.kl_to_teacher < 1e-6
    assert report.teacher_accuracy == report.accuracy
