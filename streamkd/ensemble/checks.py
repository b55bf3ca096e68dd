"""Checks of a combination: whether the teachers answered the same views, and may be averaged.

check_members(members)                      # before images and classes are matched
check_rule("divergence", members, classes)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from streamkd.differences import both_sides
from streamkd.ensemble.member import Member
from streamkd.ensemble.union_of_classes import DUSTBIN, UnionOfClasses
from streamkd.errors import ClassNamesError, OptionError, StoreError, readable_names
from streamkd.store.collection import flatten
from streamkd.store.layout import ELSEWHERE
from streamkd.store.row_store import RowStore
from streamkd.store.same_pass import check_finished

# Options of images that a student chooses for itself, whatever its teacher took.
CHOSEN_BY_STUDENT = ("image_size", "color_mode")


def check_members(members: Sequence[Member]) -> None:
    """Refuses stores that cannot be combined, whatever their images and classes are.

    Raises:
      OptionError: fewer than two stores, answers that would count twice, or oversampling of
        independent labels.
      UnfinishedStoreError: a store in which rows are missing.
      StoreError: the teachers answered different views, or pixels that were made in different ways;
        or one ends in sigmoid and another does not.
    """
    stores = [member.opened for member in members]
    if len(stores) < 2:
        raise OptionError(
            f"A combination needs at least two stores, and there is {len(stores)}.\n"
            "Add another: `--store OTHER.h5`."
        )
    for store in stores:
        check_finished(store)
    for one, other in itertools.combinations(stores, 2):
        _check_two_stores(one, other)
    for store in stores[1:]:
        _check_same_views(stores[0], store)
    _check_activations(stores)
    _check_oversampling(members)


def _check_two_stores(one: RowStore, other: RowStore) -> None:
    """Refuses answers that would count twice: a store, a copy, a teacher, or a part of another."""
    if (
        [file.digest for file in flatten([one])] == [file.digest for file in flatten([other])]
    ) and one.digest_of_rows() == other.digest_of_rows():
        copy = "" if one.path == other.path else f", once as the copy {other.path}"
        raise OptionError(
            f"The store {one.path} is given twice{copy}.\n"
            "Give each store once; to let it count more, give weights: `--store S.h5=0.7`."
        )
    if _is_of_same_teacher(one, other):
        raise OptionError(
            f"The stores {one.path} and {other.path} hold answers of the same teacher, which would "
            "count twice.\nGive one of them. To join a teacher's stores of different images: "
            "`streamkd merge` without `--combine`."
        )
    for whole, part in ((one, other), (other, one)):
        combined = _rows_combined_in(whole)
        if combined and part.digest_of_rows() in combined:
            raise OptionError(
                f"The store {whole.path} has the answers of {part.path} in it, which would count "
                "twice.\nGive the single stores, with weights: `--store S.h5=0.7`."
            )


def _is_of_same_teacher(one: RowStore, other: RowStore) -> bool:
    """Returns whether two teachers have the same weights and saw images in the same way."""
    ours, theirs = one.header, other.header
    has_weights = ours.teacher.get("weights") is not None
    return has_weights and ours.teacher == theirs.teacher and ours.images == theirs.images


def _rows_combined_in(store: RowStore) -> set[str]:
    """Returns the digests of the rows that a store of combined answers was made of."""
    found: Any = store.header.teacher
    for name in ("teachers", "members"):
        found = found.get(name) if isinstance(found, dict) else None
    members = found.values() if isinstance(found, dict) else ()
    return {str(member.get("rows")) for member in members if isinstance(member, dict)}


def _check_same_views(first: RowStore, store: RowStore) -> None:
    """Refuses stores whose teachers did not answer the same renditions of images."""
    _check_equal(
        *(first, store, "views", first.header.views, store.header.views),
        "Teach one of them again with the views of the other: `--views`, `--crop`, `--flip` and "
        "the like, and the same seed.",
    )
    ours, theirs = (_lasting(one.header.images) for one in (first, store))
    _check_equal(
        *(first, store, "image options", ours, theirs),
        "Teach one of them again with the image options of the other, such as `--interpolation` "
        "and `--exif`.",
    )
    decoders = (first.header.decoder, store.header.decoder)
    if ELSEWHERE not in decoders:
        _check_equal(
            *(first, store, "decoder", *decoders), "Teach one of them again with this version."
        )


def _lasting(images: dict) -> dict:
    return {name: value for name, value in images.items() if name not in CHOSEN_BY_STUDENT}


def _check_equal(
    first: RowStore, store: RowStore, name: str, ours: object, theirs: object, remedy: str
) -> None:
    if ours != theirs:
        raise StoreError(
            f"Stores that differ in {name} cannot be combined: the teachers saw different pixels.\n"
            f"{both_sides({first.path: ours, store.path: theirs})}{remedy}"
        )


def _check_activations(stores: Sequence[RowStore]) -> None:
    """Refuses a teacher of independent labels beside one of classes that exclude each other."""
    sigmoid = next((store for store in stores if store.header.is_sigmoid), None)
    other = next((store for store in stores if not store.header.is_sigmoid), None)
    if sigmoid is None or other is None:
        return
    said = other.header.activation or "does not say, which counts as softmax"
    raise StoreError(
        "A teacher of independent labels cannot be combined with one whose classes exclude each "
        f"other.\n  {sigmoid.path}: sigmoid\n  {other.path}: {said}\n"
        "If both end in sigmoid, say so when they are taught: `--teacher-output sigmoid-logits`."
    )


def _check_oversampling(members: Sequence[Member]) -> None:
    """Refuses a ratio that nothing would heed: independent labels have no probability to share."""
    for member in members:
        if member.opened.header.is_sigmoid and member.oversampling != 1:
            raise OptionError(
                f"oversampling is {member.oversampling:g} for {member.opened.path}, whose labels "
                "are independent (sigmoid): a dustbin takes nothing from another label.\n"
                "Leave oversampling out."
            )


def check_rule(
    rule: str,
    members: Sequence[Member],
    classes: UnionOfClasses,
    weights: Sequence[np.ndarray],
) -> None:
    """Refuses a rule that has no answer for these classes.

    Args:
      rule: 'logits', 'probabilities' or 'divergence'.
      members, classes: of the combination.
      weights: float64 `[num_classes]` for each member; one whose weights are 0 is not heard.

    Raises:
      OptionError: a class of which only teachers of weight 0 know.
      ClassNamesError: with 'divergence', classes that no teacher compares with each other, as
        groups.
    """
    heard = np.zeros(classes.num_classes, bool)
    all_columns = []
    for columns, own in zip(classes.columns, weights, strict=True):
        known = columns[columns != DUSTBIN]
        heard[known] |= own[known] > 0
        if own[known].any():
            all_columns.append(columns)
    if not heard.all():
        raise _unheard(int(np.flatnonzero(~heard)[0]), members, classes)
    if rule != "divergence" or members[0].opened.header.is_sigmoid:
        return  # independent labels need no teacher that compares them
    islands = islands_of(all_columns, classes.num_classes)
    alone = [island for island, has_dustbin in islands if not has_dustbin]
    # A dustbin says how likely the teacher's own classes are against all others; one group without
    # may take what is left.
    if len(alone) > 1:
        groups = "".join(
            f"  classes: {readable_names([classes.names[n] for n in island])}\n"
            for island in alone[:4]
        )
        raise ClassNamesError(
            f"The teachers' classes fall into {len(alone)} groups that no teacher compares with "
            f"each other, so that nothing says which group an image is of.\n{groups}"
            "Add a teacher that knows classes of several groups, or name the class of each "
            "specialist that stands for none of its own: `--dustbin CLASS`."
        )


def _unheard(number: int, members: Sequence[Member], classes: UnionOfClasses) -> OptionError:
    """Returns the refusal of a class that only teachers of weight 0 know."""
    pairs = zip(members, classes.columns, strict=True)
    paths = [member.opened.path for member, columns in pairs if number in columns]
    name = repr(classes.names[number]) if classes.names else f"number {number}"
    return OptionError(
        f"No teacher that is heard knows the class {name}: {', '.join(paths)} has the weight 0.\n"
        "Give it a weight above 0, or leave the store out."
    )


def islands_of(all_columns: Sequence[np.ndarray], num_classes: int) -> list[tuple[list[int], bool]]:
    """Returns groups of classes, each with whether a teacher of its classes has a dustbin.

    Two classes are of one group if a teacher knows both, or if other classes lead from one to the
    other in this way. `all_columns` are those of `UnionOfClasses`, of the teachers that are heard.
    """
    group = np.arange(num_classes)
    for columns in all_columns:
        own = columns[columns != DUSTBIN]
        joined = np.isin(group, group[own])
        group[joined] = group[own].min()
    with_dustbin = {
        int(group[columns.max()]) for columns in all_columns if (columns == DUSTBIN).any()
    }
    return [
        (np.flatnonzero(group == number).tolist(), number in with_dustbin)
        for number in np.unique(group).tolist()
    ]
