"""Several stores read as one: a base and its deltas, or the shards of one pass.

    store = open_store("teacher.h5")        # with the deltas in teacher.h5.index, if any
    store = open_store("shards.index")
    link_stores(["shard-1.h5", "shard-2.h5"], "shards.index")

A `StoreCollection` is used like a `LogitStore`. Images and rows are numbered across all stores:
those of the first store, then those of the second. The last store that has an image counts; the
rows that the image had before keep their numbers, and can be looked up by content.
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from streamkd.errors import OptionError
from streamkd.file_access import Io
from streamkd.keys import Keys
from streamkd.manifest.fingerprint import fingerprint
from streamkd.public import public
from streamkd.reports import MAX_LISTED
from streamkd.store import store_list
from streamkd.store.layout import StoreHeader
from streamkd.store.reader import LogitStore
from streamkd.store.row_store import RowStore, StoreDescription
from streamkd.store.same_pass import check_same_pass, effective_images
from streamkd.store.store_list import ListedStore, StoreList, damaged_index
from streamkd.views.views import Views


@public
def open_store(path: str | os.PathLike[str] | RowStore, io: Io | None = None) -> RowStore:
    """Returns a store for reading, together with its deltas.

    Args:
      path: of a store, whose deltas `PATH.index` lists, or of an index file. A store that is
        open already is returned as it is.
      io: 'mmap', or 'pread' for network file systems on which mapping is unsafe; by default as in
        `file_settings`, which is 'mmap' unless it was set otherwise.

    Raises:
      OptionError: neither a path nor a store.
      StoreError: no such file, no store, or damaged; the message says which.
    """
    if isinstance(path, RowStore):
        return path
    if not isinstance(path, str | bytes | os.PathLike):
        several = " To read several as one: kd.combine_stores([…])." * isinstance(path, Iterable)
        raise OptionError(
            f"The store is of the type {type(path).__name__}, not a path or an open store."
            f"\nGive one path, such as 'teacher.h5'.{several}"
        )
    path = os.fsdecode(path)
    if not path:
        raise OptionError("The path of the store is empty.\nGive one path, such as 'teacher.h5'.")
    if store_list.is_index_file(path):
        return _open_listed(path, io)
    index_path = store_list.index_beside(path)
    if os.path.lexists(path) and os.path.lexists(index_path):
        return _open_listed(index_path, io, path)
    return LogitStore(path, io)


def _open_listed(index_path: str, io: Io | None, base: str | None = None) -> StoreCollection:
    """Returns the stores that an index file lists, each compared with its listed digest."""
    index = store_list.read_index_file(index_path)
    folder = os.path.dirname(index_path)
    stores = []
    for listed in index.stores:
        path = os.path.join(folder, listed.path)
        if not os.path.lexists(path):
            raise damaged_index(index_path, f"it lists {path}, which does not exist")
        store = LogitStore(path, io)
        if store.digest != listed.digest:
            raise damaged_index(index_path, f"{path} is not the store that was listed")
        stores.append(store)
    if base is not None and os.path.basename(base) != index.stores[0].path:
        raise damaged_index(index_path, f"it belongs to {index.stores[0].path}, not to {base}")
    return _listed_by(index, base or index_path, stores)


def _listed_by(index: StoreList, path: str, stores: Sequence[LogitStore]) -> StoreCollection:
    return StoreCollection(path, stores, num_images=index.num_images, fingerprint=index.fingerprint)


def flatten(stores: Sequence[RowStore]) -> list[LogitStore]:
    """Returns the store files behind stores and collections, in order.

    Raises:
      OptionError: a combination of several teachers, whose files are not of one pass.
    """
    files: list[LogitStore] = []
    for store in stores:
        if isinstance(store, StoreCollection):
            files += store.stores
        elif isinstance(store, LogitStore):
            files.append(store)
        else:
            raise OptionError(
                f"{store.path} combines several teachers, and a single store is needed.\n"
                "Give its stores one by one, or write it first: store.write('combined.h5')."
            )
    return files


def as_one(stores: Sequence[LogitStore]) -> RowStore:
    """Returns stores read as one that no index file lists."""
    if len(stores) == 1:
        return stores[0]
    # The number of different images plays no part in reading rows by number.
    return StoreCollection(
        stores[0].path,
        stores,
        num_images=sum(store.num_images for store in stores),
        fingerprint=stores[0].header.fingerprint,
    )


def link_stores(
    paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]
) -> StoreCollection:
    """Writes an index file that lists stores, so that they are read as one; copies no row.

    Args:
      paths: of finished stores, or of index files, below the directory of `out`. The last store
        that has an image counts.
      out: the index file.

    Raises:
      UnfinishedStoreError, StoreError: stores that cannot be read as one.
      OutputError: `out` cannot be written.
    """
    out = os.fspath(out)
    folder = os.path.dirname(out) or "."
    stores = flatten([open_store(path) for path in paths])
    listed = []
    for store in stores:
        path = os.path.relpath(store.path, folder)
        if path.split(os.sep)[0] == os.pardir:
            raise OptionError(
                f"The index {out} can list stores below its own directory only.\n"
                f"  store: {store.path}\nMove the store there, or write the index elsewhere."
            )
        listed.append(ListedStore(path, store.digest))
    check_same_pass(stores)
    keys, images = effective_images(stores)
    labels = np.concatenate([store.labels for store in stores])[images]
    index = StoreList(
        stores=tuple(listed),
        num_images=len(images),
        fingerprint=fingerprint(keys, labels, stores[0].class_names or None),
    )
    index.write(out)
    return _listed_by(index, out, stores)


@public
class StoreCollection(RowStore):
    """Several finished stores read as one. Safe in threads and after `fork`; pickled as its path.

    Attributes:
      path: of the base store, or of the index file.
      stores: the single stores, in order.
      header: that of the first store, with the number and the fingerprint of all images.
    """

    def __init__(
        self, path: str, stores: Sequence[LogitStore], *, num_images: int, fingerprint: str
    ) -> None:
        self.path = path
        self.stores = list(stores)
        check_same_pass(self.stores)
        self.header: StoreHeader = dataclasses.replace(
            self.stores[0].header, num_images=num_images, fingerprint=fingerprint
        )
        counts = [store.num_images for store in self.stores]
        self._first_images = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def __repr__(self) -> str:
        return (
            f"StoreCollection({self.path!r}, {len(self.stores)} stores, "
            f"{self.num_images:,} images, {self.header.codec})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return open_store, (os.path.abspath(self.path), self.stores[0].io)

    @property
    def rows_done(self) -> int:
        return self.rows_total

    @property
    def finished(self) -> bool:
        return True

    @property
    def class_names(self) -> list[str]:
        return self.stores[0].class_names

    @property
    def summary(self) -> dict[str, Any]:
        """The summaries of the stores together, superseded rows included."""
        summaries = [store.summary or {} for store in self.stores]
        counts = [summary.get("num_labelled") or 0 for summary in summaries]
        correct = sum(
            (summary.get("teacher_accuracy") or 0) * count
            for summary, count in zip(summaries, counts, strict=True)
        )
        total = sum(counts)
        return {"teacher_accuracy": correct / total if total else None, "num_labelled": total}

    def digest_of_rows(self) -> str:
        rows = hashlib.blake2b(digest_size=16)
        for store in self.stores:
            rows.update(store.digest_of_rows().encode())
        return rows.hexdigest()

    def images_of_keys(self, keys: Keys) -> np.ndarray:
        images = np.full(len(keys), -1, np.int64)
        order = keys.sort_order()
        ordered = keys.take(order)
        for number in reversed(range(len(self.stores))):
            store, first = self.stores[number], self._first_images[number]
            # Each shard has keys of a range: only keys of that range are looked up in it.
            low = bisect.bisect_left(ordered, store.keys[0])
            high = bisect.bisect_right(ordered, store.keys[-1])
            wanted = low + np.flatnonzero(images[order[low:high]] < 0)
            if len(wanted):
                own = store.images_of_keys(ordered.take(wanted))
                images[order[wanted]] = np.where(own < 0, -1, own + first)
        return images

    def images_of_content(self, content: np.ndarray) -> np.ndarray:
        content = np.asarray(content, np.uint64)
        images = np.full(content.shape, -1, np.int64)
        for number in reversed(range(len(self.stores))):
            wanted = np.flatnonzero(images < 0)
            own = self.stores[number].images_of_content(content[wanted])
            images[wanted] = np.where(own < 0, -1, own + self._first_images[number])
        return images

    def content_of(self, images: np.ndarray) -> np.ndarray:
        return self._spread_one("image", images, 1, LogitStore.content_of)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        return self._spread_one("row", rows, self.num_views, LogitStore.gather)

    def done_of(self, rows: np.ndarray) -> np.ndarray:
        return self._spread_one("row", rows, self.num_views, LogitStore.done_of)

    def stored_rows(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        stored = self._spread("row", rows, self.num_views, _stored_with_done)
        done = stored.pop("done")
        return stored, done

    def view_parameters(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        if not Views.from_dict(self.header.views).datasets():
            return {}
        parameters = self._spread("row", rows, self.num_views, LogitStore.view_parameters)
        if "view_partner" in parameters:
            first = self._first_images[self.store_of_images(np.asarray(rows) // self.num_views)]
            parameters["view_partner"] = _numbered_across(parameters["view_partner"], first)
        return parameters

    def partners_of(self, view: int) -> np.ndarray:
        return np.concatenate(
            [
                _numbered_across(store.partners_of(view), first)
                for store, first in zip(self.stores, self._first_images[:-1], strict=True)
            ]
        )

    def describe(self) -> StoreDescription:
        described = [store.describe() for store in self.stores]
        of_all_stores = {
            "num_images": self.num_images,
            "rows_done": self.rows_done,
            "rows_total": self.rows_total,
            "teacher_accuracy": self.summary["teacher_accuracy"],
            "num_bytes": sum(store.num_bytes for store in described),
            "fingerprint": self.header.fingerprint,
            "num_stores": len(self.stores),
            "stores": [store.path for store in self.stores[:MAX_LISTED]],
        }
        return StoreDescription(**{**described[0], **of_all_stores})

    def store_of_images(self, images: np.ndarray) -> np.ndarray:
        """Returns int64 `[N]`, the index in `stores` of the store that holds each image."""
        return np.searchsorted(self._first_images, images, side="right") - 1

    def _spread_one(
        self,
        noun: str,
        numbers: np.ndarray,
        per_image: int,
        take: Callable[[LogitStore, np.ndarray], np.ndarray],
    ) -> np.ndarray:
        """Returns one array for numbers that lie in several stores, as `_spread` does."""
        return self._spread(noun, numbers, per_image, lambda store, own: {noun: take(store, own)})[
            noun
        ]

    def _spread(
        self,
        noun: str,
        numbers: np.ndarray,
        per_image: int,
        take: Callable[[LogitStore, np.ndarray], dict[str, np.ndarray]],
    ) -> dict[str, np.ndarray]:
        """Returns the arrays of `take` for numbers that lie in several stores, in their order.

        Args:
          noun: 'image' or 'row', for messages.
          numbers: int `[N]`, images or rows, numbered across all stores.
          per_image: how many numbers each image has.
          take: given a store and the numbers in it, returns arrays by name, each `[n, …]`.
        """
        bounds = self._first_images * per_image
        numbers = self._in_range(noun, numbers, int(bounds[-1]))
        indices = np.searchsorted(bounds, numbers, side="right") - 1
        present = np.unique(indices).tolist() or [0]
        if len(present) == 1:
            return take(self.stores[present[0]], numbers - bounds[present[0]])
        results: dict[str, np.ndarray] = {}
        for index in present:
            own = np.flatnonzero(indices == index)
            for name, values in take(self.stores[index], numbers[own] - bounds[index]).items():
                if name not in results:
                    results[name] = np.empty((len(numbers), *values.shape[1:]), values.dtype)
                results[name][own] = values
        return results


def _stored_with_done(store: LogitStore, rows: np.ndarray) -> dict[str, np.ndarray]:
    stored, done = store.stored_rows(rows)
    return {**stored, "done": done}


def _numbered_across(partners: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Returns partners, or -1 and -2, with `first` added to the numbers of images."""
    return np.where(partners < 0, partners, partners + first)
