"""Compiles a model once, for batches of any size.

answer = compiled_answer(model)
answer(images)          # float32 `[batch, …]`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from streamkd.errors import StreamkdError, TeacherError
from streamkd.models.reasons import model_reason


def compiled_answer(
    model: Any, *, refusal: type[StreamkdError] = TeacherError
) -> Callable[[Any], tf.Tensor]:
    """Returns a function from images to the answers of a model of either Keras family, float32.

    Tracing a large model takes seconds. It is traced once for all batch sizes, since the first and
    the last batch often have another size than the rest. A model that loads may still fail when it
    is traced: its layers do not fit each other, or the images. That is a `refusal`.
    """

    @tf.function(reduce_retracing=True)
    def answer(images: tf.Tensor) -> Any:
        answers = model(images, training=False)
        return tf.cast(answers, tf.float32) if _are_numbers(answers) else answers

    traced = set()

    def answer_any_number(images: Any) -> tf.Tensor:
        images = tf.convert_to_tensor(images)
        spec = tf.TensorSpec([None, *images.shape[1:]], images.dtype)
        if spec not in traced:
            try:
                traces = answer.get_concrete_function(spec)
            except Exception as error:  # layers raise errors of every kind
                raise failure(model, images, error, refusal) from error
            check_numbers(model, traces.structured_outputs, refusal)
            traced.add(spec)
        try:
            return answer(images)
        except tf.errors.InvalidArgumentError as error:  # a shape that is known only now
            raise failure(model, images, error, refusal) from error

    return answer_any_number


def check_numbers(model: Any, answers: Any, refusal: type[StreamkdError]) -> None:
    """Refuses a model that does not answer with an array of real numbers.

    Args:
      model: named in the message.
      answers: its answers, or their specification.
      refusal: class of the error.
    """
    if _are_numbers(answers):
        return
    form = _form_with_gaps(answers)
    kind = "texts" if answers.dtype == tf.string else f"numbers of the type {answers.dtype.name}"
    kind = kind if form is None else f"a {form} tensor"
    raise refusal(
        f"The model {model.name!r} answers images with {kind}.\n"
        "It must answer with one row of real numbers for each image: [batch, num_classes]."
    )


def _are_numbers(answers: Any) -> bool:
    """Returns whether these are real numbers in an array without gaps."""
    kind = tf.as_dtype(answers.dtype)
    is_real = kind.is_floating or kind.is_integer or kind.is_bool
    return bool(is_real) and _form_with_gaps(answers) is None


def _form_with_gaps(answers: Any) -> str | None:
    """Returns 'sparse' or 'ragged' for a tensor of such a form, or its specification."""
    name = type(answers).__name__
    return next((form for form in ("sparse", "ragged") if form in name.lower()), None)


def failure(
    model: Any, images: tf.Tensor, error: Exception, refusal: type[StreamkdError]
) -> StreamkdError:
    """Returns the refusal of a model that cannot be asked about images of this shape."""
    if isinstance(error, StreamkdError):
        return error
    shape = " x ".join(map(str, images.shape[1:]))
    return refusal(
        f"The model {model.name!r} fails when it is asked about images of {shape}: "
        f"{model_reason(error)}\n"
        "Ask it in Python, `model(images)`, for the whole error; or give another model."
    )
