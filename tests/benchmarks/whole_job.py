"""A whole distillation, from a directory to a trained student, beside what users do today.

    python tests/benchmarks/whole_job.py                    both pairs, about an hour
    python tests/benchmarks/whole_job.py --pairs cifar10 --rounds 1
    python tests/benchmarks/whole_job.py --quick            two minutes, to see that it works

Two pairs of teacher and student: ResNet50 and MobileNetV2(0.35) at 96 pixels, on the sample of
ImageNet's photographs, and two networks for CIFAR-10. Their weights are random: this is about time.
All models are of Keras 3, because Keras' Distiller is.

  streamkd              teach, join with the pixel cache in memory, Distiller.fit
  Keras' Distiller      image_dataset_from_directory, cached in memory; the teacher in every step
  saved logits          teacher.predict once, np.save, and a PyDataset of arrays through fit
  ideal                 the teacher once, and the student alone in a bare loop, all of it on arrays
                        in memory; to read the files does not count

The others run with and without XLA, several steps in a call, and the faster of both is compared
(`--xla off` for one of them alone: for convolutions on a CPU, XLA takes several times as long);
streamkd decides by itself. Everyone has the same loss, optimizer, batches and number of updates,
which is checked. Everyone runs in a process of its own, in turn, the first another one in every
round; printed are medians. The clock starts when models and imports are there, and stops when the
student is trained: decoding, the teacher, tracing and compiling all count.

The peers are spared what they would need to be right: Keras' Distiller shuffles batches, not images
(its cache is of batches), and saved logits are paired with images by their order.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import common
import numpy as np

OURS, ONLINE, SAVED, IDEAL = "streamkd", "Keras' Distiller", "saved logits", "ideal"
CONTENDERS = (OURS, ONLINE, SAVED, IDEAL)
JITS = ("off", "on")
TEACHER, FIRST, LATER = "teacher", "first epoch", "later epochs"
STEPS_PER_CALL = 32
WORKERS = 2
AT_LEAST = 0.9


@dataclasses.dataclass(frozen=True)
class Pair:
    """A teacher and a student, and what the student learns from.

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
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jit", default="auto", help="of streamkd")
    parser.add_argument("--xla", nargs="+", choices=JITS, default=list(JITS), help="of the others")
    parser.add_argument("--quick", action="store_true", help="few images; the numbers mean nothing")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        contender, jit, pair, directory = args.child
        print(json.dumps(run(contender, jit, sized(PAIRS[pair], args), Path(directory), args)))
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
        files = [(file.parent.name, file) for some in zip(*by_class, strict=False) for file in some]
    for class_name, _ in files:
        (directory / class_name).mkdir(parents=True, exist_ok=True)
    # There may be more images than files: the first are there twice.
    for number in range(pair.num_images):
        class_name, file = files[number % len(files)]
        (directory / class_name / f"{number:05}{file.suffix.lower()}").symlink_to(file)


