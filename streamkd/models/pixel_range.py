"""The numbers that reach a model's first layer with weights, for pixels from 0 to 255.

    reach = reach_of(model, preprocessing, shape=(224, 224, 3))
    reach.low, reach.high                # -1.0 and 1.0
    reach.layer, reach.application       # 'Conv1', 'MobileNetV2'
    reach.random_layers                  # those that the pixels pass before

The model's own layers compute the numbers, from images of one colour each: whatever stands before
the first weights counts, be it a Rescaling, a Normalization, an operation or a Lambda layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from streamkd.errors import OptionError
from streamkd.models import preprocessing as preprocessing_module
from streamkd.models.families import family_of
from streamkd.models.family_base import Family
from streamkd.models.preprocessing import Preprocessing

# Layers by which a Keras application without a preprocessing of its own is known, in both families.
# Variants of one application share them, and the preprocessing too.
SIGNATURES = {
    "MobileNetV2": {"Conv1", "expanded_conv_depthwise"},
    "MobileNet": {"conv1", "conv_dw_1"},
    "ResNet50V2": {"conv1_conv", "conv2_block1_preact_bn"},
    "ResNet50": {"conv1_conv", "conv1_bn", "conv2_block1_1_conv", "conv2_block1_3_conv"},
    "DenseNet121": {"conv2_block1_concat", "conv2_block1_0_bn"},
    "VGG16": {"block1_conv1", "block1_conv2", "block1_pool"},
    "Xception": {"block1_conv1", "block1_conv1_bn"},
    "InceptionV3": {"mixed0"},
    "InceptionResNetV2": {"mixed_5b"},
    "NASNetMobile": {"stem_conv1", "stem_bn1"},
}
# Attributes in which a layer of either family holds what it draws random numbers from.
_GENERATORS = ("SeedGenerator", "RandomGenerator")


@dataclasses.dataclass(frozen=True)
class Reach:
    """The way of the pixels to the first weights.

    Attributes:
      layer: name of the first layer with weights.
      values: float32 `[images, …]`, what reaches the layer for each of `colors`; one number a
        channel, or all numbers where the layer does not take images.
      application: the Keras application to which the layer belongs, or None.
      is_normalized: whether the layer normalizes, or the next one with weights does.
      random_layers: class and name of the layers on the way that draw random numbers.
    """

    layer: str
    values: np.ndarray
    application: str | None
    is_normalized: bool
    random_layers: list[str]

    @property
    def low(self) -> float:
        """The smallest number."""
        return float(self.values.min())

    @property
    def high(self) -> float:
        """The largest number."""
        return float(self.values.max())


def colors(num_channels: int) -> np.ndarray:
    """Returns black, white and each pure colour, float32 `[images, num_channels]`, 0 to 255."""
    pure = np.eye(num_channels) if num_channels > 1 else np.zeros((0, 1))
    return 255 * np.concatenate([np.zeros((1, num_channels)), np.ones((1, num_channels)), pure])


def reach_of(model: Any, preprocessing: Preprocessing, shape: tuple[int, int, int]) -> Reach | None:
    """Returns what reaches the first layer with weights.

    Args:
      model: of either family.
      preprocessing: of the pixels, before they are given to the model.
      shape: height, width and channels of an image.

    Returns:
      None for a model whose layers cannot be followed, such as one with a `call` of its own.
    """
    plain = colors(shape[2]).astype(np.float32)
    images = np.broadcast_to(plain[:, None, None], (len(plain), *shape))
    try:
        return _follow(model, np.asarray(preprocessing(images), np.float32))
    except Exception:  # layers of the user's raise errors of every kind; the pass will show them
        return None


def expected_of(application: str, num_channels: int) -> np.ndarray | None:
    """Returns what the first layer of an application is to be given, as `Reach.values`."""
    try:
        preprocessing = preprocessing_module.parse(application, num_channels)
    except OptionError:  # it is for RGB images
        return None
    return np.asarray(preprocessing(colors(num_channels)), np.float32)


def _follow(model: Any, numbers: np.ndarray) -> Reach | None:
    """Follows numbers through a model, and through the models in it, to the first weights."""
    family, application = family_of(model), None
    random_layers: list[str] = []
    while True:
        application = _application_of(model) or application
        path = _path(family, model)
        position = next((i for i, (layer, _) in enumerate(path) if _has_weights(layer)), None)
        before = [layer for layer, _ in path[:position]]
        random_layers += [text for layer in before for text in random_layers_of(layer)]
        if position is None:
            return None
        layer, source = path[position]
        numbers = _computed(family, model, source, numbers)
        if not _is_graph(layer):
            break
        model = layer
    weighted = [other for other, _ in path[position:] if _has_weights(other)][:2]
    return Reach(
        layer=layer.name,
        values=_of_center(numbers),
        application=application,
        is_normalized=any(type(other).__name__.endswith("Normalization") for other in weighted),
        random_layers=random_layers,
    )


def _path(family: Family, model: Any) -> list[tuple[Any, Any]]:
    """Returns the layers from input to output, each with the tensor that it takes first."""
    path, tensor = [], model.outputs[0]
    while tensor is not None:
        call = family.call_of(tensor)
        tensor = call.source
        if tensor is not None:
            path.append((call.layer, tensor))
    return path[::-1]


def _computed(family: Family, model: Any, tensor: Any, numbers: np.ndarray) -> np.ndarray:
    """Returns the value of a model's symbolic tensor for its input."""
    if family.call_of(tensor).source is None:  # the input itself
        return numbers
    # A name of its own, or later models would be numbered differently.
    head = family.keras.Model(model.inputs[0], tensor, name="head_of_pixels")
    return np.asarray(head(numbers, training=False), np.float32)


def _of_center(numbers: np.ndarray) -> np.ndarray:
    """Returns the numbers in the middle of images, which padding does not reach."""
    if numbers.ndim != 4:
        return numbers.reshape(len(numbers), -1)
    return numbers[:, numbers.shape[1] // 2, numbers.shape[2] // 2]


def _is_graph(layer: Any) -> bool:
    inputs, outputs = (getattr(layer, name, None) or [] for name in ("inputs", "outputs"))
    return hasattr(layer, "layers") and len(inputs) == 1 and len(outputs) > 0


def _has_weights(layer: Any) -> bool:
    """Returns whether a layer has weights of the model, besides those of random numbers."""
    if not getattr(layer, "weights", None):
        return False
    if _is_graph(layer):
        return any(map(_has_weights, layer.layers))
    # A Normalization holds the mean and variance of pixels.
    return type(layer).__name__ != "Normalization" and not list(_generators(layer))


def _application_of(model: Any) -> str | None:
    names = {layer.name for layer in model.layers}
    return next((name for name, own in SIGNATURES.items() if own <= names), None)


def random_layers_of(layer: Any) -> list[str]:
    """Returns class and name of a layer, or of each layer in a model, that draws random numbers."""
    is_model = hasattr(layer, "layers")
    inner = family_of(layer).models_and_layers(layer)[1] if is_model else [layer]
    return [f"{type(part).__name__} '{part.name}'" for part in inner if list(_generators(part))]


def _generators(layer: Any) -> Iterator[Any]:
    values = vars(layer).values() if hasattr(layer, "__dict__") else ()
    return (value for value in values if type(value).__name__ in _GENERATORS)
