"""Files as one release writes them, for later releases to read: run this with the older release.

    PYTHONPATH=RELEASE python tests/golden/make_golden.py        # writes beside this script

Run it with the release whose files are to be kept, never with the one under test, and commit what
it writes. `tests/test_golden.py` reads the files with the present release, calls the functions
below once more, and compares. It uses nothing but the public names of streamkd, and `hash_keys`.

    images/           13 PNG files in three class folders; drawn once and kept, since another
                      release of Pillow may compress them otherwise
    manifest.jsonl    the manifest of 101 other images, which are not there
    stores/           logit stores of format version 1, compressed: each codec, plain and with drawn
                      views; one with a delta and its index file, and both merged; one whose
                      teacher failed after two blocks
    logits.npz        the logits of every store, as they were read back
    facts.json        fingerprints, splits, orders of streams
    views.npz         drawn views, matched partners, mixtures
    runs/             run directories of both Keras families, stopped after step 5 of 7
    weights.npz       the weights of both runs after step 7

The teacher rounds what it answers to whole numbers, and no answer lies near the border between two
of them: the stores are the same on every processor. Pixel caches are not among the files. They are
keyed by the absolute path of the images and by the times of their files.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

import streamkd as kd
from streamkd.errors import TeacherError
from streamkd.keys import hash_keys

FOLDER = Path(__file__).resolve().parent
COUNTS = {"ant": 6, "bee": 4, "cat": 3}
CLASSES = ["ant", "bee", "cat", "cow", "dog", "eel", "fox", "gnu"]
# Height and width in pixels, of the teacher's images and of the student's.
TEACHER_SIZE, STUDENT_SIZE = (8, 6), (4, 4)
# One step of the teacher's logits, in pixel values; least distance from a border, in steps.
LOGIT_STEP, MIN_DISTANCE = 4.0, 1e-4

DRAWN = {
    "crop": kd.Views(2, crop=(0.35, 1.0), flip=True, seed=3),
    "colour": kd.Views(3, color=0.4, erase=0.5),
    "mixup": kd.Views(4, flip=True, mixup=0.8, canonical_size=(10, 9), seed=1),
    "cutmix": kd.Views(2, cutmix=1.0),
    "everything": kd.Views(
        3, crop=(0.3, 0.9), flip=True, color=0.3, erase=0.4, mixup=0.8, cutmix=1.0, seed=7
    ),
}
# Codec and views of each store.
STORES = {
    "float32": ("float32", kd.Views(0)),
    "float16": ("float16", kd.Views(0)),
    "packed-4": ("packed:4", kd.Views(0)),
    "packed-3+4": ("packed:3+4", kd.Views(0)),
    "packed-0+4": ("packed:0+4", kd.Views(0)),
    "float32-everything": ("float32", DRAWN["everything"]),
    "float16-mixup": ("float16", DRAWN["mixup"]),
    "packed-4-colour": ("packed:4", DRAWN["colour"]),
    "packed-3+4-crop": ("packed:3+4", DRAWN["crop"]),
    "packed-0+4-cutmix": ("packed:0+4", DRAWN["cutmix"]),
}
BLOCK_ROWS = 8
# Images of the store that gets a delta; blocks of the unfinished store, and its twin.
NUM_BEFORE_DELTA = 10
NUM_DONE_BLOCKS, FINISHED_TWIN = 2, "float16-mixup"

# Arguments of `join` for streams of labels alone, over 101 images that nobody opens.
LABEL_STREAMS: dict[str, dict[str, Any]] = {
    "batch 7": {"batch_size": 7, "seed": 0},
    "batch 32, seed 5": {"batch_size": 32, "seed": 5},
    "batch 101, largest seed": {"batch_size": 101, "seed": 2**32 - 1},
    "batch 10, in order": {"batch_size": 10, "seed": 1, "shuffle": False},
    "batch 16, balanced": {"batch_size": 16, "seed": 2, "balance": True},
    "batch 16, balanced, in order": {
        "batch_size": 16,
        "seed": 2,
        "balance": True,
        "shuffle": False,
    },
}
# Store and arguments of `join` for streams whose rows are written down.
ROW_STREAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "views take turns": ("packed-3+4-crop", {"batch_size": 4, "seed": 3}),
    "views of one decoded image": (
        "packed-4-colour",
        {"batch_size": 6, "seed": 3, "views_per_decode": 2},
    ),
    "pairs": ("float32-everything", {"batch_size": 4, "seed": 9}),
    "balanced views": ("packed-3+4-crop", {"batch_size": 3, "seed": 4, "balance": True}),
}
NUM_EPOCHS = 3

FAMILIES = ("tf_keras", "keras")
# Epochs of a run, which are 7 steps, and the step after which the older release stopped it.
RUN_EPOCHS, STOPPED_AT = 2, 5


class TeacherFailedError(TeacherError):
    """What the teacher raises when it is told to fail."""


def draw_images(folder: Path) -> None:
    """Writes images of noise, of several sizes."""
    rng = np.random.default_rng(20261127)
    number = 0
    for name, count in COUNTS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            size = rng.integers(5, 14, 2)
            pixels = rng.integers(0, 256, (*size, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02d}.png")
            number += 1


def answer_of(pixels: np.ndarray) -> np.ndarray:
    """Returns rounded means of a quarter of the image and one colour each, float32 `[batch, 8]`."""
    height, width = pixels.shape[1] // 2, pixels.shape[2] // 2
    logits = np.empty((len(pixels), len(CLASSES)))
    for number in range(len(CLASSES)):
        row, column, channel = number % 2, number // 2 % 2, number // 4
        part = pixels[:, row * height :, column * width :, channel]
        logits[:, number] = part[:, :height, :width].mean(axis=(1, 2), dtype=np.float64)
    logits /= LOGIT_STEP
    distances = 0.5 - np.abs(logits - np.rint(logits))
    assert distances.min() > MIN_DISTANCE, "an answer lies on the border between two numbers"
    return np.rint(logits).astype(np.float32)


class GoldenTeacher:
    """Answers as `answer_of`; fails at its `fail_at`-th call, counted from 1."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.fail_at = fail_at
        self.num_calls = 0

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        self.num_calls += 1
        if self.num_calls == self.fail_at:
            raise TeacherFailedError("told to fail")
        return answer_of(pixels)


