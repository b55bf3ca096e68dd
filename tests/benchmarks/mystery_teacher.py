"""A teacher of which nothing is known but its answers, cloned from photographs without labels.

    python tests/benchmarks/mystery_teacher.py --out mystery

The teacher is a quantised MobileNetV2 in TensorFlow Lite: bytes in, probabilities of 256 levels
out, 1,000 classes and a background that is dropped. It answers 1,000 photographs, one of each class
of ImageNet; a part of them is held out. Printed are

  the teacher's accuracy, counted from the store, and the time of the pass,
  for each seed the student that learned from the answers alone and the one that learned from
  labels alone, under the same budget: how often it agrees with the teacher on held-out photographs,
  the median rank that it gives to the teacher's first choice (1 is the best, 500 is chance), and
  its mean KL divergence from it.

A thousand photographs are very few for a thousand classes, and no class of a held-out photograph
was ever labelled for the student of labels: its agreement is what is had without a teacher, not
what labels are worth. With `--groups` the student learns three groups of the classes instead: dogs,
other animals, and things. The teacher's probabilities of a group are added, the labels are the
groups of the photographs, and both students have seen many photographs of each. `--out` keeps the
store: the same command resumes a pass that was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import common
import numpy as np
import tf_keras

import streamkd as kd
from streamkd.image_options import MAX_PIXELS
from streamkd.results.evaluate import answer_all
from streamkd.results.evaluated_model import logits_function, model_interface
from streamkd.stream.join import image_options

NUM_CLASSES = 1000
TEACHER = "tflite/mobilenet_v2_1.0_224_quant.tflite"
BACKGROUND = 0  # the output that is no class
DATA_SEED = 1  # of the split, the same for all seeds of the students
# The first class of each group, in the order of the teacher's outputs.
GROUPS = {0: "other animals", 151: "dogs", 269: "other animals", 398: "things"}
ANSWERS, LABELS = "answers alone", "labels alone"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=Path, help="directory of the store")
    parser.add_argument("--teacher", type=Path, help=f"by default {TEACHER} of the data sets")
    parser.add_argument("--images", type=int, default=1000, help="photographs that are asked about")
    parser.add_argument("--held-out", type=float, default=0.2, help="share that is held out")
    parser.add_argument("--image-size", type=int, default=64, help="of the student, in pixels")
    parser.add_argument("--views", type=int, default=4, help="crops of each that are asked, too")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--groups", action="store_true", help="three groups of the classes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def student(size: int, seed: int, num_classes: int) -> Any:
    """Returns a small convolutional network without weights learned elsewhere."""
    tf_keras.utils.set_random_seed(seed)
    layers = tf_keras.layers
    pixels = tf_keras.Input((size, size, 3))
    x = layers.Rescaling(1 / 64, offset=-2)(pixels)
    for filters in (32, 64, 128, 256):
        x = layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.GlobalAveragePooling2D()(x)
    return tf_keras.Model(pixels, layers.Dense(num_classes)(x))


def photographs(count: int) -> kd.Manifest:
    """Returns the first photographs, each labelled with its own class.

    Their names begin with the number of the class in WordNet, and the teacher's outputs stand in
    the order of these numbers.
    """
    directory = common.data_directory("imagenet")
    names = sorted(path.stem for path in directory.iterdir())
    images = kd.scan(directory, labels=names)
    assert images.class_names == names
    order = np.random.default_rng(DATA_SEED).permutation(NUM_CLASSES)
    return images.select(np.sort(order[:count]))


def group_of(number: int) -> str:
    """Returns the group of a class."""
    return GROUPS[max(first for first in GROUPS if first <= number)]


def in_groups(images: kd.Manifest) -> kd.Manifest:
    """Returns the images labelled by the groups of their classes."""
    groups = sorted(set(GROUPS.values()))
    labels = [groups.index(group_of(label)) for label in images.labels.tolist()]
    return kd.Manifest(images.root, images.keys, labels, groups)


def views_of(args: argparse.Namespace) -> kd.Views | None:
    """Returns the crops that the teacher is asked about beside the plain photographs."""
    if not args.views:
        return None
    return kd.Views(args.views, crop=(0.5, 1.0), flip=True, canonical_size=(256, 256))


def teach(args: argparse.Namespace, images: kd.Manifest) -> tuple[Any, float]:
    """Returns the store, and the seconds of the pass."""
    path = args.teacher or common.data_root() / TEACHER
    teacher = kd.load_teacher(path, drop_output=BACKGROUND)
    started = time.perf_counter()
    path = args.out / f"teacher{args.views}.h5"
    store = kd.teach(images, teacher, path, crop_to_aspect_ratio=True, views=views_of(args))
    return store, time.perf_counter() - started


def learned(args: argparse.Namespace, images: kd.Manifest, store: Any, way: str, seed: int) -> Any:
    """Returns a student that was trained in one of the two ways."""
    size = (args.image_size, args.image_size)
    stream = kd.join(
        images,
        store,
        image_size=size,
        batch_size=args.batch_size,
        seed=seed,
        cache="memory",
        teacher_class_map=_class_map(store) if args.groups else None,
        progress=False,
    )
    distiller = kd.Distiller(
        student(args.image_size, seed, stream.num_classes),
        optimizer="adam",
        learning_rate=args.learning_rate,
        temperature=args.temperature,
        label_weight=0.0 if way == ANSWERS else 1.0,
    )
    distiller.fit(stream, epochs=args.epochs, progress=False)
    return distiller.student


def _class_map(store: Any) -> dict[str, str]:
    return {name: group_of(number) for number, name in enumerate(store.class_names)}


def compared(args: argparse.Namespace, model: Any, images: kd.Manifest, store: Any) -> dict:
    """Returns how near a student comes to the teacher on images that neither learned from."""
    if args.groups:
        report = kd.evaluate(
            model, images, store=store, teacher_class_map=_class_map(store), progress=False
        )
        counts = {n: report[n] for n in ("agreement", "kl_to_teacher", "accuracy")}
        return {**counts, "teacher_accuracy": report.teacher_accuracy, "median_rank": None}
    report = kd.evaluate(model, images, store=store, progress=False)
    size = (args.image_size, args.image_size)
    options = image_options(store, size, None, {}, MAX_PIXELS)
    answer = logits_function(model_interface(model, None, (*size, 3)))
    logits = answer_all(answer, images, options, args.batch_size, progress=False)
    first = plain_logits(store, images).argmax(axis=1)
    ranks = 1 + np.sum(logits > logits[np.arange(len(first)), first][:, None], axis=1)
    return {
        "agreement": report.agreement,
        "median_rank": float(np.median(ranks)),
        "kl_to_teacher": report.kl_to_teacher,
        "accuracy": report.accuracy,
    }


def plain_logits(store: Any, images: kd.Manifest) -> np.ndarray:
    """Returns the teacher's logits of the plain images, float32 `[num_images, 1000]`."""
    return store.gather(store.images_of_keys(images.keys) * store.num_views)


