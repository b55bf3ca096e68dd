"""The joined stream beside other ways of reading images, in one run, and what the join costs.

    python tests/benchmarks/stream.py                           CIFAR-10, MNIST, ImageNet at 224
    python tests/benchmarks/stream.py --data photographs        12 megapixels, made by enlarging
    python tests/benchmarks/stream.py --part join               what the join costs, alone

For every data set a table of images per second, CPU time an image, and how many times as fast as
Keras' directory loaders and as bare decoding each contender is; then what the join adds; at the end
the aims, met or not, from these numbers. Everything runs in turn in one process, in the same way:
`peers.py` says how and what is beside the stream.

Files come from the page cache. A directory with too few images for a steady epoch is made larger by
links to the same files. The teacher answers at once: this is about reading, not about a model.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
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
# In a round of any contender, since a batch more or less is under way when the clock stops.
FEWEST_BATCHES = 16

JOINED = "streamkd, joined"
LABELS = "streamkd, labels alone"
CACHED = "streamkd, joined, from the cache"
CROPPED = "streamkd, joined, cropped from the cache"
SCALED = "streamkd, labels alone, decode scaled"
KERAS = "Keras 3 directory loader"
TF_KERAS = "tf_keras directory loader"
LIMIT = "bare libjpeg-turbo, decoding alone"
CROPPING = "crop_and_resize alone"


@dataclasses.dataclass(frozen=True)
class Data:
    """A directory of images and how it is read.

    Attributes:
      name: as on the command line.
      image_size, channels, batch_size: of the batches.
      canonical_size: of which cropped views are cut.
      num_classes: of the logits.
      cached_batch_sizes: what is read from the cache is measured at each.
      num_cached: images that are kept in memory.
      copies: links to each file, so that an epoch has enough batches.
    """

    name: str
    image_size: tuple[int, int]
    channels: int
    batch_size: int
    canonical_size: tuple[int, int]
    num_classes: int
    cached_batch_sizes: tuple[int, ...]
    num_cached: int
    copies: int = 0

    @property
    def color_mode(self) -> str:
        return "grayscale" if self.channels == 1 else "rgb"


DATA = {
    data.name: data
    for data in (
        Data("cifar10", (32, 32), 3, 128, (36, 36), 10, (128, 512), 20_000),
        Data("mnist", (28, 28), 1, 128, (32, 32), 10, (128, 512), 20_000),
        Data("imagenet", (224, 224), 3, 64, (256, 256), 1000, (64,), 2_000, copies=10),
        Data("photographs", (224, 224), 3, 8, (256, 256), 1000, (), 0, copies=10),
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
    # It answers at once and is right by chance.
    warnings.filterwarnings("ignore", "The teacher .*is right on")
    # Every new iterator counts as a call of `peers.go_through`; it is traced once a kind of batch.
    tf.get_logger().setLevel("ERROR")
    # Forked before TensorFlow starts threads.
    chosen = [DATA[name] for name in args.data]
    workers = peers.PillowWorkers(
        max(4 * d.batch_size * d.channels * int(np.prod(d.image_size)) for d in chosen)
    )
    results: dict[str, Results] = {}
    joins: dict[str, float] = {}
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
        self.some = self.images.select(slice(None, None, every))
        self.paths = list(self.images.paths(np.arange(len(self.images))))

    @property
    def description(self) -> str:
        height, width = self.data.image_size
        size = f"{height}x{width}x{self.data.channels}"
        return f"{len(self.images):,} files, {size}, batches of {self.data.batch_size}"

    def streams(self, workers: peers.PillowWorkers) -> Results:
        """Prints the table of all contenders and returns its numbers."""
        if self.data.name == "photographs":
            contenders = self.large_files()
        else:
            contenders = self.files() | self.others(workers) | self.cached()
        measured = common.measure_steady(
            contenders,
            repeats=self.args.repeats,
            seconds=self.args.seconds,
            fewest=FEWEST_BATCHES if self.data.name != "photographs" else 2,
            children=workers.children,
        )
        common.print_ratios(
            measured, {"x Keras 3": KERAS, "x tf_keras": TF_KERAS, "x limit": LIMIT}
        )
        return measured

    def files(self) -> dict[str, common.Contender]:
        """Returns what reads files: the stream, Keras' loaders, and the limit."""
        data, joined = self.data, kd.join(self.images, self.store(), **self.batches())
        contenders = {
            JOINED: self.of_stream(joined),
            LABELS: self.of_stream(self.labels_alone()),
            KERAS: peers.of_dataset(self.keras_loader(keras, data.batch_size)),
            TF_KERAS: peers.of_dataset(self.keras_loader(tf_keras, data.batch_size)),
        }
        for size in data.cached_batch_sizes:
            if size != data.batch_size:
                loader = self.keras_loader(keras, size)
                contenders[f"{KERAS}, batch {size}"] = peers.of_dataset(loader)
        if not self.paths[0].endswith(b".png"):
            contenders[LIMIT] = peers.decoding_alone(self.first_files(), data.batch_size)
        return contenders

    def large_files(self) -> dict[str, common.Contender]:
        """Returns what reads photographs of 12 megapixels."""
        contenders = {LABELS: self.of_stream(self.labels_alone())}
        if has_scaled_decoding():
            scaled = kd.join(
                self.images,
                None,
                image_size=self.data.image_size,
                decode="scaled",
                **self.batches(),
            )
            contenders[SCALED] = self.of_stream(scaled)
        size = self.data.batch_size
        for name, family in ((KERAS, keras), (TF_KERAS, tf_keras)):
            contenders[name] = peers.of_dataset(self.keras_loader(family, size), warm_up=1)
        contenders[LIMIT] = peers.decoding_alone(self.first_files(), size)
        return contenders

    def others(self, workers: peers.PillowWorkers) -> dict[str, common.Contender]:
        """Returns what users write for themselves."""
        data, paths = self.data, self.paths
        size, channels = data.image_size, data.channels
        few = self.some.paths(np.arange(len(self.some)))
        in_files = str(self.scratch / "tf.data")
        contenders = {}
        for name, chosen, cache in (
            ("tf.data, files", paths, None),
            ("tf.data, cache in memory", few, ""),
            ("tf.data, cache in files", few, in_files),
        ):
            dataset = peers.tf_data(chosen, size, channels, data.batch_size, cache=cache)
            if cache is not None:
                fill(dataset, len(few) // data.batch_size + 1)
            contenders[name] = peers.of_dataset(dataset)

        logits = self.row_by_row()

        def sequence() -> keras.utils.PyDataset:
            return peers.PillowAndLogits(
                paths, logits, size, channels, data.batch_size, workers=NUM_WORKERS
            )

        contenders[f"PyDataset, Pillow and h5py, {NUM_WORKERS} threads"] = peers.of_py_dataset(
            sequence
        )
        name = f"as PyTorch's DataLoader, Pillow, {len(workers.children)} processes"
        contenders[name] = workers.contender(paths, size, channels, data.batch_size)
        return contenders

    def cached(self) -> dict[str, common.Contender]:
        """Returns what comes from the pixel cache, and the one operation that cuts its crops."""
        data = self.data
        views = kd.Views(NUM_VIEWS, crop=CROP, flip=False, canonical_size=data.canonical_size)
        plain, cropped = self.store(), self.store(views)
        contenders = {}
        for size in data.cached_batch_sizes:
            for name, store in ((CACHED, plain), (CROPPED, cropped)):
                stream = kd.join(self.some, store, **self.batches(size), cache="memory")
                fill(stream.dataset(), stream.end_of_epoch(1))
                contenders[f"{name}, batch {size}"] = self.of_stream(stream)
            contenders[f"{CROPPING}, batch {size}"] = self.cropping_alone(views, size)
        return contenders

    def cropping_alone(self, views: kd.Views, batch_size: int) -> common.Contender:
        """Returns `crop_and_resize` with the boxes that the stream has."""
        few = self.some.select(slice(0, batch_size))
        boxes = views.draw(hash_keys(self.some.keys))["view_crop"][:, 1]
        boxes = boxes[: len(boxes) // batch_size * batch_size].reshape(-1, batch_size, 4)
        height, width = self.data.canonical_size
        images = np.empty((batch_size, height, width, self.data.channels), np.uint8)
        for place, path in enumerate(few.paths(np.arange(batch_size))):
            image = peers.read_with_pillow(path, self.data.canonical_size, self.data.channels)
            images[place] = image.reshape(images.shape[1:])
        return peers.cropping_alone(images, boxes, self.data.image_size)

    def join(self) -> float:
        """Prints what the join adds to the stream, and returns it as a share of its CPU time.

        Pairs of runs that follow each other, each pair in the other order than the one before, so
        that neither a slow drift of the machine nor going first counts. A run goes from the first
        of its batches to the last, so that both have done the same work when the clock stops.
        """
        joined = kd.join(self.images, self.store(), **self.batches())
        num_batches = common.batches_of(self.of_stream(joined), self.args.seconds, FEWEST_BATCHES)
        runs = [peers.whole(s.dataset(0, num_batches)) for s in (joined, self.labels_alone())]
        costs = np.empty((self.args.join_rounds + 1, 2))
        for number in range(len(costs)):
            for which in (0, 1) if number % 2 else (1, 0):
                _, cpu, num_images = common.timed(runs[which], num_batches)
                costs[number, which] = 1e6 * cpu / num_images
        costs = costs[1:]
        low, middle, high = np.percentile(costs[:, 0] / costs[:, 1] - 1, [25, 50, 75])
        without = float(np.median(costs[:, 1]))
        print(
            f"\nthe join adds {middle:.1%} CPU: median of {len(costs)} pairs of runs, half of them "
            f"{low:.1%} to {high:.1%}; {middle * without:.2f} µs of {without:.1f} an image"
        )
        parts = common.measure(join_parts(joined, num_batches), repeats=self.args.repeats)
        gather, digest = parts["gather"][1], parts["digest"][1] - parts["empty call"][1]
        print(
            f"timed apart: {gather:.2f} µs an image to gather logits and stored digests, "
            f"{digest:.2f} to digest the files: {(gather + digest) / without:.1%} CPU",
            flush=True,
        )
        return float(middle)

    def store(self, views: kd.Views | None = None) -> kd.LogitStore:
        """Returns a store of all images, or of those that are cached where it has views."""
        images = self.images if views is None else self.some
        path = self.scratch / f"{'plain' if views is None else 'cropped'}.h5"
        return kd.teach(
            images,
            instant_teacher(self.data.num_classes),
            path,
            image_size=self.data.image_size,
            color_mode=self.data.color_mode,
            views=views,
            progress=False,
        )

    def row_by_row(self) -> h5py.Dataset:
        """Returns logits as users keep them, float32 `[images, classes]`, in an open HDF5 file."""
        shape = (len(self.images), self.data.num_classes)
        file = h5py.File(self.scratch / "logits.h5", "w")
        rows = np.random.default_rng(1).standard_normal(shape, np.float32)
        return file.create_dataset("logits", data=rows)

    def batches(self, batch_size: int | None = None) -> dict:
        return {"batch_size": batch_size or self.data.batch_size, "seed": 1}

    def labels_alone(self) -> kd.Stream:
        size, color_mode = self.data.image_size, self.data.color_mode
        return kd.join(self.images, None, image_size=size, color_mode=color_mode, **self.batches())

    def of_stream(self, stream: kd.Stream) -> common.Contender:
        return peers.of_dataset(stream.dataset(), compiled=not self.args.python)

    def keras_loader(self, family: object, batch_size: int) -> tf.data.Dataset:
        return peers.keras_loader(
            family, self.directory, self.data.image_size, self.data.channels, batch_size
        )

    def first_files(self) -> list[bytes]:
        """Returns files enough for the limit, each once."""
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


def has_scaled_decoding() -> bool:
    return "decode" in inspect.signature(kd.join).parameters


def instant_teacher(num_classes: int) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a teacher whose answer is one pixel times the number of the class."""
    factors = np.arange(1, num_classes + 1, dtype=np.float32)
    return lambda images: (1 + images[:, 0, 0, :1] / 255) * factors


def fill(dataset: tf.data.Dataset, num_batches: int) -> None:
    """Goes through one epoch, after which a cache has everything."""
    for _ in dataset.take(num_batches):
        pass


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


def aims(results: dict[str, Results], joins: dict[str, float]) -> list[str]:
    """Returns one line for each aim that these numbers decide."""
    lines = []

    def ratio_of(data: str, name: str, other: str, text: str, at_least: float) -> None:
        rates, costs = ({n: r[k] for n, r in results[data].items()} for k in (0, 1))
        ours = best(rates, name)
        theirs = None if ours is None else counterpart(rates, ours, name, other)
        if ours is None or theirs is None:
            lines.append(f"not measured  {text}, {data}: there is no such contender here")
            return
        ratio = rates[ours] / rates[theirs]
        verdict = "met" if ratio >= at_least else "not met"
        by_cpu = costs[theirs] / costs[ours]
        lines.append(
            f"{verdict:<12}  {text}, {data}: {ratio:.2f}, at least {at_least} "
            f"(by CPU {by_cpu:.2f}; '{ours}' and '{theirs}')"
        )

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
    for data, share in joins.items():
        at_most = 0.02 if data == "imagenet" else 0.05
        verdict = "met" if share < at_most else "not met"
        lines.append(f"{verdict:<12}  the join, {data}: {share:.1%} CPU, under {at_most:.0%}")
    return lines


def best(rates: dict[str, float], name: str) -> str | None:
    """Returns the fastest contender of that name, at whatever batch size."""
    same = [other for other in rates if other == name or other.startswith(f"{name}, batch ")]
    return max(same, key=lambda other: rates[other], default=None)


def counterpart(rates: dict[str, float], ours: str, name: str, other: str) -> str | None:
    """Returns `other` at the batch size that `ours`, one of those named `name`, has."""
    same = other + ours.removeprefix(name)
    return same if same in rates else other if other in rates else None


if __name__ == "__main__":
    main()
