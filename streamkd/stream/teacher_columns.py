"""The student's classes, where they are not the teacher's: some of them, or groups of them.

    columns = choose_columns(store, images, classes="images")                 # by name
    columns = choose_columns(store, images, class_map={"tabby": "cat", "beagle": "dog"})
    columns.of(store.gather(rows))           # float32 [rows, num_classes], a column for each class

A softmax over some of the logits is the teacher's answer given that the image is of one of these
classes. Several classes of the teacher that are one class of the student have, together, the sum of
their probabilities, so that the logit of the group is log Σ exp(logit), at temperature 1. Only then
the temperature divides it: the student learns from the softened answers of a teacher of its own
classes. If each logit was divided first, a group of a hundred classes would win at high
temperatures against a group of one, whatever the image.

The logits are those that the store gives. A codec with KEPT keeps the largest of a row. A class
that was not kept has its level, or with `packed:0+KEPT` one number in common with all the rest,
which gives the rest, together, its probability at temperature 2. So where none of the classes in
use was kept, `packed:0+KEPT` says nothing about them; `join` warns of such rows.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streamkd.errors import ClassNamesError, OptionError, readable_names
from streamkd.manifest import look_alikes
from streamkd.manifest.labels import check_class_map, read_class_map
from streamkd.manifest.listing import check_each_once
from streamkd.manifest.manifest import Manifest
from streamkd.store.row_store import RowStore

# The choice of the images' own classes.
OF_IMAGES = "images"
# What a message offers to images whose classes the teacher does not name.
TO_MAP = (
    "If several of the teacher's classes are one of yours, or have other names, say which: "
    "`--teacher-class-map FILE.json`."
)

Classes = Sequence[str] | str | None
ClassMap = Mapping[str, str | None] | str | os.PathLike | None


@dataclasses.dataclass(frozen=True, eq=False)
class TeacherColumns:
    """Which of the teacher's logits make the logits of a student.

    Attributes:
      class_names: the student's classes, in the order of its outputs.
      teacher_names: the teacher's classes that make each of them, in the teacher's order.
      class_of: int32 `[teacher's classes]`, the student's class of each; -1 for one left out.
      numbers: int64, the columns that are taken, those of one class of the student together.
      starts: int64 `[num_classes]`, where the columns of each class begin in `numbers`.
    """

    class_names: list[str]
    teacher_names: list[list[str]]
    class_of: np.ndarray
    numbers: np.ndarray
    starts: np.ndarray

    @classmethod
    def from_classes(
        cls, class_names: Sequence[str], teacher_classes: Sequence[str], class_of: np.ndarray
    ) -> TeacherColumns:
        """Returns the columns; the arguments are the attributes, and all of the teacher's names."""
        groups = [np.flatnonzero(class_of == number) for number in range(len(class_names))]
        sizes = [len(group) for group in groups]
        return cls(
            list(class_names),
            [[teacher_classes[number] for number in group.tolist()] for group in groups],
            class_of.astype(np.int32),
            np.concatenate(groups),
            np.cumsum([0, *sizes[:-1]]),
        )

    @property
    def are_groups(self) -> bool:
        """Whether a class of the student is made of several of the teacher's."""
        return len(self.numbers) > len(self.starts)

    def taken(self, logits: np.ndarray) -> np.ndarray:
        """Returns float32 `[rows, len(numbers)]`, the logits of the teacher's classes in use."""
        return np.take(logits, self.numbers, axis=1)

    def of(self, logits: np.ndarray) -> np.ndarray:
        """Returns the logits of the student's classes, float32 `[rows, num_classes]`.

        Args:
          logits: float32 `[rows, teacher's classes]`, as a store gives them.
        """
        taken = self.taken(logits)
        if not self.are_groups:
            return taken
        highest = np.maximum.reduceat(taken, self.starts, axis=1)
        sizes = np.diff(self.starts, append=len(self.numbers))
        taken -= np.repeat(highest, sizes, axis=1)
        # A group may have a thousand classes: their sum keeps the digits of float32 in float64.
        sums = np.add.reduceat(np.exp(taken), self.starts, axis=1, dtype=np.float64)
        return highest + np.log(sums).astype(np.float32)

    def described(self) -> list[list[Any]]:
        """Returns the student's classes in order, each with its teacher's classes, for JSON."""
        return [list(pair) for pair in zip(self.class_names, self.teacher_names, strict=True)]


