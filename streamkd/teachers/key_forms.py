"""Keys as people have them: paths that name the images, but not as a manifest does.

    keys = fit_keys(scan("photos/train"), [b"photos/train/cat/1.png", b"photos/train/dog/2.png"])
    keys[0]                             # b'cat/1.png'

The root may stand in front, whole or in part, or another root; './', '//', backslashes, percent
codes and other Unicode forms are read as well. All keys are read in one way, and only in one that
leads each of them to exactly one image.
"""

from __future__ import annotations

import itertools
import os
import unicodedata
import urllib.parse
from collections.abc import Iterable

import numpy as np

from streamkd.codes import warn
from streamkd.errors import OptionError, readable_key
from streamkd.manifest.manifest import Manifest
from streamkd.manifest.sources import PARTS

# Number of images that a refusal shows beside a key.
MAX_SHOWN = 3
# Index of a path that more than one image has.
_SEVERAL = -2

Parts = tuple[str, ...]


def fit_keys(images: Manifest, keys: list[bytes]) -> list[bytes]:
    """Returns the keys as the images have them.

    Warns if the keys begin with another directory than the root of the images.

    Raises:
      OptionError: no reading leads every key to exactly one image.
    """
    paths = _ImagePaths(images)
    readings = _readings(keys)
    below_root = [paths.below_root(reading, keys) for reading in readings]
    best = min(below_root, key=_num_unknown)
    if not _num_unknown(best):
        return images.keys.take(np.array(best)).tolist()
    for reading in readings:
        fitted = paths.with_endings(reading)
        if fitted is not None:
            _warn_of_other_root(keys[0], images.keys[fitted[0]])
            return images.keys.take(np.array(fitted)).tolist()
    first = next(position for position, index in enumerate(best) if index < 0)
    name = readings[-1][first][-1:]
    raise _no_image(images, keys[first], paths.named(name), _num_unknown(best), len(keys))


def _readings(keys: list[bytes]) -> list[list[Parts]]:
    """Returns the parts of every key as it stands, and with backslashes and percent codes read."""
    readings: list[list[Parts]] = []
    for percents, backslashes in itertools.product((False, True), repeat=2):
        reading = [_parts(key, percents, backslashes) for key in keys]
        if reading not in readings:
            readings.append(reading)
    return readings


def _parts(key: bytes, percents: bool = False, backslashes: bool = False) -> Parts:
    """Returns the parts of a path, in Unicode's form NFC, without '.' and empty ones."""
    if percents:
        key = urllib.parse.unquote_to_bytes(key.removeprefix(b"file://"))
    text = unicodedata.normalize("NFC", os.fsdecode(key))
    if backslashes:
        text = text.replace("\\", "/")
    return tuple(part for part in text.split("/") if part not in ("", "."))


class _ImagePaths:
    """The paths of images, by which a key finds the index of its image."""

    def __init__(self, images: Manifest) -> None:
        self._root = _parts(images.root)
        self._index_of_key = {key: index for index, key in enumerate(images.keys)}
        self._parts = [_parts(key) for key in images.keys]
        self._index_of_path = _indices(self._parts)
        # The images by their last parts, by the number of these.
        self._endings: dict[int, dict[Parts, int]] = {}

    def below_root(self, reading: list[Parts], keys: list[bytes]) -> list[int]:
        """Returns the image of each key, below a directory in front of all that ends the root.

        An image that is not there is a negative number; these are as few as can be.
        """
        folders, best = _common_folders(reading), [-1] * len(reading)
        for count in range(len(folders) + 1):
            if folders[:count] == self._root[max(len(self._root) - count, 0) :]:
                fitted = [self._index_of_path.get(parts[count:], -1) for parts in reading]
                best = min(best, fitted, key=_num_unknown)
        return [
            self._index_of_key.get(key, index) if index == _SEVERAL else index
            for key, index in zip(keys, best, strict=True)
        ]

    def with_endings(self, reading: list[Parts]) -> list[int] | None:
        """Returns the one image that ends as each key does once the same folders are left out.

        The fewest folders are left out that make all keys fit; None if they never do.
        """
        for count in range(len(_common_folders(reading)) + 1):
            fitted = []
            for parts in reading:
                index = self._ending_with(parts[count:])
                if index < 0 or self._is_of_another_part(parts, index):
                    break
                fitted.append(index)
            else:
                return fitted
        return None

    def named(self, name: Parts) -> list[int]:
        """Returns the images with this file name, which is a tuple of one part."""
        return [index for index, parts in enumerate(self._parts) if parts[-1:] == name]

    def _ending_with(self, ending: Parts) -> int:
        """Returns the image with these last parts; a negative number for none, or for several."""
        count = len(ending)
        if count not in self._endings:
            long_enough = (parts if len(parts) >= count else () for parts in self._parts)
            self._endings[count] = _indices(parts[len(parts) - count :] for parts in long_enough)
        return self._endings[count].get(ending, -1) if ending else -1

    def _is_of_another_part(self, parts: Parts, index: int) -> bool:
        """Returns whether, say, a key is of `val/cat` and its image of `train/cat`."""
        own = (*self._root, *self._parts[index])
        for part, own_part in zip(reversed(parts), reversed(own), strict=False):
            if part != own_part:
                return part.lower() in PARTS and own_part.lower() in PARTS
        return False


def _num_unknown(fitted: list[int]) -> int:
    return sum(index < 0 for index in fitted)


def _indices(paths: Iterable[Parts]) -> dict[Parts, int]:
    """Returns the index of each path, or `_SEVERAL`."""
    index_of: dict[Parts, int] = {}
    for index, path in enumerate(paths):
        index_of[path] = index if path not in index_of else _SEVERAL
    return index_of


def _common_folders(reading: list[Parts]) -> Parts:
    """Returns the folders with which all keys begin."""
    first, last = min(reading), max(reading)
    pairs = zip(first[:-1], last[:-1], strict=False)
    return tuple(part for part, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _warn_of_other_root(key: bytes, image: bytes) -> None:
    warn(
        "keys_of_another_root",
        f"The keys are paths below another directory: '{readable_key(key)}' is taken for the image "
        f"'{readable_key(image)}', and all others in the same way. If these are other images, "
        "write the keys as `streamkd scan IMAGES --out FILE` does.",
        stacklevel=4,
    )


def _no_image(
    images: Manifest, key: bytes, similar: list[int], num_unknown: int, num_keys: int
) -> OptionError:
    """Returns the refusal of a key that leads to no image, or to one of several similar ones."""
    shown = ", ".join(f"'{readable_key(images.keys[index])}'" for index in similar[:MAX_SHOWN])
    if similar:
        more = len(similar) - MAX_SHOWN
        example = f"of that name: {shown}{f' and {more:,} more' if more > 0 else ''}"
    else:
        example = f"an image: '{readable_key(images.keys[0])}'"
    return OptionError(
        f"{num_unknown:,} of {num_keys:,} keys are not among the images.\n"
        f"  images: {os.fsdecode(images.root)} ({len(images):,} images)\n"
        f"  first:  '{readable_key(key)}'\n"
        f"  {example}\n"
        "A key is the path of an image below that directory, with '/' between its parts.",
        key=key,
    )
