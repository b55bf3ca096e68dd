"""Checks of what `fit_class_bias` is given: frequencies of classes, and images that can tell them.

wanted = given_frequencies({"okapi": 0.1}, names, missing)     # float64 [len(missing)]
check_images(images, transfer, names, missing)
check_number(len(images), names, missing, wanted, is_given=True)
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streamkd.checks import check_choice
from streamkd.codes import warn
from streamkd.errors import OptionError, readable_names
from streamkd.manifest.listing import UNLABELLED
from streamkd.manifest.manifest import Manifest

# What frequencies may be besides numbers: all classes of the model are equally frequent.
EQUAL = "equal"
# Largest difference of a sum of frequencies from 1 that is rounding.
SUM_TOLERANCE = 1e-6
# Fewest images that a missing class must be expected to have. Where its frequency is given, more
# are needed: their true number differs from the expected one by chance.
MIN_EXPECTED, MIN_EXPECTED_IF_GIVEN = 5, 200
# A teacher may give a class no probability at all; a message counts with this one.
SMALLEST_SHOWN = 1e-9


def given_frequencies(
    given: Mapping[str, float] | str, names: list[str], missing: np.ndarray
) -> np.ndarray:
    """Returns how often each missing class is to occur, float64."""
    if isinstance(given, str):
        check_choice("frequencies", given, (EQUAL,))
        return np.full(len(missing), 1 / len(names))
    absent = [names[number] for number in missing if names[number] not in given]
    unknown = [name for name in given if name not in names]
    if absent or unknown:
        raise OptionError(
            f"frequencies names {readable_names(list(given))}.\n"
            + (f"  the missing class {absent[0]!r} is not named\n" if absent else "")
            + (f"  the model has no class {unknown[0]!r}\n" if unknown else "")
            + "Give a number for each missing class: "
            f"{readable_names([names[number] for number in missing])}."
        )
    try:
        values = np.array([given[name] for name in given], np.float64)
    except (TypeError, ValueError, OverflowError):
        values = np.full(len(given), np.nan)
    if values.ndim != 1:
        values = np.full(len(given), np.nan)
    total, is_all = values.sum(), len(given) == len(names)
    fits = abs(total - 1) <= SUM_TOLERANCE if is_all else total < 1
    if not (np.all(values > 0) and np.isfinite(total) and fits):
        raise OptionError(
            f"frequencies are {dict(given)!r:.200}, with the sum {total:.6g}.\nGive parts of all "
            "images, above 0: those of all classes have the sum 1, those of some classes less."
        )
    by_name = dict(zip(given, values, strict=True))
    return np.array([by_name[names[number]] for number in missing])


def check_number(
    num_images: int, names: list[str], missing: np.ndarray, wanted: np.ndarray, *, is_given: bool
) -> None:
    """Refuses, or warns of, images that are too few to tell how often a class is found."""
    rarest = names[missing[wanted.argmin()]]
    few = (
        f"{num_images:,} images are too few to fit a bias{{}}: {wanted.min():.3g} of them are of "
        f"the missing class {rarest!r}.\n"
    )
    if num_images * wanted.min() < MIN_EXPECTED:
        needed = int(np.ceil(MIN_EXPECTED / max(wanted.min(), SMALLEST_SHOWN)))
        raise OptionError(
            few.format("") + f"Give at least {needed:,} images of all classes, without labels; or "
            "leave this class out: `classes=`."
        )
    if is_given and num_images * wanted.min() < MIN_EXPECTED_IF_GIVEN:
        needed = int(np.ceil(MIN_EXPECTED_IF_GIVEN / wanted.min()))
        warn(
            "few_images_for_bias",
            few.format(" well by given frequencies")
            + f"Give {needed:,} or more images; or the teacher's logits of these, `store=`, "
            "instead of frequencies.",
            stacklevel=3,
        )


def check_images(
    images: Manifest, transfer: Manifest | None, names: list[str], missing: np.ndarray
) -> None:
    """Refuses images that cannot tell how often a missing class is found."""
    if transfer is not None and images.fingerprint == transfer.fingerprint:
        raise OptionError(
            f"The images are those of the transfer set ({transfer!r}), which lacks the class "
            f"{names[missing[0]]!r}.\nGive images of all classes; they need no labels."
        )
    if images.class_names is None or images.multi_hot is not None:
        return
    labelled = images.labels[images.labels != UNLABELLED]
    found = {images.class_names[number] for number in np.unique(labelled)}
    lacking = [names[number] for number in missing if names[number] not in found]
    if len(labelled) == len(images) and set(found) <= set(names) and lacking:
        raise OptionError(
            f"The images, {images!r}, lack the class {lacking[0]!r}, as the transfer set does.\n"
            "Give images of all classes; they need no labels."
        )
