"""Member: one teacher of a combination, with its weight, and with its dustbin if it has one.

    members = as_members(["a.h5", "b.h5"], weights=[0.7, 0.3])
    members = as_members({"a.h5": 0.7, "b.h5": 0.3})
    members = as_members([Member("a.h5"), Member("cars.h5", dustbin="other", oversampling=4)])

Every member has its store opened; `class_weights.py` checks the weights against the classes.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streamkd.errors import OptionError
from streamkd.public import public
from streamkd.store.collection import open_store
from streamkd.store.row_store import RowStore

Weight = float | Mapping[str, float] | None
_EXAMPLE = "Give a list such as ['a.h5', 'b.h5'], or a mapping such as {'a.h5': 0.7, 'b.h5': 0.3}."


@public
@dataclasses.dataclass(frozen=True)
class Member:
    """One teacher of a combination.

    Attributes:
      store: its store, opened when it is given as a path.
      weight: its weight in all answers, from 0 to 1; or its weight for each of its classes, by
        name; None where no teacher has a weight, and all count alike.
      dustbin: name of its class that stands for "none of these", and is no class of the student.
      oversampling: how many times as often the teacher saw images of its own classes, against those
        of its dustbin, as they come in the transfer set; 1 if its training set was not changed.

    Raises:
      OptionError: a value that does not fit.
      StoreError: `store` is a path, and no store is there.
    """

    store: RowStore | str | os.PathLike[str]
    weight: Weight = None
    dustbin: str | None = None
    oversampling: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "store", open_store(self.store))
        if self.dustbin is not None and not isinstance(self.dustbin, str):
            raise OptionError(f"dustbin is {self.dustbin!r}; give the name of a class.")
        ratio = self.oversampling
        if not 0 < as_float(ratio) < math.inf:
            raise OptionError(f"oversampling is {ratio!r:.80}; it must be a positive number.")
        if self.dustbin is None and ratio != 1:
            raise OptionError(
                f"oversampling is {ratio:g} for {self.opened.path}, which has no dustbin to be "
                "corrected.\nName its dustbin class: Member(…, dustbin='other')."
            )

    @property
    def opened(self) -> RowStore:
        """The open store."""
        assert isinstance(self.store, RowStore)
        return self.store


def as_members(stores: Any, weights: Any = None) -> list[Member]:
    """Returns the members that a user names.

    Args:
      stores: a list of stores, paths or members, or a mapping from paths to weights.
      weights: a weight for each of the list; None if the list or the mapping has them.

    Raises:
      OptionError: weights that are given twice, or are not as many as the stores.
    """
    if isinstance(stores, Mapping):
        if weights is not None:
            raise OptionError(
                "The stores are a mapping to their weights, and weights are given besides.\n"
                "Give one of them."
            )
        stores, weights = list(stores), list(stores.values())
    if not _is_listing(stores):
        raise OptionError(
            f"The stores are of the type {type(stores).__name__}, which is no list.\n{_EXAMPLE}"
        )
    members = [one if isinstance(one, Member) else Member(_path(one)) for one in stores]
    if weights is None:
        return members
    if not _is_listing(weights):
        raise OptionError(
            f"weights is {weights!r:.80}; give a list with a weight for each store, in the order "
            "of the stores, such as [0.7, 0.3]."
        )
    if len(weights) != len(members):
        raise OptionError(
            f"There are {len(members)} stores and {len(weights)} weights.\n"
            "Give a weight for each store, in the order of the stores."
        )
    twice = next((member for member in members if member.weight is not None), None)
    if twice is not None:
        raise OptionError(
            f"The weight of {twice.opened.path} is given twice: by its Member, and by weights.\n"
            "Leave weights out."
        )
    pairs = zip(members, weights, strict=True)
    return [dataclasses.replace(member, weight=weight) for member, weight in pairs]


def as_float(value: Any) -> float:
    """Returns a number, of Python or of NumPy, as a float; NaN for what is none, or too large."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _is_listing(value: Any) -> bool:
    """Returns whether a value has several entries in an order. A set has none."""
    if isinstance(value, np.ndarray):
        return value.ndim == 1
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def _path(store: Any) -> Any:
    """Returns what names a store; refuses a weight that is written as on the command line."""
    remedy = "Give {path: weight}, or weights=[0.7, 0.3] beside the list of the stores."
    if isinstance(store, tuple) and len(store) == 2:
        raise OptionError(f"A store is given as the pair {store!r:.200}.\n{remedy}")
    if isinstance(store, str) and not os.path.lexists(store):
        path, equals, _ = store.rpartition("=")
        if equals and os.path.lexists(path):
            raise OptionError(
                f"There is no store {store!r}; `PATH=WEIGHT` is for the command line.\n{remedy}"
            )
    return store
