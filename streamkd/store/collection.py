"""Several stores read as one: a base and its deltas, or the shards of one pass.

    store = open_store("teacher.h5")        # with teacher.h5.index beside it, if there is one
    store = open_store("shards.index")

A `StoreCollection` is used like a `LogitStore`. Images and rows are numbered through: those of the
first store, then those of the second. Of several stores that have an image the last one counts;
the rows it had before are still there by number, and are found by their content.
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from streamkd.errors import OptionError, StoreError, UnfinishedStoreError
from streamkd.keys import Keys
from streamkd.manifest.fingerprint import fingerprint
from streamkd.public import public
from streamkd.store import store_list
from streamkd.store.layout import StoreHeader
from streamkd.store.reader import MAX_LISTED, LogitStore
from streamkd.store.store_file import Io
from streamkd.store.store_list import ListedStore, StoreList, damaged_index
from streamkd.views.views import Views

# What the answers depend on; stores that differ in one of these are not of one teacher pass.
_SAME = ("teacher", "images", "views", "decoder", "num_classes", "num_views", "codec")


@public
def open_store(path: str | os.PathLike[str], io: Io = "mmap") -> LogitStore | StoreCollection:
    """Returns the store at `path` for reading, together with its deltas.

    Args:
      path: of a store or of an index file; `PATH.index` beside a store is taken into account.
      io: 'mmap', or 'pread' for network file systems on which mapping is unsafe.

    Raises:
      StoreError: no such file, no store, or damaged; the message says which.
    """
    path = os.fspath(path)
    if store_list.is_index_file(path):
        return _open_listed(path, io)
    beside = store_list.index_beside(path)
    if os.path.lexists(path) and os.path.lexists(beside):
        return _open_listed(beside, io, path)
    return LogitStore(path, io)


def _open_listed(index_path: str, io: Io, base: str | None = None) -> StoreCollection:
    """Returns the stores that an index file lists, each compared with its digest there."""
    index = store_list.read_index_file(index_path)
    folder = os.path.dirname(index_path)
    stores = []
    for listed in index.stores:
        path = os.path.join(folder, listed.path)
        if not os.path.lexists(path):
            raise damaged_index(index_path, f"it lists {path}, which is not there")
        store = LogitStore(path, io)
        if store.digest != listed.digest:
            raise damaged_index(index_path, f"{path} is not the store that was listed")
        stores.append(store)
    if base is not None and os.path.basename(base) != index.stores[0].path:
        raise damaged_index(index_path, f"it belongs to {index.stores[0].path}, not to {base}")
    return _listed_by(index, base or index_path, stores)


def _listed_by(index: StoreList, path: str, stores: Sequence[LogitStore]) -> StoreCollection:
    return StoreCollection(path, stores, num_images=index.num_images, fingerprint=index.fingerprint)


def flatten(stores: Sequence[LogitStore | StoreCollection]) -> list[LogitStore]:
    """Returns the single stores behind some stores, in order."""
    single: list[LogitStore] = []
    for store in stores:
        single += store.stores if isinstance(store, StoreCollection) else [store]
    return single


def link_stores(
    paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]
) -> StoreCollection:
    """Writes an index file that lists stores, so that they are read as one; copies no row.

    Args:
      paths: of finished stores, or of index files, below the directory of `out`. Of several that
        have an image the last one counts.
      out: the index file.

    Raises:
      UnfinishedStoreError, StoreError: stores that cannot be read as one.
      OutputError: `out` is there and is no index file, or cannot be written.
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
    order, winners = effective_images(stores)
    labels = np.concatenate([store.labels for store in stores])[winners]
    index = StoreList(
        stores=tuple(listed),
        num_images=len(winners),
        fingerprint=fingerprint(order, labels, stores[0].class_names or None),
    )
    index.write(out)
    return _listed_by(index, out, stores)


def check_finished(store: LogitStore | StoreCollection) -> None:
    """Refuses a store in which rows are missing.

    Raises:
      UnfinishedStoreError: says how many are there.
    """
    if not store.finished:
        raise UnfinishedStoreError(
            f"The store {store.path} is unfinished: {store.rows_done:,} of {store.rows_total:,} "
            "rows are done.\nRun the same `streamkd teach` command again; it goes on."
        )


