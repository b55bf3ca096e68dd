"""The peers of the stream: how images are read elsewhere, each at its documented best.

Every function here returns a contender for `common.measure_steady`. One compiled loop goes through
each `tf.data.Dataset`, as a training loop with several steps a call does; it takes one number of
every part of a batch, so that no part is left out.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import common
import h5py
import keras
import numpy as np
import tensorflow as tf
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter
from PIL import Image

# Batches that are read before the clock starts. tf_keras fills a shuffle buffer before its first.
WARM_UP = 4
SHUFFLED_ELEMENTS = 1024
MODES = {1: "L", 3: "RGB"}


@tf.function
def go_through(iterator: Any, num_batches: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the number of images in the next batches, int64, and a sum that needs all of them."""
    num_images, total = tf.constant(0, tf.int64), tf.constant(0.0)
    for _ in tf.range(num_batches):
        batch = next(iterator)
        num_images += tf.shape(tf.nest.flatten(batch)[0], tf.int64)[0]
        for part in tf.nest.flatten(batch):
            total += tf.cast(tf.reshape(part, [-1])[0], tf.float32)
    return num_images, total


def of_dataset(
    dataset: tf.data.Dataset, *, warm_up: int = WARM_UP, compiled: bool = True
) -> common.Contender:
    """Returns a contender that goes through batches of a dataset.

    Args:
      dataset: without end.
      warm_up: batches before those that are counted.
      compiled: False iterates in Python, which takes about 0.1 ms a batch.
    """

    @contextlib.contextmanager
    def start() -> Iterator[Callable[[int], int]]:
        iterator = iter(dataset)
        go_through(iterator, tf.constant(warm_up))

        def run(num_batches: int) -> int:
            if compiled:
                return int(go_through(iterator, tf.constant(num_batches))[0])
            num_images = 0
            for _ in range(num_batches):
                num_images += len(tf.nest.flatten(next(iterator))[0])
            return num_images

        yield run

    return start


def whole(dataset: tf.data.Dataset) -> common.Contender:
    """Returns a contender that goes through a dataset from its first batch to its last."""

    @contextlib.contextmanager
    def start() -> Iterator[Callable[[int], int]]:
        iterator = iter(dataset)
        yield lambda num_batches: int(go_through(iterator, tf.constant(num_batches))[0])

    return start


def keras_loader(
    family: Any, directory: Path, image_size: tuple[int, int], channels: int, batch_size: int
) -> tf.data.Dataset:
    """Returns `image_dataset_from_directory` of `keras` or `tf_keras`, shuffled and prefetched."""
    with contextlib.redirect_stdout(sys.stderr):  # it prints the number of files
        dataset = family.utils.image_dataset_from_directory(
            directory,
            image_size=image_size,
            color_mode="grayscale" if channels == 1 else "rgb",
            batch_size=batch_size,
            shuffle=True,
            seed=1,
        )
    return dataset.repeat().prefetch(tf.data.AUTOTUNE)


def tf_data(
    paths: Sequence[bytes],
    image_size: tuple[int, int],
    channels: int,
    batch_size: int,
    *,
    cache: str | None = None,
) -> tf.data.Dataset:
    """Returns the pipeline of TensorFlow's guide: read, decode and resize each image in one map.

    Args:
      paths: of the files, all JPEG or all PNG.
      image_size, channels, batch_size: of the batches.
      cache: '' keeps decoded images in memory, another name in files of that name. Kept images are
        shuffled after the cache; without a cache, paths are shuffled before they are read.
    """
    decode = tf.io.decode_png if paths[0].endswith(b".png") else tf.io.decode_jpeg

    def read(path: tf.Tensor) -> tf.Tensor:
        pixels = decode(tf.io.read_file(path), channels=channels)
        pixels = tf.image.resize(pixels, image_size)
        return tf.ensure_shape(pixels, (*image_size, channels))

    dataset = tf.data.Dataset.from_tensor_slices(list(paths))
    if cache is None:
        dataset = dataset.shuffle(len(paths)).map(read, num_parallel_calls=tf.data.AUTOTUNE)
    else:
        dataset = dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE).cache(cache)
        dataset = dataset.shuffle(SHUFFLED_ELEMENTS)
    return dataset.repeat().batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def read_with_pillow(path: bytes, image_size: tuple[int, int], channels: int) -> np.ndarray:
    """Returns uint8 `[height, width]` or `[height, width, channels]`."""
    with Image.open(os.fsdecode(path)) as image:
        image = image.convert(MODES[channels])
        if image.size != image_size[::-1]:
            image = image.resize(image_size[::-1], Image.Resampling.BILINEAR)
        return np.asarray(image)


