"""Lists the images of a directory, in Keras' order.

The order is that of `image_dataset_from_directory`: classes in order, and within a class the
folders by path and the files by name. Names are bytes throughout, since a file name need not be
UTF-8. Only directory entries are read; a `stat` for each file would cost four times the listing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np

from streamkd.errors import ClassNamesError, ImagesNotFoundError
from streamkd.keys import Keys
from streamkd.manifest.key_builder import SEPARATOR, KeyBuilder

# What `tf.io.decode_image` or Pillow decodes; by content, so that the ending only says what to
# list. Keras leaves `.webp` out although TensorFlow decodes it, and all that needs Pillow.
EXTENSIONS = (b".avif", b".bmp", b".gif", b".jpeg", b".jpg", b".png", b".tif", b".tiff", b".webp")
UNLABELLED = -1


class Listed(NamedTuple):
    """Images as a source lists them; the fields of a `Manifest`."""

    root: bytes
    keys: Keys
    labels: np.ndarray
    class_names: list[str] | None
    weights: np.ndarray | None = None

    def without_labels(self) -> Listed:
        """Returns the same images without labels and classes."""
        labels = np.full(len(self.keys), UNLABELLED, np.int32)
        return self._replace(labels=labels, class_names=None)


def check_directory(directory: bytes) -> None:
    """Refuses what is not a readable directory."""
    path = os.fsdecode(directory)
    if not os.path.exists(directory):
        raise ImagesNotFoundError(
            f"There is no directory {path!r}.\nGive a directory with one folder of images a class."
        )
    if not os.path.isdir(directory):
        raise ImagesNotFoundError(
            f"{path!r} is neither a directory nor a manifest file.\n"
            "Give a directory with one folder of images a class."
        )
    if not os.access(directory, os.R_OK | os.X_OK):
        raise ImagesNotFoundError(
            f"The directory {path!r} cannot be read.\nGive yourself the right to list it: "
            f"`chmod u+rx {path}`."
        )


def class_folders(directory: bytes) -> list[str]:
    """Returns the names of the class folders, sorted.

    A folder whose name starts with a dot is no class; an empty folder is one, and so is a link to
    a folder.
    """
    with _entries_of(directory) as entries:
        return sorted(
            os.fsdecode(entry.name)
            for entry in entries
            if not entry.name.startswith(b".") and entry.is_dir()
        )


def choose_folders(found: list[str], class_names: list[str], directory: bytes) -> list[str]:
    """Returns `class_names` as the folders to take, in that order.

    Raises:
      ClassNamesError: a folder is named twice, or is not there.
    """
    names = list(class_names)
    check_each_once(names)
    there = set(found)
    missing = [name for name in names if name not in there]
    if missing:
        raise ClassNamesError(
            "class_names does not fit the directory.\n"
            f"  class_names: {shown(names)}\n"
            f"  {os.fsdecode(directory)}: {shown(found)}\n"
            f"  first of {len(missing)} without a folder: {missing[0]!r}\n"
            "Name only folders that are there."
        )
    return names


def check_each_once(class_names: list[str]) -> None:
    """Refuses a class that is named twice."""
    seen: set[str] = set()
    for name in class_names:
        if name in seen:
            raise ClassNamesError(f"class_names holds {name!r} twice; every class once.")
        seen.add(name)


def add_images(
    builder: KeyBuilder,
    directory: bytes,
    below: bytes,
    *,
    follow_links: bool,
    found: Callable[[int], None],
    visited: Collection[tuple[int, int]] = (),
) -> int:
    """Adds the keys of the images in `directory/below` and in its folders; returns their number.

    Args:
      builder: gets the keys, in Keras' order.
      directory: the root.
      below: the folder to list, relative to the root; b'' for the root itself.
      follow_links: enter folders that are symbolic links. The starting folder always counts.
      found: called with the number of images of each folder, for a progress bar.
      visited: identities of folders that no link leads into.
    """
    before = len(builder)
    folders = []
    entered = set(visited)
    pending = [below]
    while pending:
        folder = pending.pop()
        path = os.path.join(directory, folder)
        if follow_links:
            here = identity(path)
            if here in entered and folder != below:
                continue
            entered.add(here)
        names, subfolders = _entries(path, follow_links)
        found(len(names))
        names.sort()
        folders.append((folder, SEPARATOR.join(names)))
        pending.extend(os.path.join(folder, name) if folder else name for name in subfolders)
    # Keras sorts the walk by path, which is not the order of a walk: 'a-b' comes before 'a/b'.
    for folder, packed in sorted(folders):
        builder.add_folder(folder + b"/" if folder else b"", packed)
    return len(builder) - before


def identity(path: bytes) -> tuple[int, int]:
    """Returns what tells whether two paths lead to the same folder."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _entries_of(path: bytes) -> Any:
    """Returns the entries of a folder, as `os.scandir`; one that cannot be read is named."""
    try:
        return os.scandir(path)
    except OSError as error:
        raise ImagesNotFoundError(
            f"The folder {os.fsdecode(path)!r} cannot be listed: {error.strerror}.\n"
            "Give yourself the right to read it, or move it away."
        ) from error


def _entries(path: bytes, follow_links: bool) -> tuple[list[bytes], list[bytes]]:
    """Returns the names of images and of folders in one folder; hidden ones are left out."""
    names: list[bytes] = []
    folders: list[bytes] = []
    with _entries_of(path) as entries:
        for entry in entries:
            name = entry.name
            # macOS writes '._name.jpg' beside every file on foreign disks; it is no image.
            if name.startswith(b"."):
                continue
            if entry.is_dir(follow_symlinks=follow_links):
                folders.append(name)
            elif name.lower().endswith(EXTENSIONS) and not (entry.is_symlink() and entry.is_dir()):
                names.append(name)
    return names, folders


def shown(names: list[str]) -> str:
    """Returns up to five names for a message."""
    more = f", … ({len(names)} in all)" if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + more
