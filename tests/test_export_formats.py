"""Exports for other programs: the same answers, read by those programs, and refusals by name."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import small_model
from PIL import Image
from process_helpers import finished
from run_helpers import command, dense_student, snapshot

from streamkd.errors import MissingExtraError, OptionError, OutputError, StudentError
from streamkd.exports import export as export_module
from streamkd.exports import tflite_file
from streamkd.exports.export import export

ENDINGS = {"savedmodel": "", "tflite": ".tflite", "onnx": ".onnx"}


def noise(count=4):
    return np.random.default_rng(0).uniform(0, 255, (count, 8, 8, 3)).astype(np.float32)


def pixels(images):
    """Returns the first images as Pillow reads them, in the size of the model."""
    paths = [
        Path(os.fsdecode(os.path.join(images.root, images.keys[number])))
        for number in range(0, 30, 8)
    ]
    return np.stack([np.asarray(Image.open(path).resize((8, 8)), np.float32) for path in paths])


def answers_of(path, format, images):
    """Returns what a program without streamkd gets from an exported file."""
    if format == "savedmodel":
        import tensorflow as tf

        signature = tf.saved_model.load(str(path)).signatures["serving_default"]
        return signature(images=tf.constant(images))["probabilities"].numpy()
    if format == "onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(str(path))
        return session.run(["probabilities"], {"images": images})[0]
    package = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = package.Interpreter(str(path))
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    rows = []
    for image in images:
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(target["index"])[0].copy())
    return np.stack(rows)


@pytest.mark.parametrize(
    ("format", "precision", "tolerance"),
    [
        ("savedmodel", "float32", 1e-6),
        ("onnx", "float32", 1e-5),
        ("tflite", "float32", 1e-5),
        ("tflite", "float16", 1e-3),
        ("tflite", "dynamic", 5e-2),
        ("tflite", "int8", 5e-2),
    ],
)
def test_another_program_gets_the_answers_of_the_model(
    images, tmp_path, family, format, precision, tolerance
):
    if format == "onnx":
        pytest.importorskip("tf2onnx")
    model, out = small_model(family), tmp_path / f"out{ENDINGS[format]}"
    report = export(
        model, out, format=format, precision=precision, images=images, progress=False, max_images=20
    )
    # The ranges of int8 are those of the images, and noise leaves them.
    asked = pixels(images) if precision == "int8" else noise()
    expected = np.asarray(model(asked))
    assert np.abs(answers_of(out, format, asked) - expected).max() <= tolerance
    assert report.max_abs_difference <= tolerance
    assert (report.num_images, report.precision) == (
        len(images) // 2,
        precision,
    )  # every second one
    assert report.num_bytes == sum(
        part.stat().st_size for part in (out, *out.rglob("*")) if part.is_file()
    )
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_logits_are_called_so_and_any_batch_is_taken(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    model = small_model("keras", activation=None)
    export(model, tmp_path / "out.onnx", format="onnx", progress=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "out.onnx"))
    assert session.get_inputs()[0].shape == ["batch", 8, 8, 3]
    for count in (1, 5):
        answers = session.run(["logits"], {"images": noise(count)})[0]
        assert np.allclose(answers, np.asarray(model(noise(count))), atol=1e-4)


def test_the_class_names_of_a_run_stand_beside_it_and_inside(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("tf2onnx")
    (tmp_path / "run").mkdir()
    model = small_model("keras")
    model.save(tmp_path / "run" / "student.keras")
    config = {"class_names": ["ant", "bee", "cat's eye"]}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    report = export(tmp_path / "run", tmp_path / "out.onnx", format="onnx", progress=False)
    assert report.class_names_path == str(tmp_path / "out.classes.txt")
    assert (tmp_path / "out.classes.txt").read_text() == "ant\nbee\ncat's eye\n"
    metadata = onnx.load(tmp_path / "out.onnx").metadata_props
    assert {entry.key: json.loads(entry.value) for entry in metadata} == config


def test_class_names_of_another_number_are_refused(tmp_path):
    with pytest.raises(
        OptionError, match=r"has 3 outputs, and there are 2 class names\.\nGive a name for each"
    ):
        export(small_model("keras"), tmp_path / "out.keras", class_names=["ant", "bee"])
    assert not list(tmp_path.iterdir())


def test_eight_bits_need_images(images, tmp_path):
    out = tmp_path / "out.tflite"
    few = images.select(np.arange(3))
    for given, words in ((None, "none are given"), (few, "3 are too few")):
        with pytest.raises(
            OptionError, match=rf"from real images, and {words}\.\nAdd `--images DIRECTORY` with"
        ):
            export(dense_student(), out, format="tflite", precision="int8", images=given)


def test_a_precision_of_another_format_is_refused(tmp_path):
    with pytest.raises(
        OptionError, match=r"int8 is for --format tflite, and --format is onnx\.\nLeave --precision"
    ):
        export(dense_student(), tmp_path / "out.onnx", format="onnx", precision="int8")


@pytest.mark.parametrize(
    ("format", "name", "words"),
    [
        ("tflite", "out.keras", r"writes a \.tflite file; call it .*/out\.tflite\."),
        ("savedmodel", "out.onnx", r"writes a directory; call it .*/out\."),
        ("onnx", "taken.onnx", r"taken\.classes\.txt exists already\.\nMove it away"),
    ],
)
def test_a_name_that_does_not_fit_is_refused(tmp_path, format, name, words):
    pytest.importorskip("tf2onnx")
    (tmp_path / "taken.classes.txt").write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(OutputError, match=words):
        export(dense_student(), tmp_path / name, format=format)
    assert snapshot(tmp_path) == before


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(MissingExtraError, match=r"needs the package tf2onnx.*\nInstall it: `pip"):
        export(dense_student(), tmp_path / "out.onnx", format="onnx")


@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_an_operation_that_the_format_has_not_is_said(tmp_path, format):
    pytest.importorskip("tf2onnx")
    import keras
    import tensorflow as tf

    class Odd(keras.layers.Layer):
        def call(self, x):
            return tf.cast(tf.math.bessel_i0e(tf.reduce_mean(x, axis=(1, 2))), tf.float32)

    model = keras.Sequential([keras.Input((8, 8, 3)), Odd()])
    words = {"tflite": "cannot be converted to TensorFlow Lite", "onnx": "ONNX"}[format]
    with pytest.raises(StudentError, match=words):
        export(model, tmp_path / f"out{ENDINGS[format]}", format=format, progress=False)
    assert not list(tmp_path.iterdir())


def test_a_broken_conversion_fails_the_command(images, tmp_path, capsys, monkeypatch):
    model, wrong = small_model("keras"), small_model("keras", seed=5)
    wrong.layers[-1].bias.assign([0.0, 9.0, 0.0])
    model.save(tmp_path / "student.keras")

    class OfWrong(export_module.TracedModel):
        def __init__(self, interface, shape):
            super().__init__(interface, shape)
            self._answers = wrong

    monkeypatch.setattr(export_module, "TracedModel", OfWrong)
    monkeypatch.chdir(tmp_path)
    code, answer, _ = command(
        capsys, "export", "student.keras", "--format", "tflite", "--out", "out.tflite"
    )
    assert code == 1
    assert not answer["parity"] and answer["max_abs_difference"] > 0.1
    assert export_module.export("student.keras", "b.tflite", format="tflite").agreement < 1


def test_a_person_is_told_what_was_written(images, tmp_path, capsys, monkeypatch):
    small_model("keras").save(tmp_path / "student.keras")
    monkeypatch.chdir(tmp_path)
    from streamkd.cli.main import main

    (tmp_path / "names.txt").write_text("ant\nbee\ncat\n")
    arguments = ("--format", "tflite", "--out", "out.tflite", "--class-names", "names.txt")
    assert main(["export", "student.keras", *arguments, "--quiet"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("Wrote out.tflite (tflite, float32).\nIts class names, in the order of")
    assert "On 16 images both choose the same class for 100.0%; the largest difference" in told


def test_the_file_runs_without_tensorflow(tmp_path):
    pytest.importorskip("ai_edge_litert")
    export(small_model("keras"), tmp_path / "out.tflite", format="tflite", progress=False)
    code = (
        "import sys, numpy as np\n"
        "from ai_edge_litert.interpreter import Interpreter\n"
        f"i = Interpreter({str(tmp_path / 'out.tflite')!r}); i.allocate_tensors()\n"
        "i.set_tensor(i.get_input_details()[0]['index'], np.zeros((1, 8, 8, 3), 'float32'))\n"
        "i.invoke()\n"
        "print(i.get_tensor(i.get_output_details()[0]['index']).shape, 'tensorflow' in sys.modules)"
    )
    assert finished("-c", code)[0].strip() == "(1, 3) False"


def test_tensorflows_own_interpreter_does_where_the_package_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    export(small_model("keras"), tmp_path / "out.tflite", format="tflite", progress=False)
    assert tflite_file.open_tflite(tmp_path / "out.tflite")(noise()).shape == (4, 3)
