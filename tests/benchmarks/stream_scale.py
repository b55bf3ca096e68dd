"""The cost of the joined stream at ten thousand, a million and ten million images.

    python tests/benchmarks/stream_scale.py                            ten minutes, 2 GB of disk
    python tests/benchmarks/stream_scale.py --images 10000 1000000
    python tests/benchmarks/stream_scale.py --keep DIRECTORY           uses what was made again

The images are 10,000 real files of CIFAR-10 in one folder, and as many links to that folder as
there are ten thousands of keys: every key is another path, every file is a real one, and the kernel
keeps the same files at every size. The writer writes every row of the stores, without its syncs,
with the content digest of its file, its checksum, and logits that are the number of the row, so
that a wrong row would show. 10 classes, float16. The store of ten million images has about 1 GB and
stays in the page cache.

Each size streams in a process of its own. All processes exist at once and work in turn, one stretch
of batches each, another one first in every round. Ratios are medians over pairs of stretches that
follow each other. CPU time counts until as many batches are prepared ahead as before, so that a
stretch has the work of its own batches alone. "First" reads rows that the process has not read
before, whose checksums are compared. "Later" reads rows again, as all epochs but the first do.

Memory is private memory (`RssAnon` of `/proc/self/status`), in which mapped files and the page
cache do not count. "Joined" is the manifest, labels and rows on top of the imports, and grows with
them; the stream itself comes on top of that. Linux.
"""

from __future__ import annotations

import argparse
import ctypes
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

import common
import numpy as np
from common import PeakMemory, anonymous

NUM_FILES = 10_000
NUM_CLASSES = 10
IMAGE_SIZE = (32, 32)
BATCH = 128
# Rows a block. The writer's cost is not measured here.
BLOCK_ROWS = 4096
# Batches of a stretch: their rows are no more than those of the smallest store.
NUM_BATCHES = NUM_FILES // BATCH
FIRST_STRETCHES = 5
# float16 has whole numbers up to here.
DIGIT = 2048
KEY = b"shard_00000/photograph_00000.jpg"
MIB = 1 << 20
MAX_GROWTH = 0.05
STREAM = "the stream itself, MiB"
PROCESS = "all but manifest and rows, MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[NUM_FILES, 10**6, 10**7])
    parser.add_argument("--rounds", type=int, default=15, help="stretches of rows read before")
    parser.add_argument("--keep", type=Path, help="where stores stay; a temporary one by default")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        name, directory, num_images = args.child
        {"make": make, "stream": stream}[name](Path(directory), int(num_images))
        return
    if any(num_images % NUM_FILES for num_images in args.images):
        parser.error(f"--images are multiples of {NUM_FILES:,}")
    directory = args.keep or Path(tempfile.mkdtemp(prefix="streamkd-"))
    try:
        for num_images in args.images:
            Child("make", directory, num_images).close()
        children = {n: Child("stream", directory, n) for n in sorted(args.images)}
        print_results(children, args.rounds)
    finally:
        if not args.keep:
            shutil.rmtree(directory)


