"""A directory given one level too high: all images are one class, and its folders are the classes.

wrapped_directory(scan("download"))         # b"download/animals", or None
with hinting(images):                       # a refusal about classes ends with that directory
    renumber(images.labels, images.class_names, store.class_names, "the store")
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from streamkd.errors import ClassNamesError, StudentError, TeacherError, readable_key
from streamkd.manifest.manifest import Manifest
from streamkd.manifest.sources import PARTS

_TRAINING = (b"train", b"training")


def wrapped_directory(images: Manifest) -> bytes | None:
    """Returns the directory whose folders are the classes, if it lies below the one class."""
    counts = images.class_counts
    if counts is None or sum(map(bool, counts)) != 1:
        return None
    folders = {os.path.dirname(key) for key in images.keys}
    prefix = os.path.commonpath(folders)
    if not prefix or prefix in folders:
        return None
    common, parts = prefix.split(b"/"), [folder.split(b"/") for folder in folders]
    below = {folder[len(common)] for folder in parts}
    if all(os.fsdecode(name).lower() in PARTS for name in below):
        # Parts of a data set hold the classes; images right in them have only parts as folders.
        if any(len(folder) == len(common) + 1 for folder in parts):
            return None
        training = [name for name in sorted(below) if name.lower() in _TRAINING]
        common = [*common, (training or sorted(below))[0]]
    return os.path.join(images.root, *common)


@contextlib.contextmanager
def hinting(images: Manifest) -> Iterator[None]:
    """Adds the directory that was meant to refusals about classes, where one is recognised."""
    try:
        yield
    except (ClassNamesError, TeacherError, StudentError) as error:
        directory = wrapped_directory(images)
        if directory is not None:
            error.message += (
                "\nAll images are in one class, which has folders below it. Did you mean "
                f"{readable_key(directory)}?"
            )
        raise
