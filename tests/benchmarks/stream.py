"""The joined stream compared with other ways of reading images, and the cost of the join.

    python tests/benchmarks/stream.py                           CIFAR-10, MNIST, ImageNet at 224
    python tests/benchmarks/stream.py --data photographs        12 megapixels, made by enlarging
    python tests/benchmarks/stream.py --part join               the cost of the join alone

For every data set a table of images per second, CPU time an image, and how many times as fast as
Keras' directory loaders and as bare decoding each contender is; then the cost of the join; at the
end the aims, met or not, from these numbers. Everything runs in turn in one process, in the same
way, another contender first in every round; `peers.py` describes the peers.

Every contender is measured at every batch size of its data set, streamkd and the caches of others
at the same sizes. A ratio compares the best batch size of each side.

Needs `pip install simplejpeg` for the limit. Files come from the page cache. A directory with too
few images for a steady epoch is made larger by links to the same files. The teacher answers at
once: this measures reading, not a model.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import common
import h5py
import keras
import numpy as np
import peers
import tensorflow as tf
import tf_keras
from PIL import Image

import streamkd as kd
from streamkd.keys import hash_keys

NUM_VIEWS = 2
CROP = (0.35, 1.0)
NUM_WORKERS = 2

JOINED = "streamkd, joined"
LABELS = "streamkd, labels alone"
CACHED = "streamkd, joined, from the cache"
CROPPED = "streamkd, joined, cropped from the cache"
SCALED = "streamkd, labels alone, decode scaled"
KERAS = "Keras 3 directory loader"
TF_KERAS = "tf_keras directory loader"
LIMIT = "bare libjpeg-turbo, decoding alone"
CROPPING = "crop_and_resize alone"
DATA_FILES = "tf.data, a map call an image"
DATA_MEMORY = "tf.data, cache in memory"
DATA_CACHED_FILES = "tf.data, cache in files"
SEQUENCE = f"PyDataset, Pillow and h5py, {NUM_WORKERS} threads"


@dataclasses.dataclass(frozen=True)
class Data:
    """A directory of images and how it is read.

    Attributes:
      name: as on the command line.
      image_size, channels: of the batches.
      batch_sizes: every contender is measured at each of them.
      canonical_size: of the images from which cropped views are cut.
      num_classes: of the logits.
      num_cached: images that are kept in memory.
      copies: links to each file, so that an epoch has enough batches.
      fewest_batches: the least in a round, since a batch more or less is under way when the clock
        stops.
    """

    name: str
    image_size: tuple[int, int]
    channels: int
    batch_sizes: tuple[int, ...]
    canonical_size: tuple[int, int]
    num_classes: int
    num_cached: int
    copies: int = 0
    fewest_batches: int = 16

    @property
    def batch_size(self) -> int:
        """The batch size at which the cost of the join is measured."""
        return self.batch_sizes[0]

    @property
    def color_mode(self) -> str:
        return "grayscale" if self.channels == 1 else "rgb"


DATA = {
    data.name: data
    for data in (
        Data("cifar10", (32, 32), 3, (128, 512), (36, 36), 10, 20_000),
        Data("mnist", (28, 28), 1, (128, 512), (32, 32), 10, 20_000),
        Data("imagenet", (224, 224), 3, (64, 32), (256, 256), 1000, 2_000, copies=10),
        Data("photographs", (224, 224), 3, (8, 32), (256, 256), 1000, 0, 10, fewest_batches=8),
    )
}
Results = dict[str, tuple[float, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=DATA, default=["cifar10", "mnist", "imagenet"])
    parser.add_argument("--part", nargs="+", choices=["stream", "join"], default=["stream", "join"])
    parser.add_argument("--repeats", type=int, default=5, help="rounds of each table")
    parser.add_argument("--seconds", type=float, default=0.7, help="of each contender in a round")
    parser.add_argument("--join-rounds", type=int, default=15, help="pairs of runs of the join")
    parser.add_argument("--photographs", type=int, default=36, help="of 12 megapixels")
    parser.add_argument("--python", action="store_true", help="iterate the stream in Python")
    args = parser.parse_args()
    # The teacher answers at once and is right by chance.
    warnings.filterwarnings("ignore", "The teacher .*is right on")
    # Every new iterator counts as a call of `peers.go_through`; it is traced once a kind of batch.
    tf.get_logger().setLevel("ERROR")
    # Forked before TensorFlow starts threads.
    chosen = [DATA[name] for name in args.data]
    workers = peers.PillowWorkers(
        max(4 * max(d.batch_sizes) * d.channels * int(np.prod(d.image_size)) for d in chosen)
    )
    results: dict[str, Results] = {}
    joins: dict[str, tuple[float, float]] = {}
    for data in chosen:
        with tempfile.TemporaryDirectory(prefix="streamkd-") as scratch:
            bench = Bench(data, Path(scratch), args)
            print(f"\n{data.name}, {bench.description}\n", flush=True)
            if "stream" in args.part:
                results[data.name] = bench.streams(workers)
            if "join" in args.part and data.name != "photographs":
                joins[data.name] = bench.join()
    workers.close()
    print()
    for line in aims(results, joins):
        print(line)


class Bench:
    """The contenders on one data set."""

    def __init__(self, data: Data, scratch: Path, args: argparse.Namespace) -> None:
        self.data, self.scratch, self.args = data, scratch, args
        self.directory = image_directory(data, scratch, args.photographs)
        self.images = kd.scan(self.directory)
        every = max(1, len(self.images) // max(1, data.num_cached))
        self.subset = self.images.select(slice(None, None, every))
        self.paths = list(self.images.paths(np.arange(len(self.images))))

    @property
    def description(self) -> str:
        height, width = self.data.image_size
        size = f"{height}x{width}x{self.data.channels}"
        batches = " and ".join(map(str, self.data.batch_sizes))
        return f"{len(self.images):,} files, {size}, batches of {batches}"

    def streams(self, workers: peers.PillowWorkers) -> Results:
        """Prints the table of all contenders and returns its numbers."""
        contenders: dict[str, common.Contender] = {}
        for size in self.data.batch_sizes:
            if self.data.name == "photographs":
                at_size = self.large_files(size)
            else:
                at_size = self.files(size) | self.others(workers, size) | self.cached(size)
            contenders |= {f"{name}, batch {size}": run for name, run in at_size.items()}
        if not self.paths[0].endswith(b".png"):
            contenders[LIMIT] = peers.decoding_alone(self.first_files(), self.data.batch_size)
        measured = common.measure_steady(
            contenders,
            repeats=self.args.repeats,
            seconds=self.args.seconds,
            fewest=self.data.fewest_batches,
            children=workers.children,
        )
        common.print_ratios(
            measured, {"x Keras 3": KERAS, "x tf_keras": TF_KERAS, "x limit": LIMIT}
        )
        return measured

    def files(self, batch_size: int) -> dict[str, common.Contender]:
        """Returns the contenders that read files: the stream and Keras' loaders."""
        joined = kd.join(self.images, self.plain_store, **self.batches(batch_size))
        return {
            JOINED: self.of_stream(joined),
            LABELS: self.of_stream(self.labels_alone(batch_size)),
            KERAS: peers.of_dataset(self.keras_loader(keras, batch_size)),
            TF_KERAS: peers.of_dataset(self.keras_loader(tf_keras, batch_size)),
        }

    def large_files(self, batch_size: int) -> dict[str, common.Contender]:
        """Returns the contenders that read photographs of 12 megapixels."""
        size = self.data.image_size
        scaled = kd.join(
            self.images, None, image_size=size, decode="scaled", **self.batches(batch_size)
        )
        contenders = {
            LABELS: self.of_stream(self.labels_alone(batch_size)),
            SCALED: self.of_stream(scaled),
        }
        for name, family in ((KERAS, keras), (TF_KERAS, tf_keras)):
            loader = self.keras_loader(family, batch_size)
            contenders[name] = peers.of_dataset(loader, warm_up=1)
        return contenders

    def others(self, workers: peers.PillowWorkers, batch_size: int) -> dict[str, common.Contender]:
        """Returns pipelines as users write them."""
        paths, size, channels = self.paths, self.data.image_size, self.data.channels
        few = self.subset.paths(np.arange(len(self.subset)))
        in_files = str(self.scratch / f"tf.data-{batch_size}")
        contenders = {}
        for name, chosen, cache in (
            (DATA_FILES, paths, None),
            (DATA_MEMORY, few, ""),
            (DATA_CACHED_FILES, few, in_files),
        ):
            dataset = peers.tf_data(chosen, size, channels, batch_size, cache=cache)
            if cache is not None:
                fill(dataset, len(few) // batch_size + 1)
            contenders[name] = peers.of_dataset(dataset)

        def sequence() -> keras.utils.PyDataset:
            return peers.PillowAndLogits(
                paths, self.row_by_row, size, channels, batch_size, workers=NUM_WORKERS
            )

        contenders[SEQUENCE] = peers.of_py_dataset(sequence)
        imitation = f"Pillow in {len(workers.children)} processes, imitating PyTorch's DataLoader"
        contenders[imitation] = workers.contender(paths, size, channels, batch_size)
        return contenders

    def cached(self, batch_size: int) -> dict[str, common.Contender]:
        """Returns the stream from the pixel cache, and the one operation that cuts its crops."""
        contenders = {}
        for name, store in ((CACHED, self.plain_store), (CROPPED, self.cropped_store)):
            stream = kd.join(self.subset, store, **self.batches(batch_size), cache="memory")
            fill(stream.dataset(), stream.end_of_epoch(1))
            contenders[name] = self.of_stream(stream)
        return contenders | {CROPPING: self.cropping_alone(batch_size)}

    def cropping_alone(self, batch_size: int) -> common.Contender:
        """Returns `crop_and_resize` with the boxes of the stream."""
        few = self.subset.select(slice(0, batch_size))
        boxes = self.views.draw(hash_keys(self.subset.keys))["view_crop"][:, 1]
        boxes = boxes[: len(boxes) // batch_size * batch_size].reshape(-1, batch_size, 4)
        height, width = self.data.canonical_size
        images = np.empty((batch_size, height, width, self.data.channels), np.uint8)
        for index, path in enumerate(few.paths(np.arange(batch_size))):
            image = peers.read_with_pillow(path, self.data.canonical_size, self.data.channels)
            images[index] = image.reshape(images.shape[1:])
        return peers.cropping_alone(images, boxes, self.data.image_size)

    def join(self) -> tuple[float, float]:
        """Prints the cost of the join; returns it in fractions of wall and of CPU time.

        Pairs of runs follow each other, each pair in the other order than the one before, so that
        neither a slow drift of the machine nor going first counts. A run goes from the first of its
        batches to the last, so that both have done the same work when the clock stops.
        """
        size = self.data.batch_size
        joined = kd.join(self.images, self.plain_store, **self.batches(size))
        num_batches = common.batches_of(
            self.of_stream(joined), self.args.seconds, self.data.fewest_batches
        )
        streams = (joined, self.labels_alone(size))
        runs = [peers.whole(stream.dataset(0, num_batches)) for stream in streams]
        costs = np.empty((self.args.join_rounds + 1, len(runs), 2))
        for number in range(len(costs)):
            for which in common.rotated(range(len(runs)), number):
                wall, cpu, num_images = common.timed(runs[which], num_batches)
                costs[number, which] = 1e6 * wall / num_images, 1e6 * cpu / num_images
        costs = costs[1:]
        ratios = costs[:, 0] / costs[:, 1] - 1
        low, middle, high = np.percentile(ratios, [25, 50, 75], axis=0)
        wall, cpu = (float(number) for number in middle)
        without = float(np.median(costs[:, 1, 1]))
        print(
            f"\nthe join adds {cpu:.1%} CPU: median of {len(costs)} pairs of runs, half of them "
            f"{low[1]:.1%} to {high[1]:.1%}; {cpu * without:.2f} µs of {without:.1f} an image; "
            f"{wall:.1%} of wall time, half of the pairs {low[0]:.1%} to {high[0]:.1%}"
        )
        parts = common.measure(join_parts(joined, num_batches), repeats=self.args.repeats)
        gather, digest = parts["gather"][1], parts["digest"][1] - parts["empty call"][1]
        print(
            f"timed apart: {gather:.2f} µs an image to gather logits and stored digests, "
            f"{digest:.2f} to digest the files: {(gather + digest) / without:.1%} CPU",
            flush=True,
        )
        return wall, cpu

    @functools.cached_property
    def views(self) -> kd.Views:
        size = self.data.canonical_size
        return kd.Views(NUM_VIEWS, crop=CROP, flip=False, canonical_size=size)

    @functools.cached_property
    def plain_store(self) -> kd.LogitStore:
        """A store of all images."""
        return self.taught(self.images, "plain", None)

    @functools.cached_property
    def cropped_store(self) -> kd.LogitStore:
        """A store with views of the images that are cached."""
        return self.taught(self.subset, "cropped", self.views)

    def taught(self, images: kd.Manifest, name: str, views: kd.Views | None) -> kd.LogitStore:
        return kd.teach(
            images,
            instant_teacher(self.data.num_classes),
            self.scratch / f"{name}.h5",
            image_size=self.data.image_size,
            color_mode=self.data.color_mode,
            views=views,
            progress=False,
        )

    @functools.cached_property
    def row_by_row(self) -> h5py.Dataset:
        """Logits as users keep them, float32 `[images, classes]`, in an open HDF5 file."""
        shape = (len(self.images), self.data.num_classes)
        file = h5py.File(self.scratch / "logits.h5", "w")
        rows = np.random.default_rng(1).standard_normal(shape, np.float32)
        return file.create_dataset("logits", data=rows)

    def batches(self, batch_size: int) -> dict:
        return {"batch_size": batch_size, "seed": 1}

    def labels_alone(self, batch_size: int) -> kd.Stream:
        size, color_mode = self.data.image_size, self.data.color_mode
        batches = self.batches(batch_size)
        return kd.join(self.images, None, image_size=size, color_mode=color_mode, **batches)

    def of_stream(self, stream: kd.Stream) -> common.Contender:
        return peers.of_dataset(stream.dataset(), compiled=not self.args.python)

    def keras_loader(self, family: object, batch_size: int) -> tf.data.Dataset:
        return peers.keras_loader(
            family, self.directory, self.data.image_size, self.data.channels, batch_size
        )

    def first_files(self) -> list[bytes]:
        """Returns enough files for the limit, each once."""
        real = dict.fromkeys(os.path.realpath(path) for path in self.paths)
        return list(real)[:1000]


def image_directory(data: Data, scratch: Path, num_photographs: int) -> Path:
    """Returns a directory with a folder a class."""
    if data.name in ("cifar10", "mnist"):
        return common.data_directory(data.name) / "train"
    files = sorted(common.data_directory("imagenet").glob("*.JPEG"))
    if data.name == "photographs":
        files = enlarged(files[:num_photographs])
    directory = scratch / "images"
    for number, file in enumerate(files):
        folder = directory / file.stem
        folder.mkdir(parents=True)
        for copy in range(data.copies):
            (folder / f"{number}_{copy}.jpg").symlink_to(file)
    return directory


def enlarged(files: Iterable[Path]) -> list[Path]:
    """Returns photographs of 4000×3000 pixels, made at the first call."""
    directory = common.scratch_directory() / "photographs"
    directory.mkdir(parents=True, exist_ok=True)
    targets = []
    for file in files:
        target = directory / file.name
        if not target.exists():
            unfinished = target.with_suffix(".tmp")
            with Image.open(file) as image:
                large = image.convert("RGB").resize((4000, 3000), Image.Resampling.LANCZOS)
            large.save(unfinished, "JPEG", quality=90)
            unfinished.rename(target)
        targets.append(target)
    return targets


def instant_teacher(num_classes: int) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a teacher whose answer is one pixel times the number of the class."""
    factors = np.arange(1, num_classes + 1, dtype=np.float32)
    return lambda images: (1 + images[:, 0, 0, :1] / 255) * factors


def fill(dataset: tf.data.Dataset, num_batches: int) -> None:
    """Goes through one epoch, after which a cache has every image."""
    for _ in dataset.take(num_batches):
        pass


def join_parts(stream: kd.Stream, num_batches: int) -> dict[str, Callable[[], int]]:
    """Returns the work of the join for a batch, in parts, each as a contender for `measure`."""
    store, size = stream.store, stream.batch_size
    steps = [stream.rows[stream.indices(step)] for step in range(num_batches)]
    paths = stream.images.paths(stream.indices(0))
    file_bytes = tf.constant([Path(os.fsdecode(path)).read_bytes() for path in paths])
    digest = tf.function(lambda file_bytes: tf.fingerprint(file_bytes))
    empty = tf.function(lambda file_bytes: tf.shape(file_bytes))

    def run(one_batch: Callable[[np.ndarray], object]) -> int:
        for rows in steps:
            one_batch(rows)
        return num_batches * size

    return {
        "gather": lambda: run(lambda rows: (store.gather(rows), store.content_of(rows))),
        "digest": lambda: run(lambda _: digest(file_bytes)),
        "empty call": lambda: run(lambda _: empty(file_bytes)),
    }


def aims(results: dict[str, Results], joins: dict[str, tuple[float, float]]) -> list[str]:
    """Returns one line for each aim that these numbers decide."""
    lines = []

    def ratio_of(data: str, name: str, other: str, text: str, at_least: float) -> None:
        ours, peer = (common.best(results[data], side) for side in (name, other))
        if ours is None or peer is None:
            lines.append(f"not measured: {text}, {data}")
            return
        (rate, cost), (other_rate, other_cost) = results[data][ours], results[data][peer]
        title = f"{text}, {data} ('{ours}' and '{peer}')"
        lines.append(common.verdict(title, rate / other_rate, other_cost / cost, at_least=at_least))

    for data in results:
        if data == "photographs":
            ratio_of(data, SCALED, KERAS, "scaled decoding x Keras 3", 3)
            continue
        if data == "imagenet":
            ratio_of(data, JOINED, LIMIT, "files x the limit", 0.9)
            ratio_of(data, CACHED, KERAS, "from the cache x Keras 3", 20)
        else:
            ratio_of(data, JOINED, KERAS, "files x Keras 3", 2.5)
        if data == "cifar10":
            ratio_of(data, CACHED, KERAS, "from the cache x Keras 3", 50)
        if data != "mnist":
            ratio_of(data, CROPPED, KERAS, "cropped from the cache x Keras 3, not augmented", 4)
            ratio_of(data, CROPPED, CROPPING, "cropped from the cache x crop_and_resize", 0.8)
    for data, (wall, cpu) in joins.items():
        at_most = 0.02 if data == "imagenet" else 0.05
        title = f"the join adds, {data}"
        lines.append(common.verdict_of_growth(title, wall, cpu, at_most=at_most))
    return lines


if __name__ == "__main__":
    main()
