"""The checks of `join` before the first batch, besides the one for missing logits.

    check_batch_size(batch_size, seed, len(images))
    check_views_per_decode(views_per_decode, shown, batch_size, replayed=True)

Each check looks at one thing; a refusal shows both sides and says what to type next.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from streamkd.checks import check_choice, check_count, check_seed
from streamkd.codes import warn
from streamkd.errors import MissingLogitsError, OptionError, readable_key
from streamkd.manifest.listing import UNLABELLED
from streamkd.manifest.manifest import Manifest
from streamkd.store.chance import is_at_chance
from streamkd.store.decisions import right
from streamkd.store.row_store import RowStore
from streamkd.stream.order.class_balance import draws_of_epoch
from streamkd.stream.teacher_columns import TeacherColumns
from streamkd.views.operation import ViewOperation, check_replayed
from streamkd.views.views import Views

AUGMENTS = ("replay", "independent")
# Number of rows whose accuracy is compared: enough to show a wrong pairing, and soon read.
ACCURACY_ROWS = 4096
# Fraction of images with one logit for all chosen classes that is not worth a word.
FEW_EQUAL_ANSWERS = 0.01


def independent_views(
    augment: str, views: Views | None, operation: ViewOperation | None
) -> Views | None:
    """Returns the views that are drawn anew for every epoch, or None for those of the store."""
    check_choice("augment", augment, AUGMENTS)
    if augment == "replay":
        if views is not None:
            raise OptionError(
                "The views belong to the store: the student sees what the teacher saw.\n"
                "Leave views out, or compare with augment='independent'."
            )
        return None
    if views is None or not views.count:
        raise OptionError(
            "augment='independent' draws new views, and no views are given.\n"
            "Add views=Views(1, crop=(0.35, 1), flip=True)."
        )
    if operation is not None:
        raise OptionError(
            "With augment='independent' the operation belongs to the views that are drawn.\n"
            "Give it there: views=Views(1, operation=operation)."
        )
    if views.mixes:
        raise OptionError(
            "Independent views cannot be mixed: the store has no logits for a mixture that the "
            "teacher has not seen.\nLeave mixup and cutmix out."
        )
    warn(
        "independent_views",
        "The student is shown views that the teacher has not answered, which in long runs is no "
        "better than labels alone. Use augment='independent' for comparison.",
        stacklevel=3,
    )
    return views


def replayed_views(store: RowStore | None, operation: ViewOperation | None) -> Views:
    """Returns the views that a store has, with the function of their operation."""
    if store is not None:
        views = Views.from_dict(store.header.views)
        check_replayed(views.operation, operation, store.path)
        return dataclasses.replace(views, operation=operation)
    if operation is not None:
        raise OptionError(
            "An operation belongs to the views of a store, and there is no store.\n"
            "Leave operation out, or draw views: "
            "augment='independent', views=Views(1, operation=operation)."
        )
    return Views(0)


def check_learnable(
    images: Manifest, labels: np.ndarray, rows: np.ndarray, multi_hot: np.ndarray | None
) -> None:
    """Refuses images with neither label nor logits."""
    unlabelled = labels == UNLABELLED
    if multi_hot is not None:
        unlabelled = (multi_hot == UNLABELLED).any(axis=1)
    neither = np.flatnonzero(unlabelled & (rows < 0))
    if len(neither):
        key = images.keys[int(neither[0])]
        raise MissingLogitsError(
            f"{len(neither):,} of {len(images):,} images have neither logits nor a label; the "
            f"first is '{readable_key(key)}'.\nLeave them out: `--missing drop`.",
            key=key,
        )


def check_accuracy(
    labels: np.ndarray, rows: np.ndarray, store: RowStore, columns: TeacherColumns | None = None
) -> None:
    """Warns if the teacher's accuracy on joined rows is not that of the teacher pass.

    The tolerance is five standard deviations and two points: a part of the images, such as one
    side of a split, may be a little easier or harder than the whole.

    With `columns`, the labels are those of the student. Among all its classes the teacher is then
    right if it chose one that the student's class is made of, which may be more often than it
    chose the right one itself. Among the chosen columns it must also be better than chance, and
    must not answer alike for all.
    """
    if columns is not None:
        _check_equal_answers(rows, store, columns)
    taught = (store.summary or {}).get("teacher_accuracy")
    labelled = np.flatnonzero((labels != UNLABELLED) & (rows >= 0))
    if not len(labelled) or (taught is None and columns is None):
        return
    picked = spread_out(labelled)
    logits = store.gather(rows[picked])
    if columns is not None:
        _check_chance(columns.of(logits).argmax(axis=1) == labels[picked], columns, store)
    if taught is None:
        return
    if columns is None:
        joined = float(right(logits, labels[picked], store.class_names).mean())
    else:
        answers = columns.class_of[logits.argmax(axis=1)]
        joined = float(np.mean(answers == labels[picked]))
    tolerance = 0.02 + 5 * math.sqrt(max(taught * (1 - taught), 0.01) / len(picked))
    better = columns is not None and columns.are_groups and joined > taught
    if abs(joined - taught) > tolerance and not better:
        warn(
            "teacher_accuracy_changed",
            f"The teacher is right on {joined:.1%} of {len(picked):,} joined images; in the "
            f"teacher pass it was right on {taught:.1%}. Were labels or class folders changed "
            f"since? Compare with `streamkd verify {store.path} --images …`.",
            stacklevel=3,
        )


def spread_out(indices: np.ndarray) -> np.ndarray:
    """Returns at most `ACCURACY_ROWS` of the indices, evenly over all: they stand by class."""
    positions = np.linspace(0, len(indices) - 1, min(ACCURACY_ROWS, len(indices)))
    return indices[positions.round().astype(np.int64)]


def _check_chance(correct: np.ndarray, columns: TeacherColumns, store: RowStore) -> None:
    """Warns if the teacher's columns of the student's classes choose hardly better than chance."""
    chance = 1 / len(columns.class_names)
    if is_at_chance(float(correct.mean()), chance, len(correct)):
        warn(
            "teacher_at_chance",
            f"Among the student's {len(columns.class_names):,} classes, the teacher of "
            f"{store.path} is right on {correct.mean():.1%} of {len(correct):,} images, and chance "
            f"is {chance:.1%}. Check which of its classes are which of the student's "
            "(`--classes`, `--teacher-class-map`).",
            stacklevel=4,
        )


def _check_equal_answers(rows: np.ndarray, store: RowStore, columns: TeacherColumns) -> None:
    """Warns of images for which all columns in use hold one number."""
    with_logits = rows[rows >= 0]
    if not len(with_logits):
        return
    picked = with_logits[spread_out(np.arange(len(with_logits)))]
    taken = columns.taken(store.gather(picked))
    equal = float(np.mean(taken.max(axis=1) == taken.min(axis=1)))
    if equal > FEW_EQUAL_ANSWERS:
        codec = store.header.codec
        why = "Does the teacher answer with the class alone, or with rounded probabilities?"
        if codec.startswith("packed"):
            why = f"The codec {codec} keeps the largest logits best; teach with `--codec float16`."
        warn(
            "equal_answers",
            f"For {equal:.1%} of {len(picked):,} joined images, {store.path} has one and the same "
            f"logit for all classes of the teacher that the student learns, and so says nothing "
            f"of them. {why}",
            stacklevel=4,
        )


def check_batch_size(batch_size: int, seed: int, num_images: int) -> None:
    check_count("batch_size", batch_size)
    if batch_size > num_images:
        raise OptionError(
            f"batch_size is {batch_size}, and there are {num_images} images.\n"
            f"Give a batch size of at most {num_images}: `--batch-size {num_images}`."
        )
    check_seed(seed)


def check_pairs(batch_size: int, rows: np.ndarray, store: RowStore) -> None:
    if not Views.from_dict(store.header.views).mixes:
        return
    if (rows < 0).any():
        raise OptionError(
            f"The views of {store.path} are mixed, and an image without logits has no partner.\n"
            "Leave such images out: `--missing drop`."
        )
    if batch_size % 2:
        raise OptionError(
            f"batch_size is {batch_size}, and the views of {store.path} are mixed in pairs, which "
            f"share a batch.\nGive an even batch size: `--batch-size {batch_size + 1}`."
        )


def check_views_per_decode(count: int, views: Views, batch_size: int, replayed: bool) -> None:
    """Refuses more views of a decoded image than the store has, or a number that fills no batch.

    Args:
      count: views of each decoded image in a batch.
      views: the views that are shown.
      batch_size: rows a batch.
      replayed: whether the store has the views; those drawn anew are as many as asked for.
    """
    check_count("views_per_decode", count)
    if count == 1:
        return
    if views.mixes:
        raise OptionError(
            f"views_per_decode is {count}, and these views are mixed: an image has another partner "
            "in each of its views.\nLeave `--views-per-decode` out."
        )
    if not views.count or (replayed and views.count < count):
        raise OptionError(
            f"views_per_decode is {count}, and there are {views.count} views besides the plain "
            f"image.\nGive at most {max(views.count, 1)}: `--views-per-decode "
            f"{max(views.count, 1)}`; or teach more: `streamkd teach … --views {count}`."
        )
    if batch_size % count:
        raise OptionError(
            f"batch_size is {batch_size}, which views_per_decode, {count}, does not divide.\n"
            f"Give another batch size: `--batch-size {-(-batch_size // count) * count}`."
        )


def check_balance(images: Manifest, labels: np.ndarray, views: Views, batch_size: int) -> None:
    """Refuses to balance classes if an image has no label, or the views decide on the order."""
    if images.multi_hot is not None:
        raise OptionError(
            "These images have several labels each, so that their classes cannot be balanced.\n"
            "Leave `--balance` out."
        )
    unlabelled = np.flatnonzero(labels == UNLABELLED)
    if len(unlabelled):
        raise OptionError(
            f"{len(unlabelled):,} of {len(labels):,} images have no label, so that their classes "
            f"cannot be balanced; the first is '{readable_key(images.keys[int(unlabelled[0])])}'.\n"
            "Leave `--balance` out, or give images in one folder a class."
        )
    if views.mixes:
        raise OptionError(
            "These views are mixed in pairs, which share a batch whatever their classes.\n"
            "Leave `--balance` out."
        )
    num_classes = len(np.unique(labels))
    num_draws = draws_of_epoch(len(labels), num_classes)
    if batch_size > num_draws:
        raise OptionError(
            f"batch_size is {batch_size}, and an epoch of {num_classes} balanced classes has "
            f"{num_draws} images.\nGive a batch size of at most {num_draws}: "
            f"`--batch-size {num_draws}`."
        )