class PillowAndLogits(keras.utils.PyDataset):
    """Images read with Pillow and logits read with h5py, row by row, without end."""

    def __init__(
        self,
        paths: Sequence[bytes],
        logits: h5py.Dataset,
        image_size: tuple[int, int],
        channels: int,
        batch_size: int,
        **parallel: Any,
    ) -> None:
        super().__init__(**parallel)
        self.paths, self.logits = paths, logits
        self.image_size, self.channels = image_size, channels
        self.batch_size = batch_size
        self.order = np.random.default_rng(1).permutation(len(paths))

    @property
    def num_batches(self) -> None:
        return None

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        positions = (index * self.batch_size + np.arange(self.batch_size)) % len(self.paths)
        rows = self.order[positions].tolist()
        pixels = np.empty((len(rows), *self.image_size, self.channels), np.float32)
        for index, row in enumerate(rows):
            image = read_with_pillow(self.paths[row], self.image_size, self.channels)
            pixels[index] = image.reshape(pixels.shape[1:])
        return pixels, np.stack([self.logits[row] for row in rows])


def of_py_dataset(make: Callable[[], keras.utils.PyDataset]) -> common.Contender:
    """Returns a contender that goes through a `PyDataset` as `fit` does.

    The adapter is Keras' own and not public; through `fit` itself the time of a model would count.
    """

    @contextlib.contextmanager
    def start() -> Iterator[Callable[[int], int]]:
        adapter = PyDatasetAdapter(make())
        iterator = iter(adapter.get_tf_dataset())
        adapter.on_epoch_begin()
        try:
            go_through(iterator, tf.constant(WARM_UP))
            yield lambda num_batches: int(go_through(iterator, tf.constant(num_batches))[0])
        finally:
            adapter.on_epoch_end()

    return start


class PillowWorkers:
    """Worker processes that read images with Pillow: an imitation of PyTorch's DataLoader.

    PyTorch itself is not installed. As in its DataLoader there is one process a core, each with two
    batches under way, and batches of float32 are handed over in shared memory in the order in which
    they were asked for. The imitation does less than PyTorch in two points: the shared memory is
    used again, and pixels are neither transposed nor divided by 255.

    The processes are forked, so make this before TensorFlow has started threads.
    """

    def __init__(self, batch_bytes: int) -> None:
        """Args: `batch_bytes`, of the largest batch that will be asked for."""
        context = multiprocessing.get_context("fork")
        num_workers = os.cpu_count() or 1
        self._slots = [mmap.mmap(-1, batch_bytes) for _ in range(2 * num_workers)]
        self._jobs = [context.SimpleQueue() for _ in range(num_workers)]
        self._done = [context.SimpleQueue() for _ in range(num_workers)]
        self._processes = [
            context.Process(target=self._work, args=(jobs, done), daemon=True)
            for jobs, done in zip(self._jobs, self._done, strict=True)
        ]
        for process in self._processes:
            process.start()

    @property
    def children(self) -> list[int]:
        """The process ids."""
        return [process.pid for process in self._processes if process.pid is not None]

    def close(self) -> None:
        for jobs in self._jobs:
            jobs.put(None)
        for process in self._processes:
            process.join()

    def contender(
        self, paths: Sequence[bytes], image_size: tuple[int, int], channels: int, batch_size: int
    ) -> common.Contender:
        """Returns a contender that has batches `[batch_size, *image_size, channels]` read."""
        shape = (batch_size, *image_size, channels)
        order = np.random.default_rng(1).permutation(len(paths))

        def ask(number: int) -> None:
            positions = (number * batch_size + np.arange(batch_size)) % len(paths)
            slot = number % len(self._slots)
            job = (slot, [paths[row] for row in order[positions].tolist()], image_size, channels)
            self._jobs[number % len(self._jobs)].put(job)

        @contextlib.contextmanager
        def start() -> Iterator[Callable[[int], int]]:
            asked = len(self._slots)
            taken = 0
            for number in range(asked):
                ask(number)

            def run(num_batches: int) -> int:
                nonlocal asked, taken
                for _ in range(num_batches):
                    slot = self._done[taken % len(self._done)].get()
                    float(np.frombuffer(self._slots[slot], np.float32, np.prod(shape))[0])
                    taken += 1
                    ask(asked)
                    asked += 1
                return num_batches * batch_size

            run(WARM_UP)
            yield run
            while taken < asked:
                self._done[taken % len(self._done)].get()
                taken += 1

        return start

    def _work(self, jobs: Any, done: Any) -> None:
        while (job := jobs.get()) is not None:
            slot, paths, image_size, channels = job
            shape = (len(paths), *image_size, channels)
            pixels = np.frombuffer(self._slots[slot], np.float32, np.prod(shape)).reshape(shape)
            for index, path in enumerate(paths):
                image = read_with_pillow(path, image_size, channels)
                pixels[index] = image.reshape(shape[1:])
            done.put(slot)


