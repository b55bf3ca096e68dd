"""Saves a model of either Keras family, and finds before the first step whether it can be saved.

    save_model(student, "student.keras")
    check_can_be_saved(student, np.zeros((1, 96, 96, 3), np.float32))

Whatever a layer of the user's own forgets is found: settings that are not saved, weights that Keras
does not know of, answers that are others afterwards.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from streamkd.codes import warn
from streamkd.errors import StudentError
from streamkd.models.families import family_of
from streamkd.models.family_base import Family
from streamkd.models.image_input import ImageInput
from streamkd.models.reasons import keras_reason

# Largest difference of two answers to one image, as a part of the largest answer.
_TOLERANCE = 1e-3


def save_model(model: Any, path: str | os.PathLike) -> None:
    """Writes a model to a `.keras` file, whatever stands there."""
    with family_of(model).saved_as_it_can_be_read(model):
        model.save(path)


def check_can_be_saved(model: Any, image: np.ndarray) -> None:
    """Refuses a student that cannot be saved, or that is another one when it is opened again.

    Its settings are always written, in milliseconds. Only a student with classes of the user's own,
    or with operations on tensors, is also saved and opened in a temporary directory.

    Args:
      model: a built student.
      image: float32 `[1, height, width, channels]`, which both models answer.

    Raises:
      StudentError: names the layer or Keras' own reason.
    """
    family = family_of(model)
    own = _own_classes(model, family)
    if not own and not family.has_operations(model):
        _call(model, lambda: _write_settings(model, family), "cannot be saved")
        return
    with tempfile.TemporaryDirectory(prefix="streamkd-") as scratch:
        path = Path(scratch, "student.keras")
        _call(model, lambda: save_model(model, path), "cannot be saved")
        again = _opened(model, path, family, own)
    _compare(model, again, image)


def _write_settings(model: Any, family: Family) -> None:
    with family.saved_as_it_can_be_read(model):
        json.dumps(family.keras.saving.serialize_keras_object(model))


def _own_classes(model: Any, family: Family) -> dict[str, type]:
    """Returns the classes of a model and its layers that are not the family's, by name."""
    models, layers = family.models_and_layers(model)
    classes = {type(part) for part in (*models, *layers)}
    return {kind.__name__: kind for kind in classes if not family.defines(kind)}


def _opened(model: Any, path: Path, family: Family, own: dict[str, type]) -> Any:
    """Returns a saved model, opened again; warns where others need the user's classes for it."""

    def load(classes: dict[str, type] | None) -> Any:
        load_model = family.keras.models.load_model
        return load_model(path, compile=False, safe_mode=False, custom_objects=classes)

    try:
        return load(None)
    except Exception:  # the user's code raises errors of every class
        again = _call(model, lambda: load(own), "cannot be opened again once it is saved")
        warn(
            "student_needs_classes",
            f"student.keras can be opened only by a program that knows the student's own classes "
            f"({', '.join(sorted(own))}).\nDefine them in a module, and register them there: "
            f"`@{family.name}.saving.register_keras_serializable()`.",
            stacklevel=2,
        )
        return again


def _compare(model: Any, again: Any, image: np.ndarray) -> None:
    """Refuses a model whose weights or answers are others after it was saved and opened."""
    shapes, shapes_again = ([tuple(w.shape) for w in each.weights] for each in (model, again))
    if shapes != shapes_again or not all(
        np.array_equal(np.asarray(one), np.asarray(other), equal_nan=True)
        for one, other in zip(model.weights, again.weights, strict=True)
    ):
        raise StudentError(
            f"The student {model.name!r} loses weights when it is saved and opened again: "
            f"{len(shapes)} weights before, {len(shapes_again)} after, or other values.\n"
            "Keras saves the weights of layers that are attributes of a layer, made in `__init__` "
            "or in `build`. Make them there."
        )
    answers, answers_again, once_more = (_answers(each, image) for each in (model, again, model))
    room = _TOLERANCE * max(1.0, float(np.abs(answers).max()))
    if np.abs(answers - once_more).max() > room:
        return  # it answers at random, and nothing can be told
    if answers.shape != answers_again.shape or np.abs(answers - answers_again).max() > room:
        raise StudentError(
            f"The student {model.name!r} answers otherwise when it is saved and opened again: "
            f"{_numbers(answers)} before, {_numbers(answers_again)} after.\n"
            "Let `get_config` of its layers return every argument of `__init__`."
        )


def _answers(model: Any, image: np.ndarray) -> np.ndarray:
    """Returns all that a model answers to one image, float32, in one row."""
    import tensorflow as tf

    takes = ImageInput.of(model)
    pixels = image if takes is None else np.asarray(takes.from_images(image))
    if takes is not None and takes.batch_size is not None:
        pixels = np.repeat(pixels, takes.batch_size, axis=0)
    parts = tf.nest.flatten(model(pixels, training=False))
    rows = [np.ravel(np.asarray(getattr(part, "logits", part), np.float32)) for part in parts]
    return np.concatenate(rows)


def _call(model: Any, function: Callable[[], Any], what: str) -> Any:
    try:
        return function()
    except Exception as error:  # the user's code raises errors of every class
        raise StudentError(
            f"The student {model.name!r} {what}: {keras_reason(error)}.\n"
            "Let `get_config` of each layer of your own return the arguments of its `__init__`, as "
            "numbers, texts, lists and dicts."
        ) from error


def _numbers(answers: np.ndarray) -> str:
    first = ", ".join(f"{number:.4g}" for number in answers[:3])
    return f"[{first}{', …' if answers.size > 3 else ''}]"
