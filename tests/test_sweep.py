"""`sweep`: one stream for all students, equality with runs alone, resuming, the choice."""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import draw_directory
from PIL import Image
from run_helpers import (
    command,
    dense_student,
    exact_teacher,
    killed,
    refusal,
    same_weights,
    snapshot,
    with_last_values,
)

import streamkd as kd
from streamkd.cli import config_file
from streamkd.cli.main import build_parser, main
from streamkd.cli.signals import StopSignals
from streamkd.errors import OptionError
from streamkd.models.families import load_model
from streamkd.runs.checkpoint import Checkpoints
from streamkd.stream import columns, evaluation_batches
from streamkd.sweeps.grid import as_values, grid, text_of
from streamkd.sweeps.sweep_file import SweepFile

WORDS = ["images", "--store", "teacher.h5", "--batch-size", "8", "--epochs", "2"]
WORDS += ["--optimizer", "sgd"]
STUDENT = ["--student", "student.keras"]
SWEEP = ["sweep", *WORDS, "--out", "sweep", *STUDENT]
GRID = ["--temperature", "1", "4", "--label-weight", "0", "0.5"]
KEYS = {
    *("criterion", "num_images", "num_validation_images", "students", "best", "command", "run"),
    *("table", "picture", "warnings"),
}
# A student of random layers, whose first weights depend on the seed.
STUDENTS = """
import tf_keras

def small(num_classes, image_shape, width=4):
    layers = tf_keras.layers
    return tf_keras.Sequential([
        tf_keras.Input(image_shape), layers.Rescaling(1 / 255), layers.Conv2D(width, 3),
        layers.BatchNormalization(), layers.GlobalAveragePooling2D(), layers.Dropout(0.5),
        layers.Dense(num_classes),
    ])
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """images, teacher.h5 of a teacher that is always right, student.keras, students.py."""
    root = tmp_path_factory.mktemp("sweep")
    draw_directory(root / "images", {"ant": 11, "bee": 9, "cat": 10})
    teacher = kd.load_teacher(exact_teacher())
    kd.teach(kd.scan(root / "images"), teacher, root / "teacher.h5", progress=False)
    dense_student().save(root / "student.keras")
    return root


def done(words):
    """Runs a command that must succeed; of a flag that stands twice the last value counts."""
    assert main(with_last_values([*words, "--quiet"])) == 0


def student_of(run):
    return load_model(Path(run) / "student.keras", refusal=OptionError)


def test_students_are_those_of_train_alone_and_the_command_makes_the_best_again(here, capsys):
    code, answer, errors = command(capsys, *SWEEP, *GRID)
    assert code == 0, errors
    assert set(answer) == KEYS and answer["warnings"] == []
    assert (answer["num_images"], answer["num_validation_images"]) == (24, 6)
    rows = answer["students"]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    assert {row["status"] for row in rows} == {"finished"}
    for row in rows:
        run = Path(row["run"])
        own = ["--temperature", str(row["temperature"]), "--label-weight", str(row["label_weight"])]
        out = f"alone/{run.name}"
        split = ["sweep/train.jsonl", "--validation", "sweep/validation.jsonl"]
        done(["train", *split, *WORDS[1:], *STUDENT, *own, "--out", out])
        assert same_weights(student_of(run), student_of(out)), run
    words = shlex.split(answer["command"])
    assert words[:2] == ["streamkd", "train"]
    done(words[1:])
    assert same_weights(student_of(answer["best"]), student_of("sweep-best"))


def test_each_image_is_read_once_for_all_students(here, monkeypatch):
    read = {"train": 0, "validation": 0}
    for module, name in ((columns, "train"), (evaluation_batches, "validation")):

        def counting(paths, *, real=module.read_files, name=name, **options):
            read[name] += len(paths)
            return real(paths, **options)

        monkeypatch.setattr(module, "read_files", counting)
    done([*SWEEP, *GRID])
    num_ahead = 8 * 12  # batches that the stream reads ahead of the last
    assert 2 * 24 <= read["train"] <= 2 * 24 + num_ahead
    assert read["validation"] == 6


def test_a_sweep_killed_at_any_moment_goes_on_to_the_same_end(here, capsys):
    words = [*SWEEP, *GRID]
    done([*_out(words, "whole")])
    with killed(Checkpoints, "save", call=3, after=True):
        main([*words, "--quiet"])
    # The first student had ended then. Now three runs are whole, and two are written down.
    with killed(SweepFile, "record", call=2):
        main([*words, "--quiet"])
    finished = json.loads(Path("sweep/sweep.json").read_text())["outcomes"]
    names = ["01-temperature-1-label-weight-0", "02-temperature-1-label-weight-0.5"]
    assert list(finished) == names
    before = snapshot(here / "sweep" / "01-temperature-1-label-weight-0")
    code, answer, errors = command(capsys, *words)
    assert code == 0 and "3 of 4: 03-temperature-4-label-weight-0: val_accuracy" in errors
    assert snapshot(here / "sweep" / "01-temperature-1-label-weight-0") == before
    for row in answer["students"]:
        name = Path(row["run"]).name
        assert same_weights(student_of(row["run"]), student_of(f"whole/{name}"))
    before = snapshot(here)
    code, again, errors = command(capsys, *words)
    assert code == 0 and "the sweep sweep is already finished; nothing is done" in errors
    assert again == answer and snapshot(here) == before


def test_a_stopped_sweep_is_saved(here, capsys, monkeypatch):
    signals = iter([False, False, True])

    class Stop(StopSignals):
        def arrived(self):
            self.first = signal.SIGTERM if next(signals, True) else None
            return self.first is not None

    monkeypatch.setattr("streamkd.cli.sweep.StopSignals", Stop)
    code, answer, _ = command(capsys, *SWEEP, "--temperature", "1", "4")
    assert code == 143 and answer["error"]["code"] == "interrupted"
    assert "The sweep sweep is saved; 0 of 2 students have ended." in answer["error"]["message"]
    assert list(Path("sweep").glob("*/checkpoints/step-*"))


def test_one_that_diverges_does_not_end_the_others(here, capsys):
    words = [*SWEEP, "--learning-rate", "0.001", "1e38"]
    with pytest.warns(UserWarning, match="The student 02-learning-rate-1e.38 diverged: "):
        code, answer, _ = command(capsys, *words)
    assert code == 0 and [w["code"] for w in answer["warnings"]] == ["student_failed"]
    best, worst = answer["students"]
    assert (best["status"], worst["status"]) == ("finished", "diverged")
    assert "not finite" in worst["message"] or "not a finite" in worst["message"]
    assert worst["val_accuracy"] is None is worst["seconds"]
    rows = list(csv.DictReader(Path(answer["table"]).read_text().splitlines()))
    assert [row["status"] for row in rows] == ["finished", "diverged"]
    done([*words])  # it is not trained again
    assert "diverged" in capsys.readouterr().out
    with pytest.warns(UserWarning, match="The other students go on without it."):
        message = refusal(capsys, *_out(SWEEP, "none"), "--learning-rate", "1e38", "2e38")
    assert "None of the 2 students was trained to its end.\n  none/01" in message
    assert "lower `--learning-rate`" in message


def test_without_labels_the_teacher_decides(here, capsys):
    words = [*SWEEP, "--labels", "none", "--temperature", "1", "4", "--label-weight", "0"]
    code, answer, errors = command(capsys, *words)
    assert code == 0, errors
    assert answer["criterion"] == "kl_to_teacher"
    divergences = [row["kl_to_teacher"] for row in answer["students"]]
    assert divergences == sorted(divergences) and divergences[0] > 0
    assert answer["students"][0]["val_accuracy"] is None
    assert "--validation" not in answer["command"]
    report = kd.evaluate(answer["best"], "sweep/validation.jsonl", store="teacher.h5")
    assert report.kl_to_teacher == pytest.approx(divergences[0])
    done([*shlex.split(answer["command"])[1:]])
    assert same_weights(student_of(answer["best"]), student_of("sweep-best"))
    words = ["sweep", "images", "--labels", "none", "--student", "student.keras", "--out", "other"]
    message = refusal(capsys, *words, "--label-weight", "1", "--image-size", "8x8")
    assert "The 6 images that decide between the students have no labels" in message


def test_groups_seeds_and_students(here, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(here), *sys.path])
    Path("made.py").write_text(STUDENTS)
    words = [*SWEEP, "made:small:width=2", "--seed", "3", "4"]
    words += ["--at-once", "1", "--validation", "images", "--epochs", "1"]
    code, answer, errors = command(capsys, *words)
    assert code == 0, errors
    assert answer["num_images"] == 30 == answer["num_validation_images"]
    rows = {(row["student"], row["seed"]): row["run"] for row in answer["students"]}
    assert len(rows) == 4
    for (student, seed), run in rows.items():
        alone = ["train", *WORDS, "--validation", "images", "--epochs", "1"]
        out = f"alone/{Path(run).name}"
        done([*alone, "--student", student, "--seed", str(seed), "--out", out])
        assert same_weights(student_of(run), student_of(out)), (student, seed)
    before = snapshot(here / rows["student.keras", 3])
    resumed = rows["student.keras", 3]  # an ordinary run: `train` finds it finished
    done([*alone, *STUDENT, "--seed", "3", "--out", resumed])
    assert snapshot(here / resumed) == before


def test_refusals_come_before_anything_is_trained(here, capsys):
    before = snapshot(here)
    for words, parts in (
        (["--temperature", "1", "1.0"], ["--temperature has the value 1 twice", "Give it once."]),
        (["--temperature", "auto", "4"], ["Two settings of the grid train the same student."]),
        (["--temperature", "1", "-2"], ["temperature is -2.0; it must be a positive number."]),
        (["--loss", "mse", "--temperature", "1", "2"], ["the loss mse has none"]),
        (["--label-weight", "0", "1.5"], ["label_weight is 1.5; it must lie between 0 and 1."]),
        (["--student", "none.keras"], ["none.keras"]),
        (["--student", "none.keras", "--at-once", "1"], ["none.keras"]),
        (["--subset", "training"], ["sweep uses both sides of --validation-split"]),
        (["--validation", "images", "--validation-split", "0.5"], ["Leave one of them out."]),
        (["--epochs", "0"], ["epochs is 0; it must be a positive whole number."]),
        (["--out", "student.keras"], ["student.keras is a file"]),
        (["--out", "images/ant"], ["where a scan would take it for a class"]),
    ):
        message = refusal(capsys, *SWEEP, *words)
        assert all(part in message for part in parts), (words, message)
        assert snapshot(here) == before, words
    with pytest.raises(OptionError, match="--loss has no value, so the grid is empty"):
        kd.sweep("images", "teacher.h5", "student.keras", "sweep", loss=[])
    with pytest.raises(OptionError, match="each student needs its own"):
        kd.sweep("images", "teacher.h5", "student.keras", "sweep", optimizer=object())
    assert snapshot(here) == before


def test_a_directory_that_holds_something_else_is_refused(here, capsys):
    done([*SWEEP, "--temperature", "1", "--epochs", "1"])
    for words, parts in (
        (["--temperature", "1", "2"], ["started with another temperature.", '["1"]', '["1", "2"]']),
        (["--temperature", "1", "--batch-size", "4"], ["started with another batch_size."]),
        (["--temperature", "1", "--validation", "images"], ["started with other images."]),
    ):
        message = refusal(capsys, *SWEEP, "--epochs", "1", *words)
        assert all(part in message for part in [*parts, "`--no-resume`"]), message
    run = str(next(Path("sweep").glob("01*")))
    message = refusal(capsys, *SWEEP, "--out", run)
    assert "is a run of `streamkd train`, and no sweep began there." in message
    Path("sweep/sweep.json").write_text("{")
    message = refusal(capsys, *SWEEP, "--temperature", "1", "--epochs", "1")
    assert "sweep.json is damaged, so the settings of the sweep are not known" in message
    done([*SWEEP, "--temperature", "2", "--epochs", "1", "--no-resume"])


def test_in_python_the_command_makes_the_best_again(here):
    report = kd.sweep(
        *("images", "teacher.h5", Path("student.keras"), "sweep"),
        label_weight=[0.1, [(0, 0.1), (1, 1)]],
        validation="images",
        image_size=(8, 8),
        batch_size=8,
        epochs=1,
        optimizer="sgd",
        balance=True,
        progress=False,
    )
    assert [row["status"] for row in report.students] == ["finished", "finished"]
    assert "--image-size 8x8" in report.command and "--balance" in report.command
    done([*shlex.split(report.command)[1:]])
    assert same_weights(student_of(report.best), student_of("sweep-best"))
    with Image.open(report.picture) as picture:
        assert picture.format == "PNG" and np.ptp(np.asarray(picture)) > 0


def test_values_of_a_grid():
    settings = grid({"temperature": [1.0, "auto"], "loss": ["kd"], "seed": [0, 1]})
    assert [setting.name for setting in settings] == [
        "01-temperature-1-seed-0",
        "02-temperature-1-seed-1",
        "03-temperature-auto-seed-0",
        "04-temperature-auto-seed-1",
    ]
    assert list(settings[0].values) == ["loss", "temperature", "seed"]
    assert as_values([(0, 0.1), (1, 1)]) == [[(0, 0.1), (1, 1)]]
    assert as_values((1, 2)) == [1, 2] and as_values("kd") == ["kd"]
    assert text_of([(0.0, 0.1), (1.0, 1.0)]) == "0:0.1,1:1"
    assert (text_of(1e-4), text_of(0.1 + 0.2)) == ("0.0001", "0.30000000000000004")


def test_flags_of_a_file_make_a_grid_too(here, capsys):
    Path("flags.toml").write_text("seed = 1\n[sweep]\nlearning-rate = [0.1, 0.2]\n")
    parser = build_parser()
    args = argparse.Namespace(json=False)
    config_file.parse(parser, [*SWEEP, "--config", "flags.toml"], args)
    assert (args.seed, args.learning_rate, args.temperature) == ([1], [0.1, 0.2], ["auto"])


def _out(words, out):
    """Returns words of a sweep with another --out."""
    place = words.index("--out") + 1
    return [*words[:place], out, *words[place + 1 :]]
