"""SIGINT, SIGTERM and SIGKILL on a real `streamkd train`: the same command resumes the run."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from helpers import EncodingTeacher, draw_directory
from process_helpers import paused
from resume_helpers import what_remains
from run_helpers import command, dense_student, same_weights
from timeouts import TIMEOUT_SECS

from streamkd.cli.main import main
from streamkd.manifest.manifest import scan
from streamkd.models.families import load_model
from streamkd.teachers.teach import teach

NUM_EPOCHS = 4
# Runs the command line, and pauses right after a call of a method of `RunDirectory`.
PAUSING = """
import os, sys
from streamkd.cli.main import main
from streamkd.runs.run_directory import RunDirectory
pipe, method, call = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
real, calls = getattr(RunDirectory, method), []
def pausing(self, *arguments):
    real(self, *arguments)
    calls.append(method)
    if len(calls) == call:
        os.write(pipe, b".")
        sys.stdin.read()
setattr(RunDirectory, method, pausing)
sys.exit(main(sys.argv[4:]))
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """images, teacher.h5, student.keras, and `whole`, a run that nothing stopped."""
    root = tmp_path_factory.mktemp("work")
    images = scan(draw_directory(root / "images", {"ant": 31, "bee": 29, "cat": 30}))
    teach(images, EncodingTeacher(), root / "teacher.h5", image_size=(8, 8), progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        dense_student("keras").save("student.keras")
        assert main([*words("whole"), "--quiet"]) == 0
    return root


def words(out="run"):
    flags = f"--student student.keras --batch-size 3 --epochs {NUM_EPOCHS} --jit off"
    return ["train", "images", "--store", "teacher.h5", "--out", out, *flags.split()]


def resume_to_the_end(capsys):
    """Types the same command again; asserts that the run ends as the one that nothing stopped."""
    code, answer, _ = command(capsys, *words())
    assert code == 0 and (answer["epochs"], answer["steps"]) == (NUM_EPOCHS, 30 * NUM_EPOCHS)
    assert what_remains(Path("run")) == what_remains(Path("whole"))
    students = [load_model(Path(run, "student.keras")) for run in ("run", "whole")]
    assert same_weights(*students)


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
def test_a_signal_saves_the_run_and_the_same_command_resumes_it(here, capsys, number, code, word):
    line = [*words(), "--json", "--quiet"]
    with paused(PAUSING, "write_metrics", 2, *line) as training:
        training.send_signal(number)
        out, errors = training.communicate(timeout=TIMEOUT_SECS)
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
    assert num_epochs("run") == 2
    recorded = json.loads(Path("run/config.json").read_text())["arguments"]
    assert (recorded["epochs"], recorded["jit"], recorded["store"]) == (
        NUM_EPOCHS,
        "off",
        "teacher.h5",
    )
    resume_to_the_end(capsys)


def test_a_run_that_is_killed_within_an_epoch_resumes_to_the_bit(here, capsys):
    """SIGKILL in the second, while a checkpoint is complete but does not have its name yet."""
    line = [*words(), "--save-every", "7", "--quiet"]
    with paused(PAUSING, "write_config", 6, *line) as training:
        training.kill()
        training.communicate(timeout=TIMEOUT_SECS)
    assert training.returncode == -signal.SIGKILL
    names = sorted(path.name for path in Path("run/checkpoints").iterdir())
    assert names == ["step-0000000028", "step-0000000030", "step-0000000035.tmp"]
    assert num_epochs("run") == 1
    resume_to_the_end(capsys)
