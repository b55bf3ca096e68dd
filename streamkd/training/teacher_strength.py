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
from streamkd.store.decisions import right
from streamkd.store.row_store import RowStore
from streamkd.stream.join_checks import spread_out
from streamkd.stream.stream import Stream
from streamkd.teachers.last_checks import is_at_chance
from streamkd.training.student_checks import LABELS_ALONE

# Images without which chance cannot be told from a weak teacher.
FEWEST_IMAGES = 25
# Difference of two accuracies that is told, besides three standard deviations.
LEAST_DIFFERENCE = 0.01


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

    def warn_if_weaker(self, student: float | None, label_weight: float) -> None:
        """Warns of a teacher that is right less often than its student, if that is known."""
        warn_of_weaker(self.accuracy, student, self.num_images, label_weight)

    def _warn_of_chance(self, store: RowStore) -> None:
        """Warns of a teacher that is right hardly more often than a guess."""
        if self.num_images < FEWEST_IMAGES or not is_at_chance(self.accuracy, self.chance):
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
    if teacher is None or student is None or not num_images:
        return
    deviation = math.sqrt(max(teacher * (1 - teacher), 1 / num_images) / num_images)
    if student - teacher <= max(LEAST_DIFFERENCE, 3 * deviation):
        return
    now = "" if label_weight is None else f" (it is {label_weight:g})"
    warn(
        "teacher_weaker",
        f"The teacher is the weaker one on the labelled images: it is right on {teacher:.1%} of "
        f"them, and the student on {student:.1%}. A student learns its teacher's mistakes, too. "
        f"Give a larger `--label-weight`{now}, label_weight in Python, or a better teacher.",
        stacklevel=3,
    )
