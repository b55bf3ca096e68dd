"""The comparison of several teachers' stores, before a student learns from their combination.

    report = compare_stores(["a.h5", "b.h5"], images="photos/val")
    report.accuracy, report.teachers[0].accuracy, report.pairs[0].agreement
    print(comparison.as_text(report))

Answers to the plain view are read in parts, so that memory does not grow with the stores.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from streamkd.checks import check_count, check_seed, check_types
from streamkd.ensemble.agreement import AccuracyTally, Contradiction, PairTally
from streamkd.ensemble.comparison import (
    MAX_CONTRADICTIONS,
    ComparedPair,
    ComparedTeacher,
    StoreComparison,
)
from streamkd.ensemble.ensemble_store import EnsembleStore, combine_stores
from streamkd.ensemble.member import Member
from streamkd.errors import OptionError, OtherImagesError
from streamkd.keys import key_fields
from streamkd.manifest.manifest import Manifest, as_manifest
from streamkd.progress import image_progress
from streamkd.public import public
from streamkd.reports import MAX_LISTED
from streamkd.store.layout import DONE
from streamkd.store.match_images import match_images

# Logits of all teachers together that are read at once, and images at once.
_NUMBERS_AT_ONCE = 1 << 21
_MAX_IMAGES_AT_ONCE = 8192


@public
def compare_stores(
    stores: Any,
    images: Manifest | str | os.PathLike | None = None,
    *,
    weights: Any = None,
    rule: str = "auto",
    sample: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> StoreComparison:
    """Returns how far teachers agree, and how often each and their combination is right.

    Args:
      stores: several stores, as in `combine_stores`, or the combination that it returned.
      images: labelled images to compare on; by default all images that the stores share, with the
        labels that the stores have.
      weights, rule: as in `combine_stores`.
      sample: largest number of images to look at, drawn by `seed`; None for all.
      seed: seed of the sample.
      progress: show progress on standard error.

    Raises:
      OptionError: weights or a rule for stores that are combined already.
      OtherImagesError: the stores share none of the images.
      StreamkdError: stores that cannot be combined; see `combine_stores`.
    """
    check_types(compare_stores, locals())
    if sample is not None:
        check_count("--sample", sample)
    check_seed(seed)
    combined = _combined(stores, weights, rule)
    numbers, labels, unknown = _compared_images(combined, images, progress)
    num_images = len(numbers)
    if sample is not None and sample < num_images:
        drawn = np.sort(np.random.default_rng(seed).permutation(num_images)[:sample])
        numbers, labels = numbers[drawn], labels[drawn]
    comparison = _Comparison(combined)
    with image_progress(len(numbers), 0, "comparing", progress) as bar:
        for part in _parts(len(numbers), comparison.num_outputs):
            comparison.add(numbers[part], labels[part])
            bar.update(len(numbers[part]))
    return comparison.report(num_images, len(numbers), unknown)


class _Comparison:
    """The counts of a comparison, and the combination that they are of."""

    def __init__(self, combined: EnsembleStore) -> None:
        self.combined = combined
        self.is_sigmoid = combined.header.is_sigmoid
        columns, num_classes = combined.classes.columns, combined.num_classes
        self.num_outputs = sum(map(len, columns)) + num_classes
        num_names = len(combined.class_names)
        self.teachers, self.combined_on_same = (
            [AccuracyTally(own, num_classes, num_names) for own in columns] for _ in range(2)
        )
        self.all_together = AccuracyTally(np.arange(num_classes), num_classes, num_names)
        self.pairs = {
            (a, b): PairTally(columns[a], columns[b], num_classes, is_sigmoid=self.is_sigmoid)
            for a, b in itertools.combinations(range(len(columns)), 2)
        }

    def add(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Compares the answers to some images, int64 `[N]`, with labels, int64 `[N]`."""
        answers = self.combined.gather_members(images * self.combined.num_views)
        together = self.combined.combine(answers)
        self.all_together.add(together, labels)
        chosen = self.all_together.chosen(together)
        for own, teacher, same in zip(answers, self.teachers, self.combined_on_same, strict=True):
            teacher.add(own, labels)
            same.add_chosen(chosen, labels)
        for (a, b), pair in self.pairs.items():
            pair.add(answers[a], answers[b], labels, images)

    def report(self, num_images: int, num_compared: int, unknown: list[str]) -> StoreComparison:
        """Returns the report."""
        described = [member.opened.describe() for member in self.combined.members]
        teachers = [
            ComparedTeacher(
                store=member.opened.path,
                teacher=store.teacher,
                weight=self._weight(member),
                num_bytes=store.num_bytes,
                num_images=store.num_images,
                num_classes=len(tally.classes),
                num_labelled=tally.num_labelled,
                accuracy=tally.accuracy,
                combined_accuracy=same.accuracy,
            )
            for member, store, tally, same in zip(
                self.combined.members,
                described,
                self.teachers,
                self.combined_on_same,
                strict=True,
            )
        ]
        pairs = itertools.islice(self.pairs.items(), MAX_LISTED)
        return StoreComparison(
            num_stores=len(teachers),
            num_bytes=sum(store.num_bytes for store in described),
            num_images=num_images,
            num_compared=num_compared,
            num_classes=self.combined.num_classes,
            rule=self.combined.rule,
            num_labelled=self.all_together.num_labelled,
            accuracy=self.all_together.accuracy,
            teachers=teachers[:MAX_LISTED],
            num_pairs=len(self.pairs),
            pairs=[self._pair(a, b, tally) for (a, b), tally in pairs],
            num_unknown_classes=len(unknown),
            unknown_classes=unknown[:MAX_LISTED],
            **({"activation": "sigmoid"} if self.is_sigmoid else {}),
        )

    def _weight(self, member: Member) -> float | None:
        """Returns the weight of a teacher; None where it has one for each class."""
        if isinstance(member.weight, Mapping):
            return None
        return 1 / len(self.combined.members) if member.weight is None else float(member.weight)

    def _pair(self, first: int, second: int, tally: PairTally) -> ComparedPair:
        members = self.combined.members
        return ComparedPair(
            first=members[first].opened.path,
            second=members[second].opened.path,
            num_shared_classes=len(tally.shared),
            num_images=tally.num_images,
            agreement=tally.agreement,
            divergence=tally.divergence,
            num_contradictions=tally.num_class_pairs,
            contradictions=[
                self._contradiction(entry) for entry in tally.most_frequent(MAX_CONTRADICTIONS)
            ],
        )

    def _contradiction(self, entry: Contradiction) -> dict[str, Any]:
        return {
            "first_class": self._class_name(entry.first),
            "second_class": self._class_name(entry.second),
            "count": entry.count,
            "examples": [key_fields(self.combined.keys[image]) for image in entry.images],
        }

    def _class_name(self, number: int) -> str | None:
        """Returns the name of a class, its number as text where it has none; None for no class.

        A single logit speaks for the last of its names.
        """
        if number < 0:
            return None
        names = self.combined.class_names
        if not names:
            return str(number)
        return names[-1] if self.combined.num_classes == 1 else names[number]


