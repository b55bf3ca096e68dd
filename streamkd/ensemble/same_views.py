"""SameViews: the parameters of the views that all teachers of a combination answered.

    views = SameViews(members, images)
    views.parameters(all_rows, rows)    # those of the first store, compared with all others

The parameters of a drawn view are a hash of seed and key, so that stores of the same specification
agree, unless a file was renamed between two passes, or mixed with other images. Those are compared
when the combination is made; every row is compared once more when it is first shown.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamkd.ensemble.common_images import CommonImages
from streamkd.ensemble.member import Member
from streamkd.errors import StoreError, readable_key
from streamkd.store.layout import DONE
from streamkd.views.views import Views


class SameViews:
    """Compares the views of the members of a combination.

    Raises:
      StoreError: an image whose views differ between two stores.
    """

    def __init__(self, members: Sequence[Member], images: CommonImages) -> None:
        self._stores = [member.opened for member in members]
        self._images = images
        self._specification = Views.from_dict(self._stores[0].header.views)
        num_images, self._num_views = len(images.keys), self._stores[0].num_views
        self._compared = np.zeros(num_images * self._num_views, bool)
        self._by_number = [
            _inverse(own) if self._specification.mixes else None for own in images.numbers
        ]
        if self._specification.datasets():
            self._check_moved()
        if self._specification.mixes:
            self._check_partners()

    def numbered(self, store: int, partners: np.ndarray) -> np.ndarray:
        """Returns partners of one store as images of the combination; -1 and -2 as they are.

        A partner that is not in the combination becomes -2.
        """
        by_number = self._by_number[store]
        if by_number is None:
            return partners
        known = (partners >= 0) & (partners < len(by_number))
        own = by_number[np.where(known, partners, 0)]
        return np.where(partners < 0, partners, np.where(known & (own >= 0), own, -2))

    def parameters(self, all_rows: list[np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the parameters of rows, each `[B, …]`, once all stores have been compared.

        Args:
          all_rows: int64 `[B]` for each store, the rows there.
          rows: int64 `[B]`, the rows of the combination.

        Raises:
          StoreError: a view differs between two stores; names its key.
        """
        first = self._of_store(0, all_rows[0])
        new = np.flatnonzero(~self._compared[rows]) if first else np.empty(0, np.int64)
        if len(new):
            ours = {name: values[new] for name, values in first.items()}
            for number in range(1, len(self._stores)):
                theirs = self._of_store(number, all_rows[number][new])
                self._compare(number, rows[new], ours, theirs)
            self._compared[rows[new]] = True
        return first

    def _of_store(self, number: int, rows: np.ndarray) -> dict[str, np.ndarray]:
        parameters = self._stores[number].view_parameters(rows)
        if "view_partner" in parameters:
            partners = self.numbered(number, parameters["view_partner"])
            parameters = {**parameters, "view_partner": partners}
        return parameters

    def _compare(
        self,
        number: int,
        rows: np.ndarray,
        ours: dict[str, np.ndarray],
        theirs: dict[str, np.ndarray],
    ) -> None:
        for name, values in ours.items():
            differs = (values != theirs[name]).reshape(len(rows), -1).any(axis=1)
            if differs.any():
                at = int(np.flatnonzero(differs)[0])
                shown = values[at].tolist(), theirs[name][at].tolist()
                raise self._refusal(number, *divmod(int(rows[at]), self._num_views), name, shown)

    def _check_moved(self) -> None:
        """Compares the views of files that two stores have under different keys."""
        views = np.arange(self._num_views)
        for number, moved in enumerate(self._images.moved):
            images = np.flatnonzero(moved)
            if not len(images):
                continue
            rows = (images[:, None] * self._num_views + views).reshape(-1)
            pairs = [self._rows_of(n, images) for n in range(len(self._stores))]
            done = np.all(
                [self._stores[n].done_of(pairs[n]) == DONE for n in (0, number)],
                axis=0,
            )
            ours = self._of_store(0, pairs[0][done])
            self._compare(number, rows[done], ours, self._of_store(number, pairs[number][done]))

    def _rows_of(self, number: int, images: np.ndarray) -> np.ndarray:
        own = self._images.numbers[number][images]
        return (own[:, None] * self._num_views + np.arange(self._num_views)).reshape(-1)

    def _check_partners(self) -> None:
        """Compares the images that each image is mixed with: 8 bytes an image and view."""
        for view in range(1, self._num_views):
            partners = [
                self.numbered(number, store.partners_of(view)[own])
                for number, (store, own) in enumerate(
                    zip(self._stores, self._images.numbers, strict=True)
                )
            ]
            for number in range(1, len(partners)):
                differs = np.flatnonzero(partners[number] != partners[0])
                if len(differs):
                    image = int(differs[0])
                    shown = int(partners[0][image]), int(partners[number][image])
                    raise self._refusal(number, image, view, "view_partner", shown)

    def _refusal(
        self, number: int, image: int, view: int, name: str, shown: tuple[object, object]
    ) -> StoreError:
        first, store = self._stores[0], self._stores[number]
        key = self._images.keys[image]
        why = "Both teachers must see one file under one name."
        if name == "view_partner":
            why = "Images are mixed in pairs, which depend on all images of a store."
            shown = self._partner(shown[0]), self._partner(shown[1])
        return StoreError(
            f"Two teachers saw different views of '{readable_key(key)}', view {view}: "
            f"{name} is not the same.\n"
            f"  {first.path}: {shown[0]}\n"
            f"  {store.path}: {shown[1]}\n"
            f"{why} Teach a new store of the images as they are now, with the same views.",
            key=key,
        )

    def _partner(self, number: object) -> str:
        assert isinstance(number, int)
        if number < 0:
            return "no image" if number == -1 else "an image that is not in both stores"
        return f"'{readable_key(self._images.keys[number])}'"


def _inverse(numbers: np.ndarray) -> np.ndarray:
    """Returns the position of each number, -1 for one that is not among them."""
    positions = np.full(int(numbers.max()) + 1, -1, np.int64)
    positions[numbers] = np.arange(len(numbers))
    return positions
