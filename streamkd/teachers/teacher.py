"""The teacher: pixels in, logits out, and an identity that the store keeps.

teacher = Teacher.from_model(model, name="teacher.keras")
teacher = Teacher.from_callable(answer, name="mystery")
logits = teacher(images)       # float32 [batch, height, width, channels], 0 to 255
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from streamkd.checks import check_choice, check_types
from streamkd.errors import TeacherError
from streamkd.models import odd_answers, output_kind, rounding
from streamkd.models import preprocessing as preprocessing_module
from streamkd.models.image_input import ImageInput
from streamkd.models.logits_head import LogitsModel
from streamkd.models.preprocessing import Preprocessing
from streamkd.public import public
from streamkd.store.layout import SIGMOID_KINDS
from streamkd.teachers.callable_answers import answers_of
from streamkd.teachers.dropped_outputs import dropped_output, without_outputs

# Digest that stores of former versions have of a teacher without weights, or not yet built.
NO_WEIGHTS = hashlib.blake2b(digest_size=16).hexdigest()


@dataclasses.dataclass(frozen=True)
class Head:
    """A model whose last activation was taken off.

    Attributes:
      model: called with images; it answers as the user's model does.
      logits: what was found in it.
      output: the kind of its answers that the user named, or 'auto'.
    """

    model: Any
    logits: LogitsModel
    output: str


@public
class Teacher:
    """Anything that answers images with logits.

    Attributes:
      name: its name in the store and in messages.
      output_kind: one of `output_kind.KINDS`, or 'auto' until the first answers are judged.
      preprocess: name of the pixels' preprocessing; see `streamkd.models.preprocessing`.
      removed: the activation that was taken off the model's end, or None.
      num_outputs: length of an answer; None where it is not known before the first one.
      image_size: (height, width) that the model needs; None for any size.
      num_channels: channels that the model needs; None for any number.
      weights_digest: digest of the weights; None for a callable, and without any weights.
      model_output: name of the output that was chosen among several, or None.
      dropped_output: index of an output that is no class, a sorted list of several, or None.
      model: the Keras model that answers, or None.
      is_asked_twice: whether a pass asks about a few images again, to compare the answers.
      class_names: its classes in the order of its outputs, where its file tells them; else None.
      step: to which its probabilities are rounded, 1 for the class alone; None for unrounded ones,
        and until the first answers.
      zeros: share of the first answers that are 0, where they are rounded.
      first_pixels: returns the pixels of the first block of a pass, of which this is one part.
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
        drop_output: int | Sequence[int] | None = None,
    ) -> None:
        check_types(Teacher.__init__, locals())
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
        self.dropped_output = dropped_output(drop_output)
        self.model_output: str | None = None
        self.takes: ImageInput | None = None
        self.model: Any = None
        self.is_asked_twice = True
        self.class_names: list[str] | None = None
        self.step: float | None = None
        self.zeros = 0.0
        self.first_pixels: Callable[[], Any] | None = None
        self._is_step_known = False
        self._preprocessing: Preprocessing | None = None
        # A model that was not yet checked against images, and the output that the user chose.
        self._model: Any = None
        self._choice: str | int | None = None
        self._is_settled = False
        self._head: Head | None = None

    @classmethod
    def from_model(
        cls, model: Any, *, name: str, model_output: str | int | None = None, **options: Any
    ) -> Teacher:
        """Returns a teacher that runs a Keras model without its last softmax or sigmoid.

        `model_output` chooses one of several outputs, by name or number.
        """
        check_choice("--teacher-output", options.get("output", "auto"), output_kind.CHOICES)
        teacher = cls(_unsettled, name=name, **options)
        teacher._model, teacher._choice = model, model_output
        teacher.settle_model()
        return teacher

    def settle_model(self, shape: tuple[int, int, int] | None = None) -> None:
        """Checks the teacher's model, and builds it for images of a shape.

        A model that is built and whose layers tell its answers needs no `shape` for that. Does
        nothing for a teacher that is no model, and for one whose images were seen already.

        Args:
          shape: height, width and channels of the images.

        Raises:
          TeacherError: the model does not take one image, or has several outputs.
        """
        if self._model is None:
            return
        from streamkd.models.interface import check_interface

        interface = check_interface(
            self._model, kind="teacher", refusal=TeacherError, output=self._choice, shape=shape
        )
        self.takes = interface.takes
        self.image_size, self.num_channels = interface.image_size, interface.num_channels
        if interface.is_settled and not self._is_settled:
            self._take(interface)
        if shape is not None:
            self._model = None

    def _take(self, interface: Any) -> None:
        """Answers from now on as a settled `Interface`."""
        from streamkd.models.inference import compiled_answer

        logits = interface.logits
        outputs = _shape_of(logits.model, "output_shape")
        _check_described(self.name, self.output_kind, logits.removed, outputs)
        if logits.removed is not None:
            self._head = Head(interface.answers, logits, self.output_kind)
        # The user describes the outputs of the whole model; without its softmax they are logits.
        if logits.removed is not None or (self.output_kind == "auto" and logits.inspected):
            self.output_kind = "logits"
        self.answer = compiled_answer(logits.model)
        self.removed = logits.removed
        self.num_outputs = outputs[-1] if outputs and len(outputs) == 2 else None
        self.weights_digest = digest_of_weights(interface.model.weights)
        self.model_output = interface.output
        self.model = interface.model
        self._is_settled = True

    @classmethod
    def from_callable(
        cls,
        answer: Callable[[Any], Any],
        *,
        name: str,
        model_output: str | int | None = None,
        **options: Any,
    ) -> Teacher:
        """Returns a teacher that calls `answer(images)`: float32 arrays in, an array out.

        `model_output` chooses one of several arrays that it answers with, by name or number.
        """
        # A copy of its own: many functions preprocess in place, and TensorFlow's arrays are locked.
        teacher = cls(
            lambda images: answers_of(answer, np.array(images), name, model_output),
            name=name,
            **options,
        )
        teacher.model_output = None if model_output is None else str(model_output)
        return teacher

    def __call__(self, images: Any) -> np.ndarray:
        """Returns logits, float32 `[batch, num_classes]`, for pixels from 0 to 255.

        `images` are float32 `[batch, height, width, channels]`.

        Raises:
          TeacherError: the answers are not one row of numbers for each image.
        """
        self.settle_model(tuple(images.shape[1:]))
        if self._preprocessing is None:
            self._preprocessing = preprocessing_module.parse(self.preprocess, images.shape[-1])
            self._preprocessing.check_type(self.takes)
        pixels = self._preprocessing(images)
        if self._head is not None:
            self._check_head(self._head, pixels)
        answers = np.asarray(self.answer(pixels), np.float32)
        is_number = answers.shape in ((len(images),), (len(images), 1))
        if self.output_kind == "class" and is_number:
            answers = output_kind.scores_of_classes(answers, self.num_outputs, self.name)
        elif self.output_kind in SIGMOID_KINDS and is_number:
            answers = answers.reshape(-1, 1)
        odd_answers.check_rows(answers, len(images), self.name)
        if self.output_kind == "auto":
            is_model = self.weights_digest is not None
            kind = odd_answers.judged_kind(answers, self.name, is_model=is_model)
            self.settle_output(kind)
        if not self._is_step_known:
            self._settle_step(answers, self._preprocessing)
        logits = output_kind.to_logits(answers, self.output_kind, self.step)
        if self.dropped_output is None:
            return logits
        return without_outputs(
            logits, self.dropped_output, name=self.name, fewest=1 if self.is_sigmoid else 2
        )

    def _settle_step(self, answers: np.ndarray, preprocessing: Preprocessing) -> None:
        """Sees in the first answers whether they are rounded; all parts of a pass see the same."""
        self._is_step_known = True
        if self.output_kind not in ("probabilities", "sigmoid"):
            return
        if self.first_pixels is not None:
            answers = np.asarray(self.answer(preprocessing(self.first_pixels())), np.float32)
        self.step, self.zeros = rounding.rounding_step(answers), float(np.mean(answers <= 0))

    def _check_head(self, head: Head, pixels: Any) -> None:
        """Compares the logits with the model's answers, once, and takes these if they differ."""
        from streamkd.models.head_check import tried_head

        self._head = None
        tried = tried_head(head.logits, head.model, pixels, self.name)
        if tried.removed is None:
            self._answer_whole(head)

    def _answer_whole(self, head: Head) -> None:
        """Answers from now on with the whole model, its last activation included."""
        from streamkd.models.inference import compiled_answer

        self._head = None
        self.answer = compiled_answer(head.model)
        self.removed, self.output_kind = None, head.output

    def follow(self, stored: Mapping[str, Any]) -> None:
        """Answers as the teacher of a store did; `stored` is what `identity` returned then.

        The store may hold the logarithms of a model's own answers, where logits can be had now.
        """
        self.step, self._is_step_known = rounding.step_of(stored), True
        head, self._head = self._head, None
        if head is not None and stored.get("removed") is None:
            self._answer_whole(head)

    @property
    def is_sigmoid(self) -> bool:
        """Whether its logits are those of independent labels, as far as is known by now."""
        return self.removed == "sigmoid" or self.output_kind in SIGMOID_KINDS

    def settle_output(self, kind: str) -> None:
        """Fixes the kind of the outputs, one of `output_kind.KINDS`, unless it is fixed already."""
        if self.output_kind == "auto":
            self.output_kind = kind

    def identity(self, *, default_output: str | None = None) -> dict[str, Any]:
        """Returns the teacher's settings as a store keeps them; equal for equal teachers.

        While `output_kind` is 'auto', `default_output` stands in.
        """
        undecided = self.output_kind == "auto" and default_output is not None
        chosen: dict[str, Any] = (
            {} if self.model_output is None else {"model_output": self.model_output}
        )
        if self.step is not None and self.step < 1:
            chosen["rounded"] = rounding.description(self.step, of_labels=self.is_sigmoid)
        return {
            "name": self.name,
            "weights": self.weights_digest,
            "output": default_output if undecided else self.output_kind,
            "removed": self.removed,
            "preprocess": self.preprocess,
            "dropped_output": self.dropped_output,
            **chosen,
        }


def _unsettled(images: Any) -> Any:
    """Stands in for the answers of a model until `settle_model` has seen it."""
    raise AssertionError("the model of a teacher is settled before it is asked")


def _check_described(name: str, output: str, removed: str | None, shape: tuple | None) -> None:
    """Refuses a description of the outputs that the last layer contradicts, and a useless layer."""
    if removed != "softmax":
        return
    if shape is not None and shape[-1] == 1:
        raise TeacherError(
            f"The teacher {name!r} ends in a softmax of one output, which is 1 for every image.\n"
            "Give a teacher of two outputs, or one whose single output ends in sigmoid."
        )
    if output == "class" or output.startswith("sigmoid"):
        raise TeacherError(
            f"--teacher-output is {output}, and the teacher {name!r} ends in softmax.\n"
            "Leave --teacher-output out: the layers show what the outputs are."
        )


def digest_of_weights(weights: Any) -> str | None:
    """Returns a digest of the shapes and values of a model's weights, in their order.

    None without weights: two such models need not be one.
    """
    if not len(weights):
        return None
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
