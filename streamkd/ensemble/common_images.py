"""The images that all stores of a combination have: matched by key, else by the files' content.

    common = match_members(members)
    common.keys, common.numbers[1]      # each image's number in the second store

Images come in the order of their keys in the first store. One that another store lacks is left out;
whoever asks for it by its key gets no number, as for one that a single store lacks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from streamkd.ensemble.member import Member
from streamkd.ensemble.union_of_classes import UnionOfClasses
from streamkd.errors import OtherImagesError, readable_key
from streamkd.keys import Keys
from streamkd.manifest.listing import UNLABELLED
from streamkd.store.collection import flatten
from streamkd.store.layout import DONE
from streamkd.store.row_store import RowStore
from streamkd.store.same_pass import effective_images
from streamkd.views.views import Views


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CommonImages:
    """Images of a combination.

    Attributes:
      keys: sorted, as the first store has them.
      numbers: int64 `[num_images]` for each store, the image's number there.
      moved: bool `[num_images]` for each store, the images that it has under another key.
    """

    keys: Keys
    numbers: list[np.ndarray]
    moved: list[np.ndarray]


def match_members(members: Sequence[Member]) -> CommonImages:
    """Returns the images that all members have.

    Raises:
      OtherImagesError: there is none, or a key stands for other bytes in another store.
    """
    stores = [member.opened for member in members]
    first = stores[0]
    keys, first_numbers = effective_images(flatten([first]))
    content = _content_of_all(first)[first_numbers]
    numbers, moved = [first_numbers], [np.zeros(len(keys), bool)]
    has_drawn_views = bool(Views.from_dict(first.header.views).datasets())
    for store in stores[1:]:
        own = store.images_of_keys(keys)
        unknown = np.flatnonzero(own < 0)
        moved_to = store.images_of_content(content[unknown])
        if has_drawn_views:
            # A copy of an image that both stores have under one name was not renamed, and its
            # views are its own: the other teacher has not answered it.
            moved_to[np.isin(moved_to, own[own >= 0])] = -1
        own[unknown] = moved_to
        _check_content(first, store, keys, numbers[0], own, content)
        if (own < 0).all():
            raise _no_common_image(first, store, keys)
        numbers.append(own)
        moved.append(np.isin(np.arange(len(keys)), unknown))
    kept = np.flatnonzero(np.all([own >= 0 for own in numbers], axis=0))
    if not len(kept):
        raise OtherImagesError(
            f"No image is in all of {', '.join(store.path for store in stores)}, though each two "
            "of them may share some.\nCombine stores that were taught on the same directory."
        )
    if len(kept) < len(keys):
        keys = keys.take(kept)
    return CommonImages(
        keys=keys,
        numbers=[own[kept] for own in numbers],
        moved=[of_store[kept] for of_store in moved],
    )


def _content_of_all(store: RowStore) -> np.ndarray:
    """Returns uint64, the content digest of each image of a store by its number, unchecked."""
    return np.concatenate([file.content for file in flatten([store])])


def _check_content(
    first: RowStore,
    store: RowStore,
    keys: Keys,
    first_numbers: np.ndarray,
    numbers: np.ndarray,
    content: np.ndarray,
) -> None:
    """Refuses a key for which two teachers saw other bytes.

    Digests are compared as they lie on the disk, 8 bytes an image; those that differ are then read
    with their checksums, so that a damaged row is called damaged.
    """
    known = np.flatnonzero(numbers >= 0)
    differs = known[content[known] != _content_of_all(store)[numbers[known]]]
    differs = differs[first.done_of(first_numbers[differs] * first.num_views) == DONE]
    differs = differs[store.done_of(numbers[differs] * store.num_views) == DONE]
    if not len(differs):
        return
    image = differs[:1]
    ours = first.content_of(first_numbers[image])[0]
    theirs = store.content_of(numbers[image])[0]
    key = keys[int(image[0])]
    raise OtherImagesError(
        f"The teachers saw different files under one name: {len(differs):,} of {len(known):,} "
        f"images; the first is '{readable_key(key)}'.\n"
        f"  content digest in {first.path}: {ours}\n"
        f"  content digest in {store.path}: {theirs}\n"
        "Give the `teach` command of the older store again: it answers only images that were "
        "changed.",
        key=key,
    )


def _no_common_image(first: RowStore, store: RowStore, keys: Keys) -> OtherImagesError:
    other = effective_images(flatten([store]))[0]
    return OtherImagesError(
        f"The stores {first.path} and {store.path} have no image in common, neither by key nor by "
        "content.\n"
        f"  {first.path}: {len(keys):,} images, the first is '{readable_key(keys[0])}'\n"
        f"  {store.path}: {len(other):,} images, the first is '{readable_key(other[0])}'\n"
        "Combine stores that were taught on the same directory. To join stores of one teacher on "
        "different images: `streamkd merge` without `--combine`.",
        key=keys[0],
    )


def labels_of(
    members: Sequence[Member], common: CommonImages, classes: UnionOfClasses
) -> np.ndarray:
    """Returns int32 `[num_images]`, each image's class of the combination; -1 where none is known.

    The first store that has a label of an image counts.
    """
    labels = np.full(len(common.keys), UNLABELLED, np.int32)
    by_number = classes.are_alike and all(
        member.opened.class_names == classes.names for member in members
    )
    for member, columns, numbers in zip(members, classes.columns, common.numbers, strict=True):
        own = np.concatenate([file.labels for file in flatten([member.opened])])[numbers]
        if not by_number:
            known = own >= 0
            own = np.where(known, columns[np.where(known, own, 0)], UNLABELLED)
        labels = np.where(labels < 0, own, labels).astype(np.int32)
    return labels
