"""Every prefix of the writer's system calls, and power cuts in which unsynced writes are lost.

The calls are recorded once and replayed onto fresh directories. Whatever state results: it opens
or is not there yet, every row that it gives out is right, and every row that was acknowledged is
given out.
"""

import json
import os
import random
import re
import shutil
import sys

import fault_helpers
import h5py
import numpy as np
import pytest
import store_helpers as helpers
from fault_helpers import Disk, SystemCalls, killed_states, power_cut
from process_helpers import finished

from streamkd.errors import StoreError
from streamkd.store.collection import open_store
from streamkd.store.writer import StoreWriter

NAME = "s.h5"
# Rows of 2,000 bytes, blocks of up to 12,000: most writes have page boundaries inside.
NUM_IMAGES, SHAPE = 7, {"num_views": 2, "num_classes": 1000}


def create(path):
    helpers.create(path, NUM_IMAGES, **SHAPE)


def rows_of(blocks):
    """Returns the rows of some blocks of three images and two views."""
    return {row for block in blocks for row in range(6 * block, min(6 * block + 6, 14))}


def run_pass(directory, **arguments):
    """Creates the store if it is not there, teaches what is pending; returns the calls."""
    path = directory / NAME
    with SystemCalls(directory, **arguments) as calls:
        if not path.exists():
            create(path)
        helpers.fill(path, acknowledged=calls.say)
        calls.say("finished")
    return calls.log


@pytest.fixture
def reference(tmp_path):
    """The bytes of the store that nothing disturbed."""
    (tmp_path / "reference").mkdir()
    helpers.teach(tmp_path / "reference" / NAME, NUM_IMAGES, **SHAPE)
    return (tmp_path / "reference" / NAME).read_bytes()


@pytest.fixture
def whole_pass(tmp_path):
    """The calls of one pass from nothing to a finished store, with what it said."""
    (tmp_path / "whole").mkdir()
    return run_pass(tmp_path / "whole")


@pytest.fixture
def repair(tmp_path, reference):
    """A finished store with damage in block 1, and the calls of the pass that repairs it."""
    directory = tmp_path / "repair"
    directory.mkdir()
    (directory / NAME).write_bytes(reference)
    helpers.flip_bit(directory / NAME, helpers.extents_of(directory / NAME)["logits"][0] + 13_000)
    start = Disk({NAME: (directory / NAME).read_bytes()})
    return start, run_pass(directory, disk=start)


def is_finished(store):
    """Returns whether the summary is there, and whole."""
    try:
        return store.finished
    except StoreError:
        return False


class Checker:
    """Checks states in fresh directories; counts what it saw.

    Attributes:
      num_states, num_absent, num_lost, num_wrong: states; those without a store; rows that were
        acknowledged and are not given out; rows given out that are wrong.
      num_believed_wrong: rows that are wrong where `done` says that they are there; a checksum
        keeps them from being given out.
    """

    def __init__(self, tmp_path, reference, *, always=frozenset()):
        self.directory = tmp_path / "state"
        self.reference = reference
        self.always = set(always)
        self.num_states = self.num_absent = self.num_lost = self.num_wrong = 0
        self.num_believed_wrong = 0

    def check(self, state, *, resume):
        """Looks at a state as a user would: read it, and resume the pass."""
        self.num_states += 1
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir()
        state.disk.write_to(self.directory)
        path = self.directory / NAME
        blocks = {word for word in state.said if isinstance(word, int)}
        acknowledged = rows_of(blocks) | self.always
        if path.exists():
            self._read(path, acknowledged, "finished" in state.said)
        else:
            self.num_absent += 1
            self.num_lost += len(acknowledged) + ("finished" in state.said)
        if resume:
            self._resume(path, blocks)

    def _read(self, path, acknowledged, finished):
        store = open_store(path)
        given = fault_helpers.rows_given(store)
        expected = helpers.logits_of(range(store.rows_total), store.num_classes)
        wrong = {row for row, logits in given.items() if not np.array_equal(logits, expected[row])}
        self.num_wrong += len(wrong)
        self.num_lost += len(acknowledged - set(given)) + (finished and not is_finished(store))
        with h5py.File(path, "r") as file:
            done = np.flatnonzero(file["done"][:])
            stored = file["logits"][:].reshape(store.rows_total, -1)[done]
        self.num_believed_wrong += int((stored != expected[done]).any(axis=1).sum())

    def _resume(self, path, blocks):
        if not path.exists():
            create(path)
        with StoreWriter(path) as writer:
            assert not blocks & set(writer.pending_blocks().tolist())
        helpers.fill(path)
        assert path.read_bytes() == self.reference
        assert os.listdir(self.directory) == [NAME], "something half-made was left behind"

    @property
    def counts(self):
        return self.num_states, self.num_lost, self.num_wrong


