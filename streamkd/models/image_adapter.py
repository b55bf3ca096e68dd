"""Calls a model with batches of images, whatever form it wants them in, for one array of answers.

answering = on_images(model, takes, path=("logits",))
answering(images, training=False)       # images: float32 [batch, height, width, channels]
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from streamkd.models.families import family_of
from streamkd.models.image_input import ImageInput
from streamkd.models.model_outputs import output_at


def on_images(model: Any, form: ImageInput | None, path: tuple[Any, ...] = ()) -> Any:
    """Returns a model that is called with images and answers with one array.

    It shares the weights of `model`, and is `model` itself where nothing is to be done. It is for
    calls only: it cannot be saved.

    Args:
      model: of either family.
      form: what it takes for an image; None for images.
      path: the way to the array in its answer; see `model_outputs.Output`.
    """
    takes = ImageInput((None, None, None)) if form is None else form
    if takes.is_plain and not path:
        return model
    keras = family_of(model).keras

    class OnImages(keras.Model):  # type: ignore[name-defined]
        """Another model, called with images."""

        def __init__(self) -> None:
            # Pixels reach the model as they are; it casts them by its own policy.
            super().__init__(name=f"{model.name}_on_images", dtype="float32")
            self.inner = model

        def call(self, images: Any, training: bool = False) -> Any:
            pixels = takes.from_images(images)
            if takes.batch_size is None:
                return self._answer(pixels, training)
            if training:  # by batches of exactly this size, which `check_fits` has seen to
                return self._answer(self._of_size(pixels), training)
            return self._in_batches(pixels)

        def _answer(self, pixels: Any, training: bool) -> Any:
            return output_at(self.inner(pixels, training=training), path)

        def _in_batches(self, pixels: Any) -> Any:
            """Answers in batches of the model's own size; the last is filled up with black."""
            number = tf.shape(pixels)[0]
            missing = -number % takes.batch_size
            filled = tf.concat([pixels, tf.zeros([missing, *pixels.shape[1:]], pixels.dtype)], 0)
            batches = tf.reshape(filled, [-1, takes.batch_size, *pixels.shape[1:]])
            answers = tf.map_fn(
                lambda batch: tf.cast(self._answer(self._of_size(batch), False), tf.float32),
                batches,
                fn_output_signature=tf.float32,
            )
            rows = tf.reshape(answers, tf.concat([[-1], tf.shape(answers)[2:]], 0))[:number]
            return tf.ensure_shape(rows, [None, *answers.shape[2:]])

        def _of_size(self, pixels: Any) -> Any:
            return tf.ensure_shape(pixels, [takes.batch_size, *pixels.shape[1:]])

    return OnImages()
