"""A whole distillation, from a directory to a trained student, and how users do it today.

    python tests/benchmarks/whole_job.py                    both pairs, about two hours
    python tests/benchmarks/whole_job.py --pairs cifar10 --rounds 1
    python tests/benchmarks/whole_job.py --quick            minutes, to see that it works

Two pairs of teacher and student: ResNet50 and MobileNetV2(0.35) at 96 pixels, on the sample of
ImageNet's photographs, and two networks for CIFAR-10. Their weights are random: this measures time.
All models are of Keras 3, because Keras' Distiller is.

  streamkd                  teach, which leaves the pixels on the disk, join with that cache,
                            Distiller.fit: each file is decoded once
  streamkd, decoding twice  the same with the pixel cache in memory, which the first epoch fills
  Keras' Distiller          image_dataset_from_directory, cached in memory; the teacher in every
                            step
  saved logits, PyDataset   teacher.predict once, np.save, and a PyDataset of arrays through fit
  saved logits, tf.data     the same arrays through fit by from_tensor_slices, shuffle and batch
  ideal                     the teacher once, and the student alone in a bare loop, on arrays in
                            memory; the time to read the files does not count

Everyone may use XLA: streamkd decides by itself (`jit="auto"`); each of the others runs once for
every choice that it has, several steps in a call, and its fastest run is compared. `--xla off`
forbids XLA to all of them (for convolutions on a CPU, XLA takes several times as long). Everyone
has the same loss, optimizer, batches and number of updates; the script checks the updates. Everyone
runs in a process of its own, in turn, another one first in every round; printed are medians. The
clock starts when models and imports are loaded, and stops when the student is trained: decoding,
the teacher, tracing and compiling all count.

The peers do without work that correctness would need: Keras' Distiller shuffles batches, not images
(its cache is of batches), and saved logits are paired with images by their order.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import common
import numpy as np

OURS, TWICE, ONLINE, IDEAL = "streamkd", "streamkd, decoding twice", "Keras' Distiller", "ideal"
SAVED_SEQUENCE, SAVED_DATA = "saved logits, PyDataset", "saved logits, tf.data"
OFF, UPDATE, ON = "off", "update", "on"
# Contenders to what XLA may compile: nothing, the optimizer's update alone, everything. `compile`
# of Keras knows no XLA for the update alone. streamkd decides by itself.
XLA = {
    OURS: ("auto",),
    TWICE: ("auto",),
    ONLINE: (OFF, ON),
    SAVED_SEQUENCE: (OFF, ON),
    SAVED_DATA: (OFF, ON),
    IDEAL: (OFF, UPDATE, ON),
}
TEACHER, FIRST, LATER = "teacher", "first epoch", "later epochs"
STEPS_PER_CALL = 32
WORKERS = 2
MIN_OF_IDEAL = 0.97
# Batch size of every teacher; streamkd's default.
TEACHER_BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Pair:
    """A teacher, a student, and the images the student learns from.

    Attributes:
      name: as on the command line.
      data: name of the data set.
      image_size: height and width.
      num_images: a multiple of the batch size, so that an epoch is whole batches for everyone.
      num_classes, batch_size: of the student.
    """

    name: str
    data: str
    image_size: tuple[int, int]
    num_images: int
    num_classes: int
    batch_size: int

    @property
    def steps_per_epoch(self) -> int:
        return self.num_images // self.batch_size


PAIRS = {
    pair.name: pair
    for pair in (
        Pair("imagenet", "imagenet", (96, 96), 1024, 1000, 32),
        Pair("cifar10", "cifar10", (32, 32), 9984, 10, 128),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--contenders", nargs="+", choices=XLA, default=list(XLA))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--xla", choices=("allowed", OFF), default="allowed", help="to everyone")
    parser.add_argument("--quick", action="store_true", help="few images; the numbers mean nothing")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        contender, xla, pair, directory = args.child
        answer = run(contender, xla, sized(PAIRS[pair], args), Path(directory), args.epochs)
        print(json.dumps(answer))
        return
    if args.quick:
        args.epochs, args.rounds = 2, 1
    lines = []
    for pair in (sized(PAIRS[name], args) for name in args.pairs):
        with tempfile.TemporaryDirectory(prefix="streamkd-") as scratch:
            directory = Path(scratch) / "images"
            make_directory(pair, directory)
            print(
                f"\n{pair.name}: {pair.num_images:,} images, {args.epochs} epochs, batches of "
                f"{pair.batch_size}\n",
                flush=True,
            )
            lines += print_results(pair, in_turn(pair, directory, args), args)
    print()
    for line in lines:
        print(line)


def sized(pair: Pair, args: argparse.Namespace) -> Pair:
    if not args.quick:
        return pair
    return dataclasses.replace(pair, num_images=3 * pair.batch_size)


def make_directory(pair: Pair, directory: Path) -> None:
    """Makes a folder for each class, with links to the files of the data set."""
    source = common.data_directory(pair.data)
    if pair.data == "imagenet":
        files = [(file.stem, file) for file in sorted(source.glob("*.JPEG"))]
    else:
        by_class = [sorted(folder.glob("*.jpg")) for folder in sorted((source / "train").iterdir())]
        files = [
            (file.parent.name, file) for of_turn in zip(*by_class, strict=False) for file in of_turn
        ]
    for class_name, _ in files:
        (directory / class_name).mkdir(parents=True, exist_ok=True)
    # The first files are linked twice where the pair has more images than files.
    for number in range(pair.num_images):
        class_name, file = files[number % len(files)]
        (directory / class_name / f"{number:05}{file.suffix.lower()}").symlink_to(file)


def choices(contender: str, args: argparse.Namespace) -> tuple[str, ...]:
    """Returns the parts that XLA may compile, a choice a run."""
    return XLA[contender] if args.xla == "allowed" else (OFF,)


def in_turn(pair: Pair, directory: Path, args: argparse.Namespace) -> dict[str, list[dict]]:
    """Returns the answers of every contender, one a round."""
    runs = {
        f"{name}, XLA {xla}": (name, xla) for name in args.contenders for xla in choices(name, args)
    }
    answers: dict[str, list[dict]] = {title: [] for title in runs}
    for round_number in range(args.rounds):
        for title in common.rotated(runs, round_number):
            name, xla = runs[title]
            command = [sys.executable, __file__, "--epochs", str(args.epochs)]
            command += ["--quick"] * args.quick
            command += ["--child", name, xla, pair.name, str(directory)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            answers[title].append(json.loads(done.stdout.splitlines()[-1]))
    return answers


def print_results(
    pair: Pair, answers: dict[str, list[dict]], args: argparse.Namespace
) -> list[str]:
    """Prints a table and returns the aims, met or not."""
    updates = {answer["updates"] for rounds in answers.values() for answer in rounds}
    if updates != {pair.steps_per_epoch * args.epochs}:
        raise SystemExit(f"The numbers of updates differ: {updates}")
    print(f"{updates.pop():,} updates each\n")
    print(f"{'seconds':<34}" + "".join(f"{part:>15}" for part in (TEACHER, FIRST, LATER, "all")))
    medians = {}
    for title, rounds in answers.items():
        parts = np.array([[a["parts"][part] for part in (TEACHER, FIRST, LATER)] for a in rounds])
        parts = np.concatenate([parts, parts.sum(axis=1, keepdims=True)], axis=1)
        medians[title] = np.median(parts, axis=0)
        cells = [f"{wall:.1f} ({cpu:.1f})" for wall, cpu in medians[title]]
        print(f"{title:<34}" + "".join(f"{cell:>15}" for cell in cells), flush=True)
    print("in brackets: CPU seconds")
    return aims(pair.name, medians)


def aims(pair: str, medians: dict[str, np.ndarray]) -> list[str]:
    """Returns the time of the ideal and of every peer as a multiple of streamkd's.

    Args:
      pair: its name.
      medians: titles to float64 `[4, 2]`, seconds and CPU seconds of the teacher, the first epoch,
        the later ones, and all.
    """
    by_name = {
        name: {title: parts for title, parts in medians.items() if title.startswith(f"{name}, XLA")}
        for name in XLA
    }
    if not by_name[OURS]:
        return []
    ours = min((parts[-1] for parts in by_name[OURS].values()), key=lambda part: part[0])
    lines = []
    if ideal := by_name.pop(IDEAL):
        # The teacher may be fastest with one choice and the student with another one.
        teacher = min((parts[0] for parts in ideal.values()), key=lambda part: part[0])
        student = min((parts[1] + parts[2] for parts in ideal.values()), key=lambda part: part[0])
        wall, cpu = (teacher + student) / ours
        lines.append(common.verdict(f"{pair}: ideal by streamkd", wall, cpu, at_least=MIN_OF_IDEAL))
    for name, runs in by_name.items():
        if name != OURS and runs:
            title = min(runs, key=lambda title: runs[title][-1][0])
            wall, cpu = runs[title][-1] / ours
            lines.append(f"{'':<8} {pair}: '{title}' by streamkd {wall:.2f}, by CPU {cpu:.2f}")
    return lines


# The rest runs in the children.


class Parts:
    """The time that each part of a job took; a part begins when the one before has ended."""

    def __init__(self) -> None:
        self.taken: dict[str, list[float]] = {}
        self._clock = common.Clock()

    def end(self, name: str) -> None:
        taken = self._clock.taken()
        wall, cpu = self.taken.get(name, (0.0, 0.0))
        self.taken[name] = [wall + taken.wall, cpu + taken.cpu]
        self._clock = common.Clock()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """The work of one contender.

    Attributes:
      pair: teacher and student, by name.
      directory: of the images.
      scratch: for the contender's own files.
      epochs: of the student.
      xla: one of the contender's choices in `XLA`.
      teacher, student, optimizer: of Keras 3.
    """

    pair: Pair
    directory: Path
    scratch: Path
    epochs: int
    xla: str
    teacher: Any
    student: Any
    optimizer: Any

    @property
    def compile_settings(self) -> dict[str, Any]:
        """The best settings of `compile`, with or without XLA."""
        return {"jit_compile": self.xla == ON, "steps_per_execution": STEPS_PER_CALL}


def run(contender: str, xla: str, pair: Pair, directory: Path, epochs: int) -> dict[str, Any]:
    """Returns the time of each part of a contender's job, and the number of updates."""
    # The teachers are untrained, and a stream shuffles by itself.
    warnings.filterwarnings("ignore", "The teacher .*is right on")
    warnings.filterwarnings("ignore", "`shuffle=True` was passed")
    work = {
        OURS: functools.partial(ours, cache="disk"),
        TWICE: functools.partial(ours, cache="memory"),
        ONLINE: online,
        SAVED_SEQUENCE: functools.partial(saved, data=sequence_of_arrays),
        SAVED_DATA: functools.partial(saved, data=dataset_of_arrays),
        IDEAL: ideal,
    }[contender]
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as scratch:
        teacher, student, optimizer = models(pair)
        job = Job(
            pair=pair,
            directory=directory,
            scratch=Path(scratch),
            epochs=epochs,
            xla=xla,
            teacher=teacher,
            student=student,
            optimizer=optimizer,
        )
        parts = work(job)
        parts.end(LATER)
    taken = {TEACHER: [0.0, 0.0]} | parts.taken
    return {"parts": taken, "updates": int(job.optimizer.iterations)}