def check_same_pass(stores: Sequence[LogitStore]) -> None:
    """Refuses stores that cannot stand for one teacher pass, and unfinished ones.

    Raises:
      UnfinishedStoreError, StoreError: names the two stores and both sides.
    """
    first = stores[0]
    for store in stores:
        check_finished(store)
        for name in (*_SAME, "class_names"):
            holder, other = (s if name == "class_names" else s.header for s in (first, store))
            mine, theirs = getattr(holder, name), getattr(other, name)
            if mine != theirs:
                raise StoreError(
                    f"These stores differ in {name.replace('_', ' ')}, so that they cannot be read "
                    f"as one.\n  {first.path}: {_short(mine)}\n  {store.path}: {_short(theirs)}\n"
                    "Give stores of one teacher with the same options."
                )


def effective_images(stores: Sequence[LogitStore]) -> tuple[Keys, np.ndarray]:
    """Returns the keys of all different images, sorted, and for each its number, numbered through.

    Of several stores that have a key the last one counts. Memory: the keys twice, and 16 bytes an
    image.
    """
    keys = Keys.concatenate([store.keys for store in stores])
    order = keys.sort_order()  # equal keys stay in the order of their stores
    ordered = keys.take(order)
    last = np.ones(len(order), bool)
    if len(order) > 1:
        places = np.arange(len(order) - 1)
        last[:-1] = ~ordered.equal_at(places, ordered, places + 1)
    return (ordered if last.all() else ordered.take(last)), order[last]


