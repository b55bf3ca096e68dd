"""Three teachers that know 6, 5 and 4 of CIFAR-10's classes become one student of all ten.

    python examples/partial_teachers.py --data cifar10 --out runs/partial --seeds 1 2 3

`cifar10` holds train/<class>/* and test/<class>/*; `tests/benchmarks/make_data.py` makes it. Three
teams have trained a small network each, on images and classes of their own that overlap in part:

- airplane, automobile, bird, cat, deer and dog;
- cat, dog, frog, horse and ship;
- airplane, automobile, ship and truck.

No network has an output for "none of these". The transfer set is other images, of all ten classes.
Each teacher answers all of them once, into a store of its own, and `kd.join` combines the stores by
the names of their classes. The table compares, on the test images,

- each teacher, on the classes that it knows;
- the three teachers together at test time, by streamkd's rule and by three simple ones: every image
  then takes three networks;
- a student from the labels of the transfer set alone;
- the same student from the teachers and the labels, and from the teachers without any label.

All students see the same views in the same order. The same command resumes a run that was stopped.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tf_keras

import streamkd as kd

CLASSES = {
    "six classes": ["airplane", "automobile", "bird", "cat", "deer", "dog"],
    "five classes": ["cat", "dog", "frog", "horse", "ship"],
    "four classes": ["airplane", "automobile", "ship", "truck"],
}
# Weight of the label loss of each student.
LABEL_WEIGHTS = {"labels alone": 1.0, "teachers and labels": 0.3, "teachers alone": 0.0}
SIZE = (32, 32)


def build_network(num_classes: int, *, flips: bool = False) -> tf_keras.Model:
    """Returns a small convolutional network; with `flips` it mirrors images while training."""
    layers = tf_keras.layers
    blocks = [layers.RandomFlip("horizontal")] if flips else []
    for filters in (32, 64, 128):
        blocks += [
            layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]
    return tf_keras.Sequential(
        [
            layers.Input((*SIZE, 3)),
            layers.Rescaling(1 / 64, offset=-2),
            *blocks,
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(num_classes),
        ]
    )


def images_of_each_class(images: kd.Manifest, start: int, stop: int) -> kd.Manifest:
    """Returns the images number `start` to `stop - 1` of each class."""
    of_class = [np.flatnonzero(images.labels == label) for label in range(images.num_classes)]
    return images.select(np.concatenate([numbers[start:stop] for numbers in of_class]))


def parse_args(words: list[str] | None = None) -> argparse.Namespace:
    """Returns the settings; by default those with which the table was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="directory with train and test")
    parser.add_argument("--out", type=Path, default=Path("runs/partial"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--teacher-images", type=int, default=1500, help="of each class")
    parser.add_argument("--transfer-images", type=int, default=400, help="of each class")
    parser.add_argument("--test-images", type=int, default=1000, help="of each class")
    parser.add_argument("--teacher-epochs", type=int, default=12)
    parser.add_argument("--student-epochs", type=int, default=16)
    parser.add_argument("--views", type=int, default=8, help="of each transfer image")
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    return parser.parse_args(words)


def train(
    model: tf_keras.Model,
    stream: kd.Stream,
    run: Path,
    args: argparse.Namespace,
    *,
    epochs: int,
    **settings: Any,
) -> tf_keras.Model:
    """Returns the trained model; resumes the run if it was stopped."""
    distiller = kd.Distiller(
        model, optimizer="adam", learning_rate=args.learning_rate, jit=False, **settings
    )
    distiller.fit(stream, epochs=epochs, run=run, progress=False)
    return distiller.student


def train_teachers(seed: int, out: Path, args: argparse.Namespace) -> dict[str, tf_keras.Model]:
    """Returns the three teachers, each trained on images that no other teacher sees."""
    teachers = {}
    for number, (name, classes) in enumerate(CLASSES.items()):
        images = images_of_each_class(
            kd.scan(args.data / "train", class_names=classes),
            number * args.teacher_images,
            (number + 1) * args.teacher_images,
        )
        stream = kd.join(
            images, None, image_size=SIZE, batch_size=args.batch_size, seed=seed, cache="memory"
        )
        tf_keras.utils.set_random_seed(1000 * seed + number)
        model = build_network(len(classes), flips=True)
        run = out / f"teacher of {name}"
        settings = {"label_weight": 1.0, "epochs": args.teacher_epochs}
        teachers[name] = train(model, stream, run, args, **settings)
    return teachers


def ask(
    teachers: dict[str, tf_keras.Model], images: kd.Manifest, out: Path, views: kd.Views | None
) -> list[kd.LogitStore]:
    """Returns a store of each teacher's answers; no teacher is told the labels."""
    keys_alone = kd.Manifest(images.root, images.keys, np.full(len(images), -1), None)
    return [
        kd.teach(
            keys_alone,
            kd.load_teacher(teacher, name=f"teacher of {name}"),
            f"{out} of {name}.h5",
            class_names=CLASSES[name],
            views=views,
            progress=False,
        )
        for name, teacher in teachers.items()
    ]


def simple_rules(stores: list[kd.LogitStore], images: kd.Manifest) -> dict[str, np.ndarray]:
    """Returns scores, float64 `[images, classes]`, by three rules that take each class by itself.

    A mean is over the teachers that know the class.
    """
    shape = (len(stores), len(images), images.num_classes)
    probabilities = np.full(shape, np.nan)
    for number, store in enumerate(stores):
        logits = store.gather(store.images_of_keys(images.keys) * store.num_views)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
        columns = [images.class_names.index(name) for name in store.class_names]
        probabilities[number][:, columns] = powers / powers.sum(axis=1, keepdims=True)
    return {
        "largest probability": np.nanmax(probabilities, axis=0),
        "mean of probabilities": np.nanmean(probabilities, axis=0),
        "mean of log-probabilities": np.nanmean(np.log(probabilities), axis=0),
    }


def run_seed(seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Returns the accuracy of teachers, of their combinations, and of the students."""
    out = args.out / f"seed-{seed}"
    start = len(CLASSES) * args.teacher_images
    every_image = kd.scan(args.data / "train")
    transfer = images_of_each_class(every_image, start, start + args.transfer_images)
    test = images_of_each_class(kd.scan(args.data / "test"), 0, args.test_images)
    teachers = train_teachers(seed, out, args)
    accuracy: dict[str, float] = {}

    answers = ask(teachers, test, out / "test answers", None)
    report = kd.compare_stores(answers, test, progress=False)
    accuracy["three teachers, smallest divergence"] = report.accuracy
    for rule, combined in simple_rules(answers, test).items():
        accuracy[f"three teachers, {rule}"] = float(np.mean(combined.argmax(1) == test.labels))
    for name, member in zip(CLASSES, report.teachers, strict=True):
        accuracy[f"teacher of {name}"] = member.accuracy

    views = kd.Views(args.views, crop=(0.5, 1.0), flip=True, canonical_size=SIZE, seed=seed)
    stores = ask(teachers, transfer, out / "transfer answers", views)
    stream = kd.join(transfer, stores, batch_size=args.batch_size, seed=seed, cache="memory")
    for name, label_weight in LABEL_WEIGHTS.items():
        tf_keras.utils.set_random_seed(seed)
        student = train(
            build_network(stream.num_classes),
            stream,
            out / f"student of {name}",
            args,
            temperature=args.temperature,
            label_weight=label_weight,
            epochs=args.student_epochs,
        )
        report = kd.evaluate(student, test, class_names=stream.class_names, progress=False)
        accuracy[f"student, {name}"] = report.accuracy
    return accuracy


def main() -> None:
    args = parse_args()
    started = time.perf_counter()
    table: dict[str, list[float]] = defaultdict(list)
    for seed in args.seeds:
        for name, accuracy in run_seed(seed, args).items():
            table[name].append(accuracy)
    print(f"{'test accuracy, %':<44}{'mean':>6}   by seed {args.seeds}")
    for name, values in sorted(table.items()):
        by_seed = "  ".join(f"{100 * value:.2f}" for value in values)
        print(f"{name:<44}{100 * np.mean(values):>6.2f}   {by_seed}")
    print(f"{(time.perf_counter() - started) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
