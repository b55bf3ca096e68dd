"""What the first answers tell of a teacher: in a new pass before it is paid, or a resumed one.

warn_of_first_answers(teacher, pixels, logits)
nearly_equal(teacher(pixels), stored, codec, 0.01)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamkd.codes import warn
from streamkd.models.pixel_range import Reach, random_layers_of
from streamkd.models.pixel_warnings import is_raw, numbers, warn_of_pixels
from streamkd.store import codecs
from streamkd.teachers.last_checks import warn_of_lost_answers
from streamkd.teachers.teacher import Teacher

# Images that are answered a second time. Dropout of half of three features leaves one in eight
# answers as it was.
NUM_ASKED_TWICE = 8
# Largest difference of two answers to one image, as a fraction of the largest logit. Another batch
# size changes the last digits, in float16 up to 1e-3.
SAME_ANSWER = 0.01
# Logits of a classifier differ by tens, those of one that is given pixels 255 times too large by
# thousands.
ODD_RANGE = 150.0


def warn_of_first_answers(teacher: Teacher, pixels: Any, logits: np.ndarray) -> None:
    """Warns of a teacher that is given odd pixels, or answers an image differently each time.

    Args:
      teacher: is asked about a few images again.
      pixels: of the first block, float32 `[rows, height, width, channels]`, 0 to 255.
      logits: its answers to them, float32 `[rows, num_classes]`.
    """
    if not np.isfinite(logits).all():
        return  # such answers are refused
    if teacher.step is not None:
        warn_of_lost_answers(teacher.name, teacher.output_kind, teacher.step, teacher.zeros)
    if teacher.is_asked_twice:
        _warn_of_differences(teacher, pixels, logits)
    reach = None
    if teacher.model is not None:
        shape = tuple(pixels.shape[1:])
        reach = warn_of_pixels(teacher.model, "teacher", preprocess=teacher.preprocess, shape=shape)
    if reach is not None:
        _warn_of_large_logits(teacher, logits, reach)


def answers_vary(first: np.ndarray, second: np.ndarray) -> bool:
    """Returns whether two answers to the same images differ by more than rounding."""
    return bool(np.abs(first - second).max() > SAME_ANSWER * np.abs(first).max() + 1e-6)


def nearly_equal(
    now: np.ndarray, stored: np.ndarray, codec: codecs.Codec, tolerance: float
) -> bool:
    """Returns whether an answer and a stored one differ by rounding alone, here or elsewhere.

    Args:
      now, stored: float32 `[rows, num_classes]`.
      codec: of the store.
      tolerance: largest difference, as a fraction of the largest logit.
    """
    if not (np.abs(now) <= codec.largest).all():
        return False
    apart = np.abs(codec.decode(codec.encode(now), now.shape[1]) - stored)
    # A few packed logits may round to the neighbouring level, so that their mean counts.
    typical = apart.max() if isinstance(codec, codecs.FloatCodec) else apart.mean()
    return bool(typical <= tolerance * (np.abs(stored).max() + 1e-6))


def _warn_of_differences(teacher: Teacher, pixels: Any, logits: np.ndarray) -> None:
    number = min(NUM_ASKED_TWICE, len(logits))
    again = teacher(pixels[:number])
    if answers_vary(logits[:number], again):
        largest = float(np.abs(logits[:number]).max())
        apart = float(np.abs(again - logits[:number]).max())
        layers = [] if teacher.model is None else random_layers_of(teacher.model)
        named = f" Its random layers are: {', '.join(layers)}." if layers else ""
        warn(
            "teacher_inconsistent",
            f"The teacher {teacher.name!r} answers the same image differently each time: asked "
            f"twice, its logits are up to {apart:.3g} apart, and up to {largest:.3g} large.{named} "
            "Such a pass cannot be resumed or repeated. Give a teacher whose random layers, such "
            "as Dropout, are called with `training=False`.",
            stacklevel=3,
        )


def _warn_of_large_logits(teacher: Teacher, logits: np.ndarray, reach: Reach) -> None:
    typical = float(np.median(np.ptp(logits, axis=1)))
    if reach.application is None and is_raw(reach) and typical > ODD_RANGE:
        warn(
            "pixels_not_preprocessed",
            f"{numbers(reach)} of the teacher {teacher.name!r}, and its logits are typically "
            f"{typical:.0f} apart, as if the numbers were too large for it. Was it trained on "
            "other ones? Then give `--preprocess`, such as `--preprocess scale`.",
            stacklevel=3,
        )
