"""A model as a SavedModel directory, for TensorFlow Serving and other programs of TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.exports.traced_model import INPUT_NAME, TracedModel


def write_saved_model(traced: TracedModel, path: Path) -> None:
    """Writes a SavedModel with the signature `serving_default` into a directory."""
    function = traced.function().get_concrete_function()
    holder = tf.Module()
    holder.kept = list(function.variables)  # what is not reachable is not saved
    tf.saved_model.save(holder, str(path), signatures={"serving_default": function})


def open_saved_model(traced: TracedModel, path: Path) -> Callable[[Any], np.ndarray]:
    """Returns a function from images to the answers of the SavedModel."""
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]

    def answer(images: Any) -> np.ndarray:
        assert loaded is not None  # its variables live as long as it does
        pixels = tf.convert_to_tensor(images, tf.float32)
        return signature(**{INPUT_NAME: pixels})[traced.output_name].numpy()

    return answer
