"""When a run is saved, which of its files count, and that a run resumes from them to the bit."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from resume_helpers import (
    after,
    checkpoints_of,
    fit,
    metrics_of,
    what_remains,
)
from run_helpers import KilledError, dense_student, killed, same_weights, snapshot

from streamkd.manifest.manifest import scan
from streamkd.models.families import load_model
from streamkd.runs.run_directory import RunDirectory
from streamkd.stream.join import join
from streamkd.training import pacing
from streamkd.training.validation import Validation

STEPS_AN_EPOCH = 4  # of 8 of 30 images: batches straddle the epochs


@pytest.fixture(scope="module")
def stream(shared):
    return join(scan(shared[0]), shared[1], batch_size=8, seed=3)


@pytest.fixture(scope="module")
def whole(stream, tmp_path_factory):
    """Returns the directory of a run of the dense student that nothing stopped, by its options;
    each is trained once."""
    root, names = tmp_path_factory.mktemp("whole"), {}

    def run_of(**options):
        key = json.dumps(options, sort_keys=True)
        if key not in names:
            names[key] = root / str(len(names))
            fit(stream, dense_student(), names[key], **options)
        return names[key]

    return run_of


def test_a_run_is_saved_every_so_many_steps(stream, tmp_path, monkeypatch):
    steps = []
    real = RunDirectory.write_config
    monkeypatch.setattr(
        RunDirectory,
        "write_config",
        lambda self, config: (real(self, config), steps.append(next_step(self))),
    )

    def next_step(run):
        (path,) = run.checkpoints.glob("*.tmp")
        return int(path.name.removesuffix(".tmp").split("-")[1])

    fit(stream, dense_student(), tmp_path / "run", optimizer="sgd", epochs=2, save_every=3)
    assert steps == [3, 4, 6, 8]
    steps.clear()
    options = {"optimizer": "sgd", "epochs": 2, "save_every": 3, "steps_per_call": 32}
    fit(stream, dense_student(), tmp_path / "several", **options)
    assert steps == [3, 4, 6, 8]


def test_a_run_is_saved_after_so_many_seconds(stream, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(pacing, "SAVE_SECS", -1.0)
    options = {"optimizer": "sgd", "epochs": 2}
    with pytest.raises(KilledError):
        fit(stream, dense_student(), tmp_path / "run", stop=raising(KilledError, 3), **options)
    assert [path.name for path in checkpoints_of(tmp_path / "run")] == [
        "step-0000000001",
        "step-0000000002",
    ]
    monkeypatch.setattr(pacing, "SAVE_SECS", 600.0)
    fit(stream, dense_student(seed=3), tmp_path / "run", **options)
    assert what_remains(tmp_path / "run") == what_remains(whole(**options))


def raising(error, num_calls):
    """Returns a `stop` for `fit` that raises at that call of it."""
    stop = after(num_calls)

    def raise_if():
        if stop():
            raise error
        return False

    return raise_if


def test_an_interrupt_saves_and_is_raised_in_a_script_and_returns_in_a_notebook(
    stream, whole, tmp_path, monkeypatch
):
    options = {"optimizer": "sgd", "epochs": 2}
    with pytest.raises(KeyboardInterrupt):
        fit(
            stream, dense_student(), tmp_path / "cut", stop=raising(KeyboardInterrupt, 2), **options
        )
    assert [path.name for path in checkpoints_of(tmp_path / "cut")] == ["step-0000000002"]
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    _, history = fit(
        stream, dense_student(), tmp_path / "cut", stop=raising(KeyboardInterrupt, 3), **options
    )
    assert (history.stopped, history.step, len(history.epochs)) == (True, 5, 1)
    assert checkpoints_of(tmp_path / "cut")[-1].name == "step-0000000005"
    _, history = fit(stream, dense_student(), tmp_path / "cut", **options)
    assert not history.stopped
    assert what_remains(tmp_path / "cut") == what_remains(whole(**options))


def test_an_interrupt_between_two_epochs_resumes_from_the_checkpoint_before(
    stream, shared, tmp_path, monkeypatch
):
    """The end of an epoch is done once, or not at all."""

    def options():
        return {"optimizer": "sgd", "validation": scan(shared[0]), "save_every": 3}

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    fit(stream, dense_student(), whole, **options())
    real = Validation.run

    def interrupted(self, *arguments):
        real(self, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Validation, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(stream, dense_student(), cut, **options())
    assert [path.name for path in checkpoints_of(cut)] == ["step-0000000003"]
    fit(stream, dense_student(), cut, **options())
    assert what_remains(cut) == what_remains(whole)


@pytest.mark.parametrize("method", ["save_student", "write_metrics"])
def test_a_kill_after_the_last_checkpoint_hands_over_that_student_also_from_a_copy(
    stream, whole, tmp_path, method
):
    """In a copy all files are equally new."""
    options = {"optimizer": "sgd", "epochs": 2, "ema": 0.5}
    with killed(RunDirectory, method, call=2):
        fit(stream, dense_student(), tmp_path / "killed", **options)
    shutil.copytree(tmp_path / "killed", tmp_path / "copy", copy_function=shutil.copyfile)
    fit(stream, dense_student(seed=9), tmp_path / "copy", **options)
    assert what_remains(tmp_path / "copy") == what_remains(whole(**options))
    runs = tmp_path / "copy", whole(**options)
    assert same_weights(*(load_model(run / "student.keras") for run in runs))


def test_a_finished_run_hands_back_its_averages(stream, tmp_path):
    options = {"optimizer": "sgd", "ema": 0.9, "epochs": 1}
    first, trained = fit(stream, dense_student(), tmp_path / "run", **options)
    before = snapshot(tmp_path / "run")
    again, history = fit(stream, dense_student(seed=7), tmp_path / "run", **options)
    assert same_weights(again.student, first.student) and history.epochs == trained.epochs
    assert same_weights(load_model(tmp_path / "run" / "student.keras"), first.student)
    assert snapshot(tmp_path / "run") == before


def test_a_stop_at_the_end_of_an_epoch_and_its_end_are_two_checkpoints(stream, tmp_path):
    """Neither is written over the other: a kill meanwhile would leave none."""
    options = {"optimizer": "sgd", "epochs": 2}
    fit(stream, dense_student(), tmp_path / "run", stop=after(STEPS_AN_EPOCH), **options)
    assert [path.name for path in checkpoints_of(tmp_path / "run")] == ["step-0000000004"]
    assert not (tmp_path / "run" / "metrics.csv").exists()
    fit(stream, dense_student(), tmp_path / "run", stop=after(1), **options)
    assert [path.name for path in checkpoints_of(tmp_path / "run")] == [
        "step-0000000004-2",
        "step-0000000005",
    ]
    assert len(metrics_of(tmp_path / "run")) == 1


def test_epochs_without_a_step_of_their_own_resume_too(shared, tmp_path):
    """One batch is an epoch, and three are a step: the second and third epoch take none."""
    stream = join(scan(shared[0]), shared[1], batch_size=30)
    options = {"optimizer": "sgd", "accumulate": 3, "epochs": 4}
    fit(stream, dense_student(), tmp_path / "whole", **options)
    with killed(RunDirectory, "save_student", call=3):
        fit(stream, dense_student(), tmp_path / "cut", **options)
    assert [path.name for path in checkpoints_of(tmp_path / "cut")] == ["step-0000000001-3"]
    _, history = fit(stream, dense_student(), tmp_path / "cut", **options)
    assert [epoch["step"] for epoch in history.epochs] == [1, 1, 1, 2]
    assert what_remains(tmp_path / "cut") == what_remains(tmp_path / "whole")


def test_a_run_resumes_with_another_number_of_steps_between_checkpoints(stream, whole, tmp_path):
    options = {"optimizer": "sgd", "epochs": 2}
    run = tmp_path / "run"
    fit(stream, dense_student(), run, save_every=3, stop=after(4), **options)
    fit(stream, dense_student(seed=9), run, save_every=5, stop=after(2), **options)
    assert [path.name for path in checkpoints_of(run)] == ["step-0000000005", "step-0000000006"]
    fit(stream, dense_student(seed=8), run, **options)
    assert what_remains(run) == what_remains(whole(**options))
