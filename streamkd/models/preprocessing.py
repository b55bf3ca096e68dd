"""The preprocessing that a model expects of its pixels: a scale and an offset for each channel.

    preprocessing = parse("MobileNetV2", num_channels=3)     # or 'none', 'scale', '127.5,127.5'
    preprocessing(pixels)                                    # pixels: float32, 0 to 255
    with_preprocessing(student, preprocessing)               # as the student's first layers

Every preprocessing of a Keras application has this form; some also reverse the channels.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from typing import Any

import numpy as np

from streamkd.errors import OptionError
from streamkd.models.families import family_of
from streamkd.models.image_input import ImageInput


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """outputs = channels * scale + offset, after reversing the channels if asked.

    Attributes:
      name: as given on the command line; saved with the teacher's logits.
      scale, offset: one number a channel, in the order of the outputs.
      reverse_channels: whether RGB becomes BGR first.
    """

    name: str
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    reverse_channels: bool = False

    @property
    def is_identity(self) -> bool:
        plain = all(s == 1 for s in self.scale) and all(o == 0 for o in self.offset)
        return plain and not self.reverse_channels

    def __call__(self, images: Any) -> Any:
        """Returns preprocessed `images`, float32 `[batch, height, width, channels]`."""
        if self.is_identity:
            return images
        if self.reverse_channels:
            images = images[..., ::-1]
        return images * np.array(self.scale, np.float32) + np.array(self.offset, np.float32)

    def check_type(self, takes: ImageInput | None) -> None:
        """Refuses preprocessed pixels for a model that takes whole numbers.

        Raises:
          OptionError: the model would cut off what comes after the decimal point.
        """
        if takes is not None and "int" in takes.dtype and not self.is_identity:
            raise OptionError(
                f"The model takes {takes.dtype}, so its pixels are 0 to 255, and the preprocessing "
                f"{self.name} makes fractions of them.\nLeave the preprocessing out."
            )


def parse(text: str, num_channels: int) -> Preprocessing:
    """Returns the preprocessing that `text` names.

    Args:
      text: 'none'; 'scale' (divides by 255); 'MEAN,STD' or one of each for every channel, on the
        scale 0 to 255; or the name of a Keras application, such as 'ResNet50'.
      num_channels: channels of the images.

    Raises:
      OptionError: `text` is none of these, or an application takes RGB and the images are grey.
    """
    if text == "none":
        return Preprocessing(text, (1.0,) * num_channels, (0.0,) * num_channels)
    if text == "scale":
        return Preprocessing(text, (1 / 255,) * num_channels, (0.0,) * num_channels)
    if "," in text:
        mean, std = _mean_and_std(text, num_channels)
        scale = tuple(1 / s for s in std)
        return Preprocessing(text, scale, tuple(-m / s for m, s in zip(mean, std, strict=True)))
    return _of_application(text, num_channels)


def _mean_and_std(text: str, num_channels: int) -> tuple[list[float], list[float]]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    half = len(numbers) // 2
    if len(numbers) not in (2, 2 * num_channels) or any(s <= 0 for s in numbers[half:]):
        raise OptionError(
            f"The preprocessing is {text!r}; write MEAN,STD (two numbers, or {num_channels} means "
            f"and then {num_channels} positive standard deviations), on the scale 0 to 255."
        )
    repeat = num_channels // half if half == 1 else 1
    return numbers[:half] * repeat, numbers[half:] * repeat


def _of_application(name: str, num_channels: int) -> Preprocessing:
    """Reads the scale and offset off a Keras application's own `preprocess_input`."""
    function = _application_function(name)
    if function is None:
        raise OptionError(
            f"The preprocessing is {name!r}; choose none, scale, MEAN,STD or the name of a Keras "
            "application such as ResNet50 or MobileNetV2."
        )
    if num_channels != 3:
        raise OptionError(
            f"The preprocessing {name} is for RGB images, and these have {num_channels} "
            "channel(s).\nAdd `--color-mode rgb`, or give another preprocessing."
        )
    # The answer to black and to one pure colour at a time is the whole affine map.
    black = np.asarray(function(np.zeros((1, 1, 1, 3), np.float32)))[0, 0, 0]
    colors = np.asarray(function(255 * np.eye(3, dtype=np.float32).reshape(3, 1, 1, 3)))
    matrix = (colors[:, 0, 0] - black) / 255  # [input channel, output channel]
    reverse = abs(matrix[0, 2]) > abs(matrix[0, 0])
    scale = np.diag(matrix[::-1] if reverse else matrix)
    return Preprocessing(
        name, tuple(map(float, scale)), tuple(map(float, black)), reverse_channels=bool(reverse)
    )


def _application_function(name: str) -> Any:
    """Returns the `preprocess_input` that goes with a Keras application; None for another name."""
    import tf_keras.applications as applications

    application = getattr(applications, name, None)
    if not inspect.isfunction(application):
        return None
    return getattr(sys.modules[application.__module__], "preprocess_input", None)


def with_preprocessing(
    model: Any,
    preprocessing: Preprocessing,
    takes: ImageInput | None = None,
    shape: tuple[int, ...] | None = None,
) -> Any:
    """Returns a model that takes raw pixels and preprocesses them in its first layers.

    Args:
      model: a Keras model with one image input, which expects this preprocessing.
      preprocessing: of the pixels.
      takes: what the model takes for an image; by default as it says itself.
      shape: height, width and channels of the images, for a model that takes no images of four
        dimensions, or does not say what it takes.
    """
    if preprocessing.is_identity:
        return model
    preprocessing.check_type(takes)
    keras = family_of(model).keras
    if takes is None or len(takes.sizes) != 3:
        sizes = shape if shape is not None else model.input_shape[1:]
    else:  # a model of any number of channels gets those that are preprocessed
        sizes = (*takes.sizes[:2], len(preprocessing.scale))
    batch_size = None if takes is None else takes.batch_size
    inputs = keras.Input(sizes, batch_size=batch_size, name="pixels")
    # Full slices: tf_keras cannot save an ellipsis.
    pixels = inputs[:, :, :, ::-1] if preprocessing.reverse_channels else inputs
    pixels = keras.layers.Rescaling(
        list(preprocessing.scale), list(preprocessing.offset), name="preprocessing"
    )(pixels)
    if takes is not None and len(takes.sizes) != 3:
        pixels = keras.layers.Reshape(takes.reshaped(sizes))(pixels)
    return keras.Model(inputs, model(pixels), name=f"{model.name}_on_pixels")
