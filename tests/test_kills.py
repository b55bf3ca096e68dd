"""`streamkd teach` killed with SIGKILL in the middle of a write, twice, and started again.

The process is a real one, typed as a user would. It is stopped at a chosen write, half of which is
on the disk by then, and waits there until it is killed: no clock plays a part. Hundreds of kills at
random moments are in `test_teach_kills.py`, which is slow.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import pytest
from helpers import draw_directory
from run_helpers import exact_teacher
from timeouts import TIMEOUT_SECS

from streamkd.cli.main import main

ROOT = Path(__file__).resolve().parent.parent
NUM_IMAGES, BATCH_SIZE = 60, 4
# Datasets that the pass fills row by row.
ROW_DATASETS = ("logits", "content", "row_crc32")
# Python imports this module at its start: it stops one write half-way, says so, and waits.
SITECUSTOMIZE = """
import itertools, os, threading

write, numbers = os.pwrite, itertools.count(1)

def stop_half_way(descriptor, data, offset):
    if next(numbers) != int(os.environ["STOPPED_WRITE"]):
        return write(descriptor, data, offset)
    write(descriptor, bytes(data)[: len(data) // 2], offset)
    os.write(int(os.environ["STOPPED_PIPE"]), b"stopped")
    threading.Event().wait()

os.pwrite = stop_half_way
"""


@pytest.fixture
def work(tmp_path):
    """A folder with images, a teacher, and what every Python started there imports first."""
    draw_directory(tmp_path / "images", {"ant": 25, "bee": 15, "cat": 20})
    exact_teacher().save(tmp_path / "teacher.keras")
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "sitecustomize.py").write_text(SITECUSTOMIZE)
    return tmp_path


def words(out: str) -> list[str]:
    flags = f"--teacher teacher.keras --batch-size {BATCH_SIZE} --out {out} --quiet"
    return ["teach", "images", *flags.split()]


def kill_at_write(work: Path, number: int) -> None:
    """Runs the command up to its `number`-th write, and kills it there."""
    receiver, sender = os.pipe()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(work / "first"), str(ROOT)]),
        "STOPPED_WRITE": str(number),
        "STOPPED_PIPE": str(sender),
    }
    command = [sys.executable, "-m", "streamkd", *words("killed.h5")]
    with subprocess.Popen(
        command, cwd=work, env=environment, pass_fds=[sender], stderr=subprocess.PIPE
    ) as process:
        try:
            os.close(sender)
            # Without a word the pipe ends where the process does.
            stopped = os.read(receiver, 16)
        finally:
            process.kill()
            _, errors = process.communicate(timeout=TIMEOUT_SECS)
            os.close(receiver)
    assert stopped == b"stopped" and process.returncode == -9, errors.decode()


def finish(work: Path) -> None:
    command = [sys.executable, "-m", "streamkd", *words("killed.h5")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=work, env=environment, check=True, timeout=TIMEOUT_SECS)


def rows_of(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns which images are done, bool `[images]`, and all rows, as any HDF5 tool reads them."""
    with h5py.File(path, "r", locking=False) as file:
        return file["done"][:, 0] == 1, {name: file[name][:] for name in ROW_DATASETS}


def test_a_pass_that_is_killed_twice_loses_no_row_and_ends_with_the_same_bytes(work, monkeypatch):
    monkeypatch.chdir(work)
    with mock.patch("os.pwrite", side_effect=os.pwrite) as writes:
        assert main(words("whole.h5")) == 0
    _, expected = rows_of(work / "whole.h5")
    done = np.zeros(NUM_IMAGES, bool)
    # From the second start on, the store is there and a third of its blocks are done.
    for number in (writes.call_count // 3, writes.call_count // 3):
        kill_at_write(work, number)
        done_before = done
        done, rows = rows_of(work / "killed.h5")
        assert done[done_before].all() and done_before.sum() < done.sum() < NUM_IMAGES
        for name in ROW_DATASETS:
            np.testing.assert_array_equal(rows[name][done], expected[name][done])
    finish(work)
    assert (work / "killed.h5").read_bytes() == (work / "whole.h5").read_bytes()
    names = {path.name for path in work.iterdir() if not path.name.endswith(".lock")}
    assert names == {"first", "images", "teacher.keras", "whole.h5", "killed.h5"}
