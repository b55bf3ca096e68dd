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
            _refuse_other_answers(model, traces.structured_outputs, refusal)
            traced.add(spec)
        try:
            return answer(images)
        except tf.errors.InvalidArgumentError as error:  # a shape that is known only now
            raise failure(model, images, error, refusal) from error

    return answer_any_number


def _are_numbers(answers: Any) -> bool:
    """Returns whether these are real numbers in an array without gaps."""
    if isinstance(answers, tf.SparseTensor | tf.RaggedTensor):
        return False
    kind = tf.as_dtype(answers.dtype)
    return bool(kind.is_floating or kind.is_integer or kind.is_bool)


def _refuse_other_answers(model: Any, answers: Any, refusal: type[StreamkdError]) -> None:
    """Refuses a model by what it answers with, as it was traced, unless that is float32 numbers."""
    form = next((form for form in ("Sparse", "Ragged") if form in type(answers).__name__), None)
    if form is None and answers.dtype == tf.float32:
        return
    kind = "texts" if answers.dtype == tf.string else f"numbers of the type {answers.dtype.name}"
    kind = kind if form is None else f"a {form.lower()} tensor"
    raise refusal(
        f"The model {model.name!r} answers images with {kind}.\n"
        "It must answer with one row of real numbers for each image: [batch, num_classes]."
    )


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
