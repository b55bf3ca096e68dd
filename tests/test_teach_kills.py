"""The teacher pass killed with SIGKILL again and again, on real images, from the command line.

What was acknowledged is learned from outside: a row that any HDF5 reader sees as done just before
the blow. The pass acknowledges a block only after that, so that this asks for more than was
promised.
"""

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

NUM_IMAGES = 60_000
BATCH_SIZE = 16
# Of 200 kills in all: before the store is there, while it is being created, during the start-up of
# a pass that continues, and while rows are being committed.
NUM_EARLY, NUM_CREATION, NUM_START_UP, NUM_PASS = 5, 15, 40, 140
ROW_DATASETS = ("logits", "content", "row_crc32")


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


def rows_done(out: Path) -> np.ndarray:
    """Returns the rows that are done, as any HDF5 tool sees them while the writer is at work."""
    if not out.exists():
        return np.empty(0, np.int64)
    with h5py.File(out, "r", locking=False) as file:
        return np.flatnonzero(file["done"][:])


def wrong_rows(out: Path, rows: np.ndarray, whole: dict[str, np.ndarray]) -> int:
    """Returns how many of `rows` are not to the bit as in the pass that nothing disturbed."""
    wrong = np.zeros(len(rows), bool)
    with h5py.File(out, "r", locking=False) as file:
        for name in ROW_DATASETS:
            same = file[name][:][rows] == whole[name][rows]
            wrong |= ~same.reshape(len(rows), -1).all(axis=1)
    return int(np.count_nonzero(wrong))


def schedule(chance: random.Random) -> list[str]:
    """Returns where each kill is to fall."""
    mixed = ["start-up"] * NUM_START_UP + ["pass"] * NUM_PASS
    chance.shuffle(mixed)
    return ["start-up"] * NUM_EARLY + ["creation"] * NUM_CREATION + mixed


def kill_at(place: str, process: subprocess.Popen, out: Path, chance: random.Random) -> np.ndarray:
    """Kills a pass at a random moment of `place`; returns the rows seen as done just before."""
    if place == "start-up":
        time.sleep(chance.uniform(0.05, 5.0))
    elif place == "creation":
        temporary = out.with_name(f".{out.name}.{process.pid}.tmp")
        while not (temporary.exists() or out.exists()) and process.poll() is None:
            pass
        time.sleep(chance.uniform(0.0, 0.012))
    else:
        before = len(rows_done(out))
        while len(rows_done(out)) == before and process.poll() is None:
            time.sleep(0.005)
        time.sleep(chance.uniform(0.0, 0.08))
    seen = rows_done(out)
    process.kill()
    process.communicate()
    return seen


@pytest.mark.slow
def test_a_pass_killed_200_times_gives_the_same_file_to_the_byte(mnist_train, teacher, tmp_path):
    whole, killed = tmp_path / "whole.h5", tmp_path / "killed.h5"
    run_through(mnist_train, teacher, whole)
    with h5py.File(whole, "r") as file:
        expected = {name: file[name][:] for name in ROW_DATASETS}
    chance = random.Random(5)
    acknowledged, num_before_a_store, num_in_creation = np.empty(0, np.int64), 0, 0
    places = schedule(chance)
    for number, place in enumerate(places, 1):
        process = start(mnist_train, teacher, killed)
        seen = kill_at(place, process, killed, chance)
        assert process.returncode < 0, f"the pass was over before kill {number}"
        num_before_a_store += not killed.exists()
        num_in_creation += killed.with_name(f".{killed.name}.{process.pid}.tmp").exists()
        acknowledged = np.union1d(acknowledged, seen)
        done = rows_done(killed)  # plain h5py opens the file after every kill
        lost = np.setdiff1d(acknowledged, done)
        wrong = wrong_rows(killed, done, expected) if len(done) else 0
        print(f"kill {number}: {place}, {len(done):,} rows done, {len(lost)} lost, {wrong} wrong")
        assert not len(lost) and not wrong
    print(
        f"{len(places)} kills, {NUM_EARLY + NUM_CREATION + NUM_START_UP} of them in start-up and "
        f"creation: {num_before_a_store} before there was a store, {num_in_creation} with a "
        f"half-made one beside it; {len(acknowledged):,} rows acknowledged by then"
    )
    assert num_in_creation >= 3
    run_through(mnist_train, teacher, killed)
    assert killed.read_bytes() == whole.read_bytes()
    assert len(rows_done(killed)) == NUM_IMAGES
    leftovers = {path.name for path in tmp_path.iterdir()} - {"whole.h5", "killed.h5"}
    assert not {name for name in leftovers if not name.endswith(".lock")}
    if shutil.which("h5dump"):
        shown = subprocess.run(["h5dump", "-H", killed], capture_output=True, text=True, check=True)
        assert 'DATASET "logits"' in shown.stdout
    with h5py.File(killed, "r") as file:
        assert file["logits"].shape == (NUM_IMAGES, 1, 10) and os.path.getsize(killed) > 0
