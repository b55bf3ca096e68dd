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
        if not is_number(ratio) or not 0 < ratio < math.inf:
            raise OptionError(f"oversampling is {ratio!r}; it must be a positive number.")
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
    if isinstance(stores, str | bytes | os.PathLike | RowStore | Member) or not isinstance(
        stores, Sequence
    ):
        raise OptionError(f"The stores are a {type(stores).__name__}.\n{_EXAMPLE}")
    members = [one if isinstance(one, Member) else Member(one) for one in stores]
    if weights is None:
        return members
    if isinstance(weights, str | Mapping) or not hasattr(weights, "__len__"):
        raise OptionError(
            f"weights is {weights!r}; give a list with a weight for each store, such as [0.7, 0.3]."
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


def is_number(value: Any) -> bool:
    """Returns whether a value is a number, of Python or of NumPy, and no bool."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
