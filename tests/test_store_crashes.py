"""Processes killed between, before and in the middle of writes; no acknowledged row is lost."""

import os
import random
import signal
import time

import h5py
import numpy as np
import pytest
import store_helpers as helpers
from process_helpers import finished, running

from streamkd.errors import MissingLogitsError, StoreError
from streamkd.store.collection import open_store
from streamkd.store.writer import StoreWriter


def rows_read(store):
    """Returns the rows that the store gives out; each must be right."""
    given = []
    for row in range(store.rows_total):
        try:
            logits = store.gather(np.array([row]))
        except (MissingLogitsError, StoreError):
            continue
        assert np.array_equal(logits, helpers.logits_of([row], store.num_classes))
        given.append(row)
    return given


@pytest.mark.parametrize(
    ("num_images", "step", "num_kills"),
    [
        pytest.param(5, 4, 15, id="every fourth call"),
        pytest.param(8, 1, 80, id="every call", marks=pytest.mark.slow),
    ],
)
def test_a_process_killed_at_a_system_call_loses_no_acknowledged_row(
    tmp_path, num_images, step, num_kills
):
    helpers.teach(tmp_path / "reference.h5", num_images)
    reference = (tmp_path / "reference.h5").read_bytes()
    (tmp_path / "killed").mkdir()
    killed = helpers.kill_at_calls(tmp_path / "killed", num_images, step)
    assert len(killed) >= num_kills
    for path, acknowledged in killed:
        if path.exists():
            store = open_store(path)
            assert {3 * block for block in acknowledged} <= set(rows_read(store))
            with h5py.File(path, "r") as file:
                assert file["done"].shape == (num_images, 1)
        else:
            assert not acknowledged
            helpers.create(path, num_images)
        helpers.fill(path)
        assert path.read_bytes() == reference
        assert set(os.listdir(path.parent)) <= {"s.h5", "acknowledged"}


def test_rows_torn_by_a_power_cut_are_taught_again(tmp_path):
    # Whatever subset of the last block's writes reached the disk: `done` alone, rows alone, a half.
    helpers.teach(tmp_path / "reference.h5", 9)
    reference = (tmp_path / "reference.h5").read_bytes()
    helpers.create(tmp_path / "before.h5", 9)
    helpers.fill(tmp_path / "before.h5", num_blocks=2)
    before = (tmp_path / "before.h5").read_bytes()
    helpers.fill(tmp_path / "before.h5", num_blocks=1)
    after = (tmp_path / "before.h5").read_bytes()
    changed = [i for i in range(len(before)) if before[i] != after[i]]
    rng, path = random.Random(0), tmp_path / "torn.h5"
    for _ in range(40):
        torn = bytearray(before)
        share = rng.random()
        for offset in changed:
            if rng.random() < share:
                torn[offset] = after[offset]
        path.write_bytes(torn)
        assert set(range(6)) <= set(rows_read(open_store(path)))
        helpers.fill(path)
        assert path.read_bytes() == reference


WRITER = """
import sys, time
import store_helpers as helpers
if not helpers.os.path.exists(sys.argv[1]):
    helpers.create(sys.argv[1], 12_000, num_classes=100, block_rows=10)
log = open(sys.argv[1] + ".log", "a")
def acknowledged(block):
    print(block, file=log, flush=True)
    time.sleep(0.005)
helpers.fill(sys.argv[1], acknowledged=acknowledged)
"""
# Where the kills of a chain fall: while the store is created, at the start of a process that goes
# on, and while it writes.
NUM_CREATION, NUM_START_UP, NUM_PASS = 20, 40, 150


def blocks_in(log):
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def kill_at(phase, writer, path, log, chance):
    """Kills a writer at a random moment of a phase: creation, start-up or pass."""
    before = len(blocks_in(log))
    temporary = path.with_name(f".{path.name}.{writer.pid}.tmp")
    if phase == "start-up":
        time.sleep(chance.uniform(0.0, 0.5))
    while phase == "creation" and not (temporary.exists() or path.exists()):
        pass
    while phase == "pass" and len(blocks_in(log)) == before and writer.poll() is None:
        time.sleep(0.001)
    time.sleep({"creation": chance.uniform(0, 0.01), "pass": chance.uniform(0, 0.06)}.get(phase, 0))
    writer.send_signal(signal.SIGKILL)
    writer.wait()


@pytest.mark.slow
def test_a_chain_of_kills_leaves_the_bytes_of_an_undisturbed_pass(tmp_path):
    path, log = tmp_path / "killed.h5", tmp_path / "killed.h5.log"
    chance, num_half_made = random.Random(0), 0
    mixed = ["start-up"] * NUM_START_UP + ["pass"] * NUM_PASS
    chance.shuffle(mixed)
    for phase in ["creation"] * NUM_CREATION + mixed:
        with running("-c", WRITER, path) as writer:
            kill_at(phase, writer, path, log, chance)
        assert writer.returncode < 0, "the pass ended too early to be killed often"
        num_half_made += path.with_name(f".{path.name}.{writer.pid}.tmp").exists()
        acknowledged = set(blocks_in(log))
        if not path.exists():
            assert not acknowledged
            continue
        with h5py.File(path, "r") as file:
            done = np.flatnonzero(file["done"][::10, 0])
        assert acknowledged <= set(done.tolist())
        with StoreWriter(path) as writer:
            assert not acknowledged & set(writer.pending_blocks().tolist())
    print(f"{len(mixed) + NUM_CREATION} kills, {num_half_made} of them with a half-made store;")
    print(f"{len(acknowledged):,} of 1,200 blocks acknowledged by then")
    assert num_half_made >= 3
    finished("-c", WRITER, path)
    helpers.teach(tmp_path / "reference.h5", 12_000, num_classes=100, block_rows=10)
    assert path.read_bytes() == (tmp_path / "reference.h5").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["killed.h5", "killed.h5.log", "reference.h5"]
