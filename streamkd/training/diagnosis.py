"""What is wrong with a run, by its numbers: too few steps for its views, a weak teacher or student.

diagnosis = Diagnosis(stream, recipe, epochs=40, num_steps=2_577)     # warns before the first step
diagnosis.look_back(history, validation)                              # and after the last one

The thresholds rest on the runs in `design/loop.md`. A trial on a few images is passed over.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from streamkd.codes import warn
from streamkd.manifest.listing import UNLABELLED
from streamkd.manifest.manifest import Manifest
from streamkd.stream.stream import Stream
from streamkd.training.history import History
from streamkd.training.recipe import Recipe
from streamkd.training.schedules import typical_of
from streamkd.training.student_checks import LABELS_ALONE
from streamkd.training.teacher_strength import TeacherStrength

# Images below which a run is a trial.
FEWEST_IMAGES = 200
# Steps after which views paid: at 2,577 the student of 8 views was worse than that of labels alone,
# at 7,700 far better.
STEPS_FOR_VIEWS = 6_000
# Epochs that are enough for few images, whatever the steps; a third of them without views.
MOST_EPOCHS_FOR_VIEWS = 180
# Steps from which a student of plain images is no longer at its beginning.
STEPS_OF_PLAIN_IMAGES = 2_000
# Accuracy by which a student that is too small stays behind, on the images that it learns from, and
# the most that it may be better on them than on validation images.
FAR_BEHIND, NO_GAP = 0.2, 0.03
# Part of the run whose loss is compared with the last, and the fall that is still learning.
LATE, STILL_FALLING = 2 / 3, 0.1


class Diagnosis:
    """What the numbers of a run tell, before and after it.

    Attributes:
      strength: the teacher's accuracy on the labelled images, or None.
    """

    def __init__(self, stream: Stream, recipe: Recipe, *, epochs: int, num_steps: int) -> None:
        """Warns of a teacher that guesses, and of too few steps for the views of the store."""
        self._label_weight = typical_of(recipe.label_weight)
        self.strength = TeacherStrength.of(stream, self._label_weight)
        self._shown = _shown_views(stream, self._label_weight)
        self._plan = Plan(
            num_images=len(stream.images),
            num_views=self._shown,
            views_per_epoch=stream.views_per_decode,
            epochs=epochs,
            num_steps=num_steps,
        )
        self._warn_of_few_steps()

    def _warn_of_few_steps(self) -> None:
        words = self._plan.too_few()
        if words is not None:
            warn("few_steps_for_views", words, stacklevel=4)

    def look_back(self, history: History, validation: Manifest | None) -> None:
        """Warns of a teacher weaker than its student, and of a student that is too small.

        Args:
          history: of the run; one that was stopped is passed over.
          validation: images that the student was validated on.
        """
        if self.strength is None or history.stopped or not history.epochs:
            return
        if self.strength.is_at_chance:
            return  # of which the user was warned before the first step
        last = history.last
        labels = np.empty(0) if validation is None else validation.labels
        num_validation = int((labels != UNLABELLED).sum())
        self.strength.warn_if_weaker(
            last.get("accuracy"), self._label_weight, last.get("val_accuracy"), num_validation
        )
        is_long = self._plan.num_images >= FEWEST_IMAGES and self._plan.is_long_enough
        if is_long and is_too_small(history.epochs, self.strength.accuracy):
            self._warn_of_small_student(last)

    def _warn_of_small_student(self, last: dict[str, Any]) -> None:
        assert self.strength is not None
        warn(
            "student_too_small",
            f"The student is too small for this teacher, or its learning rate is: after "
            f"{last['epoch']:,} epochs it is right on {last['accuracy']:.1%} of the images that it "
            f"learns from and on {last['val_accuracy']:.1%} of the validation images, the teacher "
            f"on {self.strength.accuracy:.1%}, and its loss hardly falls any more. Give a larger "
            "student, or try a larger `--learning-rate`.",
            stacklevel=4,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """How much a run shows.

    Attributes:
      num_images: images of an epoch.
      num_views: views of each image that take turns; 0 for plain images.
      views_per_epoch: of each image.
      epochs, num_steps: of the whole run.
    """

    num_images: int
    num_views: int
    views_per_epoch: int
    epochs: int
    num_steps: int

    @property
    def is_long_enough(self) -> bool:
        """Whether a student that has not learned by the end is not at its beginning."""
        enough = STEPS_FOR_VIEWS / 2 if self.num_views else STEPS_OF_PLAIN_IMAGES
        return self.num_steps >= enough

    def too_few(self) -> str | None:
        """Returns in words that steps or epochs are too few for the views; None if they are not."""
        if not self.num_views or self.num_images < FEWEST_IMAGES:
            return None
        steps = self.num_steps / self.epochs
        enough = min(MOST_EPOCHS_FOR_VIEWS, math.ceil(STEPS_FOR_VIEWS / steps))
        shown = self.epochs * self.views_per_epoch
        wanted = max(enough, math.ceil(self.num_views / self.views_per_epoch))
        remedy = f"Train with `--epochs {wanted}`, or teach fewer views (`--views`)."
        if shown < self.num_views:
            one = "one view" if self.views_per_epoch == 1 else f"{self.views_per_epoch} views"
            return (
                f"There are too few epochs for the views: an epoch shows {one} of each image, so "
                f"{_epochs(self.epochs, 'show')} {shown:,} of the {self.num_views:,} that "
                f"the teacher answered. {remedy}"
            )
        if self.epochs < enough / 2:
            return (
                f"There are too few steps for the views: {_epochs(self.epochs, 'take')} "
                f"{self.num_steps:,}, and views show their worth after {STEPS_FOR_VIEWS:,} or so; "
                f"before, a student may be worse with them than without. {remedy}"
            )
        return None


def is_too_small(epochs: list[dict[str, Any]], teacher: float) -> bool:
    """Returns whether a student has learned what it can, and stays far behind its teacher.

    It is as good on validation images as on those that it learns from, so it did not learn these by
    heart; and its loss hardly falls in the last third of the run.

    Args:
      epochs: the metrics of every epoch.
      teacher: the teacher's accuracy on the images that the student learns from.
    """
    last, late = epochs[-1], epochs[max(0, math.floor(len(epochs) * LATE) - 1)]
    accuracy, validated = last.get("accuracy"), last.get("val_accuracy")
    if accuracy is None or validated is None or last is late:
        return False
    is_behind = teacher - max(accuracy, validated) > FAR_BEHIND
    has_gap = accuracy - validated > NO_GAP
    # Of the loss that a perfect copy of the teacher would not have, too: it is a sum of positives.
    is_learning = late["loss"] - last["loss"] > STILL_FALLING * abs(late["loss"])
    return is_behind and not has_gap and not is_learning


def _shown_views(stream: Stream, label_weight: float) -> int:
    """Returns the number of the teacher's views that take turns; 0 if it is not learned from."""
    if stream.store is None or stream.independent is not None or label_weight == LABELS_ALONE:
        return 0
    return stream.views.count


def _epochs(number: int, verb: str) -> str:
    return f"1 epoch {verb}s" if number == 1 else f"{number:,} epochs {verb}"
