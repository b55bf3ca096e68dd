"""Checks that a student can learn from a stream, before anything is trained or written.

check_loss(label_weight, stream)
check_fits(logits_model(student), student, stream)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.errors import OptionError, StudentError
from streamkd.models.logits_head import LogitsModel
from streamkd.models.output_kind import are_probabilities
from streamkd.stream.stream import Stream
from streamkd.stream.teacher_columns import classes_to_choose

# Label weight at which the teacher's logits have no part in the loss.
LABELS_ALONE = 1.0


def check_loss(label_weight: float, stream: Stream) -> None:
    """Refuses a loss for which the stream has no targets.

    Raises:
      OptionError: the loss needs logits or labels that the stream does not have, or the teacher
        ends in sigmoid.
    """
    if stream.store is None and label_weight != LABELS_ALONE:
        raise OptionError(
            f"label_weight is {label_weight:g}, and the stream has no teacher logits.\n"
            "Join the images with a store, or learn from labels alone: label_weight=1."
        )
    if label_weight == LABELS_ALONE:
        if not (stream.labels >= 0).any():
            raise OptionError(
                "label_weight is 1, and none of the images has a label that counts.\n"
                "Give images in one folder a class, or a smaller `--label-weight`."
            )
    elif stream.store.header.teacher.get("removed") == "sigmoid":  # type: ignore[union-attr]
        raise OptionError(
            f"The teacher of {stream.store.path} ends in sigmoid, and this loss compares "  # type: ignore[union-attr]
            "softmax distributions.\nGive the store of a teacher that ends in softmax."
        )


def check_fits(logits: LogitsModel, student: Any, stream: Stream) -> None:
    """Refuses a student whose input or output differs from the stream's, or that cannot learn.

    Args:
      logits: of the student; it is called with one black image.
      student: the user's model.
      stream: the stream to learn from.

    Raises:
      StudentError: names both sides.
    """
    shape = (1, *stream.options.shape)
    expected = getattr(student, "input_shape", None)
    if isinstance(expected, tuple) and not _compatible(expected, shape):
        raise StudentError(
            f"The student {student.name!r} does not take the images of the stream.\n"
            f"  student: {list(expected[1:])} (height, width, channels)\n"
            f"  stream:  {list(shape[1:])}\n"
            "Give `--image-size` and `--color-mode` as the student needs them."
        )
    answers = np.asarray(logits.model(tf.zeros(shape), training=False), np.float32)
    if answers.shape != (1, stream.num_classes):
        has_store = stream.store is not None
        other = "store" if has_store else "classes of the images"
        other_classes = classes_to_choose(stream.images, stream.store, answers.shape[1:])
        raise StudentError(
            f"The student's output disagrees with the {other}.\n"
            f"  student: {student.name!r}, outputs of shape {list(answers.shape[1:])}\n"
            f"  {'store' if has_store else 'images'}:  {stream.num_classes} classes\n"
            f"Give a student with {stream.num_classes} outputs.{other_classes}"
        )
    if not student.trainable_variables:
        raise StudentError(
            f"The student {student.name!r} has no weights to train.\n"
            "Set `trainable = True` on the layers that are to learn."
        )
    if not logits.inspected and are_probabilities(answers):
        raise StudentError(
            f"The student {student.name!r} answers with probabilities, and its layers cannot be "
            "looked into.\nLeave its softmax out: return logits."
        )


def _compatible(expected: tuple, shape: tuple) -> bool:
    if len(expected) != len(shape):
        return False
    return all(want in (None, have) for want, have in zip(expected, shape, strict=True))
