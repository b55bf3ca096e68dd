"""The weights of classes: given by name or number, or balanced.

weights = class_weights({"cat": 3.0}, class_names=["ant", "cat"], labels=labels, num_classes=2)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from streamkd.errors import OptionError
from streamkd.stream.stream import Stream


def class_weights(
    given: Mapping[Any, float] | str | None,
    *,
    class_names: list[str] | None,
    labels: np.ndarray,
    num_classes: int,
    several: bool = False,
) -> np.ndarray | None:
    """Returns the weight of each class, float32 `[num_classes]`; None without weights.

    Args:
      given: weights by class name or number, as `class_weight` of Keras' `fit`; other classes
        have weight 1. 'balanced' gives num_images / (num_classes_with_images ·
        num_images_of_the_class), so that every class counts alike (King and Zeng 2001, as
        scikit-learn's `class_weight="balanced"`).
      class_names: in the order of the logits.
      labels: int32 `[num_images]`; -1 is no label.
      num_classes: number of classes.
      several: whether an image has several labels, which is refused: its class is not known.

    Raises:
      OptionError: an unknown class, a class with two weights, or a weight that is not a number
        from 0 on.
    """
    if given is None:
        return None
    if several:
        raise OptionError(
            "class_weight weighs an image by its one class, and these images have several labels.\n"
            "Leave `--class-weight` out; a column `weight` in the table weighs single images."
        )
    if isinstance(given, str) and given == "balanced":
        return _balanced(labels, num_classes)
    if not isinstance(given, Mapping):
        raise OptionError(
            f"class_weight is {given!r}; give 'balanced', or a weight for each class: "
            "{'cat': 3.0} or {1: 3.0}."
        )
    weights = np.ones(num_classes, np.float32)
    named: dict[int, Any] = {}
    for name, weight in given.items():
        number = _number_of(name, class_names, num_classes)
        if number in named:
            raise OptionError(
                f"class_weight has two weights for one class, as {named[number]!r} and as "
                f"{name!r}.\nGive one of the two."
            )
        named[number] = name
        if isinstance(weight, bool) or not isinstance(weight, int | float | np.number):
            raise OptionError(f"The weight of the class {name!r} is {weight!r}; give a number.")
        if not 0 <= weight < math.inf:
            raise OptionError(
                f"The weight of the class {name!r} is {weight!r}; it must be zero or positive."
            )
        weights[number] = weight
    return weights


def _balanced(labels: np.ndarray, num_classes: int) -> np.ndarray:
    counts = np.bincount(labels[labels >= 0], minlength=num_classes)
    present = counts > 0
    balanced = counts.sum() / (max(1, present.sum()) * np.maximum(counts, 1))
    return np.where(present, balanced, 1).astype(np.float32)


def _number_of(name: Any, class_names: list[str] | None, num_classes: int) -> int:
    names = class_names or []
    if isinstance(name, str) and name in names:
        return names.index(name)
    is_number = isinstance(name, int | np.integer) and not isinstance(name, bool)
    if is_number and 0 <= name < num_classes:
        return int(name)
    shown = ", ".join(map(repr, names[:5])) or f"0 to {num_classes - 1}"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    raise OptionError(
        f"class_weight has an unknown class {name!r}.\n  classes: {shown}{more}\n"
        "Give names or numbers of these classes."
    )


def weights_in_stream(
    class_weight: Mapping[Any, float] | str | None, stream: Stream
) -> np.ndarray | None:
    """Returns the weights of the classes of a stream, as `class_weights` does."""
    return class_weights(
        class_weight,
        class_names=stream.class_names,
        labels=stream.labels,
        num_classes=max(stream.num_classes, len(stream.class_names or [])),
        several=stream.multi_hot is not None,
    )