def ours(job: Job, cache: str) -> Parts:
    import training_peers as peers

    import streamkd as kd

    place = {"cache_directory": job.scratch} if cache == "disk" else {}
    parts = Parts()
    images = kd.scan(job.directory)
    store = kd.teach(
        images,
        job.teacher,
        job.scratch / "teacher.h5",
        image_size=job.pair.image_size,
        batch_size=TEACHER_BATCH_SIZE,
        progress=False,
        cache="disk" if place else None,
        **place,
    )
    parts.end(TEACHER)
    stream = kd.join(images, store, batch_size=job.pair.batch_size, seed=1, cache=cache, **place)
    distiller = kd.Distiller(
        job.student,
        optimizer=job.optimizer,
        temperature=peers.TEMPERATURE,
        label_weight=peers.LABEL_WEIGHT,
        jit=job.xla,
        steps_per_call=STEPS_PER_CALL,
    )
    callbacks = [end_of_epochs(parts)]
    distiller.fit(stream, epochs=job.epochs, progress=False, callbacks=callbacks)
    return parts


def online(job: Job) -> Parts:
    import keras
    import tensorflow as tf
    import training_peers as peers

    parts = Parts()
    dataset = loader(job, shuffle=True).cache().shuffle(job.pair.steps_per_epoch)
    distiller = keras.distillation.Distiller(
        job.teacher,
        job.student,
        # The string 'kl_divergence', which is the default, compares logits without a softmax.
        keras.distillation.LogitsDistillation(peers.TEMPERATURE, keras.losses.KLDivergence()),
        student_loss_weight=peers.LABEL_WEIGHT,
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(job.optimizer, loss, **job.compile_settings)
    batches = dataset.prefetch(tf.data.AUTOTUNE)
    distiller.fit(batches, epochs=job.epochs, verbose=0, callbacks=[end_of_epochs(parts)])
    return parts


def saved(job: Job, data: Callable[[np.ndarray, np.ndarray, int], Any]) -> Parts:
    """Trains on logits that were saved; `data` makes batches of pixels and packed targets."""
    parts = Parts()
    pixels, labels = in_memory(loader(job, shuffle=False))
    job.teacher.compile(jit_compile=job.xla == ON)
    logits = job.teacher.predict(pixels, batch_size=TEACHER_BATCH_SIZE, verbose=0)
    np.save(job.scratch / "logits.npy", logits)
    parts.end(TEACHER)
    logits = np.load(job.scratch / "logits.npy")
    packed = np.concatenate([labels[:, None].astype(np.float32), logits], axis=1)
    job.student.compile(job.optimizer, loss=loss_of_saved, **job.compile_settings)
    batches = data(pixels, packed, job.pair.batch_size)
    job.student.fit(batches, epochs=job.epochs, verbose=0, callbacks=[end_of_epochs(parts)])
    return parts


def ideal(job: Job) -> Parts:
    import tensorflow as tf
    import training_peers as peers

    pixels, labels = in_memory(loader(job, shuffle=False))
    pixels, labels = tf.constant(pixels.astype(np.uint8)), tf.constant(labels)
    parts = Parts()

    @tf.function(jit_compile=job.xla == ON)
    def answer(images: tf.Tensor) -> tf.Tensor:
        return job.teacher(tf.cast(images, tf.float32), training=False)

    firsts = range(0, job.pair.num_images, TEACHER_BATCH_SIZE)
    blocks = [answer(pixels[first : first + TEACHER_BATCH_SIZE]) for first in firsts]
    logits = tf.concat(blocks, axis=0)
    parts.end(TEACHER)
    jit = {OFF: peers.OFF, UPDATE: peers.UPDATE, ON: peers.STEP}[job.xla]
    loop = peers.BareLoop(job.student, job.optimizer, jit)
    random = np.random.default_rng(1)
    for epoch in range(job.epochs):
        rows = random.permutation(job.pair.num_images).reshape(-1, job.pair.batch_size)
        loop.run_rows(pixels, labels, logits, tf.constant(rows)).numpy()
        parts.end(LATER if epoch else FIRST)
    return parts


def models(pair: Pair) -> tuple[Any, Any, Any]:
    """Returns teacher, student and optimizer, of Keras 3, their weights random."""
    import keras
    import training_peers as peers

    keras.utils.set_random_seed(peers.SEED)
    build = {"imagenet": application_models, "cifar10": convolutional_models}[pair.name]
    return *build(pair), peers.adam(keras)


def application_models(pair: Pair) -> tuple[Any, Any]:
    import keras

    shape = (*pair.image_size, 3)
    options = {"weights": None, "classes": pair.num_classes, "classifier_activation": None}

    def on_pixels(model: Any) -> Any:
        inputs = keras.Input(shape)
        return keras.Model(inputs, model(keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)))

    teacher = keras.applications.ResNet50(input_shape=shape, **options)
    student = keras.applications.MobileNetV2(input_shape=shape, alpha=0.35, **options)
    return on_pixels(teacher), on_pixels(student)


