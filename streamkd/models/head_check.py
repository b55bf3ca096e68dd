"""Compares the logits that were found in a model with what the model itself answers.

    logits = logits_model(model)
    difference = head_difference(logits, model, pixels)     # None: softmax(logits) == model(pixels)
    logits = tried_head(logits, model, pixels, name)        # the model as it is, if they differ
    answer = checked_answer(logits, model, name, StudentError)     # images to logits, compiled
    check_student_head(logits, model, (32, 32, 3), name)    # raises StudentError if they differ

Layers and operations of Keras may change, and a stranger's model may do what nobody has thought of.
So what `logits_head` read from the layers is tried once on pixels, before anything depends on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.codes import warn
from streamkd.errors import StreamkdError, StudentError
from streamkd.models import output_kind
from streamkd.models.inference import compiled_answer
from streamkd.models.logits_head import LogitsModel

# Images that are tried: another head shows in each of them.
NUM_IMAGES = 4
# Largest relative difference of two probabilities of a float32 model, for small logits.
RELATIVE_TOLERANCE = 1e-3
# Difference of two logits that is rounding, in steps of the largest logit. The model is asked twice
# and may add its numbers in another order.
ROUNDING_STEPS = 2
# Distance of 1 from the next number, of the types with less than float32's digits.
STEPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
FLOAT32_STEP = 2.0**-23
# Probabilities below the smallest normal number of their type have lost digits.
SMALLEST = {"float16": 2.0**-14}
FLOAT32_SMALLEST = 1e-37
# Largest distance from 1 of the sum of probabilities that may have been rounded to bfloat16.
BFLOAT16_SUM_TOLERANCE = 0.02


def tried_head(logits: LogitsModel, model: Any, pixels: Any, name: str) -> LogitsModel:
    """Returns `logits` if they agree with the model's answers, else the model as it is.

    Its answers may be probabilities; their logarithms are logits, too. Arguments as in
    `head_difference`; `name` is the model's in the warning.
    """
    difference = head_difference(logits, model, pixels)
    if difference is None:
        return logits
    removed = logits.removed
    warn(
        "head_not_found",
        f"The layers of {name!r} show a {removed} at the end, and the {removed} of the logits "
        f"before it differs by {difference:.2g} from what the model answers.\n"
        "So the model's own answers are taken; if they are probabilities, their logarithms are the "
        "logits.",
        stacklevel=3,
    )
    return LogitsModel(model, removed=None, inspected=False)


def checked_answer(
    logits: LogitsModel,
    model: Any,
    name: str,
    refusal: type[StreamkdError],
    *,
    kind_of: Callable[[np.ndarray], str] = output_kind.output_kind,
) -> Callable[[Any], Any]:
    """Returns a compiled function from images to logits, float32 `[batch, num_classes]`.

    The first images decide: whether the logits agree with the model's answers, and what kind these
    are where nothing was found. Arguments as in `tried_head`; `refusal` is for images that the
    model does not take; `kind_of` judges the model's answers.
    """
    answer: Callable[[Any], tf.Tensor] | None = None
    kind = None

    def checked(images: tf.Tensor) -> Any:
        nonlocal logits, answer, kind
        if answer is None:
            logits = tried_head(logits, model, images, name)
            answer = compiled_answer(logits.model, refusal=refusal)
        answers = answer(images)
        if logits.inspected:
            return answers
        kind = kind or kind_of(answers.numpy())
        return output_kind.to_logits(answers.numpy(), kind)

    return checked


def check_student_head(logits: LogitsModel, model: Any, shape: tuple[int, ...], name: str) -> None:
    """Refuses a student that would be trained by logits which are not behind its answers.

    Args:
      logits: found in the student.
      model: the student; it is called with a few images of random pixels.
      shape: height, width and channels of the images.
      name: of the student in the message.

    Raises:
      StudentError: softmax of the logits differs from what the student answers.
    """
    if logits.removed is None:
        return
    difference = head_difference(logits, model, _random_pixels(shape))
    if difference is not None:
        raise StudentError(
            f"The layers of the student {name!r} show a {logits.removed} at the end, and "
            f"the {logits.removed} of the logits before it differs by {difference:.2g} from what "
            "the student answers.\nLeave its softmax out: return logits."
        )


def answers_probabilities(model: Any, shape: tuple[int, ...]) -> bool:
    """Returns whether a model answers images of random pixels with rows that sum to 1.

    Args:
      model: called with images; its layers cannot be looked into.
      shape: height, width and channels of the images.
    """
    answers = _float64(_answers(model, _random_pixels(shape)))
    sums = answers.sum(axis=1)
    return bool(answers.min() >= 0 and np.allclose(sums, 1, atol=BFLOAT16_SUM_TOLERANCE))


def head_difference(logits: LogitsModel, model: Any, pixels: Any) -> float | None:
    """Returns the largest difference of activation(logits) from the model's answers, if it counts.

    None if they agree within rounding, if nothing was taken off, or if the model answers the same
    pixels differently each time, so that no comparison tells anything.

    Args:
      logits: found in the model.
      model: as the user gave it.
      pixels: what the model takes, float32 `[batch, height, width, channels]`; the first few count.
    """
    if logits.removed is None:
        return None
    pixels = tf.convert_to_tensor(pixels)[:NUM_IMAGES]
    answers = _answers(model, pixels)
    found = _answers(logits.model, pixels)
    activation = {"softmax": tf.nn.softmax, "sigmoid": tf.nn.sigmoid}[logits.removed]
    # In the model's own type, so that both are rounded in the same way.
    expected = activation(tf.cast(found, answers.dtype)) if found.shape == answers.shape else None
    tolerance = _tolerance(found, answers)
    if expected is not None and _close(expected, answers, tolerance):
        return None
    if not _close(_answers(model, pixels), answers, tolerance):
        return None
    if expected is None:
        return 1.0
    apart = np.abs(_float64(expected) - _float64(answers))
    return float(np.max(np.nan_to_num(apart, nan=1.0)))


def _random_pixels(shape: tuple[int, ...]) -> tf.Tensor:
    return tf.random.stateless_uniform((NUM_IMAGES, *shape), (1, 2), maxval=255.0)


def _answers(model: Any, pixels: tf.Tensor) -> tf.Tensor:
    """Returns the one array that a model answers with."""
    answers = tf.nest.flatten(model(pixels, training=False))
    return tf.convert_to_tensor(answers[0])


def _tolerance(found: tf.Tensor, answers: tf.Tensor) -> float:
    """Returns the largest relative difference of two probabilities that is rounding."""
    step = max(STEPS.get(values.dtype.name, FLOAT32_STEP) for values in (found, answers))
    largest = np.max(np.abs(_float64(found)), initial=0, where=np.isfinite(_float64(found)))
    return RELATIVE_TOLERANCE + ROUNDING_STEPS * step * (1 + float(largest))


def _close(first: tf.Tensor, second: tf.Tensor, tolerance: float) -> bool:
    smallest = SMALLEST.get(second.dtype.name, FLOAT32_SMALLEST)
    pair = _float64(first), _float64(second)
    return bool(np.allclose(*pair, rtol=tolerance, atol=smallest, equal_nan=True))


def _float64(values: tf.Tensor) -> np.ndarray:
    return tf.cast(values, tf.float64).numpy()