def main() -> None:
    args = parse_arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore", kd.StreamkdWarning)
    images = photographs(args.images)
    store, seconds = teach(args, images)
    accuracy = float(np.mean(plain_logits(store, images).argmax(axis=1) == images.labels))
    if not args.json:
        print(f"teacher: {accuracy:.3f} right, {seconds:.1f} s", flush=True)
    result: dict[str, Any] = {
        "images": len(images),
        "teacher_accuracy": round(accuracy, 4),
        "answers": len(images) * store.num_views,
        "teacher_seconds": round(seconds, 1),
        "students": [],
    }
    if args.groups:
        images = in_groups(images)
    shuffled = np.random.default_rng(DATA_SEED).permutation(len(images))
    num_held_out = round(args.held_out * len(images))
    held_out = images.select(np.sort(shuffled[:num_held_out]))
    transfer = images.select(np.sort(shuffled[num_held_out:]))
    for seed in range(args.seeds):
        for way in (ANSWERS, LABELS):
            model = learned(args, transfer, store, way, seed)
            entry = {"way": way, "seed": seed, **compared(args, model, held_out, store)}
            result["students"].append(entry)
            if not args.json:
                print(json.dumps(entry), flush=True)
    print(json.dumps(result) if args.json else _as_text(result, num_held_out))


def _as_text(result: dict[str, Any], num_held_out: int) -> str:
    lines = [
        f"teacher: {100 * result['teacher_accuracy']:.1f}% right on {result['images']:,} "
        f"photographs, {result['answers']:,} answers in {result['teacher_seconds']} s"
    ]
    for way in (ANSWERS, LABELS):
        entries = [entry for entry in result["students"] if entry["way"] == way]
        agreement = [f"{100 * entry['agreement']:.1f}%" for entry in entries]
        divergence = [f"{entry['kl_to_teacher']:.2f}" for entry in entries]
        ranks = [str(entry["median_rank"]) for entry in entries]
        right = [f"{100 * entry['accuracy']:.1f}%" for entry in entries]
        lines.append(
            f"student of {way}: agrees on {', '.join(agreement)} of {num_held_out} held-out "
            f"photographs; right on {', '.join(right)}; median rank {', '.join(ranks)}; "
            f"KL {', '.join(divergence)} nats"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
