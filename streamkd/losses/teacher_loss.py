"""Which loss compares the student with its teacher: by name, as in its paper, or one's own.

    loss = teacher_loss("dkd", temperature=4.0)
    loss(teacher_logits, student_logits, targets, counted)         # float32 [batch]

    PRESETS["dkd"].label_weight                                     # 0.5

The total loss is label_weight · cross-entropy + (1 − label_weight) · this loss. A paper that adds
its loss with the weight w to the cross-entropy has label_weight = 1 / (1 + w), and 1 + w times the
total.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from streamkd.errors import OptionError
from streamkd.losses import batch_losses, logit_losses
from streamkd.losses.distillation import distillation_loss

# Called with teacher_logits, student_logits, targets of the batch, and bool [batch], the rows that
# count.
TeacherLoss = Callable[[tf.Tensor, tf.Tensor, dict, tf.Tensor], tf.Tensor]


class Preset(NamedTuple):
    """A loss by name.

    Attributes:
      function: of teacher_logits and student_logits, and of what the other attributes say.
      temperature, label_weight: of the paper.
      has_temperature: whether it takes a temperature.
      needs_labels: whether it takes labels, `[batch]`.
      compares_rows: whether it takes `counted`, since it compares the rows of a batch.
    """

    function: Callable[..., tf.Tensor]
    temperature: float = 4.0
    label_weight: float = 0.1
    has_temperature: bool = True
    needs_labels: bool = False
    compares_rows: bool = False


# 'kl' and 'kd' are one loss; 'kl' was its first name.
PRESETS: dict[str, Preset] = {
    "kd": Preset(distillation_loss),
    "kl": Preset(distillation_loss),
    "mse": Preset(logit_losses.logit_mse_loss, has_temperature=False),
    "hard": Preset(logit_losses.hard_loss, label_weight=0.5, has_temperature=False),
    "dkd": Preset(logit_losses.dkd_loss, label_weight=0.5, needs_labels=True),
    "nkd": Preset(logit_losses.nkd_loss, temperature=1.0, label_weight=0.5, needs_labels=True),
    "ttm": Preset(logit_losses.ttm_loss, temperature=10.0, label_weight=1 / 46),
    "wttm": Preset(logit_losses.wttm_loss, temperature=5.0, label_weight=0.2),
    "dist": Preset(batch_losses.dist_loss, temperature=1.0, label_weight=0.5, compares_rows=True),
    "mlkd": Preset(batch_losses.mlkd_loss, has_temperature=False, compares_rows=True),
}


def teacher_loss(
    loss: str | Callable[..., tf.Tensor], *, temperature: float, standardize: bool = False
) -> TeacherLoss:
    """Returns a loss of teacher_logits, student_logits, targets and counted rows.

    Args:
      loss: a name of `PRESETS`, or a function of teacher_logits, student_logits and labels, int32
        `[batch]` and -1 where there is none; it returns `[batch]` and knows its own temperature.
      temperature: of a loss by name.
      standardize: both logits go through `standardize_logits` first.
    """
    if callable(loss):
        compared = _own(loss)
    else:
        compared = _by_name(PRESETS[loss], temperature)
    return _standardized(compared) if standardize else compared


def name_of(loss: Any) -> str:
    """Returns the name under which a run records its loss."""
    if isinstance(loss, str):
        return loss
    named = inspect.unwrap(getattr(loss, "func", loss))
    named = named if hasattr(named, "__qualname__") else type(named)
    return f"{named.__module__}:{named.__qualname__}"


def _by_name(preset: Preset, temperature: float) -> TeacherLoss:
    settings = {"temperature": temperature} if preset.has_temperature else {}

    def compare(teacher: tf.Tensor, student: tf.Tensor, targets: dict, counted: tf.Tensor) -> Any:
        if preset.compares_rows:
            return preset.function(teacher, student, counted=counted, **settings)
        if not preset.needs_labels:
            return preset.function(teacher, student, **settings)
        return _over_labels(
            lambda labels: preset.function(teacher, student, labels, **settings), targets
        )

    return compare


def _over_labels(of_labels: Callable[[tf.Tensor], tf.Tensor], targets: dict) -> tf.Tensor:
    """Returns a loss for the labels of an image and its mixing partner, by their shares.

    An image without a label has none of this loss.
    """
    total = tf.constant(0.0)
    for labels, shares in zip(
        tf.unstack(targets["labels"], axis=1),
        tf.unstack(targets["label_shares"], axis=1),
        strict=True,
    ):
        known = labels >= 0
        losses = of_labels(tf.where(known, labels, 0))
        total += tf.where(known, shares * losses, 0.0)
    return total


def _own(function: Callable[..., tf.Tensor]) -> TeacherLoss:
    def compare(teacher: tf.Tensor, student: tf.Tensor, targets: dict, counted: tf.Tensor) -> Any:
        # Of a mixture, the label of its larger part.
        larger = tf.argmax(targets["label_shares"], axis=1)
        labels = tf.gather(targets["labels"], larger, batch_dims=1)
        losses = tf.cast(function(teacher, student, labels), tf.float32)
        if losses.shape.rank != 1 or losses.shape[0] not in (None, student.shape[0]):
            raise OptionError(
                f"The loss {name_of(function)} returns the shape {losses.shape}, and it must "
                f"return one number for each of the {student.shape[0]} images of a batch.\n"
                "Leave the sum or the mean over the batch out."
            )
        return losses

    return compare


def _standardized(compared: TeacherLoss) -> TeacherLoss:
    def compare(teacher: tf.Tensor, student: tf.Tensor, targets: dict, counted: tf.Tensor) -> Any:
        teacher, student = map(logit_losses.standardize_logits, (teacher, student))
        return compared(teacher, student, targets, counted)

    return compare
