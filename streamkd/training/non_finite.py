"""A step that is not finite: its images, and the message about them.

    nonfinite = examine(stream, steps, step)
    raise nonfinite.refusal()

A batch depends on the step alone, so `examine` reads it once more and finds the images whose own
loss is not a finite number.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.errors import NonFiniteError, readable_key
from streamkd.keys import key_fields
from streamkd.stream.stream import Stream

# Steps in a row that `on_nonfinite="skip"` leaves out; with more, something else is wrong.
MAX_CONSECUTIVE_NONFINITE = 10
# Keys shown in a message; the others are counted.
NUM_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class NonFiniteStep:
    """A step whose loss or gradient is not finite.

    Attributes:
      step: its number, from 0.
      keys: of the images with a non-finite loss, or of the whole batch if no single image has one.
      whole_batch: whether they are the keys of the whole batch.
    """

    step: int
    keys: list[bytes]
    whole_batch: bool

    def to_json(self) -> dict[str, Any]:
        """Returns the step as a line of nonfinite.jsonl."""
        return {
            "step": self.step,
            "whole_batch": self.whole_batch,
            "images": [key_fields(key) for key in self.keys],
        }

    def refusal(self, remark: str = "") -> NonFiniteError:
        """Returns the error; `remark` is a line before the advice."""
        shown = ", ".join(repr(readable_key(key)) for key in self.keys[:NUM_SHOWN])
        more = len(self.keys) - NUM_SHOWN
        rest = f" and {more} more" if more > 0 else ""
        if self.whole_batch:
            images = f"  the images of its batch: {shown}{rest}\n"
            advice = (
                "Lower the learning rate, `--learning-rate`, or clip the gradient, `--clip-norm 1`."
            )
        else:
            images = f"  images whose loss is not finite: {shown}{rest}\n"
            advice = (
                "Look at these images and their logits, or leave such steps out: "
                "`--on-nonfinite skip`."
            )
        return NonFiniteError(
            f"The loss or the gradient of step {self.step} is not a finite number.\n{images}"
            f"{remark}{advice} Earlier checkpoints are kept.",
            key=self.keys[0],
        )


def examine(stream: Stream, steps: Any, step: int) -> NonFiniteStep:
    """Returns the step number `step` with the keys of its images.

    `steps` are the `TrainingSteps`, with the weights from before that step.
    """
    numbers = range(step * steps.accumulate, (step + 1) * steps.accumulate)
    bad: list[int] = []
    whole: list[int] = []
    for number in numbers:
        images, targets, weights = next(iter(stream.batches(number, number + 1)))
        logits = tf.cast(steps.model(images, training=False), tf.float32)
        losses = steps.loss.at(tf.constant(step, tf.int64))(logits, targets, weights)[0].numpy()
        indices = stream.indices(number)
        whole += indices.tolist()
        bad += indices[~np.isfinite(losses)].tolist()
    is_part = bool(bad) and len(bad) < len(whole)
    named = dict.fromkeys(bad if is_part else whole)
    return NonFiniteStep(step, [stream.images.keys[index] for index in named], not is_part)
