"""The reader: rows of a store by number, images by key, and nothing that was not written.

    store = LogitStore("teacher.h5")
    images = store.images_of_keys(manifest.keys)           # -1 where absent
    store.gather(images * store.num_views)                 # float32 [N, num_classes], view 0

HDF5 validates the file when it is opened and is closed at once. Rows come from the mapped file:
25 times faster than the best indexing of h5py, without a lock, safe in threads and after `fork`.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np

from streamkd.errors import MissingLogitsError, readable_key
from streamkd.keys import Keys
from streamkd.public import public
from streamkd.store import codecs, key_index
from streamkd.store.checksums import (
    check_single_rows,
    count_settled,
    read_summary,
    row_datasets,
    view_datasets,
)
from streamkd.store.creation import decode_class_names
from streamkd.store.layout import DONE, NOT_DONE, StoreHeader
from streamkd.store.store_file import Io, StoreFile
from streamkd.store.userblock import damaged, digest

MAX_LISTED = 100


@public
class LogitStore:
    """One open store file; an unfinished one as well. `collection.open_store` adds its deltas.

    Safe in threads and after `fork`; pickled as its path.

    Attributes:
      path: as text.
      io: how rows are read: 'mmap', or 'pread' for network file systems on which mapping is unsafe;
        static data is then read into memory when it is first needed, and a row costs about 3 µs
        more.
      header: what was known before the first row.

    Raises:
      StoreError: no such file, no store, or damaged; the message says which.
    """

    def __init__(self, path: str | os.PathLike[str], io: Io = "mmap") -> None:
        self.io: Io = io
        self._file = StoreFile(path, io=io)
        self.path: str = self._file.path
        self.header: StoreHeader = self._file.header
        self._codec = codecs.get(self.header.codec)
        self._row_datasets = row_datasets(self._file)
        self._view_datasets = view_datasets(self._file)
        # Where the file is mapped: looking the place of a dataset up at each read took 20 µs.
        self._mapped = {
            name: self._file.read(name).reshape(-1, *self._shape_of_row(name))
            for name in [*self._row_datasets, "content", "done"]
            if io == "mmap"
        }
        # One bit a row: whether it was found to be as written. Memory is taken as rows are read.
        self._good_rows = np.zeros(-(-self.rows_total // 8), np.uint8)
        self._keys: Keys | None = None
        self._labels: np.ndarray | None = None
        self._class_names: list[str] | None = None
        self._index_is_sound = False
        self._by_content: tuple[np.ndarray, np.ndarray] | None = None

    def __repr__(self) -> str:
        return f"LogitStore({self.path!r}, {self.num_images:,} images, {self.header.codec})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (
            _reopen,
            (os.path.abspath(self.path), self.io, self.digest),
        )

    @property
    def num_images(self) -> int:
        return self.header.num_images

    @property
    def num_views(self) -> int:
        return self.header.num_views

    @property
    def num_classes(self) -> int:
        return self.header.num_classes

    @property
    def rows_total(self) -> int:
        return self.header.num_rows

    @property
    def rows_done(self) -> int:
        """Rows that are done or were refused; counted in the file, 1 byte a row."""
        return count_settled(self._file)

    def first_done_block(self) -> int | None:
        """Returns the first block of which every row is done; None where there is none."""
        images = self.header.block_rows // self.num_views
        for block in range(self.header.num_blocks):
            stop = min((block + 1) * images, self.num_images)
            if (self._file.read("done", block * images, stop) == DONE).all():
                return block
        return None

    @property
    def digest(self) -> str:
        """Digest of all that was known before the first row: header, keys, labels, classes."""
        return digest(self._file.userblock.pack())

    def digest_of_rows(self) -> str:
        """Returns a digest of every row's checksum: of keys, contents and logits, 4 bytes a row."""
        rows = hashlib.blake2b(digest_size=16)
        rows.update(self._file.read("row_crc32").data)
        return rows.hexdigest()

    @property
    def summary(self) -> dict[str, Any] | None:
        """What is known only at the end; None while the store is unfinished."""
        return read_summary(self._file)

    @property
    def finished(self) -> bool:
        """Whether every row is there; from then on the file never changes."""
        return self.summary is not None

    @property
    def keys(self) -> Keys:
        """The keys of all images, sorted; not copied where the file is mapped."""
        if self._keys is None:
            self._keys = self._file.read_keys()
        return self._keys

    @property
    def labels(self) -> np.ndarray:
        """int32 `[num_images]`, -1 where there is none."""
        if self._labels is None:
            self._file.check_static("labels")
            self._labels = self._file.read("labels")
        return self._labels

    @property
    def class_names(self) -> list[str]:
        """The classes in order of their numbers; empty where they have no names."""
        if self._class_names is None:
            self._file.check_static("class_bytes", "class_offsets")
            names = Keys(self._file.read("class_bytes"), self._file.read("class_offsets"))
            self._class_names = decode_class_names(names)
        return self._class_names

    def images_of_keys(self, keys: Keys) -> np.ndarray:
        """Returns int64 `[N]`, the image of each key; -1 where the store has no such key.

        Raises:
          DamagedStoreError: the index is damaged.
        """
        found = key_index.find(self._file, self.keys, keys)
        if not self._index_is_sound and (found < 0).any():
            # A hit is compared with the key itself. A miss is believed only if the index is as it
            # was written: 1 s for 1 GB, against 2 µs a key for the look-ups.
            self._file.check_static("key_bytes", "key_offsets", "key_hash", "key_row")
            self._index_is_sound = True
        return found

    def images_of_content(self, content: np.ndarray) -> np.ndarray:
        """Returns int64 `[N]`, the image whose file had these bytes; -1 where there is none.

        Args:
          content: uint64 `[N]`, digests. Of several images with the same bytes it is the first.

        The index is made on first use, from the images that are done: 16 bytes an image.
        """
        if self._by_content is None:
            self._by_content = self._index_content()
        sorted_content, images = self._by_content
        content = np.asarray(content, np.uint64)
        if not len(images):
            return np.full(content.shape, -1, np.int64)
        place = np.minimum(np.searchsorted(sorted_content, content), len(images) - 1)
        return np.where(sorted_content[place] == content, images[place], -1)

    def content_of(self, images: np.ndarray) -> np.ndarray:
        """Returns uint64 `[N]`, the digest of each file's bytes as the teacher saw them.

        Raises:
          MissingLogitsError: an image that the teacher has not seen yet.
          DamagedStoreError: a row that is not as it was written.
        """
        images = self._in_range("image", images, self.num_images)
        self._check(images * self.num_views, allow_refused=True)
        return self._read_rows("content", images)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Returns float32 `[B, num_classes]`, the teacher's logits of `rows`, in that order.

        A row is compared with its checksum when it is first read, once for this reader: 3 to 5 µs,
        which on every read would be most of the cost.

        Args:
          rows: int `[B]`; `row = image * num_views + view`.

        Raises:
          MissingLogitsError: a row that is not done, naming its key and view.
          DamagedStoreError: a row that is not as it was written, naming its key and view.
          IndexError: a row that the store does not have.
        """
        rows = self._in_range("row", rows, self.rows_total)
        self._check(rows, allow_refused=False)
        try:
            logits = self._read_all(rows, self._row_datasets[len(self._view_datasets) :])
            return self._codec.decode(logits, self.num_classes)
        except codecs.ImpossibleRowError as error:
            raise self._impossible(int(rows[error.index])) from error

    def stored_rows(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Returns rows as they lie on the disk, to be copied into another store.

        Args and errors: as in `gather`, except that rows of refused images are given out too.

        Returns:
          The datasets of the view's parameters and of the codec, each `[B, …]`, and uint8 `[B]`,
          what `done` says of each row.
        """
        rows = self._in_range("row", rows, self.rows_total)
        self._check(rows, allow_refused=True)
        return self._read_all(rows, self._row_datasets), self.done_of(rows)

    def view_parameters(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the parameters of the views that the teacher answered, each `[B, …]`.

        Args and errors: as in `gather`. See `views/views.py` for what they are.
        """
        rows = self._in_range("row", rows, self.rows_total)
        self._check(rows, allow_refused=False)
        return self._read_all(rows, self._view_datasets)

    def done_of(self, rows: np.ndarray) -> np.ndarray:
        """Returns uint8 `[B]`, what `done` says of each row, unchecked: see `store/layout.py`."""
        rows = self._in_range("row", rows, self.rows_total)
        return self._read_rows("done", rows)

    def partners_of(self, view: int) -> np.ndarray:
        """Returns int64 `[num_images]`, who each image is mixed with in a view, unchecked.

        -1 where it is not mixed, -2 where its partner is no longer in the store. The row itself,
        which `view_parameters` compares with its checksum, says the same.
        """
        return np.array(self._file.read("view_partner")[:, view])

    def describe(self) -> dict[str, Any]:
        """Returns what the store holds, as `streamkd inspect --json` prints it."""
        summary, names = self.summary or {}, self.class_names
        return {
            "num_images": self.num_images,
            "num_views": self.num_views,
            "num_classes": self.num_classes,
            "rows_done": self.rows_done,
            "rows_total": self.rows_total,
            "codec": self.header.codec,
            "teacher": self.header.teacher.get("name"),
            "teacher_accuracy": summary.get("teacher_accuracy"),
            "num_bytes": self._file.userblock.file_size,
            "num_stores": 1,
            "stores": [self.path],
            "finished": self.finished,
            "fingerprint": self.header.fingerprint,
            "block_rows": self.header.block_rows,
            "num_class_names": len(names),
            "class_names": names[:MAX_LISTED],
            "images": self.header.images,
            "views": self.header.views,
            "decoder": self.header.decoder,
            "versions": self.header.versions,
        }

    def _read_all(self, rows: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
        return {name: self._read_rows(name, rows) for name in names}

    def _read_rows(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Returns a copy of single entries; `rows` have been checked to be in range."""
        if self._mapped:  # 'clip' saves a second look at the range
            return self._mapped[name].take(rows, 0, mode="clip")
        return np.array(self._file.read_rows(name, rows, self._shape_of_row(name)))

    def _shape_of_row(self, name: str) -> tuple[int, ...]:
        """Returns the shape of one entry: what follows the axes of images and views."""
        return self._file.spec(name).shape[2:]

    def _check(self, rows: np.ndarray, *, allow_refused: bool) -> None:
        """Refuses rows that are not done or not as they were written."""
        bytes_of_rows, bits = rows >> 3, (1 << (rows & 7)).astype(np.uint8)
        unseen = (self._good_rows[bytes_of_rows] & bits) == 0
        if not unseen.any():
            return
        new = np.unique(rows[unseen])
        done, good = check_single_rows(self._file, self.keys, new)
        wrong = np.flatnonzero(~good | ((done != DONE) & (not allow_refused)))
        if len(wrong):
            raise self._refusal(int(new[wrong[0]]), int(done[wrong[0]]), bool(good[wrong[0]]))
        # A refused row has no logits, so that whoever asks for them is told again. A bit that
        # another thread sets at the same moment may be lost, and its row is compared once more.
        new = new[done == DONE]
        np.bitwise_or.at(self._good_rows, new >> 3, (1 << (new & 7)).astype(np.uint8))

    def _refusal(self, row: int, done: int, good: bool) -> Exception:
        """Returns the error for a row that cannot be had."""
        image, view = divmod(row, self.num_views)
        key = self.keys[image]
        where = f"'{readable_key(key)}', view {view} (row {row:,})"
        if done == NOT_DONE:
            return MissingLogitsError(
                f"The store {self.path} has no logits of {where} yet: "
                f"{self.rows_done:,} of {self.rows_total:,} rows are done.\n"
                "Run the same `streamkd teach` again to continue.",
                key=key,
            )
        if good:
            return MissingLogitsError(
                f"The store {self.path} has no logits of {where}: the image could not be decoded "
                "when the teacher was asked, and was skipped.\n"
                "Leave it out of the training images: `--missing drop`.",
                key=key,
            )
        error = damaged(self.path, f"the row of {where} does not have its checksum")
        error.key = key
        return error

    def _impossible(self, row: int) -> Exception:
        """Returns the error for a row that has its checksum and that no writer wrote."""
        image, view = divmod(row, self.num_views)
        where = f"'{readable_key(self.keys[image])}', view {view} (row {row:,})"
        fault = f"the row of {where} is not one that the codec {self.header.codec} writes"
        error = damaged(self.path, fault)
        error.key = self.keys[image]
        return error

    def _index_content(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the digests of all images that are done, sorted, and their images."""
        done = (self._file.read("done") == DONE).any(axis=1)
        images = np.flatnonzero(done)
        content = self._file.read("content")[images]
        order = np.argsort(content, kind="stable")
        return content[order], images[order]

    def _in_range(self, what: str, numbers: np.ndarray, count: int) -> np.ndarray:
        numbers = np.asarray(numbers)
        if numbers.dtype.kind not in "iu" and numbers.size:
            raise TypeError(f"{what} numbers are {numbers.dtype}; give whole numbers")
        numbers = numbers.astype(np.int64, copy=False)
        if numbers.ndim != 1:
            raise ValueError(f"{what} numbers have shape {numbers.shape}; give one axis")
        wrong = numbers.view(np.uint64) >= count  # as unsigned, what is negative is very large
        if wrong.any():
            raise IndexError(
                f"{what} {numbers[wrong][0]}; the store {self.path} has 0 to {count - 1:,}"
            )
        return numbers


def _reopen(path: str, io: Io, userblock_digest: str) -> LogitStore:
    """Returns the store that was pickled; another file in its place is refused."""
    store = LogitStore(path, io)
    if store.digest != userblock_digest:
        raise damaged(path, "it was replaced by another store since it was opened elsewhere")
    return store