def _combined(stores: Any, weights: Any, rule: str) -> EnsembleStore:
    if not isinstance(stores, EnsembleStore):
        return combine_stores(stores, weights, rule)
    if weights is not None or rule != "auto":
        raise OptionError(
            "The stores are combined already, by their weights and rule.\n"
            "Leave weights and rule out, or give the single stores."
        )
    return stores


def _compared_images(
    combined: EnsembleStore, images: Manifest | str | os.PathLike | None, progress: bool
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns image numbers and labels, both int64 `[N]`, and the classes that no teacher knows."""
    unknown: list[str] = []
    if images is None:
        numbers, labels = np.arange(combined.num_images), combined.labels.astype(np.int64)
    else:
        images = as_manifest(images)
        names = images.class_names or []
        number_of = {name: number for number, name in enumerate(combined.class_names)}
        unknown = [name for name in names if number_of and name not in number_of]
        renumbered = np.array([*(number_of.get(name, -1) for name in names), -1], np.int64)
        numbers = match_images(images, combined, progress)
        labels = renumbered[images.labels][numbers >= 0]
        numbers = numbers[numbers >= 0]
    answered = combined.done_of(numbers * combined.num_views) == DONE
    if not answered.any():
        asked = "" if images is None else f"  images: {os.fsdecode(images.root)}\n"
        raise OtherImagesError(
            f"The stores have no answers to compare.\n{asked}  stores: {combined.path}\n"
            "Give images that every teacher has answered."
        )
    return numbers[answered], labels[answered], unknown


def _parts(num_images: int, num_outputs: int) -> Iterator[slice]:
    """Yields parts of the images, each of few enough logits to be read at once."""
    at_once = min(max(1, _NUMBERS_AT_ONCE // num_outputs), _MAX_IMAGES_AT_ONCE)
    for start in range(0, num_images, at_once):
        yield slice(start, start + at_once)