def in_turn(pair: Pair, directory: Path, args: argparse.Namespace) -> dict[str, list[dict]]:
    """Returns what every contender said in every round."""
    names = [(name, "auto") for name in args.contenders if name == OURS]
    names += [(name, jit) for name in args.contenders if name != OURS for jit in args.xla]
    said: dict[str, list[dict]] = {}
    for number in range(args.rounds):
        turn = number % len(names)
        for name, jit in names[turn:] + names[:turn]:
            title = name if name == OURS else f"{name}, XLA {jit}"
            command = [sys.executable, __file__, "--epochs", str(args.epochs), "--jit", args.jit]
            command += ["--quick"] * args.quick
            command += ["--child", name, jit, pair.name, str(directory)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            said.setdefault(title, []).append(json.loads(done.stdout.splitlines()[-1]))
    return said


def print_results(pair: Pair, said: dict[str, list[dict]], args: argparse.Namespace) -> list[str]:
    """Prints a table and returns the aims, met or not."""
    updates = {answer["updates"] for answers in said.values() for answer in answers}
    if updates != {pair.steps_per_epoch * args.epochs}:
        raise SystemExit(f"The numbers of updates differ: {updates}")
    print(f"{updates.pop():,} updates each\n")
    print(f"{'seconds':<26}" + "".join(f"{part:>15}" for part in (TEACHER, FIRST, LATER, "all")))
    medians = {}
    for title, answers in said.items():
        parts = np.array([[a["parts"][part] for part in (TEACHER, FIRST, LATER)] for a in answers])
        parts = np.concatenate([parts, parts.sum(axis=1, keepdims=True)], axis=1)
        medians[title] = np.median(parts, axis=0)
        cells = [f"{wall:.1f} ({cpu:.1f})" for wall, cpu in medians[title]]
        print(f"{title:<26}" + "".join(f"{cell:>15}" for cell in cells), flush=True)
    print("in brackets: of CPU")
    return aims(pair, medians)


def aims(pair: Pair, medians: dict[str, np.ndarray]) -> list[str]:
    """Returns what streamkd's time is beside the ideal and beside every peer."""
    if OURS not in medians:
        return []
    lines = []
    wall, cpu = medians[OURS][-1]
    ideal = [parts for title, parts in medians.items() if title.startswith(IDEAL)]
    if ideal:
        # The teacher may be faster one way and the student the other way.
        teacher = min((parts[0] for parts in ideal), key=lambda part: part[0])
        student = min((parts[1] + parts[2] for parts in ideal), key=lambda part: part[0])
        share, cpu_share = (teacher + student) / (wall, cpu)
        # By both, since other work on the machine may slow one process and not the next.
        met = "met" if min(share, cpu_share) >= AT_LEAST else "not met"
        lines.append(
            f"{met:<8} {pair.name}: ideal by streamkd {share:.2f}, by CPU {cpu_share:.2f}, both at "
            f"least {AT_LEAST}"
        )
    for peer in (ONLINE, SAVED):
        found = [(parts[-1], title) for title, parts in medians.items() if title.startswith(peer)]
        if found:
            (peer_wall, peer_cpu), title = min(found, key=lambda part: part[0][0])
            lines.append(
                f"{'':<8} {pair.name}: '{title}' by streamkd {peer_wall / wall:.2f} "
                f"(by CPU {peer_cpu / cpu:.2f})"
            )
    return lines


# The rest runs in the children.


class Parts:
    """What the parts of a job took; each begins where the one before has ended."""

    def __init__(self) -> None:
        self.taken: dict[str, list[float]] = {}
        self._clock = common.Clock()

    def end(self, name: str) -> None:
        taken = self._clock.taken()
        wall, cpu = self.taken.get(name, (0.0, 0.0))
        self.taken[name] = [wall + taken.wall, cpu + taken.cpu]
        self._clock = common.Clock()


def run(
    contender: str, jit: str, pair: Pair, directory: Path, args: argparse.Namespace
) -> dict[str, Any]:
    """Returns what the parts of a contender's job took, and how many updates there were."""
    # They are of untrained teachers, and of a data set that shuffles by itself.
    warnings.filterwarnings("ignore", "The teacher .*is right on")
    warnings.filterwarnings("ignore", "`shuffle=True` was passed")
    job = {OURS: ours, ONLINE: online, SAVED: saved, IDEAL: ideal}[contender]
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as scratch:
        parts, updates = job(pair, directory, Path(scratch), args, jit == "on")
    return {"parts": {TEACHER: [0.0, 0.0]} | parts.taken, "updates": updates}


Job = tuple[Parts, int]


def ours(pair: Pair, directory: Path, scratch: Path, args: argparse.Namespace, _: bool) -> Job:
    import training_peers as peers

    import streamkd as kd

    teacher, student, adam = models(pair)
    parts = Parts()
    images = kd.scan(directory)
    store = kd.teach(
        images, teacher, scratch / "teacher.h5", image_size=pair.image_size, progress=False
    )
    parts.end(TEACHER)
    stream = kd.join(images, store, batch_size=pair.batch_size, seed=1, cache="memory")
    distiller = kd.Distiller(
        student,
        optimizer=adam,
        temperature=peers.TEMPERATURE,
        label_weight=peers.LABEL_WEIGHT,
        jit=args.jit,
        steps_per_call=STEPS_PER_CALL,
    )
    callbacks = [end_of_epochs(parts)]
    distiller.fit(stream, epochs=args.epochs, progress=False, callbacks=callbacks)
    parts.end(LATER)
    return parts, int(adam.iterations)


def online(pair: Pair, directory: Path, _: Path, args: argparse.Namespace, jit: bool) -> Job:
    import keras
    import tensorflow as tf
    import training_peers as peers

    teacher, student, adam = models(pair)
    parts = Parts()
    dataset = loader(pair, directory, shuffle=True).cache().shuffle(pair.steps_per_epoch)
    distiller = keras.distillation.Distiller(
        teacher,
        student,
        # The string 'kl_divergence', which is the default, compares logits without a softmax.
        keras.distillation.LogitsDistillation(peers.TEMPERATURE, keras.losses.KLDivergence()),
        student_loss_weight=peers.LABEL_WEIGHT,
    )
    distiller.compile(
        adam, keras.losses.SparseCategoricalCrossentropy(from_logits=True), **settings(jit)
    )
    distiller.fit(
        dataset.prefetch(tf.data.AUTOTUNE),
        epochs=args.epochs,
        verbose=0,
        callbacks=[end_of_epochs(parts)],
    )
    parts.end(LATER)
    return parts, int(adam.iterations)


def saved(pair: Pair, directory: Path, scratch: Path, args: argparse.Namespace, jit: bool) -> Job:
    teacher, student, adam = models(pair)
    parts = Parts()
    pixels, labels = in_memory(loader(pair, directory, shuffle=False))
    teacher.compile(jit_compile=jit)
    logits = teacher.predict(pixels, batch_size=pair.batch_size, verbose=0)
    np.save(scratch / "logits.npy", logits)
    parts.end(TEACHER)
    logits = np.load(scratch / "logits.npy")
    student.compile(adam, loss=loss_of_saved, **settings(jit))
    student.fit(
        images_and_logits(pixels, labels, logits, pair.batch_size),
        epochs=args.epochs,
        verbose=0,
        callbacks=[end_of_epochs(parts)],
    )
    parts.end(LATER)
    return parts, int(adam.iterations)


def ideal(pair: Pair, directory: Path, _: Path, args: argparse.Namespace, jit: bool) -> Job:
    import tensorflow as tf
    import training_peers as peers

    teacher, student, adam = models(pair)
    pixels, labels = in_memory(loader(pair, directory, shuffle=False))
    pixels, labels = tf.constant(pixels.astype(np.uint8)), tf.constant(labels)
    parts = Parts()

    @tf.function(jit_compile=jit)
    def answer(images: tf.Tensor) -> tf.Tensor:
        return teacher(tf.cast(images, tf.float32), training=False)

    some = pair.batch_size
    firsts = range(0, pair.num_images, some)
    logits = tf.concat([answer(pixels[first : first + some]) for first in firsts], axis=0)
    parts.end(TEACHER)
    loop = peers.BareLoop(student, adam, peers.STEP if jit else peers.OFF)
    random = np.random.default_rng(1)
    for epoch in range(args.epochs):
        rows = random.permutation(pair.num_images).reshape(-1, some)
        loop.run_rows(pixels, labels, logits, tf.constant(rows)).numpy()
        parts.end(LATER if epoch else FIRST)
    return parts, int(adam.iterations)


def models(pair: Pair) -> tuple[Any, Any, Any]:
    """Returns teacher, student and optimizer, of Keras 3, their weights random."""
    import keras
    import training_peers as peers

    keras.utils.set_random_seed(peers.SEED)
    build = {"imagenet": of_applications, "cifar10": of_convolutions}[pair.name]
    return *build(pair), peers.adam(keras)


def of_applications(pair: Pair) -> tuple[Any, Any]:
    import keras

    shape = (*pair.image_size, 3)
    options = {"weights": None, "classes": pair.num_classes, "classifier_activation": None}

    def on_pixels(model: Any) -> Any:
        inputs = keras.Input(shape)
        return keras.Model(inputs, model(keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)))

    teacher = keras.applications.ResNet50(input_shape=shape, **options)
    student = keras.applications.MobileNetV2(input_shape=shape, alpha=0.35, **options)
    return on_pixels(teacher), on_pixels(student)


def of_convolutions(pair: Pair) -> tuple[Any, Any]:
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


def settings(jit: bool) -> dict[str, Any]:
    """Returns the best settings of `compile`, but for XLA, which is tried."""
    return {"jit_compile": jit, "steps_per_execution": STEPS_PER_CALL}


def loader(pair: Pair, directory: Path, *, shuffle: bool) -> Any:
    import keras

    return keras.utils.image_dataset_from_directory(
        directory,
        image_size=pair.image_size,
        batch_size=pair.batch_size,
        shuffle=shuffle,
        seed=1,
        verbose=False,
    )


def in_memory(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixels float32 and labels int32 of all batches."""
    pixels, labels = zip(*((p.numpy(), n.numpy()) for p, n in dataset), strict=True)
    return np.concatenate(pixels), np.concatenate(labels)


def images_and_logits(
    pixels: np.ndarray, labels: np.ndarray, logits: np.ndarray, batch_size: int
) -> Any:
    """Returns a PyDataset of images and packed targets: the label, then the teacher's logits."""
    import keras

    packed = np.concatenate([labels[:, None].astype(np.float32), logits], axis=1)

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
