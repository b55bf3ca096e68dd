"""Checks that a student can learn from a stream, before anything is trained or written.

num_outputs, kind = check_student(recipe, student_model(student), stream, num_replicas=1)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from streamkd.codes import warn
from streamkd.errors import OptionError, StudentError, readable_names
from streamkd.losses.teacher_loss import PRESETS
from streamkd.models.families import family_of
from streamkd.models.family_base import Family
from streamkd.models.head_check import answers_probabilities
from streamkd.models.image_input import ImageInput
from streamkd.models.inference import check_numbers
from streamkd.models.logits_head import LogitsModel
from streamkd.stream.stream import Stream
from streamkd.stream.teacher_columns import classes_to_choose
from streamkd.training.loss_choice import choose_loss, fits_outputs
from streamkd.training.recipe import Recipe
from streamkd.training.schedules import typical_of
from streamkd.training.student_model import StudentModel

# Label weight at which the teacher's logits have no part in the loss.
LABELS_ALONE = 1.0


def check_student(
    recipe: Recipe, parts: StudentModel, stream: Stream, num_replicas: int
) -> tuple[int, str]:
    """Makes all checks; returns the number of the student's outputs, and the loss: 'kl' or 'bce'.

    Raises:
      OptionError, StudentError: as the checks below, and `choose_loss`.
    """
    label_weight = typical_of(recipe.label_weight)
    check_loss(label_weight, stream)
    logits, student = parts.logits, parts.student
    num_outputs = check_fits(logits, student, stream, num_replicas)
    kind = choose_loss(
        recipe.loss,
        stream,
        label_weight=label_weight,
        student=logits,
        num_outputs=num_outputs,
    )
    if kind == "bce":
        check_logits(logits, student, stream)
    check_labels(recipe, stream)
    parts.check_head(stream.options.shape)
    return num_outputs, kind


def check_loss(label_weight: float, stream: Stream) -> None:
    """Refuses a loss for which the stream has no targets.

    Raises:
      OptionError: the loss needs logits or labels that the stream does not have.
    """
    if stream.store is None and label_weight != LABELS_ALONE:
        raise OptionError(
            f"label_weight is {label_weight:g}, and the stream has no teacher logits.\n"
            "Join the images with a store, or learn from labels alone: label_weight=1."
        )
    if label_weight == LABELS_ALONE and not stream.labelled.any():
        raise OptionError(
            "label_weight is 1, and none of the images has a label that counts.\n"
            "Give images in one folder a class, or a smaller `--label-weight`."
        )


def check_labels(recipe: Recipe, stream: Stream) -> None:
    """Refuses a loss that needs labels where there are none; warns where there are some.

    Raises:
      OptionError: none of the images has a label.
    """
    preset = PRESETS.get(recipe.loss) if isinstance(recipe.loss, str) else None
    if preset is None or not preset.needs_labels or typical_of(recipe.label_weight) == LABELS_ALONE:
        return
    num_unlabelled = int(np.sum(~stream.labelled))
    if num_unlabelled == len(stream.labelled):
        raise OptionError(
            f"The loss {recipe.loss} compares the class of each image's label with the others, and "
            "none of the images has a label.\nGive images in one folder a class, or another loss: "
            "`--loss kd`."
        )
    if num_unlabelled:
        warn(
            "loss_without_labels",
            f"{num_unlabelled:,} of {len(stream.labelled):,} images have no label, and the loss "
            f"{recipe.loss} needs one: the student learns nothing from them. `--loss kd` learns "
            "from all images.",
            stacklevel=4,
        )


def check_is_model(student: Any, family: Family) -> None:
    """Refuses a layer of a Keras family in place of a student.

    Raises:
      StudentError: names the layer's class.
    """
    if not isinstance(student, family.keras.Model):
        raise StudentError(
            f"The student is a layer, {type(student).__name__}, and no model.\n"
            "Give a model that begins with an Input and ends in one output a class."
        )


def check_fits(logits: LogitsModel, student: Any, stream: Stream, num_replicas: int = 1) -> int:
    """Refuses a student whose input or output differs from the stream's, or that cannot learn.

    Returns the number of its outputs: those of the stream, or for two classes one or two.

    Args:
      logits: of the student; it is called with one black image.
      student: the user's model.
      stream: the stream to learn from.
      num_replicas: over which a batch is spread.

    Raises:
      StudentError: names both sides.
    """
    shape = (1, *stream.options.shape)
    takes = ImageInput.of(student)
    if takes is not None:
        _check_images(takes, student, stream, num_replicas)
    black = logits.model(tf.zeros(shape), training=False)
    check_numbers(student, black, StudentError)
    answers = np.asarray(black, np.float32)
    if answers.ndim != 2 or not fits_outputs(answers.shape[1], stream):
        has_store = stream.store is not None
        other = "store" if has_store else "classes of the images"
        other_classes = classes_to_choose(stream.images, stream.store, answers.shape[1:])
        is_flat = answers.ndim == 2 or answers[0].size != stream.num_classes
        flatten = "" if is_flat else " End this one with `keras.layers.Flatten()`."
        raise StudentError(
            f"The student's output disagrees with the {other}.\n"
            f"  student: {student.name!r}, outputs of shape {list(answers.shape[1:])}\n"
            f"  {'store' if has_store else 'images'}:  {stream.num_classes} classes\n"
            f"Give a student with {stream.num_classes} outputs.{flatten}{other_classes}"
        )
    if not student.trainable_variables:
        raise StudentError(
            f"The student {student.name!r} has no weights to train.\n"
            "Set `trainable = True` on the layers that are to learn."
        )
    quantised = family_of(student).untrainable_kernels(student)
    if quantised:
        raise StudentError(
            f"The student {student.name!r} is quantised, and the kernels of {len(quantised)} of "
            f"its layers are whole numbers, which cannot be trained: {readable_names(quantised)}.\n"
            "Train it first and quantise it then; or set `trainable = False` on these layers."
        )
    if not logits.inspected and answers_probabilities(logits.model, stream.options.shape):
        raise StudentError(
            f"The student {student.name!r} answers with probabilities, and its layers cannot be "
            "looked into.\nLeave its softmax out: return logits."
        )
    return answers.shape[1]


def check_logits(logits: LogitsModel, student: Any, stream: Stream) -> None:
    """Refuses a student of independent labels that hides a sigmoid, whose outputs are no logits.

    Pixels far beyond all images drive logits far away, and not what a sigmoid answers.

    Raises:
      StudentError: all its answers lie between 0 and 1.
    """
    if logits.inspected:
        return
    noise = tf.random.stateless_uniform((4, *stream.options.shape), (1, 2), maxval=255.0)
    pixels = tf.concat([noise, noise * 1e3, noise * -1e3], axis=0)
    answers = np.asarray(logits.model(pixels, training=False), np.float32)
    if np.all((answers >= 0) & (answers <= 1)):
        raise StudentError(
            f"The student {student.name!r} answers between 0 and 1 whatever it is shown, and its "
            "layers cannot be looked into.\nLeave its sigmoid out: return logits."
        )


def _check_images(takes: ImageInput, student: Any, stream: Stream, num_replicas: int) -> None:
    """Refuses images, or a batch size, that the student does not take."""
    shape = stream.options.shape
    if len(takes.sizes) == 3 and not takes.fits(shape):
        raise StudentError(
            f"The student {student.name!r} does not take the images of the stream.\n"
            f"  student: {list(takes.sizes)} (height, width, channels)\n"
            f"  stream:  {list(shape)}\n"
            "Give `--image-size` and `--color-mode` as the student needs them."
        )
    takes.check_images(shape, f"The student {student.name!r}", StudentError)
    own, piece = takes.batch_size, stream.batch_size // num_replicas
    if own is not None and own != piece:
        replicas = "" if num_replicas == 1 else f" over {num_replicas} replicas"
        raise StudentError(
            f"The student {student.name!r} has a fixed batch size of {own}, and the stream has "
            f"batches of {stream.batch_size}{replicas}.\nGive `--batch-size "
            f"{own * num_replicas}`, or build the student without a batch size."
        )
