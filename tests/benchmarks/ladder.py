"""The ladder of Beyer et al. (arXiv:2106.05237, table 3), on CIFAR-10's JPEG files.

    taskset -c 1 python tests/benchmarks/ladder.py --out ladder

One small student is trained under one budget (the same images, updates, batches, optimizer and
schedule) in five ways:

  labels alone              crops and mirror images drawn anew for every epoch
  labels alone, mixing      the images of the last way, with the mixed labels
  fixed teacher             logits of the plain image, the student's views drawn anew
  same view                 a store of views, replayed
  same view with mixing     a store of views that are mixed in pairs, replayed

The teacher is trained first, by an ordinary `fit`, on all training images except the held-out ones.
The students learn from a part of these images, so small that a student could learn it by heart.
Printed are the accuracy on the test images over the seeds, the differences between the ways seed by
seed, and how often student and teacher agree on the test images. `--evaluate-on held-out` evaluates
on the held-out images instead; the options were chosen there. `--out` keeps the finished students,
so the same command resumes a run that was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import common
import numpy as np
import tensorflow as tf
import tf_keras

import streamkd as kd

IMAGE_SIZE = (32, 32)
NUM_CLASSES = 10
HELD_OUT_SHARE = 0.1
TEACHER_BATCH_SIZE = 128
TEACHER_VIEWS = kd.Views(1, crop=(0.5, 1.0), flip=True, canonical_size=IMAGE_SIZE)
# Seed of the split and of the transfer set, the same for all seeds of the students.
DATA_SEED = 1
# CIFAR-10's pixels have a mean of about 2 and a standard deviation of about 1 in these units.
PIXEL_UNIT = 64

LABELS, LABELS_MIXING = "labels alone", "labels alone, mixing"
FIXED, SAME, MIXING = "fixed teacher", "same view", "same view with mixing"
SETTINGS = (LABELS, LABELS_MIXING, FIXED, SAME, MIXING)
COMPARED = ((SAME, FIXED), (SAME, LABELS), (MIXING, SAME), (MIXING, LABELS_MIXING), (FIXED, LABELS))


def convolution(pixels: Any, filters: int, strides: int = 1) -> Any:
    layers = tf_keras.layers
    pixels = layers.Conv2D(filters, 3, strides, padding="same", use_bias=False)(pixels)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(pixels))


def build_teacher() -> tf_keras.Model:
    """Returns a small residual network; most of it computes in bfloat16, its logits are float32."""
    layers = tf_keras.layers

    def residual(pixels: Any, filters: int) -> Any:
        inner = convolution(convolution(pixels, filters), filters)
        return layers.Add()([pixels, inner])

    tf_keras.mixed_precision.set_global_policy("mixed_bfloat16")
    inputs = layers.Input((*IMAGE_SIZE, 3))
    pixels = layers.Rescaling(1 / PIXEL_UNIT, offset=-2)(inputs)
    pixels = layers.MaxPool2D()(convolution(convolution(pixels, 16), 32))
    pixels = layers.MaxPool2D()(convolution(residual(pixels, 32), 64))
    pixels = layers.MaxPool2D()(convolution(pixels, 128))
    pixels = layers.GlobalAveragePooling2D()(residual(pixels, 128))
    outputs = layers.Dense(NUM_CLASSES, dtype="float32")(pixels)
    tf_keras.mixed_precision.set_global_policy("float32")
    return tf_keras.Model(inputs, outputs, name="teacher")


def build_student(filters: list[int]) -> tf_keras.Model:
    """Returns a plain network of one convolution for each number of filters."""
    layers = tf_keras.layers
    inputs = layers.Input((*IMAGE_SIZE, 3))
    pixels = layers.Rescaling(1 / PIXEL_UNIT, offset=-2)(inputs)
    pixels = convolution(pixels, filters[0], strides=2)
    for number in filters[1:]:
        pixels = layers.MaxPool2D()(convolution(pixels, number))
    pixels = layers.GlobalAveragePooling2D()(pixels)
    return tf_keras.Model(inputs, layers.Dense(NUM_CLASSES)(pixels), name="student")


def views(args: argparse.Namespace, count: int, *, mixing: bool = False) -> kd.Views:
    """Returns the views of the students, cut from images of one size so that these are cached."""
    mixed = {"mixup": args.mixup, "cutmix": args.cutmix} if mixing else {}
    return kd.Views(count, crop=tuple(args.crop), flip=True, canonical_size=IMAGE_SIZE, **mixed)


def train_teacher(args: argparse.Namespace, images: kd.Manifest, path: Path) -> None:
    """Trains the teacher with plain Keras on crops, mirror images and mixtures, and saves it."""
    tf_keras.utils.set_random_seed(DATA_SEED)
    stream = joined(
        images, None, TEACHER_BATCH_SIZE, DATA_SEED, augment="independent", views=TEACHER_VIEWS
    )
    steps_per_epoch = stream.end_of_epoch(1)
    num_steps = args.teacher_epochs * steps_per_epoch
    schedule = tf_keras.optimizers.schedules.CosineDecay(
        0.0, num_steps - steps_per_epoch, warmup_target=0.1, warmup_steps=steps_per_epoch
    )
    model = build_teacher()
    model.compile(
        tf_keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True, weight_decay=5e-4),
        tf_keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    dataset = stream.dataset().map(half_mixed).prefetch(2)
    model.fit(dataset, epochs=args.teacher_epochs, steps_per_epoch=steps_per_epoch, verbose=2)
    unfinished = path.with_name("unfinished.keras")
    model.save(unfinished)
    unfinished.rename(path)


def half_mixed(images: tf.Tensor, targets: dict, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns a batch with every second image mixed with its neighbour, and its mixed labels."""
    size = images.shape[0]
    share = tf.where(tf.range(size) % 2 == 0, tf.random.uniform([size]), 1.0)
    labels = tf.one_hot(targets["labels"][:, 0], NUM_CLASSES)
    whole = share[:, None, None, None]
    images = whole * images + (1 - whole) * tf.roll(images, 1, 0)
    return images, share[:, None] * labels + (1 - share[:, None]) * tf.roll(labels, 1, 0)