def choose_columns(
    store: RowStore | None,
    images: Manifest,
    *,
    classes: Classes = None,
    class_map: ClassMap = None,
) -> TeacherColumns | None:
    """Returns the teacher's columns for the student's classes; None for all columns as they are.

    Args:
      store: the teacher's logits; None in a stream of labels alone, which has no columns.
      images: their classes are the student's if `classes` says so, or if only a map is given and
        they have classes; without classes, they are those of the map in its own order.
      classes: the student's classes in the order of its outputs, 'images', or None.
      class_map: the student's class of each of the teacher's classes, as a mapping or as the path
        of a JSON object; None, or null, and classes that are not named are left out.

    Raises:
      OptionError: no store or no class names to choose from, or no such map.
      ClassNamesError: a class that one of the sides does not know, or is left without columns.
    """
    if classes is None and class_map is None:
        return None
    if store is None:
        raise OptionError(
            "Without a store there are no columns of a teacher to choose from.\n"
            "Leave `--classes` and `--teacher-class-map` out, or give `--store`."
        )
    teacher_classes = _teacher_classes(store)
    own_class: dict[str, str | None]
    if class_map is None:
        names = _names(classes, images)
        own_class = {name: name for name in names}
        _check_names(names, teacher_classes)
    else:
        if isinstance(class_map, str | os.PathLike):
            class_map = read_class_map(class_map, of="teacher")
        own_class = check_class_map(class_map, of="teacher")
        if classes is not None or images.class_names is not None:
            names = _names(OF_IMAGES if classes is None else classes, images)
        else:
            names = _mapped(own_class)
        _check_map(own_class, names, teacher_classes)
    _check_at_least_two(names)
    _check_once([name for name in teacher_classes if own_class.get(name) is not None], store)
    number_of: dict[str | None, int] = {name: number for number, name in enumerate(names)}
    class_of = np.array([number_of.get(own_class.get(name), -1) for name in teacher_classes])
    if names == teacher_classes and np.array_equal(class_of, np.arange(len(names))):
        return None
    columns = TeacherColumns.from_classes(names, teacher_classes, class_of)
    _check_sums(columns, store)
    return columns


def classes_to_choose(images: Manifest, store: RowStore | None, outputs: tuple[int, ...]) -> str:
    """Returns the line that offers the images' classes to a student with as many outputs, or ''.

    `outputs` is the shape of its answer to one image.
    """
    names = images.class_names
    if store is None or names is None or len(names) < 2 or outputs != (len(names),):
        return ""
    if not set(names) <= set(store.class_names):
        return f"\n{TO_MAP}"
    return (
        f"\nIf its outputs are the classes of the images, {readable_names(names)}, take the "
        "teacher's columns of these classes: `--classes images`."
    )


def _teacher_classes(store: RowStore) -> list[str]:
    names = store.class_names
    if not names:
        raise OptionError(
            f"The store {store.path} was taught without class names, so its {store.num_classes:,} "
            "columns cannot be chosen by name.\nTeach a store with the teacher's classes in the "
            "order of its outputs: `streamkd teach … --class-names FILE`."
        )
    if len(names) != store.num_classes:
        raise OptionError(
            f"The store {store.path} has {store.num_classes:,} columns and {len(names):,} class "
            "names, so its columns cannot be chosen by name.\nLet the student learn all of them."
        )
    return names


def _names(classes: Classes, images: Manifest) -> list[str]:
    """Returns the student's classes, checked."""
    if isinstance(classes, str):
        if classes != OF_IMAGES:
            raise OptionError(
                f"classes is {classes!r}; give 'images', or a list of the student's classes."
            )
        if images.class_names is None:
            raise OptionError(
                f"The student's classes are to be those of the images, and the images {images!r} "
                "have no labels.\nGive a text file, one class a line: `--classes FILE`."
            )
        return images.class_names
    given = list(classes) if isinstance(classes, Sequence | np.ndarray) else []
    names = [str(name) for name in given if isinstance(name, str) and name]
    if not names or len(names) < len(given):
        raise OptionError(
            f"classes is {classes!r}; give 'images', or a list of the student's classes."
        )
    check_each_once(names)
    return names