def test_a_block_is_called_done_only_when_its_rows_are_on_the_disk(tmp_path, whole_pass):
    start, num_bytes = helpers.extents_of(tmp_path / "whole" / NAME)["done"]
    is_synced, num_blocks = True, 0
    for event in whole_pass:
        if event.kind == "sync":
            is_synced = True
        elif event.kind == "write":
            is_done = start <= event.offset < start + num_bytes and any(event.data)
            assert is_synced or not is_done
            is_synced, num_blocks = False, num_blocks + is_done
    assert num_blocks == 3


@pytest.mark.parametrize(
    "step", [pytest.param(5, id="every fifth"), pytest.param(1, id="every", marks=pytest.mark.slow)]
)
def test_every_prefix_of_the_calls_opens_and_believes_no_wrong_row(
    tmp_path, reference, whole_pass, repair, step
):
    seen = {}
    kept = rows_of([0, 2])  # block 1 is the damaged one
    for name, start, log, always in (
        ("whole pass", Disk(), whole_pass, set()),
        ("repair", *repair, kept),
    ):
        checker = Checker(tmp_path, reference, always=always)
        for number, state in enumerate(killed_states(start, log)):
            if number % step == 0:
                checker.check(state, resume=True)
        print(f"{name}: {len(log)} calls, {checker.num_states} states, {checker.num_absent} absent")
        assert checker.num_lost == checker.num_wrong == 0
        seen[name] = checker
    assert not seen["whole pass"].num_believed_wrong
    assert seen["whole pass"].num_states * step > len(whole_pass) + 20, "no page was torn"
    assert seen["whole pass"].num_absent and not seen["repair"].num_absent


@pytest.mark.parametrize(
    "step", [pytest.param(5, id="every fifth"), pytest.param(1, id="every", marks=pytest.mark.slow)]
)
def test_a_process_that_takes_over_from_a_killed_one_leaves_the_same_bytes(
    tmp_path, reference, whole_pass, step
):
    named = next(number for number, event in enumerate(whole_pass) if event.kind == "link") + 1
    for stop_after in {named, *range(0, len(whole_pass), step)}:
        directory = tmp_path / f"killed-{stop_after}"
        directory.mkdir()
        run_pass(directory, stop_after=stop_after)
        run_pass(directory)
        assert (directory / NAME).read_bytes() == reference
        assert os.listdir(directory) == [NAME]


def passes_after_a_kill(tmp_path, log, stops):
    """Yields the calls of a pass killed after some of them, followed by those of the next pass."""
    calls = [event for event in log if event.kind != "said"]
    for stop_after in stops:
        directory = tmp_path / f"after-{stop_after}"
        directory.mkdir()
        first = run_pass(directory, stop_after=stop_after % len(calls))
        disk = Disk()
        for event in first:
            disk.apply(event)
        yield len(first), first + run_pass(directory, disk=disk)


