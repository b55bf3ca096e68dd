"""What streams, stores and fits leave behind in a process: descriptors, threads and memory.

    python tests/benchmarks/leaks.py                            500 streams, 200 stores, 50 fits
    python tests/benchmarks/leaks.py --part keras-fits          the same fits by Keras alone
    python tests/benchmarks/leaks.py --part fits --fits 20

Each is made, used and dropped, again and again, in one process; the garbage collector runs before
each line. Streams are read from files and through both pixel caches, whole and in part, in Python
and by TensorFlow; fits read from the cache in memory. Memory is the private resident memory.
Linux, since the script reads `/proc/self`.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import common
import numpy as np
import tensorflow as tf
from PIL import Image

import streamkd as kd
from streamkd.store.collection import open_store

NUM_CLASSES, IMAGES_PER_CLASS, SIZE = 4, 40, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=["streams", "stores", "fits", "keras-fits"])
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--stores", type=int, default=200)
    parser.add_argument("--fits", type=int, default=50)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="streamkd-leaks-") as scratch:
        uses = Uses(Path(scratch))
        for name in args.part or ("streams", "stores", "fits"):
            print(f"\n{name}")
            measured(getattr(uses, name.replace("-", "_")), getattr(args, name.split("-")[-1]))


def measured(use: Callable[[int], None], count: int) -> None:
    """Prints what the process holds after some uses, the last of which is number `count`."""
    print(f"{'number':>8}{'descriptors':>13}{'threads':>9}{'MiB':>8}")
    marks = sorted({min(count, mark) for mark in (10, 20, 50, 100, 200, 500, count)})
    for number in range(1, count + 1):
        use(number)
        if number in marks:
            gc.collect()
            held = (len(os.listdir(f"/proc/self/{what}")) for what in ("fd", "task"))
            descriptors, threads = held
            mebibytes = common.anonymous() / 2**20
            print(f"{number:>8}{descriptors:>13}{threads:>9}{mebibytes:>8.0f}", flush=True)


class Uses:
    """The uses of a process: each method makes something, uses and drops it."""

    def __init__(self, scratch: Path) -> None:
        random = np.random.default_rng(1)
        for number in range(NUM_CLASSES):
            folder = scratch / "images" / f"class{number}"
            folder.mkdir(parents=True)
            for image in range(IMAGES_PER_CLASS):
                pixels = random.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{image}.png")
        self.scratch, self.images = scratch, kd.scan(scratch / "images")
        kd.teach(
            self.images,
            lambda images: images[:, :NUM_CLASSES, 0, 0],
            scratch / "teacher.h5",
            image_size=(SIZE, SIZE),
            progress=False,
        )

    def streams(self, number: int) -> None:
        """Makes a stream of one of six kinds and reads it whole, in part, or by TensorFlow."""
        cache = (None, "memory", "disk")[number % 3]
        directory = {"cache_directory": self.scratch / "cache"} if cache == "disk" else {}
        stream = kd.join(
            self.images, self.scratch / "teacher.h5", batch_size=32, cache=cache, **directory
        )
        steps = stream.end_of_epoch(1)
        if number % 2:
            for epoch in range(3):
                for _ in stream.dataset(epoch * steps, (epoch + 1) * steps):
                    pass
        else:
            next(iter(stream.dataset()))
            for _ in stream.dataset(0, steps).map(lambda images, *_: images):
                pass

    def stores(self, number: int) -> None:
        """Opens the store and gathers rows; every second store is closed by being dropped."""
        store = open_store(self.scratch / "teacher.h5")
        store.gather(np.arange(len(self.images)))

    def fits(self, number: int) -> None:
        """Trains a small student for two epochs from the cache in memory."""
        student = _student()
        stream = kd.join(
            self.images, self.scratch / "teacher.h5", batch_size=32, cache="memory", seed=number
        )
        distiller = kd.Distiller(student, optimizer="sgd", learning_rate=0.01)
        distiller.fit(stream, epochs=2, progress=False)
        tf.keras.backend.clear_session()

    def keras_fits(self, number: int) -> None:
        """Trains the same student for two epochs by Keras' own `fit`, from tensors in memory."""
        student = _student()
        student.compile("sgd", "mse")
        pixels = np.zeros((len(self.images), SIZE, SIZE, 3), np.float32)
        targets = np.zeros((len(self.images), NUM_CLASSES), np.float32)
        dataset = tf.data.Dataset.from_tensor_slices((pixels, targets)).batch(32)
        student.fit(dataset, epochs=2, verbose=0)
        tf.keras.backend.clear_session()


def _student() -> Any:
    """Returns a small student of Keras 3; Keras forgets the one before."""
    import keras

    keras.utils.clear_session()
    return keras.Sequential(
        [
            keras.layers.Input((SIZE, SIZE, 3)),
            keras.layers.Flatten(),
            keras.layers.Dense(NUM_CLASSES),
        ]
    )


if __name__ == "__main__":
    main()
