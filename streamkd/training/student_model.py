"""The student as it is trained: one image in, one array of logits out, pixels from 0 to 255.

parts = student_model(student, preprocess="scale")
if parts is None:                       # not built yet, so it must see the images' shape
    parts = student_model(student, preprocess="scale", shape=(32, 32, 3))
parts.student, parts.logits
"""

from __future__ import annotations

import dataclasses
from typing import Any

from streamkd.errors import StudentError
from streamkd.models import preprocessing
from streamkd.models.head_check import check_student_head
from streamkd.models.interface import check_interface
from streamkd.models.logits_head import LogitsModel


@dataclasses.dataclass(frozen=True)
class StudentModel:
    """A student that is ready for training.

    Attributes:
      student: the model that is trained and saved: the user's own, unless it has several outputs
        or a preprocessing.
      answers: the same, called with images.
      logits: the same without its last activation; called with images.
      output: name of the output that was chosen among several, or None.
    """

    student: Any
    answers: Any
    logits: LogitsModel
    output: str | None

    def check_head(self, shape: tuple[int, int, int]) -> None:
        """Refuses logits that are not behind the student's answers to images of a shape.

        Raises:
          StudentError: softmax of the logits differs from what the student answers.
        """
        check_student_head(self.logits, self.answers, shape, self.student.name)


def student_model(
    student: Any,
    *,
    preprocess: str = "none",
    output: str | int | None = None,
    shape: tuple[int, int, int] | None = None,
) -> StudentModel | None:
    """Returns the student as it is trained; None if that needs the shape of the images.

    Args:
      student: the user's model.
      preprocess: name of the preprocessing that it expects.
      output: name or number of the output to train, for a student with several.
      shape: height, width and channels of the images.

    Raises:
      StudentError: it does not take one image, or has several outputs.
      OptionError: there is no such preprocessing.
    """
    checks: dict[str, Any] = {"kind": "student", "refusal": StudentError}
    interface = check_interface(student, output=output, shape=shape, **checks)
    if not interface.is_settled:
        return None
    chosen = interface.output
    if preprocess != "none":
        takes = interface.takes
        is_image = takes is not None and len(takes.sizes) == 3 and takes.num_channels is not None
        if shape is None and not is_image:
            return None
        num_channels = shape[2] if shape is not None else interface.num_channels
        parsed = preprocessing.parse(preprocess, num_channels or 0)
        on_pixels = preprocessing.with_preprocessing(interface.model, parsed, takes, shape)
        if on_pixels is not interface.model:
            interface = check_interface(on_pixels, shape=shape, **checks)
    if interface.logits is None:
        return None
    return StudentModel(interface.model, interface.answers, interface.logits, chosen)