def joined(
    images: kd.Manifest,
    store: kd.LogitStore | kd.StoreCollection | None,
    batch_size: int,
    seed: int,
    **options: Any,
) -> kd.Stream:
    """Returns a stream that keeps decoded images in memory."""
    size = IMAGE_SIZE if store is None else None
    with warnings.catch_warnings():
        # This script is to show that independent views are worse.
        warnings.filterwarnings("ignore", message="The student is shown views")
        return kd.join(
            images,
            store,
            image_size=size,
            batch_size=batch_size,
            seed=seed,
            cache="memory",
            **options,
        )


def part_of(images: kd.Manifest, num_images: int) -> kd.Manifest:
    """Returns a part of the images, as many of each class."""
    order = np.random.default_rng(DATA_SEED).permutation(len(images))
    chosen = [
        order[images.labels[order] == label][: num_images // NUM_CLASSES]
        for label in range(NUM_CLASSES)
    ]
    return images.select(np.sort(np.concatenate(chosen)))


def stream_of(
    setting: str, args: argparse.Namespace, images: kd.Manifest, stores: dict, seed: int
) -> tuple[kd.Stream, float]:
    """Returns the stream of a student of this setting, and its label weight."""
    drawn = {"augment": "independent", "views": views(args, 1)}
    replayed: dict[str, Any] = {}
    store, options, label_weight = {
        LABELS: (None, drawn, 1.0),
        LABELS_MIXING: (stores[MIXING], replayed, 1.0),
        FIXED: (stores[SAME], drawn, args.label_weight),
        SAME: (stores[SAME], replayed, args.label_weight),
        MIXING: (stores[MIXING], replayed, args.label_weight),
    }[setting]
    return joined(images, store, args.batch_size, seed, **options), label_weight


def train_student(
    setting: str,
    args: argparse.Namespace,
    images: kd.Manifest,
    stores: dict,
    seed: int,
    evaluate: Callable[[Any], dict],
) -> dict[str, Any]:
    """Returns the results of one student."""
    stream, label_weight = stream_of(setting, args, images, stores, seed)
    tf_keras.utils.set_random_seed(seed)
    distiller = kd.Distiller(
        build_student(args.student),
        optimizer="adamw",
        learning_rate=args.learning_rate,
        temperature=args.temperature,
        label_weight=label_weight,
    )
    started = common.cpu_seconds()
    last = distiller.fit(stream, epochs=args.epochs, progress=False).last
    report = evaluate(distiller.student)
    return {
        "accuracy": report["accuracy"],
        "agreement": report["agreement"],
        "teacher_accuracy": report["teacher_accuracy"],
        "num_images": report["num_images"],
        "num_parameters": report["num_parameters"],
        "num_steps": last["step"],
        "training_accuracy": last["accuracy"],
        "training_agreement": last["agreement"],
        "cpu_secs": round(common.cpu_seconds() - started),
    }


class Results:
    """Finished students, one JSON line each; lines of other recipes are left alone."""

    def __init__(self, path: Path, recipe: dict[str, Any]) -> None:
        self.path = path
        self.recipe = recipe
        lines = path.read_text().splitlines() if path.exists() else []
        students = [json.loads(line) for line in lines]
        self.finished = {(s["setting"], s["seed"]): s for s in students if s["recipe"] == recipe}

    def add(self, setting: str, seed: int, result: dict[str, Any]) -> None:
        line = {"setting": setting, "seed": seed, **result, "recipe": self.recipe}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.finished[setting, seed] = line

    def of(self, setting: str, seeds: list[int], name: str) -> np.ndarray:
        """Returns one number of every seed, in per cent."""
        values = [self.finished[setting, seed][name] for seed in seeds]
        return 100 * np.array([np.nan if value is None else value for value in values])


def mean_and_deviation(values: np.ndarray, *, sign: str = "") -> str:
    deviation = np.std(values, ddof=1) if len(values) > 1 else np.nan
    return f"{np.mean(values):{sign}.2f} ± {deviation:.2f}"


def print_tables(results: Results, settings: list[str], seeds: list[int]) -> None:
    """Prints accuracies and paired differences as Markdown."""
    any_result = results.finished[settings[0], seeds[0]]
    print(
        f"\nteacher: {any_result['teacher_accuracy']:.2%} right on the same "
        f"{any_result['num_images']:,} images; student: {any_result['num_parameters']:,} "
        f"parameters, {any_result['num_steps']:,} updates\n"
    )
    print("| student | accuracy, % | of each seed | agreement, % | training agreement, % |")
    print("|---|---|---|---|---|")
    for setting in settings:
        accuracy = results.of(setting, seeds, "accuracy")
        agreement = results.of(setting, seeds, "agreement")
        training = np.mean(results.of(setting, seeds, "training_agreement"))
        learned = "" if np.isnan(training) else f"{training:.1f}"
        each = ", ".join(f"{value:.2f}" for value in accuracy)
        print(
            f"| {setting} | {mean_and_deviation(accuracy)} | {each} "
            f"| {mean_and_deviation(agreement)} | {learned} |"
        )
    print("\n| paired difference | points | of each seed |\n|---|---|---|")
    for first, second in COMPARED:
        if first in settings and second in settings:
            gain = results.of(first, seeds, "accuracy") - results.of(second, seeds, "accuracy")
            each = ", ".join(f"{value:+.2f}" for value in gain)
            print(f"| {first} minus {second} | {mean_and_deviation(gain, sign='+')} | {each} |")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="has train/ and test/, one folder a class")
    parser.add_argument("--out", type=Path, default=Path("ladder"))
    parser.add_argument("--images", type=int, default=1000, help="of the transfer set")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--views", type=int, default=100, help="of each image in the stores")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--evaluate-on", choices=("test", "held-out"), default="test")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--label-weight", type=float, default=0.0, help="with a teacher")
    parser.add_argument("--crop", type=float, nargs=2, default=[0.5, 1.0], metavar=("LOW", "HIGH"))
    parser.add_argument("--mixup", type=float, default=1.0)
    parser.add_argument("--cutmix", type=float, default=0.0)
    parser.add_argument("--student", type=int, nargs="+", default=[24, 32, 64, 96], help="filters")
    parser.add_argument("--teacher-epochs", type=int, default=20)
    parser.add_argument("--teacher-images", type=int, help="fewer than all, to try things out")
    parser.add_argument("--threads", type=int, default=1, help="of TensorFlow")
    return parser.parse_args()


