"""A model's answers to images: compiled once, for any number of them.

answer = compiled_answer(model)
answer(images)          # float32 `[batch, …]`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def compiled_answer(model: Any) -> Callable[[Any], tf.Tensor]:
    """Returns a function from images to what a model of either Keras family answers, float32.

    A graph of a large model takes seconds to make. One is made for all numbers of images, since
    the first batch is often of another size than the rest, and the last one too.
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
