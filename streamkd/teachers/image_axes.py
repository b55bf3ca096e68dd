"""The one image input of a model of another framework: its axes, and how many images at once.

axes = ImageAxes.of_shape((1, 3, 224, 224), "teacher.onnx")
axes.image_size, axes.num_channels, axes.batch     # (224, 224), 3, 1
images = axes.arranged(pixels)                     # [batch, 3, 224, 224]
InParts(ask, axes.batch)(images)                   # asks as many at once as the model takes
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from streamkd.errors import OptionError, TeacherError

# Channels that images have: grey, colour, colour with transparency.
_CHANNELS = (1, 3, 4)


@dataclasses.dataclass(frozen=True)
class ImageAxes:
    """How a model takes images.

    Attributes:
      layout: 'NHWC', 'NCHW', 'NHW' for grey images without an axis of channels, or 'flat' for rows
        of numbers.
      batch: images that it takes at once; None for any number.
      image_size: (height, width); None for any size, and for rows.
      num_channels: None for any number, and for rows.
      num_values: numbers of a row; None for other layouts.
    """

    layout: str
    batch: int | None
    image_size: tuple[int, int] | None
    num_channels: int | None
    num_values: int | None = None

    @classmethod
    def of_shape(cls, shape: Sequence[int | None], name: str) -> ImageAxes:
        """Returns the axes of an input.

        Args:
          shape: sizes of the axes, the batch first; None for an axis of any size.
          name: of the teacher, for messages.

        Raises:
          TeacherError: it is no shape of images, or does not tell which axis has the channels.
        """
        sizes = list(shape)
        batch = sizes[0] if sizes else None
        if len(sizes) == 4:
            return cls._of_four(sizes, name)
        if len(sizes) == 3 and sizes[1] and sizes[2]:
            return cls("NHW", batch, (sizes[1], sizes[2]), 1)
        if len(sizes) == 2 and sizes[1]:
            return cls("flat", batch, None, None, sizes[1])
        raise TeacherError(
            f"The teacher {name!r} takes an input of {_words(shape)}, which is no batch of "
            "images.\nGive a model that takes [batch, height, width, channels]; or ask it in "
            "Python, and give a function from images to logits as the teacher."
        )

    @classmethod
    def _of_four(cls, sizes: list[int | None], name: str) -> ImageAxes:
        batch, second, third, last = sizes
        is_last, is_first = last in _CHANNELS, second in _CHANNELS
        if is_last and is_first:  # a tiny image; most are as high as wide
            is_last, is_first = second == third, third == last
        if is_last and not is_first:
            size = (second, third) if second and third else None
            return cls("NHWC", batch, size, last)
        if is_first and not is_last:
            return cls("NCHW", batch, (third, last) if third and last else None, second)
        raise TeacherError(
            f"The teacher {name!r} takes an input of shape {_shown(sizes)}, which does not say "
            "which axis has the channels.\nSave it with its number of channels, 1, 3 or 4; or ask "
            "it in Python, and give a function from images to logits as the teacher."
        )

    def arranged(self, images: np.ndarray) -> np.ndarray:
        """Returns `[batch, height, width, channels]` in the model's own order of axes.

        Raises:
          TeacherError: a row has another number of values than the images.
        """
        if self.layout == "NCHW":
            return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        if self.layout == "NHW":
            return images[..., 0]
        if self.layout == "flat":
            if images[0].size != self.num_values:
                shape = " x ".join(map(str, images.shape[1:]))
                raise TeacherError(
                    f"The teacher takes rows of {self.num_values} numbers, and an image of {shape} "
                    f"has {images[0].size}.\nGive another `--image-size` or `--color-mode`."
                )
            return images.reshape(len(images), -1)
        return images


def as_whole_numbers(pixels: np.ndarray, preprocess: str, name: str) -> np.ndarray:
    """Returns pixels, 0 to 255, rounded for a model that takes whole numbers.

    Args:
      pixels: float32.
      preprocess: of the teacher.
      name: of the teacher, for messages.

    Raises:
      OptionError: `preprocess` made fractions of the pixels, which rounding would take away.
    """
    if preprocess != "none":
        raise OptionError(
            f"--preprocess is {preprocess}, and the teacher {name!r} takes whole numbers.\n"
            "Leave --preprocess out: it is given pixels from 0 to 255."
        )
    return np.clip(np.rint(pixels), 0, 255)


class InParts:
    """Asks a model about a batch at once, or one image at a time once it has refused a batch.

    A model may be made for one image though its input is said to have any number: a shape was
    written down when it was exported.

    Args:
      ask: from an array of the model's own axes to an array with a row for each image.
      batch: images that it takes at once, no more and no fewer; None for any number.
    """

    def __init__(self, ask: Callable[[np.ndarray], np.ndarray], batch: int | None) -> None:
        self._ask, self._batch, self._is_tried = ask, batch, batch is not None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Returns a row for each of the images, which are in the model's own axes."""
        if not self._is_tried and len(images) > 1:
            self._is_tried = True
            try:
                answers = self._ask(images)
                if answers.ndim and len(answers) == len(images):
                    return answers
            except TeacherError:
                self._ask(images[:1])  # refuses images of this size, if they are the reason
            self._batch = 1
        return asked_in_parts(self._ask, images, self._batch)


