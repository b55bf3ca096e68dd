"""The cost of keeping the answers of a teacher that answers 1,000 images a second.

    python tests/benchmarks/writing.py --directory DIRECTORY      on a real disk, not in memory

The teacher is made up, in two kinds: one that sleeps while it answers, as a process does whose GPU
works, and one that computes on two cores, a fixed amount of work that takes as long. It is asked
for blocks of 64 images of 1,000 classes. Ten blocks without a store, ten with
`StoreWriter.write_block` (which returns when the block is on the disk) and ten with
`BackgroundWriter` (which commits a block while the teacher answers the next) take turns, another
one first in every round. The cost is the time on top of the ten blocks without a store in the same
round. A last table shows where the time of `write_block` goes.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from common import cpu_seconds, made_up_header, rotated

from streamkd import disk
from streamkd.keys import Keys
from streamkd.store import writer
from streamkd.store.background_writer import BackgroundWriter
from streamkd.store.creation import create_store
from streamkd.store.writer import StoreWriter

NUM_CLASSES, BLOCK_IMAGES = 1000, 64
SECONDS_A_BLOCK = BLOCK_IMAGES / 1000
BUFFER = bytes(4 << 20)
WITHOUT, AT_ONCE, BEHIND = "without a store", "write_block", "BackgroundWriter"
WAYS = (WITHOUT, AT_ONCE, BEHIND)

Teacher = Callable[[], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default=Path())
    parser.add_argument("--blocks", type=int, default=10, help="a round")
    parser.add_argument("--rounds", type=int, default=25)
    args = parser.parse_args()
    logits = np.random.default_rng(0).standard_normal((BLOCK_IMAGES, NUM_CLASSES), np.float32)
    teachers = {"sleeps": sleeping(logits), "computes": computing(logits)}
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        for kind, teacher in teachers.items():
            compare(kind, teacher, Path(directory), args.blocks, args.rounds)
        shares_of_write_block(logits, Path(directory), args.blocks * args.rounds)


def sleeping(logits: np.ndarray) -> Teacher:
    """Returns a teacher that answers 1,000 images a second and leaves the processor alone."""

    def answer() -> np.ndarray:
        time.sleep(SECONDS_A_BLOCK)
        return logits.copy()

    return answer


def computing(logits: np.ndarray) -> Teacher:
    """Returns a teacher that answers about 1,000 images a second with all of two cores."""
    pool = ThreadPoolExecutor(2)

    def work(num_buffers: int) -> None:
        for _ in range(num_buffers):
            hashlib.blake2b(BUFFER[: 1 << 18]).digest()

    def both(num_buffers: int) -> None:
        list(pool.map(work, [num_buffers] * 2))

    start = time.perf_counter()
    both(100)
    num_buffers = round(100 * SECONDS_A_BLOCK / (time.perf_counter() - start))

    def answer() -> np.ndarray:
        both(num_buffers)
        return logits.copy()

    return answer


def compare(kind: str, teacher: Teacher, directory: Path, num_blocks: int, rounds: int) -> None:
    """Prints wall and CPU time without a store, with `write_block`, and in the background."""
    walls: dict[str, list[float]] = {way: [] for way in WAYS}
    cpus: dict[str, list[float]] = {way: [] for way in WAYS}
    with contextlib.ExitStack() as stack:
        paths = [new_store(directory / f"{kind}-{n}.h5", num_blocks * rounds) for n in range(2)]
        at_once, behind = (stack.enter_context(StoreWriter(path)) for path in paths)
        background = stack.enter_context(BackgroundWriter(behind))
        for round_number in range(rounds):
            start = round_number * num_blocks
            blocks = range(start, start + num_blocks)
            ways: dict[str, Callable[[], None]] = {
                WITHOUT: lambda blocks=blocks: answer_only(teacher, blocks),
                AT_ONCE: lambda blocks=blocks: write(teacher, at_once, at_once, blocks),
                BEHIND: lambda blocks=blocks: write(teacher, behind, background, blocks),
            }
            for name in rotated(ways, round_number):
                wall, cpu = time.perf_counter(), cpu_seconds()
                ways[name]()
                walls[name].append(time.perf_counter() - wall)
                cpus[name].append(cpu_seconds() - cpu)
    images = num_blocks * BLOCK_IMAGES
    columns = f"{'images/s':>10}{'CPU µs/image':>14}{'cost':>8}{'CPU cost':>10}"
    print(f"\na teacher that {kind:<18}{columns}")
    for name in WAYS:
        costs = np.array(walls[name]) / walls[WITHOUT] - 1
        more = 1e6 * (np.array(cpus[name]) - cpus[WITHOUT]) / images
        low, high = np.percentile(costs, [25, 75])
        print(
            f"{name:<33}{images / np.median(walls[name]):>10,.0f}"
            f"{1e6 * np.median(cpus[name]) / images:>14.1f}{np.median(costs):>8.1%}"
            f"{np.median(more):>7.0f} µs   half of the rounds: {low:.1%} to {high:.1%}",
            flush=True,
        )


def answer_only(teacher: Teacher, blocks: range) -> None:
    for _ in blocks:
        teacher()


def write(
    teacher: Teacher, store: StoreWriter, target: StoreWriter | BackgroundWriter, blocks: range
) -> None:
    for block in blocks:
        target.write_block(block, teacher(), content_digests_of(store, block))
    if isinstance(target, BackgroundWriter):
        target.wait()


def shares_of_write_block(logits: np.ndarray, directory: Path, num_blocks: int) -> None:
    """Prints where the time of `write_block` goes."""
    spent: dict[str, float] = {}

    def watched(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            start = time.perf_counter()
            try:
                return work(*args)
            finally:
                spent[name] = spent.get(name, 0.0) + time.perf_counter() - start

        return run

    disk.sync = watched("two fdatasyncs", disk.sync)
    disk.write_at = watched("pwrite of rows, digests, checksums, done", disk.write_at)
    writer.row_crc32 = watched("checksums of the rows", writer.row_crc32)
    writer.hash_keys = watched("hashes of the keys", writer.hash_keys)
    writer.check_range = watched("range check of the logits", writer.check_range)
    path = new_store(directory / "shares.h5", num_blocks)
    with StoreWriter(path) as store:
        pending = store.pending_blocks().tolist()
        spent.clear()
        start = time.perf_counter()
        for block in pending:
            store.write_block(block, logits, content_digests_of(store, block))
        total = time.perf_counter() - start
    print(f"\n{'write_block':<44}{1e3 * total / num_blocks:>8.2f} ms a block")
    spent["everything else, conversion to float16 first"] = total - sum(spent.values())
    for name, value in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"    {name:<44}{1e3 * value / num_blocks:>4.2f} ms {value / total:>5.0%}")


def content_digests_of(store: StoreWriter, block: int) -> np.ndarray:
    images = store.images_of_block(block)
    return np.arange(images.start, images.stop, dtype=np.uint64)


def new_store(path: Path, num_blocks: int) -> Path:
    """Creates a store without rows."""
    num_images = num_blocks * BLOCK_IMAGES
    header = made_up_header(num_images, NUM_CLASSES, block_rows=BLOCK_IMAGES)
    keys = Keys.from_list(b"train/%08d.jpg" % number for number in range(num_images))
    create_store(path, header, keys, np.full(num_images, -1))
    return path


if __name__ == "__main__":
    main()
