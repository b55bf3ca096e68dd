"""The pixel cache: decoded images of one size, kept after they were read for the first time.

    cache = PixelCache.on_disk(images, canonical, directory)     # or in_memory(images, canonical)
    there = cache.has(indices)
    cache.about_to_read(indices)                     # before the files of new ones are read
    cache.put(indices, pixels, content_digests)
    cache.copy_to(indices, out)

What is kept is derived from the files and may be deleted at any time. On disk it is two files,
named after the keys of the images and all that decides on their pixels:

  NAME.pixels    uint8 `[num_images, height, width, channels]`, with holes where nothing is kept yet
  NAME.records   uint64 `[num_images, 4]`: content digest, digest of the pixels, size and time of
                 change of the file; zeros where nothing is kept

An image that another process has left there is compared once, when it is first asked for: its
pixels with their digest, its file's size and time of change with those recorded. What does not fit
is as if it were not there. The time is that of the inode, which no program can set back.

Any number of processes may fill one cache. Who replaces pixels takes their record away first, and
who copies pixels looks at the record before and after.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import mmap
import os
import shutil
import threading
import warnings
from pathlib import Path

import numpy as np

from streamkd import disk
from streamkd.image_options import DECODER, ImageOptions
from streamkd.manifest.manifest import Manifest

VERSION = 2
# What each image's byte in `_state` says.
_ABSENT, _UNCHECKED, _READY = 0, 1, 2
# Of the memory, or of the room on the disk, that is free when a cache is made.
_SHARE_OF_MEMORY = 0.5
_SHARE_OF_DISK = 0.9
_NUM_FIELDS = 4
# Images that are gathered together, of which each is small.
_GATHERED, _SMALL_BYTES = 64, 1 << 14
_RECORD_BYTES = 8 * _NUM_FIELDS
_CONTROL_GROUP = Path("/sys/fs/cgroup")
_NOTHING = np.zeros(_NUM_FIELDS, np.uint64)


class PixelCache:
    """Keeps uint8 pixels of images by their numbers.

    Attributes:
      canonical: the size of the images, and all else that decides on their pixels.
      capacity: how many images are kept at most: those with the smallest numbers.
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
        # Size and time of change of files that are being read, by the numbers of their images.
        self._seen: dict[int, tuple[int, int]] = {}
        # Part of every digest, so that another cache's file of this name is not believed.
        self._salt = 0 if path is None else int(path.stem[:16], 16)
        self._state = np.full(capacity, _ABSENT, np.uint8)
        self._descriptors: list[int] = []
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
          images: whose pixels are kept.
          canonical: their size, and all else that decides on them.
          num_bytes: the most it may take; by default half of the memory that is free now.
        """
        room = int(_SHARE_OF_MEMORY * _free_memory()) if num_bytes is None else num_bytes
        return cls(images, canonical, _capacity(images, canonical, room, "in memory"), None)

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
          images, canonical: as in `in_memory`.
          directory: by default `streamkd/pixels` in the user's cache directory.
          num_bytes: the most it may take; by default nine tenths of the room that is free now.

        Raises:
          OutputError, DiskFullError: the directory cannot be written.
        """
        folder = default_directory() if directory is None else Path(directory)
        path = folder / f"{_name_of(images, canonical)}.pixels"
        with disk.refusals(str(folder), ending="Give another one: `--cache-directory`."):
            folder.mkdir(parents=True, exist_ok=True)
            held = path.stat().st_blocks * 512 if path.exists() else 0
            room = int(_SHARE_OF_DISK * shutil.disk_usage(folder).free) + held
            room = room if num_bytes is None else num_bytes
            capacity = _capacity(images, canonical, room, f"in {folder}")
            return cls(images, canonical, capacity, path)

    def close(self) -> None:
        """Closes the files; what was handed out stays valid."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def __del__(self) -> None:
        self.close()

    @property
    def is_filled(self) -> bool:
        """Whether every image is there, as far as can be told without a look at it."""
        return self.capacity == len(self._images) and bool((self._state != _ABSENT).all())

    def has(self, indices: np.ndarray) -> np.ndarray:
        """Returns bool `[images]`, whether each image (int64 `[images]`) is there and sound."""
        inside = indices < self.capacity
        states = self._state[np.where(inside, indices, 0)] if self.capacity else inside
        if self.path is not None:
            unchecked = np.flatnonzero(inside & (states == _UNCHECKED))
            for place in unchecked.tolist():
                index = int(indices[place])
                self._state[index] = _READY if self._is_sound(index) else _ABSENT
            if len(unchecked):
                states = self._state[np.where(inside, indices, 0)]
        return inside & (states == _READY)

    def about_to_read(self, indices: np.ndarray) -> None:
        """Notes size and time of change of files (int64 `[images]`) before they are read.

        A change after this is noticed by the next process, even if it comes before `put`.
        """
        if self.path is None:
            return
        for index in indices[indices < self.capacity].tolist():
            seen = self._look_at(index)
            if seen is not None:
                self._seen.setdefault(index, seen)  # an older look is the safer one

    def put(self, indices: np.ndarray, pixels: np.ndarray, content_digests: np.ndarray) -> None:
        """Keeps some images, as far as there is room.

        Args:
          indices: int64 `[images]`, their numbers.
          pixels: uint8 `[images, height, width, channels]`.
          content_digests: uint64 `[images]`, content digests of the files they were read from.
        """
        for place in np.flatnonzero(indices < self.capacity).tolist():
            index, image = int(indices[place]), pixels[place].reshape(-1)
            if self._full:
                continue
            if self.path is None:
                self._pixels[index], self._records[index, 0] = image, content_digests[place]
            elif not self._write(index, image, content_digests[place]):
                continue
            self._state[index] = _READY

    def content_digests_of(self, indices: np.ndarray) -> np.ndarray:
        """Returns uint64 `[images]`, content digests of the files that images were read from."""
        return self._records[:, 0][indices]

    def copy_to(self, indices: np.ndarray, out: np.ndarray) -> None:
        """Copies images that are there to `out`, uint8 or float32 `[images, …]`."""
        flat = out.reshape(len(indices), self._image_bytes)
        if self._image_bytes > _SMALL_BYTES:
            for place, index in enumerate(indices.tolist()):
                flat[place] = self._pixels[index]
            return
        # Of small images a few at a time, so that what is gathered is converted before it leaves
        # the processor's cache.
        gathered = np.empty((_GATHERED, self._image_bytes), np.uint8)
        for start in range(0, len(indices), _GATHERED):
            some = indices[start : start + _GATHERED]
            part = gathered[: len(some)]
            np.take(self._pixels, some, axis=0, out=part, mode="clip")
            flat[start : start + len(some)] = part

    def _opened(self, path: Path, dtype: type[np.generic], width: int) -> np.ndarray:
        """Returns a file as an array `[capacity, width]`, made as long as it has to be."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._descriptors.append(descriptor)
        num_bytes = self.capacity * width * np.dtype(dtype).itemsize
        _lengthen(descriptor, num_bytes, with_holes=dtype is np.uint8)
        if not num_bytes:
            return np.empty((0, width), dtype)
        mapped = mmap.mmap(descriptor, num_bytes, access=mmap.ACCESS_READ)
        return np.frombuffer(mapped, dtype).reshape(self.capacity, width)

    def _write(self, index: int, image: np.ndarray, content: np.uint64) -> bool:
        """Writes one image; returns False where there is no room or its file is gone.

        By calls and not through the map, in which a full disk would be the end of the process.
        """
        seen = self._seen.pop(index, None) or self._look_at(index)
        if seen is None:
            return False
        record = np.array([content, self._digest(index, image), *seen], np.uint64)
        there = self._records[index]
        pixels_file, records_file = self._descriptors
        try:
            if np.array_equal(there, record) and np.array_equal(self._read(index), image):
                return True  # another process was faster
            if there.any():
                disk.write_at(records_file, _NOTHING, index * _RECORD_BYTES)
            disk.write_at(pixels_file, image, index * self._image_bytes)
            disk.write_at(records_file, record, index * _RECORD_BYTES)
        except OSError as error:
            self._stop_writing(error)
            return False
        return True

    def _stop_writing(self, error: OSError) -> None:
        """Warns, once, that nothing more is kept."""
        with self._lock:
            was_full, self._full = self._full, True
        if not was_full:
            warnings.warn(
                f"The pixel cache {self.path} takes no more images: {error.strerror}. Those that "
                "it does not have are decoded each time.",
                stacklevel=2,
            )

    def _look_at(self, index: int) -> tuple[int, int] | None:
        """Returns size and time of change of an image's file; None where there is none."""
        try:
            status = os.stat(self._images.path(index))
        except OSError:
            return None
        return status.st_size, status.st_ctime_ns

    def _is_sound(self, index: int) -> bool:
        """Returns whether an image that was found on the disk is whole and its file unchanged."""
        _, digest, size, changed = self._records[index].tolist()
        try:
            image = self._read(index)
        except OSError:
            return False
        if len(image) < self._image_bytes or self._digest(index, image) != digest:
            return False
        return self._look_at(index) == (size, changed)

    def _read(self, index: int) -> np.ndarray:
        """Returns what the file has of an image, uint8 `[bytes]`.

        By a call: a fault of the disk is an error there, and in the map the end of the process.
        """
        data = disk.read_at(self._descriptors[0], self._image_bytes, index * self._image_bytes)
        return np.frombuffer(data, np.uint8)

    def _digest(self, index: int, image: np.ndarray) -> int:
        """Returns a digest of an image, above 0: multilinear hashing (Lemire and Kaser 2014).

        Less than half the time of a CRC.
        """
        words = np.zeros(len(self._factors), np.uint64)
        words.view(np.uint8)[: self._image_bytes] = image
        of_pixels = int((words * self._factors).sum(dtype=np.uint64))
        return (of_pixels + self._salt + index * int(self._factors[0])) % 2**64 | 1


