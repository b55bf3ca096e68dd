"""Labels that folders alone do not give: lists, columns of tables, and maps of folders to classes.

collected([0, 1, 0]).numbered(None)      # int32 labels, and the class names ['0', '1']
collected(["cat", "dog"]).numbered(None)             # ['cat', 'dog']
collected([["cat", "dog"], []]).fields(None)         # several labels an image: multi_hot
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

# Largest number of images times classes where images have lists of labels: a byte each.
MAX_CELLS = 1 << 30
# Text of a number as Python writes it: '7' is a number; '007' and '+7' are names.
_NUMBER = re.compile(r"0|-?[1-9][0-9]*", re.ASCII)
# What messages call a class map, and what it maps, by what its names are of.
_MAPS = {
    "folder": ("class map", "folder"),
    "teacher": ("teacher class map", "class of the teacher"),
}


class LabelColumn:
    """The labels of images, numbers or names, collected one by one at four bytes each.

    With `texts`, labels come as text, and are numbers if all of them look like numbers. Once an
    image has a list of labels, every image has one: a single label is a list of one.
    """

    def __init__(self, *, texts: bool = False) -> None:
        self._texts = texts
        self._codes = array("i")
        self._values: dict[Any, int] = {}
        # Ends of the images' lists among the codes; None as long as there are no lists.
        self._ends: array | None = None

    def add(self, value: Any) -> None:
        """Adds the label of one image; None, -1 or '' for an image without a label.

        A list has all labels of the image, and may be empty: the image then has none of them.
        """
        if isinstance(value, list | tuple):
            self._add_list(list(value))
        else:
            self._add_one(value)
        if self._ends is not None:
            self._ends.append(len(self._codes))

    def _add_list(self, values: list[Any]) -> None:
        if self._ends is None:
            self._ends = array("q", range(1, len(self._codes) + 1))
        for value in values:
            if not _is_label(value) or value == UNLABELLED:
                raise ValueError(f"the label {value!r} in a list, which is no number and no name")
        if len(set(values)) < len(values):
            raise ValueError(
                f"the list {values!r} with a label twice; it must name the labels of the image, "
                "each once"
            )
        texts = map(str, values) if self._texts else values
        self._codes.extend(self._values.setdefault(text, len(self._values)) for text in texts)

    def _add_one(self, value: Any) -> None:
        if value == "":
            value = None
        if value is not None and not _is_label(value):
            raise ValueError(f"the label {value!r}, which is neither a number nor a name")
        if value is None or (not isinstance(value, str) and value == UNLABELLED):
            self._codes.append(UNLABELLED)
            return
        self._codes.append(self._values.setdefault(value, len(self._values)))

    def fields(self, class_names: list[str] | None) -> dict[str, Any]:
        """Returns `labels`, `class_names` and `multi_hot` of the images, as a `Manifest` has them.

        Raises:
          ValueError, ClassNamesError: as `numbered`; or all lists are empty, and no class is known.
        """
        numbers, names = self.numbered(class_names)
        if self._ends is None:
            return {"labels": numbers, "class_names": names, "multi_hot": None}
        if names is None:
            raise ValueError("lists of labels that are all empty; name the classes: class_names")
        num_images = len(self._ends)
        if num_images * len(names) > MAX_CELLS:
            raise ValueError(
                f"lists of labels for {num_images:,} images and {len(names):,} classes; images "
                f"times classes must be at most {MAX_CELLS:,}"
            )
        ends = np.frombuffer(self._ends, np.int64)
        lengths = ends - np.concatenate([[0], ends[:-1]])
        images = np.repeat(np.arange(num_images), lengths)
        multi_hot = np.zeros((num_images, len(names)), np.int8)
        multi_hot[images[numbers >= 0], numbers[numbers >= 0]] = 1
        multi_hot[images[numbers < 0]] = UNLABELLED
        unlabelled = np.full(num_images, UNLABELLED, np.int32)
        return {"labels": unlabelled, "class_names": names, "multi_hot": multi_hot}

    def numbered(self, class_names: list[str] | None) -> tuple[np.ndarray, list[str] | None]:
        """Returns class numbers, int32 `[num_images]`, and the classes in order.

        Of lists of labels, the numbers of all labels, one list after the other.

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


def collected(labels: Iterable[Any]) -> LabelColumn:
    """Returns a column of labels, one for each image."""
    column = LabelColumn()
    for label in labels:
        column.add(label)
    return column


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