def open_images(args: argparse.Namespace) -> tuple[kd.Manifest, kd.Manifest]:
    """Returns the images to train on, and the images to evaluate on."""
    data = args.data or common.data_directory("cifar10")
    split = {"validation_split": HELD_OUT_SHARE, "seed": DATA_SEED, "stratify": True}
    train = kd.scan(data / "train", subset="training", **split)
    if args.evaluate_on == "test":
        return train, kd.scan(data / "test")
    return train, kd.scan(data / "train", subset="validation", **split)


def open_teacher(args: argparse.Namespace, images: kd.Manifest) -> kd.Teacher:
    """Returns the teacher, and trains it at the first call."""
    name = f"teacher-{args.teacher_epochs}-epochs"
    if args.teacher_images is not None:
        images = part_of(images, args.teacher_images)
        name += f"-{args.teacher_images}-images"
    path = args.out / f"{name}.keras"
    if not path.exists():
        train_teacher(args, images, path)
    return kd.load_teacher(path)


def teach_views(args: argparse.Namespace, images: kd.Manifest, teacher: kd.Teacher) -> dict:
    """Returns a store of views and a store of mixed views, by setting."""
    stores = {}
    for setting in (SAME, MIXING):
        wanted = views(args, args.views, mixing=setting == MIXING)
        name = "-".join(map(str, ["views", args.images, args.views, *args.crop]))
        if wanted.mixes:
            name += f"-mixed-{args.mixup}-{args.cutmix}"
        path = args.out / f"{name}.h5"
        stores[setting] = kd.teach(images, teacher, path, views=wanted, progress=False)
    return stores


def main() -> None:
    args = parse_arguments()
    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    train, tried_on = open_images(args)
    teacher = open_teacher(args, train)
    images = part_of(train, args.images)
    stores = teach_views(args, images, teacher)
    answers = kd.teach(tried_on, teacher, args.out / f"{args.evaluate_on}.h5", progress=False)

    def evaluate(student: tf_keras.Model) -> dict:
        return kd.evaluate(student, tried_on, store=answers, progress=False)

    hidden = ("data", "out", "seeds", "settings", "threads")
    recipe = {name: value for name, value in vars(args).items() if name not in hidden}
    results = Results(args.out / "results.jsonl", recipe)
    for seed in args.seeds:
        for setting in args.settings:
            if (setting, seed) not in results.finished:
                result = train_student(setting, args, images, stores, seed, evaluate)
                results.add(setting, seed, result)
                print(f"seed {seed}, {setting}: {json.dumps(result)}", flush=True)
    print_tables(results, args.settings, args.seeds)


if __name__ == "__main__":
    main()
