"""Arguments that are something else: the refusal says what was given and where it belongs."""

import os
import re
import shutil
import tarfile
import zipfile

import h5py
import numpy as np
import pytest
import store_helpers as helpers
from helpers import draw_directory, draw_noise

from streamkd.cli.files import read_class_names
from streamkd.errors import ImagesNotFoundError, OptionError, StoreError, TeacherError
from streamkd.file_kinds import kind_of_path
from streamkd.manifest.manifest import scan
from streamkd.store.collection import open_store
from streamkd.teachers.load_teacher import load_teacher


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A directory with a file of each kind."""
    folder = tmp_path_factory.mktemp("kinds")
    draw_directory(folder / "images", {"ant": 1, "bee": 1})
    image = folder / "images" / "ant" / sorted(os.listdir(folder / "images" / "ant"))[0]
    for name in ("p.zip", "a b.zip", "m.keras", "m.pth"):
        with zipfile.ZipFile(folder / name, "w") as file:
            file.write(image, "ant/1.png")
    with zipfile.ZipFile(folder / "model", "w") as file:
        file.writestr("metadata.json", "{}")
    with tarfile.open(folder / "p.tar.gz", "w:gz") as file:
        file.add(image, "ant/1.png")
    with tarfile.open(folder / "p.tar", "w") as file:
        file.add(image, "ant/1.png")
    for ending in ("png", "jpg", "webp", "tif"):
        draw_noise(folder / f"i.{ending}", (8, 8))
    with h5py.File(folder / "x.hdf5", "w") as file:
        file["logits"] = np.zeros((2, 2), "f4")
    with h5py.File(folder / "m.h5", "w") as file:
        file.attrs["model_config"] = "{}"
    with h5py.File(folder / "w.h5", "w") as file:
        file.attrs["layer_names"] = ["dense"]
    with h5py.File(folder / "w3.h5", "w") as file:
        file.create_group("layers/dense/vars")
    # The version, the producer, and a graph of three bytes.
    (folder / "m.onnx").write_bytes(b"\x08\x08\x12\x02us\x3a\x03\x12\x01g")
    (folder / "text.onnx").write_bytes(b"\x08\x08\x12\x02us\x3a\x7f\x12\x01g")
    helpers.teach(folder / "s.h5")
    np.save(folder / "l.npy", np.zeros((2, 2), "f4"))
    np.savez(folder / "l.npz", logits=np.zeros((2, 2), "f4"))
    (folder / "p.parquet").write_bytes(b"PAR1" + bytes(range(256)) + b"PAR1")
    (folder / "m.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(64))
    (folder / "v.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(64))
    (folder / "empty").write_bytes(b"")
    (folder / "run" / "checkpoints").mkdir(parents=True)
    (folder / "run" / "config.json").write_text("{}")
    (folder / "saved").mkdir()
    (folder / "saved" / "saved_model.pb").write_bytes(b"\x08\x01")
    return folder


KINDS = [
    ("p.zip", "a ZIP archive", "Unpack it with `unzip .*p.zip`"),
    ("a b.zip", "a ZIP archive", "Unpack it with `unzip '.*a b.zip'`"),
    ("p.tar.gz", "a gzip archive", "Unpack it with `tar -xf .*p.tar.gz`"),
    ("p.tar", "a tar archive", "Unpack it with `tar -xf .*p.tar`"),
    ("i.png", "an image", "Give the directory that holds its folders of images."),
    ("i.jpg", "an image", "Give the directory"),
    ("i.webp", "an image", "Give the directory"),
    ("i.tif", "an image", "Give the directory"),
    ("v.mp4", "a video", "Give the directory"),
    ("x.hdf5", "an HDF5 file without the first line of a store", "with `streamkd import`"),
    ("s.h5", "a logit store", "Give a store as `--store`."),
    ("m.keras", "a Keras model", "Give a model as `--teacher`, as `--student`"),
    ("model", "a Keras model", "Give a model as `--teacher`, as `--student`"),
    ("m.pth", "a PyTorch model", "Save the model as a `.keras` file, or write it as ONNX"),
    ("m.tflite", "a TensorFlow Lite model", "Give a model as `--teacher`, or as MODEL of"),
    ("m.onnx", "an ONNX model", "Give a model as `--teacher`, or as MODEL of"),
    ("m.h5", "a Keras model in HDF5", "Give a model as `--teacher`, as `--student`"),
    ("w.h5", "the weights of a Keras model, without the model", "Build the model in Python"),
    ("w3.h5", "the weights of a Keras model, without the model", "and save it whole with"),
    ("l.npy", "an array of NumPy", "become a store with `streamkd import`"),
    ("l.npz", "a file of arrays of NumPy", "become a store with `streamkd import`"),
    ("p.parquet", "a Parquet file", "Write its images into one folder a class"),
    ("empty", "an empty file", "Look whether it was copied as a whole."),
]
DIRECTORIES = [
    ("run", "a run directory", "Give a run as MODEL: `streamkd evaluate RUN IMAGES`."),
    ("saved", "a SavedModel directory", "Give a model as `--teacher`, or as MODEL of"),
    ("images", "a directory", "Give a directory of images as IMAGES."),
]


@pytest.mark.parametrize(("name", "words", "use"), KINDS)
def test_what_is_given_as_images(folder, name, words, use):
    with pytest.raises(ImagesNotFoundError) as caught:
        scan(folder / name)
    first, second, last = str(caught.value).split("\n")
    assert first == f"'{folder / name}' is neither a directory nor a manifest: it is {words}."
    assert re.search(use, second), second
    assert last.startswith("Give a directory with one folder of images a class, a file written by")


@pytest.mark.parametrize(("name", "words", "use"), KINDS + DIRECTORIES)
def test_what_is_given_as_a_store(folder, name, words, use):
    if name == "s.h5":
        return
    with pytest.raises(StoreError) as caught:
        open_store(folder / name)
    first, second = str(caught.value).split("\n")
    assert first == f"{folder / name} is not a logit store: it is {words}."
    assert second.startswith("Give a file made by `streamkd teach`. ")
    assert re.search(use, second)


@pytest.mark.parametrize("name", ["images", "p.zip", "x.hdf5", "i.jpg"])
def test_what_is_given_as_a_teacher(folder, name):
    (words, use) = next(entry[1:] for entry in KINDS + DIRECTORIES if entry[0] == name)
    with pytest.raises(TeacherError, match=f"is not a `.keras` file .*; it is {words}") as caught:
        load_teacher(folder / name)
    assert re.search(use, str(caught.value))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "l.npy",
            "is no model; by its ending it may hold a model's predictions.\nMake a store of th",
        ),
        (
            "p.parquet",
            "`streamkd import {path} --images IMAGES --out S.h5`, and train from it: `str",
        ),
        ("predictions.CSV", "`streamkd import {path} --images"),
        (
            "m.joblib",
            "ends in '.joblib', and opening such a file runs code in it.\nOpen it in a func",
        ),
        (
            "models",
            "is a directory of 2 model files, and a teacher is one of them.\nGive its path, s",
        ),
        ("models", "path, such as {path}/a.onnx."),
    ],
)
def test_a_teacher_that_is_no_model_but_can_be_used(folder, name, words):
    (folder / "predictions.CSV").write_text("file_name,ant,bee\nant/1.png,0.5,0.5\n")
    (folder / "m.joblib").write_bytes(b"\x80\x04.")
    (folder / "models").mkdir(exist_ok=True)
    shutil.copy(folder / "s.h5", folder / "models" / "a.h5")
    for other in ("b.keras", "a.onnx", "notes.txt"):
        (folder / "models" / other).touch()
    with pytest.raises(TeacherError) as caught:
        load_teacher(folder / name)
    assert words.format(path=folder / name) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1, 2]", "its lines are not those of a manifest"),
        ("3", "its lines are not those of a manifest"),
        ('{\n "images": []\n}', "a line of it is no JSON object"),
        ("file_name,label\n", "a line of it is no JSON object"),
        ('{"images": []}', "no 'format'"),
        ("\x00\x01\x02", "it holds a NUL byte, and is no text"),
    ],
)
def test_texts_that_are_no_manifest_are_refused_in_plain_words(tmp_path, text, reason):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(ImagesNotFoundError) as caught:
        scan(tmp_path / "m.json")
    assert str(caught.value).split("\n")[0].endswith(f"a manifest: {reason}.")


def test_models_that_were_cut_short_are_to_be_copied_again(folder, tmp_path):
    for name in ("model", "m.h5"):
        data = (folder / name).read_bytes()
        short = tmp_path / ("short.keras" if name == "model" else "short.h5")
        short.write_bytes(data[: len(data) // 2])
    with pytest.raises(TeacherError) as caught:
        load_teacher(tmp_path / "short.keras")
    assert re.search(
        r"its zip is cut short, or .* behind it\.\nSave the model .* copy it again, as a whole\.$",
        str(caught.value),
    )
    kind = kind_of_path(tmp_path / "short.h5")
    assert kind == ("an HDF5 file that is damaged or cut short", "Copy it again, as a whole.", "")


def test_a_protocol_buffer_that_is_cut_or_is_another_is_no_onnx_model(folder):
    assert kind_of_path(folder / "text.onnx") is None
    assert kind_of_path(folder / "saved" / "saved_model.pb").use.startswith("Give the directory")


def test_what_cannot_be_read_has_no_kind(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert kind_of_path(tmp_path / "pipe") is None
    assert kind_of_path(tmp_path / "nothing") is None
    shutil.copy(__file__, tmp_path / "text")
    assert kind_of_path(tmp_path / "text") is None


def test_a_run_given_as_images_is_named(folder):
    with pytest.raises(ImagesNotFoundError, match=r"\nIt is a run directory\. Give a run as MODEL"):
        scan(folder / "run")


@pytest.mark.parametrize("path", ["", b""])
def test_an_empty_path_is_not_this_directory(path):
    with pytest.raises(ImagesNotFoundError, match="is empty, as from a shell variable"):
        scan(path)


@pytest.mark.parametrize("name", ["s.h5", "i.png", "run", "p.zip", "images"])
def test_what_is_given_as_class_names(folder, name):
    words = next(entry[1] for entry in KINDS + DIRECTORIES if entry[0] == name)
    with pytest.raises(OptionError, match=rf"one class a line\. It is {words}\. "):
        read_class_names(str(folder / name))
