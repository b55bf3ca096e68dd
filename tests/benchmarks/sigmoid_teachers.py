"""Students of sigmoid teachers against students from labels alone, over several seeds.

    python tests/benchmarks/sigmoid_teachers.py --out sigmoid-teachers

Two tasks are made of MNIST's digits:
  several   four digits in a square of 56×56; five independent labels: which of 0 to 4 are there
  unit      one digit of 28×28; two classes, even and odd, by one sigmoid unit

A larger network, the teacher, learns from many images with labels. It answers the transfer set, a
small one that it has not seen, once. For each seed two students of the same first weights learn
from the transfer set in the same order: one from the teacher and the labels (bce at a temperature),
and one from the labels alone. Both are evaluated on images of MNIST's own test set.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tf_keras
from common import data_directory
from PIL import Image
from tf_keras import layers

import streamkd as kd

# Images of the teacher, of the transfer set and of the test.
SIZES = {"teacher": 12_000, "transfer": 1_000, "test": 2_000}
NAMES = [f"has {digit}" for digit in range(5)]
# What is compared, by task: a field of `evaluate` and whether more is better.
MEASURES = {
    "several": ("mean_average_precision", "macro_f1", "label_accuracy"),
    "unit": ("accuracy", "nll", "num_errors"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("sigmoid-teachers"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=60, help="of the students (default 60)")
    parser.add_argument("--teacher-epochs", type=int, default=15)
    parser.add_argument("--tasks", nargs="+", choices=tuple(MEASURES), default=list(MEASURES))
    parser.add_argument("--views", type=int, default=0, help="crops of each image (default 0)")
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--label-weight", type=float, default=0.1)
    args = parser.parse_args()
    for task in args.tasks:
        compare(task, args)


def compare(task: str, args: argparse.Namespace) -> None:
    """Prints the table of one task."""
    folder = args.out / task
    parts = {name: make_part(task, folder, name) for name in SIZES}
    teacher = trained_teacher(task, parts["teacher"], folder / "teacher.keras", args.teacher_epochs)
    store = kd.teach(
        parts["transfer"],
        str(teacher),
        folder / f"teacher-{args.views}-views.h5",
        color_mode="grayscale",
        views=kd.Views(args.views, crop=(0.6, 1.0)) if args.views else None,
        progress=False,
    )
    on_test = kd.evaluate(str(teacher), parts["test"], progress=False)
    rows: dict[str, list[Any]] = {"from the teacher": [], "from labels alone": []}
    for seed in args.seeds:
        for title, label_weight in zip(rows, (args.label_weight, 1.0), strict=True):
            tf_keras.utils.set_random_seed(seed)
            student = network(task, width=8)
            stream = kd.join(parts["transfer"], store, batch_size=50, seed=seed)
            distiller = kd.Distiller(
                student,
                learning_rate=3e-3,
                temperature=args.temperature,
                label_weight=label_weight,
                jit="off",
            )
            distiller.fit(stream, epochs=args.epochs, progress=False)
            rows[title].append(kd.evaluate(student, parts["test"], progress=False))
        numbers = {title: rows[title][-1][MEASURES[task][0]] for title in rows}
        print(f"{task}, seed {seed}: {numbers}", flush=True)
    print(f"\n{task}: {len(parts['test']):,} test images, mean ± standard deviation of seeds")
    for measure in MEASURES[task]:
        print(f"  {measure:<24}teacher            {on_test[measure]:>9.4f}")
        for title, reports in rows.items():
            values = np.array([report[measure] for report in reports], float)
            spread = values.std(ddof=1) if len(values) > 1 else 0.0
            print(f"  {'':<24}{title:<18} {values.mean():>9.4f} ± {spread:.4f}")
    print(flush=True)


def network(task: str, width: int) -> tf_keras.Model:
    """Returns a convolutional network that ends in the sigmoid of the task's labels."""
    size, num_outputs = (56, len(NAMES)) if task == "several" else (28, 1)
    model = tf_keras.Sequential([tf_keras.Input((size, size, 1)), layers.Rescaling(1 / 255)])
    for factor in (1, 2, 4):
        model.add(layers.Conv2D(factor * width, 3, strides=2, padding="same", activation="relu"))
    if task == "several":
        model.add(layers.Conv2D(4 * width, 3, padding="same", activation="relu"))
        model.add(layers.GlobalMaxPooling2D())
    else:
        model.add(layers.Flatten())
    model.add(layers.Dense(num_outputs, activation="sigmoid"))
    return model


def trained_teacher(task: str, images: kd.Manifest, path: Path, epochs: int) -> Path:
    """Trains a teacher with Keras and saves it, unless it is there."""
    if path.exists():
        return path
    tf_keras.utils.set_random_seed(99)
    model = network(task, width=32)
    model.compile("adam", "binary_crossentropy")
    pixels = np.stack([np.asarray(Image.open(os.fsdecode(p))) for p in images.each_path()])
    truths = images.labels if images.multi_hot is None else images.multi_hot
    model.fit(pixels[..., None].astype(np.float32), truths, 64, epochs=epochs, verbose=0)
    model.save(path)
    return path


def make_part(task: str, folder: Path, name: str) -> kd.Manifest:
    """Returns the images of one part, drawn unless they are there."""
    root = folder / name
    source = data_directory("mnist") / ("test" if name == "test" else "train")
    rng = np.random.default_rng(list(SIZES).index(name))
    if not root.exists():
        digits = pool(source, name)
        draw = draw_squares if task == "several" else draw_digits
        unfinished = root.with_name(f"{name}.tmp")
        draw(digits, unfinished, SIZES[name], rng)
        unfinished.rename(root)
    return kd.scan(root / "images.jsonl", class_names=NAMES) if task == "several" else kd.scan(root)


def pool(source: Path, name: str) -> list[list[Path]]:
    """Returns the files of each digit; teacher and transfer set have different ones."""
    files = [sorted((source / str(digit)).iterdir()) for digit in range(10)]
    if name == "test":
        return files
    return [part[:300] if name == "transfer" else part[300:] for part in files]


def draw_squares(
    digits: list[list[Path]], root: Path, count: int, rng: np.random.Generator
) -> None:
    """Writes squares of four digits, and a table of which of 0 to 4 are in each."""
    root.mkdir(parents=True)
    with (root / "images.jsonl").open("w") as table:
        for number in range(count):
            square, chosen = np.zeros((56, 56), np.uint8), rng.integers(0, 10, 4).tolist()
            for place, digit in enumerate(chosen):
                file = digits[digit][rng.integers(len(digits[digit]))]
                top, left = 28 * (place // 2), 28 * (place % 2)
                square[top : top + 28, left : left + 28] = np.asarray(Image.open(file))
            Image.fromarray(square).save(root / f"{number:05d}.png")
            labels = [NAMES[digit] for digit in sorted(set(chosen)) if digit < 5]
            table.write(json.dumps({"file_name": f"{number:05d}.png", "label": labels}) + "\n")


def draw_digits(digits: list[list[Path]], root: Path, count: int, rng: np.random.Generator) -> None:
    """Writes digits into the folders of even and odd ones."""
    for title in ("even", "odd"):
        (root / title).mkdir(parents=True)
    for number in range(count):
        digit = int(rng.integers(10))
        file = digits[digit][rng.integers(len(digits[digit]))]
        Image.open(file).save(root / ("even", "odd")[digit % 2] / f"{number:05d}.png")


if __name__ == "__main__":
    main()