def teach(images: Any, path: Path, codec: str, views: Any, fail_at: int | None = None) -> Any:
    """Returns the store of some images, taught as all golden stores are."""
    teacher = kd.load_teacher(GoldenTeacher(fail_at), name="golden", output="logits")
    teacher.is_asked_twice = False  # its calls are counted
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The teacher .* is right on")
        return kd.teach(
            images,
            teacher,
            path,
            image_size=TEACHER_SIZE,
            batch_size=BLOCK_ROWS,
            codec=codec,
            class_names=CLASSES,
            views=views,
            progress=False,
        )


def make_stores(images: Any, folder: Path) -> None:
    """Writes all stores."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (codec, views) in STORES.items():
        teach(images, folder / f"{name}.h5", codec, views)
    make_delta(images, folder)
    codec, views = STORES[FINISHED_TWIN]
    with contextlib.suppress(TeacherFailedError):
        teach(images, folder / "unfinished.h5", codec, views, fail_at=NUM_DONE_BLOCKS + 1)


def make_delta(images: Any, folder: Path) -> None:
    """Writes a store of the first images, the delta of the others, their index file, and both
    merged into one."""
    for subset in (images.select(slice(0, NUM_BEFORE_DELTA)), images):
        teach(subset, folder / "changed.h5", "float16", kd.Views(0))
    kd.merge([folder / "changed.h5.index"], folder / "merged.h5", progress=False)


def logits_of(store: Any) -> np.ndarray:
    """Returns all logits of a store, float32 `[rows, classes]`."""
    return np.asarray(store.gather(np.arange(store.num_images * store.num_views)))


def all_logits(stores: Path) -> dict[str, np.ndarray]:
    """Returns all logits of each finished store, by its name."""
    names = [*STORES, "changed", "merged"]
    return {name: logits_of(kd.open_store(stores / f"{name}.h5")) for name in names}


def splits(manifest: Path) -> dict[str, list[int]]:
    """Returns which images of a manifest are held out for validation, for some arguments."""
    number = {key: index for index, key in enumerate(kd.scan(manifest).keys)}
    chosen = {}
    for stratify in (False, True):
        for fraction, seed in ((0.2, 1), (0.35, 77)):
            part = kd.scan(
                manifest,
                validation_split=fraction,
                subset="validation",
                seed=seed,
                stratify=stratify,
            )
            name = f"{fraction}, seed {seed}" + (", stratified" if stratify else "")
            chosen[name] = [number[key] for key in part.keys]
    return chosen


def write_many(path: Path) -> None:
    """Writes the manifest of 101 images that are not there, some weighted, one key not UTF-8."""
    counts = {"ant": 50, "bee": 31, "cat": 20}
    keys = [b"%s/%03d.png" % (name.encode(), i) for name, n in counts.items() for i in range(n)]
    keys[49] = b"ant/\xff.png"
    weights = np.where(np.arange(len(keys)) % 5 == 0, 0.25, 1)
    labels = np.repeat(np.arange(len(counts)), list(counts.values()))
    kd.Manifest(b"/photos", kd.Keys.from_list(keys), labels, list(counts), weights).write(path)


def label_orders(images: Any) -> dict[str, Any]:
    """Returns the images of each step of the first epochs, for streams without a store."""
    orders = {}
    for name, options in LABEL_STREAMS.items():
        stream = kd.join(images, None, image_size=STUDENT_SIZE, **options)
        ends = [stream.end_of_epoch(epoch) for epoch in range(1, NUM_EPOCHS + 1)]
        steps = [stream.indices(step).tolist() for step in range(ends[-1])]
        orders[name] = {"ends": ends, "indices": steps}
    return orders


def row_orders(images: Any, stores: Path) -> dict[str, Any]:
    """Returns images and rows of each step of the first epochs; the rows tell the views."""
    orders = {}
    for name, (store, options) in ROW_STREAMS.items():
        stream = kd.join(images, stores / f"{store}.h5", image_size=STUDENT_SIZE, **options)
        ends = [stream.end_of_epoch(epoch) for epoch in range(1, NUM_EPOCHS + 1)]
        orders[name] = {
            "ends": ends,
            "indices": [stream.indices(step).tolist() for step in range(ends[-1])],
            "rows": [t["rows"].numpy().tolist() for _, t, _ in stream.batches(0, ends[-1])],
        }
    return orders


def facts(images: Any, manifest: Path, stores: Path) -> dict[str, Any]:
    """Returns fingerprints, splits and orders."""
    many = kd.scan(manifest)
    return {
        "fingerprints": {"images": images.fingerprint, "manifest": many.fingerprint},
        "splits": splits(manifest),
        "label streams": label_orders(many),
        "row streams": row_orders(images, stores),
    }


def drawn_views(images: Any) -> dict[str, np.ndarray]:
    """Returns what each specification draws for the images: parameters, partners, mixtures."""
    hashes = hash_keys(images.keys)
    arrays = {}
    for name, views in DRAWN.items():
        drawn = views.draw(hashes)
        partners = views.match(hashes)
        of_partners = np.where(partners < 0, hashes[:, None], hashes[partners])
        mixing = {}
        if views.mixes:
            mixing = views.draw_mixing(np.repeat(hashes[:, None], views.num_views, 1), of_partners)
        for parameter, values in {**drawn, "partners": partners, **mixing}.items():
            arrays[f"{name} {parameter}"] = values
    return arrays


def student_of(family: str) -> Any:
    """Returns a student with all that a checkpoint has to keep: norms, dropout, two layers."""
    keras = importlib.import_module(family)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((*STUDENT_SIZE, 3)),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(5, name="hidden"),
            layers.BatchNormalization(momentum=0.9, name="norm"),
            layers.Dropout(0.3, seed=4, name="dropout"),
            layers.Dense(len(CLASSES), activation="softmax", name="classes"),
        ],
        name="golden",
    )
    rng = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(scale=0.3, size=weight.shape))
    return model


def train(images: Any, stores: Path, family: str, run: Path, stop_at: int | None = None) -> Any:
    """Returns the student of a run, trained to its end or up to a step; resumes what is there."""
    stream = kd.join(
        images, stores / "float32-everything.h5", image_size=STUDENT_SIZE, batch_size=4, seed=2
    )
    distiller = kd.Distiller(
        student_of(family),
        optimizer="adamw",
        learning_rate=0.003,
        weight_decay=0.01,
        clip_norm=1.0,
        ema=0.9,
        label_weight=0.3,
        jit="off",
        steps_per_call=1,
    )
    num_steps = []
    distiller.fit(
        stream,
        epochs=RUN_EPOCHS,
        run=run,
        save_every=STOPPED_AT,
        stop=lambda: num_steps.append(None) or len(num_steps) == stop_at,
        progress=False,
    )
    return distiller.student


def weights_of(family: str, student: Any) -> dict[str, np.ndarray]:
    return {f"{family} {i}": np.array(w) for i, w in enumerate(student.get_weights())}


def main(folder: Path) -> None:
    """Writes all files into `folder`, where there may be the images already."""
    if not (folder / "images").exists():
        draw_images(folder / "images")
    images = kd.scan(folder / "images")
    write_many(folder / "manifest.jsonl")
    np.savez_compressed(folder / "views.npz", **drawn_views(images))
    with tempfile.TemporaryDirectory() as work:
        stores, whole = Path(work, "stores"), Path(work, "whole")
        make_stores(images, stores)
        np.savez_compressed(folder / "logits.npz", **all_logits(stores))
        found = facts(images, folder / "manifest.jsonl", stores)
        (folder / "facts.json").write_text(json.dumps(found) + "\n")
        (folder / "stores").mkdir()
        for path in sorted(stores.iterdir()):
            packed = gzip.compress(path.read_bytes(), mtime=0)
            (folder / "stores" / f"{path.name}.gz").write_bytes(packed)
        weights = {}
        with mock.patch("platform.platform", return_value="Linux"):
            for family in FAMILIES:
                train(images, stores, family, folder / "runs" / family, stop_at=STOPPED_AT)
                weights |= weights_of(family, train(images, stores, family, whole / family))
        np.savez_compressed(folder / "weights.npz", **weights)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else FOLDER)
