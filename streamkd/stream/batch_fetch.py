"""Fetches batches: bytes of files, labels, stored logits and parameters of views.

    columns = BatchColumns(spec)
    fetcher = BatchFetcher(spec, sequence, columns)
    batch = fetcher.fetch(numbers, sequence)         # in the graph: a dict of tensors

Everything here is done by the batch, in NumPy, within one Python call that tf.data makes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.errors import StreamkdError
from streamkd.pixels.bad_images import leave_out_undecodable, why_undecodable
from streamkd.pixels.file_batch import Files, leave_out
from streamkd.pixels.refusals import undecodable
from streamkd.stream.cache.cached_images import CachedImages
from streamkd.stream.columns import (
    Columns,
    FileColumns,
    ImageColumns,
    IndependentViewColumns,
    MixedImageColumns,
    ReplayedViewColumns,
    Slots,
    StoredColumns,
)
from streamkd.stream.order.sequence import Sequence
from streamkd.stream.stream_spec import StreamSpec
from streamkd.tf_support.python_calls import python_call

# Reason for skipping an image that can be decoded.
CHANGED_REASON = "it is not the file that the teacher answered"


class BatchColumns:
    """All columns of a stream's batches, in the order in which they are gathered.

    Attributes:
      images: labels and weights.
      files: bytes of files; with a pixel cache, of the images that are not in it.
      cached: `files` of a stream with a pixel cache, else None.
      groups: all of them.
    """

    def __init__(self, spec: StreamSpec) -> None:
        self.images = MixedImageColumns(spec) if spec.is_mixed else ImageColumns(spec)
        self.cached = None if spec.cache is None else CachedImages(spec, spec.cache)
        self.files = self.cached or FileColumns(spec)
        # Files come last: the pixel cache asks for the stored digests.
        self.groups = [self.images, *_store_columns(spec), self.files]

    def checks(self, batch: dict[str, tf.Tensor], digests: tf.Tensor) -> list[tf.Tensor]:
        """Returns the checks of all columns; see `Columns.checks`."""
        return [check for group in self.groups for check in group.checks(batch, digests)]

    def targets(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the targets of a batch, by name."""
        return {n: part for group in self.groups for n, part in group.targets(batch).items()}


def _store_columns(spec: StreamSpec) -> list[Columns]:
    """Returns the columns that are read from the store, or drawn instead of its views."""
    groups: list[Columns] = []
    if spec.store is not None:
        groups.append(StoredColumns(spec, spec.store))
    if spec.independent is not None:
        groups.append(IndependentViewColumns(spec))
    elif spec.store is not None and spec.shown.datasets():
        groups.append(ReplayedViewColumns(spec, spec.store))
    return groups


class BatchFetcher:
    """Fetches the columns of batches.

    Attributes:
      rescue: graph function that leaves undecodable files out of a batch; None if the first such
        file is an error.
      explain: graph function of the numbers and the order of batches that could not be decoded,
        which raises the refusal of their first bad file. So a loop that TensorFlow runs, as in
        Keras' `fit`, reads the name in TensorFlow's error. None where every file is the one that
        the teacher answered, and is good.
    """

    def __init__(self, spec: StreamSpec, sequence: Sequence, columns: BatchColumns) -> None:
        self.rescue = self._rescued if spec.on_bad == "skip" else None
        all_answered = spec.store is not None and (spec.rows >= 0).all()
        self.explain = None if all_answered else self._explained
        self._spec = spec
        self._sequence = sequence
        self._columns = columns
        self._types = {n: c for group in columns.groups for n, c in group.columns.items()}

    @property
    def skipped(self) -> dict[int, str]:
        """Reasons of the images that are left out, by their positions in the manifest."""
        return self._columns.files.skipped

    def fetch(
        self, numbers: tf.Tensor, sequence: Sequence, *, from_cache: bool = False
    ) -> dict[str, tf.Tensor]:
        """Returns the columns of batches, in the graph.

        Args:
          numbers: int64 `[batches]`, the numbers of the batches.
          sequence: of the stream, or of the pieces of its batches.
          from_cache: fail where an image is not in the pixel cache.
        """
        num_rows = numbers.shape[0] * sequence.batch_size
        gather = self._gather_cached if from_cache else self._gather
        return self._call(gather, sequence.units(numbers), num_rows)

    def _rescued(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns a batch without the files that cannot be decoded."""
        arguments = [batch[name] for name in self._types]
        return self._call(self._leave_out_bad, arguments, batch["rows"].shape[0])

    def _explained(self, numbers: tf.Tensor, sequence: Sequence) -> tf.Tensor:
        spec = {"never": tf.TensorSpec((), tf.bool)}
        return python_call(self._refuse_bad, sequence.units(numbers), spec)["never"]

    def _call(
        self, function: Callable[..., dict[str, Any]], arguments: Any, num_rows: int
    ) -> dict[str, tf.Tensor]:
        per_file = self._spec.views_per_decode
        specs = {name: column.spec(num_rows, per_file) for name, column in self._types.items()}
        return python_call(function, arguments, specs)

    def _gather(self, units: np.ndarray, epochs: np.ndarray) -> dict[str, Any]:
        indices, views = self._sequence.images_and_views(units, epochs)
        first = self._spec.rows[indices]
        rows = np.where(first[:, None] < 0, -1, first[:, None] + views).reshape(-1)
        slots = Slots(indices, epochs, rows, self._spec.views_per_decode)
        batch: dict[str, Any] = {}
        for group in self._columns.groups:
            batch |= group.gather(slots, batch)
        return self._weighed(batch) if self.skipped else batch

    def _gather_cached(self, units: np.ndarray, epochs: np.ndarray) -> dict[str, Any]:
        batch = self._gather(units, epochs)
        if not batch["cached"].all():
            raise LookupError("An image is not in the pixel cache.")
        return batch

    def _refuse_bad(self, units: np.ndarray, epochs: np.ndarray) -> dict[str, Any]:
        batch = self._gather(units, epochs)
        for position, data in enumerate(batch["file_bytes"]):
            reason = why_undecodable(data, self._spec.options)
            if reason is not None:
                raise undecodable(self._spec.images, batch["paths"][position], reason)
        raise StreamkdError(
            "A batch could not be decoded, and all its files are good when they are read again.\n"
            "Look at the disk, and start again."
        )

    def _leave_out_bad(self, *values: Any) -> dict[str, Any]:
        batch: dict[str, Any] = dict(zip(self._types, values, strict=True))
        files = Files(*(batch[name] for name in Files._fields))
        files, reasons = leave_out_undecodable(files, self._spec.options)
        changed = [n for group in self._columns.groups for n in group.changed_files(batch, files)]
        files = leave_out(files, changed)
        for position, reason in (reasons | dict.fromkeys(changed, CHANGED_REASON)).items():
            self.skipped[int(batch["indices"][position])] = reason
        return self._weighed(batch | files._asdict())

    def _weighed(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Returns the batch with weight 0 for the rows that show a bad image."""
        bad = np.repeat(batch["bad"], self._spec.views_per_decode)
        unusable = self._columns.images.unusable(batch, bad)
        return {**batch, "weights": np.where(unusable, np.float32(0), batch["weights"])}
