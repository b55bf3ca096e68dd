"""The pixel cache: decoded images of one size, kept after they were read for the first time.

    cache = PixelCache.on_disk(images, canonical, directory)     # or in_memory(images, canonical)
    present = cache.has(indices)
    cache.about_to_read(indices)                     # before the files of new images are read
    cache.put(indices, pixels, content_digests)
    cache.copy_to(indices, out)

The cache is derived from the image files and may be deleted at any time. On disk it is two files,
named after the keys of the images and all that decides on their pixels:

  NAME.pixels    uint8 `[num_images, height, width, channels]`, with holes for images not kept yet
  NAME.records   uint64 `[num_images, 4]`: content digest, digest of the pixels, size and time of
                 change of the file; zeros for images not kept yet

An image that another process has left in the cache is compared once, when it is first asked for:
its pixels with their digest, its file's size and time of change with those recorded. An image that
differs counts as absent. The time is that of the inode, which no program can set back.

Any number of processes may fill one cache. A writer that replaces pixels takes their record away
first, and a reader that copies pixels looks at the record before and after.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import threading
from pathlib import Path

import numpy as np

from streamkd import disk
from streamkd.codes import warn
from streamkd.file_access import give_lock_back, wait_for_lock
from streamkd.image_options import ImageOptions
from streamkd.manifest.manifest import Manifest
from streamkd.manifest.own_outputs import refuse_among_classes
from streamkd.pixels.cache.cache_files import open_own_file
from streamkd.pixels.cache.cache_place import cache_path
from streamkd.pixels.cache.free_space import RECORD_BYTES, capacity_of, free_disk, free_memory

# Values of each image's byte in `_state`.
_ABSENT, _UNCHECKED, _READY = 0, 1, 2
# Fraction of the memory that is free when a cache is made.
_MEMORY_FRACTION = 0.5
_NUM_FIELDS = RECORD_BYTES // 8
# Size in bytes up to which images are gathered together, and how many at a time.
_SMALL_BYTES, _NUM_GATHERED = 1 << 14, 64
_EMPTY_RECORD = np.zeros(_NUM_FIELDS, np.uint64)


class PixelCache:
    """Keeps uint8 pixels of images by their positions in the manifest.

    Attributes:
      canonical: the size of the images, and all else that decides on their pixels.
      capacity: largest number of images kept: the first ones of the manifest.
      path: the file of the pixels, or None in memory.
    """

    def __init__(
        self, images: Manifest, canonical: ImageOptions, capacity: int, path: Path | None
    ) -> None:
        self.canonical = canonical
        self.capacity = capacity
        self.path = path
        self._images = images
        self._image_bytes = math.prod(canonical.shape)
        self._factors = _odd_numbers(-(-self._image_bytes // 8))
        self._full = False
        self._lock = threading.Lock()
        # Size and time of change of files that are being read, by the indices of their images.
        self._seen: dict[int, tuple[int, int]] = {}
        # Part of every digest, so that another cache's file of this name is not believed.
        self._salt = 0 if path is None else int(path.stem[:16], 16)
        self._state = np.full(capacity, _ABSENT, np.uint8)
        self._descriptors: list[int] = []
        self._lengths: list[int] = []
        if path is None:
            self._pixels = np.empty((capacity, self._image_bytes), np.uint8)
            self._records = np.zeros((capacity, _NUM_FIELDS), np.uint64)
        else:
            self._pixels = self._opened(path, np.uint8, self._image_bytes)
            self._records = self._opened(path.with_suffix(".records"), np.uint64, _NUM_FIELDS)
            self._state[self._records[:, 1] != 0] = _UNCHECKED

    @classmethod
    def in_memory(
        cls, images: Manifest, canonical: ImageOptions, *, num_bytes: int | None = None
    ) -> PixelCache:
        """Returns a cache that lasts as long as the process.

        Args:
          images, canonical: as in the attributes.
          num_bytes: largest size; by default half of the memory that is free now.
        """
        room = int(_MEMORY_FRACTION * free_memory()) if num_bytes is None else num_bytes
        return cls(images, canonical, capacity_of(images, canonical, room, "in memory"), None)

    @classmethod
    def on_disk(
        cls,
        images: Manifest,
        canonical: ImageOptions,
        directory: str | os.PathLike | None = None,
        *,
        num_bytes: int | None = None,
    ) -> PixelCache:
        """Returns a cache that other processes find again.

        Args:
          images, canonical: as in the attributes.
          directory: by default `streamkd/pixels` in the user's cache directory.
          num_bytes: largest size; by default nine tenths of the disk space that is free now.

        Raises:
          OutputError, DiskFullError: the directory cannot be written, or has another user's cache.
        """
        path = cache_path(images, canonical, directory)
        folder = path.parent
        refuse_among_classes(images, folder, kind="pixel cache", flag="--cache-directory")
        with disk.refusals(str(folder), ending="Give another one: `--cache-directory`."):
            folder.mkdir(parents=True, exist_ok=True)
            held = path.lstat().st_blocks * 512 if os.path.lexists(path) else 0
            room = free_disk(folder) + held if num_bytes is None else num_bytes
            capacity = capacity_of(images, canonical, room, f"in {folder}")
            return cls(images, canonical, capacity, path)

    def close(self) -> None:
        """Closes the files; arrays that were handed out stay valid."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def __del__(self) -> None:
        self.close()

    @property
    def is_filled(self) -> bool:
        """Whether every image is present, as far as the records tell without reading pixels."""
        return self.capacity == len(self._images) and bool((self._state != _ABSENT).all())

    def are_recorded(self, indices: np.ndarray) -> bool:
        """Whether images (int64 `[images]`) are present, as far as the records tell."""
        return bool((indices < self.capacity).all() and (self._state[indices] != _ABSENT).all())

    def has(self, indices: np.ndarray) -> np.ndarray:
        """Returns bool `[images]`, the images (int64 `[images]`) that are present and sound."""
        self._check_lengths()
        inside = indices < self.capacity
        states = self._state[np.where(inside, indices, 0)] if self.capacity else inside
        if self.path is not None:
            unchecked = np.flatnonzero(inside & (states == _UNCHECKED))
            for position in unchecked.tolist():
                index = int(indices[position])
                self._state[index] = _READY if self._is_sound(index) else _ABSENT
            if len(unchecked):
                states = self._state[np.where(inside, indices, 0)]
        return inside & (states == _READY)

    def about_to_read(self, indices: np.ndarray) -> None:
        """Notes size and time of change of files (int64 `[images]`) before they are read.

        The next process notices a change after this, even one before `put`.
        """
        if self.path is None:
            return
        for index in indices[indices < self.capacity].tolist():
            seen = self._look_at(index)
            if seen is not None:
                self._seen.setdefault(index, seen)  # an older look is the safer one

    def put(self, indices: np.ndarray, pixels: np.ndarray, content_digests: np.ndarray) -> None:
        """Keeps images until the cache is full.

        Args:
          indices: int64 `[images]`, positions in the manifest.
          pixels: uint8 `[images, height, width, channels]`.
          content_digests: uint64 `[images]`, of the files that the images were read from.
        """
        for position in np.flatnonzero(indices < self.capacity).tolist():
            index, image = int(indices[position]), pixels[position].reshape(-1)
            if self._full:
                continue
            if self.path is None:
                self._pixels[index], self._records[index, 0] = image, content_digests[position]
            elif not self._write(index, image, content_digests[position]):
                continue
            self._state[index] = _READY

    def content_digests_of(self, indices: np.ndarray) -> np.ndarray:
        """Returns uint64 `[images]`, content digests of the files that images were read from."""
        return self._records[:, 0][indices]

    def copy_to(self, indices: np.ndarray, out: np.ndarray) -> None:
        """Copies images that are present to `out`, uint8 or float32 `[images, …]`."""
        flat = out.reshape(len(indices), self._image_bytes)
        if self._image_bytes > _SMALL_BYTES:
            for position, index in enumerate(indices.tolist()):
                flat[position] = self._pixels[index]
            return
        # Small images go a few at a time, so that they are converted before they leave the
        # processor's cache.
        gathered = np.empty((_NUM_GATHERED, self._image_bytes), np.uint8)
        for start in range(0, len(indices), _NUM_GATHERED):
            subset = indices[start : start + _NUM_GATHERED]
            part = gathered[: len(subset)]
            np.take(self._pixels, subset, axis=0, out=part, mode="clip")
            flat[start : start + len(subset)] = part

    def _opened(self, path: Path, dtype: type[np.generic], width: int) -> np.ndarray:
        """Returns a file as an array `[capacity, width]`, made as long as it has to be."""
        descriptor = open_own_file(path)
        self._descriptors.append(descriptor)
        num_bytes = self.capacity * width * np.dtype(dtype).itemsize
        self._lengths.append(num_bytes)
        _lengthen(descriptor, num_bytes, with_holes=dtype is np.uint8)
        if not num_bytes:
            return np.empty((0, width), dtype)
        mapped = mmap.mmap(descriptor, num_bytes, access=mmap.ACCESS_READ)
        return np.frombuffer(mapped, dtype).reshape(self.capacity, width)

    def _write(self, index: int, image: np.ndarray, content_digest: np.uint64) -> bool:
        """Writes one image; returns False if the disk is full or the image's file is gone.

        It writes by calls and not through the map, where a full disk would end the process.
        """
        seen = self._seen.pop(index, None) or self._look_at(index)
        if seen is None:
            return False
        record = np.array([content_digest, self._digest(index, image), *seen], np.uint64)
        old_record = self._records[index]
        pixels_file, records_file = self._descriptors
        try:
            if np.array_equal(old_record, record) and np.array_equal(self._read(index), image):
                return True  # another process was faster
            if old_record.any():
                disk.write_at(records_file, _EMPTY_RECORD, index * RECORD_BYTES)
            disk.write_at(pixels_file, image, index * self._image_bytes)
            disk.write_at(records_file, record, index * RECORD_BYTES)
        except OSError as error:
            self._stop_writing(error)
            return False
        return True

    def _check_lengths(self) -> None:
        """Gives up files that somebody cut: reading a map beyond its file ends the process."""
        for descriptor, num_bytes in zip(self._descriptors, self._lengths, strict=False):
            if os.fstat(descriptor).st_size < num_bytes:
                self._state[:], self._lengths = _ABSENT, []
                self._stop_writing(OSError(errno.EIO, "a file was cut while it was used"))

    def _stop_writing(self, error: OSError) -> None:
        """Warns, once, that nothing more is kept."""
        with self._lock:
            was_full, self._full = self._full, True
        if not was_full:
            warn(
                "cache_stopped",
                f"The pixel cache {self.path} takes no more images: {error.strerror}. Images that "
                "are not in it are decoded each time.",
                stacklevel=2,
            )

    def _look_at(self, index: int) -> tuple[int, int] | None:
        """Returns size and time of change of an image's file; None if the file is gone."""
        try:
            status = os.stat(self._images.path(index))
        except OSError:
            return None
        return status.st_size, status.st_ctime_ns

    def _is_sound(self, index: int) -> bool:
        """Returns whether an image that another process wrote is whole and its file unchanged."""
        _, digest, size, changed = self._records[index].tolist()
        try:
            image = self._read(index)
        except OSError:
            return False
        if len(image) < self._image_bytes or self._digest(index, image) != digest:
            return False
        return self._look_at(index) == (size, changed)

    def _read(self, index: int) -> np.ndarray:
        """Returns the pixels of an image as the file has them, uint8 `[bytes]`.

        A fault of the disk is an error in a call; in the map it would end the process.
        """
        data = disk.read_at(self._descriptors[0], self._image_bytes, index * self._image_bytes)
        return np.frombuffer(data, np.uint8)

    def _digest(self, index: int, image: np.ndarray) -> int:
        """Returns a digest of an image, above 0: multilinear hashing (Lemire and Kaser 2014).

        The hash takes less than half the time of a CRC.
        """
        words = np.zeros(len(self._factors), np.uint64)
        words.view(np.uint8)[: self._image_bytes] = image
        of_pixels = int((words * self._factors).sum(dtype=np.uint64))
        return (of_pixels + self._salt + index * int(self._factors[0])) % 2**64 | 1


def _lengthen(descriptor: int, num_bytes: int, *, with_holes: bool) -> None:
    """Makes a file at least `num_bytes` long; never shorter, since others may have it mapped.

    Records are read before they are written, and on a full disk in memory (tmpfs) reading a hole of
    a mapped file ends the process.
    """
    wait_for_lock(descriptor)
    try:
        size = os.fstat(descriptor).st_size
        if size < num_bytes and not with_holes:
            disk.reserve(descriptor, num_bytes, start=size)
        elif size < num_bytes:
            os.ftruncate(descriptor, num_bytes)
    finally:
        give_lock_back(descriptor)


def _odd_numbers(count: int) -> np.ndarray:
    """Returns fixed random odd numbers, uint64 `[count]`."""
    numbers = np.random.Generator(np.random.PCG64(20261123)).integers(0, 2**64, count, np.uint64)
    return numbers | np.uint64(1)
