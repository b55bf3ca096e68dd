"""A view operation of your own: solarised images, answered by the teacher, shown to the student.

    python examples/own_view.py runs/own_view

The example draws a few images and teaches a store of views that are cropped, solarised and mixed.
The store keeps a seed for each view, and the operation's name and version, but not its code: the
join is given the function again. Then the teacher answers the views that the student is shown, and
its answers are those in the store.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import tf_keras
from PIL import Image

import streamkd as kd

IMAGE_SIZE = (24, 24)
CLASSES = ("circles", "stripes")


def solarize(pixels: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
    """Returns pixels, inverted where they are brighter than a limit; each row has its own limit.

    Args:
      pixels: float32 `[rows, height, width, channels]`, 0 to 255.
      seeds: int32 `[rows, 2]`.
    """

    def limit(seed: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_uniform([], seed, 100.0, 255.0)

    limits = tf.map_fn(limit, seeds, fn_output_signature=tf.float32)
    return tf.where(pixels > limits[:, None, None, None], 255 - pixels, pixels)


# Give it another version whenever `solarize` is changed.
SOLARIZE = kd.ViewOperation("solarize", 1, solarize)


def draw_images(root: Path, count: int = 12) -> None:
    """Draws `count` images of each class, with a little noise."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    for number in range(2 * count):
        name = CLASSES[number % 2]
        pattern = np.hypot(x, y) if name == "circles" else x + 0.5 * y
        waves = 127 + 110 * np.sin(random.uniform(8, 14) * pattern)
        pixels = waves[..., None] * random.uniform(0.5, 1, 3) + random.uniform(0, 15, (32, 32, 3))
        (root / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number:03d}.png")


def main() -> None:
    out = Path(sys.argv[1])
    draw_images(out / "images")
    images = kd.scan(out / "images")
    weights = np.random.default_rng(1).normal(size=(24 * 24 * 3, 2)) / 2000

    def teacher(pixels: np.ndarray) -> np.ndarray:  # any model of yours
        return np.reshape(pixels, (len(pixels), -1)) @ weights

    views = kd.Views(3, crop=(0.5, 1.0), flip=True, mixup=0.8, operation=SOLARIZE)
    named = kd.load_teacher(teacher, name="random matrix, seed 1", output="logits")
    store = kd.teach(
        images, named, out / "teacher.h5", image_size=IMAGE_SIZE, codec="float32", views=views
    )
    stream = kd.join(images, store, batch_size=6, seed=1, operation=SOLARIZE)
    difference = max(
        float(np.abs(teacher(pixels.numpy()) - targets["teacher_logits"].numpy()).max())
        for pixels, targets, _ in stream.dataset(0, stream.end_of_epoch(3))
    )
    assert difference < 1e-4, difference
    print(f"{store.rows_total} rows; the teacher asked again differs by {difference:.1e} at most")

    layers = tf_keras.layers
    inputs = tf_keras.Input((*IMAGE_SIZE, 3))
    student = tf_keras.Sequential(
        [inputs, layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(2)]
    )
    distiller = kd.Distiller(student, label_weight=0.0)
    history = distiller.fit(stream, epochs=3, progress=False)
    print(f"loss of the student after three epochs: {history.last['loss']:.4f}")


if __name__ == "__main__":
    main()
