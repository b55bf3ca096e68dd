"""Which of a model's classes a transfer set lacks, by its labels or by the teacher's answers.

missing = missing_classes(names, transfer=scan("photos/train"))        # int64, ascending
missing = missing_classes(names, store=open_store("teacher.h5"))       # without labels
missing = missing_classes(names, given=["okapi"])
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamkd.errors import ClassNamesError, OptionError, readable_names
from streamkd.manifest import look_alikes
from streamkd.manifest.class_names import renumber
from streamkd.manifest.listing import UNLABELLED
from streamkd.manifest.manifest import Manifest
from streamkd.manifest.wrapper import hinting
from streamkd.results.teacher_logits import teacher_logits
from streamkd.store.decisions import chosen
from streamkd.store.row_store import RowStore

# A teacher takes some images for a class that none of them has. A class that it chooses for less
# than this part of the images that each class would have, if all had equally many, counts as
# missing.
LARGEST_SHARE = 1 / 20


def missing_classes(
    names: Sequence[str],
    *,
    given: Sequence[str] | None = None,
    transfer: Manifest | None = None,
    store: RowStore | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Returns the numbers of the classes that a transfer set lacks, int64, ascending.

    Args:
      names: the model's classes, in the order of its outputs.
      given: the missing classes, where the user knows them; nothing else is looked at.
      transfer: the images of the transfer set. Where all of them are labelled, labels decide.
      store: the teacher's logits of these images, which decide otherwise.
      progress: show progress while files are read to find renamed ones.

    Raises:
      OptionError: nothing says it; no class is missing, or all are; images with several labels.
      ClassNamesError: a class that the model does not have.
      MissingLogitsError: the store has no logits of an image.
    """
    names = list(names)
    if given is not None:
        missing = _numbers_of(list(given), names)
        source = "classes="
    elif transfer is not None and _is_labelled(transfer):
        with hinting(transfer):
            labels = renumber(transfer.labels, transfer.class_names, names, "the model")
        missing = np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0)
        source = f"the labels of {transfer!r}"
    elif transfer is not None and store is not None:
        choices = chosen(teacher_logits(names, transfer, store, progress)[0])
        counts = np.bincount(choices, minlength=len(names))
        missing = np.flatnonzero(counts < LARGEST_SHARE * counts.sum() / len(names))
        source = f"the teacher's answers in {store.path}"
    else:
        raise OptionError(
            "Nothing says which classes the transfer set lacks.\n"
            "Give the labelled images of the transfer set, `transfer=`; or unlabelled ones with "
            "the teacher's logits, `store=`; or name the classes: `classes=['okapi']`."
        )
    _check_some(missing, names, source)
    return missing


def _numbers_of(given: list[str], names: list[str]) -> np.ndarray:
    unknown = [name for name in given if name not in names]
    if unknown:
        raise ClassNamesError(
            f"The model has no class {look_alikes.shown(unknown[0])}.\n"
            f"  the model: {readable_names(names)}\n"
            f"{look_alikes.difference(unknown[0], names)}"
            "Name classes as the model does: `classes=` and `frequencies=`."
        )
    return np.unique(np.array([names.index(name) for name in given], np.int64))


def _is_labelled(transfer: Manifest) -> bool:
    """Returns whether every image has a label."""
    if transfer.multi_hot is not None:
        raise OptionError(
            f"The images of {transfer!r} have several labels each, and a bias of classes is for "
            "classes that exclude each other.\nGive images of one class each."
        )
    return transfer.class_names is not None and not np.any(transfer.labels == UNLABELLED)


def _check_some(missing: np.ndarray, names: list[str], source: str) -> None:
    """Refuses what leaves nothing to repair, or nothing to compare with."""
    if not len(missing):
        raise OptionError(
            f"The transfer set lacks no class, by {source}.\n"
            "A bias repairs missing classes only; to give one to other classes, name them: "
            f"`classes=[{names[0]!r}]`."
        )
    if len(missing) == len(names):
        raise OptionError(
            f"The transfer set lacks every class of the model, by {source}.\n"
            f"  the model: {readable_names(names)}\n"
            "Leave out those that it has: a bias moves some classes against the others."
        )
