"""Views that the student sees exactly as the teacher answered them, and the check of it.

store = teach_once(noisy, tmp_path / "s.h5", **ASKED, views=CROPS)
stream = join(noisy, store, batch_size=4, seed=7)
assert_replayed(stream, 0, stream.end_of_epoch(2))

The teacher is a random projection of the pixels, so that any other pixel gives another answer. It
is asked again about what the student's stream shows, and must say what is in the store.
"""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest

import streamkd as kd
from streamkd.keys import Keys, hash_keys
from streamkd.manifest.manifest import Manifest, scan
from streamkd.views.operation import ViewOperation
from streamkd.views.views import Views

# Height and width of the images that the teacher answers.
SIZE = (9, 10)
# Answers are of the order of 1, and float32 rounds their sums of 270 products.
NOISE = 2e-5
FADE = ViewOperation("fade to noise", 1, helpers.fade_to_noise)
# Crops of images of one size, as the pixel cache keeps them.
CROPS = Views(2, crop=(0.35, 1.0), canonical_size=(14, 12))
EVERYTHING = Views(
    3, crop=(0.35, 1.0), flip=True, color=0.4, erase=0.4, mixup=0.8, cutmix=1.0, operation=FADE
)
KINDS = {
    "plain": Views(0),
    "repeated": Views(2),
    "crop": Views(2, crop=(0.35, 1.0)),
    "flip": Views(2, flip=True),
    "colour": Views(2, color=0.5),
    "erase": Views(3, erase=0.7),
    "mixup": Views(2, mixup=0.8),
    "cutmix": Views(2, cutmix=1.0),
    "canonical": Views(2, crop=(0.3, 0.9), canonical_size=(14, 12)),
    "everything": dataclasses.replace(EVERYTHING, operation=None),
    "everything canonical": Views(
        3, crop=(0.35, 1.0), flip=True, color=0.4, mixup=1.0, canonical_size=(11, 13)
    ),
    "operation": Views(2, operation=FADE),
    "operation canonical": Views(2, flip=True, canonical_size=(9, 10), operation=FADE),
    "everything and operation": EVERYTHING,
}
# Hashes of 4,001 keys, by which views are drawn.
HASHES = hash_keys(Keys.from_list([b"class/%05d.png" % i for i in range(4001)]))


def project(pixels: np.ndarray) -> np.ndarray:
    """Returns float32 `[batch, 3]`: every pixel counts."""
    weights = np.random.default_rng(0).normal(size=(int(np.prod(pixels.shape[1:])), 3))
    return (np.reshape(pixels, (len(pixels), -1)) @ weights / 2000).astype(np.float32)


# Arguments of `teach_once` for a store of this teacher.
ASKED = {
    "teacher": kd.load_teacher(project, name="p", output="logits"),
    "image_size": SIZE,
    "batch_size": 13,
    "codec": "float32",
}


def answers(images: Manifest, path: Path | str, views: Views, **arguments: Any) -> Any:
    """Returns a store of these views, taught as `ASKED` says, by a pass of its own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The teacher .* is right on")
        options = {**ASKED, "progress": False, **arguments}
        return kd.teach(images, options.pop("teacher"), path, views=views, **options)


def failing_teacher(call: int, answer: Callable[..., Any] = project, name: str = "p") -> Any:
    """Returns a teacher that fails at one of its calls.

    Args:
      call: number of the call, from 1; finding out the number of classes is a call too.
      answer: what it answers otherwise.
      name: of the teacher.
    """
    calls = itertools.count(1)

    def answer_or_fail(pixels: np.ndarray) -> Any:
        if next(calls) == call:
            raise helpers.TeacherFailedError
        return answer(pixels)

    return kd.load_teacher(answer_or_fail, name=name, output="logits")


def slow(*values: Any) -> Any:
    """A case like the others, which costs another store and another stream."""
    return pytest.param(*values, marks=pytest.mark.slow)


def quick_and_slow(kinds: Any, quick: tuple[str, ...]) -> list[Any]:
    """Returns the kinds as cases of `parametrize`: all but the quick ones are slow."""
    return [kind if kind in quick else slow(kind) for kind in kinds]


def assert_replayed(stream: Any, start: int, stop: int) -> None:
    """Asks the teacher again about the images that the stream shows."""
    for pixels, targets, _ in stream.batches(start, stop):
        difference = np.abs(project(pixels.numpy()) - targets["teacher_logits"].numpy())
        assert difference.max() < NOISE


def draw_noisy(root: Path, one_size: bool, mode: str = "RGB") -> Manifest:
    """Draws 21 images of noise, an odd number, in three classes."""
    rng = np.random.default_rng(0)
    for number in range(21):
        folder = root / ("ant" if number < 8 else "bee" if number < 15 else "cat")
        folder.mkdir(parents=True, exist_ok=True)
        size = (12, 15) if one_size else tuple(rng.integers(8, 30, 2).tolist())
        helpers.draw_noise(folder / f"{number:02d}.png", size, seed=number, mode=mode)
    return scan(root)
