"""The cost of several teachers' stores read as one.

    python tests/benchmarks/ensemble.py --part gather stream

gather: rows of five stores, each gathered by itself, against the five combined when they are read:
for 10, 100 and 1,000 classes, batches of 128 rows in random order. The stores are made up, and
every row was read before, so that no checksum is compared while the clock runs.

stream: the images of CIFAR-10 with the logits of one store, and of five; batches of 128.

Both sides run in turn in one process, another one first in every round. Printed are medians of CPU
time, and medians and quartiles of the ratios of the rounds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import common
import numpy as np

import streamkd as kd
from streamkd.keys import Keys
from streamkd.pixels.content_digest import digest_files
from streamkd.store.creation import create_store
from streamkd.store.writer import StoreWriter

NUM_STORES = 5
BATCH_SIZE = 128
# Stores of a thousand classes are smaller: five of them are 100 MB.
NUM_IMAGES = {10: 50_000, 100: 50_000, 1000: 10_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=15, help="pairs of runs")
    parser.add_argument("--batches", type=int, default=150, help="batches of each run")
    parser.add_argument("--images", type=int, default=10_000, help="of CIFAR-10, for the stream")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="streamkd-") as scratch:
        for part in args.part:
            PARTS[part](Path(scratch), args)


def write_stores(
    folder: Path, keys: Keys, content: np.ndarray, num_classes: int, class_names: list[str]
) -> list[str]:
    """Returns the paths of five stores of made-up logits."""
    paths = []
    for seed in range(NUM_STORES):
        path = folder / f"{num_classes}-{seed}.h5"
        teacher = {"name": f"teacher {seed}", "digest": str(seed), "output": "logits"}
        header = common.made_up_header(len(keys), num_classes, block_rows=10_000, teacher=teacher)
        create_store(path, header, keys, np.full(len(keys), -1), class_names)
        rng = np.random.default_rng(seed)
        with StoreWriter(path) as writer:
            for block in writer.pending_blocks().tolist():
                images = writer.images_of_block(block)
                logits = rng.normal(0, 3, (len(images), num_classes)).astype(np.float32)
                writer.write_block(block, logits, content[images.start : images.stop])
            writer.finish({"teacher_accuracy": None, "num_labelled": 0})
        paths.append(str(path))
    return paths


def gather(scratch: Path, args: argparse.Namespace) -> None:
    """Compares gathering from five stores one after the other with the combination of them."""
    for num_classes, num_images in NUM_IMAGES.items():
        keys = Keys.from_list(b"%07d.png" % number for number in range(num_images))
        content = np.arange(1, num_images + 1, dtype=np.uint64)
        names = [f"class {number}" for number in range(num_classes)]
        stores = [
            kd.open_store(p) for p in write_stores(scratch, keys, content, num_classes, names)
        ]
        everything = np.arange(num_images)
        for store in stores:
            store.gather(everything)
        rng = np.random.default_rng(9)
        batches = [rng.integers(0, num_images, BATCH_SIZE) for _ in range(args.batches)]
        contenders = {"five stores, each by itself": _each(stores, batches)}
        for rule in ("logits", "probabilities"):
            combination = kd.combine_stores(stores, rule=rule)
            contenders[f"five stores, {rule}"] = _each([combination], batches)
        print(f"\ngather: {num_classes:,} classes, {num_images:,} images, batches of {BATCH_SIZE}")
        compare(contenders, args.repeats, "five stores, each by itself")


def _each(stores: list, batches: list[np.ndarray]) -> Callable[[], int]:
    """Returns a function that gathers every batch from every store and counts the rows."""

    def run() -> int:
        for rows in batches:
            for store in stores:
                store.gather(rows)
        return sum(map(len, batches))

    return run


def stream(scratch: Path, args: argparse.Namespace) -> None:
    """Compares a stream of CIFAR-10 with the logits of one store with one of five stores."""
    images = kd.scan(common.data_directory("cifar10") / "train")
    images = images.select(np.linspace(0, len(images) - 1, args.images).astype(np.int64))
    content, _ = digest_files(images.paths(np.arange(len(images))))
    names = images.class_names
    paths = write_stores(scratch, images.keys, content, len(names), names)
    options = {"image_size": (32, 32), "batch_size": BATCH_SIZE, "progress": False}
    streams = {
        "one store": kd.join(images, paths[0], **options),
        "one store again": kd.join(images, paths[0], **options),
        "five stores, logits": kd.join(images, paths, **options),
    }
    print(f"\nstream: CIFAR-10, {len(images):,} images, batches of {BATCH_SIZE}")
    iterators = {name: iter(one.dataset()) for name, one in streams.items()}
    contenders = {name: _steps(iterator, args.batches) for name, iterator in iterators.items()}
    for run in contenders.values():
        run()
    compare(contenders, args.repeats, "one store")


def _steps(iterator, num_batches: int) -> Callable[[], int]:
    def run() -> int:
        for _ in range(num_batches):
            next(iterator)
        return num_batches * BATCH_SIZE

    return run


def compare(contenders: dict[str, Callable[[], int]], repeats: int, reference: str) -> None:
    """Prints CPU time an image, and ratios of rounds to the reference."""
    costs: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(repeats):
        for name in common.rotated(contenders, number):
            clock = common.Clock()
            num_images = contenders[name]()
            costs[name].append(clock.taken().cpu / num_images)
    for name, values in costs.items():
        ratios = np.array(values) / np.array(costs[reference])
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        print(
            f"  {name:<28} {1e6 * np.median(values):8.2f} µs CPU an image, "
            f"{middle:.3f} times ({low:.3f} to {high:.3f})",
            flush=True,
        )


PARTS = {"gather": gather, "stream": stream}

if __name__ == "__main__":
    main()