@pytest.mark.parametrize(
    "num_states",
    [pytest.param(80, id="80"), pytest.param(2000, id="2000", marks=pytest.mark.slow)],
)
def test_power_cuts_lose_no_acknowledged_row(tmp_path, reference, whole_pass, repair, num_states):
    chance = random.Random(7)
    whole, repaired, chained = (Checker(tmp_path, reference) for _ in range(3))
    repaired.always = rows_of([0, 2])
    for number in range(num_states * 2 // 5):
        at = chance.randint(0, len(whole_pass))
        whole.check(power_cut(Disk(), whole_pass, at, chance), resume=number % 4 == 0)
    start, log = repair
    for number in range(num_states // 5):
        at = chance.randint(0, len(log))
        repaired.check(power_cut(start, log, at, chance), resume=number % 4 == 0)
    # The page cache outlives a killed process: what it left unsynced, the next pass builds upon.
    stops = range(0, len(whole_pass), 1 if num_states == 2000 else 9)
    chains = list(passes_after_a_kill(tmp_path, whole_pass, stops))
    for number in range(num_states * 2 // 5):
        num_first, log = chains[number % len(chains)]
        at = chance.randint(num_first, len(log))
        chained.check(power_cut(Disk(), log, at, chance), resume=number % 4 == 0)
    for name, checker in (("whole", whole), ("repaired", repaired), ("chained", chained)):
        print(f"{name}: {checker.num_states} states, {checker.num_absent} without a store")
    assert whole.num_states + repaired.num_states + chained.num_states == num_states
    for checker in (whole, repaired, chained):
        assert checker.num_lost == checker.num_wrong == 0


@pytest.mark.parametrize("kind", ["link", "write"])
def test_a_pass_relies_on_nothing_that_a_killed_one_left_unsynced(
    tmp_path, reference, whole_pass, kind
):
    # Killed when the store had its name, or its summary; the directory, or the file, not synced.
    calls = [event for event in whole_pass if event.kind != "said"]
    last = max(number for number, event in enumerate(calls) if event.kind == kind)
    [(_, log)] = passes_after_a_kill(tmp_path, whole_pass, [last + 1])
    assert [event for event in log if event.kind != "said"][last] == calls[last]
    assert log[-1].name == "finished"
    chance, checker = random.Random(1), Checker(tmp_path, reference)
    for _ in range(20):
        checker.check(power_cut(Disk(), log, len(log), chance), resume=False)
    assert checker.counts == (20, 0, 0)


def test_a_disk_that_lies_about_syncs_loses_rows_and_the_checksums_tell(
    tmp_path, reference, whole_pass
):
    # What the two tests above would show if the writer did not wait for the disk.
    chance, checker = random.Random(3), Checker(tmp_path, reference)
    for _ in range(60):
        at = chance.randint(len(whole_pass) // 2, len(whole_pass))
        checker.check(power_cut(Disk(), whole_pass, at, chance, syncs=False), resume=False)
    assert checker.num_lost > 60
    assert checker.num_believed_wrong > 20
    assert checker.num_wrong == 0


TRACED = """
import json, sys
from pathlib import Path
import test_store_replay
log = test_store_replay.run_pass(Path(sys.argv[1]))
print(json.dumps([[event.kind, event.offset, len(event.data)] for event in log]))
"""
# Each system call that can change a file or a directory, and what it is called in the log.
KINDS = {
    "pwrite64": "write",
    "ftruncate": "size",
    "fallocate": "size",
    "fdatasync": "sync",
    "fsync": "sync",
    "link": "link",
    "unlink": "unlink",
}
OTHERS = "write,writev,pwritev,pwritev2,truncate,rename,renameat,renameat2,linkat,unlinkat,"
OTHERS += "mkdir,symlink,sendfile,copy_file_range,splice,msync,mmap"


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_the_recording_misses_no_call_that_strace_sees(tmp_path):
    directory, trace = tmp_path / "traced", tmp_path / "trace"
    directory.mkdir()
    strace = ["strace", "-f", "-y", "-o", trace, "-e", f"trace={','.join(KINDS)},{OTHERS},openat"]
    out, _ = finished("-c", TRACED, directory, interpreter=[*strace, sys.executable])
    recorded = [tuple(event) for event in json.loads(out)]
    recorded = [event for event in recorded if event[0] != "said"]
    lines = trace.read_text().splitlines()
    seen = [line for line in lines if str(directory) in line and " = -1 " not in line]
    traced = []
    for line in seen:
        name = re.match(r"\d+ +(\w+)\(", line).group(1)
        if name == "openat":
            if "O_CREAT" in line:
                traced.append("create")
        elif name == "mmap":
            assert "PROT_WRITE" not in line or "MAP_PRIVATE" in line, line
        else:
            directory_sync = name == "fsync" and f"<{directory}>" in line
            traced.append("sync_directory" if directory_sync else KINDS[name])
    assert traced == [event[0] for event in recorded]
    sizes = [int(m.group(1)) for line in seen if (m := re.search(r"pwrite64.*= (\d+)$", line))]
    assert sizes == [event[2] for event in recorded if event[0] == "write"]
    assert len(traced) > 50
