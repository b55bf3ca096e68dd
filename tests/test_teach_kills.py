"""The teacher pass killed with SIGKILL again and again, on real images, from the command line."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

NUM_KILLS = 30
BATCH_SIZE = 16


@pytest.fixture(scope="module")
def mnist_train() -> Path:
    sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
    import common

    try:
        return common.data_directory("mnist") / "train"
    except SystemExit as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A convolutional teacher, saved: what its float32 sums come to depends on the grouping."""
    import tf_keras

    tf_keras.utils.set_random_seed(1)
    layers = tf_keras.layers
    model = tf_keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Conv2D(64, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    path = tmp_path_factory.mktemp("teacher") / "teacher.keras"
    model.save(path)
    return path


def start(images: Path, teacher: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "streamkd", "teach", str(images), "--teacher", str(teacher)]
    command += ["--out", str(out), "--color-mode", "grayscale", "--batch-size", str(BATCH_SIZE)]
    return subprocess.Popen([*command, "--quiet"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run_through(images: Path, teacher: Path, out: Path) -> None:
    process = start(images, teacher, out)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()


def rows_done(out: Path) -> int:
    """Reads the progress as any HDF5 tool would, while the writer may be at work."""
    if not out.exists():
        return 0
    with h5py.File(out, "r", locking=False) as file:
        return int(np.count_nonzero(file["done"][:]))


def kill_somewhere(process: subprocess.Popen, out: Path, chance: random.Random) -> str:
    """Kills a pass during its start-up, or a moment after it has begun to commit rows."""
    if chance.random() < 0.3:
        time.sleep(chance.uniform(0.05, 5.0))
        where = "start-up"
    else:
        before = rows_done(out)
        while rows_done(out) == before and process.poll() is None:
            time.sleep(0.005)
        time.sleep(chance.uniform(0.0, 0.08))
        where = "pass"
    process.kill()
    process.communicate()
    return where


@pytest.mark.slow
def test_a_pass_killed_thirty_times_gives_the_same_file_to_the_byte(mnist_train, teacher, tmp_path):
    whole, killed = tmp_path / "whole.h5", tmp_path / "killed.h5"
    run_through(mnist_train, teacher, whole)
    chance = random.Random(5)
    num_kills, least, places = 0, 0, []
    while num_kills < NUM_KILLS:
        process = start(mnist_train, teacher, killed)
        places.append(kill_somewhere(process, killed, chance))
        if process.returncode == 0:  # it was finished before the blow
            break
        num_kills += 1
        done = rows_done(killed)
        assert done >= least, "an acknowledged row was lost"
        least = done
        print(f"kill {num_kills}: during {places[-1]}, {done:,} rows done")
    assert num_kills == NUM_KILLS, f"the pass was over after {num_kills} kills"
    run_through(mnist_train, teacher, killed)
    assert killed.read_bytes() == whole.read_bytes()
    assert rows_done(killed) == 60_000
    leftovers = {path.name for path in tmp_path.iterdir()} - {"whole.h5", "killed.h5"}
    assert not {name for name in leftovers if not name.endswith(".lock")}
    if shutil.which("h5dump"):
        shown = subprocess.run(["h5dump", "-H", killed], capture_output=True, text=True, check=True)
        assert 'DATASET "logits"' in shown.stdout
    with h5py.File(killed, "r") as file:
        assert file["logits"].shape == (60_000, 1, 10) and os.path.getsize(killed) > 0
