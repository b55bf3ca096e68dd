"""Lists class folders and the images below them, in Keras' order.

    folders = class_folders(b"photos/train")               # ['cat', 'dog']
    add_images(builder, b"photos/train", b"cat", follow_links=False, progress=bar.update)

The order is that of `image_dataset_from_directory`: classes in order, and within a class the
folders by path and the files by name. Names are bytes throughout, since a file name need not be
UTF-8. Only directory entries are read; a `stat` for each file would cost four times the listing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np

from streamkd.checks import did_you_mean_file
from streamkd.errors import ClassNamesError, ImagesNotFoundError, readable_names
from streamkd.keys import Keys
from streamkd.manifest import look_alikes
from streamkd.manifest.key_builder import SEPARATOR, KeyBuilder

# Endings of files that are listed: formats that `tf.io.decode_image` or Pillow decodes. Files are
# decoded by their content, whatever the ending. Keras lists neither `.webp`, although TensorFlow
# decodes it, nor the formats that need Pillow.
EXTENSIONS = (b".avif", b".bmp", b".gif", b".jpeg", b".jpg", b".png", b".tif", b".tiff", b".webp")
# The same in lower and in upper case, as cameras and tools write them.
_USUAL_EXTENSIONS = (*EXTENSIONS, *(ending.upper() for ending in EXTENSIONS))
_DOT = ord(".")
# Folders that systems and tools make, in lower case. Names with a leading dot are hidden anyway.
SYSTEM_FOLDERS = frozenset(
    (
        *(b"__macosx", b"lost+found", b"@eadir", b"$recycle.bin", b"system volume information"),
        *(b"#recycle", b"@recycle", b"#snapshot", b"@tmp", b"recycler", b"__pycache__"),
    )
)
# Other names of JPEG files; such a file is an image if its first bytes say so.
_OTHER_EXTENSIONS = (b".jfif", b".jpe")
# First bytes of the formats that are listed, for files whose ending does not tell.
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
# Label of an image without a class.
UNLABELLED = -1


class PassedOver(NamedTuple):
    """What the walk of a listing met and did not list, for the notes.

    Attributes:
      folders: the folders in the root that were walked and have images; b'' is the root itself.
      entries: keys of files, links and folders of systems below them, without hidden ones.
    """

    folders: frozenset[bytes]
    entries: list[bytes]


class Listed(NamedTuple):
    """The images of a source; the fields of a `Manifest`."""

    root: bytes
    keys: Keys
    labels: np.ndarray
    class_names: list[str] | None
    weights: np.ndarray | None = None
    passed_over: PassedOver | None = None
    multi_hot: np.ndarray | None = None

    def without_labels(self) -> Listed:
        """Returns the same images without labels and classes."""
        labels = np.full(len(self.keys), UNLABELLED, np.int32)
        return self._replace(labels=labels, class_names=None, multi_hot=None)


def check_directory(directory: bytes) -> None:
    """Refuses a path that is no readable directory."""
    path = os.fsdecode(directory)
    if not os.path.exists(directory):
        raise ImagesNotFoundError(
            f"There is no directory {path!r}.\n{did_you_mean_file(path)}"
            "Give a directory with one folder of images a class."
        )
    if not os.path.isdir(directory):
        raise ImagesNotFoundError(
            f"{path!r} is neither a directory nor a manifest file.\n"
            "Give a directory with one folder of images a class."
        )
    if not os.access(directory, os.R_OK | os.X_OK):
        raise ImagesNotFoundError(
            f"The directory {path!r} cannot be read.\n"
            f"Give yourself the right to list it: `chmod u+rx {path}`."
        )


def class_folders(directory: bytes) -> list[str]:
    """Returns the names of the class folders, sorted, without hidden ones.

    An empty folder is a class, and so is a link to a folder.
    """
    with _entries_of(directory) as entries:
        return sorted(
            os.fsdecode(entry.name)
            for entry in entries
            if not is_left_out(entry.name) and _is_folder(entry)
        )


def choose_folders(folders: list[str], class_names: list[str], directory: bytes) -> list[str]:
    """Returns the folders to list: `class_names`, of which each is one of `folders`, once.

    Raises:
      ClassNamesError: a class is named twice, or has no folder in `directory`.
    """
    names = list(class_names)
    check_each_once(names)
    present = set(folders)
    missing = [name for name in names if name not in present]
    if missing:
        raise ClassNamesError(
            "class_names does not fit the directory.\n"
            f"  class_names: {readable_names(names)}\n"
            f"  {os.fsdecode(directory)}: {readable_names(folders)}\n"
            f"  first of {len(missing)} without a folder: {look_alikes.shown(missing[0])}\n"
            f"{look_alikes.difference(missing[0], folders)}"
            "Name only folders of the directory."
        )
    return names


def check_each_once(class_names: list[str]) -> None:
    """Refuses a class that is named twice."""
    seen: set[str] = set()
    for name in class_names:
        if name in seen:
            raise ClassNamesError(f"class_names holds {name!r} twice.\nName every class once.")
        seen.add(name)


def add_images(
    builder: KeyBuilder,
    directory: bytes,
    below: bytes,
    *,
    follow_links: bool,
    progress: Callable[[int], None],
    passed_over: list[bytes],
    visited: Collection[tuple[int, int]] = (),
) -> int:
    """Adds the keys of the images in `directory/below` and in its folders; returns their number.

    Args:
      builder: gets the keys, in Keras' order.
      directory: the root.
      below: the folder to list, relative to the root; b'' for the root itself.
      follow_links: enter folders that are symbolic links. The starting folder is always listed.
      progress: called with the number of images of each folder, for a progress bar.
      passed_over: gets the keys of what is neither listed nor entered, nor hidden.
      visited: identities of folders that links must not enter.
    """
    num_before = len(builder)
    listed_folders = []
    entered = set(visited)
    pending = [below]
    while pending:
        folder = pending.pop()
        path = os.path.join(directory, folder)
        if follow_links:
            folder_identity = identity(path)
            if folder_identity in entered and folder != below:
                passed_over.append(folder)
                continue
            entered.add(folder_identity)
        names, subfolders, others = _names_of_entries(path, follow_links)
        progress(len(names))
        passed_over.extend(os.path.join(folder, name) for name in others)
        names.sort()
        listed_folders.append((folder, SEPARATOR.join(names)))
        pending.extend(os.path.join(folder, name) if folder else name for name in subfolders)
    # Keras sorts the walk by path, which is not the order of a walk: 'a-b' comes before 'a/b'.
    for folder, joined_names in sorted(listed_folders):
        builder.add_folder(folder + b"/" if folder else b"", joined_names)
    return len(builder) - num_before


def identity(path: bytes) -> tuple[int, int]:
    """Returns (device, inode), which are equal for two paths to the same folder."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _entries_of(path: bytes) -> Any:
    """Returns the entries of a folder, as `os.scandir`; a folder that cannot be read is named."""
    try:
        return os.scandir(path)
    except OSError as error:
        raise ImagesNotFoundError(
            f"The folder {os.fsdecode(path)!r} cannot be listed: {error.strerror}.\n"
            "Give yourself the right to read the folder, or move it away."
        ) from error


