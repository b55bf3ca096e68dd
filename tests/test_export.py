"""An export: an ordinary model that answers as the original does."""

from __future__ import annotations

import os

import numpy as np
import pytest
import tf_keras
from helpers import small_model
from run_helpers import dense_student, drifting_model, same_weights, snapshot

from streamkd.errors import BadImageError, OptionError, OutputError, StudentError
from streamkd.exports.export import export


def test_the_file_is_an_ordinary_model_of_plain_keras(images, tmp_path, family):
    model = small_model(family)
    report = export(model, tmp_path / "out.keras", images=images, progress=False)
    loaded = family.models.load_model(tmp_path / "out.keras")
    assert same_weights(loaded, model)
    noise = np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 3)).astype(np.float32)
    assert np.array_equal(np.asarray(loaded(noise)), np.asarray(model(noise)))
    assert loaded.layers[-1].activation.__name__ == "softmax"
    assert min(report.pop("latency_ms"), report.pop("original_latency_ms")) > 0
    assert report == {
        "path": str(tmp_path / "out.keras"),
        "format": "keras",
        "precision": "float32",
        "num_bytes": os.path.getsize(tmp_path / "out.keras"),
        "original_bytes": os.path.getsize(tmp_path / "out.keras"),
        "class_names_path": None,
        "num_images": len(images),
        "max_abs_difference": 0.0,
        "agreement": 1.0,
        "tolerance": 1e-5,
        "parity": True,
    }


def test_a_run_directory_or_a_file_is_exported_with_noise_as_images(tmp_path):
    model = dense_student()
    (tmp_path / "run").mkdir()
    model.save(tmp_path / "run" / "student.keras")
    for number, source in enumerate((tmp_path / "run", tmp_path / "run" / "student.keras")):
        report = export(source, tmp_path / f"{number}.keras", progress=False)
        assert report["parity"] and report["max_abs_difference"] == 0
        assert same_weights(tf_keras.models.load_model(tmp_path / f"{number}.keras"), model)


def test_a_difference_above_the_tolerance_is_reported(images, tmp_path, family):
    model = drifting_model(family)
    report = export(model, tmp_path / "out.keras", images=images, progress=False)
    assert not report.parity and report.max_abs_difference > 1e-3
    noise = np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 3)).astype(np.float32)
    loaded = family.models.load_model(tmp_path / "out.keras")
    assert np.abs(np.asarray(loaded(noise)) - np.asarray(model(noise))).max() > 1e-3


def test_an_existing_path_is_not_replaced(tmp_path):
    (tmp_path / "out.keras").write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(OutputError, match=r"out\.keras exists already\.\nMove it away, or give an"):
        export(dense_student(), tmp_path / "out.keras")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "refusal", "words"),
    [
        (
            "none/out.keras",
            OutputError,
            r"no directory .*/none to write out\.keras into\.\nMake it",
        ),
        ("out.h5", OutputError, r"--format keras writes a \.keras file; call it .*/out\.keras\."),
    ],
    ids=["no such folder", "another ending"],
)
def test_a_path_that_cannot_be_is_refused(tmp_path, name, refusal, words):
    with pytest.raises(refusal, match=words):
        export(dense_student(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(OptionError, match=r"--format is 'pb'; choose one of keras, savedmodel, "):
        export(dense_student(), tmp_path / "out.pb", format="pb")


def test_a_file_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(StudentError, match=r"There is no model at .*/none\.keras\.\nGive the path"):
        export(tmp_path / "none.keras", tmp_path / "out.keras")
    assert not list(tmp_path.iterdir())


def test_a_model_of_any_size_needs_to_be_told_one(tmp_path):
    layers = tf_keras.layers
    model = tf_keras.Sequential(
        [tf_keras.Input((None, None, 3)), layers.GlobalAveragePooling2D(), layers.Dense(3)]
    )
    with pytest.raises(OptionError, match=r"takes images of any size; add --image-size HEIGHTx"):
        export(model, tmp_path / "out.keras")
    assert export(model, tmp_path / "out.keras", image_size=(4, 4), progress=False)["parity"]


def test_a_bad_image_is_named(directory, images, tmp_path):
    (directory / "bee" / "00014.png").write_bytes(b"no image")
    with pytest.raises(BadImageError, match=r"'bee/00014\.png' cannot be decoded"):
        export(dense_student(), tmp_path / "out.keras", images=images, progress=False)
    assert not (tmp_path / "out.keras").exists()


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    model = dense_student()

    def save(path):
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save", save)
    with pytest.raises(
        OutputError, match=r"out\.keras cannot be written: No space left on device\."
    ):
        export(model, tmp_path / "out.keras", progress=False)
    assert not list(tmp_path.iterdir())
