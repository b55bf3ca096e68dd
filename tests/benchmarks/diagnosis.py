"""Five situations in which a distillation fails, set up on purpose, and what the commands say.

    python tests/benchmarks/diagnosis.py             about ten minutes
    python tests/benchmarks/diagnosis.py --only few_steps

Pictures of CIFAR-10, and digits of MNIST for the case in which nothing is wrong. Each situation is
a function: it makes teacher and student, runs the real commands, and prints every warning of theirs
and every verdict about the teacher. All models are small networks of Keras 3.

  certain      a teacher that has learned these very images by heart
  chance       a teacher whose classes are given in another order
  weaker       a teacher that saw 1,000 images for three epochs, and labels that say more
  few_steps    16 views of each image, and 10 epochs
  too_small    one mean colour and a linear layer, taught by a good teacher
  healthy      a teacher that was trained on other digits with smoothed labels: nothing is said
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import common
import numpy as np

import streamkd as kd

NUM_IMAGES, NUM_VALIDATION, NUM_CLASSES = 3_000, 1_000, 10
Said = list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=SITUATIONS, nargs="+", default=list(SITUATIONS))
    with tempfile.TemporaryDirectory() as folder:
        for name in parser.parse_args().only:
            for line in SITUATIONS[name](Path(folder)) or ["nothing is said"]:
                print(f"{name:<10} {line}", flush=True)


def command(name: str, *words: Any) -> dict[str, Any]:
    """Runs one command; returns its JSON object."""
    line = [sys.executable, "-m", "streamkd", name, *map(str, words), "--json", "--quiet"]
    done = subprocess.run(line, capture_output=True, text=True)
    answer = json.loads(done.stdout)
    if done.returncode:
        raise SystemExit(f"{' '.join(line)}\n{answer}\n{done.stderr}")
    return answer


def said_by(name: str, answer: dict[str, Any]) -> Said:
    """Returns what a command said: its warnings, and its verdict about the teacher."""
    said = [f"{name} warns, {w['code']}: {w['message']}" for w in answer["warnings"]]
    if answer.get("teacher_verdict"):
        said.append(f"{name}, {answer['teacher_verdict']}: {answer['teacher_advice']}")
    return said


@functools.cache
def split(data: str, folder: Path) -> dict[str, Path]:
    """Returns manifests of disjoint parts of a data set: to learn, to validate, for teachers."""
    images = kd.scan(common.data_directory(data) / "train", progress=False)
    order = np.random.default_rng(0).permutation(len(images))
    ends = np.cumsum([0, NUM_IMAGES, NUM_VALIDATION, 4 * NUM_IMAGES])
    parts = {}
    for name, first, last in zip(("train", "val", "other"), ends, ends[1:], strict=False):
        parts[name] = folder / f"{data}-{name}.jsonl"
        images.select(np.sort(order[first:last])).write(parts[name])
    return parts


def pixels_of(manifest: Path, color_mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns pixels, float32 `[N, H, W, C]` from 0 to 255, and labels."""
    from PIL import Image

    images = kd.scan(manifest, progress=False)
    mode = "L" if color_mode == "grayscale" else "RGB"
    pixels = [np.asarray(Image.open(images.path(i)).convert(mode)) for i in range(len(images))]
    stacked = np.stack(pixels).astype(np.float32)
    return stacked.reshape(*stacked.shape[:3], -1), np.asarray(images.labels)


