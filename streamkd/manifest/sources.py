"""Lists the images of a source: a directory of one of the usual shapes, or a manifest file.

| source | images |
|---|---|
| one folder a class | those of every folder, in Keras' order; `class_map` names the classes |
| any directory, with `labels=None` or a list | all images below the directory |
| a flat directory with `metadata.csv` or `metadata.jsonl` | the entries of the table |
| a table, or a manifest written by `Manifest.write` | its entries |
| `train`, `val` and `test` folders and no other folder | refused: give one of the folders |
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from streamkd.errors import ImagesNotFoundError, OptionError, readable_names
from streamkd.file_kinds import kind_of_path
from streamkd.manifest import listing, own_outputs, tables
from streamkd.manifest.key_builder import KeyBuilder
from streamkd.manifest.labels import check_class_map, collected, map_folders
from streamkd.manifest.listing import Listed, PassedOver

# Usual names of the parts of a data set, in lower case: those that Hugging Face knows.
PARTS = frozenset(
    ("train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval")
)


def list_images(
    source: str | bytes | os.PathLike,
    *,
    labels: Any,
    class_names: list[str] | None,
    class_map: Mapping[str, str | None] | None,
    follow_links: bool,
    progress: Callable[[int], None],
) -> Listed:
    """Returns the images of a directory or of a manifest file.

    Arguments as in `manifest.scan`; `progress` is called with numbers of images as they are listed.
    """
    labels = _checked_labels(labels, class_names, class_map)
    if not os.fsencode(source):
        raise ImagesNotFoundError(
            "The path of the images is empty, as from a shell variable that is not set.\n"
            "Give a directory with one folder of images a class; `.` is this directory."
        )
    root = os.path.abspath(os.fsencode(source))
    if os.path.isfile(root):
        return _from_file(root, labels, class_names, class_map, progress)
    listing.check_directory(root)
    if isinstance(labels, str):
        folders = listing.class_folders(root)
        if class_map is None and class_names is None:
            table = _table_of(root, folders)
            if table is not None:
                return _from_file(table, labels, None, None, progress)
            _refuse_parts(root, folders)
        if class_map is not None:  # the others are told by their empty listing
            folders = [f for f in folders if f in class_map or not _is_output(root, f)]
        chosen, names = _choose(root, folders, class_names, class_map)
        listed = _list_classes(root, folders, chosen, names, follow_links, progress)
        return listed if names is not folders else _without_outputs(listed)
    if class_names is not None:
        raise OptionError("class_names needs labels; leave labels=None out, or class_names.")
    builder = KeyBuilder()
    others: list[bytes] = []
    listing.add_images(
        builder, root, b"", follow_links=follow_links, progress=progress, passed_over=others
    )
    if not len(builder):
        _refuse_empty(root, 0)
    keys = builder.keys()
    passed_over = PassedOver(frozenset([b""]), others)
    if labels is None:
        unlabelled = np.zeros(len(keys), np.int32)
        return Listed(root, keys, unlabelled, None, None, passed_over).without_labels()
    fields = _labels_of(labels, len(keys), root)
    return Listed(root, keys, **fields, passed_over=passed_over)


def _checked_labels(labels: Any, class_names: Any, class_map: Any) -> Any:
    """Returns 'inferred', None or a list of labels."""
    if isinstance(labels, np.ndarray) and labels.ndim > 1:
        raise OptionError(
            f"labels is an array of shape {list(labels.shape)}; it must have one label for each "
            "image.\nFor several labels an image give lists of them: [[0, 2], [], [1]]; of an "
            "array of zeros and ones `[np.flatnonzero(row) for row in labels]`."
        )
    if isinstance(labels, Iterable) and not isinstance(labels, str | bytes | Mapping):
        labels = labels.tolist() if isinstance(labels, np.ndarray) else list(labels)
        if class_names is not None:
            raise OptionError(
                "class_names goes with labels='inferred'; the classes of a list are its sorted "
                "labels.\nLeave class_names out, or give a list of names."
            )
    elif labels not in ("inferred", None):
        raise OptionError(
            f"labels is {labels!r}; choose 'inferred' (the folders), None, or give a list with one "
            "label for each image."
        )
    if class_map is not None and labels != "inferred":
        raise OptionError("A class map goes with labels='inferred'; leave out labels or the map.")
    return labels


def _from_file(
    path: bytes, labels: Any, class_names: Any, class_map: Any, progress: Callable[[int], None]
) -> Listed:
    """Returns the images that a manifest file lists; arguments as in `list_images`."""
    if isinstance(labels, list):
        raise OptionError("A manifest has its own labels; leave the list of labels out.")
    if class_map is not None:
        raise OptionError("A class map is about folders; a manifest has its own classes.")
    listed = tables.read(Path(os.fsdecode(path)), class_names)
    progress(len(listed.keys))
    return listed.without_labels() if labels is None else listed


def check_root(root: bytes) -> None:
    """Refuses images whose root is gone, as after a move of the directory."""
    if not os.path.isdir(root):
        raise ImagesNotFoundError(
            f"There is no directory {os.fsdecode(root)!r}, the root of the images.\n"
            "Move the directory back, or say where it is now: `--root DIR` (in Python "
            "`kd.scan(FILE, root=DIR)`)."
        )


def at_root(listed: Listed, source: Any, root: str | bytes | os.PathLike | None) -> Listed:
    """Returns the images of a manifest file below another root; None leaves them where they are.

    Raises:
      OptionError: the source is a directory, which is its own root.
      ImagesNotFoundError: there is no such directory.
    """
    if root is None:
        return listed
    if os.path.isdir(source):
        raise OptionError(
            f"{os.fsdecode(source)!r} is a directory, and has no other root.\n"
            "Give --root with a manifest or a table, or leave it out."
        )
    directory = os.path.abspath(os.fsencode(root))
    listing.check_directory(directory)
    return listed._replace(root=directory)


def has_class_folders(source: Any, labels: Any, class_names: Any, class_map: Any) -> bool:
    """Returns whether `list_images` takes the folders of a source as classes."""
    if not os.path.isdir(source) or not isinstance(labels, str):
        return False
    is_chosen = class_names is not None or class_map is not None
    names = (os.path.join(os.fsdecode(source), name) for name in tables.METADATA_NAMES)
    return is_chosen or not any(map(os.path.isfile, names))


def _table_of(root: bytes, folders: list[str]) -> bytes | None:
    """Returns the path of the metadata file of a directory; None for a directory without one.

    Refuses two metadata files, and class folders besides one.
    """
    path = os.fsdecode(root)
    present = [name for name in tables.METADATA_NAMES if os.path.isfile(f"{path}/{name}")]
    if not present:
        return None
    name = present[0]
    if len(present) > 1:
        raise OptionError(
            f"{path!r} has a {name} and a {present[1]}.\nGive one of them: {path}/{name}."
        )
    if len(folders) > 1:
        raise OptionError(
            f"{path!r} has {len(folders)} folders ({readable_names(folders)}) and a {name}; "
            "either could give the classes.\n"
            f"Give the file, {path}/{name}, or name the folders: class_names=[...] "
            "(on the command line `scan --class-names FILE` or `--class-map FILE`)."
        )
    return os.path.join(root, os.fsencode(name))


def _refuse_parts(root: bytes, folders: list[str]) -> None:
    """Refuses a directory of train, val and test folders, which are no classes."""
    parts = [name for name in folders if name.lower() in PARTS]
    trains = any(name.lower() in ("train", "training") for name in parts)
    if not parts or not (len(parts) == len(folders) or (trains and len(parts) > 1)):
        return
    path = os.fsdecode(root)
    raise ImagesNotFoundError(
        f"The folders of {path!r} are {readable_names(folders)}: parts of a data set, not "
        "classes.\n"
        f"Give one of them, such as {os.path.join(path, parts[0])}; if they are classes, name "
        "them: class_names=[...] (on the command line `--class-map FILE`)."
    )


def _choose(
    root: bytes, folders: list[str], class_names: Any, class_map: Any
) -> tuple[list[tuple[str, int]], list[str]]:
    """Returns the folders to list, each with its class number, and the classes."""
    if class_map is not None:
        class_map = check_class_map(class_map)
        return map_folders(folders, class_map, class_names)
    names = folders
    if class_names is not None:
        names = listing.choose_folders(folders, class_names, root)
    return [(name, number) for number, name in enumerate(names)], names


def _list_classes(
    root: bytes,
    folders: list[str],
    chosen: list[tuple[str, int]],
    names: list[str],
    follow_links: bool,
    progress: Callable[[int], None],
) -> Listed:
    """Returns the images of class folders.

    Args:
      folders: all class folders of the directory, which no link may enter a second time.
      chosen: the folders to list, each with its class number.
      names: the classes in order.
    """
    visited = set()
    if follow_links:
        paths = [root, *(os.path.join(root, os.fsencode(folder)) for folder in folders)]
        visited = {listing.identity(path) for path in paths}
    add_folder = functools.partial(
        listing.add_images, follow_links=follow_links, progress=progress, visited=visited
    )
    builder = KeyBuilder()
    counts, with_images, passed_over = [], [], []
    for name, _ in chosen:
        others: list[bytes] = []
        folder = os.fsencode(name)
        counts.append(add_folder(builder, root, folder, passed_over=others))
        if counts[-1]:
            with_images.append(folder)
            passed_over += others
    if not len(builder):
        _refuse_empty(root, len(chosen))
    labels = np.repeat(np.array([number for _, number in chosen], np.int32), counts)
    walked = PassedOver(frozenset(with_images), passed_over)
    return Listed(root, builder.keys(), labels, names, None, walked)


def _is_output(root: bytes, folder: str) -> bool:
    return own_outputs.holds_only_outputs(os.path.join(root, os.fsencode(folder)))


def _without_outputs(listed: Listed) -> Listed:
    """Returns the images without those empty classes whose folders hold what streamkd wrote."""
    assert listed.class_names is not None
    counts = np.bincount(listed.labels, minlength=len(listed.class_names))
    kept = [
        number
        for number, name in enumerate(listed.class_names)
        if counts[number] or not _is_output(listed.root, name)
    ]
    if len(kept) == len(listed.class_names):
        return listed
    labels = np.searchsorted(np.array(kept), listed.labels).astype(np.int32)
    return listed._replace(labels=labels, class_names=[listed.class_names[n] for n in kept])


def _labels_of(labels: list[Any], num_images: int, root: bytes) -> dict[str, Any]:
    """Returns the fields of a `Listed` for a list of labels in the order of the images."""
    if len(labels) != num_images:
        raise OptionError(
            "labels does not fit the directory: it must have one label for each image, in the "
            "order of the paths.\n"
            f"  labels: {len(labels):,}\n"
            f"  {os.fsdecode(root)}: {num_images:,} images\n"
            "`streamkd scan --labels none --out images.jsonl` writes the images in that order."
        )
    try:
        return collected(labels).fields(None)
    except ValueError as error:
        raise OptionError(
            f"labels holds {error}.\nGive one number or one name for each image; or for each "
            'image the list of its labels, such as [["cat", "dog"], []].'
        ) from error


def _refuse_empty(root: bytes, num_folders: int) -> None:
    """Refuses a directory without images in its class folders."""
    path = os.fsdecode(root)
    endings = ", ".join(ending.decode() for ending in listing.EXTENSIONS)
    num_loose = sum(name.lower().endswith(listing.EXTENSIONS) for name in os.listdir(root))
    if num_loose:
        raise ImagesNotFoundError(
            f"The directory {path!r} has {num_loose:,} images but no folder a class.\n"
            "Move them into one folder a class, or list them without labels: `--labels none`."
        )
    kind = kind_of_path(path)
    what = (
        "" if kind is None or kind.words == "a directory" else f"It is {kind.words}. {kind.use}\n"
    )
    raise ImagesNotFoundError(
        f"There are no images in {path!r} ({num_folders} folders looked into).\n{what}"
        f"Give a directory with one folder of images a class; the endings are {endings}."
    )
