"""RowStore: what one open store file and several read as one have in common.

    store = open_store("teacher.h5")
    images = store.images_of_keys(manifest.keys)           # -1 where absent
    store.gather(images * store.num_views)                 # float32 [N, num_classes], view 0

`LogitStore` is one file, `StoreCollection` several. Row `image * num_views + view` holds the
teacher's logits of one view of one image.
"""

from __future__ import annotations

import abc
from typing import Any

import numpy as np

from streamkd.keys import Keys
from streamkd.reports import Report
from streamkd.store.layout import StoreHeader


class StoreDescription(Report):
    """The contents of a store, as `streamkd inspect --json` prints them.

    Attributes:
      num_images, num_views, num_classes: counts; an image of several stores counts once.
      rows_done, rows_total: rows that are done or were refused, and all rows.
      codec: how logits are stored.
      teacher: name of the teacher, or None.
      teacher_accuracy: fraction of labelled images that the teacher gets right, view 0, or None.
      num_bytes: size of all files.
      num_stores: number of store files.
      stores: paths of the first `MAX_LISTED` store files.
      finished: whether every row is done.
      fingerprint: digest of keys, labels and classes of all images.
      block_rows: rows that are taught and committed at once.
      num_class_names: number of class names; 0 where classes have none.
      class_names: the first `MAX_LISTED` class names.
      images, views, decoder: how pixels were made for the teacher.
      versions: of the libraries that took part.
      activation: 'sigmoid' in the description of a store of independent labels; else absent.
      combination: rule, teachers and weights of several stores read as one; else absent.
      rounded: of a teacher that rounds its probabilities: 'step', and 'floor', what stands for a 0;
        else absent.
    """

    num_images: int
    num_views: int
    num_classes: int
    rows_done: int
    rows_total: int
    codec: str
    teacher: str | None
    teacher_accuracy: float | None
    num_bytes: int
    num_stores: int
    stores: list[str]
    finished: bool
    fingerprint: str
    block_rows: int
    num_class_names: int
    class_names: list[str]
    images: dict[str, Any]
    views: dict[str, Any]
    decoder: str
    versions: dict[str, Any]


class RowStore(abc.ABC):
    """Logits by row, images by key or by content. Safe in threads and after `fork`.

    Attributes:
      path: as text.
      header: everything that was known before the first row.
    """

    path: str
    header: StoreHeader

    @property
    def num_images(self) -> int:
        """Number of different images."""
        return self.header.num_images

    @property
    def num_views(self) -> int:
        """Number of views of each image."""
        return self.header.num_views

    @property
    def num_classes(self) -> int:
        """Number of the teacher's classes."""
        return self.header.num_classes

    @property
    def rows_total(self) -> int:
        """Number of rows of a finished store."""
        return self.header.num_rows

    @property
    @abc.abstractmethod
    def rows_done(self) -> int:
        """Number of rows that are done or were refused."""

    @property
    @abc.abstractmethod
    def finished(self) -> bool:
        """Whether every row is done; a finished store file never changes."""

    @property
    @abc.abstractmethod
    def summary(self) -> dict[str, Any] | None:
        """The teacher's accuracy, known at the end; None while the store is unfinished."""

    @property
    @abc.abstractmethod
    def class_names(self) -> list[str]:
        """The classes in the order of their numbers; empty where they have no names."""

    @abc.abstractmethod
    def digest_of_rows(self) -> str:
        """Returns a digest of every row's checksum: of keys, contents and logits, 4 bytes a row."""

    @abc.abstractmethod
    def images_of_keys(self, keys: Keys) -> np.ndarray:
        """Returns int64 `[N]`, the image of each key; -1 where the store has no such key.

        Raises:
          DamagedStoreError: the index is damaged.
        """

    @abc.abstractmethod
    def images_of_content(self, content: np.ndarray) -> np.ndarray:
        """Returns int64 `[N]`, the image whose file had these bytes; -1 where no image had.

        Args:
          content: uint64 `[N]`, digests of file bytes.
        """

    @abc.abstractmethod
    def content_of(self, images: np.ndarray) -> np.ndarray:
        """Returns uint64 `[N]`, the digest of each file's bytes as the teacher saw them.

        Raises:
          MissingLogitsError: an image that the teacher has not seen yet.
          DamagedStoreError: a row that is not as it was written.
          IndexError: an image that the store does not have.
        """

    @abc.abstractmethod
    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Returns float32 `[B, num_classes]`, the teacher's logits of `rows`, in that order.

        Args:
          rows: int `[B]`; `row = image * num_views + view`.

        Raises:
          MissingLogitsError: a row that is not done, naming its key and view.
          DamagedStoreError: a row that is not as it was written, naming its key and view.
          IndexError: a row that the store does not have.
        """

    @abc.abstractmethod
    def stored_rows(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Returns rows as they lie on the disk, to be copied into another store.

        Args and errors: as in `gather`, except that rows of refused images are returned too.

        Returns:
          The datasets of view parameters and codec, each `[B, …]`, and `done`, uint8 `[B]`.
        """

    @abc.abstractmethod
    def view_parameters(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the parameters of the views that the teacher answered, each `[B, …]`.

        Args and errors: as in `gather`. `views/views.py` says what the parameters mean.
        """

    @abc.abstractmethod
    def done_of(self, rows: np.ndarray) -> np.ndarray:
        """Returns uint8 `[B]`, `done` of each row as `store/layout.py` defines it, unchecked."""

    @abc.abstractmethod
    def partners_of(self, view: int) -> np.ndarray:
        """Returns int64 `[images]`, the image that each image is mixed with in a view, unchecked.

        -1 where an image is not mixed, -2 where its partner is no longer in the store. The row
        itself, which `view_parameters` compares with its checksum, says the same.
        """

    def store_without(self, key: bytes) -> RowStore:
        """Returns the store that lacks the logits of an image: this one, or one of several."""
        return self

    @abc.abstractmethod
    def describe(self) -> StoreDescription:
        """Returns the description that `streamkd inspect` prints."""

    def _in_range(self, noun: str, numbers: np.ndarray, count: int) -> np.ndarray:
        """Returns `numbers` as int64 `[N]`; refuses any that is not from 0 to `count - 1`."""
        numbers = np.asarray(numbers)
        if numbers.dtype.kind not in "iu" and numbers.size:
            raise TypeError(f"{noun} numbers are {numbers.dtype}; give whole numbers")
        numbers = numbers.astype(np.int64, copy=False)
        if numbers.ndim != 1:
            raise ValueError(f"{noun} numbers have shape {numbers.shape}; give one axis")
        outside = numbers.view(np.uint64) >= count  # as unsigned, a negative number is very large
        if outside.any():
            raise IndexError(
                f"{noun} {numbers[outside][0]}; the store {self.path} has 0 to {count - 1:,}"
            )
        return numbers
