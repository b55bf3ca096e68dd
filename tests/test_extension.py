"""A run takes more epochs than before, and a command that is given again says what it did."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from helpers import EncodingTeacher, draw_image
from resume_helpers import after, fit, what_remains
from run_helpers import command, dense_student, snapshot

import streamkd as kd
from streamkd.errors import OptionError, ResumeError
from streamkd.runs.extension import earlier_plans, replanned

SMALL = {"image_size": (8, 8), "progress": False}


@pytest.fixture(scope="module")
def stream(shared):
    return kd.join(kd.scan(shared[0]), shared[1], batch_size=8, seed=3)


@pytest.fixture(scope="module")
def finished(stream, tmp_path_factory):
    """A finished run of two epochs along a cosine."""
    run = tmp_path_factory.mktemp("finished") / "run"
    fit(stream, dense_student(), run, epochs=2)
    return run


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def config_of(run):
    return json.loads((run / "config.json").read_text())


# A constant learning rate: nothing was planned, and the run goes on.


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "ema": 0.9, "accumulate": 2},
        pytest.param({"optimizer": "adamw", "save_every": 3}, marks=pytest.mark.slow),
    ],
    ids=lambda options: "-".join(options),
)
@pytest.mark.parametrize("steps", [None, pytest.param(3, marks=pytest.mark.slow)])
def test_an_extended_run_is_the_run_of_so_many_epochs_to_the_bit(stream, tmp_path, options, steps):
    options = {**options, "schedule": "constant"}
    fit(stream, dense_student(), tmp_path / "whole", epochs=3, **options)
    stop = None if steps is None else after(steps)
    fit(stream, dense_student(), tmp_path / "run", epochs=2, stop=stop, **options)
    _, history = fit(stream, dense_student(seed=5), tmp_path / "run", epochs=3, **options)
    assert what_remains(tmp_path / "run") == what_remains(tmp_path / "whole")
    assert (history.outcome, len(history.epochs)) == ("resumed", 3)
    before = snapshot(tmp_path)
    words = r"--epochs is 1, and the run .*run has done 3\.\nGive at least as many, or start again"
    with pytest.raises(OptionError, match=words):
        fit(stream, dense_student(), tmp_path / "run", epochs=1, extend=True, **options)
    assert snapshot(tmp_path) == before


# A cosine: planned for its epochs, and planned again only when that is asked for.


def cosine(step, num_steps, rate=0.001, warm_up=0.05):
    first = min(int(np.ceil(warm_up * num_steps)), num_steps - 1)
    return rate * (1 + np.cos(np.pi * (step - first) / (num_steps - first))) / 2


def test_more_epochs_than_planned_are_refused_with_what_to_type(stream, run):
    before = snapshot(run)
    with pytest.raises(ResumeError) as refusal:
        fit(stream, dense_student(), run, epochs=3)
    assert str(refusal.value) == (
        f"The run {run} was started with 2 epochs, and 3 are asked for now.\nIts learning rate or "
        "its other schedules were planned for these epochs. To go on along the schedules of 3 "
        "epochs from the step that the run has reached, add `--extend` (extend=True in Python); "
        "the student is then not that of a run of 3 from its beginning. To train the student of "
        f"this run anew, give `--student {run} --out {run}-longer`; to start again, add "
        "`--no-resume`."
    )
    assert snapshot(run) == before


def test_fewer_epochs_than_planned_are_refused_even_if_it_may_be_extended(stream, run):
    with pytest.raises(ResumeError) as refusal:
        fit(stream, dense_student(), run, epochs=1, extend=True)
    assert str(refusal.value) == (
        f"The run {run} was started with 2 epochs, and 1 is asked for now.\nIts learning rate or "
        "its other schedules were planned for 2, so a run cannot be made shorter. Give "
        "`--epochs 2`, or another `--out`; to start again, add `--no-resume`."
    )


def test_an_extended_cosine_goes_on_along_that_of_the_larger_number(stream, run, tmp_path, capsys):
    whole = shutil.copytree(run, tmp_path / "whole")
    options = {"epochs": 4, "progress": True}
    _, history = fit(stream, dense_student(), whole, extend=True, **options)
    words = capsys.readouterr().err
    assert (
        "extended from 2 to 4 epochs: from here on the schedules are those of 4, and the learning "
        f"rate is {cosine(8, 15):.3g}\n" in words
    )
    assert "going on at step 8 of 15\n" in words
    assert (history.outcome, history.began_at_step, len(history.epochs)) == ("extended", 8, 4)
    rates = [epoch["learning_rate"] for epoch in history.epochs]
    np.testing.assert_allclose(rates, [cosine(4, 8), 0, cosine(12, 15), 0], rtol=1e-5, atol=1e-9)
    config = config_of(whole)
    assert config["epochs"] == 4 and config["extended"] == [{"epochs": 2, "step": 8}]
    # Given again, with and without the flag, it has nothing to do.
    for extend in (True, False):
        _, history = fit(stream, dense_student(), whole, extend=extend, **options)
        assert history.outcome == "already_finished"
        assert "already finished at step 15; nothing is done" in capsys.readouterr().err
    # Stopped within the new epochs it resumes without the flag, to the bit.
    fit(stream, dense_student(), run, extend=True, stop=after(3), **options)
    _, history = fit(stream, dense_student(seed=5), run, **options)
    assert (history.outcome, history.began_at_step) == ("resumed", 11)
    assert what_remains(run) == what_remains(whole)
    assert config_of(run)["extended"] == [{"epochs": 2, "step": 8}]


def test_an_extended_run_still_refuses_other_settings(stream, run):
    with pytest.raises(ResumeError, match="was started with another temperature"):
        fit(
            stream,
            dense_student(),
            run,
            epochs=4,
            extend=True,
            temperature=2.0,
        )


def test_settings_over_the_run_are_planned_for_its_epochs_too(stream, tmp_path):
    options = {"label_weight": [(0, 0.1), (1, 1)], "schedule": "constant"}
    run = tmp_path / "run"
    fit(stream, dense_student(), run, epochs=1, **options)
    assert config_of(run)["epochs"] == 1
    with pytest.raises(ResumeError, match="was started with 1 epoch, and 2 are asked for now"):
        fit(stream, dense_student(), run, epochs=2, **options)


def test_a_run_that_did_not_record_its_epochs_goes_on():
    begun = {"label_weight": [[0, 0.1], [1, 1]], "schedule": "constant"}
    assert replanned("r", begun, {**begun, "epochs": 2}, extend=False) == (
        {**begun, "epochs": 2},
        None,
    )
    twice = {"extended": [{"epochs": 2, "step": 8}]}
    assert earlier_plans(twice, 4, 15)["extended"] == [
        *twice["extended"],
        {"epochs": 4, "step": 15},
    ]


@pytest.mark.parametrize(
    ("was", "now", "words"),
    [(40, 60, "40 epochs, and 60 are"), (1, 2, "1 epoch, and 2 are"), (3, 1, "3 epochs, and 1 is")],
)
def test_another_number_of_epochs_is_said_in_a_sentence(was, now, words):
    with pytest.raises(ResumeError, match=rf"^The run r was started with {words} asked for now"):
        replanned("r", {"epochs": was}, {"epochs": now}, extend=False)


def test_a_plan_that_is_not_a_number_is_left_to_the_comparison():
    for begun in ({"epochs": "three"}, {}):
        assert replanned("r", begun, {"epochs": None}, extend=True) == (begun, None)
    assert earlier_plans({}, None, 8) == {}
    assert earlier_plans({"extended": None}, 2, 8) == {"extended": [{"epochs": 2, "step": 8}]}


# Commands that are given again.


def test_teach_says_what_it_did(tmp_path, directory, capsys):
    images, path = kd.scan(directory), tmp_path / "s.h5"
    teacher = EncodingTeacher()
    options = {"image_size": (8, 8), "batch_size": 8}

    def stopping(pixels):
        if teacher.num_calls >= 2:
            raise KeyboardInterrupt
        return teacher(pixels)

    stopping_teacher = kd.load_teacher(stopping, name="t")
    with pytest.raises(KeyboardInterrupt):
        kd.teach(images, stopping_teacher, path, **options)
    assert "going on" not in capsys.readouterr().err
    whole = kd.load_teacher(EncodingTeacher(), name="t")
    done = kd.open_store(path).rows_done
    kd.teach(images, whole, path, **options)
    assert f"going on at image {done} of 30, in {path}\n" in capsys.readouterr().err
    kd.teach(images, whole, path, **options)
    assert (
        f"already finished: no image is new or has changed since {path}; nothing is done\n"
        in capsys.readouterr().err
    )
    draw_image(directory / "cat" / "new.png", 30, 2)
    kd.teach(kd.scan(directory), whole, path, **options)
    assert "already finished" not in capsys.readouterr().err


def test_import_and_merge_say_what_they_did(tmp_path, images, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("l.npy", np.eye(3, dtype=np.float32)[images.labels] * 9)
    images.write("k.jsonl")
    words = ["import", "l.npy", "--keys", "k.jsonl", "--images", "images", "--out", "s.h5"]
    assert command(capsys, *words)[1]["outcome"] == "new"
    code, answer, errors = command(capsys, *words)
    assert (code, answer["outcome"]) == (0, "already_finished")
    assert "already finished: s.h5 has all 30 images; nothing is done\n" in errors
    for outcome in ("new", "already_finished"):
        code, answer, errors = command(capsys, "merge", "s.h5", "--out", "m.h5")
        assert (code, answer["outcome"]) == (0, outcome)
        assert ("already finished: m.h5" in errors) == (outcome == "already_finished")
    assert command(capsys, "merge", "s.h5", "--out", "m.h5", "--quiet")[2] == ""


@pytest.mark.slow
def test_train_says_what_it_did(shared, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dense_student("keras").save("m.keras")
    directory, store = shared
    words = ["train", directory, "--store", store.path, "--student", "m.keras", "--out", "r"]
    words += ["--batch-size", "8", "--jit", "off", "--optimizer", "sgd"]
    told = []
    for more in (["--epochs", "1"], ["--epochs", "1"], ["--epochs", "2", "--extend"]):
        code, answer, errors = command(capsys, *words, *more)
        assert code == 0
        told.append((answer["outcome"], answer["began_at_step"], answer["steps"]))
    assert told == [("new", 0, 4), ("already_finished", 4, 4), ("extended", 4, 8)]
    assert "extended from 1 to 2 epochs" in errors
    code, answer, _ = command(capsys, *words, "--epochs", "3")
    assert code == 2 and "add `--extend`" in answer["error"]["message"]
