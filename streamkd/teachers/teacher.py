"""The teacher: pixels in, logits out, and an identity that the store keeps.

teacher = Teacher.from_model(model, name="teacher.keras")
teacher = Teacher.from_callable(answer, name="mystery")
logits = teacher(images)       # float32 [batch, height, width, channels], 0 to 255
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from streamkd.checks import check_choice
from streamkd.errors import TeacherError
from streamkd.models import logits_head, output_kind
from streamkd.models import preprocessing as preprocessing_module
from streamkd.models.preprocessing import Preprocessing
from streamkd.public import public


@public
class Teacher:
    """Anything that answers images with logits.

    Attributes:
      name: its name in the store and in messages.
      output_kind: one of `output_kind.KINDS`, or 'auto' until the first answers are judged.
      preprocess: name of the pixels' preprocessing; see `streamkd.models.preprocessing`.
      removed: the activation that was taken off the model's end, or None.
      num_outputs: number of outputs; None where it is not known before the first answer.
      image_size: (height, width) that the model needs; None for any size.
      num_channels: channels that the model needs; None for any number.
      weights_digest: digest of the weights; None for a callable.
      dropped_output: index of an output that is no class, or None.
      is_asked_twice: whether a pass asks about a few images again, to compare the answers.
    """

    def __init__(
        self,
        answer: Callable[[Any], Any],
        *,
        name: str,
        output: str = "auto",
        preprocess: str = "none",
        removed: str | None = None,
        num_outputs: int | None = None,
        image_size: tuple[int, int] | None = None,
        num_channels: int | None = None,
        weights_digest: str | None = None,
        drop_output: int | None = None,
    ) -> None:
        check_choice("--teacher-output", output, output_kind.CHOICES)
        self.answer = answer
        self.name = name
        self.output_kind = output
        self.preprocess = preprocess
        self.removed = removed
        self.num_outputs = num_outputs
        self.image_size = image_size
        self.num_channels = num_channels
        self.weights_digest = weights_digest
        self.dropped_output = drop_output
        self.is_asked_twice = True
        self._preprocessing: Preprocessing | None = None

    @classmethod
    def from_model(cls, model: Any, *, name: str, **options: Any) -> Teacher:
        """Returns a teacher that runs a Keras model without its last softmax or sigmoid."""
        logits = logits_head.logits_model(model)
        output = options.pop("output", "auto")
        # The user describes the outputs of the whole model; without its softmax they are logits.
        if logits.removed is not None or (output == "auto" and logits.inspected):
            check_choice("--teacher-output", output, output_kind.CHOICES)
            output = "logits"
        from streamkd.models.inference import compiled_answer

        shape = _shape_of(model, "input_shape")
        outputs = _shape_of(model, "output_shape")
        return cls(
            compiled_answer(logits.model),
            name=name,
            output=output,
            removed=logits.removed,
            num_outputs=outputs[-1] if outputs and len(outputs) == 2 else None,
            image_size=_image_size(shape),
            num_channels=shape[3] if shape is not None and len(shape) == 4 else None,
            weights_digest=digest_of_weights(model.weights),
            **options,
        )

    @classmethod
    def from_callable(cls, answer: Callable[[Any], Any], *, name: str, **options: Any) -> Teacher:
        """Returns a teacher that calls `answer(images)`: float32 arrays in, an array out."""
        return cls(lambda images: answer(np.asarray(images)), name=name, **options)

    def __call__(self, images: Any) -> np.ndarray:
        """Returns logits, float32 `[batch, num_classes]`, for pixels from 0 to 255.

        `images` are float32 `[batch, height, width, channels]`.

        Raises:
          TeacherError: the answers are not one row of numbers for each image.
        """
        if self._preprocessing is None:
            self._preprocessing = preprocessing_module.parse(self.preprocess, images.shape[-1])
        answers = np.asarray(self.answer(self._preprocessing(images)), np.float32)
        if answers.ndim != 2 or len(answers) != len(images) or answers.shape[1] < 2:
            raise TeacherError(
                f"The teacher {self.name!r} answered {len(images)} images with an array of shape "
                f"{list(answers.shape)}.\nIt must answer with [batch, num_classes]: one row for "
                "each image, and at least two classes."
            )
        if self.output_kind == "auto":
            self.settle_output(output_kind.output_kind(answers))
        logits = output_kind.to_logits(answers, self.output_kind)
        if self.dropped_output is None:
            return logits
        return self._without(logits, self.dropped_output)

    def _without(self, logits: np.ndarray, dropped: int) -> np.ndarray:
        num_outputs = logits.shape[1]
        if not 0 <= dropped < num_outputs:
            raise TeacherError(
                f"--drop-output is {dropped}, and the teacher {self.name!r} has the outputs 0 to "
                f"{num_outputs - 1}.\nGive one of them, or leave --drop-output out."
            )
        return np.delete(logits, dropped, axis=1)

    def settle_output(self, kind: str) -> None:
        """Fixes the kind of the outputs, one of `output_kind.KINDS`, unless it is fixed already."""
        if self.output_kind == "auto":
            self.output_kind = kind

    def identity(self, *, default_output: str | None = None) -> dict[str, Any]:
        """Returns the teacher's settings as a store keeps them; equal for equal teachers.

        While `output_kind` is 'auto', `default_output` stands in.
        """
        undecided = self.output_kind == "auto" and default_output is not None
        return {
            "name": self.name,
            "weights": self.weights_digest,
            "output": default_output if undecided else self.output_kind,
            "removed": self.removed,
            "preprocess": self.preprocess,
            "dropped_output": self.dropped_output,
        }


def digest_of_weights(weights: Any) -> str:
    """Returns a digest of the shapes and values of a model's weights, in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for weight in weights:
        values = np.ascontiguousarray(np.asarray(weight))
        digest.update(f"{values.dtype} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _shape_of(model: Any, attribute: str) -> tuple | None:
    """Returns a model's input or output shape; None for a model without one, or with several."""
    try:
        shape = getattr(model, attribute, None)
    except (AttributeError, RuntimeError, ValueError):
        return None
    single = isinstance(shape, tuple) and not any(isinstance(size, tuple) for size in shape)
    return shape if single else None


def _image_size(shape: tuple | None) -> tuple[int, int] | None:
    if shape is None or len(shape) != 4 or shape[1] is None or shape[2] is None:
        return None
    return int(shape[1]), int(shape[2])
