"""Readers of every kind beside a writer at work, and writers beside each other.

The logits of a row hold its number. The writer adds a block whenever the readers have read another
part of their rows, so that they read while it writes from beginning to end. Where a test needs a
refusal, an event or a lock makes sure that it happens: nothing depends on who is faster.
"""

import fcntl
import json
import multiprocessing
import os
import threading
import time

import h5py
import numpy as np
import pytest
import store_helpers as helpers
from process_helpers import finished
from timeouts import TIMEOUT_SECS

from streamkd.errors import MissingLogitsError, StoreBusyError, StoreError
from streamkd.store.collection import open_store
from streamkd.store.writer import StoreWriter

# float32 holds each of 40,000 rows and its quarters exactly.
SHAPE = {"num_views": 2, "num_classes": 8, "codec": "float32", "block_rows": 200}
BATCH_ROWS = 256

SPAWN, FORK = (multiprocessing.get_context(name) for name in ("spawn", "fork"))


def read_while_it_grows(store, seed, num_reads, total_reads, asked, report, start):
    """Reads random rows that are done; reports reads, wrong rows, and rows not done yet.

    Sets `asked` when a row was refused because it is not done yet.
    """
    start.wait()
    chance, counts = np.random.default_rng(seed), {"reads": 0, "wrong": 0, "refused": 0}
    num_batches = 0
    while counts["reads"] < num_reads:
        rows = chance.integers(0, store.rows_total, BATCH_ROWS)
        done = store.done_of(rows) == 1
        counts["wrong"] += wrong_rows(store, rows[done])
        counts["reads"] += int(done.sum())
        with total_reads.get_lock():
            total_reads.value += int(done.sum())
        num_batches += 1
        if num_batches % 8 == 1 and not done.all():  # by now it may be done, else it is refused
            try:
                counts["wrong"] += wrong_rows(store, rows[~done][:1])
            except MissingLogitsError:
                counts["refused"] += 1
                asked.set()
    report.put(counts)


def wrong_rows(store, rows):
    """Returns how many of the rows are not those of their number."""
    expected = helpers.logits_of(rows, store.num_classes)
    return int((store.gather(rows) != expected).any(axis=1).sum())


def write_while_it_is_read(path, total_reads, expected_reads, others_refused, asked):
    """Writes a fifth of the blocks, and another one for each part that the readers have read.

    The second block waits until other writers were refused, the last one until a reader asked for a
    row that was not done.
    """
    with StoreWriter(path) as writer:
        blocks = np.random.default_rng(0).permutation(writer.pending_blocks()).tolist()
        for number, block in enumerate(blocks):
            assert number == 0 or others_refused.wait(TIMEOUT_SECS)
            assert number < len(blocks) - 1 or asked.wait(TIMEOUT_SECS)
            part = 0.9 * number / len(blocks) - 0.2  # with hardly a row there is little to read
            while total_reads.value < expected_reads * part:
                time.sleep(0.0005)
            logits = helpers.logits_of(writer.rows_of_block(block), writer.header.num_classes)
            writer.write_block(block, logits, helpers.content_of(writer.images_of_block(block)))
        writer.finish(helpers.SUMMARY)


