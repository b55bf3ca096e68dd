"""`distill` with its defaults alone against labels alone, on several sets and seeds.

    python tests/benchmarks/first_try.py --work first-try                 # the sets looked at
    python tests/benchmarks/first_try.py --work first-try --set-aside     # the two set aside
    python tests/benchmarks/first_try.py --work first-try --table         # what is there so far

For each set and seed: `kd.distill(…, baseline=True)` with defaults alone, then the same student
from labels alone, with the same crops and flips, at a quarter of the rate. Counted are errors on
test images that nobody learned from; labels alone count with the better of the two rates. A set has
one budget, the number of epochs that `distill` chooses.

Teachers, answers and runs stay in `--work`; what is finished there is not done again, and a run
that was stopped goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import shutil
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tf_keras
from common import Clock, data_directory
from PIL import Image
from tf_keras import layers

import streamkd as kd

# The other rate of labels alone, as a fraction of the rate that `distill` chooses.
OTHER_RATE = 0.25
# Images that a job measures on after each epoch, and test images of a half, that count at the end.
WATCHED, TESTED = 100, 5_000
# Passes of the teachers: over all training images, and over the student's own few.
EPOCHS_OF_ALL, EPOCHS_OF_OWN = {"mnist": 2, "cifar10": 5}, 40


@dataclasses.dataclass(frozen=True)
class Set:
    """A set of images to learn from.

    Attributes:
      source: 'mnist' or 'cifar10'.
      first, count: which training images, in turn of each class, by file name.
      teacher: 'all', which learned from all training images, or 'own', from these alone.
      half: which half of the test images counts.
    """

    source: str
    first: int
    count: int
    teacher: str = "all"
    half: int = 0

    @property
    def name(self) -> str:
        own = "-own" if self.teacher == "own" else ""
        return f"{self.source}-{self.count}{own}"


SETS = (
    Set("mnist", 0, 500),
    Set("mnist", 0, 2_000, "own"),
    Set("mnist", 0, 5_000),
    Set("cifar10", 0, 1_000),
    Set("cifar10", 0, 2_000, "own"),
    Set("cifar10", 0, 5_000),
)
# Chosen before the first run, of other training and test images; settings are not fitted to them.
SET_ASIDE = (Set("mnist", 30_000, 1_000, half=1), Set("cifar10", 25_000, 2_500, half=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("first-try"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sets", nargs="+", help="names, such as mnist-500 (default: all)")
    parser.add_argument("--set-aside", action="store_true", help="the two sets set aside instead")
    parser.add_argument("--table", action="store_true", help="run nothing, print what is there")
    args = parser.parse_args()
    sets = SET_ASIDE if args.set_aside else SETS
    sets = tuple(one for one in sets if args.sets is None or one.name in args.sets)
    if not args.table:
        for seed in args.seeds:
            for one in sets:
                compare(one, seed, args.work)
    print_table(sets, args.seeds, args.work)


def compare(one: Set, seed: int, work: Path) -> None:
    """Runs what is not there yet of one set and seed, and prints a line."""
    result = result_path(one, seed, work)
    if result.exists():
        return
    clock, out = Clock(), work / f"{one.name}-seed-{seed}"
    images = directory(one.source, "train", one.first, one.count, work / "images" / one.name)
    first = one.half * TESTED
    tested = directory(
        one.source, "test", first, TESTED, work / "images" / f"{one.source}-test-{one.half}"
    )
    watched = directory(
        one.source, "test", first, WATCHED, work / "images" / f"{one.source}-watched-{one.half}"
    )
    teacher = teacher_of(one, images, work)
    tf_keras.utils.set_random_seed(seed)
    student = make_student(one.source)
    report = kd.distill(
        images, teacher, student, out, validation=watched, baseline=True, seed=seed, progress=False
    )
    settings = {
        name: setting["value"]
        for name, setting in json.loads((out / "job.json").read_text())["settings"].items()
    }
    other = labels_alone(images, watched, report.store, settings, seed, out)
    counted = {
        "distilled": errors_of(out / "student.keras", tested),
        "labels": errors_of(out / "labels-alone" / "student.keras", tested),
        "labels, other rate": errors_of(other / "student.keras", tested),
        "teacher": errors_of(teacher, tested),
    }
    result.parent.mkdir(parents=True, exist_ok=True)
    taken = clock.taken()
    kept = {"errors": counted, "settings": settings, "seconds": taken.wall, "cpu": taken.cpu}
    result.write_text(json.dumps(kept, indent=2) + "\n")
    print(f"{one.name:<18} seed {seed}  {counted}  {taken.cpu:.0f} CPU s", flush=True)
    for run in (out, out / "labels-alone", other):
        shutil.rmtree(run / "checkpoints", ignore_errors=True)


def result_path(one: Set, seed: int, work: Path) -> Path:
    return work / "results" / f"{one.name}-seed-{seed}.json"


def directory(source: str, part: str, first: int, count: int, target: Path) -> Path:
    """Returns a directory of `count` files of a part, the classes in turn."""
    if target.exists():
        return target
    root = data_directory(source) / part
    names = sorted(path.name for path in root.iterdir() if path.is_dir())
    files = [sorted((root / name).iterdir()) for name in names]
    turns = [
        listed[number]
        for number in range(max(map(len, files)))
        for listed in files
        if number < len(listed)
    ]
    unfinished = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    for path in turns[first : first + count]:
        copy = unfinished / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    unfinished.rename(target)
    return target


def block(inputs: Any, filters: int, stride: int = 1, size: int = 3) -> Any:
    """Returns a normalised convolution."""
    outputs = layers.Conv2D(filters, size, strides=stride, padding="same", use_bias=False)(inputs)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(outputs))


def make_teacher(source: str) -> tf_keras.Model:
    """Returns a new teacher."""
    inputs = tf_keras.Input((28, 28, 1) if source == "mnist" else (32, 32, 3))
    x = layers.Rescaling(1 / 64, offset=-2)(inputs)
    if source == "mnist":
        for filters, stride, size in ((16, 2, 5), (32, 1, 3), (48, 2, 3), (64, 1, 3)):
            x = block(x, filters, stride, size)
    else:
        x = block(block(block(x, 24, 2, 5), 48), 64, 2)
        x = layers.Add()([x, block(x, 64)])
        x = block(x, 96, 2)
        x = layers.Add()([x, block(x, 96)])
    return tf_keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def make_student(source: str) -> tf_keras.Model:
    """Returns a new student, of 6,000 or 14,000 parameters."""
    inputs = tf_keras.Input((28, 28, 1) if source == "mnist" else (32, 32, 3))
    x = layers.Rescaling(1 / 64, offset=-2)(inputs)
    filters = (8, 16, 32) if source == "mnist" else (12, 24, 48)
    x = block(x, filters[0], 2, 5 if source == "mnist" else 3)
    x = block(block(x, filters[1], 2), filters[2], 2)
    return tf_keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def teacher_of(one: Set, images: Path, work: Path) -> Path:
    """Returns the file of a teacher, which is trained once."""
    of_all = one.teacher == "all"
    path = work / f"teacher-{one.source if of_all else one.name}.keras"
    if path.exists():
        return path
    seen = kd.scan(data_directory(one.source) / "train" if of_all else images)
    tf_keras.utils.set_random_seed(7)
    size = 128 if of_all else 64
    pixels: dict[str, Any] = {"image_size": (28, 28), "color_mode": "grayscale"}
    if one.source == "cifar10":
        pixels = {"image_size": (32, 32)}
    size_of_pixels = pixels["image_size"]
    views = kd.Views(
        1,
        crop=(0.5 if of_all else 0.6, 1.0),
        flip=one.source == "cifar10",
        canonical_size=size_of_pixels,
        seed=7,
    )
    stream = kd.join(
        *(seen, None),
        batch_size=size,
        seed=7,
        augment="independent",
        views=views,
        cache="memory",
        progress=False,
        **pixels,
    )
    distiller = kd.Distiller(
        make_teacher(one.source), learning_rate=4e-3, weight_decay=0.02, label_weight=1.0
    )
    epochs = EPOCHS_OF_ALL[one.source] if of_all else EPOCHS_OF_OWN
    distiller.fit(stream, epochs=epochs, progress=False)
    distiller.student.save(path)
    return path


def labels_alone(
    images: Path, watched: Path, store: str, settings: dict[str, Any], seed: int, out: Path
) -> Path:
    """Returns the run of the job's student from labels alone at the other rate."""
    run = out / "labels-alone-other-rate"
    drawn = {}
    if settings["views"]:
        drawn = {
            "augment": "independent",
            "views": kd.Views(
                1,
                crop=tuple(settings["crop"]),
                flip=settings["flip"],
                canonical_size=tuple(settings["canonical_size"]),
                seed=seed,
            ),
        }
    stream = kd.join(
        *(images, store),
        batch_size=settings["batch_size"],
        seed=seed,
        cache=settings["cache"],
        progress=False,
        **drawn,
    )
    student = tf_keras.models.load_model(out / "student-untrained.keras", compile=False)
    distiller = kd.Distiller(
        student, learning_rate=settings["learning_rate"] * OTHER_RATE, label_weight=1.0
    )
    distiller.fit(stream, epochs=settings["epochs"], validation=watched, run=run, progress=False)
    return run


