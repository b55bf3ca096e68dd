"""SIGINT and SIGTERM on a real `streamkd train`: it is saved, and the same command goes on."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from helpers import EncodingTeacher, draw_directory
from run_helpers import command, dense_student, process, same_weights

from streamkd.cli.main import main
from streamkd.manifest.manifest import scan
from streamkd.models.families import load_model
from streamkd.teachers.teach import teach

NUM_EPOCHS = 24


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """images, teacher.h5, student.keras, and `whole`, a run that nothing stopped."""
    root = tmp_path_factory.mktemp("work")
    images = scan(draw_directory(root / "images", {"ant": 31, "bee": 29, "cat": 30}))
    teach(images, EncodingTeacher(), root / "teacher.h5", image_size=(8, 8), progress=False)
    dense_student().save(root / "student.keras")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main([*words("whole"), "--quiet"]) == 0
    return root


def words(out):
    flags = f"--student student.keras --batch-size 3 --epochs {NUM_EPOCHS} --jit off --out {out}"
    return ["train", "images", "--store", "teacher.h5", *flags.split()]


def num_epochs(run):
    metrics = Path(run, "metrics.csv")
    return len(metrics.read_text().splitlines()) - 1 if metrics.exists() else 0


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGTERM, 143, "Terminated"),
        pytest.param(signal.SIGINT, 130, "Interrupted", marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_the_run_and_the_same_command_goes_on(here, capsys, number, code, word):
    training = process("-m", "streamkd", *words("run"), "--json", "--quiet")
    deadline = time.monotonic() + 60
    while num_epochs("run") < 2 and training.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    training.send_signal(number)
    out, errors = training.communicate(timeout=60)
    assert training.returncode == code, errors
    assert errors.count("streamkd: ") == 1 and "Traceback" not in errors
    assert errors.endswith(
        "streamkd: finishing this step and saving; press Ctrl-C again to stop immediately\n"
    )
    (line,) = out.splitlines()
    error = json.loads(line)["error"]
    steps = sorted(int(path.name.split("-")[1]) for path in Path("run/checkpoints").glob("step-*"))
    assert error["code"] == "interrupted" and error["message"] == (
        f"{word}. The run is saved at step {steps[-1]} in run; the same command resumes it."
    )
    assert 2 <= num_epochs("run") < NUM_EPOCHS
    recorded = json.loads(Path("run/config.json").read_text())["arguments"]
    assert (recorded["epochs"], recorded["jit"], recorded["store"]) == (
        NUM_EPOCHS,
        "off",
        "teacher.h5",
    )
    status, answer, _ = command(capsys, *words("run"))
    assert status == 0 and (answer["epochs"], answer["steps"]) == (NUM_EPOCHS, 30 * NUM_EPOCHS)
    students = [load_model(Path(run, "student.keras")) for run in ("run", "whole")]
    assert same_weights(*students)
