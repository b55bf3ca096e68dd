"""What a model takes for an image: an image, its numbers in one row, or one without channels.

takes = ImageInput.of(model)        # None for a model that does not say
takes.image_size, takes.num_channels, takes.batch_size
takes.check_form("The teacher 'net'", TeacherError)
takes.check_images((28, 28, 1), "The teacher 'net'", TeacherError)
takes.from_images(pixels)           # float32 [batch, 784]
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from streamkd.errors import StreamkdError

# Channels of an image, and the color modes that give them.
COLOR_MODES = {1: "grayscale", 3: "rgb", 4: "rgba"}


@dataclasses.dataclass(frozen=True)
class ImageInput:
    """The one input of a model.

    Attributes:
      sizes: of what the model takes for one image; None for a size that may be any.
      batch_size: the number of images that it takes at once; None for any.
      dtype: name of the type that the model casts pixels to.
    """

    sizes: tuple[int | None, ...]
    batch_size: int | None = None
    dtype: str = "float32"

    @classmethod
    def of(cls, model: Any) -> ImageInput | None:
        """Returns what a model says that it takes; None for one that does not say."""
        inputs = getattr(model, "inputs", None)
        try:
            if isinstance(inputs, list) and len(inputs) == 1:
                shape: Any = tuple(inputs[0].shape)
                dtype = inputs[0].dtype
            else:
                shape, dtype = getattr(model, "input_shape", None), "float32"
        except (AttributeError, RuntimeError, ValueError):  # it was not called yet; no known rank
            return None
        if not isinstance(shape, tuple) or any(isinstance(size, tuple) for size in shape):
            return None
        return cls(shape[1:], shape[0], getattr(dtype, "name", dtype)) if shape else None

    @property
    def is_plain(self) -> bool:
        """Whether batches of images of any number can be given as they are."""
        return len(self.sizes) == 3 and self.batch_size is None

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width) in pixels; None for any size, and for numbers in one row."""
        if len(self.sizes) not in (2, 3) or self.sizes[0] is None or self.sizes[1] is None:
            return None
        return int(self.sizes[0]), int(self.sizes[1])

    @property
    def num_channels(self) -> int | None:
        """Channels of the images; None for any number, and for numbers in one row."""
        if len(self.sizes) == 2:
            return 1
        return self.sizes[2] if len(self.sizes) == 3 else None

    def color_mode(self, image_size: tuple[int, int] | None) -> str | None:
        """Returns the color mode with as many channels as the model takes; None for any."""
        num_channels = self.num_channels
        if len(self.sizes) == 1 and self.sizes[0] and image_size is not None:
            num_channels, rest = divmod(self.sizes[0], image_size[0] * image_size[1])
            num_channels = 0 if rest else num_channels
        return COLOR_MODES.get(num_channels or 0)

    def check_form(self, subject: str, refusal: type[StreamkdError]) -> None:
        """Refuses an input that no image fits, whatever its size.

        Raises:
          refusal: channels come first, or it has another number of dimensions.
        """
        if self.dtype in ("string", "bool") or "complex" in self.dtype:
            raise refusal(
                f"{subject} takes {self.dtype}, and images are numbers.\n"
                "Give a model that takes images."
            )
        if len(self.sizes) not in (1, 2, 3):
            raise refusal(
                f"{subject} takes arrays of shape {self._words()}, which no image has.\n"
                "Give a model that takes [height, width, channels], or begin it with a Reshape "
                "layer that makes its own shape of them."
            )
        is_first = len(self.sizes) == 3 and self.sizes[0] in COLOR_MODES
        if is_first and self.sizes[2] not in COLOR_MODES:
            raise refusal(
                f"{subject} takes images channels first, {self._words()}, and streamkd gives "
                "[height, width, channels].\nBegin it with a Permute layer: "
                "`keras.Sequential([keras.Input((height, width, channels)), "
                "keras.layers.Permute((3, 1, 2)), model])`."
            )

    def check_images(
        self, shape: tuple[int, ...], subject: str, refusal: type[StreamkdError]
    ) -> None:
        """Refuses images that cannot be brought into the form that the model takes.

        Args:
          shape: height, width and channels of the images.
          subject: the model in the message, such as "The teacher 'net'".
          refusal: class of the error.
        """
        given = " x ".join(map(str, shape))
        if len(self.sizes) == 1 and self.sizes[0] not in (None, math.prod(shape)):
            raise refusal(
                f"{subject} takes {self.sizes[0]:,} numbers for an image, and images of {given} "
                f"have {math.prod(shape):,}.\n{self._fitting_flags(shape)} Or begin the model "
                "with images and a Flatten layer."
            )
        if len(self.sizes) == 2 and not self.fits(shape[:2]):
            raise refusal(
                f"{subject} takes images of shape {self._words()}, and these are {given}.\n"
                f"Give `--image-size {'x'.join(map(str, self.sizes))}`."
            )
        if len(self.sizes) == 2 and shape[2] != 1:
            raise refusal(
                f"{subject} takes images without channels, {self._words()}, and these have "
                f"{shape[2]}.\nAdd `--color-mode grayscale`, or begin the model with images and a "
                "Reshape layer."
            )
        if len(self.sizes) == 3 and not self.fits(shape):
            raise refusal(
                f"{subject} takes images of shape {self._words()}, and these are {given}.\n"
                "Give `--image-size` and `--color-mode` as the model needs them."
            )

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Returns whether these sizes, as many as the model takes, are what it takes."""
        return all(want in (None, have) for want, have in zip(self.sizes, shape, strict=True))

    def from_images(self, images: Any) -> Any:
        """Returns images, float32 `[batch, height, width, channels]`, in the model's form."""
        import tensorflow as tf

        if len(self.sizes) == 1:
            return tf.reshape(images, [-1, *self.reshaped(images.shape[1:])])
        if len(self.sizes) == 2:
            return tf.squeeze(images, axis=3)
        return images

    def reshaped(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the sizes that an image of this shape has in the model's form."""
        return (math.prod(shape),) if len(self.sizes) == 1 else tuple(shape[: len(self.sizes)])

    def _words(self) -> str:
        return str(["any" if size is None else size for size in self.sizes]).replace("'", "")

    def _fitting_flags(self, shape: tuple[int, ...]) -> str:
        """Returns the sentence that names flags with which the images have the right numbers."""
        num_numbers = self.sizes[0] or 0
        for num_channels, color_mode in COLOR_MODES.items():
            if shape[0] * shape[1] * num_channels == num_numbers:
                return f"Add `--color-mode {color_mode}`."
        for num_channels, color_mode in COLOR_MODES.items():
            side = math.isqrt(num_numbers // num_channels)
            if side**2 * num_channels == num_numbers:
                return (
                    "Give the size and the color mode of its images, such as "
                    f"`--image-size {side}x{side} --color-mode {color_mode}`."
                )
        return "Give `--image-size` and `--color-mode` with so many numbers."
