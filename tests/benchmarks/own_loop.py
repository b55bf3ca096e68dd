"""A loop in Python that makes a new iterator each epoch: the stream beside Keras' loader.

    python tests/benchmarks/own_loop.py                         CIFAR-10, 10,000 files
    python tests/benchmarks/own_loop.py --batch-sizes 128 --repeats 9

    for epoch in range(epochs):
        for batch in stream.dataset(epoch * steps, (epoch + 1) * steps):
            ...

Each contender reads one epoch in turn, another one first in every round: the stream from files and
from the full pixel cache, and Keras 3's `image_dataset_from_directory`, whose dataset is made once
and prefetches. Printed are medians of wall and CPU time an epoch, and how many times as fast as
Keras' best batch size each is. The first lines are a stream's first and second `dataset()`, each
with its first batch. Files come from the page cache.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable, Iterable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import common
import keras
import numpy as np
import tensorflow as tf

import streamkd as kd

IMAGE_SIZE = (32, 32)
FILES, CACHE, KERAS = "streamkd, files", "streamkd, cache", "Keras 3 directory loader"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    tf.get_logger().setLevel("ERROR")
    directory = common.data_directory("cifar10") / "test"
    images = kd.scan(directory)
    loops: dict[tuple[str, int], Callable[[], None]] = {}
    for size in args.batch_sizes:
        loops[FILES, size] = epochs_of(stream_of(images, size, None))
        loops[CACHE, size] = epochs_of(stream_of(images, size, "memory"))
        loader = keras.utils.image_dataset_from_directory(
            directory, image_size=IMAGE_SIZE, batch_size=size, seed=1, verbose=False
        ).prefetch(tf.data.AUTOTUNE)
        loops[KERAS, size] = lambda loader=loader: go_through(loader)
    beginnings(stream_of(images, args.batch_sizes[0], None))
    report(loops, args.repeats)


def stream_of(images: kd.Manifest, batch_size: int, cache: str | None) -> kd.Stream:
    return kd.join(images, None, image_size=IMAGE_SIZE, batch_size=batch_size, seed=1, cache=cache)


def go_through(dataset: Iterable[object]) -> None:
    for _ in dataset:
        pass


def epochs_of(stream: kd.Stream) -> Callable[[], None]:
    """Returns a function that reads the next epoch; the first two have filled a cache."""
    steps = stream.end_of_epoch(1)
    starts = iter(range(0, 10**9, steps))

    def next_epoch() -> None:
        start = next(starts)
        go_through(stream.dataset(start, start + steps))

    for _ in range(3):
        next_epoch()
    return next_epoch


def beginnings(stream: kd.Stream) -> None:
    """Prints the cost of `dataset()` and of its first batch, the first and the second time."""
    for which in ("first", "second"):
        clock = common.Clock()
        dataset = stream.dataset()
        made = clock.taken()
        next(iter(dataset))
        begun = clock.taken()
        print(
            f"{which} dataset(): {1e3 * made.wall:.1f} ms ({1e3 * made.cpu:.1f} CPU), with its "
            f"first batch {1e3 * begun.wall:.1f} ms ({1e3 * begun.cpu:.1f} CPU)"
        )


def report(loops: dict[tuple[str, int], Callable[[], None]], repeats: int) -> None:
    """Runs the loops in turn and prints their medians beside Keras' best."""
    taken: dict[tuple[str, int], list[common.Taken]] = {name: [] for name in loops}
    names = list(loops)
    for number in range(repeats + 1):
        for which in common.rotated(range(len(names)), number):
            clock = common.Clock()
            loops[names[which]]()
            if number:
                taken[names[which]].append(clock.taken())
    medians = {
        name: np.median([(run.wall, run.cpu) for run in runs], axis=0)
        for name, runs in taken.items()
    }
    best = np.min([cost for (name, _), cost in medians.items() if name == KERAS], axis=0)
    print(f"\n{'an epoch of 10,000 files':36}{'wall ms':>9}{'CPU ms':>9}{'x wall':>8}{'x CPU':>8}")
    for (name, size), (wall, cpu) in medians.items():
        line = f"{name}, batch {size}"
        ratios = f"{best[0] / wall:>8.2f}{best[1] / cpu:>8.2f}"
        print(f"{line:36}{1e3 * wall:>9.1f}{1e3 * cpu:>9.1f}{ratios}", flush=True)


if __name__ == "__main__":
    main()
