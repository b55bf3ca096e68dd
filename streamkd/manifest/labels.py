"""Labels that do not come from the names of folders alone: lists, columns, and maps of classes.

number_labels([0, 1, 0], None)           # int32 labels, and the class names ['0', '1']
number_labels(["cat", "dog"], None)      # ['cat', 'dog']
class_map = read_class_map("classes.json")     # {"n02085620": "dog", "n02123045": "cat"}
map_folders(["n02085620"], class_map, None)    # the number of each folder's class
"""

from __future__ import annotations

import itertools
import json
import numbers
import os
import re
from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from streamkd.errors import ClassNamesError, OptionError
from streamkd.manifest import listing
from streamkd.manifest.listing import UNLABELLED

# A number as Python writes it: '7' is one, '007' and '+7' are names.
_NUMBER = re.compile(r"0|-?[1-9][0-9]*", re.ASCII)


class LabelColumn:
    """Labels one after the other, numbers or names, four bytes each.

    Args:
      texts: labels come as text, and are numbers where all of them look like numbers.
    """

    def __init__(self, *, texts: bool = False) -> None:
        self._texts = texts
        self._codes = array("i")
        self._values: dict[Any, int] = {}

    def add(self, value: Any) -> None:
        """Adds the label of one image; None, -1 or an empty text where it has none."""
        if value == "":
            value = None
        if value is not None and not _is_label(value):
            raise ValueError(f"a label {value!r}, which is neither a number nor a name")
        if value is None or (not isinstance(value, str) and value == UNLABELLED):
            self._codes.append(UNLABELLED)
            return
        self._codes.append(self._values.setdefault(value, len(self._values)))

    def numbered(self, class_names: list[str] | None) -> tuple[np.ndarray, list[str] | None]:
        """Returns class numbers, int32 `[num_images]`, and the classes in order.

        Without `class_names` the classes are the sorted labels, as text, as in Keras; None where
        no image has a label. With them, a label is one of the names or a position among them.

        Raises:
          ValueError: some labels are numbers and some are names, or one is negative.
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
            raise ValueError(f"a label {negative[0]}; -1 stands for no label, others start at 0")
        labels = [value for value in values if value != UNLABELLED]
        if class_names is not None:
            number_of = _positions(labels, class_names)
            names: list[str] | None = list(class_names)
        else:
            ranked = sorted(labels)
            number_of = {value: rank for rank, value in enumerate(ranked)}
            names = [str(value) for value in ranked] or None
        # The last entry is what the code -1 picks.
        numbers_of_codes = [number_of.get(value, UNLABELLED) for value in values]
        table = np.array([*numbers_of_codes, UNLABELLED], np.int32)
        return table[np.frombuffer(self._codes, np.int32)], names


def number_labels(
    labels: Iterable[Any], class_names: list[str] | None = None
) -> tuple[np.ndarray, list[str] | None]:
    """Returns class numbers, int32, and class names for labels that are numbers or names.

    See `LabelColumn.numbered`.
    """
    column = LabelColumn()
    for label in labels:
        column.add(label)
    return column.numbered(class_names)


def read_labels(path: str | os.PathLike) -> list[Any]:
    """Returns the labels in a file: one a line, or a list in JSON.

    Raises:
      OptionError: it cannot be read, or holds something else.
    """
    text = _read_text(path, "labels")
    if text.lstrip().startswith("["):
        try:
            labels = json.loads(text)
        except json.JSONDecodeError as error:
            raise OptionError(
                f"The labels in {str(path)!r} are no list in JSON: {error}.\n"
                "Give a JSON list, or a text file with one label a line."
            ) from error
        return labels
    lines = [line.strip() for line in text.splitlines()]
    if all(_NUMBER.fullmatch(line) for line in lines if line):
        return [int(line) if line else None for line in lines]
    return lines


def read_class_map(path: str | os.PathLike) -> dict[str, str | None]:
    """Returns the class of each folder, from a JSON object in a file.

    Raises:
      OptionError: it cannot be read, or holds something else.
    """
    text = _read_text(path, "class map")
    try:
        class_map = json.loads(text, object_pairs_hook=_each_once)
    except ValueError as error:
        raise OptionError(
            f"The class map {str(path)!r} cannot be read: {error}.\n"
            'Give a JSON object such as {"n02085620": "dog", "n02123045": "cat"}.'
        ) from error
    return check_class_map(class_map)


def check_class_map(class_map: Any) -> dict[str, str | None]:
    """Returns the class map if it is one: folder to class name, or to None to leave it out."""
    if not isinstance(class_map, Mapping) or not class_map:
        raise OptionError(
            f"A class map is {type(class_map).__name__} or empty; it must say the class of each "
            'folder.\nWrite it as {"n02085620": "dog", "n02123045": "cat"}.'
        )
    for folder, name in class_map.items():
        if not isinstance(folder, str) or not (name is None or (isinstance(name, str) and name)):
            raise OptionError(
                f"The class map gives {folder!r} the class {name!r}, which is no name.\n"
                "Give a name, or null to leave the folder out."
            )
    return dict(class_map)


def map_folders(
    folders: list[str], class_map: Mapping[str, str | None], class_names: list[str] | None
) -> tuple[list[tuple[str, int]], list[str]]:
    """Returns the folders to list with the class number of each, and the classes in order.

    The order of the classes is that of `class_names`, else that in which the map first names them.
    A class whose folders are not there stays, without images.

    Raises:
      ClassNamesError: a folder that the map does not have, or a map that has none of them.
    """
    unknown = [folder for folder in folders if folder not in class_map]
    if unknown:
        raise ClassNamesError(
            "The class map does not fit the directory.\n"
            f"  class map: {listing.shown(list(class_map))}\n"
            f"  folders: {listing.shown(folders)}\n"
            f"  first of {len(unknown)} without a class: {unknown[0]!r}\n"
            'Add the folder to the map, with null to leave it out: {"' + unknown[0] + '": null}.'
        )
    classes = list(dict.fromkeys(name for name in class_map.values() if name is not None))
    if class_names is not None:
        listing.check_each_once(class_names)
        missing = [name for name in class_names if name not in set(classes)]
        if missing:
            raise ClassNamesError(
                "class_names does not fit the class map.\n"
                f"  class_names: {listing.shown(class_names)}\n"
                f"  class map: {listing.shown(classes)}\n"
                f"  first of {len(missing)} unknown to the map: {missing[0]!r}\n"
                "Name only classes of the map."
            )
        classes = list(class_names)
    number = {name: position for position, name in enumerate(classes)}
    taken = [
        (folder, number[str(class_map[folder])])
        for folder in folders
        if class_map[folder] in number
    ]
    return taken, classes


def _positions(values: list[Any], class_names: list[str]) -> dict[Any, int]:
    """Returns the class number of each label, among classes that were given."""
    listing.check_each_once(class_names)
    number_of: dict[Any, int] = {name: number for number, name in enumerate(class_names)}
    number_of |= {number: number for number in range(len(class_names))}
    unknown = [value for value in values if value not in number_of]
    if unknown:
        raise ClassNamesError(
            "class_names does not fit the labels.\n"
            f"  class_names: {listing.shown(class_names)}\n"
            f"  labels: {listing.shown([str(value) for value in values])}\n"
            f"  first of {len(unknown)} that is no class: {unknown[0]!r}\n"
            "Name every class, in the order of the numbers where labels are numbers."
        )
    return {value: number_of[value] for value in values}


def _is_label(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value)
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns a JSON object; one that names a folder twice would silently keep the last."""
    for (name, _), (after, _) in itertools.pairwise(sorted(pairs, key=lambda pair: pair[0])):
        if name == after:
            raise ValueError(f"it names {name!r} twice")
    return dict(pairs)


def _read_text(path: str | os.PathLike, what: str) -> str:
    try:
        # As file names come: bytes that are not UTF-8 survive.
        return Path(path).read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise OptionError(
            f"The {what} {str(path)!r} cannot be read: {error.strerror}.\n"
            "Give a file that is there."
        ) from error
