"""Keras' own configuration: found where Keras looks, and refused where its import would fail."""

from __future__ import annotations

import json
import os
import sys

import pytest

from streamkd.errors import OptionError
from streamkd.models.families import TF_KERAS
from streamkd.tf_support import keras_configuration
from streamkd.tf_support.quiet_import import import_tensorflow

SOUND = {"floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last"}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(SOUND),
        json.dumps({**SOUND, "floatx": "float16", "image_data_format": "channels_first"}),
        json.dumps({"backend": "jax"}),  # said where Keras 3 is wanted
        "{}",
        "{",  # Keras passes over what is no JSON
        "",
        "\ufeff{}",
        None,
    ],
)
def test_what_keras_takes_is_taken(home, text):
    if text is not None:
        (home / "keras.json").write_text(text)
    keras_configuration.check_configuration()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"backend": "TensorFlow"}', "sets backend to 'TensorFlow'; Keras takes tensorflow, jax"),
        ('{"backend": null}', "sets backend to None; Keras takes tensorflow, jax"),
        ('{"backend": 5}', "sets backend to 5; Keras takes tensorflow, jax"),
        (
            '{"floatx": "bfloat16"}',
            "sets floatx to 'bfloat16'; Keras takes float16, float32",
        ),
        ('{"floatx": 32}', "sets floatx to 32; Keras takes"),
        ('{"floatx": ["float32"]}', "sets floatx to ['float32']; Keras takes"),
        (
            '{"image_data_format": "nchw"}',
            "sets image_data_format to 'nchw'; Keras takes",
        ),
        (
            '{"epsilon": "small"}',
            "sets epsilon to 'small'; Keras takes a number with a",
        ),
        ('{"epsilon": 1}', "sets epsilon to 1; Keras takes"),
        ('["jax"]', "keras.json, is a list, not an object."),
        ("[" * 100_000, "keras.json, cannot be read: it is nested too deep."),
    ],
)
def test_what_ends_the_import_of_keras_is_refused(home, monkeypatch, text, words):
    (home / "keras.json").write_text(text)
    monkeypatch.delitem(sys.modules, "tf_keras", raising=False)
    for use in (lambda: TF_KERAS.keras, import_tensorflow):
        with pytest.raises(OptionError) as caught:
            use()
        assert words in str(caught.value)
        assert f"Keras' configuration, {home / 'keras.json'}" in str(caught.value)
        assert "Correct the file, or move it away" in str(caught.value)


@pytest.mark.parametrize("given", ["TensorFlow", "tf", "cntk"])
def test_a_backend_that_keras_does_not_know(home, monkeypatch, given):
    (home / "keras.json").write_text('{"backend": "jax"}')
    monkeypatch.setenv("KERAS_BACKEND", given)
    with pytest.raises(OptionError) as caught:
        keras_configuration.check_configuration()
    assert f"KERAS_BACKEND is '{given}', and Keras takes tensorflow, jax" in str(caught.value)
    assert "Set KERAS_BACKEND=tensorflow and run again." in str(caught.value)
    for taken in ("", "tensorflow", "torch"):
        monkeypatch.setenv("KERAS_BACKEND", taken)
        keras_configuration.check_configuration()


def test_a_file_that_cannot_be_read(home):
    (home / "keras.json").mkdir()
    with pytest.raises(OptionError, match=r"keras.json, cannot be read: Is a directory"):
        keras_configuration.check_configuration()


@pytest.mark.parametrize("name", ["KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH"])
def test_a_limit_that_is_no_number(home, monkeypatch, name):
    monkeypatch.setenv(name, "10")
    keras_configuration.check_configuration()
    monkeypatch.setenv(name, "ten")
    with pytest.raises(OptionError, match=f"{name} is 'ten', and Keras takes a whole number"):
        keras_configuration.check_configuration()


def test_the_file_is_found_where_keras_looks(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_HOME", raising=False)
    assert keras_configuration.configuration_path() == str(tmp_path / ".keras/keras.json")
    monkeypatch.setenv("KERAS_HOME", "~/elsewhere")
    assert keras_configuration.configuration_path() == str(tmp_path / "elsewhere/keras.json")
    monkeypatch.setenv("KERAS_HOME", "")
    assert keras_configuration.configuration_path() == "keras.json"
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert keras_configuration.configuration_path() == "/tmp/.keras/keras.json"
