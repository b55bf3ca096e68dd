"""The first table of Hinton, Vinyals and Dean (arXiv:1503.02531, section 3), on all of MNIST.

    python examples/mnist_hinton.py --data mnist --out runs/hinton --student-seeds 1 2 3

`mnist` holds train/<digit>/*.png (60,000 files) and test/<digit>/*.png (10,000). Four networks are
trained:

- a teacher with two hidden layers of 1,200, dropout, max-norm and jitter of up to two pixels;
- a student with two hidden layers of 800, from labels alone, without any regularisation;
- the same student, which also matches the teacher's soft targets at temperature 20;
- the same student, from these soft targets alone.

`tests/benchmarks/make_data.py` makes that folder. `--seed` is the seed of the one teacher; the
students are trained once for each of `--student-seeds` and see the images as they are. Everything
is read from the PNG files through streamkd. The same command resumes a run that was stopped.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
import tf_keras

import streamkd as kd

PAPER = {"teacher": 67, "labels alone": 146, "distilled": 74, "soft targets alone": None}
LABEL_WEIGHTS = {"labels alone": 1.0, "distilled": 0.5, "soft targets alone": 0.0}
PIXELS = {"image_size": (28, 28), "color_mode": "grayscale"}
MAX_SHIFT_PX = 2
# Mean and standard deviation of all pixels of the training images, 0 to 255.
PIXEL_MEAN, PIXEL_STD = 33.3184, 78.5675


@tf_keras.utils.register_keras_serializable("mnist_hinton")
class Jitter(tf_keras.layers.Layer):
    """Shifts each image by up to `MAX_SHIFT_PX` pixels each way while training; black moves in.

    A shift is a product with a shifted identity matrix on either side, which XLA compiles to almost
    nothing; `RandomTranslation` takes longer than the whole network.
    """

    def call(self, images, training=False):
        if not training:
            return images
        size = images.shape[1]
        rows, columns = (self._shifts(tf.shape(images)[0], size) for _ in range(2))
        return tf.einsum("bij,bjkc,blk->bilc", rows, images, columns)

    def _shifts(self, batch_size, size):
        """Returns shifted identity matrices, float32 `[batch, size, size]`."""
        shifts = tf.random.uniform([batch_size], -MAX_SHIFT_PX, MAX_SHIFT_PX + 1, tf.int32)
        return tf.one_hot(tf.range(size)[None, :] + shifts[:, None], size)


def build_teacher(args: argparse.Namespace) -> tf_keras.Model:
    """Returns 784-1200-1200-10 with jitter, dropout and max-norm."""
    layers = tf_keras.layers
    max_norm = tf_keras.constraints.MaxNorm(args.max_norm)

    def hidden(units: int) -> tf_keras.layers.Layer:
        return layers.Dense(
            units,
            activation="relu",
            kernel_initializer="he_normal",
            kernel_constraint=max_norm,
        )

    return tf_keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            Jitter(),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dropout(args.input_dropout),
            hidden(1200),
            layers.Dropout(args.hidden_dropout),
            hidden(1200),
            layers.Dropout(args.hidden_dropout),
            layers.Dense(10, activation="softmax", kernel_constraint=max_norm),
        ],
        name="teacher",
    )


def build_student() -> tf_keras.Model:
    """Returns 784-800-800-10 without any regularisation."""
    layers = tf_keras.layers
    return tf_keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Rescaling(1 / PIXEL_STD, offset=-PIXEL_MEAN / PIXEL_STD),
            layers.Flatten(),
            layers.Dense(800, activation="relu", kernel_initializer="he_normal"),
            layers.Dense(800, activation="relu", kernel_initializer="he_normal"),
            layers.Dense(10, activation="softmax"),
        ],
        name="student",
    )


def parse_args(words: list[str] | None = None) -> argparse.Namespace:
    """Returns the settings; by default those with which the table was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="directory with train and test")
    parser.add_argument("--out", type=Path, default=Path("runs/hinton"))
    parser.add_argument("--seed", type=int, default=1, help="of the teacher and its batches")
    parser.add_argument("--student-seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--temperature", type=float, default=20.0)
    parser.add_argument("--teacher-epochs", type=int, default=120)
    parser.add_argument("--teacher-batch-size", type=int, default=256)
    parser.add_argument("--teacher-learning-rate", type=float, default=1e-3)
    parser.add_argument("--input-dropout", type=float, default=0.0)
    parser.add_argument("--hidden-dropout", type=float, default=0.25)
    parser.add_argument("--max-norm", type=float, default=2.0)
    parser.add_argument("--student-epochs", type=int, default=24)
    parser.add_argument("--student-batch-size", type=int, default=128)
    parser.add_argument("--student-learning-rate", type=float, default=2e-3)
    return parser.parse_args(words)


def main() -> None:
    args = parse_args()
    started = time.perf_counter()
    train, test = kd.scan(args.data / "train"), kd.scan(args.data / "test")
    errors: dict[str, list[int]] = {}

    tf_keras.utils.set_random_seed(args.seed)
    labels_only = kd.join(train, None, batch_size=args.teacher_batch_size, seed=args.seed, **PIXELS)
    teacher = kd.Distiller(
        build_teacher(args),
        optimizer="adam",
        learning_rate=args.teacher_learning_rate,
        label_weight=1.0,
    )
    teacher.fit(labels_only, epochs=args.teacher_epochs, validation=test, run=args.out / "teacher")
    errors["teacher"] = [kd.evaluate(teacher.student, test).num_errors]
    store = kd.teach(train, teacher.student, args.out / "teacher.h5", codec="float32", **PIXELS)

    for seed in args.student_seeds:
        stream = kd.join(train, store, batch_size=args.student_batch_size, seed=seed)
        for name, label_weight in LABEL_WEIGHTS.items():
            tf_keras.utils.set_random_seed(seed)
            student = kd.Distiller(
                build_student(),
                optimizer="adam",
                learning_rate=args.student_learning_rate,
                temperature=args.temperature,
                label_weight=label_weight,
                jit=True,
            )
            run = args.out / f"{name.replace(' ', '-')}-{seed}"
            student.fit(stream, epochs=args.student_epochs, validation=test, run=run)
            report = kd.evaluate(student.student, test)
            errors.setdefault(name, []).append(report.num_errors)

    print(f"{'test errors of ' + format(len(test), ','):<24}{'the paper':>11}   here, by seed")
    for name, paper in PAPER.items():
        print(f"{name:<24}{paper or '-':>11}   {', '.join(map(str, errors[name]))}")
    print(f"teacher on the training images: {store.describe().teacher_accuracy:.2%} right")
    seeds = f"seed {args.seed} of the teacher, {args.student_seeds} of the students"
    print(f"{(time.perf_counter() - started) / 60:.0f} minutes, {seeds}")


if __name__ == "__main__":
    main()
