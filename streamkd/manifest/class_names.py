"""Class names: two sides agree by name, whatever the order of each."""

from __future__ import annotations

import numpy as np

from streamkd.errors import ClassNamesError
from streamkd.manifest.manifest import UNLABELLED


def class_numbers(names: list[str], classes: list[str], owner: str) -> np.ndarray:
    """Returns the number of each of `names` among `classes`, so that `map[labels]` renumbers.

    Args:
      names: the classes of the images, in the order of their labels.
      classes: the classes of the other side; more of them than `names` are fine.
      owner: whose `classes` these are, for the message: 'the store', 'the teacher'.

    Returns:
      int32 `[len(names) + 1]`; the last entry is -1, which is what the label -1 picks.

    Raises:
      ClassNamesError: a name that is not among `classes`.
    """
    number = {name: position for position, name in enumerate(classes)}
    unknown = [name for name in names if name not in number]
    if unknown:
        raise ClassNamesError(
            f"The class names of the images and of {owner} disagree.\n"
            f"  images: {shown(names)}\n"
            f"  {owner}: {shown(classes)}\n"
            f"  first of {len(unknown)} unknown to {owner}: {unknown[0]!r}\n"
            f"Name the folders as {owner} names its classes, or move the unknown folder away."
        )
    return np.array([*(number[name] for name in names), UNLABELLED], np.int32)


def renumber(
    labels: np.ndarray, names: list[str] | None, classes: list[str] | None, owner: str
) -> np.ndarray:
    """Returns labels, int32 `[num_images]`, in the numbering of `classes`.

    Images without classes, or another side without, leave every label at -1.
    """
    if names is None or not classes:
        return np.full(len(labels), UNLABELLED, np.int32)
    return class_numbers(names, classes, owner)[labels]


def shown(names: list[str], most: int = 10) -> str:
    """Returns the first names for a message."""
    more = f", … ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(names[:most]) + more
