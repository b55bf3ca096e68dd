"""The files of a batch: read, and left out where they are bad and the stream skips them.

files = FileColumns(spec)
files.gather(slots, {})              # {"paths": …, "file_bytes": …, "known_digests": …}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.pixels.file_batch import Files, read_files
from streamkd.stream.columns import BATCH, FILE, Column, Columns, Slots
from streamkd.stream.stream_spec import StreamSpec

# Columns that only files need that are read; empty where the pixel cache has the whole batch.
READ_COLUMNS = ("paths", "file_bytes", "known_digests")


class FileReader:
    """Reads files; the first that is bad is an error.

    Attributes:
      columns: the columns that the reader adds to a batch.
      skipped: images that are left out, and why, by their positions in the manifest.
    """

    columns: Mapping[str, Column] = {}

    def __init__(self, spec: StreamSpec) -> None:
        self.skipped: dict[int, str] = {}
        self._images = spec.images
        self._max_pixels = spec.options.max_pixels

    def known_bad(self, indices: np.ndarray) -> np.ndarray:
        """Returns bool `[files]`, the images that were skipped before."""
        return np.zeros(len(indices), bool)

    def read(self, indices: np.ndarray, known_bad: np.ndarray) -> tuple[np.ndarray, Files]:
        """Returns paths and bytes of the files of some images.

        Args:
          indices: int64 `[files]`.
          known_bad: bool `[files]`, files that are left unread.
        """
        paths = self._images.paths(indices)
        files = read_files(paths, max_pixels=self._max_pixels)
        return np.array(paths, object), files


class SkippingFileReader(FileReader):
    """Reads files; black pixels stand in for those that are bad."""

    columns: Mapping[str, Column] = {"bad": Column(tf.bool, per=FILE)}

    def known_bad(self, indices: np.ndarray) -> np.ndarray:
        if not self.skipped:
            return super().known_bad(indices)
        return np.array([index in self.skipped for index in indices.tolist()])

    def read(self, indices: np.ndarray, known_bad: np.ndarray) -> tuple[np.ndarray, Files]:
        paths = self._images.paths(indices)

        def skip(position: int, reason: str) -> None:
            self.skipped[int(indices[position])] = reason

        known = known_bad if known_bad.any() else None
        files = read_files(paths, report_bad=skip, known_bad=known, max_pixels=self._max_pixels)
        return np.array(paths, object), files


class FileColumns(Columns):
    """Paths and bytes of every file of a batch.

    Attributes:
      reader: how a bad file is met.
    """

    def __init__(self, spec: StreamSpec) -> None:
        self.reader = SkippingFileReader(spec) if spec.on_bad == "skip" else FileReader(spec)
        self.columns = {
            "paths": Column(tf.string, per=FILE),
            "file_bytes": Column(tf.string, per=FILE),
            "known_digests": Column(tf.uint64, per=FILE),
            "one_size": Column(tf.bool, per=BATCH),
            **self.reader.columns,
        }

    def gather(self, slots: Slots, gathered: dict[str, Any]) -> dict[str, Any]:
        known_bad = self.reader.known_bad(slots.indices)
        paths, files = self.reader.read(slots.indices, known_bad)
        return {"paths": paths, **files._asdict()}