def default_directory() -> Path:
    """Returns where pixels are kept unless something else is asked for."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "streamkd" / "pixels"


def _name_of(images: Manifest, canonical: ImageOptions) -> str:
    """Returns a name that is another one wherever an image's number or pixels could be another."""
    digest = hashlib.blake2b(digest_size=12)
    what = {"version": VERSION, "decoder": DECODER, "images": canonical.to_dict()}
    digest.update(json.dumps(what, sort_keys=True).encode())
    digest.update(os.path.abspath(images.root) + b"\0")
    digest.update(images.keys.offsets.tobytes())
    digest.update(images.keys.data.tobytes())
    return digest.hexdigest()


def _capacity(images: Manifest, canonical: ImageOptions, room: int, where: str) -> int:
    """Returns how many images fit into `room` bytes, and warns where that is not all of them."""
    image_bytes = math.prod(canonical.shape) + _RECORD_BYTES
    capacity = min(len(images), room // image_bytes)
    if capacity < len(images):
        warnings.warn(
            f"The pixel cache {where} keeps {capacity:,} of {len(images):,} images: all of them "
            f"take {len(images) * image_bytes / 1e9:.1f} GB, and there is room for "
            f"{room / 1e9:.1f} GB. The others are decoded each time.",
            stacklevel=4,
        )
    return capacity


def _lengthen(descriptor: int, num_bytes: int, *, with_holes: bool) -> None:
    """Makes a file at least so long; never shorter, since others may have it mapped.

    Records are looked at where nothing was written yet, and on a full disk in memory (tmpfs) a look
    into a hole of a mapped file is the end of the process.
    """
    with contextlib.suppress(OSError):  # not every network file system has locks
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        size = os.fstat(descriptor).st_size
        if size < num_bytes and not with_holes and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, size, num_bytes - size)
        elif size < num_bytes:
            os.ftruncate(descriptor, num_bytes)
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)


def _free_memory() -> int:
    """Returns how much memory can be taken now, in bytes; a container's limit counts."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError):
        limit = int((_CONTROL_GROUP / "memory.max").read_text())
        taken = int((_CONTROL_GROUP / "memory.current").read_text())
        lines = (_CONTROL_GROUP / "memory.stat").read_text().splitlines()
        # Files that were read, and are let go of where memory is wanted.
        in_passing = dict(line.split() for line in lines).get("inactive_file", "0")
        free = min(free, limit - taken + int(in_passing))
    return max(free, 0)


def _odd_numbers(count: int) -> np.ndarray:
    """Returns fixed random odd numbers, uint64 `[count]`."""
    numbers = np.random.Generator(np.random.PCG64(20261123)).integers(0, 2**64, count, np.uint64)
    return numbers | np.uint64(1)