def read_and_write(path, num_processes, num_threads, num_reads):
    """Runs all readers and the writer; prints what the readers found. The main program of a test.

    Half of the processes are forked with the store open, half of them spawned with it pickled.
    """
    store, report, total_reads = open_store(path), SPAWN.Queue(), SPAWN.Value("q", 0)
    num_readers = 2 * num_processes + num_threads
    each, start = -(-num_reads // num_readers), SPAWN.Barrier(num_readers)
    others_refused, asked = SPAWN.Event(), SPAWN.Event()
    shared = (each, total_reads, asked, report, start)
    writing = (path, total_reads, each * num_readers, others_refused, asked)
    writer = SPAWN.Process(target=write_while_it_is_read, args=writing)
    readers = [
        context.Process(target=read_while_it_grows, args=(store, seed, *shared))
        for seed in range(num_processes)
        for context in (FORK, SPAWN)
    ] + [
        threading.Thread(target=read_while_it_grows, args=(store, 1000 + seed, *shared))
        for seed in range(num_threads)
    ]
    for worker in [*readers, writer]:  # forked ones before there are threads
        worker.start()
    while not store.rows_done:
        time.sleep(0.001)
    refusals = []
    for action in (lambda: StoreWriter(path), lambda: h5py.File(path, "r+")):
        try:
            action()
        except BlockingIOError as error:
            refusals.append(type(error).__name__)
    others_refused.set()
    reports = [report.get(timeout=TIMEOUT_SECS) for _ in readers]
    for worker in [*readers, writer]:
        worker.join()
    assert writer.exitcode == 0 and open_store(path).finished
    print(json.dumps([refusals, reports]))


def run(call, *arguments):
    """Runs a function of this module as the main program of a process without threads."""
    script = f"import json, sys, test_store_concurrency as t; t.{call}(*json.loads(sys.argv[1]))"
    return json.loads(finished("-c", script, json.dumps(arguments))[0])


@pytest.mark.parametrize(
    ("num_processes", "num_threads", "num_reads", "num_images"),
    [
        pytest.param(1, 2, 20_000, 2000, id="few"),
        pytest.param(8, 16, 1_000_000, 20_000, id="a million reads", marks=pytest.mark.slow),
    ],
)
def test_readers_beside_a_writer_read_no_wrong_row(
    tmp_path, num_processes, num_threads, num_reads, num_images
):
    path = tmp_path / "s.h5"
    helpers.create(path, num_images, **SHAPE)
    refusals, reports = run("read_and_write", str(path), num_processes, num_threads, num_reads)
    assert refusals == ["StoreBusyError", "BlockingIOError"]
    totals = {name: sum(r[name] for r in reports) for name in ("reads", "wrong", "refused")}
    print(f"{len(reports)} readers: {totals}")
    assert len(reports) == 2 * num_processes + num_threads
    assert totals["reads"] >= num_reads and totals["wrong"] == 0
    assert totals["refused"]
    rows = np.arange(2 * num_images)
    assert np.array_equal(open_store(path).gather(rows), helpers.logits_of(rows, 8))


def create_and_fill_by_turns(path, num_images, ready, is_created, is_held, was_refused):
    """Creates the store if nobody has; then writes one block at a time whenever it may.

    Args:
      path: of the store.
      num_images: of the store.
      ready, is_created, is_held: barriers of all contenders, the last two also of their parent,
        which holds the store's lock between the last barrier and everybody's first refusal.
      was_refused: semaphore that is released at the first refusal.
    """
    created = refused = 0
    ready.wait()
    try:
        helpers.create(path, num_images, num_classes=100)
        created = 1
    except StoreError as error:
        if "exists already" not in str(error):
            raise
    is_created.wait()
    is_held.wait()
    finished = False
    while not finished:
        try:
            helpers.fill(path, num_blocks=1)
        except StoreBusyError:
            refused += 1
            if refused == 1:
                was_refused.release()
        finished = open_store(path).finished
    os.write(1, json.dumps([created, refused]).encode() + b"\n")


def contend(path, num_processes, num_images):
    """Lets processes create and fill one store against each other; prints what they did."""
    ready = FORK.Barrier(num_processes)
    is_created, is_held = FORK.Barrier(num_processes + 1), FORK.Barrier(num_processes + 1)
    was_refused = FORK.Semaphore(0)
    arguments = (path, num_images, ready, is_created, is_held, was_refused)
    workers = [
        FORK.Process(target=create_and_fill_by_turns, args=arguments) for _ in range(num_processes)
    ]
    reading, writing = os.pipe()
    output = os.dup(1)
    os.dup2(writing, 1)
    for worker in workers:
        worker.start()
    is_created.wait(TIMEOUT_SECS)
    with StoreWriter(path):
        is_held.wait(TIMEOUT_SECS)
        assert all(was_refused.acquire(timeout=TIMEOUT_SECS) for _ in workers)
    for worker in workers:
        worker.join()
    os.dup2(output, 1)
    os.close(writing)
    lines = os.read(reading, 1 << 16).decode().splitlines()
    assert all(worker.exitcode == 0 for worker in workers)
    print(json.dumps([json.loads(line) for line in lines]))


@pytest.mark.parametrize(
    ("num_processes", "num_images", "num_rounds"),
    [
        pytest.param(3, 15, 1, id="three"),
        pytest.param(12, 60, 20, id="twelve", marks=pytest.mark.slow),
    ],
)
def test_writers_against_each_other_leave_the_bytes_of_one(
    tmp_path, num_processes, num_images, num_rounds
):
    helpers.teach(tmp_path / "reference.h5", num_images, num_classes=100)
    reference, num_refused = (tmp_path / "reference.h5").read_bytes(), 0
    for number in range(num_rounds):
        path = tmp_path / f"{number}.h5"
        reports = run("contend", str(path), num_processes, num_images)
        assert [created for created, _ in reports].count(1) == 1
        assert all(refused for _, refused in reports)
        num_refused += sum(refused for _, refused in reports)
        assert path.read_bytes() == reference
        path.unlink()
    print(f"{num_rounds} rounds of {num_processes} processes, refused {num_refused} times")
    assert os.listdir(tmp_path) == ["reference.h5"]


def test_a_temporary_file_that_another_maker_took_for_a_leftover_is_made_again(
    tmp_path, monkeypatch
):
    real, removed = fcntl.flock, []

    def flock_late(descriptor, kind):
        if not removed:  # between our open and our lock
            removed.extend(tmp_path.glob(".*.tmp"))
            removed[0].unlink()
        real(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", flock_late)
    helpers.teach(tmp_path / "s.h5")
    assert removed and open_store(tmp_path / "s.h5").finished
    assert os.listdir(tmp_path) == ["s.h5"]