def network(path: Path, shape: tuple[int, int, int], *, widths: tuple[int, ...] = (32, 64)) -> Any:
    """Saves a small network and returns it; without widths, a linear layer of the mean colour."""
    import keras

    keras.utils.set_random_seed(1)
    layers: list[Any] = [keras.Input(shape), keras.layers.Rescaling(1 / 255)]
    for width in widths:
        layers += [
            keras.layers.Conv2D(width, 3, strides=2, padding="same", use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
        ]
    layers.append(keras.layers.Flatten() if widths else keras.layers.GlobalAveragePooling2D())
    model = keras.Sequential([*layers, keras.layers.Dense(NUM_CLASSES)])
    model.save(path)
    return model


def trained(
    path: Path,
    manifest: Path,
    *,
    epochs: int,
    count: int | None = None,
    smoothing: float = 0.0,
    color_mode: str = "rgb",
) -> Path:
    """Trains a teacher on labels, and saves it."""
    import keras

    pixels, labels = pixels_of(manifest, color_mode)
    if count is not None:
        some = np.random.default_rng(0).permutation(len(labels))[:count]
        pixels, labels = pixels[some], labels[some]
    model = network(path, pixels.shape[1:])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    model.compile(keras.optimizers.Adam(2e-3), loss)
    targets = np.eye(NUM_CLASSES, dtype=np.float32)[labels]
    model.fit(pixels, targets, batch_size=32, epochs=epochs, verbose=0)
    model.save(path)
    return path


def taught(
    folder: Path, name: str, teacher: Path, data: str, *flags: Any
) -> tuple[Path, dict[str, Any]]:
    """Returns the store of a teacher's answers to the images to learn from, and what teach said."""
    store = folder / f"{name}.h5"
    manifest = split(data, folder)["train"]
    return store, command("teach", manifest, "--teacher", teacher, "--out", store, *flags)


def student(folder: Path, name: str, shape: tuple[int, int, int], **options: Any) -> Path:
    path = folder / f"{name}-student.keras"
    network(path, shape, **options)
    return path


def train(folder: Path, name: str, store: Path, model: Path, data: str, *flags: Any) -> Said:
    parts = split(data, folder)
    words = ["--store", store, "--student", model, "--out", folder / name, "--jit", "off"]
    words += ["--validation", parts["val"], "--cache", "memory", "--batch-size", 32]
    answer = command("train", parts["train"], *words, *flags)
    said = said_by("train", answer)
    print(
        f"{name:<10} (accuracy {answer['accuracy']:.3f}, validation {answer['val_accuracy']:.3f}, "
        f"{answer['steps']:,} steps)",
        flush=True,
    )
    return said


def certain(folder: Path) -> Said:
    teacher = trained(folder / "heart.keras", split("cifar10", folder)["train"], epochs=25)
    _, answer = taught(folder, "certain", teacher, "cifar10")
    return said_by("teach", answer)


def chance(folder: Path) -> Said:
    teacher = trained(folder / "good.keras", split("cifar10", folder)["other"], epochs=4)
    names = kd.scan(split("cifar10", folder)["train"], progress=False).class_names or []
    wrong = folder / "names.txt"
    wrong.write_text("".join(f"{name}\n" for name in [*names[1:], names[0]]))
    store, answer = taught(folder, "chance", teacher, "cifar10", "--class-names", wrong)
    model = student(folder, "chance", (32, 32, 3))
    said = train(folder, "chance", store, model, "cifar10", "--epochs", 1)
    return said_by("teach", answer) + said


def weaker(folder: Path) -> Said:
    other = split("cifar10", folder)["other"]
    teacher = trained(folder / "weak.keras", other, epochs=3, count=1_000)
    store, answer = taught(folder, "weaker", teacher, "cifar10")
    model = student(folder, "weaker", (32, 32, 3))
    flags = ["--epochs", 12, "--label-weight", 0.9]
    said = train(folder, "weaker", store, model, "cifar10", *flags)
    return said_by("teach", answer) + said


def few_steps(folder: Path) -> Said:
    other = split("cifar10", folder)["other"]
    teacher = trained(folder / "good.keras", other, epochs=6, smoothing=0.1)
    flags = ["--views", 16, "--crop", 0.6, 1, "--flip", "--canonical-size", "32x32"]
    store, answer = taught(folder, "few_steps", teacher, "cifar10", *flags)
    model = student(folder, "few_steps", (32, 32, 3))
    said = train(folder, "few_steps", store, model, "cifar10", "--epochs", 10)
    return said_by("teach", answer) + said


def too_small(folder: Path) -> Said:
    teacher = trained(folder / "heart.keras", split("cifar10", folder)["train"], epochs=25)
    store, _ = taught(folder, "too_small", teacher, "cifar10")
    model = student(folder, "too_small", (32, 32, 3), widths=())
    flags = ["--epochs", 30, "--learning-rate", 0.03]
    return train(folder, "too_small", store, model, "cifar10", *flags)


def healthy(folder: Path) -> Said:
    gray = ["--color-mode", "grayscale"]
    other = split("mnist", folder)["other"]
    teacher = trained(
        folder / "digits.keras", other, epochs=4, smoothing=0.25, color_mode="grayscale"
    )
    store, answer = taught(folder, "healthy", teacher, "mnist", *gray)
    model = student(folder, "healthy", (28, 28, 1), widths=(8, 16))
    said = train(folder, "healthy", store, model, "mnist", "--epochs", 25)
    return said_by("teach", answer) + said


SITUATIONS: dict[str, Callable[[Path], Said]] = {
    function.__name__: function
    for function in (certain, chance, weaker, few_steps, too_small, healthy)
}


if __name__ == "__main__":
    main()