def decoding_alone(paths: Sequence[bytes], batch_size: int) -> common.Contender:
    """Returns the limit: bare libjpeg-turbo on bytes in memory, a thread for each core.

    Nothing is read, resized or collected; each thread decodes into the same memory again.
    """
    try:
        import simplejpeg
    except ImportError as error:
        raise SystemExit(
            "The limit is measured with simplejpeg.\nInstall it: `pip install simplejpeg`."
        ) from error
    files = [Path(os.fsdecode(path)).read_bytes() for path in paths]
    sizes = [simplejpeg.decode_jpeg_header(data)[:2] for data in files]
    num_bytes = 3 * max(height * width for height, width in sizes)
    num_threads = os.cpu_count() or 1

    def decode(numbers: range) -> None:
        buffer = np.empty(num_bytes, np.uint8)
        for number in numbers:
            simplejpeg.decode_jpeg(files[number % len(files)], "RGB", buffer=buffer)

    @contextlib.contextmanager
    def start() -> Iterator[Callable[[int], int]]:
        with ThreadPoolExecutor(num_threads) as pool:

            def run(num_batches: int) -> int:
                num_images = num_batches * batch_size
                parts = [range(first, num_images, num_threads) for first in range(num_threads)]
                list(pool.map(decode, parts))
                return num_images

            yield run

    return start


def cropping_alone(
    images: np.ndarray, boxes: np.ndarray, image_size: tuple[int, int]
) -> common.Contender:
    """Returns a contender that cuts crops of images in memory, and does nothing else.

    Args:
      images: uint8 `[batch, any height, any width, channels]`.
      boxes: float32 `[rounds, batch, 4]`, gone through again and again.
      image_size: of the crops.
    """
    batch_size = len(images)

    @tf.function
    def crop(images: tf.Tensor, boxes: tf.Tensor, num_batches: tf.Tensor) -> tf.Tensor:
        total = tf.constant(0.0)
        for number in tf.range(num_batches):
            in_turn = boxes[number % tf.shape(boxes)[0]]
            pixels = tf.image.crop_and_resize(images, in_turn, tf.range(batch_size), image_size)
            total += pixels[0, 0, 0, 0]
        return total

    in_memory, all_boxes = tf.constant(images), tf.constant(boxes)

    @contextlib.contextmanager
    def start() -> Iterator[Callable[[int], int]]:
        float(crop(in_memory, all_boxes, tf.constant(WARM_UP)))

        def run(num_batches: int) -> int:
            float(crop(in_memory, all_boxes, tf.constant(num_batches)))
            return num_batches * batch_size

        yield run

    return start
