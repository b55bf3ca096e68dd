"""A teacher as the model that is evaluated: a file of another format, an address, a function.

    if is_asked_as_teacher("model.tflite"):
        model = TeacherModel(load_teacher("model.tflite"))
    model.settle(options)
    model.logits_function()(images)                  # float32 [batch, num_classes]

It has the names of `evaluated_model.KerasModel`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from streamkd.errors import OptionError
from streamkd.file_kinds import kind_of_path
from streamkd.image_options import ImageOptions
from streamkd.models.image_input import COLOR_MODES
from streamkd.models.user_code import is_function
from streamkd.results.evaluated_model import check_size, refuse_mode
from streamkd.store.layout import SOFTMAX_KINDS
from streamkd.teachers.http_teacher import is_address
from streamkd.teachers.teacher import Teacher

# Files that no Keras family opens.
_OTHER_FORMATS = ("tflite", "onnx", "saved_model")


def is_asked_as_teacher(source: Any) -> bool:
    """Returns whether a model is given as an address, a function, or a file that is not Keras'."""
    if not isinstance(source, str | os.PathLike):
        return False
    if is_address(source) or (isinstance(source, str) and is_function(source)):
        return True
    kind = kind_of_path(source)
    return kind is not None and kind.code in _OTHER_FORMATS


class TeacherModel:
    """A teacher that is evaluated.

    Attributes:
      image_size: (height, width) that it takes; None for any size.
      is_paid_for: whether each question may cost something, so that its time is not measured.
    """

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self.image_size = teacher.image_size
        self.is_paid_for = not teacher.is_asked_twice

    def color_mode(self, size: Any) -> str | None:
        """Returns the color mode with as many channels as it takes; None for any number."""
        return COLOR_MODES.get(self._teacher.num_channels or 0)

    def no_size(self) -> OptionError:
        """Returns the refusal of a model that does not say the size of its images."""
        return OptionError("The model takes images of any size; add --image-size HEIGHTxWIDTH.")

    def settle(self, options: ImageOptions) -> None:
        """Refuses images of another size or other channels than it takes."""
        refuse_mode(self.color_mode(options.image_size), options.color_mode)
        check_size(self.image_size, options)
        self._teacher.settle_model(options.shape)

    def logits_function(self, shown: str | None = None) -> Callable[[Any], Any]:
        """Returns a function from images to logits, float32 `[batch, num_classes]`.

        The teacher judges the kind of its answers by itself.
        """
        return self._teacher

    @property
    def activation(self) -> str | None:
        """'sigmoid', 'softmax', or None where nothing tells; known once images were answered."""
        if self._teacher.is_sigmoid:
            return "sigmoid"
        is_softmax = self._teacher.output_kind in SOFTMAX_KINDS
        return "softmax" if is_softmax else self._teacher.removed

    @property
    def num_parameters(self) -> int | None:
        """Returns the number of weights; None where the format does not tell them."""
        model = self._teacher.model
        return None if model is None else int(model.count_params())
