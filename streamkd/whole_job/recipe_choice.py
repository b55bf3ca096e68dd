"""The settings of a job, chosen from what is known of images, teacher, student and budget.

    recipe = choose_recipe(facts, {"temperature": 3.0})
    recipe["epochs"].value, recipe["epochs"].reason
    values_of(recipe)["temperature"]        # 3.0, as it was given

A pure function: the same facts give the same settings. The numbers are constants, each with its
reason; they rest on the runs in `design/loop.md`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from streamkd.errors import OptionError
from streamkd.store.judgement import (
    LOW_TEMPERATURE,
    NEARLY_CERTAIN,
    TEMPERATURE,
    WEAK_LABEL_WEIGHT,
    WEAK_TEACHER,
)
from streamkd.whole_job.budget import Budget, as_time

# A fifth of the images measures the student to about two points on 2,000 images.
VALIDATION_SPLIT = 0.2
# Images that the student and the teacher are compared on; more cost the teacher and tell little.
MOST_VALIDATION = 10_000
# Views of each image by the number of images, most first: few images repeat themselves soonest.
VIEWS_BY_IMAGES = ((5_000, 16), (20_000, 8), (100_000, 4))
FEWEST_VIEWS = 2
# Fraction of a time budget that the teacher may take: the student learns in the rest.
TEACHER_FRACTION = 0.3
# Area that a crop keeps. Objects of small pictures fill them, and are lost in narrow crops.
CROP, SMALL_CROP = (0.35, 1.0), (0.6, 1.0)
SMALL_PICTURE = 48
# Answers that may change when an image is mirrored; letters and digits change more often.
MOST_CHANGED_BY_MIRROR = 0.25
# Views are cut from images larger than the student's by this factor: 256 for 224.
CANONICAL_FACTOR = 8 / 7
# A store below this size needs no packing; `plan` measures what packing loses.
LARGE_STORE = 1 << 30
# Largest part of the free disk that decoded pixels may take unasked.
CACHE_FRACTION = 0.5
# Updates with which small students were still learning at the common default: 2,000 on plain
# images, three times as many on views, of which each shows an image anew.
UPDATES, VIEWS_FACTOR = 2_000, 3
FEWEST_EPOCHS, MOST_EPOCHS = 10, 60
# Bounds under a time budget: fewer epochs are no training, more were never better.
FEWEST_EPOCHS_IN_TIME, MOST_EPOCHS_IN_TIME = 2, 600
# Seconds that a training takes besides its images: to be compiled, and to save each epoch. An image
# of the validation costs a third of one in training, which is also differentiated.
START_SECONDS, EPOCH_SECONDS, VALIDATION_COST = 10.0, 0.1, 1 / 3
BATCH_SIZE, LARGE_BATCH_SIZE, MANY_IMAGES = 32, 64, 10_000
# The highest rate of a cosine. 0.001 cost new students two points, 0.004 none; weights that were
# trained before are lost at 0.004.
NEW_RATE, TRAINED_RATE = 4e-3, 1e-3
# Optimizers that a rate of AdamW fits as well.
LIKE_ADAMW = ("adamw", "adam", "nadam")
# Losses whose temperature and label weight are chosen here; others have those of their papers.
CHOSEN_LOSSES = ("auto", "kd", "kl", "bce")
# The weight of labels beside a good teacher, which says more than they do.
LABEL_WEIGHT = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known before the job begins.

    Attributes:
      num_images: images to learn from; `num_validation`: to measure on.
      num_outputs: the teacher's.
      is_labelled: whether the images have labels.
      image_size: (height, width) that the teacher sees.
      num_channels: channels that the teacher sees.
      file_size: median shorter side of the files in pixels, or None if headers do not say.
      teacher_confidence: median largest probability on a sample of the images, 0 to 1.
      teacher_accuracy: on that sample, or None without labels.
      mirror_agreement: fraction of mirrored images for which the teacher answers the same class;
        None if none was asked.
      is_trained: whether the student has weights that were trained before.
      budget: or None.
      teacher_seconds: time of one answer; None if it was not measured.
      student_seconds: time of one image in training; None if it was not measured.
      student_size: (height, width) that the student sees, or None if that is not known.
      free_disk: bytes that a cache may take of the disk of the job.
    """

    num_images: int
    num_outputs: int
    is_labelled: bool
    image_size: tuple[int, int]
    num_channels: int
    file_size: int | None
    teacher_confidence: float
    teacher_accuracy: float | None
    mirror_agreement: float | None
    is_trained: bool
    budget: Budget | None = None
    num_validation: int = 0
    teacher_seconds: float | None = None
    student_seconds: float | None = None
    student_size: tuple[int, int] | None = None
    free_disk: int = 0


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting and the reason for its value, a short sentence."""

    value: Any
    reason: str


def choose_recipe(facts: Facts, given: Mapping[str, Any]) -> dict[str, Setting]:
    """Returns every setting by its name, that of the flag, with its reason.

    Args:
      facts: what is known.
      given: settings that the user chose; they are kept, and the others follow them.
    """
    recipe: dict[str, Setting] = {}

    def settle(name: str, value: Any, reason: str) -> Any:
        if name in given:
            value, reason = given[name], "As given."
        recipe[name] = Setting(value, reason)
        return value

    views = settle("views", *_views(facts, given))
    settle("crop", *_crop(facts, views))
    settle("flip", *_flip(facts, views))
    settle("canonical_size", *_canonical_size(facts, views))
    settle("codec", *_codec(facts, views))
    batch_size = settle("batch_size", *_batch_size(facts))
    epochs = settle("epochs", *_epochs(facts, views, batch_size))
    if "views" not in given and views > epochs:
        recipe["views"] = Setting(epochs, "An epoch shows one view of each image.")
    settle("learning_rate", *_learning_rate(facts, given))
    settle("temperature", *_temperature(facts, given))
    settle("label_weight", *_label_weight(facts, given))
    settle("cache", *_cache(facts, recipe))
    for name in sorted(set(given) - set(recipe)):
        settle(name, None, "")
    return recipe


def values_of(recipe: Mapping[str, Setting]) -> dict[str, Any]:
    """Returns the values of the settings by name."""
    return {name: setting.value for name, setting in recipe.items()}


def validation_split(num_images: int) -> tuple[float, str]:
    """Returns the fraction of the images to hold out, and the reason."""
    if num_images * VALIDATION_SPLIT > MOST_VALIDATION:
        return MOST_VALIDATION / num_images, f"{MOST_VALIDATION:,} images measure well enough."
    return VALIDATION_SPLIT, "A fifth of the images measures the student."


def _views(facts: Facts, given: Mapping[str, Any]) -> tuple[int, str]:
    views = FEWEST_VIEWS
    for most, number in VIEWS_BY_IMAGES:
        if facts.num_images <= most:
            views = number
            break
    reason = f"With {facts.num_images:,} images, views show the student more than the files do."
    budget = facts.budget
    if budget is None or budget.seconds is None or not facts.teacher_seconds:
        return views, reason
    rows = budget.seconds * TEACHER_FRACTION / facts.teacher_seconds / facts.num_images
    if rows >= 1 + views:
        return views, reason
    return max(0, int(rows) - 1), (
        f"The teacher answers so many in {TEACHER_FRACTION:.0%} of the {budget.text}."
    )


def _crop(facts: Facts, views: int) -> tuple[tuple[float, float] | None, str]:
    if not views:
        return None, "There are no views to cut."
    side = min(facts.image_size)
    if side <= SMALL_PICTURE:
        return SMALL_CROP, f"Pictures of {side} pixels lose their object in narrow crops."
    return CROP, "The common range for photographs."


def _flip(facts: Facts, views: int) -> tuple[bool, str]:
    if not views:
        return False, "There are no views to mirror."
    agreement = facts.mirror_agreement
    if agreement is None:
        return False, "Whether a mirrored image keeps its class is not known."
    if 1 - agreement > MOST_CHANGED_BY_MIRROR:
        return False, f"The teacher answers {1 - agreement:.0%} of mirrored images otherwise."
    return True, f"The teacher answers {agreement:.0%} of mirrored images the same."


def _canonical_size(facts: Facts, views: int) -> tuple[tuple[int, int] | None, str]:
    if not views:
        return None, "There are no views to cut."
    height, width = facts.image_size
    larger = (round(height * CANONICAL_FACTOR), round(width * CANONICAL_FACTOR))
    if facts.file_size is not None and facts.file_size < min(larger):
        return (height, width), "The files are no larger; one size lets decoded pixels be kept."
    return larger, "One size lets decoded pixels be kept, and is larger than what crops are cut to."


def _codec(facts: Facts, views: int) -> tuple[str, str]:
    num_bytes = 2 * facts.num_images * (1 + views) * facts.num_outputs
    if num_bytes < LARGE_STORE:
        return "float16", f"The store takes {_as_bytes(num_bytes)}; packing would save little."
    return "packed:8", f"The store would take {_as_bytes(num_bytes)} in float16."


def _batch_size(facts: Facts) -> tuple[int, str]:
    if facts.num_images < BATCH_SIZE:
        return facts.num_images, "There are no more images."
    if facts.num_images < MANY_IMAGES:
        return BATCH_SIZE, "Few images: small batches give more updates."
    return LARGE_BATCH_SIZE, "Many images: larger batches are faster."


def _epochs(facts: Facts, views: int, batch_size: int) -> tuple[int, str]:
    budget, factor = facts.budget, VIEWS_FACTOR if views else 1
    if budget is not None and budget.epochs is not None:
        return budget.epochs, "As the budget says."
    if budget is not None and budget.seconds is not None and facts.student_seconds:
        return _epochs_in(budget.seconds, facts, views)
    steps = facts.num_images / max(1, batch_size)
    epochs = factor * min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(UPDATES / steps)))
    for_views = ", three times as many as without views" if views else ""
    return epochs, f"{epochs * steps:,.0f} updates{for_views}."


def _epochs_in(seconds: float, facts: Facts, views: int) -> tuple[int, str]:
    """Returns the epochs for which a time is enough, after the teacher's pass."""
    teaching = facts.num_images * (1 + views) * (facts.teacher_seconds or 0.0)
    shown = facts.num_images + VALIDATION_COST * facts.num_validation
    one = shown * (facts.student_seconds or 0.0) + EPOCH_SECONDS
    fitting = int((seconds - teaching - START_SECONDS) / one)
    epochs = min(MOST_EPOCHS_IN_TIME, max(FEWEST_EPOCHS_IN_TIME, fitting))
    measured = f"The teacher takes about {as_time(teaching)}, an epoch {as_time(one)}"
    if fitting < epochs:
        return epochs, f"{measured}; fewer epochs are no training."
    if fitting > epochs:
        return epochs, f"{measured}; more epochs are of no use."
    return epochs, f"{measured}."


