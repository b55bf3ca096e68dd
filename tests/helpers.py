"""Images that carry a number, and a teacher whose logits carry the same number.

    draw_directory(tmp_path / "images", {"ant": 5, "bee": 4})
    teacher = EncodingTeacher(num_classes=2)
    teacher(pixels)                              # float32 [batch, 2]
    encoded_numbers(teacher_logits)              # which images these logits belong to
    pixel_numbers(pixels)                        # which images these pixels belong to

An image is of one colour: red and green hold its number, blue its class. PNG keeps that exactly,
and so does resizing to any size; the logits are exact in float16. Any mispairing of images and
logits shows as two different numbers.

Nothing here imports TensorFlow before it is needed.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from streamkd.errors import TeacherError

# Class names and images of the fixture `directory`: uneven, and no multiple of a batch.
COUNTS = {"ant": 11, "bee": 9, "cat": 10}
# Height of the class's own logit above every logit that a number alone can make.
CLASS_MARGIN = 16.0


def draw_image(
    path: Path | str | bytes, number: int, class_number: int = 0, size: tuple[int, int] = (8, 8)
) -> None:
    """Writes a PNG of `size` (height, width) whose one colour holds `number` and `class_number`.

    Args:
      path: any ending; the content is PNG.
      number: 0 to 65,535.
      class_number: 0 to 255.
      size: height and width in pixels.
    """
    color = (number % 256, number // 256, class_number)
    with open(path, "wb") as file:
        Image.new("RGB", size[::-1], color).save(file, "PNG")


def draw_directory(
    root: Path, counts: dict[str, int], size: tuple[int, int] = (8, 8), first: int = 0
) -> Path:
    """Writes one folder a class and returns `root`; the images are numbered from `first`.

    Args:
      root: the directory, which is made if it does not exist.
      counts: number of images of each class, in the order of the class numbers.
      size: height and width in pixels.
      first: number of the first image; file names hold the numbers.
    """
    number = first
    for class_number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            draw_image(root / name / f"{number:05d}.png", number, class_number, size)
            number += 1
    return root


def draw_noise(path: Path, size: tuple[int, int], seed: int = 0, mode: str = "RGB") -> None:
    """Writes an image of random pixels; the ending of `path` says the format."""
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, *channels), np.uint8)
    Image.fromarray(pixels).save(path)


def truncate(path: Path, num_bytes: int | None = None) -> None:
    """Cuts a file to `num_bytes`, by default to half of what it had."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 if num_bytes is None else num_bytes])


def break_image(path: Path | str | bytes) -> None:
    """Overwrites a file with bytes that are no image."""
    with open(path, "wb") as file:
        file.write(b"no image")


def wait_for_new_ctime(folder: Path) -> None:
    """Waits until a file that changes gets another time of change than files had so far.

    The clock of inodes ticks every 4 to 10 ms on ext4, every second or two on other file systems.

    Args:
      folder: on the same file system.
    """
    probe = folder / "probe of the clock"
    probe.touch()
    before = probe.stat().st_ctime_ns
    while probe.stat().st_ctime_ns == before:
        os.utime(probe)
    probe.unlink()


def pixel_numbers(pixels: Any) -> np.ndarray:
    """Returns the number and the class that pixels hold, int64 `[batch, 2]`.

    Args:
      pixels: `[batch, height, width, 3]`, 0 to 255.
    """
    colors = np.rint(np.asarray(pixels)[:, 0, 0, :]).astype(np.int64)
    return np.stack([colors[:, 0] + 256 * colors[:, 1], colors[:, 2]], axis=1)


def encoded_logits(numbers: Any, classes: Any, num_classes: int) -> np.ndarray:
    """Returns the logits of some images, float32 `[batch, num_classes]`, exact in float16.

    The largest is that of the image's class. The first two also hold the image's number.
    """
    numbers, classes = np.asarray(numbers), np.asarray(classes)
    logits = np.zeros((len(numbers), num_classes), np.float32)
    logits[:, 0] = numbers % 256 / 32
    logits[:, 1] = numbers // 256 / 32
    logits[np.arange(len(numbers)), classes] += CLASS_MARGIN
    return logits


def encoded_numbers(logits: Any) -> np.ndarray:
    """Returns the number and the class that logits hold, int64 `[batch, 2]`."""
    logits = np.array(logits, np.float64)
    classes = logits.argmax(axis=1)
    logits[np.arange(len(logits)), classes] -= CLASS_MARGIN
    codes = np.rint(logits[:, :2] * 32).astype(np.int64)
    return np.stack([codes[:, 0] + 256 * codes[:, 1], classes], axis=1)


class EncodingTeacher:
    """A teacher, for `teach`, that answers every image of `draw_image` with its own logits.

    Attributes:
      num_classes: outputs.
      num_calls: how often it was asked so far. A pass asks about its first images twice, to compare
        the answers; that counts once.
      fail_at: number of the call, from 1, at which it raises `TeacherFailedError`; None for never.
    """

    def __init__(self, num_classes: int = 3, fail_at: int | None = None) -> None:
        self.num_classes = num_classes
        self.fail_at = fail_at
        self.num_calls = 0
        self._last: Any = None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        if self._last is not None and np.array_equal(images, self._last[: len(images)]):
            self._last = None
        else:
            self._last = images
            self.num_calls += 1
            if self.num_calls == self.fail_at:
                raise TeacherFailedError(f"asked for the {self.num_calls}. time")
        numbers, classes = pixel_numbers(images).T
        return encoded_logits(numbers, classes, self.num_classes)


def teach_small(images: Any, teacher: Any, path: Path | str, **options: Any) -> Any:
    """Returns `teach(...)` at 8×8 in blocks of 7 images, unless `options` of it say otherwise."""
    from streamkd.teachers.teach import teach

    values = {"image_size": (8, 8), "batch_size": 7, "progress": False, **options}
    return teach(images, teacher, path, **values)


class TeacherFailedError(TeacherError):
    """The error of an `EncodingTeacher` that is told to fail; it reaches the test as it is."""

    def __init__(self, message: str = "told to fail") -> None:
        super().__init__(message)


@contextlib.contextmanager
def stopped_once_created() -> Iterator[None]:
    """Within it, a pass ends by `TeacherFailedError` once its store exists, without an answer."""
    with (
        mock.patch("streamkd.teachers.teacher_pass.fill_store", side_effect=TeacherFailedError),
        pytest.raises(TeacherFailedError),
    ):
        yield


def fade_to_noise(pixels: Any, seeds: Any) -> Any:
    """A view operation that shows in every pixel: each row fades to noise of its own seed."""
    import tensorflow as tf

    def noise(seed: Any) -> Any:
        return tf.random.stateless_uniform(pixels.shape[1:], seed, 0, 255)

    return 0.7 * pixels + 0.3 * tf.map_fn(noise, seeds, fn_output_signature=tf.float32)


def small_model(
    family: Any,
    *,
    num_classes: int = 3,
    image_size: tuple[int, int] = (8, 8),
    activation: str | None = "softmax",
    seed: int = 0,
) -> Any:
    """Returns a tiny convolutional classifier of pixels 0 to 255, with reproducible weights.

    Args:
      family: the module `tf_keras` or `keras`, or its name.
      num_classes: outputs.
      image_size: height and width.
      activation: of the last layer; None for logits.
      seed: of the weights.
    """
    family = importlib.import_module(family) if isinstance(family, str) else family
    layers = family.layers
    model = family.Sequential(
        [
            family.Input((*image_size, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(num_classes, activation=activation),
        ],
        name="small",
    )
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=w.shape).astype(np.float32) for w in model.get_weights()])
    return model
