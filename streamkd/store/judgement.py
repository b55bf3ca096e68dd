"""What the stored answers say about their teacher: is it sure, is it right, of which classes?

judged = judge_teacher("teacher.h5")
judged.teacher_confidence, judged.teacher_entropy    # median largest probability; mean, in nats
judged.teacher_verdict, judged.teacher_advice        # 'nearly_certain', and what helps; or None

The answers of a sample of the images are read; the pass itself takes no longer.
"""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any

import numpy as np

from streamkd.checks import check_count
from streamkd.public import public
from streamkd.reports import Report
from streamkd.store.chance import is_at_chance
from streamkd.store.collection import StoreCollection, open_store
from streamkd.store.decisions import as_two, chosen, right
from streamkd.store.layout import DONE
from streamkd.store.row_store import RowStore

# Median largest probability above which a teacher is nearly certain; temperatures 1 and 2 were
# better than 4 then, and 4 is the common choice otherwise.
NEARLY_CERTAIN = 0.9
LOW_TEMPERATURE, TEMPERATURE = 2.0, 4.0
# Labels correct a teacher that is often wrong; a good one says more than they do.
WEAK_TEACHER = 0.7
WEAK_LABEL_WEIGHT = 0.5
# Part of the largest possible entropy above which classes are nearly alike: probabilities that are
# taken as logits have 0.97 of it for 10 classes, and more for more.
NEARLY_EVEN = 0.9
# Images whose answers are read, and numbers at most: they take a second.
NUM_JUDGED, MOST_LOGITS = 4096, 1 << 25
_ROWS_AT_A_TIME = 512


class TeacherJudgement(Report):
    """What a sample of the plain images' answers says about the teacher.

    Attributes:
      num_judged: images whose answers were read.
      teacher_accuracy: fraction of the labelled images that the teacher gets right, of all where
        the store knows it; None without labels.
      teacher_confidence: median over images of the largest probability, 0 to 1; of independent
        labels, each image's is the mean over labels of the probability of what is decided.
      teacher_entropy: mean entropy of the answers at temperature 1, in nats; of independent labels
        the mean over images and labels.
      teacher_verdict: 'at_chance', 'nearly_even', 'nearly_certain' or 'often_wrong'; None where
        nothing is to be said.
      teacher_advice: the verdict in words, and what helps; or None.
      teacher_classes: one dict for each class, the one that is right least often first: 'class',
        its name or number; 'num_images', 'accuracy', 'confidence', 'entropy' of its judged images.
        Classes are labels; without labels, the teacher's choices, and accuracy is None.
    """

    num_judged: int
    teacher_accuracy: float | None
    teacher_confidence: float | None
    teacher_entropy: float | None
    teacher_verdict: str | None
    teacher_advice: str | None
    teacher_classes: list[dict[str, Any]]


@public
def judge_teacher(
    store: RowStore | str | os.PathLike[str], *, sample: int = NUM_JUDGED
) -> TeacherJudgement:
    """Returns what the stored answers say about their teacher.

    Args:
      store: finished or not; rows that are missing are left out.
      sample: images whose answers are read, evenly over all.

    Raises:
      DamagedStoreError: a row that is not as it was written.
    """
    check_count("sample", sample)
    if not isinstance(store, RowStore):
        store = open_store(store)
    images, labels = _sampled(store, sample)
    answers = _Answers(store, images, labels)
    summary = store.summary or {}
    accuracy, num_labelled = summary.get("teacher_accuracy"), summary.get("num_labelled", 0)
    if accuracy is None and answers.is_labelled:
        accuracy = float(answers.right[labels >= 0].mean())
    facts = _Facts(
        num_classes=store.num_classes,
        accuracy=accuracy,
        num_labelled=num_labelled or int((labels >= 0).sum()),
        confidence=float(np.median(answers.confidence)) if len(images) else None,
        entropy=float(answers.entropy.mean()) if len(images) else None,
        has_views=store.num_views > 1,
        # Independent labels are mostly absent; and a class alone was told of in its pass.
        is_judged=store.header.teacher.get("output") != "class"
        and not (store.header.is_sigmoid and store.num_classes > 1),
    )
    verdict, advice = _verdict(facts)
    return TeacherJudgement(
        num_judged=len(images),
        teacher_accuracy=accuracy,
        teacher_confidence=facts.confidence,
        teacher_entropy=facts.entropy,
        teacher_verdict=verdict,
        teacher_advice=advice,
        teacher_classes=answers.by_class(),
    )


