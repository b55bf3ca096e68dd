"""Five teachers, each trained on a fifth of the data, become one student of CIFAR-10.

    python examples/five_teachers.py --data cifar10 --out runs/five --seeds 1 2 3

`cifar10` holds train/<class>/* and test/<class>/*; `tests/benchmarks/make_data.py` makes it. Each
teacher is a small network that was trained on images of its own, from first weights of its own. The
transfer set is other images. Each teacher answers all of them once, into a store of its own. The
table compares, on the test images,

- each teacher, and the five together at test time, by the mean of logits and of probabilities:
  every image then takes five networks;
- a student from the labels of the transfer set alone;
- the same student from each single teacher, and from all five by either mean.

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

NUM_TEACHERS = 5
RULES = ("logits", "probabilities")
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
    parser.add_argument("--out", type=Path, default=Path("runs/five"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--teacher-images", type=int, default=400, help="of each class")
    parser.add_argument("--transfer-images", type=int, default=300, help="of each class")
    parser.add_argument("--test-images", type=int, default=1000, help="of each class")
    parser.add_argument("--teacher-epochs", type=int, default=16)
    parser.add_argument("--student-epochs", type=int, default=16)
    parser.add_argument("--views", type=int, default=8, help="of each transfer image")
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--label-weight", type=float, default=0.1, help="of distilled students")
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


def train_teachers(seed: int, out: Path, args: argparse.Namespace) -> list[tf_keras.Model]:
    """Returns the teachers, each trained on images that no other teacher sees."""
    every_image = kd.scan(args.data / "train")
    teachers = []
    for number in range(NUM_TEACHERS):
        start = number * args.teacher_images
        stream = kd.join(
            images_of_each_class(every_image, start, start + args.teacher_images),
            None,
            image_size=SIZE,
            batch_size=args.batch_size,
            seed=seed,
            cache="memory",
        )
        tf_keras.utils.set_random_seed(1000 * seed + number)
        model = build_network(every_image.num_classes, flips=True)
        run = out / f"teacher {number + 1}"
        settings = {"label_weight": 1.0, "epochs": args.teacher_epochs}
        teachers.append(train(model, stream, run, args, **settings))
    return teachers


def run_seed(seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Returns the accuracy of teachers, of their combinations, and of the students."""
    out = args.out / f"seed {seed}"
    start = NUM_TEACHERS * args.teacher_images
    stop = start + args.transfer_images
    transfer = images_of_each_class(kd.scan(args.data / "train"), start, stop)
    test = images_of_each_class(kd.scan(args.data / "test"), 0, args.test_images)
    teachers = [
        kd.load_teacher(model, name=f"teacher {number}")
        for number, model in enumerate(train_teachers(seed, out, args), 1)
    ]
    accuracy: dict[str, float] = {}

    answers = [
        kd.teach(test, teacher, out / f"test answers {number}.h5", progress=False)
        for number, teacher in enumerate(teachers, 1)
    ]
    for rule in RULES:
        report = kd.compare_stores(answers, rule=rule, progress=False)
        accuracy[f"five teachers, mean of {rule}"] = report.accuracy
    for number, member in enumerate(report.teachers, 1):
        accuracy[f"teacher {number}"] = member.accuracy

    views = kd.Views(args.views, crop=(0.5, 1.0), flip=True, canonical_size=SIZE, seed=seed)
    stores = [
        kd.teach(transfer, teacher, out / f"answers {number}.h5", views=views, progress=False)
        for number, teacher in enumerate(teachers, 1)
    ]
    settings = {"batch_size": args.batch_size, "seed": seed, "cache": "memory"}
    streams = {
        f"student of five, mean of {rule}": kd.join(transfer, stores, rule=rule, **settings)
        for rule in RULES
    }
    for number, store in enumerate(stores, 1):
        streams[f"student of teacher {number}"] = kd.join(transfer, store, **settings)
    streams["student, labels alone"] = streams["student of teacher 1"]
    for name, stream in streams.items():
        tf_keras.utils.set_random_seed(seed)
        student = train(
            build_network(stream.num_classes),
            stream,
            out / name,
            args,
            temperature=args.temperature,
            label_weight=1.0 if name == "student, labels alone" else args.label_weight,
            epochs=args.student_epochs,
        )
        report = kd.evaluate(student, test, class_names=stream.class_names, progress=False)
        accuracy[name] = report.accuracy
    return accuracy


def main() -> None:
    args = parse_args()
    started = time.perf_counter()
    table: dict[str, list[float]] = defaultdict(list)
    for seed in args.seeds:
        for name, accuracy in run_seed(seed, args).items():
            table[name].append(accuracy)
    print(f"{'test accuracy, %':<40}{'mean':>6}   by seed {args.seeds}")
    for name, values in sorted(table.items()):
        by_seed = "  ".join(f"{100 * value:.2f}" for value in values)
        print(f"{name:<40}{100 * np.mean(values):>6.2f}   {by_seed}")
    print(f"{(time.perf_counter() - started) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
