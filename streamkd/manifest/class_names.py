"""Class names: two sides agree by name, whatever the order of their classes.

class_numbers(["dog", "cat"], ["cat", "dog", "emu"], "the store")      # [1, 0, -1]
renumber(images.labels, images.class_names, store.class_names, "the store")
"""

from __future__ import annotations

import numpy as np

from streamkd.errors import ClassNamesError, readable_names
from streamkd.manifest import look_alikes
from streamkd.manifest.listing import UNLABELLED


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
