"""The columns of a batch: each group knows its types, how it is gathered, and its use in the graph.

    columns = StoredColumns(spec, store)
    columns.gather(slots, {})             # {"stored_digests": …, "teacher_logits": …}, in NumPy
    columns.targets(batch)                # {"teacher_logits": …}, in the graph

A batch has only the columns of the features that its stream has. With several views of a decode, a
file makes several neighbouring rows; a column has a value for each row, or for each file.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from streamkd.keys import hash_keys
from streamkd.pixels.content_digest import digest_each
from streamkd.pixels.file_batch import Files, read_files
from streamkd.pixels.refusals import naming
from streamkd.store.row_store import RowStore
from streamkd.stream.content_check import check_content_digests
from streamkd.stream.stream_spec import StreamSpec
from streamkd.views.render import swapped
from streamkd.views.views import NEUTRAL

# First dimension of a column: rows, files, any number of the files; none for the whole batch.
ROW, FILE, SOME_FILES, BATCH = "row", "file", "some files", "batch"
# Columns of the files that are read; empty if the pixel cache has the whole batch.
READ_COLUMNS = ("paths", "file_bytes", "known_digests")


class Column(NamedTuple):
    """Dtype of a column, shape of one value, and the column's first dimension."""

    dtype: Any
    shape: tuple[int, ...] = ()
    per: str = ROW

    def spec(self, num_rows: int, views_per_decode: int) -> tf.TensorSpec:
        """Returns dtype and static shape in a batch of `num_rows` rows."""
        if self.per == BATCH:
            return tf.TensorSpec(self.shape, self.dtype)
        sizes = {ROW: num_rows, FILE: num_rows // views_per_decode, SOME_FILES: None}
        return tf.TensorSpec((sizes[self.per], *self.shape), self.dtype)


@dataclasses.dataclass(frozen=True)
class Slots:
    """The images and views in the slots of a batch.

    Attributes:
      indices: int64 `[files]`, positions in the manifest.
      epochs: int64 `[units]`, the epoch of each unit of the order.
      rows: int64 `[rows]`, rows of the store; -1 without logits.
      views_per_decode: rows of each file.
    """

    indices: np.ndarray
    epochs: np.ndarray
    rows: np.ndarray
    views_per_decode: int

    @property
    def first_rows(self) -> np.ndarray:
        """int64 `[files]`, the first row of each file."""
        return self.rows[:: self.views_per_decode]

    def per_row(self, values: np.ndarray) -> np.ndarray:
        """Returns the value of each file once for each of its rows."""
        if self.views_per_decode == 1:
            return values
        return np.repeat(values, self.views_per_decode, axis=0)


class Columns(abc.ABC):
    """Columns of a batch that belong together.

    Attributes:
      columns: their types, by name.
    """

    columns: Mapping[str, Column] = {}

    @abc.abstractmethod
    def gather(self, slots: Slots, gathered: dict[str, Any]) -> dict[str, Any]:
        """Returns the values for the slots of a batch; `gathered` has those of earlier groups."""

    def changed_files(self, batch: dict[str, Any], files: Files) -> list[int]:
        """Returns positions of files that are not the ones the teacher answered, in NumPy."""
        return []

    def checks(self, batch: dict[str, tf.Tensor], digests: tf.Tensor) -> list[tf.Tensor]:
        """Returns operations that fail if a file is not the one the teacher answered.

        Args:
          batch: all columns.
          digests: uint64 `[files]`, content digests of the bytes just read.
        """
        return []

    def targets(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the targets that a student gets from these columns."""
        return {}


class ImageColumns(Columns):
    """Image, label, row and weight of every slot, from the manifest and the join."""

    columns: Mapping[str, Column] = {
        "indices": Column(tf.int64, per=FILE),
        "labels": Column(tf.int32),
        "rows": Column(tf.int64),
        "weights": Column(tf.float32),
    }

    def __init__(self, spec: StreamSpec) -> None:
        self._labels = spec.labels
        self._weights = spec.images.weights
        self._multi_hot = spec.multi_hot
        if spec.multi_hot is not None:
            column = Column(tf.int8, (spec.num_classes,))
            self.columns = {**self.columns, "multi_hot": column}

    def gather(self, slots: Slots, gathered: dict[str, Any]) -> dict[str, Any]:
        columns = {
            "indices": slots.indices,
            "labels": slots.per_row(self._labels[slots.indices]),
            "rows": slots.rows,
            "weights": self._weights_of(slots),
        }
        if self._multi_hot is not None:
            columns["multi_hot"] = slots.per_row(self._multi_hot[slots.indices])
        return columns

    def _weights_of(self, slots: Slots) -> np.ndarray:
        weights = np.ones(len(slots.rows), np.float32)
        if self._weights is not None:
            weights *= slots.per_row(self._weights[slots.indices])
        return weights

    def unusable(self, batch: dict[str, Any], bad: np.ndarray) -> np.ndarray:
        """Returns bool `[rows]`, the rows that show a bad image, in NumPy; `bad` is their own."""
        return bad

    def targets(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        labels = batch["labels"]
        return _label_targets(batch, labels, tf.ones(labels.shape, tf.float32))


class MixedImageColumns(ImageColumns):
    """The same for images that are mixed in pairs: neighbours in a batch are partners."""

    def _weights_of(self, slots: Slots) -> np.ndarray:
        weights = super()._weights_of(slots)
        # An odd image fills both slots of its pair, and counts once.
        weights[1::2][slots.indices[0::2] == slots.indices[1::2]] = 0
        return weights

    def unusable(self, batch: dict[str, Any], bad: np.ndarray) -> np.ndarray:
        bad_partner = bad.reshape(-1, 2)[:, ::-1].reshape(-1)
        return bad | (bad_partner & (batch["view_partner"] >= 0))

    def targets(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        share = batch["view_share"]
        return _label_targets(batch, swapped(batch["labels"]), share, mixed=True)


def _label_targets(
    batch: dict[str, tf.Tensor],
    partner_labels: tf.Tensor,
    share: tf.Tensor,
    *,
    mixed: bool = False,
) -> dict[str, tf.Tensor]:
    targets = {
        "labels": tf.stack([batch["labels"], partner_labels], axis=1),
        "label_shares": tf.stack([share, 1 - share], axis=1),
        "rows": batch["rows"],
    }
    if "multi_hot" in batch:
        own = tf.cast(batch["multi_hot"], tf.float32)
        targets["multi_hot"] = tf.stack([own, swapped(own) if mixed else own], axis=1)
    return targets


class StoredColumns(Columns):
    """The teacher's logits, and the digest of the file that the teacher answered.

    A row without logits (-1) gets zeros, which the loss leaves out.
    """

    def __init__(self, spec: StreamSpec, store: RowStore) -> None:
        self._store = store
        self._images = spec.images
        self._views_per_decode = spec.views_per_decode
        self._teacher_columns = spec.teacher_columns
        self.columns = {
            "stored_digests": Column(tf.uint64, per=FILE),
            "teacher_logits": Column(tf.float32, (spec.num_classes,)),
        }

    def gather(self, slots: Slots, gathered: dict[str, Any]) -> dict[str, Any]:
        first_rows = slots.first_rows
        has_logits = first_rows >= 0
        digests = np.zeros(len(first_rows), np.uint64)
        image_numbers = first_rows[has_logits] // self._store.num_views
        digests[has_logits] = self._store.content_of(image_numbers)
        logits = _of_stored_rows(slots.rows, self._logits)
        return {"stored_digests": digests, **logits}

    def _logits(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        logits = self._store.gather(rows)
        if self._teacher_columns is not None:
            logits = self._teacher_columns.of(logits)
        return {"teacher_logits": logits}

    def changed_files(self, batch: dict[str, Any], files: Files) -> list[int]:
        digests = np.where(files.known_digests, files.known_digests, digest_each(files.file_bytes))
        has_logits = batch["rows"][:: self._views_per_decode] >= 0
        # The cache compares its images when they are taken from it.
        compared = has_logits & ~files.bad & ~batch.get("cached", np.False_)
        return np.flatnonzero((digests != batch["stored_digests"]) & compared).tolist()

    def checks(self, batch: dict[str, tf.Tensor], digests: tf.Tensor) -> list[tf.Tensor]:
        rows = batch["rows"]
        if self._views_per_decode > 1:
            rows = rows[:: self._views_per_decode]
        for name in ("bad", "cached"):  # cached images were compared when they were looked up
            if name in batch:
                rows = tf.where(batch[name], tf.constant(-1, tf.int64), rows)
        stored = batch["stored_digests"]
        return [check_content_digests(self._images, batch["paths"], digests, stored, rows)]

    def targets(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {"teacher_logits": batch["teacher_logits"]}


class ReplayedViewColumns(Columns):
    """Parameters of views, from the store; a row without logits is shown plain."""

    def __init__(self, spec: StreamSpec, store: RowStore) -> None:
        self._store = store
        self.columns = _view_columns(spec)

    def gather(self, slots: Slots, gathered: dict[str, Any]) -> dict[str, Any]:
        return _of_stored_rows(slots.rows, self._store.view_parameters)


class IndependentViewColumns(Columns):
    """Parameters of views that are drawn anew for every epoch."""

    def __init__(self, spec: StreamSpec) -> None:
        self._keys = spec.images.keys
        self._seed = spec.seed
        self._drawn = dataclasses.replace(spec.shown, count=spec.views_per_decode)
        self.columns = _view_columns(spec)

    def gather(self, slots: Slots, gathered: dict[str, Any]) -> dict[str, Any]:
        hashes = hash_keys(self._keys.take(slots.indices))
        columns: dict[str, np.ndarray] = {}
        for epoch in np.unique(slots.epochs).tolist():
            seed = (self._seed * 1_000_003 + epoch) % 2**32
            of_epoch = slots.epochs == epoch
            for name, values in dataclasses.replace(self._drawn, seed=seed).draw(hashes).items():
                column = columns.setdefault(name, values[:, 1:].copy())
                column[of_epoch] = values[of_epoch, 1:]
        return {name: column.reshape(-1, *column.shape[2:]) for name, column in columns.items()}


class FileColumns(Columns):
    """Paths and bytes of the files of a batch.

    Attributes:
      skipped: reasons of the images that are left out, by their positions in the manifest. They are
        black, and marked in the column `bad`; without `on_bad="skip"` a bad file is an error.
    """

    def __init__(self, spec: StreamSpec) -> None:
        self.skipped: dict[int, str] = {}
        self._images = spec.images
        self._options_for_files = spec.options.for_files()
        self._skips = spec.on_bad == "skip"
        self.columns = {
            "paths": Column(tf.string, per=FILE),
            "file_bytes": Column(tf.string, per=FILE),
            "known_digests": Column(tf.uint64, per=FILE),
            "one_size": Column(tf.bool, per=BATCH),
            **({"bad": Column(tf.bool, per=FILE)} if self._skips else {}),
        }

    def gather(self, slots: Slots, gathered: dict[str, Any]) -> dict[str, Any]:
        paths, files = self._read(slots.indices, self._known_bad(slots.indices))
        return {"paths": paths, **files._asdict()}

    def _known_bad(self, indices: np.ndarray) -> np.ndarray:
        """Returns bool `[files]`, the images that were skipped before."""
        if not self.skipped:
            return np.zeros(len(indices), bool)
        return np.array([index in self.skipped for index in indices.tolist()])

    def _read(self, indices: np.ndarray, known_bad: np.ndarray) -> tuple[np.ndarray, Files]:
        """Returns paths and bytes of files; files known to be bad are left unread."""
        paths = self._images.paths(indices)

        def skip(position: int, reason: str) -> None:
            self.skipped[int(indices[position])] = reason

        with naming(self._images):
            files = read_files(
                paths,
                report_bad=skip if self._skips else None,
                known_bad=known_bad if known_bad.any() else None,
                **self._options_for_files,
            )
        return np.array(paths, object), files


def _view_columns(spec: StreamSpec) -> dict[str, Column]:
    return {
        name: Column(tf.as_dtype(np.dtype(dtype)), shape)
        for name, (dtype, shape) in spec.shown.datasets().items()
    }


def _of_stored_rows(
    rows: np.ndarray, read: Callable[[np.ndarray], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Returns columns that `read` returns for rows, with neutral values for rows without logits."""
    present = np.flatnonzero(rows >= 0)
    columns = read(rows[present])
    if len(present) == len(rows):
        return columns
    return {name: _spread(name, values, present, len(rows)) for name, values in columns.items()}


def _spread(name: str, values: np.ndarray, present: np.ndarray, num_rows: int) -> np.ndarray:
    """Returns `[num_rows, …]`, values in the slots `present` and neutral values elsewhere."""
    column = np.empty((num_rows, *values.shape[1:]), values.dtype)
    column[:] = np.asarray(NEUTRAL.get(name, 0), values.dtype)
    column[present] = values
    return column
