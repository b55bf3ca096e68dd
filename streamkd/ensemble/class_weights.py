"""Weights of the teachers of a combination, checked: each teacher's for each class.

    class_weights(members, classes)     # [float64 [num_classes], float64 [num_classes]]

A weight of a teacher counts for all of its answers. Weights of classes count for one class each,
and sum to 1 over the teachers that know the class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streamkd.ensemble.member import Member, as_float
from streamkd.ensemble.union_of_classes import UnionOfClasses
from streamkd.errors import OptionError, readable_names
from streamkd.manifest import look_alikes

# Largest distance of a sum of weights from 1.
TOLERANCE = 1e-6
# Decimals of the weights that a message offers.
_DECIMALS = 6


def class_weights(members: Sequence[Member], classes: UnionOfClasses) -> list[np.ndarray]:
    """Returns the weight of each teacher for each class, a float64 `[num_classes]` a teacher.

    A weight of a teacher as a whole stands at all classes; a weight by class is 0 at the classes
    that the teacher does not know.

    Args:
      members: with weights, of all or of none.
      classes: of the combination.

    Raises:
      OptionError: weights that are missing, negative, not finite, of no class, or that do not sum
        to 1; shows the sum, and weights that do.
    """
    given = [member for member in members if member.weight is not None]
    if not given:
        return [np.full(classes.num_classes, 1 / len(members)) for _ in members]
    without = next((member for member in members if member.weight is None), None)
    if without is not None:
        raise OptionError(
            f"{given[0].opened.path} has a weight, and {without.opened.path} has none.\n"
            "Give a weight for each store, or for none of them."
        )
    if any(isinstance(member.weight, Mapping) for member in members):
        return _by_class(members, classes)
    weights = [_checked(member.weight, member, "") for member in members]
    _check_sum(weights, members, "")
    return [np.full(classes.num_classes, weight / math.fsum(weights)) for weight in weights]


def _by_class(members: Sequence[Member], classes: UnionOfClasses) -> list[np.ndarray]:
    """Returns the weights where at least one teacher has a weight for each class."""
    if not classes.names:
        raise OptionError(
            "Weights by class name classes, and these stores have no class names.\n"
            "Give one weight a store, or teach with `--class-names FILE`."
        )
    if len(classes.names) != classes.num_classes:
        raise OptionError(
            f"The teachers have a single output for {readable_names(classes.names)}, so that "
            "nothing is weighed class by class.\nGive one weight a store, such as 0.7 and 0.3."
        )
    rows = []
    for member, columns in zip(members, classes.columns, strict=True):
        row = np.zeros(classes.num_classes)
        known = columns[columns >= 0].tolist()
        if isinstance(member.weight, Mapping):
            row[known] = _weights_of_classes(member, [classes.names[n] for n in known])
        else:
            row[known] = _checked(member.weight, member, "")
        rows.append(row)
    for number, name in enumerate(classes.names):
        knowing = [
            (member, float(row[number]))
            for member, row, columns in zip(members, rows, classes.columns, strict=True)
            if number in columns
        ]
        where = f" for the class {look_alikes.shown(name)}"
        _check_sum([weight for _, weight in knowing], [member for member, _ in knowing], where)
    return rows


def _weights_of_classes(member: Member, names: list[str]) -> list[float]:
    """Returns the weights of one teacher for the classes `names`, which are all that it knows."""
    weight = member.weight
    assert isinstance(weight, Mapping)
    path = member.opened.path
    known = set(names)
    for name in weight:
        if not isinstance(name, str):
            raise OptionError(
                f"The weights of {path} name a class by {name!r}, of the type "
                f"{type(name).__name__}; the name of a class is text.\n"
                f"  store: {readable_names(names)}\nWrite it in quotes, as the store has it."
            )
    foreign = [name for name in weight if name not in known]
    if foreign:
        raise OptionError(
            f"The weights of {path} name a class that its teacher does not know.\n"
            f"  weights: {readable_names(list(weight))}\n"
            f"  store:   {readable_names(names)}\n"
            f"  first unknown: {look_alikes.shown(foreign[0])}\n"
            f"{look_alikes.difference(foreign[0], names)}Leave it out, or spell it as the store."
        )
    without = [name for name in names if name not in weight]
    if without:
        raise OptionError(
            f"The weights of {path} leave out {len(without)} of its {len(names)} classes; the "
            f"first is {look_alikes.shown(without[0])}.\nGive a weight for each class that the "
            "teacher knows, 0 for one on which it is not to be heard."
        )
    return [_checked(weight[name], member, f" for {look_alikes.shown(name)}") for name in names]


def _checked(weight: Any, member: Member, where: str) -> float:
    """Returns a weight; refuses what is no number, negative or not finite."""
    number = as_float(weight)
    if not 0 <= number < math.inf:
        raise OptionError(
            f"The weight of {member.opened.path}{where} is {weight!r:.80}; a weight is a number "
            "from 0 to 1.\nGive weights that sum to 1, such as 0.7 and 0.3."
        )
    return number


def _check_sum(weights: list[float], members: Sequence[Member], where: str) -> None:
    total = math.fsum(weights)
    if abs(total - 1) <= TOLERANCE:
        return
    if total == 0:
        raise OptionError(
            f"The weights{where} are all 0, so that no teacher is heard.\n"
            "Give weights that sum to 1, such as 0.7 and 0.3."
        )
    given = " + ".join(f"{weight:.10g}" for weight in weights)
    pairs = [
        (member.opened.path, f"{weight:.10g}")
        for member, weight in zip(members, normalised(weights), strict=True)
    ]
    if where:
        listed = ", ".join(f"{weight} in {path}" for path, weight in pairs)
        remedy = f"Give it weights that do, over the teachers that know it: {listed}."
    else:
        typed = " ".join(f"--store {path}={weight}" for path, weight in pairs)
        remedy = f"Give weights that do: `{typed}`."
    raise OptionError(
        f"The weights of the teachers{where} do not sum to 1.\n"
        f"  sum: {given} = {total:.10g}\n{remedy}"
    )


def normalised(weights: Sequence[float]) -> list[float]:
    """Returns weights in proportion, rounded so that they sum to 1 as they are typed."""
    total = math.fsum(weights)
    rounded = [round(weight / total, _DECIMALS) for weight in weights]
    largest = rounded.index(max(rounded))
    rest = math.fsum(weight for n, weight in enumerate(rounded) if n != largest)
    rounded[largest] = round(1 - rest, _DECIMALS)
    return rounded
