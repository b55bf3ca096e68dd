"""Stores of several teachers, made without a model, and what they say together, in plain NumPy.

    path = write_teacher(tmp_path / "a.h5", images, ["ant", "bee"], seed=1)
    answers = log_softmax(answers_of(path))
    words = refusal(combine_stores, [path, other])

The logits of each teacher are random numbers of its seed, exact in float32.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import store_helpers

from streamkd.errors import StreamkdError
from streamkd.keys import Keys
from streamkd.manifest.fingerprint import fingerprint
from streamkd.pixels.content_digest import digest_files
from streamkd.store.collection import open_store
from streamkd.store.creation import create_store
from streamkd.store.writer import StoreWriter
from streamkd.teachers.drawn_views import DrawnViews
from streamkd.views.views import Views

OURS = ["ant", "bee", "cat"]
# How much likelier, as a logit, a teacher finds the class of an image's label.
LEAD = 9


def write_store_of(
    path: Path,
    keys: Keys,
    content: np.ndarray,
    names: Sequence[str],
    *,
    seed: int = 0,
    views: Views | None = None,
    labels: np.ndarray | None = None,
    logits: np.ndarray | None = None,
    num_blocks: int | None = None,
    refused: Sequence[int] = (),
    **changes: Any,
) -> str:
    """Writes the store of one teacher and returns its path.

    Args:
      path: of the store.
      keys: of its images, sorted.
      content: uint64 `[num_images]`, digests of the files' bytes.
      names: its classes, in the order of its outputs; may be empty.
      seed: of its answers, of which a label's class leads by `LEAD`.
      views: besides the plain image.
      labels: int `[num_images]`; by default none.
      logits: `[num_images * num_views, num_classes]` instead of random ones.
      num_blocks: blocks that are written before the pass ends; by default all.
      refused: images without an answer.
      changes: of the header.
    """
    views = views or Views(0)
    num_classes = changes.pop("num_classes", None) or len(names)
    labels = np.full(len(keys), -1) if labels is None else labels
    teacher = {"name": path.stem, "digest": str(seed), "output": "logits"}
    values = {
        "num_views": views.num_views,
        "num_classes": num_classes,
        "codec": "float32",
        "block_rows": 4 * views.num_views,
        "views": views.to_dict(),
        "fingerprint": fingerprint(keys, labels, list(names) or None),
        "teacher": teacher,
        **changes,
    }
    create_store(path, store_helpers.header_of(len(keys), **values), keys, labels, names)
    drawn = DrawnViews(views, keys).of_rows(np.arange(len(keys)), np.zeros(0, bool))
    if logits is None:
        shape = (len(keys) * views.num_views, num_classes)
        logits = np.random.default_rng(seed).normal(0, 3, shape)
        labelled = np.repeat(labels, views.num_views)
        known = np.flatnonzero(labelled >= 0)
        logits[known, labelled[known]] += LEAD
    with StoreWriter(path) as writer:
        for block in writer.pending_blocks()[:num_blocks].tolist():
            rows, images = writer.rows_of_block(block), writer.images_of_block(block)
            writer.write_block(
                block,
                logits[rows.start : rows.stop].astype(np.float32),
                content[images.start : images.stop],
                np.isin(np.arange(images.start, images.stop), refused),
                {name: values[rows.start : rows.stop] for name, values in drawn.items()},
            )
        if num_blocks is None:
            writer.finish({"teacher_accuracy": None, "num_labelled": 0})
    return str(path)


def write_teacher(path: Path, images: Any, names: Sequence[str] = OURS, **options: Any) -> str:
    """Writes the store of a teacher of the `images` of a manifest, whose keys are sorted."""
    content, _ = digest_files(images.paths(np.arange(len(images))))
    return write_store_of(path, images.keys, content, names, **options)


def write_small(path: Path, names: Sequence[str] = OURS, *, num_images: int = 10, **options) -> str:
    """Writes the store of a teacher of images that are no files; every third key is not UTF-8."""
    content = store_helpers.content_of(range(num_images))
    return write_store_of(path, store_helpers.keys_of(num_images), content, names, **options)


def answers_of(path: str | os.PathLike) -> np.ndarray:
    """Returns all logits of a store, float64 `[rows, num_classes]`."""
    store = open_store(path)
    return store.gather(np.arange(store.rows_total)).astype(np.float64)


def log_softmax(logits: Any) -> np.ndarray:
    """Returns log-probabilities, float64."""
    logits = np.asarray(logits, np.float64)
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def refusal(function: Callable[..., Any], *values: Any, **options: Any) -> StreamkdError:
    """Returns the refusal of a call."""
    with pytest.raises(StreamkdError) as caught:
        function(*values, **options)
    return caught.value
