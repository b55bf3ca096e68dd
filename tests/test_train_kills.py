"""Training killed with SIGKILL again and again, and restored at every single step.

What remains is compared by digest: of all tensors of the last checkpoint, weights and optimizer
among them, as TensorFlow's own reader has them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import shutil
import subprocess
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import EncodingTeacher, draw_directory
from kill_helpers import Counted, command_line, save_for_ever, start
from process_helpers import process, running
from resume_helpers import (
    metrics_of,
    restless_student,
    what_remains,
)
from run_helpers import same_weights
from timeouts import TIMEOUT_SECS

from streamkd.manifest.manifest import scan
from streamkd.models.families import load_model
from streamkd.runs.checkpoint import NUM_KEPT, Checkpoints
from streamkd.stream.join import join
from streamkd.stream.stream import Stream
from streamkd.teachers.teach import teach
from streamkd.training import distiller as distiller_module
from streamkd.training.distiller import Distiller
from streamkd.training.state import TrainingState, restorable_random_layers

pytestmark = pytest.mark.slow

# Kills of a run: at any moment of its start-up, while a checkpoint is written, while student.keras
# is, and between the steps. Every tenth life is a command with a Python of its own.
NUM_START_UP, NUM_SAVING, NUM_STUDENT, NUM_STEPS = 10, 15, 10, 15
NUM_EPOCHS = 120
NUM_SAVES, NUM_WEIGHTS = 100, 400_000


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """images, teacher.h5 and student.keras: a student that draws numbers and counts batches."""
    root = tmp_path_factory.mktemp("work")
    images = scan(draw_directory(root / "images", {"ant": 31, "bee": 29, "cat": 30}))
    teach(images, EncodingTeacher(), root / "teacher.h5", image_size=(8, 8), progress=False)
    restless_student("tf_keras").save(root / "student.keras")
    return root


def words(work: Path, out: Path) -> list[str]:
    """The command line; 15 steps an epoch, and a checkpoint after every third."""
    flags = f"--batch-size 6 --epochs {NUM_EPOCHS} --save-every 3 --jit off --optimizer adamw "
    flags += "--ema 0.9 --clip-norm 1 --class-weight balanced --label-weight 0.3 --quiet"
    paths = ["--store", work / "teacher.h5", "--student", work / "student.keras", "--out", out]
    paths += ["--validation", work / "images"]
    return list(map(str, ["train", work / "images", *paths, *flags.split()]))


class Life:
    """One process that trains."""

    def __init__(self, words: list[str], folder: Path, *, is_whole: bool) -> None:
        """Args: `is_whole`, whether it is a command with a Python of its own."""
        self._process: subprocess.Popen | None = None
        if is_whole:
            self._process = process("-m", "streamkd", *words)
        else:
            self._child = start(command_line, words, folder / "log.txt", folder / "temporary")

    def is_over(self) -> bool:
        if self._process is not None:
            return self._process.poll() is not None
        return not self._child.is_alive()

    def kill(self) -> int:
        """Kills it; returns the exit code, negative if that did it."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            return self._process.returncode
        self._child.kill()
        self._child.join()
        code = self._child.exitcode
        self._child.close()
        return code


def newest(run: Path) -> int:
    """Returns the step of the newest checkpoint; 0 where there is none."""
    steps = [int(p.name.split("-")[1]) for p in (run / "checkpoints").glob("step-*[0-9]")]
    return max(steps, default=0)


def wait_for(part: str, life: Life, run: Path, chance: random.Random) -> None:
    """Waits for a random moment of a part of a life."""
    before, deadline = newest(run), time.monotonic() + TIMEOUT_SECS

    def is_there() -> bool:
        if part == "saving":
            return any((run / "checkpoints").glob("*.tmp"))
        if part == "student":
            return (run / ".student.tmp.keras").exists()
        return newest(run) > before

    if part == "start-up":
        time.sleep(chance.uniform(0.0, 4.0))
        return
    while not is_there() and not life.is_over() and time.monotonic() < deadline:
        time.sleep(0.0005)
    time.sleep(chance.uniform(0.0, {"saving": 0.02, "student": 0.05, "steps": 0.3}[part]))


