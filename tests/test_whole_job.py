"""`distill`: the whole job, its directory, what it resumes, prints and refuses."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import EncodingTeacher, draw_directory
from run_helpers import (
    command,
    dense_student,
    exact_teacher,
    killed,
    refusal,
    snapshot,
    weights_of,
)

import streamkd as kd
from streamkd.cli.distill import answer_text
from streamkd.cli.main import build_parser, main
from streamkd.errors import OptionError, OutputError, ResumeError, StudentError
from streamkd.models.families import load_model
from streamkd.results import evaluate
from streamkd.runs.checkpoint import Checkpoints
from streamkd.store.writer import StoreWriter
from streamkd.whole_job import distill as distill_module
from streamkd.whole_job import job
from streamkd.whole_job.parts import parts_of
from streamkd.whole_job.student_source import StudentSource, is_trained
from streamkd.whole_job.teacher_sample import median_side

KEYS = {
    *("teacher_accuracy", "accuracy", "num_errors", "baseline_accuracy", "baseline_num_errors"),
    *("num_images", "run", "store", "report", "commands", "outcome", "warnings"),
}
DISTILL = ["distill", "images", "--teacher", "teacher.keras", "--student", "student.keras"]
DISTILL += ["--out", "run"]
SHORT = ["--epochs", "2", "--views", "2"]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """images, teacher.keras, which is always right, and student.keras."""
    root = tmp_path_factory.mktemp("whole job")
    draw_directory(root / "images", {"ant": 11, "bee": 9, "cat": 10})
    exact_teacher().save(root / "teacher.keras")
    dense_student().save(root / "student.keras")
    return root


@pytest.fixture(autouse=True)
def _few_timed(monkeypatch):
    monkeypatch.setattr(evaluate, "NUM_LATENCY_RUNS", 2)


def test_a_job_killed_at_any_step_goes_on_to_the_same_end_and_then_does_nothing(
    here, capsys, monkeypatch
):
    words = [*DISTILL, *SHORT]
    with killed(StoreWriter, "finish", call=2):  # the first is that of the sample
        main([*words, "--quiet"])
    settings = json.loads(Path("run/job.json").read_text())["settings"]
    assert settings["views"] == {"value": 2, "reason": "As given."}
    monkeypatch.setattr(job, "begin", pytest.fail)  # the settings stand
    with killed(Checkpoints, "save", call=1, after=True):
        main([*words, "--quiet"])
    assert settings["cache"]["value"] == "disk" and len(list(Path("run/pixels").iterdir())) == 2
    code, answer, errors = command(capsys, *words)
    assert code == 0 and "going on at step 1 of 2" in errors
    assert not Path("run/pixels").exists(), "the pixels go with the end of the job"
    assert set(answer) == KEYS
    assert answer["teacher_accuracy"] == 1.0 and answer["num_images"] == 6
    assert answer["accuracy"] == pytest.approx(1 - answer["num_errors"] / 6)
    assert answer["baseline_accuracy"] is None is answer["baseline_num_errors"]
    assert (answer["run"], answer["store"], answer["report"]) == ("run", "run/teacher.h5", None)
    assert answer["warnings"] == []
    recorded = json.loads(Path("run/config.json").read_text())["arguments"]
    assert recorded["settings"] == settings and recorded["student"] == "student.keras"
    for line in answer["commands"][1:]:
        typed = shlex.split(line)
        assert typed[0] == "streamkd" and build_parser().parse_args(typed[1:]).command == typed[1]

    before = snapshot(here)
    code, again, errors = command(capsys, *words)
    assert code == 0 and "the job run is already finished; nothing is done" in errors
    assert (answer["outcome"], again["outcome"]) == ("resumed", "already_finished")
    assert {**again, "warnings": [], "outcome": "resumed"} == answer
    assert main([*words, "--quiet"]) == 0
    text = capsys.readouterr().out
    assert "teacher                100.0% right" in text and "student, distilled" in text
    assert "labels alone" not in text and all(line in text for line in answer["commands"])
    for other, name, now in (
        (["--epochs", "5"], "epochs", "5"),
        (["--temperature", "3"], "temperature", "3.0"),
        (["--student", "MobileNet"], "student", "MobileNet"),
    ):
        message = refusal(capsys, *words, *other)
        assert f"started with another {name}." in message and f"now: {now}" in message
        assert "begin another job: give another `--out`" in message
    message = refusal(capsys, *DISTILL, "--views", "2")
    assert "started with another epochs.\n  job: 2\n  now: not given" in message
    image = here / "images" / "ant" / "00000.png"
    removed = image.read_bytes()
    image.unlink()
    message = refusal(capsys, *words)
    assert "The images have changed since the job run began." in message
    image.write_bytes(removed)
    assert snapshot(here / "run") == {
        name.removeprefix("run/"): data for name, data in before.items() if name.startswith("run/")
    }


@pytest.mark.slow
@pytest.mark.parametrize("views", ["0", "2"])
def test_the_printed_commands_make_the_same_students(here, capsys, views):
    code, answer, _ = command(capsys, *DISTILL, "--epochs", "2", "--views", views, "--baseline")
    assert code == 0 and answer["baseline_num_errors"] is not None
    assert answer["warnings"] == []
    answers = []
    for line in answer["commands"]:
        words = shlex.split(line)
        if words[0] == "mkdir":
            Path(words[-1]).mkdir(parents=True)
            continue
        code, made, errors = command(capsys, *words[1:])
        assert code == 0, (line, errors)
        answers.append(made)
        if words[1] == "train":
            code, _, errors = command(capsys, *words[1:])
            assert code == 0 and "already finished at step 2; nothing is done" in errors
    for mine, theirs in (("run", "distilled"), ("run/labels-alone", "labels-alone")):
        pairs = zip(
            weights_of(load_model(f"{mine}/student.keras")),
            weights_of(load_model(f"run-by-hand/{theirs}/student.keras")),
            strict=True,
        )
        assert all(np.array_equal(one, other) for one, other in pairs), mine
    assert answers[-2]["num_errors"] == answer["num_errors"]
    assert answers[-1]["num_errors"] == answer["baseline_num_errors"]
    assert answers[-2]["teacher_accuracy"] == answer["teacher_accuracy"]


@pytest.mark.slow
def test_a_baseline_may_be_asked_for_later_and_a_time_decides_the_epochs(here, capsys):
    words = [*DISTILL, "--budget", "1s", "--views", "1"]
    assert command(capsys, *words)[0] == 0
    epochs = json.loads(Path("run/job.json").read_text())["settings"]["epochs"]
    assert epochs["value"] >= 2 and "The teacher takes about" in epochs["reason"]
    before = snapshot(here / "run")
    code, answer, _ = command(capsys, *words, "--baseline")
    assert code == 0 and answer["baseline_num_errors"] is not None
    after = snapshot(here / "run")
    assert after["student.keras"] == before["student.keras"]


def test_models_in_memory_and_unlabelled_images_do(tmp_path, opened):
    shutil.copytree(draw_directory(tmp_path / "all", {"a": 14}), tmp_path / "photos")
    images = kd.scan(tmp_path / "photos" / "a", labels=None)
    student = dense_student()
    before = weights_of(student)
    report = kd.distill(
        images,
        kd.load_teacher(EncodingTeacher()),
        student,
        tmp_path / "run",
        image_size=(8, 8),
        epochs=1,
        views=0,
        loss="mse",
        optimizer="sgd",
        learning_rate=0.01,
        progress=False,
    )
    assert report.accuracy is None is report.teacher_accuracy and report.num_images == 2
    counts = [opened.count(path) for path in kd.scan(tmp_path / "run" / "train.jsonl").each_path()]
    assert counts == [2] * 12, "for the sample, and for the teacher's pass and the student"
    assert all(map(np.array_equal, weights_of(student), before)), "the user's own model stays"
    trained = weights_of(load_model(tmp_path / "run" / "student.keras"))
    assert not all(map(np.array_equal, trained, before))
    assert [line.split()[:2] for line in report.commands[1:]] == [
        ["streamkd", "train"],
        ["streamkd", "evaluate"],
    ], "what is in memory has no command; its store is read"
    assert "--loss mse" in report.commands[1] and "--optimizer sgd" in report.commands[1]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["loss"], config["optimizer"]) == ("mse", "sgd")
    with pytest.raises(ResumeError, match="started with another student"):
        StudentSource(dense_student(activation=None), directory=tmp_path / "run", seed=0).keep(
            tmp_path / "run"
        )


def test_what_does_not_fit_is_refused_before_anything_is_written(here, capsys):
    Path("names.txt").write_text("ant\nbee\ncow\n")
    for more, words in (
        (["--class-names", "names.txt"], ("images and of the teacher disagree", "'cat'")),
        (["--baseline", "--labels", "none"], ("none of the images has a label", "--baseline")),
        (["--budget", "10"], ("must be a time or a number of epochs",)),
        (["--budget", "1h", "--epochs", "3"], ("decides the epochs", "one of them out")),
        (["--subset", "training"], ("both sides of --validation-split",)),
        (["--validation", "images", "--validation-split", "0.1"], ("Leave one of them out",)),
        (["--batch-size", "25"], ("there are 24 images to learn from",)),
        (["--epochs", "0"], ("--epochs",)),
        (["--views", "0", "--crop", "0.5", "1"], ("There are no views to crop",)),
        (["--optimizer", "sgd"], ("fits adamw", "`--learning-rate 0.1`")),
        (["--optimizer", "best", "--learning-rate", "1"], ("no optimizer 'best' in tf_keras",)),
        (["--loss", "bce"], ("independent labels", "Leave `--loss` out")),
        (["--loss", "mse", "--temperature", "2"], ("the loss mse has none to set",)),
        (["--out", "images/run"], ("lies in the directory of the images",)),
    ):
        message = refusal(capsys, *DISTILL, *more)
        assert all(part in message for part in words), message
        assert not Path("run").exists() and not Path("images/run").exists()
    Path("run").mkdir()
    Path("run/config.json").write_text("{}")
    assert "run is a run of `streamkd train`" in refusal(capsys, *DISTILL)
    Path("run/config.json").unlink()
    Path("run/job.json").write_text('{"asked": {}, "settings": [], "given": []}')
    assert "run/job.json is damaged" in refusal(capsys, *DISTILL)


def test_images_that_cannot_be_split_or_told_apart_are_refused(tmp_path):
    def parts(counts, validation=None, name="images"):
        images = kd.scan(draw_directory(tmp_path / name, counts))
        return parts_of(images, validation=validation, split=0.2, seed=0, baseline=False)

    with pytest.raises(
        OptionError, match="2 of 3 classes have one image; the first is 'b'"
    ) as info:
        parts({"a": 9, "b": 1, "c": 1})
    assert "the first is 'b'" in str(info.value) and "`--validation IMAGES`" in str(info.value)
    with pytest.raises(OptionError, match="All images are of one class, 'a'"):
        parts({"a": 9}, name="one")
    both = parts({"a": 10, "b": 20}, name="two")
    assert both.validation.class_counts == [2, 4] and both.train.class_counts == [8, 16]
    again = parts({"a": 10, "b": 20}, name="two")
    assert again.validation.fingerprint == both.validation.fingerprint
    flat = kd.scan(tmp_path / "two" / "a", labels=None)
    with pytest.raises(OptionError, match="those of --validation have none"):
        parts({"a": 10, "b": 20}, validation=flat, name="two")
    assert median_side(both.train) == 8


def test_a_path_or_student_of_another_kind_is_refused(tmp_path, work):
    (tmp_path / "file").write_text("")
    teacher = kd.load_teacher(EncodingTeacher())
    with pytest.raises(OutputError, match="is a file"):
        kd.distill(work / "images", teacher, "student.keras", tmp_path / "file")
    with pytest.raises(StudentError, match="is of the type int, and no Keras model"):
        kd.distill(work / "images", teacher, 3, tmp_path / "run")


@pytest.mark.parametrize("module", ["tf_keras", "keras"])
def test_a_new_student_is_told_from_a_trained_one(module):
    import importlib

    from streamkd.training.distiller import Distiller  # noqa: F401  loads both families

    family = importlib.import_module(module)
    model = family.Sequential(
        [
            family.Input((8, 8, 3)),
            family.layers.Conv2D(2, 3),
            family.layers.BatchNormalization(),
            family.layers.GlobalAveragePooling2D(),
            family.layers.Dense(3),
        ]
    )
    assert not is_trained(model)
    model.layers[-1].bias.assign([0.0, 0.5, 0.0])
    assert is_trained(model)


@pytest.mark.parametrize(("baseline", "is_said"), [(4, True), (5, False), (None, False)])
def test_a_student_that_lost_to_labels_alone_is_said_so(baseline, is_said):
    report = distill_module.DistillReport(
        teacher_accuracy=0.9,
        accuracy=0.5,
        num_errors=5,
        baseline_accuracy=None if baseline is None else 1 - baseline / 10,
        baseline_num_errors=baseline,
        num_images=10,
        run="run",
        commands=[],
    )
    told = "The student from labels alone made fewer errors: on these images the teacher does not"
    assert (told in answer_text(report)) is is_said