def confidence_and_entropy(
    logits: np.ndarray, *, is_sigmoid: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the largest probability of each row, and its entropy in nats, float64 `[rows]`.

    Args:
      logits: `[rows, num_classes]`.
      is_sigmoid: whether they are those of independent labels; then both are means over labels.
    """
    logits = logits.astype(np.float64)
    if is_sigmoid and logits.shape[1] > 1:
        size = np.abs(logits)
        surer = 1 / (1 + np.exp(-size))
        # Of the less likely side the logarithm is that of the other less the logit.
        entropy = -np.log(surer) + (1 - surer) * size
        return surer.mean(axis=1), entropy.mean(axis=1)
    logits = as_two(logits)
    logits = logits - logits.max(axis=1, keepdims=True)
    powers = np.exp(logits)
    total = powers.sum(axis=1)
    return 1 / total, np.log(total) - (powers * logits).sum(axis=1) / total


class _Answers:
    """What is kept of each answer: a few numbers instead of its logits."""

    def __init__(self, store: RowStore, images: np.ndarray, labels: np.ndarray) -> None:
        self.labels, self.class_names = labels, store.class_names
        self.confidence, self.entropy = np.empty(len(images)), np.empty(len(images))
        self.chosen, self.right = np.empty(len(images), np.int64), np.empty(len(images), bool)
        for start in range(0, len(images), _ROWS_AT_A_TIME):
            part = slice(start, start + _ROWS_AT_A_TIME)
            logits = store.gather(images[part] * store.num_views)
            self.confidence[part], self.entropy[part] = confidence_and_entropy(
                logits, is_sigmoid=store.header.is_sigmoid
            )
            self.chosen[part] = chosen(logits)
            self.right[part] = right(logits, labels[part], store.class_names)

    @property
    def is_labelled(self) -> bool:
        return bool((self.labels >= 0).any())

    def by_class(self) -> list[dict[str, Any]]:
        """Returns the numbers of each class; see `TeacherJudgement.teacher_classes`."""
        classes = self.labels if self.is_labelled else self.chosen
        by_class = []
        for number in np.unique(classes[classes >= 0]).tolist():
            own = classes == number
            name = self.class_names[number] if number < len(self.class_names) else number
            by_class.append(
                {
                    "class": name,
                    "num_images": int(own.sum()),
                    "accuracy": float(self.right[own].mean()) if self.is_labelled else None,
                    "confidence": float(np.median(self.confidence[own])),
                    "entropy": float(self.entropy[own].mean()),
                }
            )
        return sorted(by_class, key=lambda one: (one["accuracy"] or 0.0, -one["num_images"]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Facts:
    """What a verdict rests on."""

    num_classes: int
    accuracy: float | None
    num_labelled: int
    confidence: float | None
    entropy: float | None
    has_views: bool
    is_judged: bool


def _verdict(facts: _Facts) -> tuple[str | None, str | None]:
    """Returns the verdict and the advice; see `TeacherJudgement`."""
    accuracy, chance = facts.accuracy, 1 / max(2, facts.num_classes)
    if accuracy is not None and is_at_chance(accuracy, chance, facts.num_labelled):
        return "at_chance", (
            f"The teacher is right on {accuracy:.1%} of {facts.num_labelled:,} labelled images, "
            f"and chance is {chance:.1%}: a student learns nothing from it. Check `--preprocess` "
            "and the order of its classes (`--class-names`)."
        )
    if facts.confidence is None or facts.entropy is None or not facts.is_judged:
        return None, None
    largest = math.log(max(2, facts.num_classes))
    if facts.entropy > NEARLY_EVEN * largest:
        return "nearly_even", (
            f"To the teacher all classes are nearly alike: its answers have a mean entropy of "
            f"{facts.entropy:.3g} nats, and {largest:.3g} is the most. If its outputs are "
            "probabilities, teach with `--teacher-output probabilities`; else train with "
            "`--temperature 1`."
        )
    is_weak = accuracy is not None and _is_weak(accuracy, facts.num_labelled)
    labels = f"labels correct it: train with `--label-weight {WEAK_LABEL_WEIGHT:g}`."
    if facts.confidence >= NEARLY_CERTAIN:
        return "nearly_certain", _about_certain(facts) + (
            f" It is right on {accuracy:.1%} of the labelled images, so {labels}" if is_weak else ""
        )
    if is_weak:
        return "often_wrong", (
            f"The teacher is right on {accuracy:.1%} of the labelled images, and {labels}"
        )
    return None, None


def _about_certain(facts: _Facts) -> str:
    """Returns the advice about a teacher that is nearly certain of its answers."""
    helps = "Images that it was not trained on help"
    if not facts.has_views:
        helps = "Views (`--views 8 --flip`) or images that it was not trained on help"
    return (
        f"The teacher is nearly certain of its answers (median largest probability "
        f"{facts.confidence:.3f}), so that soft targets say little more than the class. {helps}; "
        f"so does another temperature: {LOW_TEMPERATURE:g} was better than {TEMPERATURE:g} with "
        f"such teachers (`train --temperature {LOW_TEMPERATURE:g}`)."
    )


def _is_weak(accuracy: float, num_labelled: int) -> bool:
    """Returns whether a teacher is often wrong, and not by the choice of a few images."""
    deviation = math.sqrt(max(accuracy * (1 - accuracy), 1 / num_labelled) / num_labelled)
    return accuracy + 3 * deviation < WEAK_TEACHER


def _sampled(store: RowStore, sample: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers of images that are judged, int64 `[N]`, and their labels, -1 for none."""
    if isinstance(store, StoreCollection):
        labels = np.concatenate([single.labels for single in store.stores])
    else:
        labels = np.asarray(getattr(store, "labels"))  # noqa: B009  a file's, or a combination's
    images = np.arange(len(labels))
    if not store.finished:
        images = images[store.done_of(images * store.num_views) == DONE]
    count = min(sample, max(1, MOST_LOGITS // store.num_classes), len(images))
    # Evenly over all: images stand by class.
    picked = np.linspace(0, max(0, len(images) - 1), count).round().astype(np.int64)
    images = images[picked]
    images = images[store.done_of(images * store.num_views) == DONE]
    if isinstance(store, StoreCollection):
        images = images[_counts(store, images)]
    return images, labels[images]


def _counts(store: StoreCollection, images: np.ndarray) -> np.ndarray:
    """Returns whether no later store has an image again, bool `[N]`; `images` are numbers."""
    last = np.empty(len(images), np.int64)
    first, owner = 0, store.store_of_images(images)
    for number, single in enumerate(store.stores):
        own = np.flatnonzero(owner == number)
        last[own] = store.images_of_keys(single.keys.take(images[own] - first))
        first += single.num_images
    return last == images
