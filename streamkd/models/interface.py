"""Checks what a model takes and answers, and makes it answer images with one array of logits.

    interface = check_interface(model, kind="teacher", refusal=TeacherError)
    if not interface.is_settled:            # not built yet, or without layers to look into
        interface = check_interface(model, shape=(32, 32, 3), kind=…, refusal=…)
    interface.logits.model(images)          # images: float32 [batch, height, width, channels]

Teacher, student, `evaluate` and `export` ask it, each before it costs anything. What can be brought
into form without a guess is: numbers in one row, grey images without channels, a fixed batch size,
a dict with one array. Everything else is refused with the model's inputs or outputs by name.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import tensorflow as tf

from streamkd.errors import StreamkdError
from streamkd.models.families import family_of
from streamkd.models.family_base import Family
from streamkd.models.image_adapter import on_images
from streamkd.models.image_input import ImageInput
from streamkd.models.inference import failure
from streamkd.models.logits_head import LogitsModel, logits_model
from streamkd.models.model_outputs import Output, chosen_output, named_outputs


@dataclasses.dataclass(frozen=True)
class Interface:
    """A model with one image in and one array out.

    Attributes:
      model: as the user gave it; where one of several outputs was chosen, the model of that output,
        which shares the weights.
      takes: what it takes for an image; None for a model that does not say.
      answers: `model`, called with images and answering with one array; None until settled.
      logits: the same without its last activation; None until settled.
      output: name of the output that was chosen; None for the only one.
    """

    model: Any
    takes: ImageInput | None
    answers: Any = None
    logits: LogitsModel | None = None
    output: str | None = None

    @property
    def is_settled(self) -> bool:
        """Whether the answers are known; False for a model that was not shown an image yet."""
        return self.logits is not None

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width) that the model takes; None for any size."""
        return None if self.takes is None else self.takes.image_size

    @property
    def num_channels(self) -> int | None:
        """Channels that the model takes; None for any number."""
        return None if self.takes is None else self.takes.num_channels


def check_interface(
    model: Any,
    *,
    kind: str,
    refusal: type[StreamkdError],
    output: str | int | None = None,
    shape: tuple[int, int, int] | None = None,
) -> Interface:
    """Returns what a model takes and answers, and refuses a model that no image fits.

    A model that is not built yet is shown one black image, so that it has its weights.

    Args:
      model: of either family.
      kind: 'teacher', 'student' or 'model', for messages.
      refusal: class of the error.
      output: name or number of the output to take from a model with several.
      shape: height, width and channels of the images; without it, a model whose layers do not tell
        its answers stays unsettled.

    Raises:
      refusal: several inputs, several outputs of which none was chosen, channels first, or images
        that the model does not take.
      OptionError: it is no Keras model.
    """
    family, subject = family_of(model), f"The {kind} {model.name!r}"
    takes = _takes(model, shape, subject, refusal)
    if not _is_graph(family, model):
        if shape is None:
            return Interface(model, takes)
        answer = _shown_black(family, model, takes, shape, refusal)
        takes = _takes(model, shape, subject, refusal)
        if not _is_graph(family, model):
            outputs = named_outputs(answer)
            chosen = chosen_output(outputs, output, subject, refusal)
            return _of_answer(family, model, takes, outputs, chosen, shape, refusal)
    names = getattr(model, "output_names", [None])  # a Sequential of Keras 3 has none
    layers = dict(zip(map(id, model.outputs), names, strict=True))
    # A Sequential has one of each; that of Keras 3 has no `output`.
    is_row = isinstance(model, family.keras.Sequential)
    answer = model.outputs[0] if is_row else model.output
    outputs = named_outputs(answer, lambda array: layers.get(id(array)))
    chosen = chosen_output(outputs, output, subject, refusal)
    one = model
    if chosen.path or not (is_row or hasattr(model.input, "shape")):
        one = family.keras.Model(model.inputs[0], chosen.array, name=_name(model, outputs, chosen))
    return _settled(one if len(outputs) > 1 else model, one, takes, outputs, chosen)


def _takes(
    model: Any,
    shape: tuple[int, int, int] | None,
    subject: str,
    refusal: type[StreamkdError],
) -> ImageInput | None:
    """Returns what a model says that it takes, checked."""
    inputs = getattr(model, "inputs", None) or []
    if len(inputs) > 1:
        listed = "".join(f"  '{array.name}', shape {list(array.shape)[1:]}\n" for array in inputs)
        raise refusal(
            f"{subject} takes {len(inputs)} inputs, and an image is only one.\n{listed}"
            "Give a model of images alone, in which the other inputs are constants: "
            "`keras.Model(image, model([image, …]))`."
        )
    takes = ImageInput.of(model)
    if takes is not None:
        takes.check_form(subject, refusal)
        if shape is not None:
            takes.check_images(shape, subject, refusal)
    return takes


def _is_graph(family: Family, model: Any) -> bool:
    """Returns whether this is a Sequential or functional model that is built."""
    for base in type(model).__mro__:
        if base.__name__ in ("Functional", "Sequential") and family.defines(base):
            return bool(getattr(model, "outputs", None)) and "call" not in vars(model)
        if "call" in vars(base) or "__call__" in vars(base):
            return False
    return False


def _shown_black(
    family: Family,
    model: Any,
    takes: ImageInput | None,
    shape: tuple[int, int, int],
    refusal: type[StreamkdError],
) -> Any:
    """Builds a model by one black image, and returns its answer."""
    # Of the size that the model takes at once, so that a fixed one is not exceeded.
    images = tf.zeros(((takes and takes.batch_size) or 1, *shape))
    try:
        if isinstance(model, family.keras.Sequential) and not model.built:
            model.build((None, *shape))  # for batches of any size
        return model(images if takes is None else takes.from_images(images), training=False)
    except Exception as error:  # layers raise errors of every kind
        raise failure(model, images, error, refusal) from error


def _of_answer(
    family: Family,
    model: Any,
    takes: ImageInput | None,
    outputs: list[Output],
    chosen: Output,
    shape: tuple[int, int, int],
    refusal: type[StreamkdError],
) -> Interface:
    """Returns the interface of a model whose layers cannot be looked into."""
    if len(outputs) == 1:
        return _settled(model, model, takes, outputs, chosen, chosen.path)
    # A model of its own, which can be saved.
    image = family.keras.Input(shape if takes is None else takes.sizes, name="image")
    try:
        arrays = named_outputs(model(image))
        array = next(other.array for other in arrays if other.path == chosen.path)
    except Exception as error:
        raise failure(model, tf.zeros((1, *shape)), error, refusal) from error
    one = family.keras.Model(image, array, name=_name(model, outputs, chosen))
    return _settled(one, one, takes, outputs, chosen)


def _settled(
    model: Any,
    one: Any,
    takes: ImageInput | None,
    outputs: list[Output],
    chosen: Output,
    path: tuple[Any, ...] = (),
) -> Interface:
    """Returns the interface of `model`; `one` answers with the chosen array at `path`."""
    logits = logits_model(one)
    return Interface(
        model=model,
        takes=takes,
        answers=on_images(one, takes, path),
        logits=dataclasses.replace(logits, model=on_images(logits.model, takes, path)),
        output=chosen.name if len(outputs) > 1 else None,
    )


def _name(model: Any, outputs: list[Output], chosen: Output) -> str:
    """Returns the name of the model of one output, which names no file or scope badly."""
    if len(outputs) == 1:
        return str(model.name)
    return f"{model.name}_{re.sub('[^A-Za-z0-9_.-]', '_', chosen.name)}"