@public
class StoreCollection:
    """Several finished stores read as one. Safe in threads and after `fork`; pickled as its path.

    Attributes:
      path: of the base store, or of the index file.
      stores: the single stores, in order.
      header: that of the first one, with the number and the fingerprint of all images.
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
    def num_images(self) -> int:
        """How many different images there are."""
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
        return self.header.num_rows

    @property
    def finished(self) -> bool:
        return True

    @property
    def class_names(self) -> list[str]:
        """The classes in order of their numbers; empty where they have no names."""
        return self.stores[0].class_names

    @property
    def summary(self) -> dict[str, Any]:
        """The summaries of the stores together; rows that count no more are still in it."""
        summaries = [store.summary or {} for store in self.stores]
        counts = [summary.get("num_labelled") or 0 for summary in summaries]
        correct = sum(
            (summary.get("teacher_accuracy") or 0) * count
            for summary, count in zip(summaries, counts, strict=True)
        )
        total = sum(counts)
        return {"teacher_accuracy": correct / total if total else None, "num_labelled": total}

    def digest_of_rows(self) -> str:
        """Returns a digest of every row's checksum: of keys, contents and logits."""
        rows = hashlib.blake2b(digest_size=16)
        for store in self.stores:
            rows.update(store.digest_of_rows().encode())
        return rows.hexdigest()

    def images_of_keys(self, keys: Keys) -> np.ndarray:
        """Returns int64 `[N]`, the image of each key; -1 where no store has it."""
        found = np.full(len(keys), -1, np.int64)
        order = keys.sort_order()
        ordered = keys.take(order)
        for number in reversed(range(len(self.stores))):
            store, first = self.stores[number], self._first_images[number]
            # Shards have keys of a range each: only those wanted from it are looked up.
            low = bisect.bisect_left(ordered, store.keys[0])
            high = bisect.bisect_right(ordered, store.keys[-1])
            wanted = low + np.flatnonzero(found[order[low:high]] < 0)
            if len(wanted):
                images = store.images_of_keys(ordered.take(wanted))
                found[order[wanted]] = np.where(images < 0, -1, images + first)
        return found

    def images_of_content(self, content: np.ndarray) -> np.ndarray:
        """Returns int64 `[N]`, the image whose file had these bytes; -1 where there is none."""
        content = np.asarray(content, np.uint64)
        found = np.full(content.shape, -1, np.int64)
        for number in reversed(range(len(self.stores))):
            wanted = np.flatnonzero(found < 0)
            images = self.stores[number].images_of_content(content[wanted])
            found[wanted] = np.where(images < 0, -1, images + self._first_images[number])
        return found

    def content_of(self, images: np.ndarray) -> np.ndarray:
        """Returns uint64 `[N]`, the digest of each file's bytes; errors as in `LogitStore`."""
        return self._spread("image", images, 1, LogitStore.content_of)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Returns float32 `[B, num_classes]`, the logits of `rows`; errors as in `LogitStore`."""
        return self._spread("row", rows, self.num_views, LogitStore.gather)

    def view_parameters(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the parameters of views, as `LogitStore`; partners are numbered through."""
        names = list(Views.from_dict(self.header.views).datasets())
        if not names:
            return {}

        def take(store: LogitStore, local: np.ndarray) -> tuple[np.ndarray, ...]:
            found = store.view_parameters(local)
            return tuple(found[name] for name in names)

        found = dict(zip(names, self._spread_many("row", rows, self.num_views, take), strict=True))
        if "view_partner" in found:
            first = self._first_images[self.store_of_images(np.asarray(rows) // self.num_views)]
            partner = found["view_partner"]
            found["view_partner"] = np.where(partner < 0, partner, partner + first)
        return found

    def partners_of(self, view: int) -> np.ndarray:
        """Returns who each image is mixed with in a view; all numbered through."""
        parts = [store.partners_of(view) for store in self.stores]
        return np.concatenate(
            [
                np.where(part < 0, part, part + first)
                for part, first in zip(parts, self._first_images, strict=False)
            ]
        )

    def done_of(self, rows: np.ndarray) -> np.ndarray:
        """Returns uint8 `[B]`, what `done` says of each row."""
        return self._spread("row", rows, self.num_views, LogitStore.done_of)

    def stored_rows(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Returns rows as they lie on the disk, as `LogitStore.stored_rows`."""
        names: list[str] = []

        def take(store: LogitStore, local: np.ndarray) -> tuple[np.ndarray, ...]:
            stored, done = store.stored_rows(local)
            names[:] = stored
            return (*stored.values(), done)

        *parts, done = self._spread_many("row", rows, self.num_views, take)
        return dict(zip(names, parts, strict=True)), done

    def describe(self) -> dict[str, Any]:
        """Returns what the stores hold, as `streamkd inspect --json` prints it."""
        described = [store.describe() for store in self.stores]
        return {
            **described[0],
            "num_images": self.num_images,
            "rows_done": self.rows_done,
            "rows_total": self.rows_total,
            "teacher_accuracy": self.summary["teacher_accuracy"],
            "num_bytes": sum(one["num_bytes"] for one in described),
            "fingerprint": self.header.fingerprint,
            "num_stores": len(self.stores),
            "stores": [store.path for store in self.stores[:MAX_LISTED]],
        }

    def store_of_images(self, images: np.ndarray) -> np.ndarray:
        """Returns int64 `[N]`, which of `stores` each image is in."""
        return np.searchsorted(self._first_images, images, side="right") - 1

    def _spread(
        self,
        what: str,
        numbers: np.ndarray,
        per_image: int,
        take: Callable[[LogitStore, np.ndarray], np.ndarray],
    ) -> np.ndarray:
        def take_one(store: LogitStore, local: np.ndarray) -> tuple[np.ndarray, ...]:
            return (take(store, local),)

        return self._spread_many(what, numbers, per_image, take_one)[0]

    def _spread_many(
        self,
        what: str,
        numbers: np.ndarray,
        per_image: int,
        take: Callable[[LogitStore, np.ndarray], tuple[np.ndarray, ...]],
    ) -> list[np.ndarray]:
        """Returns what `take` gives for numbers that lie in several stores, in their order."""
        numbers = np.asarray(numbers)
        bounds = self._first_images * per_image
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < bounds[-1]:
            raise IndexError(
                f"{what} numbers {numbers.min()} to {numbers.max()}; the stores of {self.path} "
                f"have 0 to {bounds[-1] - 1:,}"
            )
        places = np.searchsorted(bounds, numbers, side="right") - 1
        present = np.unique(places) if len(numbers) else np.array([0])
        if len(present) == 1:
            only = int(present[0])
            return list(take(self.stores[only], numbers - bounds[only]))
        results: list[np.ndarray] = []
        for place in present.tolist():
            mine = np.flatnonzero(places == place)
            parts = take(self.stores[place], numbers[mine] - bounds[place])
            if not results:
                results = [np.empty((len(numbers), *p.shape[1:]), p.dtype) for p in parts]
            for result, part in zip(results, parts, strict=True):
                result[mine] = part
        return results


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else text[:200] + " …"