def asked_in_parts(
    ask: Callable[[np.ndarray], np.ndarray], images: np.ndarray, batch: int | None
) -> np.ndarray:
    """Returns a row for each image, asking for as many at once as the model takes.

    Args:
      ask: from an array of the model's own axes to an array with a row for each image.
      images: `[num_images, ...]` in the model's own axes.
      batch: images that it takes at once, no more and no fewer; None for any number.
    """
    if batch is None or batch == len(images):
        return ask(images)
    rows = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        # The last part is filled up with its last image.
        missing = np.repeat(part[-1:], batch - len(part), axis=0)
        rows.append(ask(np.concatenate([part, missing]))[: len(part)])
    return np.concatenate(rows)


def as_rows(answers: np.ndarray) -> np.ndarray:
    """Returns answers of `[batch, 1, 1, num_classes]` as `[batch, num_classes]`."""
    inner = answers.shape[1:]
    if len(inner) > 1 and sum(size > 1 for size in inner) <= 1:
        return answers.reshape(len(answers), -1)
    return answers


def chosen_output(names: Sequence[str], wanted: str | int | None, teacher: str) -> int:
    """Returns the number of the output that is taken.

    Args:
      names: of all outputs, in their order.
      wanted: a name or a number, counted from 0; None to take the only one.
      teacher: its name, for messages.

    Raises:
      TeacherError: there are several and none is chosen, or there is no such output.
    """
    shown = ", ".join(f"{number}: {name!r}" for number, name in enumerate(names))
    if wanted is None and len(names) == 1:
        return 0
    if wanted is None:
        raise TeacherError(
            f"The teacher {teacher!r} has {len(names)} outputs ({shown}).\n"
            "Choose the one with the classes: `--output NAME` or `--output NUMBER`."
        )
    if str(wanted) in names:
        return list(names).index(str(wanted))
    if str(wanted).isdecimal() and int(wanted) < len(names):
        return int(wanted)
    raise TeacherError(
        f"--output is {wanted!r}, and the teacher {teacher!r} has no such output.\n"
        f"Its outputs are {shown or 'none'}."
    )


def refuse_several_inputs(names: Sequence[str], teacher: str) -> None:
    """Raises TeacherError for a model with another number of inputs than one."""
    if len(names) != 1:
        shown = ", ".join(map(repr, names)) or "none"
        raise TeacherError(
            f"The teacher {teacher!r} has {len(names)} inputs ({shown}), and only images are given "
            "to it.\nGive a model of one input; or ask it in Python, and give a function from "
            "images to logits as the teacher."
        )


def _words(shape: Sequence[int | None]) -> str:
    return f"shape {_shown(shape)}" if len(shape) else "a shape that is not known"


def _shown(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"
