"""Stops a model from making more weights than its file holds, before memory is taken for them.

with weights_limit(num_weights) as limit:
    keras.models.load_model(path, compile=False)

A few numbers in a configuration, such as a layer's units or an image's size, ask for any amount.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

# What a model may have beyond the weights that are saved: states of random and recurrent layers.
_SPARE_FACTOR, _SPARE = 4, 1 << 24


class TooManyWeightsError(ValueError):
    """A model makes more weights than its file holds."""


class WeightsLimit:
    """Counts the weights of the variables that are made.

    Attributes:
      reason: why a variable was refused; None if none was. Keras may replace the error itself.
    """

    def __init__(self, num_weights: int) -> None:
        self._num_held = num_weights
        self._num_left = _SPARE_FACTOR * num_weights + _SPARE
        self.reason: str | None = None

    def create(self, next_creator: Callable[..., Any], **options: Any) -> Any:
        """Returns a new variable, as `tf.variable_creator_scope` asks for it."""
        shape = options.get("shape")
        if shape is None:
            shape = _shape_of(options.get("initial_value"))
        self._num_left -= 1 if shape is None or None in list(shape) else math.prod(shape)
        if self._num_left < 0:
            self.reason = (
                f"a layer makes weights of the shape {list(shape or ())}, and the file holds "
                f"{self._num_held:,} weights"
            )
            raise TooManyWeightsError(self.reason)
        return next_creator(**options)


@contextlib.contextmanager
def weights_limit(num_weights: int) -> Iterator[WeightsLimit]:
    """Refuses variables beyond about four times `num_weights` in this thread."""
    import tensorflow as tf

    limit = WeightsLimit(num_weights)
    with tf.variable_creator_scope(limit.create):
        yield limit


def _shape_of(initial_value: Any) -> Any:
    """Returns the shape of a variable's first value; a function of it is traced and not run."""
    import tensorflow as tf

    if not callable(initial_value):
        return getattr(initial_value, "shape", None)
    with tf.__internal__.FuncGraph("shape_of_weights").as_default():
        return tf.convert_to_tensor(initial_value()).shape
