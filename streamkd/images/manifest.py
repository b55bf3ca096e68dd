"""The manifest: which images there are, their keys, labels and classes.

    images = scan("photos/train")          # one folder a class
    images.num_images, images.class_names, images.fingerprint
    images.paths([0, 1])                   # bytes, to open
    images.write("train.jsonl"); scan("train.jsonl")

A manifest holds no pixels and opens no image. Its keys are POSIX paths below the root, as bytes.
"""

from __future__ import annotations

import base64
import functools
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from streamkd.errors import ImagesNotFoundError, OptionError, OutputError
from streamkd.images import listing
from streamkd.images.fingerprint import fingerprint
from streamkd.keys import Keys

FORMAT = "streamkd manifest"
UNLABELLED = -1


class Manifest:
    """Images of one root directory, in a fixed order.

    Attributes:
      root: the directory, as bytes.
      keys: one key an image.
      labels: int32 `[num_images]`, class numbers; -1 where an image has no label.
      class_names: the classes in order, or None where there are none.
    """

    def __init__(
        self, root: bytes, keys: Keys, labels: np.ndarray, class_names: list[str] | None
    ) -> None:
        self.root = root
        self.keys = keys
        self.labels = np.asarray(labels, np.int32)
        self.class_names = class_names

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        classes = "unlabelled" if self.class_names is None else f"{self.num_classes} classes"
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
        labelled = self.labels[self.labels != UNLABELLED]
        return np.bincount(labelled, minlength=len(self.class_names)).tolist()

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of keys, labels and classes; the order of the images does not matter."""
        return fingerprint(self.keys, self.labels, self.class_names)

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
        """Yields the path of every image, without a list of all of them."""
        for start in range(0, len(self), 65_536):
            yield from self.paths(np.arange(start, min(start + 65_536, len(self))))

    def select(self, indices: np.ndarray | slice) -> Manifest:
        """Returns a manifest of some of the images, with the same classes."""
        return Manifest(self.root, self.keys.take(indices), self.labels[indices], self.class_names)

    def write(self, path: str | os.PathLike) -> None:
        """Writes the manifest as JSON lines, whole or not at all; `scan` reads it back.

        Raises:
          OutputError: it cannot be written, or something else than a manifest is there.
        """
        path = Path(path)
        if path.exists() and not _is_manifest(path):
            raise OutputError(
                f"{path} is there already, and is no manifest.\nMove it away, or give another path."
            )
        head = {"format": FORMAT, "version": 1, "root": os.fsdecode(self.root)}
        head |= {"class_names": self.class_names, "num_images": self.num_images}
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with open(temporary, "w", encoding="utf-8") as lines:
                lines.write(json.dumps(head) + "\n")
                for key, label in zip(self.keys, self.labels.tolist(), strict=True):
                    entry = {**key_fields(key, "file_name"), "label": label}
                    lines.write(json.dumps(entry) + "\n")
            temporary.replace(path)
        except OSError as error:
            raise OutputError(
                f"The manifest {path} cannot be written: {error.strerror}.\nGive another path."
            ) from error
        finally:
            temporary.unlink(missing_ok=True)


def _is_manifest(path: Path) -> bool:
    try:
        with open(path, "rb") as lines:
            return FORMAT.encode() in lines.readline(4096)
    except OSError:
        return False


def key_fields(key: bytes, name: str = "key") -> dict[str, str]:
    """Returns `key` as JSON fields; one that is not UTF-8 comes with its bytes in base64."""
    text = key.decode("utf-8", "backslashreplace")
    if text.encode() == key:
        return {name: text}
    return {name: text, f"{name}_base64": base64.b64encode(key).decode()}


def scan(
    directory: str | bytes | os.PathLike,
    *,
    labels: str | None = "inferred",
    class_names: list[str] | None = None,
    follow_links: bool = False,
    validation_split: float | None = None,
    subset: str | None = None,
    seed: int | None = None,
    progress: Any = None,
) -> Manifest:
    """Returns the images of a directory, or of a manifest written by `Manifest.write`.

    The arguments are those of `image_dataset_from_directory`, with Keras' meaning. Hidden files
    and folders are left out; a link to a folder of the same class, to another class or to the
    whole directory is not entered.

    Args:
      directory: one folder of images a class; or a manifest file.
      labels: 'inferred' takes the folder as the class; None lists every image without a label.
      class_names: the folders to take, in the order of their class numbers; sorted by default.
      follow_links: enter folders that are symbolic links.
      validation_split: share of the images, between 0 and 1, that validation gets.
      subset: 'training' or 'validation'; with `validation_split`.
      seed: of the shuffle before the split.
      progress: called with the number of images found, as they are found.

    Raises:
      ImagesNotFoundError: no such directory, or no images in it.
      ClassNamesError: `class_names` does not fit the folders.
      OptionError: arguments that exclude each other.
    """
    if labels not in ("inferred", None):
        raise OptionError(f"labels is {labels!r}; choose 'inferred' (the folders) or None.")
    root = os.path.abspath(os.fsencode(directory))
    if os.path.isfile(root):
        if class_names is not None:
            raise OptionError("A manifest has its own classes; leave class_names out.")
        manifest = read_manifest(Path(os.fsdecode(root)))
        if labels is None:
            manifest = _without_labels(manifest.root, manifest.keys)
    else:
        listing.check_directory(root)
        found = progress or (lambda count: None)
        list_images = _list_flat if labels is None else _list_classes
        manifest = list_images(root, class_names, follow_links, found)
    if validation_split is None:
        if subset is not None:
            raise OptionError("subset needs validation_split; add validation_split=0.2.")
        return manifest
    start, stop, seed = listing.split_indices(len(manifest), validation_split, subset or "", seed)
    # Keras shuffles with RandomState(seed) and takes the tail; the images keep their order here.
    order = np.arange(len(manifest))
    np.random.RandomState(seed).shuffle(order)
    if start == stop:
        raise OptionError(
            f"validation_split is {validation_split!r}, and there are {len(manifest):,} images, so "
            f"that {subset} gets none.\nGive another share, or more images."
        )
    return manifest.select(np.sort(order[start:stop]))


def _list_classes(
    root: bytes, class_names: list[str] | None, follow_links: bool, found: Any
) -> Manifest:
    names = listing.class_folders(root, class_names)
    folders = [os.fsencode(name) for name in listing.class_folders(root, None)]
    visited = {listing.identity(os.path.join(root, folder)) for folder in [b"", *folders]}
    keys: list[bytes] = []
    counts = []
    for name in names:
        before = len(keys)
        names_below = listing.image_names(
            root, os.fsencode(name), follow_links=follow_links, found=found, visited=visited
        )
        keys.extend(names_below)
        counts.append(len(keys) - before)
    if not keys:
        _refuse_empty(root, names)
    labels = np.repeat(np.arange(len(names), dtype=np.int32), counts)
    return Manifest(root, Keys.from_list(keys), labels, names)


def _list_flat(
    root: bytes, class_names: list[str] | None, follow_links: bool, found: Any
) -> Manifest:
    if class_names is not None:
        raise OptionError("class_names needs labels; leave labels=None out, or class_names.")
    keys = list(listing.image_names(root, b"", follow_links=follow_links, found=found))
    if not keys:
        _refuse_empty(root, [])
    return _without_labels(root, Keys.from_list(keys))


def _without_labels(root: bytes, keys: Keys) -> Manifest:
    return Manifest(root, keys, np.full(len(keys), UNLABELLED, np.int32), None)


def _refuse_empty(root: bytes, folders: list[str]) -> None:
    shown = os.fsdecode(root)
    endings = ", ".join(ending.decode() for ending in listing.EXTENSIONS)
    loose = sum(1 for name in os.listdir(root) if name.lower().endswith(listing.EXTENSIONS))
    if loose:
        raise ImagesNotFoundError(
            f"The directory {shown!r} has {loose:,} images but no folder a class.\n"
            "Move them into one folder a class, or list them without labels: `--labels none`."
        )
    raise ImagesNotFoundError(
        f"There are no images in {shown!r} ({len(folders)} folders looked into).\n"
        f"Give a directory with one folder of images a class; listed are {endings}."
    )


def read_manifest(path: Path) -> Manifest:
    """Returns the manifest that `Manifest.write` wrote."""
    with open(path, "rb") as lines:
        try:
            head = json.loads(lines.readline())
            if head["format"] != FORMAT or head["version"] != 1:
                raise ValueError(f"format {head['format']!r}, version {head['version']!r}")
            root, class_names = os.fsencode(head["root"]), head["class_names"]
            most = len(class_names or []) - 1
            keys, labels = [], []
            for line in lines:
                entry = json.loads(line)
                encoded = entry.get("file_name_base64")
                keys.append(base64.b64decode(encoded) if encoded else entry["file_name"].encode())
                labels.append(int(entry["label"]))
                if not UNLABELLED <= labels[-1] <= most:
                    raise ValueError(f"a label {labels[-1]}, and {most + 1} classes")
            if len(keys) != head["num_images"]:
                raise ValueError(f"{len(keys)} of its {head['num_images']} images are there")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise ImagesNotFoundError(
                f"{str(path)!r} is neither a directory nor a manifest written by "
                f"`streamkd scan --out`: {reason}.\n"
                "Give a directory with one folder of images a class."
            ) from error
    if not keys:
        raise ImagesNotFoundError(f"The manifest {str(path)!r} lists no images.\nScan again.")
    return Manifest(root, Keys.from_list(keys), np.array(labels), class_names)
