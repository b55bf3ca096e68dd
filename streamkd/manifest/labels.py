"""Labels that folders alone do not give: lists, columns of tables, and maps of folders to classes.

number_labels([0, 1, 0], None)           # int32 labels, and the class names ['0', '1']
number_labels(["cat", "dog"], None)      # ['cat', 'dog']
class_map = read_class_map("classes.json")     # {"n02085620": "dog", "n02123045": "cat"}
map_folders(["n02085620"], class_map, None)    # the number of each folder's class
"""

from __future__ import annotations

import numbers
import os
import re
from array import array
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from streamkd import json_text, small_files
from streamkd.errors import ClassNamesError, OptionError, readable_names
from streamkd.file_kinds import kind_of_path
from streamkd.manifest import listing, look_alikes
from streamkd.manifest.listing import UNLABELLED

# Text of a number as Python writes it: '7' is a number; '007' and '+7' are names.
_NUMBER = re.compile(r"0|-?[1-9][0-9]*", re.ASCII)
# What messages call a class map, and what it maps, by what its names are of.
_MAPS = {
    "folder": ("class map", "folder"),
    "teacher": ("teacher class map", "class of the teacher"),
}


class LabelColumn:
    """The labels of images, numbers or names, collected one by one at four bytes each.

    With `texts`, labels come as text, and are numbers if all of them look like numbers.
    """

    def __init__(self, *, texts: bool = False) -> None:
        self._texts = texts
        self._codes = array("i")
        self._values: dict[Any, int] = {}

    def add(self, value: Any) -> None:
        """Adds the label of one image; None, -1 or '' for an image without a label."""
        if value == "":
            value = None
        if value is not None and not _is_label(value):
            raise ValueError(f"the label {value!r}, which is neither a number nor a name")
        if value is None or (not isinstance(value, str) and value == UNLABELLED):
            self._codes.append(UNLABELLED)
            return
        self._codes.append(self._values.setdefault(value, len(self._values)))

    def numbered(self, class_names: list[str] | None) -> tuple[np.ndarray, list[str] | None]:
        """Returns class numbers, int32 `[num_images]`, and the classes in order.

        Without `class_names` the classes are the sorted labels, as text, as in Keras; None if no
        image has a label. With `class_names`, each label is one of the names or the number of one.

        Raises:
          ValueError: the labels mix numbers and names, or a label is negative.
          ClassNamesError: a label that `class_names` does not have.
        """
        values = list(self._values)
        if self._texts and all(map(_NUMBER.fullmatch, values)):
            values = [int(value) for value in values]
        if len({isinstance(value, str) for value in values}) > 1:
            number = next(value for value in values if not isinstance(value, str))
            name = next(value for value in values if isinstance(value, str))
            raise ValueError(f"numbers and names are mixed: {number!r} and {name!r}")
        negative = [value for value in values if not isinstance(value, str) and value < -1]
        if negative:
            raise ValueError(f"the label {negative[0]}; labels start at 0, and -1 is no label")
        labels = [value for value in values if value != UNLABELLED]
        if class_names is not None:
            number_of = _class_numbers(labels, class_names)
            names: list[str] | None = list(class_names)
        else:
            ranked = sorted(labels)
            number_of = {value: rank for rank, value in enumerate(ranked)}
            names = [str(value) for value in ranked] or None
        # The code -1 picks the last entry.
        numbers_of_codes = [number_of.get(value, UNLABELLED) for value in values]
        table = np.array([*numbers_of_codes, UNLABELLED], np.int32)
        return table[np.frombuffer(self._codes, np.int32)], names


def number_labels(
    labels: Iterable[Any], class_names: list[str] | None = None
) -> tuple[np.ndarray, list[str] | None]:
    """Returns class numbers, int32, and class names, as `LabelColumn.numbered` does."""
    column = LabelColumn()
    for label in labels:
        column.add(label)
    return column.numbered(class_names)


def read_labels(path: str | os.PathLike) -> list[Any]:
    """Returns the labels in a file: one a line, or a list in JSON.

    Raises:
      OptionError: the file cannot be read, or begins like JSON and is no list.
    """
    text = _read_text(path, "labels")
    if text.lstrip().startswith("["):
        try:
            labels = json_text.load(text)
        except ValueError as error:
            raise OptionError(
                f"The labels in {str(path)!r} are no JSON list: {error}.\n"
                "Give a JSON list, or a text file with one label a line."
            ) from error
        return labels
    lines = [line.strip() for line in text.splitlines()]
    if all(_NUMBER.fullmatch(line) for line in lines if line):
        return [int(line) if line else None for line in lines]
    return lines


