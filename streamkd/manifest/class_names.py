"""Class names: two sides agree by name, whatever the order of their classes.

class_numbers(["dog", "cat"], ["cat", "dog", "emu"], "the store")      # [1, 0, -1]
renumber(images.labels, images.class_names, store.class_names, "the store")
"""

from __future__ import annotations

import numpy as np

from streamkd.errors import ClassNamesError, readable_names
from streamkd.manifest import look_alikes
from streamkd.manifest.listing import UNLABELLED
from streamkd.manifest.manifest import Manifest


def class_numbers(names: list[str], classes: list[str], owner: str, remedy: str = "") -> np.ndarray:
    """Returns an array `numbers` so that `numbers[labels]` are labels among `classes`.

    Args:
      names: the classes of the images, in the order of their labels.
      classes: the classes of the other side, which may have more than `names`.
      owner: the other side, for the message: 'the store', 'the teacher'.
      remedy: another sentence that says what to do, or ''.

    Returns:
      int32 `[len(names) + 1]`; the last entry is -1, which the label -1 picks.

    Raises:
      ClassNamesError: a name that is not among `classes`.
    """
    number_of = {name: number for number, name in enumerate(classes)}
    unknown = [name for name in names if name not in number_of]
    if unknown:
        raise ClassNamesError(
            f"The class names of the images and of {owner} disagree.\n"
            f"  images: {readable_names(names)}\n"
            f"  {owner}: {readable_names(classes)}\n"
            f"  first of {len(unknown)} unknown to {owner}: {look_alikes.shown(unknown[0])}\n"
            f"{look_alikes.difference(unknown[0], classes)}"
            f"Name the folders as {owner} names its classes, or move the unknown folder away."
            f"{remedy and ' '}{remedy}"
        )
    return np.array([*(number_of[name] for name in names), UNLABELLED], np.int32)


def renumber(
    labels: np.ndarray,
    names: list[str] | None,
    classes: list[str] | None,
    owner: str,
    remedy: str = "",
) -> np.ndarray:
    """Returns labels, int32 `[num_images]`, in the numbering of `classes`.

    All labels are -1 if the images, or the other side, have no classes. Arguments and errors are
    those of `class_numbers`.
    """
    if names is None or not classes:
        return np.full(len(labels), UNLABELLED, np.int32)
    return class_numbers(names, classes, owner, remedy)[labels]


def several_labels(
    images: Manifest, classes: list[str] | None, owner: str, num_outputs: int | None = None
) -> np.ndarray | None:
    """Returns the labels of images with several each, in the order of `classes`; else None.

    A single output with one class name says whether an image is of that class, so that its images
    have a list of at most one label too.

    Args:
      images: labelled or not.
      classes, owner: as in `class_numbers`; without classes there are no labels.
      num_outputs: logits of the other side; by default as many as classes.

    Returns:
      int8 `[num_images, len(classes)]`, as `Manifest.multi_hot`; a class that `images` do not know
      is one that no image has.
    """
    if images.class_names is None or not classes:
        return None
    if images.multi_hot is None:
        if num_outputs != 1 or len(classes) != 1:
            return None
        labels = renumber(images.labels, images.class_names, classes, owner)
        return np.where(labels >= 0, 1, UNLABELLED).astype(np.int8)[:, None]
    numbers = class_numbers(images.class_names, classes, owner)[:-1]
    ordered = np.zeros((len(images), len(classes)), np.int8)
    ordered[:, numbers] = images.multi_hot
    ordered[(images.multi_hot < 0).any(axis=1)] = UNLABELLED
    return ordered
