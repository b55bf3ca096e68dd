"""Which columns of a table of logits are classes, and which classes.

    table, class_names = class_columns(read_logits("predictions.csv"), None, ["cat", "dog"])

A column is taken by its name, also where all names carry the same words around the class, such as
`prob_cat`, `prob_dog`. Columns that are only numbered are taken in the order of the classes.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from streamkd.errors import ClassNamesError, readable_names
from streamkd.teachers.logits_files import LogitsTable


def class_columns(
    table: LogitsTable, given: list[str] | None, own: list[str] | None
) -> tuple[LogitsTable, list[str] | None]:
    """Returns the table of the classes alone, and the classes in the order of its columns.

    The classes are None where they are those of the images, in their order.

    Args:
      table: the logits.
      given: the classes that the user named, if any.
      own: the classes of the images, if any.

    Raises:
      ClassNamesError: the columns have the names of other classes, or another order than `given`.
    """
    named = table.class_names
    if named is None or len(set(named)) < len(named):
        return table, given
    wanted = own if given is None else given
    if wanted is None:
        return table, None
    named = _without_common_words(named, wanted)
    table, named = _without_counts(table, named, wanted)
    if given is not None:
        _refuse_other_order(named, given)
        return table, given
    if set(wanted) <= set(named):
        return table, named
    if len(named) > 1 and not _are_numbered(named):
        raise ClassNamesError(
            "The columns of logits have other names than the classes of the images.\n"
            f"  columns: {readable_names(named)}\n"
            f"  classes: {readable_names(wanted)}\n"
            "Give the class of each column, in the order of the columns: `--class-names FILE`, one "
            "a line."
        )
    return table, None


def _without_common_words(named: list[str], classes: list[str]) -> list[str]:
    """Returns the names of columns without the words that stand around every class."""
    if not classes or set(classes) <= set(named):
        return named
    places = ((name, match) for name in named for match in re.finditer(re.escape(classes[0]), name))
    for name, match in places:
        before, after = name[: match.start()], name[match.end() :]
        class_of = {f"{before}{class_name}{after}": class_name for class_name in classes}
        names = [class_of.get(column, column) for column in named]
        if set(class_of) <= set(named) and len(set(names)) == len(names):
            return names
    return named


def _without_counts(
    table: LogitsTable, named: list[str], classes: list[str]
) -> tuple[LogitsTable, list[str]]:
    """Returns the table without columns of whole numbers that are no class, such as a label.

    Logits are whole numbers in all columns, or in none.
    """
    kept = [
        column
        for column, name in enumerate(named)
        if name in classes or column not in table.whole_columns
    ]
    if not kept or len(kept) == len(named):
        return table, named
    logits = np.ascontiguousarray(np.asarray(table.logits)[:, kept])
    return dataclasses.replace(table, logits=logits), [named[column] for column in kept]


def _refuse_other_order(named: list[str], given: list[str]) -> None:
    if given != named and sorted(given) == sorted(named):
        raise ClassNamesError(
            "The file of logits names its columns in another order than the class names.\n"
            f"  columns:     {readable_names(named)}\n"
            f"  class names: {readable_names(given)}\n"
            "Leave `--class-names` out, and the columns are taken by their names."
        )


def _are_numbered(named: list[str]) -> bool:
    """Returns whether names differ by their last number alone, such as 'logit_0' and 'logit_1'."""
    return len({re.sub(r"\d+$", "", name) for name in named}) == 1
