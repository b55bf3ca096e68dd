"""The model that is evaluated or exported: opened, checked against images, answering with logits.

model = KerasModel(open_model("runs/first"), None)
model.settle(options)
model.logits_function()(images)                  # float32 [batch, num_classes]
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from streamkd.errors import OptionError, StudentError
from streamkd.image_options import ImageOptions
from streamkd.models import families
from streamkd.models.head_check import checked_answer
from streamkd.models.interface import Interface, check_interface
from streamkd.models.logits_head import LogitsModel
from streamkd.models.run_code import has_student, open_student
from streamkd.results.report_fields import kind_of_answers


def open_model(path: str | os.PathLike, *, trust: bool = False) -> Any:
    """Returns the model of a `.keras` file or of a run directory."""
    path = Path(path)
    if path.is_dir():
        if not has_student(path):
            raise StudentError(
                f"{path} is a directory without student.keras, so it is no finished run.\n"
                "Give a `.keras` file or the --out of `streamkd train`."
            )
        return open_student(path, trust=trust)
    return families.load_model(path, refusal=StudentError, trust=trust)


class KerasModel:
    """A Keras model that is evaluated.

    Attributes:
      image_size: (height, width) that it takes; None for any size.
      is_paid_for: False, since its own machine answers.
    """

    is_paid_for = False

    def __init__(self, model: Any, output: str | int | None) -> None:
        self._model, self._output = model, output
        self._interface = model_interface(model, output)
        self.image_size = self._interface.image_size

    def color_mode(self, size: Any) -> str | None:
        """Returns the color mode with as many channels as it takes; None for any number."""
        return own_color_mode(self._interface, size)

    def no_size(self) -> OptionError:
        """Returns the refusal of a model that does not say the size of its images."""
        return no_size(self._interface)

    def settle(self, options: ImageOptions) -> None:
        """Refuses images of another size or other channels than it takes, and builds it."""
        refuse_mode(self.color_mode(options.image_size), options.color_mode)
        check_size(self.image_size, options)
        self._interface = model_interface(self._model, self._output, options.shape)

    def logits_function(self, shown: str | None = None) -> Any:
        """Returns a compiled function from images to logits, float32 `[batch, num_classes]`."""
        return logits_function(self._interface, shown)

    @property
    def activation(self) -> str | None:
        """The activation that was taken off its end, or None."""
        return logits_of(self._interface).removed

    @property
    def num_parameters(self) -> int:
        """The number of its weights."""
        return int(self._interface.model.count_params())


def model_interface(
    model: Any, output: str | int | None, shape: tuple[int, int, int] | None = None
) -> Interface:
    """Returns what a model takes and answers; settled if the `shape` of the images is given."""
    return check_interface(model, kind="model", refusal=StudentError, output=output, shape=shape)


def logits_function(interface: Interface, shown: str | None = None) -> Any:
    """Returns a compiled function from images to logits, float32 `[batch, num_classes]`.

    Args:
      interface: of a model; it is settled.
      shown: what is known of a model whose layers cannot be looked into, as of `shown_labels`.
    """

    def kind_of(answers: np.ndarray) -> str:
        return kind_of_answers(answers, shown)

    logits, name = logits_of(interface), interface.model.name
    return checked_answer(logits, interface.answers, name, StudentError, kind_of=kind_of)


def logits_of(interface: Interface) -> LogitsModel:
    assert interface.logits is not None  # it is settled
    return interface.logits


def refuse_mode(own: str | None, asked: str) -> None:
    """Refuses images of other channels than the model takes; `own` is None for any number."""
    if own not in (None, asked):
        raise OptionError(
            f"The model takes images in {own}, and --color-mode is {asked}.\n"
            f"Leave --color-mode out, or give `--color-mode {own}`."
        )


def check_size(own_size: tuple[int, int] | None, options: ImageOptions) -> None:
    """Refuses images of another size than the model takes; `own_size` is None for any size."""
    if own_size not in (None, tuple(options.image_size)):
        own, given = ("x".join(map(str, size)) for size in (own_size, options.image_size))
        raise OptionError(
            f"The model takes images of {own} pixels, and --image-size is {given}.\n"
            f"Leave --image-size out, or give `--image-size {own}`."
        )


def own_color_mode(interface: Interface, size: Any) -> str | None:
    """Returns the color mode with as many channels as a model takes; None for any number."""
    return None if interface.takes is None else interface.takes.color_mode(size)


def no_size(interface: Interface) -> OptionError:
    """Returns the refusal of a model that does not say the size of its images."""
    if interface.takes is not None and len(interface.takes.sizes) == 1:
        return OptionError(
            "The model takes the numbers of an image in one row, and does not say the height and "
            "width.\nAdd `--image-size HEIGHTxWIDTH`, or begin the model with images and a Flatten "
            "layer."
        )
    return OptionError("The model takes images of any size; add --image-size HEIGHTxWIDTH.")
