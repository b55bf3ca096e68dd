"""Lists the images of a directory, in Keras' order.

The order is that of `image_dataset_from_directory`: classes in order, and within a class the
folders by path and the files by name. Names are bytes throughout, since a file name need not be
UTF-8. Only directory entries are read; a `stat` for each file would cost four times the listing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from typing import Any

from streamkd.errors import ClassNamesError, ImagesNotFoundError, OptionError

# What `tf.io.decode_image` decodes; by content, so that the ending only says what to list.
# Keras leaves `.webp` out although TensorFlow decodes it.
EXTENSIONS = (b".bmp", b".gif", b".jpeg", b".jpg", b".png", b".webp")


def check_directory(directory: bytes) -> None:
    """Refuses what is not a readable directory."""
    shown = os.fsdecode(directory)
    if not os.path.exists(directory):
        raise ImagesNotFoundError(
            f"There is no directory {shown!r}.\nGive a directory with one folder of images a class."
        )
    if not os.path.isdir(directory):
        raise ImagesNotFoundError(
            f"{shown!r} is neither a directory nor a manifest written by `streamkd scan --out`.\n"
            "Give a directory with one folder of images a class."
        )
    if not os.access(directory, os.R_OK | os.X_OK):
        raise ImagesNotFoundError(
            f"The directory {shown!r} cannot be read.\nGive yourself the right to list it: "
            f"`chmod u+rx {shown}`."
        )


def class_folders(directory: bytes, class_names: list[str] | None) -> list[str]:
    """Returns the names of the class folders: sorted, or as `class_names` orders them.

    A folder whose name starts with a dot is no class; an empty folder is one.

    Raises:
      ClassNamesError: `class_names` names a folder twice, or one that is not there.
    """
    with os.scandir(directory) as entries:
        found = sorted(
            os.fsdecode(entry.name)
            for entry in entries
            if not entry.name.startswith(b".") and entry.is_dir()
        )
    if class_names is None:
        return found
    names = list(class_names)
    for position, name in enumerate(names):
        if name in names[:position]:
            raise ClassNamesError(f"class_names holds {name!r} twice; every class once.")
    missing = [name for name in names if name not in set(found)]
    if missing:
        raise ClassNamesError(
            "class_names does not fit the directory.\n"
            f"  class_names: {_shown(names)}\n"
            f"  {os.fsdecode(directory)}: {_shown(found)}\n"
            f"  first of {len(missing)} without a folder: {missing[0]!r}\n"
            "Name only folders that are there."
        )
    return names


def image_names(
    directory: bytes,
    below: bytes,
    *,
    follow_links: bool,
    found: Callable[[int], None],
    visited: Collection[tuple[int, int]] = (),
) -> Iterator[bytes]:
    """Yields the keys of the images in `directory/below` and in its folders.

    Args:
      directory: the root.
      below: the folder to list, relative to the root; b'' for the root itself.
      follow_links: enter folders that are symbolic links. The starting folder always counts.
      found: called with the number of images of each folder, for a progress bar.
      visited: identities of folders that no link leads into.
    """
    folders = []
    entered = set(visited)
    pending = [below]
    while pending:
        folder = pending.pop()
        if follow_links:
            here = identity(os.path.join(directory, folder))
            if here in entered and folder != below:
                continue
            entered.add(here)
        names, subfolders = _entries(os.path.join(directory, folder), follow_links)
        folders.append((folder, names))
        pending.extend(os.path.join(folder, name) if folder else name for name in subfolders)
        found(len(names))
    # Keras sorts the walk by path, which is not the order of a walk: 'a-b' comes before 'a/b'.
    for folder, names in sorted(folders):
        prefix = folder + b"/" if folder else b""
        for name in sorted(names):
            yield prefix + name


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
            # macOS writes '._name.jpg' beside every file on foreign disks; it is no image.
            if entry.name.startswith(b"."):
                continue
            if entry.is_dir(follow_symlinks=follow_links):
                folders.append(entry.name)
            elif entry.name.lower().endswith(EXTENSIONS) and not entry.is_dir():
                names.append(entry.name)
    return names, folders


def split_indices(
    num_images: int, validation_split: float, subset: str, seed: int | None
) -> tuple[int, int, int | None]:
    """Returns start, stop and seed of a subset of the shuffled images, as Keras splits them.

    Raises:
      OptionError: `validation_split` outside 0 to 1, an unknown `subset`, or no `seed`.
    """
    if not 0 < validation_split < 1:
        raise OptionError(f"validation_split is {validation_split!r}; it must lie between 0 and 1.")
    if subset not in ("training", "validation"):
        raise OptionError(f"subset is {subset!r}; choose one of training, validation.")
    if seed is None:
        raise OptionError(
            "validation_split needs a seed, so that both subsets come from one shuffle; "
            "add seed=1; on the command line --seed 1."
        )
    num_validation = int(validation_split * num_images)
    if subset == "training":
        return 0, num_images - num_validation, seed
    return num_images - num_validation, num_images, seed


def _shown(names: list[str]) -> str:
    """Returns up to five names for a message."""
    more = f", … ({len(names)} in all)" if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + more