def convolutional_models(pair: Pair) -> tuple[Any, Any]:
    """Returns a teacher of 4.7 million parameters and a student of 0.1 million."""
    import keras

    def network(filters: tuple[int, ...], convolutions: int) -> Any:
        inputs = keras.Input((*pair.image_size, 3))
        pixels = keras.layers.Rescaling(1 / 255)(inputs)
        for number in filters:
            for _ in range(convolutions):
                pixels = keras.layers.Conv2D(number, 3, padding="same", use_bias=False)(pixels)
                pixels = keras.layers.ReLU()(keras.layers.BatchNormalization()(pixels))
            pixels = keras.layers.MaxPooling2D()(pixels)
        pixels = keras.layers.GlobalAveragePooling2D()(pixels)
        return keras.Model(inputs, keras.layers.Dense(pair.num_classes)(pixels))

    return network((64, 128, 256, 512), 2), network((32, 64, 128), 1)


def loader(job: Job, *, shuffle: bool) -> Any:
    import keras

    return keras.utils.image_dataset_from_directory(
        job.directory,
        image_size=job.pair.image_size,
        batch_size=job.pair.batch_size,
        shuffle=shuffle,
        seed=1,
        verbose=False,
    )


def in_memory(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixels float32 and labels int32 of all batches."""
    pixels, labels = zip(*((p.numpy(), n.numpy()) for p, n in dataset), strict=True)
    return np.concatenate(pixels), np.concatenate(labels)


def dataset_of_arrays(pixels: np.ndarray, packed: np.ndarray, batch_size: int) -> Any:
    """Returns arrays in memory as TensorFlow's guide feeds them to `fit`, shuffled as a whole."""
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((pixels, packed)).shuffle(len(pixels))
    return dataset.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def sequence_of_arrays(pixels: np.ndarray, packed: np.ndarray, batch_size: int) -> Any:
    """Returns a PyDataset of images and packed targets: the label, then the teacher's logits."""
    import keras

    class ImagesAndLogits(keras.utils.PyDataset):
        def __init__(self) -> None:
            super().__init__(workers=WORKERS, use_multiprocessing=False, max_queue_size=16)
            self._random = np.random.default_rng(1)
            self._order = self._random.permutation(len(pixels))

        def __len__(self) -> int:
            return len(pixels) // batch_size

        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            rows = self._order[index * batch_size : (index + 1) * batch_size]
            return pixels[rows], packed[rows]

        def on_epoch_end(self) -> None:
            self._order = self._random.permutation(len(pixels))

    return ImagesAndLogits()


def loss_of_saved(packed: Any, student_logits: Any) -> Any:
    import tensorflow as tf
    import training_peers as peers

    return peers.bare_loss(tf.cast(packed[:, 0], tf.int32), packed[:, 1:], student_logits)


def end_of_epochs(parts: Parts) -> Any:
    """Returns a callback that ends a part with the first epoch, and another with the later ones."""
    import keras

    class EndOfEpochs(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            parts.end(LATER if epoch else FIRST)

    return EndOfEpochs()


if __name__ == "__main__":
    main()
