"""Compiles a model once, for batches of any size.

answer = compiled_answer(model)
answer(images)          # float32 `[batch, …]`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def compiled_answer(model: Any) -> Callable[[Any], tf.Tensor]:
    """Returns a function from images to the answers of a model of either Keras family, float32.

    Tracing a large model takes seconds. It is traced once for all batch sizes, since the first and
    the last batch often have another size than the rest.
    """

    @tf.function(reduce_retracing=True)
    def answer(images: tf.Tensor) -> tf.Tensor:
        return tf.cast(model(images, training=False), tf.float32)

    traced = set()

    def answer_any_number(images: Any) -> tf.Tensor:
        images = tf.convert_to_tensor(images)
        spec = tf.TensorSpec([None, *images.shape[1:]], images.dtype)
        if spec not in traced:
            answer.get_concrete_function(spec)
            traced.add(spec)
        return answer(images)

    return answer_any_number