def read_class_map(path: str | os.PathLike, *, of: str = "folder") -> dict[str, str | None]:
    """Returns the class of each folder, or of each of a teacher's classes, from a JSON file.

    Args:
      path: of the file.
      of: 'folder' or 'teacher', for the messages.

    Raises:
      OptionError: the file cannot be read, or holds no class map.
    """
    text = _read_text(path, _MAPS[of][0])
    try:
        class_map = json_text.load(text)
    except ValueError as error:
        raise OptionError(
            f"The {_MAPS[of][0]} {str(path)!r} cannot be read: {error}.\n"
            'Give a JSON object such as {"n02085620": "dog", "n02123045": "cat"}.'
        ) from error
    return check_class_map(class_map, of=of)


def check_class_map(class_map: Any, *, of: str = "folder") -> dict[str, str | None]:
    """Returns a class map as a dict: from each folder to the name of its class, or to None.

    Args:
      class_map: a mapping, or anything else that was given as one.
      of: 'folder', or 'teacher' where the map is from the teacher's classes.

    Raises:
      OptionError: `class_map` is no such mapping, or empty.
    """
    title, noun = _MAPS[of]
    if not isinstance(class_map, Mapping) or not class_map:
        raise OptionError(
            f"The {title} is {type(class_map).__name__} or empty; it must name the class of each "
            f'{noun}.\nWrite it as {{"n02085620": "dog", "n02123045": "cat"}}.'
        )
    for folder, name in class_map.items():
        if not isinstance(folder, str) or not (name is None or (isinstance(name, str) and name)):
            raise OptionError(
                f"The {title} gives {folder!r} the class {name!r}, which is no name.\n"
                f"Give a name, or null to leave the {noun} out."
            )
    return dict(class_map)


def map_folders(
    folders: list[str], class_map: Mapping[str, str | None], class_names: list[str] | None
) -> tuple[list[tuple[str, int]], list[str]]:
    """Returns the folders to list, each with its class number, and the classes in order.

    The classes stand in the order of `class_names`, else in the order in which the map first names
    them. A class without a folder stays, without images.

    Raises:
      ClassNamesError: the map does not have one of the folders, or one of `class_names`.
    """
    unknown = [folder for folder in folders if folder not in class_map]
    if unknown:
        raise ClassNamesError(
            "The class map does not fit the directory.\n"
            f"  class map: {readable_names(list(class_map))}\n"
            f"  folders: {readable_names(folders)}\n"
            f"  first of {len(unknown)} without a class: {look_alikes.shown(unknown[0])}\n"
            f"{look_alikes.difference(unknown[0], class_map)}"
            f'Add the folder to the map, with null to leave it out: {{"{unknown[0]}": null}}.'
        )
    classes = list(dict.fromkeys(name for name in class_map.values() if name is not None))
    if class_names is not None:
        listing.check_each_once(class_names)
        missing = [name for name in class_names if name not in set(classes)]
        if missing:
            raise ClassNamesError(
                "class_names does not fit the class map.\n"
                f"  class_names: {readable_names(class_names)}\n"
                f"  class map: {readable_names(classes)}\n"
                f"  first of {len(missing)} unknown to the map: {look_alikes.shown(missing[0])}\n"
                f"{look_alikes.difference(missing[0], classes)}"
                "Name only classes of the map."
            )
        classes = list(class_names)
    number_of = {name: number for number, name in enumerate(classes)}
    chosen = [
        (folder, number_of[str(class_map[folder])])
        for folder in folders
        if class_map[folder] in number_of
    ]
    return chosen, classes


def _class_numbers(labels: list[Any], class_names: list[str]) -> dict[Any, int]:
    """Returns the number of each label among `class_names`."""
    listing.check_each_once(class_names)
    number_of: dict[Any, int] = {name: number for number, name in enumerate(class_names)}
    number_of |= {number: number for number in range(len(class_names))}
    unknown = [label for label in labels if label not in number_of]
    if unknown:
        first = unknown[0]
        text = look_alikes.shown(first) if isinstance(first, str) else str(first)
        raise ClassNamesError(
            "class_names does not fit the labels.\n"
            f"  class_names: {readable_names(class_names)}\n"
            f"  labels: {readable_names([str(label) for label in labels])}\n"
            f"  first of {len(unknown)} that is no class: {text}\n"
            f"{look_alikes.difference(str(first), class_names)}"
            "Name every class; numbers count the names from 0."
        )
    return {label: number_of[label] for label in labels}


def _is_label(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value)
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _read_text(path: str | os.PathLike, subject: str) -> str:
    """Returns the text of a file; `subject` says in the refusal what the file holds."""
    try:
        return small_files.text_of(small_files.read_input(path))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        kind = kind_of_path(path)
        use = "Give a file that can be read." if kind is None else f"It is {kind.words}. {kind.use}"
        raise OptionError(
            f"The {subject} {str(path)!r} cannot be read: {reason}.\n{use}"
        ) from error
