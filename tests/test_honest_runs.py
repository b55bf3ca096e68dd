"""Runs, stores and evaluations do nothing behind a user's back.

Each of these once passed unnoticed: a stale student after a kill, logits of another store after a
resume, an evaluation against a file that is no longer there.
"""

from __future__ import annotations

import fcntl
import os
import shutil

import numpy as np
import pytest
import tf_keras
from helpers import EncodingTeacher, draw_image
from run_helpers import dense_student, fit, snapshot

from streamkd.cli.main import main
from streamkd.errors import (
    ChangedImageError,
    DiskFullError,
    OptionError,
    OutputError,
    ResumeError,
    RunBusyError,
    StudentError,
    TeacherError,
)
from streamkd.manifest.manifest import scan
from streamkd.models.output_kind import to_logits
from streamkd.results.evaluate import evaluate
from streamkd.runs import checkpoint
from streamkd.stream.join import join
from streamkd.teachers.teach import teach


@pytest.fixture(scope="module")
def stream(shared):
    return join(scan(shared[0]), shared[1], batch_size=8, seed=3)


@pytest.fixture(scope="module")
def trained(stream, tmp_path_factory):
    """A finished run of one epoch; its optimizer is the user's own."""
    run = tmp_path_factory.mktemp("trained") / "run"
    fit(stream, run=run, **trained_with())
    return run


def trained_with():
    """The options of `trained`."""
    return {"optimizer": tf_keras.optimizers.SGD(0.25)}


@pytest.fixture
def run(trained, tmp_path):
    """A copy of `trained`."""
    return shutil.copytree(trained, tmp_path / "run")


def test_a_full_disk_under_no_resume_leaves_the_old_run(stream, run, monkeypatch):
    before = snapshot(run)

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "sync_file", full)
    with pytest.raises(DiskFullError, match="Earlier checkpoints are kept"):
        fit(stream, run=run, resume=False, **trained_with())
    assert snapshot(run) == before


@pytest.mark.filterwarnings("ignore:The teacher .* is right on")  # it is wrong on purpose
def test_a_run_does_not_resume_with_other_logits_of_the_same_images(images, run, tmp_path):
    class Teacher(EncodingTeacher):
        def __call__(self, pixels):
            return -super().__call__(pixels)

    other = teach(images, Teacher(), tmp_path / "other.h5", image_size=(8, 8), progress=False)
    with pytest.raises(ResumeError, match="started with another store"):
        fit(join(images, other, batch_size=8, seed=3), run=run, **trained_with())


def test_a_run_does_not_resume_with_other_settings_of_ones_own_optimizer(stream, run):
    with pytest.raises(ResumeError, match="started with another optimizer"):
        fit(stream, run=run, optimizer=tf_keras.optimizers.SGD(0.5))


def test_a_run_that_lost_its_configuration_is_refused(stream, run):
    (run / "config.json").unlink()
    with pytest.raises(ResumeError, match=r"config\.json is missing"):
        fit(stream, run=run, **trained_with())


def test_the_same_code_twice_in_one_session_resumes(stream, tmp_path):
    """Keras numbers its automatic names: the second model is called sequential_1."""

    def student():
        layers = tf_keras.layers
        return tf_keras.Sequential(
            [layers.Input((8, 8, 3)), layers.Flatten(), layers.Dense(3, activation="softmax")]
        )

    for _ in range(2):
        fit(stream, student(), tmp_path / "run")


def test_a_second_process_training_into_a_run_is_refused(stream, run):
    before = snapshot(run)
    descriptor = os.open(run, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(RunBusyError, match=r"Another process is training into .*run"):
        fit(stream, run=run, **trained_with())
    os.close(descriptor)
    assert snapshot(run) == before
    fit(stream, run=run, **trained_with())


def test_an_evaluation_refuses_an_image_that_changed(directory, store):
    draw_image(directory / "bee" / "00014.png", 4321, 1)
    with pytest.raises(ChangedImageError, match=r"'bee/00014\.png' is not the file") as refusal:
        evaluate(dense_student(), scan(directory), store=store, progress=False)
    assert refusal.value.key == b"bee/00014.png"


@pytest.mark.parametrize("wrong", [np.nan, -0.5], ids=["no number", "negative"])
def test_numbers_that_are_no_probabilities_become_no_logits(wrong):
    answers = np.full((4, 3), 1 / 3, np.float32)
    answers[2, 1] = wrong
    with pytest.raises(TeacherError, match=r"taken as probabilities, .*row 2 of a batch of 4"):
        to_logits(answers, "probabilities")


def test_labels_alone_without_a_label_is_refused(directory, store):
    unlabelled = join(scan(directory, labels=None), store, batch_size=8)
    with pytest.raises(OptionError, match="none of the images has a label that counts"):
        fit(unlabelled, label_weight=1.0)


@pytest.mark.filterwarnings("ignore:The teacher .* is right on")  # it has learnt nothing
def test_a_sigmoid_teacher_is_not_distilled_as_softmax(images, tmp_path):
    teacher = dense_student(activation="sigmoid")
    path = tmp_path / "sigmoid.h5"
    store = teach(images, teacher, path, color_mode="rgb", progress=False)
    with pytest.raises(StudentError, match=r"and not both.\n  sigmoid: the teacher of .* ends in"):
        fit(join(images, store, batch_size=8), dense_student(activation="softmax"))
    fit(join(images, store, batch_size=8), label_weight=1.0)


def test_validation_needs_the_class_names_of_the_store(directory, images, tmp_path):
    path = tmp_path / "nameless.h5"
    unlabelled = scan(directory, labels=None)
    store = teach(unlabelled, EncodingTeacher(), path, image_size=(8, 8), progress=False)
    with pytest.raises(OptionError, match="taught without class names"):
        fit(join(unlabelled, store, batch_size=8), validation=images)


def test_a_manifest_does_not_replace_another_file(images, tmp_path):
    precious = tmp_path / "precious.h5"
    precious.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists, and is no manifest"):
        images.write(precious)
    assert precious.read_bytes() == b"precious"
    images.write(tmp_path / "images.jsonl")
    images.write(tmp_path / "images.jsonl")


def test_train_refuses_a_subset_that_it_would_not_take(directory, store, tmp_path, capsys):
    words = ["train", directory, "--student", "x.keras", "--out", tmp_path / "run"]
    assert main([*map(str, words), "--validation-split", "0.2", "--subset", "validation"]) == 2
    assert "Leave --subset out" in capsys.readouterr().err


def test_half_a_flag_is_no_flag(directory, capsys):
    assert main(["scan", str(directory), "--js"]) == 2
    assert "--js" in capsys.readouterr().err


def test_a_flat_directory_can_be_verified(images, store, tmp_path, capsys):
    flat = tmp_path / "flat"
    flat.mkdir()
    for number in range(4):
        draw_image(flat / f"{number}.png", number)
    path = tmp_path / "flat.h5"
    teach(scan(flat, labels=None), EncodingTeacher(), path, image_size=(8, 8), progress=False)
    assert main(["verify", str(path), "--images", str(flat), "--quiet"]) == 0