def test_a_run_killed_50_times_ends_as_if_it_had_not_been(work, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (tmp_path / "temporary", tmp_path / "alive"):
        folder.mkdir()
    finish(words(work, whole))
    chance = random.Random(6)
    parts = ["start-up"] * NUM_START_UP + ["saving"] * NUM_SAVING
    parts += ["student"] * NUM_STUDENT + ["steps"] * NUM_STEPS
    chance.shuffle(parts)
    half_written, without_progress = 0, 0
    for number, part in enumerate(parts, 1):
        before = newest(killed)
        life = Life(words(work, killed), tmp_path, is_whole=number % 10 == 0)
        wait_for(part, life, killed, chance)
        is_over, code = life.is_over(), life.kill()
        assert not is_over, f"the run was over before kill {number}"
        assert code == -9
        after, leftovers = newest(killed), len(list(killed.rglob("*.tmp*")))
        assert after >= before
        half_written += bool(leftovers)
        without_progress += after == before
        print(f"kill {number}: {part}, step {before} to {after}, {leftovers} left behind")
    print(
        f"{len(parts)} kills: {half_written} with something half written, {without_progress} "
        f"without a new checkpoint; the last at step {newest(killed)} of {NUM_EPOCHS * 15}"
    )
    assert half_written >= 10
    finish(words(work, killed))
    assert what_remains(killed) == what_remains(whole)
    assert len(metrics_of(killed)) == NUM_EPOCHS
    names = [{str(p.relative_to(run)) for p in run.rglob("*")} for run in (killed, whole)]
    assert names[0] == names[1]
    assert same_weights(*(load_model(run / "student.keras") for run in (killed, whole)))


def finish(command: list[str]) -> None:
    with running("-m", "streamkd", *command) as training:
        _, errors = training.communicate(timeout=TIMEOUT_SECS)
    assert training.returncode == 0, errors


def test_a_run_restored_at_each_of_its_steps_ends_as_if_it_had_not_been(
    family, tmp_path, monkeypatch
):
    """In one process, with the compiled steps of the first run. Every variable is spoilt before
    each life, so that all of it has to come from the checkpoint."""
    stream = stream_of_202_steps(tmp_path)
    student = restless_student(family)
    distiller = Distiller(
        student,
        optimizer="adamw",
        learning_rate=0.01,
        ema=0.9,
        clip_norm=0.5,
        label_weight=0.3,
        metrics=[family.metrics.SparseTopKCategoricalAccuracy(2, name="top2")],
        jit="off",
    )

    def train(run: Path, **more: int) -> None:
        options = {"epochs": 5, "class_weight": {"bee": 2.0}, "progress": False}
        distiller.fit(stream, run=run, **options, **more)

    made = share_what_is_compiled(monkeypatch)
    with restorable_random_layers(student, distiller.strategy):
        whole = tmp_path / "whole"
        with monkeypatch.context() as patch:
            copy_every_checkpoint(patch, tmp_path / "copies")
            train(whole, save_every=1)
        copies = sorted((tmp_path / "copies").iterdir())
        assert len(copies) == 202
        expected = what_remains(whole)
        for copy in copies:
            run = tmp_path / "run"
            shutil.copytree(copy, run / "checkpoints" / copy.name)
            shutil.copy(whole / "config.json", run)
            spoil(made["_state"][0])
            train(run)
            assert what_remains(run) == expected, copy.name
            shutil.rmtree(run)
    print(f"{len(copies)} steps restored, all alike")


def stream_of_202_steps(folder: Path) -> Stream:
    """Returns a stream with that many in five epochs; batches straddle two of them."""
    images = scan(draw_directory(folder / "images", {"ant": 54, "bee": 53, "cat": 54}))
    options = {"image_size": (8, 8), "progress": False}
    store = teach(images, EncodingTeacher(), folder / "teacher.h5", **options)
    return join(images, store, batch_size=4, seed=3)


def share_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Lets every `fit` take the variables and the steps of the first; returns them."""
    made: dict[str, Any] = {}

    def once(name: str) -> None:
        real = getattr(Distiller, name)

        def first(*args: Any) -> Any:
            if name not in made:
                made[name] = real(*args)
            return made[name]

        monkeypatch.setattr(Distiller, name, first)

    once("_state")
    once("_steps")
    # It is around all of them.
    nothing = contextlib.nullcontext()
    monkeypatch.setattr(distiller_module, "restorable_random_layers", lambda *_: nothing)
    return made


def copy_every_checkpoint(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Copies each checkpoint, once it is whole, into `folder`."""
    real = Checkpoints.save

    def save(self: Checkpoints, step: int, *args: Any, **options: Any) -> None:
        real(self, step, *args, **options)
        name = f"step-{step:010d}"
        shutil.copytree(self.directory / name, folder / name)

    patch.setattr(Checkpoints, "save", save)


def spoil(state: TrainingState) -> None:
    """Sets every variable of a run to a value that it never has."""
    for variable in [*state.changed_by_a_step(), *state.counted_by_a_step()]:
        variable.assign(np.full(variable.shape, 77, variable.dtype.as_numpy_dtype))


def test_a_save_killed_100_times_leaves_what_was_acknowledged_or_what_came_after(tmp_path):
    directory = tmp_path / "checkpoints"
    counted = Counted(NUM_WEIGHTS)
    chance = random.Random(7)
    reached, kinds = 0, Counter()
    for number in range(1, NUM_SAVES + 1):
        receiver, sender = multiprocessing.Pipe(duplex=False)
        saving = start(save_for_ever, directory, NUM_WEIGHTS, sender)
        sender.close()
        if number % 10:  # the others in their start-up, or soon after
            reached = receiver.recv()
        time.sleep(chance.uniform(0.0, 0.15 if number % 10 else 4.0))
        saving.kill()
        saving.join()
        assert saving.exitcode == -9
        saving.close()
        while receiver.poll():
            with contextlib.suppress(EOFError):
                reached = receiver.recv()
                continue
            break
        receiver.close()
        kinds.update(left_behind(directory))
        reached = check_restored(directory, counted, reached)
        assert not [name for name in left_behind(directory) if name != "checkpoint"]
    print(f"{NUM_SAVES} kills, at step {reached}: {dict(kinds)}")
    assert kinds["being written"] >= NUM_SAVES / 4


def left_behind(directory: Path) -> list[str]:
    """Returns the kind of each folder among the checkpoints."""
    kinds = {".old.tmp": "being removed", ".tmp": "being written"}
    names = [path.name for path in directory.iterdir()] if directory.exists() else []
    return [
        next((kind for end, kind in kinds.items() if name.endswith(end)), "checkpoint")
        for name in names
    ]


def check_restored(directory: Path, counted: Counted, acknowledged: int) -> int:
    """Restores the checkpoint that a kill left; returns its step, the same in every part of it."""
    checkpoints = counted.checkpoints(directory)
    checkpoints.remove_leftovers()
    counted.become(-1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is damaged, and no fallback needed
        restored = checkpoints.restore()
    if restored is None:
        assert acknowledged == 0
        return 0
    state, arrays = restored
    step = state["step"]
    assert acknowledged <= step <= acknowledged + 1
    assert state["value"] == step and counted.numbers() == {step}
    assert (arrays["of the callbacks"] == step).all()
    assert len(list(directory.iterdir())) <= NUM_KEPT
    return step
