"""A model as one TensorFlow function of images, from which the other formats are made.

traced = TracedModel(interface, (224, 224, 3))
traced.function(1)                     # a tf.function of one image at a time
traced.output_name                     # "logits" or "probabilities"
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from streamkd.models.interface import Interface

INPUT_NAME = "images"


class TracedModel:
    """A model that is written in another format.

    Args:
      interface: of the model; it is settled.
      shape: height, width and channels of its images.

    Attributes:
      name: of the model.
      shape: height, width and channels of its images.
      output_name: what the rows of the answer are.
    """

    def __init__(self, interface: Interface, shape: tuple[int, int, int]) -> None:
        assert interface.logits is not None  # it is settled
        self._answers = interface.answers
        takes = interface.takes
        self._batch_size = None if takes is None else takes.batch_size
        self.name, self.shape = interface.model.name, shape
        self.output_name = "logits" if interface.logits.removed is None else "probabilities"

    def function(self, batch_size: int | None = None) -> Any:
        """Returns a tf.function from float32 images to a dict with the one answer.

        Args:
          batch_size: of the images; None for any number, where the model takes any.
        """

        @tf.function(input_signature=[self.spec(batch_size)], autograph=False)
        def answer(images: tf.Tensor) -> dict[str, tf.Tensor]:
            answers = self._answers(images, training=False)
            return {self.output_name: tf.cast(answers, tf.float32)}

        return answer

    def spec(self, batch_size: int | None = None) -> tf.TensorSpec:
        """Returns the form of the images; arguments as of `function`."""
        shape = (self._batch_size or batch_size, *self.shape)
        return tf.TensorSpec(shape, tf.float32, name=INPUT_NAME)
