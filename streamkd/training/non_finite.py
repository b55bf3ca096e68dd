"""A step that is not finite: which images it was, and what is said of it.

A batch is a function of the step alone, so that it is read once more to find the images whose own
loss is not a finite number.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.errors import NonFiniteError, readable_key
from streamkd.manifest.manifest import key_fields
from streamkd.stream.stream import Stream

# So many steps in a row are left out where it is asked for; then something else is wrong.
MAX_CONSECUTIVE_NONFINITE = 10
# So many keys are shown in a message; the others are counted.
NUM_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class NonFiniteStep:
    """A step whose loss or gradient is not finite.

    Attributes:
      step: its number, from 0.
      keys: of the images whose loss is not finite; of all of the batch where that of none is.
      whole_batch: whether these are all.
    """

    step: int
    keys: list[bytes]
    whole_batch: bool

    def to_json(self) -> dict[str, Any]:
        """Returns the step as nonfinite.jsonl has it."""
        return {
            "step": self.step,
            "whole_batch": self.whole_batch,
            "images": [key_fields(key) for key in self.keys],
        }

    def refusal(self, what: str = "") -> NonFiniteError:
        """Returns the error; `what` is said before the advice."""
        shown = ", ".join(repr(readable_key(key)) for key in self.keys[:NUM_SHOWN])
        more = len(self.keys) - NUM_SHOWN
        rest = f" and {more} more" if more > 0 else ""
        if self.whole_batch:
            found = f"  the images of its batch: {shown}{rest}\n"
            advice = (
                "Lower the learning rate, `--learning-rate`, or clip the gradient, `--clip-norm 1`."
            )
        else:
            found = f"  images whose loss is not finite: {shown}{rest}\n"
            advice = (
                "Look at these images and their logits, or leave such steps out: "
                "`--on-nonfinite skip`."
            )
        return NonFiniteError(
            f"The loss or the gradient of step {self.step} is not a finite number.\n{found}{what}"
            f"{advice} What was saved before is kept.",
            key=self.keys[0],
        )


def examine(stream: Stream, steps: Any, step: int) -> NonFiniteStep:
    """Returns which images of a step are not finite.

    Args:
      stream: of the run.
      steps: the `TrainingSteps`, with the weights of before that step.
      step: its number.
    """
    numbers = range(step * steps.accumulate, (step + 1) * steps.accumulate)
    bad: list[int] = []
    everything: list[int] = []
    for number in numbers:
        images, targets, weights = next(iter(stream.batches(number, number + 1)))
        logits = tf.cast(steps.model(images, training=False), tf.float32)
        losses = steps.losses(logits, targets, weights)[0].numpy()
        indices = stream.indices(number)
        everything += indices.tolist()
        bad += indices[~np.isfinite(losses)].tolist()
    some = bool(bad) and len(bad) < len(everything)
    places = dict.fromkeys(bad if some else everything)
    return NonFiniteStep(step, [stream.images.keys[i] for i in places], not some)
