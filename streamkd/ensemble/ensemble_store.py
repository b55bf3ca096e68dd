"""EnsembleStore: the stores of several teachers, read as that of one.

    store = combine_stores(["a.h5", "b.h5"], weights=[0.7, 0.3])
    store = combine_stores([Member("all.h5"), Member("cars.h5", dustbin="other")])
    stream = join(images, store, batch_size=128)
    store.write("both.h5")                  # one ordinary store with the combined answers

Rows are gathered from every store and combined when they are read, at temperature 1: the student's
temperature softens the answers of the combination. Images are those that all stores have.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streamkd.checks import check_choice, check_types
from streamkd.ensemble import checks, rules
from streamkd.ensemble.class_weights import class_weights
from streamkd.ensemble.combined_header import combined_header
from streamkd.ensemble.common_images import labels_of, match_members
from streamkd.ensemble.member import Member, as_float, as_members
from streamkd.ensemble.rules import MemberClasses, make_rule
from streamkd.ensemble.same_views import SameViews
from streamkd.ensemble.union_of_classes import UnionOfClasses, unite
from streamkd.ensemble.write_combination import write_combination
from streamkd.errors import OptionError
from streamkd.keys import Keys
from streamkd.manifest.manifest import Manifest
from streamkd.public import public
from streamkd.reports import MAX_LISTED
from streamkd.store.collection import open_store
from streamkd.store.decisions import right
from streamkd.store.layout import DONE, NOT_DONE, REFUSED
from streamkd.store.reader import LogitStore
from streamkd.store.row_store import RowStore, StoreDescription
from streamkd.views.views import Views

RULES = ("auto", *rules.RULES)
# Logits of a teacher that are gathered at once, and the fewest rows: five teachers' answers then
# stay in the processor's cache until they are combined.
_CELLS_AT_ONCE = 1 << 15
_FEWEST_ROWS = 32
# Labelled images on which the accuracy of a combination is measured, at most.
_ACCURACY_IMAGES = 2_000


@public
def combine_stores(stores: Any, weights: Any = None, rule: str = "auto") -> EnsembleStore:
    """Returns the stores of several teachers as one, combined when rows are read.

    Args:
      stores: a list of stores, paths or `Member`s, or a mapping from paths to weights.
      weights: the weight of each teacher, which sum to 1, or its weights by class name; by default
        all count alike.
      rule: 'logits' takes the mean of the teachers' log-probabilities, 'probabilities' that of
        their probabilities, each over the teachers that know a class. With 'divergence' a teacher
        speaks of its own classes alone, by their proportions: the answer has the least sum of
        Kullback-Leibler divergences. 'auto' is 'logits' for teachers of the same classes, otherwise
        'divergence'.

    Raises:
      StoreError: teachers that saw other pixels, or answer in another way.
      UnfinishedStoreError: a store that is not finished.
      OtherImagesError: no image is in all stores, or a key stands for other bytes.
      ClassNamesError: class names that clash.
      OptionError: weights or a rule that do not fit.
    """
    return EnsembleStore(as_members(stores, weights), rule)


def as_store(stores: Any, weights: Any = None, rule: str = "auto") -> RowStore:
    """Returns what the argument `store` of `join` and `evaluate` names: one store, or several.

    A list of one store is that store. Arguments and errors otherwise as in `combine_stores`.
    """
    check_choice("rule", rule, RULES)
    if isinstance(stores, Member) or (
        isinstance(stores, list | tuple | Mapping) and len(stores) == 1
    ):
        (only,) = as_members([stores] if isinstance(stores, Member) else stores, weights)
        has_weight = only.weight is not None and as_float(only.weight) != 1
        if only.dustbin is not None or has_weight:
            raise OptionError(
                f"{only.opened.path} is the only store, and has a weight or a dustbin.\n"
                "Give several stores, or the store alone."
            )
        stores, weights = only.opened, None
    if isinstance(stores, list | tuple | Mapping):
        return combine_stores(stores, weights, rule)
    if weights is not None or rule != "auto":
        raise OptionError(
            "Weights and a rule combine several stores, and there are not several.\n"
            "Give a list of stores: on the command line, `--store` several times."
        )
    return open_store(stores)


@public
class EnsembleStore(RowStore):
    """Several teachers' stores read as one. Safe in threads and after `fork`; pickled as its paths.

    Attributes:
      path: the paths of the stores, joined by ' + '.
      header: that of the first store, with the combination's own images, classes and teacher.
      members: the teachers, in order, with their stores.
      rule: 'logits', 'probabilities' or 'divergence'.
      keys: of all images, sorted.
      labels: int32 `[num_images]`, each image's class; -1 for an image without a label.
    """

    def __init__(self, members: Sequence[Member], rule: str = "auto") -> None:
        check_choice("rule", rule, RULES)
        self.members = tuple(members)
        checks.check_members(self.members)
        self.path = " + ".join(member.opened.path for member in self.members)
        self._classes = unite(self.members)
        if rule == "auto":
            rule = "logits" if self._classes.are_alike else "divergence"
        self.rule = rule
        self._weights = class_weights(self.members, self._classes)
        checks.check_rule(rule, self.members, self._classes, self._weights)
        images = match_members(self.members)
        self.keys: Keys = images.keys
        self.labels = labels_of(self.members, images, self._classes)
        self._numbers = images.numbers
        self._views = SameViews(self.members, images)
        self.header = combined_header(
            self.members, rule, self._weights, self._classes, images, self.labels
        )
        self._rule = make_rule(
            rule, self._member_classes(), self._classes.num_classes, self._activation
        )
        # The image of the combination for each number of the first store; -1 where it has none.
        self._by_first = np.full(int(self._numbers[0].max()) + 1, -1, np.int64)
        self._by_first[self._numbers[0]] = np.arange(len(self.keys))
        everyone = np.arange(len(self.keys))
        self._is_numbered_alike = [np.array_equal(own, everyone) for own in self._numbers]

    def __repr__(self) -> str:
        return (
            f"EnsembleStore({self.path!r}, {self.num_images:,} images, "
            f"{self.num_classes:,} classes, {self.rule})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return EnsembleStore, (self.members, self.rule)

    @property
    def classes(self) -> UnionOfClasses:
        """The classes, and the class of each output of each teacher."""
        return self._classes

    @property
    def _activation(self) -> str:
        return "sigmoid" if self.members[0].opened.header.is_sigmoid else "softmax"

    def _member_classes(self) -> list[MemberClasses]:
        triples = zip(self.members, self._classes.columns, self._weights, strict=True)
        return [
            MemberClasses(
                columns=columns, weights=weights, log_oversampling=math.log(member.oversampling)
            )
            for member, columns, weights in triples
        ]

    @property
    def rows_done(self) -> int:
        return self.rows_total

    @property
    def finished(self) -> bool:
        return True

    @property
    def class_names(self) -> list[str]:
        return self._classes.names

    @functools.cached_property
    def summary(self) -> dict[str, Any]:
        """The combination's accuracy on labelled images, on 2,000 of them at most, view 0."""
        labelled = np.flatnonzero(self.labels >= 0)
        picked = np.linspace(0, len(labelled) - 1, min(_ACCURACY_IMAGES, len(labelled)))
        images = labelled[picked.round().astype(np.int64)]
        images = images[self.done_of(images * self.num_views) == DONE]
        accuracy = None
        if len(images):
            answers = self.gather(images * self.num_views)
            accuracy = float(right(answers, self.labels[images], self.class_names).mean())
        return {"teacher_accuracy": accuracy, "num_labelled": len(images)}

    def digest_of_rows(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        dustbins = [[member.dustbin, float(member.oversampling)] for member in self.members]
        digest.update(json.dumps([self.rule, self.class_names, dustbins]).encode())
        for member, weights, numbers in zip(
            self.members, self._weights, self._numbers, strict=True
        ):
            digest.update(member.opened.digest_of_rows().encode())
            digest.update(weights.astype("<f8").tobytes())
            digest.update(numbers.astype("<i8").tobytes())
        return digest.hexdigest()

    def images_of_keys(self, keys: Keys) -> np.ndarray:
        return self._of_first(self.members[0].opened.images_of_keys(keys))

    def images_of_content(self, content: np.ndarray) -> np.ndarray:
        return self._of_first(self.members[0].opened.images_of_content(content))

    def content_of(self, images: np.ndarray) -> np.ndarray:
        images = self._in_range("image", images, self.num_images)
        return self.members[0].opened.content_of(self._numbers[0][images])

    def gather(self, rows: np.ndarray) -> np.ndarray:
        rows = self._in_range("row", rows, self.rows_total)
        at_once = max(_FEWEST_ROWS, _CELLS_AT_ONCE // self.num_classes)
        parts = [self._combined(rows[n : n + at_once]) for n in range(0, len(rows), at_once)]
        return np.concatenate(parts) if len(parts) > 1 else (parts or [self._combined(rows)])[0]

    def stored_rows(self, rows: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Returns rows as a store of the codec float32 would have them; see `RowStore`."""
        rows = self._in_range("row", rows, self.rows_total)
        done = self.done_of(rows)
        first, _ = self.members[0].opened.stored_rows(self._rows_of(0, rows))
        stored = {name: first[name] for name in Views.from_dict(self.header.views).datasets()}
        if "view_partner" in stored:
            stored["view_partner"] = self._views.numbered(0, stored["view_partner"])
        answered = done == DONE
        self.view_parameters(rows[answered])  # compares the stores
        logits = np.zeros((len(rows), self.num_classes), np.float32)
        logits[answered] = self.gather(rows[answered])
        return {**stored, "logits": logits}, done

    def view_parameters(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        rows = self._in_range("row", rows, self.rows_total)
        return self._views.parameters(self._all_rows(rows), rows)

    def done_of(self, rows: np.ndarray) -> np.ndarray:
        rows = self._in_range("row", rows, self.rows_total)
        states = [
            member.opened.done_of(own)
            for member, own in zip(self.members, self._all_rows(rows), strict=True)
        ]
        refused = np.any([state == REFUSED for state in states], axis=0)
        done = np.all([state == DONE for state in states], axis=0)
        return np.where(refused, REFUSED, np.where(done, DONE, NOT_DONE)).astype(np.uint8)

    def partners_of(self, view: int) -> np.ndarray:
        return self._views.numbered(0, self.members[0].opened.partners_of(view)[self._numbers[0]])

    def store_without(self, key: bytes) -> RowStore:
        for member in self.members:
            keys = Keys.from_list([key])
            own = member.opened.images_of_keys(keys)
            row = own * member.opened.num_views
            if own[0] < 0 or member.opened.done_of(row)[0] == REFUSED:
                return member.opened.store_without(key)
        return self

    def describe(self) -> StoreDescription:
        described = [member.opened.describe() for member in self.members]
        stores = [path for one in described for path in one.stores]
        return StoreDescription(
            **{
                **described[0],
                "num_images": self.num_images,
                "num_classes": self.num_classes,
                "rows_done": self.rows_done,
                "rows_total": self.rows_total,
                "codec": self.header.codec,
                "teacher": self.header.teacher["name"],
                "teacher_accuracy": self.summary["teacher_accuracy"],
                "num_bytes": sum(one.num_bytes for one in described),
                "num_stores": sum(one.num_stores for one in described),
                "stores": stores[:MAX_LISTED],
                "fingerprint": self.header.fingerprint,
                "num_class_names": len(self.class_names),
                "class_names": self.class_names[:MAX_LISTED],
                "images": self.header.images,
                "combination": self.header.teacher["teachers"],
            }
        )

    def write(
        self,
        out: str | os.PathLike[str],
        *,
        images: Manifest | str | os.PathLike | None = None,
        codec: str = "float16",
        progress: bool = True,
    ) -> LogitStore:
        """Writes the combined answers as one ordinary store; one that was stopped is continued.

        Args:
          out: path of the new store.
          images: keep these images only, under the keys that they have now; by default all.
          codec: how the answers are stored, as in `teach`.
          progress: show progress on standard error.

        Raises:
          MissingLogitsError: the stores have none of `images`.
          StoreError: `out` is there, and is not the beginning of this store.
          DiskFullError, OutputError: `out` cannot be written.
        """
        check_types(EnsembleStore.write, {"out": out, "codec": codec, "progress": progress})
        return write_combination(self, out, images=images, codec=codec, progress=progress)

    def gather_members(self, rows: np.ndarray) -> list[np.ndarray]:
        """Returns each teacher's own logits, float32 `[B, outputs]`; otherwise as `gather`."""
        rows = self._in_range("row", rows, self.rows_total)
        pairs = zip(self.members, self._all_rows(rows), strict=True)
        return [member.opened.gather(own) for member, own in pairs]

    def combine(self, answers: list[np.ndarray]) -> np.ndarray:
        """Returns the logits that the rule makes of what `gather_members` returns."""
        return self._rule.combine(answers)

    def _combined(self, rows: np.ndarray) -> np.ndarray:
        """Returns the combined logits of a few rows, which all lie in the processor's cache."""
        return self.combine(self.gather_members(rows))

    def _of_first(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the images of the combination for numbers of the first store, or -1."""
        known = (numbers >= 0) & (numbers < len(self._by_first))
        return np.where(known, self._by_first[np.where(known, numbers, 0)], -1)

    def _rows_of(self, number: int, rows: np.ndarray) -> np.ndarray:
        """Returns the rows of one member's store, int64 `[B]`."""
        if self._is_numbered_alike[number]:
            return rows
        images, views = np.divmod(rows, self.num_views)
        return self._numbers[number][images] * self.num_views + views

    def _all_rows(self, rows: np.ndarray) -> list[np.ndarray]:
        return [self._rows_of(number, rows) for number in range(len(self.members))]
