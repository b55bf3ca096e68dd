"""The joined stream beside Keras' directory loaders, on CIFAR-10's JPEG files.

    python tests/benchmarks/first_look.py

Prints images per second and CPU time an image, reading files, for the stream joined with a store,
the same stream without the store, and `image_dataset_from_directory` of tf_keras and of Keras 3 at
its documented best: shuffled, the same batch size, prefetched. What the join adds is the CPU time
of the joined stream over that of the stream without a store, and also timed apart.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import common
import keras
import numpy as np
import tensorflow as tf
import tf_keras

import streamkd as kd

IMAGE_SIZE = (32, 32)


def encoding_teacher(images: np.ndarray) -> np.ndarray:
    """Answers at once: this benchmark is about reading, not about a model."""
    return np.stack([images.mean(axis=(1, 2, 3)) * (n + 1) for n in range(10)], axis=1) / 255


def keras_loader(family, directory: Path, batch_size: int) -> tf.data.Dataset:
    dataset = family.utils.image_dataset_from_directory(
        directory, image_size=IMAGE_SIZE, batch_size=batch_size, shuffle=True, seed=1
    )
    return dataset.prefetch(tf.data.AUTOTUNE)


def run_through(dataset: tf.data.Dataset, num_batches: int, batch_size: int) -> int:
    for _ in dataset.take(num_batches):
        pass
    return num_batches * batch_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="a class-per-folder directory")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--num-batches", type=int, default=150, help="batches a run")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    directory = args.images or common.data_directory("cifar10") / "train"
    size = args.batch_size

    images = kd.scan(directory)
    with tempfile.TemporaryDirectory() as scratch:
        store = kd.teach(
            images, encoding_teacher, Path(scratch) / "teacher.h5", image_size=IMAGE_SIZE
        )
        joined = kd.join(images, store, batch_size=size, seed=1)
        alone = kd.join(images, None, image_size=IMAGE_SIZE, batch_size=size, seed=1)
        datasets = {
            "joined stream": joined.dataset(),
            "stream without a store": alone.dataset(),
            "tf_keras directory loader": keras_loader(tf_keras, directory, size),
            "Keras 3 directory loader": keras_loader(keras, directory, size),
        }
        results = common.measure(
            {
                name: lambda d=dataset: run_through(d, args.num_batches, size)
                for name, dataset in datasets.items()
            },
            repeats=args.repeats,
        )
        common.print_table(results, reference="joined stream")
        (_, with_join), (_, without) = (
            results[name] for name in ("joined stream", "stream without a store")
        )
        print(f"the join adds {100 * (with_join / without - 1):.1f} % CPU (difference of two runs)")
        parts = common.measure(join_parts(joined, args.num_batches), repeats=args.repeats)
        gather, digest = parts["gather"][1], parts["digest"][1] - parts["empty call"][1]
        print(
            f"timed apart: {gather:.2f} µs an image to gather logits and stored digests, "
            f"{digest:.2f} µs to digest the files: {100 * (gather + digest) / without:.1f} % CPU"
        )


def join_parts(stream: kd.Stream, num_batches: int) -> dict[str, Callable[[], int]]:
    """Returns what the join does for a batch, in parts, each as a contender for `measure`."""
    store, size = stream.store, stream.batch_size
    steps = [stream.rows[stream.indices(step)] for step in range(num_batches)]
    paths = stream.images.paths(stream.indices(0))
    contents = tf.constant([Path(os.fsdecode(path)).read_bytes() for path in paths])
    digest = tf.function(lambda contents: tf.fingerprint(contents))
    empty = tf.function(lambda contents: tf.shape(contents))

    def run(one_batch: Callable[[np.ndarray], object]) -> int:
        for rows in steps:
            one_batch(rows)
        return num_batches * size

    return {
        "gather": lambda: run(lambda rows: (store.gather(rows), store.content_of(rows))),
        "digest": lambda: run(lambda _: digest(contents)),
        "empty call": lambda: run(lambda _: empty(contents)),
    }


if __name__ == "__main__":
    main()
