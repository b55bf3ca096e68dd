"""Refuses answers of a teacher that are no row of classes, or not in the order of the classes.

check_rows(answers, num_images, "mystery")       # [num_images, num_classes]
kind = judged_kind(answers, "mystery")           # 'probabilities'; see `output_kind`
"""

from __future__ import annotations

import numpy as np

from streamkd.errors import TeacherError
from streamkd.models.output_kind import SUM_TOLERANCE, output_kind, refuse_scaled

# Rows and classes that are needed to see that a teacher sorts its answers: one that prefers the
# classes in one order for all of so many images has another order in 119 of 120 cases.
_FEWEST_SORTED_ROWS, _FEWEST_SORTED_CLASSES = 8, 5
# Sums of probabilities that people write as whole numbers: per cent, and bytes.
_WHOLES = (100, 255, 256)


def check_rows(answers: np.ndarray, num_images: int, name: str) -> None:
    """Refuses answers that are not `[num_images, num_classes]`.

    Raises:
      TeacherError: the message says how to get there, where the shape tells it.
    """
    if answers.ndim == 2 and len(answers) == num_images and answers.shape[1]:
        return
    raise TeacherError(
        f"The teacher {name!r} answered {num_images} images with an array of shape "
        f"{list(answers.shape)}.\nIt must answer with [batch, num_classes]: one row for each "
        "image, of one number for each class, or of one number for two classes."
        f"{_hint(answers, num_images)}"
    )


def _hint(answers: np.ndarray, num_images: int) -> str:
    """Returns what to type for answers of another shape; empty where nothing tells it."""
    sizes = answers.shape
    if sizes == (num_images,):
        return (
            "\nIf the number is that of a class, add `--teacher-output class`; if it is the "
            "probability of the second of two classes, `--teacher-output sigmoid`."
        )
    if len(sizes) > 2 and sizes[0] == num_images and sum(size > 1 for size in sizes[1:]) == 1:
        return (
            "\nFlatten it: end the model with `keras.layers.Flatten()`, or return "
            "`answers.reshape(len(answers), -1)`."
        )
    if len(sizes) > 1 and sizes[0] == 1 and num_images > 1:
        return "\nIf it takes only one image at a time, add `--batch-size 1`."
    return ""


def judged_kind(answers: np.ndarray, name: str, *, is_model: bool = False) -> str:
    """Returns the kind of a teacher's first answers, as `output_kind` does.

    Args:
      answers: `[batch, num_classes]`.
      name: of the teacher, for messages.
      is_model: whether layers made the numbers. Others may make logits whose rows have one sum,
        such as labels times a number, so that only the usual sums are asked about.

    Raises:
      TeacherError: nothing tells their kind; or they look like probabilities times a number, or
        sorted by size.
    """
    kind = output_kind(answers)
    if kind == "logits" and (is_model or _are_parts_of_a_whole(answers)):
        refuse_scaled(answers, name)
    _refuse_sorted(answers, name)
    return kind


def _are_parts_of_a_whole(answers: np.ndarray) -> bool:
    """Returns whether all rows sum to 100, or to 255, and not all of them name one class alone."""
    sums = answers.sum(axis=1, dtype=np.float64)
    wholes = (np.allclose(sums, whole, rtol=SUM_TOLERANCE) for whole in _WHOLES)
    return any(wholes) and bool((np.count_nonzero(answers, axis=1) > 1).any())


def _refuse_sorted(answers: np.ndarray, name: str) -> None:
    """Refuses rows that all begin with their largest number and end with their smallest."""
    num_rows, num_classes = answers.shape
    if num_rows < _FEWEST_SORTED_ROWS or num_classes < _FEWEST_SORTED_CLASSES:
        return
    if (answers == answers[0]).all() or (np.diff(answers, axis=1) > 0).any():
        return
    raise TeacherError(
        f"The answers of the teacher {name!r} are sorted: each row begins with its largest number "
        "and ends with its smallest, so the columns are no classes.\nGive a teacher that answers "
        "in one order of the classes. If this one does, name the kind of its answers, such as "
        "`--teacher-output probabilities`."
    )