def is_left_out(name: bytes) -> bool:
    """Tells whether a name is hidden, or a folder that a system made."""
    return name.startswith(b".") or name.lower() in SYSTEM_FOLDERS


def _is_image_file(path: bytes, name: bytes) -> bool:
    """Tells whether a file is an image, by its ending or else by its first bytes."""
    lowered = name.lower()
    if lowered.endswith(EXTENSIONS):
        return True
    if b"." in name and not lowered.endswith(_OTHER_EXTENSIONS):
        return False
    file = os.path.join(path, name)
    try:
        # A pipe would wait for a writer.
        if not os.path.isfile(file):
            return False
        with open(file, "rb") as content:
            head = content.read(16)
    except OSError:
        return False
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return is_webp or head.startswith(_SIGNATURES)


def _is_folder(entry: os.DirEntry[bytes], follow_links: bool = True) -> bool:
    """Tells whether an entry is a folder; a link that leads to itself is none."""
    try:
        return entry.is_dir(follow_symlinks=follow_links)
    except OSError:
        return False


def _names_of_entries(
    path: bytes, follow_links: bool
) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """Returns the names of images, of folders and of what else is in one folder, without hidden."""
    names: list[bytes] = []
    folders: list[bytes] = []
    others: list[bytes] = []
    with _entries_of(path) as entries:
        for entry in entries:
            name = entry.name
            # The usual file first: a call of another function costs a tenth of the listing.
            if (
                name.endswith(_USUAL_EXTENSIONS)
                and name[0] != _DOT
                and entry.is_file(follow_symlinks=False)
            ):
                names.append(name)
            # macOS writes a '._name.jpg', which is no image, for every file on foreign disks.
            elif is_left_out(name):
                if not name.startswith(b"."):
                    others.append(name)
            elif _is_folder(entry, follow_links):
                folders.append(name)
            elif _is_image_file(path, name) and not (entry.is_symlink() and _is_folder(entry)):
                names.append(name)
            else:
                others.append(name)
    return names, folders, others