def _check_at_least_two(names: list[str]) -> None:
    if not names:
        raise OptionError(
            "The teacher class map leaves out all of the teacher's classes.\nGive the student's "
            "class of those that it is to learn."
        )
    if len(names) < 2:
        raise OptionError(
            f"The student would have one class, {readable_names(names)}, and a softmax over one "
            "class is always 1.\nChoose at least two classes."
        )


def _mapped(own_class: dict[str, str | None]) -> list[str]:
    """Returns the student's classes that a map names, in the order in which it names them."""
    return list(dict.fromkeys(own for own in own_class.values() if own is not None))


def _check_names(names: list[str], teacher_classes: list[str]) -> None:
    """Refuses a class of the student that the teacher does not know."""
    known = set(teacher_classes)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise _disagreement(
            "The student's classes and those of the store disagree.",
            ("student", names),
            ("store", teacher_classes),
            (unknown, "unknown to the store"),
            f"Name the student's classes as the teacher's. {TO_MAP}",
        )


def _check_once(used: list[str], store: RowStore) -> None:
    """Refuses a name that two of the teacher's classes have in common."""
    twice = next((name for name, other in itertools.pairwise(sorted(used)) if name == other), None)
    if twice is not None:
        raise ClassNamesError(
            f"The store {store.path} has two classes of the name {twice!r}, and the student is to "
            "learn one of them.\nTeach a store in which every class has a name of its own: "
            "`streamkd teach … --class-names FILE`."
        )


def _check_map(
    own_class: dict[str, str | None], names: list[str], teacher_classes: list[str]
) -> None:
    """Refuses a map that names a class that one side does not know, or forgets one of ours."""
    known = set(teacher_classes)
    unknown = [name for name in own_class if name not in known]
    if unknown:
        raise _disagreement(
            "The teacher class map and the store disagree.",
            ("class map", list(own_class)),
            ("store", teacher_classes),
            (unknown, "unknown to the store"),
            "Map the names that the store has; `streamkd inspect` shows them.",
        )
    mapped = _mapped(own_class)
    known = set(names)
    foreign = [name for name in mapped if name not in known]
    if foreign:
        raise _disagreement(
            "The teacher class map and the student's classes disagree.",
            ("class map", mapped),
            ("student", names),
            (foreign, "that the student does not have"),
            "Give null to leave a class of the teacher out, or name all classes of the student: "
            "`--classes FILE`.",
        )
    made = set(mapped)
    forgotten = [name for name in names if name not in made]
    if forgotten:
        raise _disagreement(
            "The teacher class map and the student's classes disagree.",
            ("class map", mapped),
            ("student", names),
            (forgotten, "without a class of the teacher"),
            "Map at least one of the teacher's classes to each class of the student.",
        )


def _disagreement(
    title: str,
    side: tuple[str, list[str]],
    other: tuple[str, list[str]],
    unknown: tuple[list[str], str],
    remedy: str,
) -> ClassNamesError:
    """Returns the refusal of class names that only one side has."""
    (first, *_), words = unknown
    return ClassNamesError(
        f"{title}\n"
        f"  {side[0]}: {readable_names(side[1])}\n"
        f"  {other[0]}: {readable_names(other[1])}\n"
        f"  first of {len(unknown[0])} {words}: {look_alikes.shown(first)}\n"
        f"{look_alikes.difference(first, other[1])}{remedy}"
    )


def _check_sums(columns: TeacherColumns, store: RowStore) -> None:
    """Refuses groups of answers that are no probabilities of classes that exclude each other."""
    teacher = store.header.teacher
    is_sigmoid = teacher.get("removed") == "sigmoid"
    if columns.are_groups and (is_sigmoid or str(teacher.get("output")).startswith("sigmoid")):
        raise OptionError(
            f"The teacher of {store.path} ends in sigmoid: its classes do not exclude each other, "
            "so their probabilities cannot be added.\nMap one class of the teacher to each class "
            "of the student."
        )
