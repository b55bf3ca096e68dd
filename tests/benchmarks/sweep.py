"""A sweep of 12 settings on CIFAR-10 against the same 12 students trained one after the other.

    python tests/benchmarks/sweep.py --images 4000 --epochs 2
    python tests/benchmarks/sweep.py --images 4000 --epochs 20 --part choice

time: temperature 1 2 4 8 × label weight 0 0.1 0.5, a student of one convolution, so that reading
and decoding take most of the time; all in one process, which has trained before. Printed are wall
and CPU time of the sweep, of one run and of all twelve, the ratio of the sweep to the twelve (aim:
at most 0.6), and whether each student is the same to the bit.

choice: a student of three convolutions. Printed are the errors on the test images of the student
that the sweep chooses, and of the one with the default temperature and the label weight 0.1. The
test images have no part in the choice.

The teacher is a larger student that learned the same images from their labels.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import common
import numpy as np

from streamkd.cli.main import main as streamkd

TEMPERATURES, LABEL_WEIGHTS = ("1", "2", "4", "8"), ("0", "0.1", "0.5")
GRID = ("--temperature", *TEMPERATURES, "--label-weight", *LABEL_WEIGHTS)
AIM = 0.6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=["time"])
    parser.add_argument("--images", type=int, default=4000, help="to learn from")
    parser.add_argument("--test-images", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--teacher-epochs", type=int, default=8)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="streamkd-") as scratch:
        os.chdir(scratch)
        cifar = common.data_directory("cifar10")
        for side, count in (("train", args.images), ("test", args.test_images)):
            link_images(cifar / side, Path(side), count // 10)
        network([64, 64, 128]).save("large.keras")
        run("train", "train", "--student", "large.keras", "--out", "teacher", *labels_alone(args))
        run("teach", "train", "--teacher", "teacher", "--out", "teacher.h5")
        for part in args.part:
            PARTS[part](args)


def labels_alone(args: argparse.Namespace) -> list[str]:
    epochs = str(args.teacher_epochs)
    return ["--label-weight", "1", "--image-size", "32x32", "--epochs", epochs]


def link_images(source: Path, target: Path, per_class: int) -> None:
    """Makes a directory of the first images of each class."""
    for folder in sorted(source.iterdir()):
        (target / folder.name).mkdir(parents=True)
        for path in sorted(folder.iterdir())[:per_class]:
            (target / folder.name / path.name).symlink_to(path)


def network(widths: list[int], stride: int = 2) -> Any:
    """Returns a convolutional network for ten classes; the same to the bit every time."""
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    layers = [tf_keras.Input((32, 32, 3)), tf_keras.layers.Rescaling(1 / 255)]
    for width in widths:
        layers.append(tf_keras.layers.Conv2D(width, 3, strides=stride, padding="same"))
        layers += [tf_keras.layers.BatchNormalization(), tf_keras.layers.ReLU()]
    layers += [tf_keras.layers.GlobalAveragePooling2D(), tf_keras.layers.Dense(10)]
    return tf_keras.Sequential(layers)


def run(*words: str) -> None:
    code = streamkd([*words, "--quiet"])
    if code:
        raise SystemExit(f"streamkd {' '.join(words)}: exit code {code}")


def timed(*words: str) -> np.ndarray:
    """Returns wall and CPU seconds of a command in this process."""
    wall, cpu = time.perf_counter(), common.cpu_seconds()
    run(*words)
    return np.array([time.perf_counter() - wall, common.cpu_seconds() - cpu])


def common_words(args: argparse.Namespace, student: str) -> list[str]:
    words = ["--store", "teacher.h5", "--student", student, "--batch-size", "128", "--jit", "off"]
    return [*words, "--epochs", str(args.epochs)]


def measure_time(args: argparse.Namespace) -> None:
    network([8], stride=4).save("tiny.keras")
    words = common_words(args, "tiny.keras")
    sweep = timed("sweep", "train", *words, *GRID, "--out", "sweep")
    split = ["sweep/train.jsonl", "--validation", "sweep/validation.jsonl"]
    alone = []
    settings = [(t, w) for t in TEMPERATURES for w in LABEL_WEIGHTS]
    for number, (temperature, weight) in enumerate(settings):
        own = ["--temperature", temperature, "--label-weight", weight]
        alone.append(timed("train", *split, *words, *own, "--out", f"alone/{number}"))
    total = np.sum(alone, axis=0)
    for name, (wall, cpu) in (("sweep", sweep), ("one run", np.median(alone, axis=0))):
        print(f"{name:<12} {wall:7.1f} s wall {cpu:7.1f} s CPU")
    print(f"{'12 runs':<12} {total[0]:7.1f} s wall {total[1]:7.1f} s CPU")
    ratio = sweep / total
    met = "met" if (ratio <= AIM).all() else "not met"
    print(f"ratio to 12  {ratio[0]:7.2f} wall   {ratio[1]:7.2f} CPU    aim {AIM}: {met}")
    print(f"ratio to one {sweep[0] / np.median(alone, axis=0)[0]:7.2f} wall")
    runs = sorted(Path("sweep").glob("*/student.keras"))
    same = [
        same_weights(path, Path("alone", str(number), "student.keras"))
        for number, path in enumerate(runs)
    ]
    print(f"the same to the bit: {sum(same)} of {len(same)}")


def same_weights(first: Path, second: Path) -> bool:
    import tf_keras

    one, other = (tf_keras.models.load_model(path).get_weights() for path in (first, second))
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def measure_choice(args: argparse.Namespace) -> None:
    from streamkd.results.evaluate import evaluate
    from streamkd.training.recipe import Recipe

    network([16, 32, 64]).save("small.keras")
    run("sweep", "train", *common_words(args, "small.keras"), *GRID, "--out", "choice")
    outcomes = json.loads(Path("choice/sweep.json").read_text())["outcomes"]
    default = f"temperature-{Recipe().temperature:g}-label-weight-0.1"
    ranked = sorted(outcomes, key=lambda name: -outcomes[name]["val_accuracy"])
    for name in ranked:
        num_errors = evaluate(f"choice/{name}", "test", progress=False).num_errors
        mark = "  chosen" if name == ranked[0] else "  default" if default in name else ""
        print(
            f"{name:<40} validation {outcomes[name]['val_accuracy']:.4f}  "
            f"test errors {num_errors:5d} of {args.test_images}{mark}"
        )


PARTS = {"time": measure_time, "choice": measure_choice}

if __name__ == "__main__":
    main()