def _learning_rate(facts: Facts, given: Mapping[str, Any]) -> tuple[float, str]:
    optimizer = given.get("optimizer", "adamw")
    if "learning_rate" not in given and optimizer.lower() not in LIKE_ADAMW:
        raise OptionError(
            f"--optimizer is {optimizer!r}, and the rate that is chosen fits adamw.\n"
            "Give the rate, too, such as `--learning-rate 0.1` for sgd."
        )
    if facts.is_trained:
        return TRAINED_RATE, "The student has trained weights, which a larger rate would spoil."
    return NEW_RATE, "A new student was better at this rate than at 0.001."


def _temperature(facts: Facts, given: Mapping[str, Any]) -> tuple[float | str, str]:
    if given.get("loss", "auto") not in CHOSEN_LOSSES:
        return "auto", f"That of the paper of {given['loss']}."
    confidence = f"The teacher's median largest probability is {facts.teacher_confidence:.3f}"
    if facts.teacher_confidence >= NEARLY_CERTAIN:
        return LOW_TEMPERATURE, f"{confidence}: it is nearly certain, and higher ones were worse."
    return TEMPERATURE, f"{confidence}: it says how classes resemble each other."


def _label_weight(facts: Facts, given: Mapping[str, Any]) -> tuple[float, str]:
    if not facts.is_labelled:
        return 0.0, "The images have no labels."
    if (loss := given.get("loss", "auto")) not in CHOSEN_LOSSES:
        from streamkd.losses.teacher_loss import PRESETS  # loads TensorFlow

        return PRESETS[loss].label_weight, f"That of the paper of {loss}."
    accuracy = facts.teacher_accuracy
    if accuracy is None:
        return LABEL_WEIGHT, "The teacher's accuracy is not known."
    right = f"The teacher is right on {accuracy:.1%} of a sample"
    if accuracy < WEAK_TEACHER:
        return WEAK_LABEL_WEIGHT, f"{right}; labels correct it."
    return LABEL_WEIGHT, f"{right}; it says more than the labels."


def _cache(facts: Facts, recipe: Mapping[str, Setting]) -> tuple[str, str]:
    canonical_size = recipe["canonical_size"].value
    if not recipe["views"].value and facts.student_size == facts.image_size:
        canonical_size = canonical_size or facts.image_size
    if canonical_size is None:
        return "memory", "The student's pixels are kept after the first epoch."
    num_bytes = facts.num_images * math.prod(canonical_size) * facts.num_channels
    if num_bytes > CACHE_FRACTION * facts.free_disk:
        return "memory", f"The disk has little room for {_as_bytes(num_bytes)} of decoded pixels."
    return "disk", (
        f"The teacher's pass leaves {_as_bytes(num_bytes)} of pixels: each file is decoded once."
    )


def _as_bytes(num_bytes: int) -> str:
    """Returns a size in words, such as '25 MB'."""
    for size, unit in ((1 << 30, "GB"), (1 << 20, "MB")):
        if num_bytes >= size:
            return (
                f"{num_bytes / size:.2g} {unit}"
                if num_bytes < 10 * size
                else (f"{num_bytes / size:,.0f} {unit}")
            )
    return f"{max(1, num_bytes >> 10)} kB"
