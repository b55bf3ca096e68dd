"""The two parts of the images: those to learn from, and those to measure on.

parts = parts_of(images, validation=None, split=0.2, seed=0, baseline=True)
parts.train, parts.validation           # two manifests
"""

from __future__ import annotations

import dataclasses

import numpy as np

from streamkd.errors import OptionError
from streamkd.manifest.class_names import class_numbers
from streamkd.manifest.listing import UNLABELLED
from streamkd.manifest.manifest import Manifest
from streamkd.manifest.split import check_split, split_indices


@dataclasses.dataclass(frozen=True)
class Parts:
    """Which images a job learns from, and which it measures on.

    Attributes:
      train, validation: manifests.
      is_stratified: whether every class gave the same fraction to `validation`.
    """

    train: Manifest
    validation: Manifest
    is_stratified: bool


def parts_of(
    images: Manifest, *, validation: Manifest | None, split: float, seed: int, baseline: bool
) -> Parts:
    """Returns the two parts; the same arguments give the same parts.

    Args:
      images: all images, labelled or not.
      validation: other images to measure on; None to hold out a part of `images`.
      split: the fraction to hold out, of every class if each image has one class.
      seed: of the shuffle before the split.
      baseline: whether the student is also trained from labels alone.

    Raises:
      OptionError: `baseline` without labels, one class, a validation without classes, or too few
        images to hold some out.
      ClassNamesError: `validation` has a class that `images` have not.
    """
    is_labelled = bool((images.labels != UNLABELLED).any()) or images.multi_hot is not None
    if baseline and not is_labelled:
        raise OptionError(
            "--baseline trains the student from labels alone, and none of the images has a label.\n"
            "Leave --baseline out, or give images in one folder a class."
        )
    has_one_label = is_labelled and images.multi_hot is None
    if has_one_label and len(np.unique(images.labels[images.labels != UNLABELLED])) < 2:
        name = (images.class_names or ["?"])[int(images.labels.max())]
        raise OptionError(
            f"All images are of one class, {name!r}, and there is nothing to tell apart.\n"
            "Give a directory with one folder a class; for images without classes, "
            "`--labels none`."
        )
    if validation is not None:
        if is_labelled and validation.class_names is None:
            raise OptionError(
                f"The images to learn from have {images.num_classes:,} classes, and those of "
                "--validation have none.\nGive images in one folder a class, or leave --validation "
                "out to hold some of the others out."
            )
        if images.class_names is not None and validation.class_names is not None:
            class_numbers(validation.class_names, images.class_names, "the images to learn from")
        return Parts(images, validation, is_stratified=False)
    check_split(split, "validation", seed)
    stratify = has_one_label
    if stratify:
        _refuse_single_images(images)
    train, held_out = (
        images.select(split_indices(images.labels, split, side, seed, stratify=stratify))
        for side in ("training", "validation")
    )
    return Parts(train, held_out, is_stratified=stratify)


def _refuse_single_images(images: Manifest) -> None:
    """Refuses to hold images out of classes that have one image only."""
    counts = images.class_counts or []
    single = [
        name for name, count in zip(images.class_names or [], counts, strict=True) if count == 1
    ]
    if not single:
        return
    raise OptionError(
        f"{len(single):,} of {len(counts):,} classes have one image; the first is {single[0]!r}. "
        "A class needs two: one to learn from, and one to measure on.\n"
        "Add images, or give images to measure on: `--validation IMAGES`."
    )


def check_classes(teacher_classes: list[str], images: Manifest) -> None:
    """Refuses images of a class that the teacher does not know.

    Raises:
      ClassNamesError: the first such class is named.
    """
    if images.class_names is not None and teacher_classes:
        class_numbers(images.class_names, teacher_classes, "the teacher")
