"""Adds a bias to the logits of a model, in the last layer of a copy.

    biased = with_bias(student, [0, 0, 0, 3.5, 0, 0, 0, 0, 0, 0])
    # biased(x) == softmax(logits(x) + bias), in an ordinary model that needs no streamkd

The model that was given stays as it is: its layers may be shared, and compiled functions may hold
its numbers. A last layer without bias is built again with one. The copy is compared with the
original on random pixels before it is returned.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamkd.errors import StudentError
from streamkd.models.families import family_of
from streamkd.models.family_base import Family
from streamkd.models.head_check import FLOAT32_STEP, STEPS
from streamkd.models.logits_head import last_weighted, logits_model
from streamkd.models.reasons import keras_reason

# Images that the copy is compared on, and their height, width or channels where any is taken.
NUM_IMAGES, ANY_SIZE = 4, 32
# Largest difference of two logits that is rounding: a part of the largest logit, and steps of the
# number type in which the model computes.
RELATIVE_TOLERANCE, TOLERANCE_STEPS = 1e-4, 4


def with_bias(model: Any, bias: Any) -> Any:
    """Returns a copy of a model with `bias` added to its logits.

    Args:
      model: of either family, built of layers, with one output; a last softmax or sigmoid stays.
      bias: float `[num_classes]`.

    Raises:
      StudentError: the layers do not show where a bias would be added to each logit, the model has
        another number of logits, or it cannot be copied.
      OptionError: it is no Keras model.
    """
    bias = np.asarray(bias, np.float64)
    family = family_of(model)
    num_logits = num_logits_of(model)
    if bias.shape != (num_logits,):
        raise StudentError(
            f"The model {model.name!r} has {num_logits} logits, and the bias is for "
            f"{'x'.join(map(str, bias.shape))}.\nGive one number for each class of the model."
        )
    copy = _copy(family, model, [part.name for part in checked_head(model)[1:]])
    head = checked_head(copy)[-1]
    head.bias.assign(np.asarray(head.bias) + bias)
    _compare(model, copy, bias)
    return copy


def num_logits_of(model: Any) -> int:
    """Returns the number of logits to which a bias can be added.

    Raises:
      StudentError: the layers do not show where a bias is added.
    """
    return int(checked_head(model)[-1].kernel.shape[-1])


def checked_head(model: Any) -> list[Any]:
    """Returns the path to a model's last layer with weights, as `last_weighted` does.

    Raises:
      StudentError: the layers do not show it.
    """
    path = last_weighted(model)
    if path is None:
        raise StudentError(
            f"The layers of the model {model.name!r} do not show where a bias is added to each "
            "logit.\nEnd the model in a Dense layer of Keras, with or without softmax; or add the "
            "bias yourself: `logits + bias`."
        )
    return path


def _copy(family: Family, model: Any, names: list[str]) -> Any:
    """Returns a copy of a model, with its weights, whose last layer has a bias.

    Args:
      family: of the model.
      model: it has a last layer with weights.
      names: of the models within it on the way to that layer, and of the layer.
    """
    custom = {type(part).__name__: type(part) for part in _own_parts(family, model)}
    try:
        with family.saved_as_it_can_be_read(model):
            settings = family.keras.saving.serialize_keras_object(model)
        settings.pop("compile_config", None)  # a loss or metric of the user's own is not needed
        _settings_of(settings, names)["use_bias"] = True
        copy = family.keras.saving.deserialize_keras_object(
            settings, custom_objects=custom, safe_mode=False
        )
        _copy_weights(model, copy)
    except Exception as error:  # the user's code raises errors of every class
        raise _not_copied(model, keras_reason(error)) from error
    return copy


def _own_parts(family: Family, model: Any) -> list[Any]:
    """Returns a model and its layers, as far as their classes are not the family's."""
    models, layers = family.models_and_layers(model)
    return [part for part in (*models, *layers) if not family.defines(type(part))]


def _settings_of(settings: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Returns the settings of the layer at the end of a path of names."""
    config: dict[str, Any] = settings["config"]
    for name in names:
        layers = [layer["config"] for layer in config["layers"]]
        config = next(layer for layer in layers if layer.get("name") == name)
    return config


def _copy_weights(model: Any, copy: Any) -> None:
    """Gives a copy the weights of a model; a bias that only the copy has becomes 0."""
    had_bias = checked_head(model)[-1].use_bias
    bias = checked_head(copy)[-1].bias
    weights = iter(model.weights)
    for weight in copy.weights:
        is_new = weight is bias and not had_bias
        weight.assign(np.zeros(weight.shape) if is_new else np.asarray(next(weights)))
    if next(weights, None) is not None:
        raise ValueError("it has fewer weights than its original")


def _compare(model: Any, copy: Any, bias: np.ndarray) -> None:
    """Refuses a copy that answers otherwise than the model with the bias added."""
    pixels = _random_pixels(model)
    before, after = (_logits(each, pixels) for each in (model, copy))
    step = max(STEPS.get(before.dtype.name, FLOAT32_STEP), STEPS.get(after.dtype.name, 0.0))
    largest = max(float(np.abs(before).max()), float(np.abs(bias).max()), 1.0)
    room = (RELATIVE_TOLERANCE + TOLERANCE_STEPS * step) * largest
    difference = np.abs(before.astype(np.float64) + bias - after.astype(np.float64)).max()
    if not difference <= room and np.array_equal(before, _logits(model, pixels)):
        raise _not_copied(model, f"its copy answers otherwise, by {difference:.2g} in a logit")


def _random_pixels(model: Any) -> np.ndarray:
    """Returns numbers of the shape that a model takes, 0 to 255, float32."""
    batch_size, *sizes = model.inputs[0].shape
    shape = (batch_size or NUM_IMAGES, *(size or ANY_SIZE for size in sizes))
    return np.random.default_rng(1).uniform(0, 255, shape).astype(np.float32)


def _logits(model: Any, pixels: np.ndarray) -> np.ndarray:
    return np.asarray(logits_model(model).model(pixels, training=False))


def _not_copied(model: Any, reason: str) -> StudentError:
    return StudentError(
        f"The model {model.name!r} cannot be copied to get a bias: {reason}.\nLet `get_config` of "
        "each layer of your own return every argument of its `__init__`; or add the bias yourself: "
        "`logits + bias`."
    )