class Child:
    """A process that measures; each question is answered with a line of JSON."""

    def __init__(self, name: str, directory: Path, num_images: int) -> None:
        arguments = [sys.executable, __file__, "--child", name, str(directory), str(num_images)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(arguments, text=True, **pipes)
        self.values = self._answer()

    def ask(self, question: str) -> dict[str, float]:
        assert self._process.stdin is not None
        print(question, file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        self._process.communicate()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a child ended with exit code {self._process.wait()}")
        return json.loads(line)


def print_results(children: dict[int, Child], rounds: int) -> None:
    """Lets the children work in turn and prints their answers side by side."""
    first = alternate(children, FIRST_STRETCHES)
    if NUM_FILES in children:  # the smallest store has no more rows than that
        first[NUM_FILES] = first[NUM_FILES][:1]
    for child in children.values():
        child.values |= child.ask("read all rows")
    alternate(children, 1)
    later = alternate(children, rounds)
    for child in children.values():
        child.values |= child.ask("memory")
        child.close()
    sizes = list(children)
    print(f"{'':<58}" + "".join(f"{size:>14,}" for size in sizes))

    def row(title: str, numbers: list[float | None], digits: int = 2) -> None:
        cells = ["" if number is None else f"{number:,.{digits}f}" for number in numbers]
        print(f"{title:<58}" + "".join(f"{cell:>14}" for cell in cells), flush=True)

    for title in children[sizes[0]].values:
        row(title, [children[size].values[title] for size in sizes])
    smallest, largest = sizes[0], sizes[-1]
    for title in ("manifest read, MiB", "joined, MiB", "at the end, MiB"):
        grown: list[float | None] = [None]
        base = children[smallest].values[title]
        for size in sizes[1:]:
            more = children[size].values[title] - base
            grown.append(MIB * more / (size - smallest))
        row(f"{title.removesuffix(', MiB')}, bytes a row beyond the smallest", grown, 1)
    for title, stretches in (("first", first), ("later", later)):
        for column, unit in enumerate(("µs an image", "CPU µs an image")):
            medians = [1e6 * float(np.median(stretches[size][:, column])) for size in sizes]
            row(f"{title}, {unit}", medians)
    ratios = [later[size] / later[smallest] for size in sizes]
    for column, unit in enumerate(("wall", "CPU")):
        for name, percent in (("median of pairs", 50), ("lower quartile", 25), ("upper", 75)):
            numbers = [float(np.percentile(pairs[:, column], percent)) for pairs in ratios]
            row(f"later, {unit}, ratio to the smallest: {name}", numbers)
    wall, cpu = np.median(ratios[-1], axis=0) - 1
    title = f"time an image at {largest:,} images on top of that at {smallest:,}"
    print("\n" + common.verdict_of_growth(title, wall, cpu, at_most=MAX_GROWTH))
    small, large = (children[size].values[PROCESS] for size in (smallest, largest))
    met = "met" if large <= (1 + MAX_GROWTH) * small else "not met"
    print(f"{met:<8} {PROCESS}: {large:.0f} at {largest:,} images, {small:.0f} at {smallest:,}")


def alternate(children: dict[int, Child], num_stretches: int) -> dict[int, np.ndarray]:
    """Returns float64 `[stretches, 2]` of every child, seconds and CPU seconds an image."""
    taken: dict[int, list[tuple[float, float]]] = {size: [] for size in children}
    for round_number in range(num_stretches):
        for size in common.rotated(children, round_number):
            answer = children[size].ask("stretch")
            taken[size].append((answer["wall"], answer["cpu"]))
    return {size: np.array(stretches) for size, stretches in taken.items()}


# The rest runs in the children.


def private_mib() -> float:
    """Returns the private memory of this process, without memory the C library could return."""
    ctypes.CDLL(None).malloc_trim(0)
    return anonymous() / MIB


def say(values: dict[str, float]) -> None:
    print(json.dumps(values), flush=True)


def make(directory: Path, num_images: int) -> None:
    """Makes files, links, a store and a manifest file, where they are not there yet."""
    from streamkd import disk
    from streamkd.image_options import DECODER, ImageOptions
    from streamkd.manifest.fingerprint import fingerprint
    from streamkd.manifest.manifest import Manifest
    from streamkd.pixels.content_digest import digest_files
    from streamkd.store.creation import create_store
    from streamkd.store.writer import StoreWriter

    names = make_files(directory, num_images // NUM_FILES)
    path = directory / f"{num_images}.h5"
    if path.exists():
        say({})
        return
    contents, readable = digest_files(os.fsencode(directory / "files" / name) for name in names)
    assert readable.all()
    keys = keys_of(num_images)
    labels = (np.arange(num_images) % NUM_CLASSES).astype(np.int32)
    class_names = [f"class {number}" for number in range(NUM_CLASSES)]
    Manifest(os.fsencode(directory), keys, labels, class_names).write(
        directory / f"{num_images}.jsonl"
    )
    header = common.made_up_header(
        num_images,
        NUM_CLASSES,
        block_rows=BLOCK_ROWS,
        fingerprint=fingerprint(keys, labels, class_names),
        images=ImageOptions(image_size=IMAGE_SIZE).to_dict(),
        decoder=DECODER,
    )
    unfinished = directory / f"{num_images}.unfinished"
    unfinished.unlink(missing_ok=True)
    create_store(unfinished, header, keys, labels, class_names)
    disk.sync = lambda descriptor: None
    with StoreWriter(unfinished) as writer:
        for block in range(writer.num_blocks):
            images = writer.images_of_block(block)
            rows = np.arange(images.start, images.stop)
            writer.write_block(block, logits_of(rows), contents[rows % NUM_FILES])
        writer.finish({})
    unfinished.rename(path)
    say({})


def make_files(directory: Path, num_links: int) -> list[str]:
    """Makes the real files, and links to their folder; returns the names of the files."""
    names = [KEY[12:].decode().replace("00000", f"{number:05}") for number in range(NUM_FILES)]
    folder = directory / "files"
    if not folder.exists():
        sources = sorted((common.data_directory("cifar10") / "test").glob("*/*.jpg"))
        unfinished = directory / "files.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        for name, source in zip(names, sources, strict=True):
            shutil.copyfile(source, unfinished / name)
        unfinished.rename(folder)
    for number in range(num_links):
        link = directory / f"shard_{number:05}"
        if not link.is_symlink():
            link.symlink_to("files")
    return names


def keys_of(num_images: int) -> Any:
    """Returns sorted keys such as `shard_00012/photograph_00345.jpg`."""
    from streamkd.keys import Keys

    texts = np.empty((num_images, len(KEY)), np.uint8)
    texts[:] = np.frombuffer(KEY, np.uint8)
    images = np.arange(num_images)
    for numbers, column in ((images // NUM_FILES, 6), (images % NUM_FILES, 23)):
        for digit in range(5):
            texts[:, column + digit] += (numbers // 10 ** (4 - digit) % 10).astype(np.uint8)
    offsets = np.arange(num_images + 1, dtype=np.uint64) * np.uint64(len(KEY))
    return Keys(texts.reshape(-1), offsets)


def logits_of(rows: np.ndarray) -> np.ndarray:
    """Returns float32 `[rows, classes]` that say which row it is."""
    logits = np.zeros((len(rows), NUM_CLASSES), np.float32)
    for digit in range(3):
        logits[:, digit] = rows // DIGIT**digit % DIGIT
    return logits


def stream(directory: Path, num_images: int) -> None:
    """Joins and streams, a stretch whenever it is asked to."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    from streamkd.manifest.manifest import scan
    from streamkd.store.collection import open_store
    from streamkd.stream.join import join

    tf.constant(0)
    values = {"imports, MiB": private_mib()}

    def stage(name: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        with PeakMemory() as peak:
            result = work()
        values[f"{name}, CPU s"] = time.process_time() - start
        values[f"{name}, at the peak, MiB"] = peak.num_bytes / MIB
        values[f"{name}, MiB"] = private_mib()
        return result

    images = stage("manifest read", lambda: scan(directory / f"{num_images}.jsonl"))
    assert len(images) == num_images
    store = open_store(directory / f"{num_images}.h5")
    joined = stage("joined", lambda: join(images, store, batch_size=BATCH, seed=1, progress=False))
    iterator = iter(joined.dataset())
    # The first stretch of the smallest store is all of it; earlier batches are of other steps.
    check(next(iterator))
    time.sleep(1)
    values["first batches, MiB"] = private_mib()
    say(values)
    for line in sys.stdin:
        if line.strip() == "stretch":
            say(stretch(iterator))
        elif line.strip() == "read all rows":
            say(read_all(store))
        else:
            end = private_mib()
            itself = end - values["joined, MiB"]
            process = values["imports, MiB"] + itself
            say({"at the end, MiB": end, STREAM: itself, PROCESS: process})


def check(batch: Any) -> None:
    """Makes sure that the logits are those of the rows."""
    _, targets, _ = batch
    rows, logits = targets["rows"].numpy(), targets["teacher_logits"].numpy()
    assert np.array_equal(logits, logits_of(rows))


def stretch(iterator: Any) -> dict[str, float]:
    """Goes through some batches, the last of which is checked."""
    cpu, wall = common.cpu_seconds(), time.perf_counter()
    for _ in range(NUM_BATCHES - 1):
        next(iterator)
    batch = next(iterator)
    wall = time.perf_counter() - wall
    time.sleep(0.3)  # as many batches are prepared ahead as at the beginning
    cpu = common.cpu_seconds() - cpu
    check(batch)
    num_images = NUM_BATCHES * BATCH
    return {"wall": wall / num_images, "cpu": cpu / num_images}


def read_all(store: Any) -> dict[str, float]:
    """Reads every row once, as a first epoch does."""
    start = time.process_time()
    for first in range(0, store.num_images, 1 << 16):
        rows = np.arange(first, min(first + (1 << 16), store.num_images))
        store.gather(rows)
        store.content_of(rows)
    return {"all rows read, CPU s": time.process_time() - start}


if __name__ == "__main__":
    main()
