"""From a directory to an exported student, from the command line and from Python."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import tf_keras
from PIL import Image
from run_helpers import SAME_LINES_FOR_BOTH, command, dense_student

import streamkd as kd

CLASSES = ("blue", "green", "red")
# Students are right on every image here; twice chance leaves room for other hardware.
CHANCE = 1 / len(CLASSES)
# Nats: KL(teacher ‖ student) was 0.004 after eight epochs.
MAX_KL = 0.1


def draw_colors(root, num_images, seed):
    """Noisy 10×12 photographs, as JPEG and PNG, in which one colour is stronger."""
    rng = np.random.default_rng(seed)
    for number in range(num_images):
        name = CLASSES[number % 3]
        (root / name).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 180, (10, 12, 3))
        pixels[..., 2 - CLASSES.index(name)] += 60
        ending = "png" if number % 2 else "jpg"
        Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number:03d}.{ending}")
    return root


def color_teacher(family):
    """A teacher, ending in softmax, that compares the mean colours."""
    layers = family.layers
    teacher = family.Sequential(
        [
            family.Input((8, 8, 3)),
            layers.Rescaling(1 / 255),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    teacher.set_weights([40 * np.eye(3)[::-1], np.zeros(3)])
    return teacher


@pytest.fixture
def world(tmp_path, monkeypatch):
    """train and val, an untrained student, and a teacher that knows the colours."""
    monkeypatch.chdir(tmp_path)
    draw_colors(tmp_path / "train", 60, seed=1)
    draw_colors(tmp_path / "val", 30, seed=2)
    dense_student().save("student.keras")
    color_teacher(tf_keras).save("teacher.keras")
    return tmp_path


def test_from_the_command_line(world, capsys):
    assert command(capsys, "scan", "train", "--check")[1]["formats"] == {"jpeg": 30, "png": 30}
    words = ("teach", "train", "--teacher", "teacher.keras", "--out", "s.h5")
    taught = command(capsys, *words)[1]
    assert taught["rows_done"] == 60 and taught["teacher_accuracy"] > 0.95
    assert command(capsys, "verify", "s.h5", "--images", "train")[1]["sound"] is True
    words = ("train", "train", "--store", "s.h5", "--student", "student.keras", "--out", "run")
    options = ("--validation", "val", "--epochs", 8, "--batch-size", 10, "--learning-rate", 0.02)
    code, trained, _ = command(capsys, *words, *options, "--seed", 4)
    assert code == 0 and trained["val_accuracy"] > 2 * CHANCE and trained["epochs"] == 8
    report = command(capsys, "evaluate", "run", "val")[1]
    assert report["accuracy"] == pytest.approx(trained["val_accuracy"])
    code, exported, _ = command(capsys, "export", "run", "--out", "final.keras", "--images", "val")
    assert code == 0 and exported["max_abs_difference"] == 0
    data = tf_keras.utils.image_dataset_from_directory("val", image_size=(8, 8), shuffle=False)
    model = tf_keras.models.load_model("final.keras")
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    assert model.evaluate(data, verbose=0)[1] == pytest.approx(report["accuracy"])


@SAME_LINES_FOR_BOTH  # the student of the command line is one of tf_keras
def test_from_python(world, family):
    images = kd.scan("train")
    teacher = kd.load_teacher("teacher.keras")
    store = kd.teach(images, teacher, "teacher.h5", progress=False)
    assert kd.verify("teacher.h5", images=images, progress=False).sound
    stream = kd.join(images, store, batch_size=10, seed=1)
    student = dense_student(family)
    distiller = kd.Distiller(
        student, optimizer="adamw", learning_rate=0.02, temperature=4.0, label_weight=0.1
    )
    history = distiller.fit(
        stream, epochs=8, validation=kd.scan("val"), run="runs/first", progress=False
    )
    before = kd.evaluate(dense_student(family), kd.scan("val"), progress=False)
    report = kd.evaluate(distiller.student, kd.scan("val"), progress=False)
    assert report["accuracy"] > 2 * CHANCE and report["nll"] < before["nll"]
    assert report["accuracy"] == pytest.approx(history.last["val_accuracy"])
    assert distiller.student is student
    exported = kd.export(distiller.student, "final.keras", images=kd.scan("val"), progress=False)
    assert exported["parity"] and kd.evaluate("final.keras", kd.scan("val"), progress=False)[
        "nll"
    ] == pytest.approx(report["nll"])
    on_train = kd.evaluate("runs/first", images, store=store, progress=False)
    assert on_train["agreement"] > 2 * CHANCE and on_train["kl_to_teacher"] < MAX_KL


def test_a_distilled_student_comes_nearer_to_the_teacher_than_one_from_labels(world):
    images = kd.scan("train")
    store = kd.teach(images, kd.load_teacher("teacher.keras"), "teacher.h5", progress=False)
    divergence = {}
    for label_weight in (0.0, 1.0):
        stream = kd.join(images, store, batch_size=10, seed=1)
        distiller = kd.Distiller(
            dense_student(), optimizer="adam", learning_rate=0.02, label_weight=label_weight
        )
        distiller.fit(stream, epochs=8, progress=False)
        report = kd.evaluate(distiller.student, images, store=store, progress=False)
        divergence[label_weight] = report["kl_to_teacher"]
    assert divergence[0.0] < divergence[1.0]


@pytest.mark.parametrize(
    "family", ["tf_keras", pytest.param("keras", marks=pytest.mark.slow)], indirect=True
)
def test_a_teacher_of_keras_3_teaches_students_of_both_families(world, family):
    """The student hears of no label."""
    teacher = color_teacher(importlib.import_module("keras"))
    images, val = kd.scan("train"), kd.scan("val")
    store = kd.teach(images, teacher, "s.h5", image_size=(8, 8), progress=False)
    stream = kd.join(images, store, batch_size=10, seed=1)
    options = {"optimizer": "adam", "learning_rate": 0.02, "label_weight": 0.0}
    distiller = kd.Distiller(dense_student(family), **options)
    history = distiller.fit(stream, epochs=8, validation=val, progress=False)
    assert history.last["val_accuracy"] > 2 * CHANCE
    # It was 8.5 after the first epoch and 0.8 after the last.
    assert history.last["distillation_loss"] < history.epochs[0]["distillation_loss"] / 4
    report = kd.evaluate(distiller.student, images, store=store, progress=False)
    assert report["agreement"] > 2 * CHANCE and report["kl_to_teacher"] < MAX_KL
