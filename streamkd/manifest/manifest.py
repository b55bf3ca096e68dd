"""The manifest: a list of images with their keys, labels and classes.

    images = scan("photos/train")          # one folder a class
    images.num_images, images.class_names, images.fingerprint
    images.paths([0, 1])                   # bytes, to open
    images.write("train.jsonl"); scan("train.jsonl")
    scan("photos/metadata.csv")            # a table of file names and labels

A manifest holds no pixels and opens no image. Its keys are POSIX paths below the root, as bytes.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from streamkd.checks import check_types
from streamkd.errors import OptionError
from streamkd.keys import Keys
from streamkd.manifest import sources, split, tables
from streamkd.manifest.fingerprint import fingerprint
from streamkd.manifest.labels import read_class_map
from streamkd.manifest.listing import UNLABELLED, PassedOver
from streamkd.public import public

# Number of paths that are made at once.
CHUNK_PATHS = 65_536


@public
class Manifest:
    """Images of one root directory, in a fixed order.

    Attributes:
      root: the directory, as bytes.
      keys: the key of each image.
      labels: int32 `[num_images]`, class numbers; -1 for an image without a label.
      class_names: the classes in order, or None for images without classes.
      weights: float32 `[num_images]`, the weight of each image in the loss, or None for 1 each.
      passed_over: what the listing of a directory met and did not list; None if nobody walked.
      multi_hot: of images with several labels each, int8 `[num_images, num_classes]`: 1 for a label
        that the image has, 0 for another, and -1 throughout for an image without labels. `labels`
        is then -1 for every image. None for images of one class each.
    """

    # Whether each folder of the root is a class, so that outputs there would become one.
    has_class_folders = False

    def __init__(
        self,
        root: bytes,
        keys: Keys,
        labels: np.ndarray,
        class_names: list[str] | None,
        weights: np.ndarray | None = None,
        passed_over: PassedOver | None = None,
        multi_hot: np.ndarray | None = None,
    ) -> None:
        self.root = root
        self.keys = keys
        self.labels = np.asarray(labels, np.int32)
        self.class_names = class_names
        self.weights = None if weights is None else np.asarray(weights, np.float32)
        self.passed_over = passed_over
        self.multi_hot = None if multi_hot is None else np.asarray(multi_hot, np.int8)

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        noun = "classes" if self.multi_hot is None else "labels, several an image"
        classes = "unlabelled" if self.class_names is None else f"{self.num_classes} {noun}"
        return f"Manifest({os.fsdecode(self.root)!r}, {self.num_images:,} images, {classes})"

    @property
    def num_images(self) -> int:
        return len(self.keys)

    @property
    def num_classes(self) -> int | None:
        return None if self.class_names is None else len(self.class_names)

    @property
    def class_counts(self) -> list[int] | None:
        """Number of images of each class, in the order of `class_names`."""
        if self.class_names is None:
            return None
        if self.multi_hot is not None:
            return (self.multi_hot > 0).sum(axis=0).tolist()
        labelled = self.labels[self.labels != UNLABELLED]
        return np.bincount(labelled, minlength=len(self.class_names)).tolist()

    @property
    def empty_classes(self) -> list[str] | None:
        """The classes without an image, which a student will not see; None without classes."""
        if self.class_names is None or self.class_counts is None:
            return None
        counted = zip(self.class_names, self.class_counts, strict=True)
        return [name for name, count in counted if not count]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of keys, labels and classes; the order of the images does not matter."""
        return fingerprint(self.keys, self.labels, self.class_names, self.multi_hot)

    def path(self, index: int) -> bytes:
        """Returns the path of one image."""
        return os.path.join(self.root, self.keys[index])

    def paths(self, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """Returns the paths of several images."""
        # One gather for all keys and slices of one bytes object: a fifth of the cost of `keys[i]`.
        keys = self.keys.take(np.asarray(indices, np.int64))
        data, ends = keys.data.tobytes(), keys.offsets.tolist()
        prefix = os.path.join(self.root, b"")
        return [prefix + data[start:end] for start, end in itertools.pairwise(ends)]

    def each_path(self) -> Iterator[bytes]:
        """Yields the path of every image, without a list of all paths."""
        for start in range(0, len(self), CHUNK_PATHS):
            yield from self.paths(np.arange(start, min(start + CHUNK_PATHS, len(self))))

    def select(self, indices: np.ndarray | slice) -> Manifest:
        """Returns a manifest of the images with these indices, with the same classes."""
        weights = None if self.weights is None else self.weights[indices]
        keys, labels = self.keys.take(indices), self.labels[indices]
        multi_hot = None if self.multi_hot is None else self.multi_hot[indices]
        selected = Manifest(self.root, keys, labels, self.class_names, weights, multi_hot=multi_hot)
        selected.has_class_folders = self.has_class_folders
        return selected

    def write(self, path: str | os.PathLike) -> None:
        """Writes the manifest as JSON lines, whole or not at all; `scan` reads it back.

        Raises:
          OutputError: the manifest cannot be written, or `path` is a file of another kind.
        """
        tables.write(self, Path(path))


@public
def scan(
    directory: str | bytes | os.PathLike,
    *,
    labels: str | Sequence[Any] | np.ndarray | None = "inferred",
    class_names: list[str] | None = None,
    class_map: Mapping[str, str | None] | str | os.PathLike | None = None,
    follow_links: bool = False,
    validation_split: float | None = None,
    subset: str | None = None,
    seed: int | None = None,
    stratify: bool = False,
    progress: Any = None,
    root: str | bytes | os.PathLike | None = None,
) -> Manifest:
    """Returns the images of a directory, or of a manifest file, without opening an image.

    A directory has one folder a class:

        photos/train/
        ...cat/
        ......001.jpg
        ......002.jpg
        ...dog/
        ......001.jpg

    `scan("photos/train")` then returns three images with the keys `cat/001.jpg`, `cat/002.jpg` and
    `dog/001.jpg`, the labels 0, 0 and 1, and the class names `['cat', 'dog']`.

    A file is a manifest that `Manifest.write` wrote, or a table (CSV or JSON lines) with a column
    `file_name` and optional columns `label` (or `labels`, for several an image) and `weight`; see
    `manifest/tables.py`. A directory
    without class folders may hold such a table as `metadata.csv` or `metadata.jsonl`.

    The other arguments are those of `image_dataset_from_directory`, with Keras' meaning. Hidden
    files and folders are left out. A link to a folder of the same class, to another class or to the
    whole directory is not entered.

    Args:
      directory: path of the directory, or of the file.
      labels: 'inferred' takes the folder as the class; None lists every image without a label. A
        list has one label for each image, numbers (-1 for no label) or names, in the order of the
        paths; the classes are then the sorted labels. Where its entries are lists, an image has
        several labels, or none of them (see `Manifest.multi_hot`).
      class_names: the folders to list, in the order of their class numbers; sorted by default.
        For a table, the classes in the order of their numbers.
      class_map: the class of each folder, as a mapping or as the path of a JSON file. Several
        folders may share a class, and None leaves a folder out. The classes stand in the order of
        `class_names`, or else in the order in which the map first names them.
      follow_links: enter folders that are symbolic links.
      validation_split: fraction of the images, between 0 and 1, that validation gets.
      subset: 'training' or 'validation'; with `validation_split`.
      seed: seed of the shuffle before the split.
      stratify: take the same fraction of every class, to within one image.
      progress: called with numbers of images as they are listed.
      root: where the images of a manifest or a table are now, if their directory was moved.

    Raises:
      ImagesNotFoundError: no such directory, or a directory without images.
      ClassNamesError: `class_names` or `class_map` does not fit the folders or the labels.
      OptionError: arguments that exclude each other.
    """
    check_types(scan, locals())
    if isinstance(class_map, str | os.PathLike):
        class_map = read_class_map(class_map)
    split.check_split(validation_split, subset, seed)
    listed = sources.list_images(
        directory,
        labels=labels,
        class_names=class_names,
        class_map=class_map,
        follow_links=follow_links,
        progress=progress or (lambda num_images: None),
    )
    images = Manifest(*sources.at_root(listed, directory, root))
    images.has_class_folders = sources.has_class_folders(directory, labels, class_names, class_map)
    if validation_split is None or subset is None or seed is None:
        return images
    if stratify and images.class_names is None:
        raise OptionError("stratify needs labels; these images have none.\nLeave stratify out.")
    if stratify and images.multi_hot is not None:
        raise OptionError(
            "stratify needs one class for each image, and these images have several labels.\n"
            "Leave stratify out."
        )
    indices = split.split_indices(images.labels, validation_split, subset, seed, stratify=stratify)
    return images.select(indices)


def as_manifest(images: Manifest | str | bytes | os.PathLike, name: str = "images") -> Manifest:
    """Returns `images`, scanned if they are the path of a directory, a table or a manifest.

    Raises:
      OptionError: they are of another type; `name` is that of the argument.
    """
    if isinstance(images, Manifest):
        return images
    if isinstance(images, str | bytes | os.PathLike):
        return scan(images)
    raise OptionError(
        f"{name} is of the type {type(images).__name__}, not a manifest or a path.\n"
        f"Give a directory, or a manifest: `{name}=kd.scan(DIRECTORY)`."
    )
