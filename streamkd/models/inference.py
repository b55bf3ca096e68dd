"""Compiles a model once, for batches of any size.

answer = compiled_answer(model)
answer(images)          # float32 `[batch, …]`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from streamkd.errors import StreamkdError, TeacherError

# Longest reason of a model's failure that a message shows, in characters.
_MAX_REASON = 300


def compiled_answer(
    model: Any, *, refusal: type[StreamkdError] = TeacherError
) -> Callable[[Any], tf.Tensor]:
    """Returns a function from images to the answers of a model of either Keras family, float32.

    Tracing a large model takes seconds. It is traced once for all batch sizes, since the first and
    the last batch often have another size than the rest. A model that loads may still fail when it
    is traced: its layers do not fit each other, or the images. That is a `refusal`.
    """

    @tf.function(reduce_retracing=True)
    def answer(images: tf.Tensor) -> tf.Tensor:
        return tf.cast(model(images, training=False), tf.float32)

    traced = set()

    def answer_any_number(images: Any) -> tf.Tensor:
        images = tf.convert_to_tensor(images)
        spec = tf.TensorSpec([None, *images.shape[1:]], images.dtype)
        if spec not in traced:
            try:
                answer.get_concrete_function(spec)
            except Exception as error:  # layers raise errors of every kind
                raise failure(model, images, error, refusal) from error
            traced.add(spec)
        try:
            return answer(images)
        except tf.errors.InvalidArgumentError as error:  # a shape that is known only now
            raise failure(model, images, error, refusal) from error

    return answer_any_number


def failure(
    model: Any, images: tf.Tensor, error: Exception, refusal: type[StreamkdError]
) -> StreamkdError:
    """Returns the refusal of a model that cannot be asked about images of this shape."""
    if isinstance(error, StreamkdError):
        return error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Keras begins with where in its own code an error arose, and Python's line of it comes later.
    told = [line for line in lines if "Error: " in line] or lines[:1] or [type(error).__name__]
    shape = " x ".join(map(str, images.shape[1:]))
    return refusal(
        f"The model {model.name!r} fails when it is asked about images of {shape}: "
        f"{told[0][:_MAX_REASON]}\n"
        "Ask it in Python, `model(images)`, for the whole error; or give another model."
    )
