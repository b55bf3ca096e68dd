"""The cost of a store at ten thousand, ten million and a hundred million images.

    python tests/benchmarks/store_scale.py                                 10 thousand, 10 million
    python tests/benchmarks/store_scale.py --images 10000 100000000        7 GB of disk, 20 minutes
    python tests/benchmarks/store_scale.py --keep DIRECTORY                uses the stores again

Keys are made up; 1,000 classes in float16. The rows are sparse on disk: no room is reserved (a real
store reserves 2 KB an image in hardly any time), all rows are marked as done, and the writer,
without its syncs, writes the rows of a few blocks, spread evenly over the file. Only these rows are
read.

Every measurement runs in a process of its own. Memory is private memory (`RssAnon` of
`/proc/self/status`), in which mapped files and the page cache do not count. "Cold" is after the
file was dropped from the page cache; "warm" is random batches from the page cache, each with rows
and keys that the process has not asked for before ("first") or has ("again").
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import PeakMemory, anonymous, made_up_header, rotated

BATCH = 256
NUM_CLASSES = 1000
BLOCK_ROWS = 64
# As many rows are read of every store, so that only its size differs.
SMALLEST = 10_000
KEY_BYTES = len(b"train/n00000000/n00000000_00000000.JPEG")
MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[SMALLEST, 10_000_000])
    parser.add_argument("--join", type=int, nargs="*", default=[1_000_000, 10_000_000])
    parser.add_argument("--keep", type=Path, help="where stores stay; a temporary one by default")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        name, path, *numbers = args.child
        print(json.dumps(CHILDREN[name](path, *map(int, numbers))))
        return
    directory = args.keep or Path(tempfile.mkdtemp(prefix="streamkd-"))
    directory.mkdir(parents=True, exist_ok=True)
    try:
        for num_images in args.images:
            path = directory / f"{num_images}.h5"
            if not path.exists():
                print_row(f"create {num_images:,}", child("create", path, num_images))
            for name in ("opening", "gather", "look_up"):
                print_row(f"{name} {num_images:,}", child(name, path))
        for num_images in (n for n in args.join if n <= max(args.images)):
            path = directory / f"{max(args.images)}.h5"
            for order in range(len(ORDERS)):
                title = f"join {num_images:,}, {ORDERS[order]}"
                print_row(title, child("join", path, num_images, order))
    finally:
        if not args.keep:
            shutil.rmtree(directory)


def child(name: str, path: Path, *numbers: int) -> dict[str, float]:
    """Returns the numbers of a measurement, made in a process of its own."""
    arguments = [sys.executable, __file__, "--child", name, str(path), *map(str, numbers)]
    return json.loads(subprocess.run(arguments, check=True, stdout=subprocess.PIPE).stdout)


def print_row(title: str, values: dict[str, float]) -> None:
    print(f"\n{title}")
    for name, value in values.items():
        print(f"    {name:<52}{value:>12,.3f}", flush=True)


# Each of these runs in its own process.


def create(path: str, num_images: int) -> dict[str, float]:
    """Creates a store whose rows are sparse on disk."""
    from streamkd import disk
    from streamkd.store.creation import create_store
    from streamkd.store.writer import StoreWriter

    header = made_up_header(
        num_images, NUM_CLASSES, block_rows=BLOCK_ROWS, images={"image_size": [224, 224]}
    )
    keys = made_up_keys(num_images)
    labels = np.full(num_images, -1, np.int32)
    disk.reserve = os.ftruncate  # sparse, see above
    values = {"keys alone, MiB": anonymous() / MIB}
    with PeakMemory() as peak:
        start = time.perf_counter()
        create_store(path, header, keys, labels)
        values["create_store, s"] = time.perf_counter() - start
    values["peak private memory, MiB"] = peak.num_bytes / MIB
    del keys, labels
    disk.sync = lambda descriptor: None
    start = time.perf_counter()
    with StoreWriter(path) as writer:
        values["open the writer, s (reads keys and index)"] = time.perf_counter() - start
        for block in written_blocks(num_images).tolist():
            images = writer.images_of_block(block)
            rows = np.random.default_rng(block).standard_normal((len(images), NUM_CLASSES))
            writer.write_block(block, rows, np.arange(images.start, images.stop, dtype=np.uint64))
        mark_all_done(path, num_images)
        values["finish, s (counts all rows)"] = seconds(lambda: writer.finish({}))
    values["file, MB on disk"] = os.stat(path).st_blocks * 512 / 1e6
    values["file, MB in name"] = os.stat(path).st_size / 1e6
    return values


def opening(path: str) -> dict[str, float]:
    """Opens a store, cold and warm."""
    from streamkd.store.collection import open_store

    before = anonymous()
    drop_from_cache(path)
    values = {"open cold, ms": 1e3 * seconds(lambda: open_store(path))}
    values["open warm, ms"] = 1e3 * median_seconds([lambda: open_store(path)] * 20)
    store = open_store(path)
    values["private memory of opening, MiB"] = (anonymous() - before) / MIB
    store.gather(written_rows(store.num_images)[:BATCH])
    store.images_of_keys(some_keys(store.num_images, np.arange(BATCH)))
    values["private memory of the process in use, MiB"] = anonymous() / MIB
    return values


def gather(path: str) -> dict[str, float]:
    """Gathers rows by number."""
    import h5py

    from streamkd.store.collection import open_store

    store, random = open_store(path), np.random.default_rng(0)
    rows = written_rows(store.num_images)
    batches = [rows[random.integers(0, len(rows), BATCH)] for _ in range(400)]
    drop_from_cache(path)
    once = np.array_split(random.permutation(rows), len(rows) // BATCH)
    cold = [lambda b=b: store.gather(b) for b in once]
    values = {"gather cold and first, ms": 1e3 * median_seconds(cold)}
    store = open_store(path)
    first = [lambda b=b: store.gather(b) for b in once]
    values["gather warm and first, ms"] = 1e3 * median_seconds(first)
    with h5py.File(path, "r") as file:
        dataset = file["logits"]
        shape, offset = dataset.shape, dataset.id.get_offset()
    mapped = np.memmap(path, "<f2", "r", offset, shape)[:, 0]
    again: dict[str, list[Callable]] = {
        "gather warm and again, ms": [lambda b=b: store.gather(b) for b in batches],
        "rows as stored, warm and again, ms": [lambda b=b: store.stored_rows(b) for b in batches],
        "numpy memmap, mm[rows], ms": [lambda b=b: mapped[b] for b in batches],
    }
    for runs in again.values():
        median_seconds(runs)
    took: dict[str, list[float]] = {name: [] for name in again}
    for number in range(len(batches)):
        for name in rotated(again, number):
            took[name].append(seconds(again[name][number]))
    return values | {name: 1e3 * float(np.median(times)) for name, times in took.items()}


def look_up(path: str) -> dict[str, float]:
    """Looks images up by key."""
    from streamkd.store.collection import open_store

    store, random = open_store(path), np.random.default_rng(0)
    drawn = [random.integers(0, store.num_images, BATCH) for _ in range(300)]
    batches = [some_keys(store.num_images, images) for images in drawn]
    drop_from_cache(path)
    runs = [lambda b=b: store.images_of_keys(b) for b in batches]
    values = {"look-up cold, the first batch, ms": 1e3 * median_seconds(runs[:1])}
    values["look-up cold, the next ten, ms"] = 1e3 * median_seconds(runs[1:11])
    with open(path, "rb") as file:  # keys and index stand at the beginning
        while file.tell() < 70 * store.num_images and file.read(1 << 24):
            pass
    values["look-up warm and first, ms"] = 1e3 * median_seconds(runs[11:])
    values["look-up warm and again, ms"] = 1e3 * median_seconds(runs)
    for images, keys in zip(drawn, batches, strict=True):
        assert np.array_equal(store.images_of_keys(keys), images)
    values["private memory of the process, MiB"] = anonymous() / MIB
    absent = some_keys(store.num_images, drawn[0]).data.copy()
    absent[5::KEY_BYTES] = ord("x")
    from streamkd.keys import Keys

    nowhere = Keys(absent, batches[0].offsets)
    values["first batch of absent keys, ms (reads the index)"] = 1e3 * seconds(
        lambda: store.images_of_keys(nowhere)
    )
    values["further batches of absent keys, ms"] = 1e3 * median_seconds(
        [lambda: store.images_of_keys(nowhere)] * 20
    )
    return values


ORDERS = ("all images", "in key order, every seventh image left out", "in random order")


def join(path: str, num_images: int, order: int) -> dict[str, float]:
    """Joins a manifest of the first images of the store, or of some of them."""
    from streamkd.manifest.manifest import Manifest
    from streamkd.store.collection import open_store
    from streamkd.stream.join import join as join_stream

    images = np.arange(num_images)
    if order == 1:
        images = images[images % 7 != 3]
    keys = made_up_keys(num_images)
    if order == 2:
        np.random.default_rng(0).shuffle(images)
    if order:
        keys = keys.take(images)
    manifest = Manifest(b"/nowhere", keys, np.full(len(keys), -1, np.int32), None)
    store = open_store(path)
    values: dict[str, float] = {"keys of the manifest, MiB": keys.data.nbytes / MIB}
    values["offsets of its keys, MiB"] = keys.offsets.nbytes / MIB
    for state in ("cold", "warm"):
        if state == "cold":
            drop_from_cache(path)
        before, cpu = anonymous(), time.process_time()
        with PeakMemory() as peak:
            took = seconds(lambda: join_stream(manifest, store, progress=False))
        values[f"join {state}, s"] = took
        values[f"join {state}, CPU µs an image"] = 1e6 * (time.process_time() - cpu) / len(keys)
        values[f"join {state}, peak private memory on top, MiB"] = (peak.num_bytes - before) / MIB
    stream = join_stream(manifest, store, progress=False)
    assert np.array_equal(stream.rows, images)
    return values


CHILDREN: dict[str, Callable[..., dict[str, float]]] = {
    "create": create,
    "opening": opening,
    "gather": gather,
    "look_up": look_up,
    "join": join,
}


def made_up_keys(num_images: int) -> Any:
    """Returns sorted keys such as `train/n01440764/n01440764_00000012.JPEG`."""
    from streamkd.keys import Keys

    data = np.empty(num_images * KEY_BYTES, np.uint8)
    for start in range(0, num_images, 1 << 20):
        stop = min(start + (1 << 20), num_images)
        _fill_keys(data[start * KEY_BYTES : stop * KEY_BYTES], np.arange(start, stop))
    return Keys(data, np.arange(num_images + 1, dtype=np.uint64) * np.uint64(KEY_BYTES))


def some_keys(num_images: int, images: np.ndarray) -> Any:
    """Returns the keys of some images, without those of all."""
    from streamkd.keys import Keys

    data = np.empty(len(images) * KEY_BYTES, np.uint8)
    _fill_keys(data, images)
    return Keys(data, np.arange(len(images) + 1, dtype=np.uint64) * np.uint64(KEY_BYTES))


def _fill_keys(data: np.ndarray, images: np.ndarray) -> None:
    texts = data.reshape(len(images), KEY_BYTES)
    texts[:] = np.frombuffer(b"train/n00000000/n00000000_00000000.JPEG", np.uint8)
    for numbers, columns in ((images // 1300, (7, 17)), (images, (26,))):
        for column in columns:
            for digit in range(8):
                texts[:, column + digit] += (numbers // 10 ** (7 - digit) % 10).astype(np.uint8)


def written_blocks(num_images: int) -> np.ndarray:
    """Returns the blocks that are really written, spread evenly over the file."""
    num_blocks = -(-num_images // BLOCK_ROWS)
    return np.unique(np.linspace(0, num_blocks - 1, -(-SMALLEST // BLOCK_ROWS)).astype(np.int64))


def written_rows(num_images: int) -> np.ndarray:
    rows = (written_blocks(num_images)[:, None] * BLOCK_ROWS + np.arange(BLOCK_ROWS)).reshape(-1)
    return rows[rows < num_images]


def mark_all_done(path: str, num_images: int) -> None:
    import h5py

    with h5py.File(path, "r") as file:
        offset = file["done"].id.get_offset()
    ones = np.ones(1 << 20, np.uint8)
    with open(path, "r+b", buffering=0) as file:
        for start in range(0, num_images, len(ones)):
            os.pwrite(file.fileno(), ones[: num_images - start].data, offset + start)


def drop_from_cache(path: str) -> None:
    """Drops a file from the page cache, as far as no process has its pages mapped."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median_seconds(runs: list[Callable[[], Any]]) -> float:
    return float(np.median([seconds(run) for run in runs]))


if __name__ == "__main__":
    main()
