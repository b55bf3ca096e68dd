"""`streamkd teach` killed with SIGKILL: in the middle of a write, and hundreds of times at random.

The process is a real one, typed as a user would. What was acknowledged is learned from outside: a
row that any HDF5 reader sees as done just before the blow. The pass acknowledges a block only after
that, so that this asks for more than was promised.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import pytest
from helpers import draw_directory
from process_helpers import finished, paused, running
from run_helpers import exact_teacher

from streamkd.cli.main import main
from streamkd.image_options import ImageOptions
from streamkd.manifest.manifest import scan
from streamkd.pixels.cache.pixel_cache import PixelCache
from streamkd.store.reader import LogitStore

# Datasets that the pass fills row by row.
ROW_DATASETS = ("logits", "content", "row_crc32")


def done_and_rows(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns which rows are done, bool `[rows]`, and all rows, as any HDF5 tool reads them."""
    with h5py.File(path, "r", locking=False) as file:
        return file["done"][:].reshape(-1) == 1, {name: file[name][:] for name in ROW_DATASETS}


class TestInTheMiddleOfAWrite:
    """A few images; the process waits at a chosen write until it is killed: no clock counts."""

    # Runs the command line; of the n-th write only half is on the disk when it pauses.
    PAUSING = """
import itertools, os, sys
from streamkd.cli.main import main

pipe, number = int(sys.argv[1]), int(sys.argv[2])
write, numbers = os.pwrite, itertools.count(1)

def pause_half_way(descriptor, data, offset):
    if next(numbers) != number:
        return write(descriptor, data, offset)
    write(descriptor, bytes(data)[: len(data) // 2], offset)
    os.write(pipe, b".")
    sys.stdin.read()

os.pwrite = pause_half_way
sys.exit(main(sys.argv[3:]))
"""

    @staticmethod
    def words(out: str) -> list[str]:
        flags = f"--teacher teacher.keras --batch-size 4 --out {out} --quiet"
        return ["teach", "images", *flags.split()]

    def test_a_pass_that_is_killed_twice_loses_no_row_and_ends_with_the_same_bytes(
        self, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        draw_directory(tmp_path / "images", {"ant": 25, "bee": 15, "cat": 20})
        exact_teacher().save("teacher.keras")
        with mock.patch("os.pwrite", side_effect=os.pwrite) as writes:
            assert main(self.words("whole.h5")) == 0
        _, expected = done_and_rows(tmp_path / "whole.h5")
        done = np.zeros(60, bool)
        # From the second start on, the store is there and a third of its blocks are done.
        for _ in range(2):
            number = writes.call_count // 3
            with paused(self.PAUSING, number, *self.words("killed.h5")) as process:
                process.kill()
            assert process.returncode == -9
            done_before = done
            done, rows = done_and_rows(tmp_path / "killed.h5")
            assert done[done_before].all() and done_before.sum() < done.sum() < len(done)
            for name in ROW_DATASETS:
                np.testing.assert_array_equal(rows[name][done], expected[name][done])
        assert main(self.words("killed.h5")) == 0
        assert Path("killed.h5").read_bytes() == Path("whole.h5").read_bytes()
        names = {path.name for path in tmp_path.iterdir() if path.suffix != ".lock"}
        assert names == {"images", "teacher.keras", "whole.h5", "killed.h5"}

    @pytest.mark.slow
    def test_pixels_for_training_are_whole_or_absent_and_there_before_their_rows(
        self, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        images = scan(draw_directory(tmp_path / "images", {"ant": 25, "bee": 15, "cat": 20}))
        exact_teacher().save("teacher.keras")
        with mock.patch("os.pwrite", side_effect=os.pwrite) as writes:
            assert main([*self.words("whole.h5"), *cache_in("whole")]) == 0
        options = ImageOptions.from_dict(LogitStore("whole.h5").header.images)
        everything = np.arange(len(images))
        whole = pixels_in(PixelCache.on_disk(images, options, "whole"), everything)
        for number in (writes.call_count // 3, writes.call_count // 5, 3):
            words = [*self.words("killed.h5"), *cache_in("killed")]
            with paused(self.PAUSING, number, *words) as process:
                process.kill()
            kept = PixelCache.on_disk(images, options, "killed")
            present = np.flatnonzero(kept.has(everything))
            np.testing.assert_array_equal(pixels_in(kept, present), whole[present])
            if Path("killed.h5").exists():
                assert np.isin(np.flatnonzero(done_and_rows(Path("killed.h5"))[0]), present).all()
        assert main([*self.words("killed.h5"), *cache_in("killed")]) == 0
        kept = PixelCache.on_disk(images, options, "killed")
        assert kept.has(everything).all()
        np.testing.assert_array_equal(pixels_in(kept, everything), whole)
        assert Path("killed.h5").read_bytes() == Path("whole.h5").read_bytes()


def cache_in(directory: str) -> list[str]:
    return ["--cache", "disk", "--cache-directory", directory]


def pixels_in(cache: PixelCache, indices: np.ndarray) -> np.ndarray:
    """Returns uint8 `[images, height, width, channels]`, images that the cache has."""
    out = np.empty((len(indices), *cache.canonical.shape), np.uint8)
    cache.copy_to(indices, out)
    return out


# Real images, killed at random moments.


NUM_IMAGES = 60_000
BATCH_SIZE = 16
# Of 200 kills in all: before the store is there, while it is being created, during the start-up of
# a pass that continues, and while rows are being committed.
NUM_EARLY, NUM_CREATION, NUM_START_UP, NUM_PASS = 5, 15, 40, 140


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


def command_of(images: Path, teacher: Path, out: Path) -> list[object]:
    command = ["-m", "streamkd", "teach", images, "--teacher", teacher, "--out", out, "--quiet"]
    return [*command, "--color-mode", "grayscale", "--batch-size", BATCH_SIZE]


def rows_done(out: Path) -> np.ndarray:
    """Returns the rows that are done, as any HDF5 tool sees them while the writer is at work."""
    if not out.exists():
        return np.empty(0, np.int64)
    with h5py.File(out, "r", locking=False) as file:
        return np.flatnonzero(file["done"][:])


def num_wrong_rows(out: Path, indices: np.ndarray, expected: dict[str, np.ndarray]) -> int:
    """Returns how many rows are not to the bit as in the pass that nothing disturbed."""
    _, rows = done_and_rows(out)
    wrong = np.zeros(len(indices), bool)
    for name in ROW_DATASETS:
        same = rows[name][indices] == expected[name][indices]
        wrong |= ~same.reshape(len(indices), -1).all(axis=1)
    return int(np.count_nonzero(wrong))


def schedule(chance: random.Random) -> list[str]:
    """Returns the phase in which each kill is to fall."""
    mixed = ["start-up"] * NUM_START_UP + ["pass"] * NUM_PASS
    chance.shuffle(mixed)
    return ["start-up"] * NUM_EARLY + ["creation"] * NUM_CREATION + mixed


def kill_at(phase: str, process: subprocess.Popen, out: Path, chance: random.Random) -> np.ndarray:
    """Kills a pass at a random moment of a phase; returns the rows seen as done just before."""
    if phase == "start-up":
        time.sleep(chance.uniform(0.05, 5.0))
    elif phase == "creation":
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
    finished(*command_of(mnist_train, teacher, whole))
    _, expected = done_and_rows(whole)
    chance = random.Random(5)
    acknowledged, num_before_a_store, num_in_creation = np.empty(0, np.int64), 0, 0
    phases = schedule(chance)
    for number, phase in enumerate(phases, 1):
        with running(*command_of(mnist_train, teacher, killed)) as process:
            seen = kill_at(phase, process, killed, chance)
        assert process.returncode < 0, f"the pass was over before kill {number}"
        num_before_a_store += not killed.exists()
        num_in_creation += killed.with_name(f".{killed.name}.{process.pid}.tmp").exists()
        acknowledged = np.union1d(acknowledged, seen)
        done = rows_done(killed)  # plain h5py opens the file after every kill
        lost = np.setdiff1d(acknowledged, done)
        num_wrong = num_wrong_rows(killed, done, expected) if len(done) else 0
        print(
            f"kill {number}: {phase}, {len(done):,} rows done, {len(lost)} lost, {num_wrong} wrong"
        )
        assert not len(lost) and not num_wrong
    print(
        f"{len(phases)} kills, {NUM_EARLY + NUM_CREATION + NUM_START_UP} of them in start-up and "
        f"creation: {num_before_a_store} before there was a store, {num_in_creation} with a "
        f"half-made one beside it; {len(acknowledged):,} rows acknowledged by then"
    )
    assert num_in_creation >= 3
    finished(*command_of(mnist_train, teacher, killed))
    assert killed.read_bytes() == whole.read_bytes()
    assert len(rows_done(killed)) == NUM_IMAGES
    leftovers = {path.name for path in tmp_path.iterdir()} - {"whole.h5", "killed.h5"}
    assert not {name for name in leftovers if not name.endswith(".lock")}
    if shutil.which("h5dump"):
        shown = subprocess.run(["h5dump", "-H", killed], capture_output=True, text=True, check=True)
        assert 'DATASET "logits"' in shown.stdout
    with h5py.File(killed, "r") as file:
        assert file["logits"].shape == (NUM_IMAGES, 1, 10) and os.path.getsize(killed) > 0