def errors_of(path: Path, images: Path) -> int:
    """Returns the errors of a model on images."""
    model = tf_keras.models.load_model(path, compile=False)
    pixels, labels = pixels_of(images)
    answers = model.predict(pixels.astype(np.float32), batch_size=500, verbose=0)
    return int((answers.argmax(axis=1) != labels).sum())


@functools.cache
def pixels_of(images: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the decoded images of a directory, and their classes."""
    names = sorted(path.name for path in images.iterdir())
    files = [(path, names.index(name)) for name in names for path in (images / name).iterdir()]
    pixels = np.stack([np.asarray(Image.open(path)) for path, _ in files])
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    return pixels, np.array([label for _, label in files])


def print_table(sets: tuple[Set, ...], seeds: list[int], work: Path) -> None:
    """Prints every figure, and the mean of the relative reductions."""
    print(f"\nerrors of {TESTED:,} test images, seeds {seeds}; mean ± standard deviation")
    print(f"{'set':<18}{'teacher':>8}{'labels alone':>20}{'distilled':>20}{'fewer':>8}")
    reductions = []
    for one in sets:
        paths = [result_path(one, seed, work) for seed in seeds]
        found = [json.loads(path.read_text())["errors"] for path in paths if path.exists()]
        if not found:
            continue
        rates = [[errors[name] for errors in found] for name in ("labels", "labels, other rate")]
        labels, distilled = min(rates, key=np.mean), [errors["distilled"] for errors in found]
        reductions.append(1 - np.mean(distilled) / np.mean(labels))
        print(
            f"{one.name:<18}{found[0]['teacher']:>8}{spread(labels):>20}{spread(distilled):>20}"
            f"{reductions[-1]:>8.1%}   labels {rates[0]}, other rate {rates[1]}, "
            f"distilled {distilled}"
        )
    if reductions:
        print(f"mean of the relative reductions: {np.mean(reductions):.1%}")


def spread(values: list[int]) -> str:
    """Returns mean and standard deviation."""
    deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{np.mean(values):.1f} ± {deviation:.1f}"


if __name__ == "__main__":
    main()
