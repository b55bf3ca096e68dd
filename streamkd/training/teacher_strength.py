"""Whether the teacher is good enough to learn from, by the labels.

strength = TeacherStrength.of(stream, label_weight)   # warns of one that guesses
strength.warn_if_weaker(0.97, label_weight)           # than a student of this accuracy
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from streamkd.codes import warn
from streamkd.manifest.listing import UNLABELLED
from streamkd.store.chance import is_at_chance
from streamkd.store.decisions import right
from streamkd.store.row_store import RowStore
from streamkd.stream.join_checks import spread_out
from streamkd.stream.stream import Stream
from streamkd.training.student_checks import LABELS_ALONE

# Difference of two accuracies that is told, besides three standard deviations; and that of the
# student on validation images from the teacher on others, which may be harder.
LEAST_DIFFERENCE, LEAST_DIFFERENCE_OF_OTHERS = 0.01, 0.03


@dataclasses.dataclass(frozen=True)
class TeacherStrength:
    """How often a teacher is right on labelled images of a stream.

    Attributes:
      accuracy: fraction, of the plain images.
      num_images: images that were looked at.
      chance: accuracy of a guess.
    """

    accuracy: float
    num_images: int
    chance: float

    @classmethod
    def of(cls, stream: Stream, label_weight: float) -> TeacherStrength | None:
        """Returns the strength on a sample, evenly over a stream; warns if it is that of a guess.

        None without labels or logits, or if the student does not learn from the teacher.
        """
        store = stream.store
        if store is None or label_weight == LABELS_ALONE:
            return None
        if stream.teacher_columns is not None or stream.multi_hot is not None:
            return None  # columns and labels are numbered differently, or a label is no class
        known = np.flatnonzero((stream.labels != UNLABELLED) & (stream.rows >= 0))
        if not len(known):
            return None
        sample = spread_out(known)
        logits = store.gather(stream.rows[sample])
        accuracy = right(logits, stream.labels[sample], store.class_names).mean()
        strength = cls(float(accuracy), len(sample), 1 / max(2, store.num_classes))
        strength._warn_of_chance(store)
        return strength

    @property
    def is_at_chance(self) -> bool:
        """Whether the teacher is right hardly more often than a guess."""
        return is_at_chance(self.accuracy, self.chance, self.num_images)

    def warn_if_weaker(
        self,
        student: float | None,
        label_weight: float,
        validated: float | None = None,
        num_validation: int = 0,
    ) -> None:
        """Warns of a teacher that is right less often than its student, if that is known.

        Args:
          student: its accuracy on the images that it learns from.
          label_weight: of the training.
          validated, num_validation: its accuracy on validation images, and their number.
        """
        num_images = min(self.num_images, num_validation)
        if is_weaker(self.accuracy, student, self.num_images):
            warn_of_weaker(self.accuracy, student, self.num_images, label_weight)
        elif is_weaker(self.accuracy, validated, num_images, LEAST_DIFFERENCE_OF_OTHERS):
            warn(
                "teacher_weaker",
                f"The teacher is the weaker one: it is right on {self.accuracy:.1%} of the images "
                f"that the student learns from, and the student on {validated:.1%} of the "
                f"validation images. {_more_label_weight(label_weight)}",
                stacklevel=4,
            )

    def _warn_of_chance(self, store: RowStore) -> None:
        """Warns of a teacher that is right hardly more often than a guess."""
        if not self.is_at_chance:
            return
        warn(
            "teacher_at_chance",
            f"The teacher of {store.path} is right on {self.accuracy:.1%} of {self.num_images:,} "
            f"labelled images, and chance is {self.chance:.1%}. A student learns nothing from it. "
            "Check the `--preprocess` and the `--class-names` of its `teach` command, or learn "
            "from the labels alone: `--label-weight 1`.",
            stacklevel=3,
        )


def warn_of_weaker(
    teacher: float | None, student: float | None, num_images: int, label_weight: float | None = None
) -> None:
    """Warns of a teacher that is right less often than its student.

    Args:
      teacher, student: their accuracy on labelled images; None if unknown.
      num_images: images of which the teacher's accuracy is known.
      label_weight: of the training, if known.
    """
    if not is_weaker(teacher, student, num_images):
        return
    warn(
        "teacher_weaker",
        f"The teacher is the weaker one on the labelled images: it is right on {teacher:.1%} of "
        f"them, and the student on {student:.1%}. {_more_label_weight(label_weight)}",
        stacklevel=3,
    )


def is_weaker(
    teacher: float | None, student: float | None, num_images: int, least: float = LEAST_DIFFERENCE
) -> bool:
    """Returns whether a teacher is right less often than its student, and not by chance.

    Args:
      teacher, student: their accuracy on labelled images; None if unknown.
      num_images: images of which each is known, at least.
      least: difference that is told.
    """
    if teacher is None or student is None or not num_images:
        return False
    deviation = math.sqrt(max(teacher * (1 - teacher), 1 / num_images) / num_images)
    return student - teacher > max(least, 3 * deviation)


def _more_label_weight(label_weight: float | None) -> str:
    now = "" if label_weight is None else f" (it is {label_weight:g})"
    return (
        "A student learns its teacher's mistakes, too. Give a larger "
        f"`--label-weight`{now}, label_weight in Python, or a better teacher."
    )
